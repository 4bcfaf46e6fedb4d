"""Break every phase argument and every statistics update of every recipe, one at a time; print what no test noticed.

    python tests/mutants/mutants.py [SLUG ...] [--jobs N] [--list]

A mutant is one of: a `training=` or `trainable=` argument deleted, or flipped; a default of a `training` parameter
changed; a `.trainable = …` statement deleted, or flipped; an `.assign…` statement deleted. For each, the recipe's
tests and its page run in a copy of the project, the quick ones first. Exit status 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
PHASE_WORDS = {"training", "trainable"}
TIMEOUT = 900  # seconds for one round of a recipe's tests
UPDATES = {"assign", "assign_add", "assign_sub", "set_weights"}


class Mutant(NamedTuple):
    line: int
    what: str
    source: str


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a recipe's source, in the order of its lines."""
    lines = source.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line.encode()))
    raw = source.encode()

    def at(line: int, column: int) -> int:
        return offsets[line - 1] + column

    def replaced(start: int, end: int, text: str) -> str:
        return (raw[:start] + text.encode() + raw[end:]).decode()

    found: list[Mutant] = []

    def add(node: ast.AST, what: str, start: int, end: int, text: str) -> None:
        mutated = replaced(start, end, text)
        ast.parse(mutated)  # a mutant that does not parse would be "killed" for nothing
        found.append(Mutant(node.lineno, what, mutated))  # type: ignore[attr-defined]

    def flipped(value: ast.expr) -> str | None:
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            return str(not value.value)
        return None

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg not in PHASE_WORDS:
                    continue
                start = at(keyword.lineno, keyword.col_offset)
                end = at(keyword.value.end_lineno, keyword.value.end_col_offset)  # type: ignore[arg-type]
                text = raw[start:end].decode()
                # Take the comma before it too, or after it when it comes first.
                before = len(raw[:start].rstrip())
                if raw[before - 1 : before] == b",":
                    add(keyword, f"delete {text}", before - 1, end, "")
                else:
                    rest = raw[end:]
                    comma = len(rest) - len(rest.lstrip()) + 1 if rest.lstrip()[:1] == b"," else 0
                    add(keyword, f"delete {text}", start, end + comma, "")
                if other := flipped(keyword.value):
                    add(keyword, f"{text} -> {other}", start, end, f"{keyword.arg}={other}")
        elif isinstance(node, ast.FunctionDef | ast.Lambda):
            arguments = [*node.args.posonlyargs, *node.args.args]
            pairs = list(zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True))
            pairs += [(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d]
            for argument, default in pairs:
                if argument.arg == "training" and isinstance(default, ast.Constant):
                    start = at(default.lineno, default.col_offset)
                    end = at(default.end_lineno, default.end_col_offset)  # type: ignore[arg-type]
                    other = "False" if default.value is True else "True"
                    add(default, f"default training={default.value} -> {other}", start, end, other)
        elif isinstance(node, ast.Assign | ast.Expr):
            start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)  # type: ignore[arg-type]
            text = raw[start:end].decode().splitlines()[0]
            if isinstance(node, ast.Assign):
                if any(isinstance(t, ast.Attribute) and t.attr == "trainable" for t in node.targets):
                    add(node, f"delete {text}", start, end, "pass")
                    if other := flipped(node.value):
                        value = at(node.value.lineno, node.value.col_offset)
                        add(node, f"{text} -> {other}", value, end, other)
            elif (
                isinstance(node.value, ast.Call)
                and isinstance(node.value.func, ast.Attribute)
                and node.value.func.attr in UPDATES
            ):
                add(node, f"delete {text}", start, end, "pass")
    return sorted(found, key=lambda mutant: mutant.line)


def sources() -> dict[str, list[Path]]:
    """Return every recipe's files by its name: one, or those of a package."""
    found = {path.stem: [path] for path in sorted(RECIPES.glob("*.py"))}
    packages = (path.parent for path in sorted(RECIPES.glob("*/__init__.py")))
    return found | {package.name: sorted(package.rglob("*.py")) for package in packages}


def copy_of_the_project(folder: Path) -> Path:
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def killed(project: Path, slug: str, file: Path, mutant: Mutant | None) -> bool:
    """Whether the recipe's own tests or page turn red; quick tests first, the slow ones only for a survivor."""
    recipe = project / file.relative_to(ROOT)
    tests = [f"tests/recipes/test_{slug}.py", f"docs/recipes/{slug}.md"]
    tests += ["tests/doctor"] if slug == "phase_doctor" else []
    original = recipe.read_bytes()
    if mutant:
        recipe.write_text(mutant.source, encoding="utf-8")
    try:
        for marker in ("not slow", "slow"):
            done = subprocess.run(
                [sys.executable, "-B", "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider",
                 "-m", marker, *tests],
                cwd=project, capture_output=True, text=True, timeout=TIMEOUT,
            )  # fmt: skip
            if done.returncode not in (0, 5):  # 5: no test carries the marker
                return True
        return False
    except subprocess.TimeoutExpired:  # a mutant that never ends is noticed, too
        return True
    finally:
        recipe.write_bytes(original)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slugs", nargs="*", help="recipes; all without any")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    options = parser.parse_args(argv)
    known = sources()
    if unknown := set(options.slugs) - set(known):
        parser.error(f"no recipe named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    work = [
        (slug, file, mutant)
        for slug in options.slugs or known
        for file in known[slug]
        for mutant in mutants(file.read_text(encoding="utf-8"))
    ]
    if options.list:
        for _, file, mutant in work:
            print(f"{file.relative_to(RECIPES)}:{mutant.line}: {mutant.what}")
        print(len(work), "mutants")
        return 0

    here = threading.local()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:

        def project() -> Path:
            if not hasattr(here, "project"):
                here.project = copy_of_the_project(Path(tempfile.mkdtemp(dir=folder)))
            return here.project

        def run(item: tuple[str, Path, Mutant | None]) -> bool:
            return killed(project(), *item)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            clean = [(slug, known[slug][0], None) for slug in dict.fromkeys(slug for slug, _, _ in work)]
            for (slug, _, _), red in zip(clean, pool.map(run, clean), strict=True):
                if red:
                    print(f"{slug}: its tests are red before anything is broken")
                    return 2
            survivors = []
            for number, ((_, file, mutant), red) in enumerate(zip(work, pool.map(run, work), strict=True), 1):
                place = f"{file.relative_to(RECIPES)}:{mutant.line}: {mutant.what}"
                spent = time.monotonic() - started
                print(f"[{number}/{len(work)}, {spent:.0f} s] {'killed  ' if red else 'SURVIVED'} {place}", flush=True)
                if not red:
                    survivors.append(place)
    print(f"{len(work) - len(survivors)} of {len(work)} mutants killed, {len(survivors)} survived")
    for line in survivors:
        print("  survived:", line)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
