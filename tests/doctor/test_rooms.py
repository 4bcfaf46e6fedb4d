"""The doctor is a house of small rooms: what keeps them small, and apart."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import phase_doctor
import pytest
from phase_doctor import verdict
from phase_doctor.rules import MODULES, RULES

HOUSE = Path(phase_doctor.__file__).parent
ROOMS = sorted(HOUSE.rglob("*.py"))
RECIPES = {path.stem for path in HOUSE.parent.glob("*.py")}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOMS}
by_room = pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.relative_to(HOUSE).as_posix())
by_code = pytest.mark.parametrize("code", RULES)


def lines(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


@by_room
def test_no_room_is_large(room: Path) -> None:
    assert len(room.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(TREES[room]):
        if isinstance(node, ast.FunctionDef):
            assert lines(node) <= 60, node.name
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            assert lines(node) <= 250 and len(methods) <= 25, node.name


@by_room
def test_no_room_bears_the_name_of_one_of_the_standard_library(room: Path) -> None:
    """A copy run as a folder has its rooms at the top of the path for a moment."""
    assert room.stem.startswith("__") or room.stem not in sys.stdlib_module_names


def imported(room: Path) -> set[str]:
    """Modules that a room imports at its top, by the doctor's own names or by package."""
    found = set()
    for node in TREES[room].body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or alias.name for alias in node.names}
    return found


SEEN = {
    "context",
    "evidence",
    "facts",
    "gap",
    "told",
    "untold",
    "noise",
    "reasons",
    "report",
    "rule",
    "rules",
    "verdict",
    "interface",
    "cli",
    "__init__",
}


@by_room
def test_who_judges_imports_no_tensorflow_and_nothing_that_runs_a_model(room: Path) -> None:
    judges = room.parent.name == "rules" or room.stem in SEEN
    if judges:
        own = {path.stem for path in ROOMS} - {path.stem for path in (HOUSE / "rules").glob("pd*.py")}
        assert not imported(room) & {"tensorflow", "keras"}
        assert imported(room) & own <= SEEN


def test_what_gathers_knows_no_rule_and_no_verdict() -> None:
    for name in ("examine", "ways", "phases", "measure", "step", "bench", "views", "artifacts", "subject", "flow"):
        assert not imported(HOUSE / f"{name}.py") & {"rules", "rule", "verdict", "facts", "gap", "told"}, name


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_importing_it_loads_no_tensorflow() -> None:
    code = (
        "import sys, phase_doctor as d; d.diagnose, d.assert_healthy, d.Diagnosis, d.Finding, d.CannotExamine, d.RULES;"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    assert run("-c", code, cwd=HOUSE.parent).stdout == "set()\n"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(HOUSE, tmp_path / "phase_doctor", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("how", [("-m", "phase_doctor"), ("phase_doctor",)], ids=["-m", "folder"])
def test_a_copied_folder_runs_and_says_its_version(how: tuple[str, ...], copied: Path) -> None:
    done = run(*how, "--version", cwd=copied)
    assert (done.stdout, done.stderr) == (f"phase_doctor {phase_doctor.__version__}\n", "")


@pytest.mark.slow
def test_a_copied_folder_examines_a_file_and_shows_no_start_up_line(copied: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="small")
    model.save(copied / "small.keras")
    done = run("phase_doctor", "small.keras", cwd=copied)
    assert done.returncode == 0 and done.stdout.startswith("small: healthy")
    shown = [line for line in done.stderr.splitlines() if not line.startswith("phase doctor,")]
    assert shown == []


@by_code
def test_a_rule_is_in_one_place_with_its_page_and_its_cures(code: str) -> None:
    rule, module = RULES[code], MODULES[code]
    assert rule.code == code == module.__name__.rpartition(".")[2].upper()
    assert rule.severity in verdict.SEVERITIES and code in verdict.ORDER
    page = module.__doc__ or ""
    assert page.startswith(f"{code}: ")
    if code not in ("PD001", "PD002"):
        assert "**What it does.**" in page and "**Why it is bad.**" in page
        assert "\n>>> " in page, "a page shows an example that is run"
    assert {cure.recipe for cure in rule.cures.values()} <= RECIPES | {None}


def test_an_id_names_one_cure() -> None:
    """Rules may share a cure; then it is the same one."""
    cures = {cure for rule in RULES.values() for cure in rule.cures.values()}
    ids = [cure.id for cure in cures]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", cure) for cure in ids)


def test_the_tables_name_rules_that_are() -> None:
    assert sorted(verdict.ORDER) == sorted(RULES)
    causes = verdict.CAUSES
    named = {*causes, *(code for roots in causes.values() for code in roots), *verdict.GLOBAL}
    assert named <= set(RULES)
    assert {code for excuse in verdict.EXCUSES for code in excuse.codes} <= set(RULES)
