"""Which files to read, and their text: notebooks become modules, magics go."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "build", "dist"}
SUFFIXES = (".py", ".ipynb")
ABOUT_KERAS = re.compile(r"keras|tensorflow")
# Without one of these words no check can find anything.
WORDS = re.compile(
    r"phase|training|trainable|updates|Norm|batch_norm|[Dd]ropout|GaussianNoise|"
    r"UPDATE_OPS|GradientTape|Random[A-Z]|Resizing|CenterCrop|placeholder|Session|slim|"
    r"applications|stateless_call|keras\.engine|import engine|inner_init|consume_less|"
    r"time_major|layers\.(?:core|normalization|noise|recurrent|experimental)"
)
# `%time`, `!pip`, `?name`, `name?` and `a = !ls` are IPython's, not Python's.
MAGIC = re.compile(r"^\s*(?:[%!?].*|[\w.]+\?{1,2}|[^=#()]+=\s*[%!].*)$")
QUOTED = re.compile(r"(\"|')(?:\\.|(?!\1).)*\1|#.*")
CELL_MAGIC = re.compile(r"^\s*%%(\w+)")
PYTHON_CELLS = {
    "time",
    "timeit",
    "capture",
    "prun",
    "python",
    "python3",
    "tensorflow_version",
}


@dataclass
class Text:
    """One file to scan. `lines` maps a notebook's line to (cell, line)."""

    path: str
    text: str
    lines: list[tuple[int, int]] = field(default_factory=list)

    def place(self, line: int) -> str:
        """`12`, or `3:4` for line 4 of cell 3."""
        if not self.lines:
            return str(line)
        cell, inside = self.lines[min(line, len(self.lines)) - 1]
        return f"{cell}:{inside}"


def walk(paths: Sequence[str], exclude: Sequence[str] = ()) -> Iterator[Path]:
    """The files under `paths` in a fixed order; hidden and built folders are left out.

    Raises FileNotFoundError for a path that does not exist.
    """
    seen = set()
    for name in paths:
        start = Path(name)
        if not start.exists():
            raise FileNotFoundError(name)
        for path in [start] if start.is_file() else sorted(under(start)):
            if path not in seen and not any(path.match(pattern) for pattern in exclude):
                seen.add(path)
                yield path


def under(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in SKIPPED_FOLDERS and not name.startswith(".")
        ]
        for name in names:
            if name.endswith(SUFFIXES):
                yield Path(here, name)


def read(path: Path) -> Text | None:
    """The text of a file; None where it speaks neither of Keras nor of phases.

    Raises ValueError for what is no text and no notebook.
    """
    raw = path.read_bytes()
    if b"keras" not in raw and b"tensorflow" not in raw:
        return None
    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    text = raw.decode(encoding)
    if not WORDS.search(text):
        return None
    if path.suffix == ".ipynb":
        return notebook(str(path), text)
    return Text(str(path), text)


def notebook(path: str, text: str) -> Text:
    """The code cells of a notebook in one module, with where each line comes from."""
    lines: list[str] = []
    places: list[tuple[int, int]] = []
    for number, source in code_cells(json.loads(text)):
        for inside, line in enumerate(python_of(source), 1):
            lines.append(line)
            places.append((number, inside))
    return Text(path, "\n".join(lines) + "\n", places)


def code_cells(found: Any) -> Iterator[tuple[int, str]]:
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list) or not all(isinstance(c, dict) for c in cells):
        raise ValueError("a notebook without cells")
    for number, cell in enumerate(cells, 1):
        source = cell.get("source") or ""
        if cell.get("cell_type") == "code":
            yield number, source if isinstance(source, str) else "".join(source)


def python_of(source: str) -> list[str]:
    """Lines of a cell as IPython reads it: unindented, and without its magics."""
    source = textwrap.dedent(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
        return source.split("\n")
    except (SyntaxError, ValueError):
        return without_magics(source)


def without_magics(source: str) -> list[str]:
    """A magic becomes `pass`, a cell of another language is empty."""
    lines = source.split("\n")
    first = CELL_MAGIC.match(source.lstrip())
    if first and first[1] not in PYTHON_CELLS:
        return ["" for _ in lines]
    kept = []
    going_on = False  # a shell command may end in a backslash
    depth = 0  # of brackets: inside one a line may begin with an operator
    for line in lines:
        if going_on or (depth == 0 and MAGIC.match(line)):
            indent = line[: len(line) - len(line.lstrip())]
            kept.append("" if going_on else f"{indent}pass")
            going_on = line.rstrip().endswith("\\")
        else:
            kept.append(line)
            bare = QUOTED.sub("", line)
            depth += sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}"))
    return kept
