"""Which files to read, and their text: notebooks become modules, magics go."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "build", "dist"}
SUFFIXES = (".py", ".ipynb")
ABOUT_KERAS = re.compile(r"keras|tensorflow")
# Without one of these words no check can find anything.
WORDS = re.compile(
    r"phase|training|trainable|updates|BatchNorm|batch_norm|Dropout|GaussianNoise|"
    r"UPDATE_OPS|GradientTape|Random[A-Z]|Resizing|CenterCrop|placeholder|Session|slim"
)
# `%time`, `!pip`, `?name` and `name?` are IPython's, not Python's.
MAGIC = re.compile(r"^\s*(?:[%!?].*|[\w.]+\?{1,2}|\w+\s*=\s*[%!].*)$")
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
    text = raw.decode("utf-8-sig")
    if not WORDS.search(text):
        return None
    if path.suffix == ".ipynb":
        return notebook(str(path), text)
    return Text(str(path), text)


def notebook(path: str, text: str) -> Text:
    """The code cells of a notebook in one module, with where each line comes from."""
    cells = json.loads(text).get("cells")
    if cells is None:
        raise ValueError("a notebook without cells")
    lines: list[str] = []
    places: list[tuple[int, int]] = []
    for number, cell in enumerate(cells, 1):
        if cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        source = source if isinstance(source, str) else "".join(source)
        for inside, line in enumerate(without_magics(source), 1):
            lines.append(line)
            places.append((number, inside))
    return Text(path, "\n".join(lines) + "\n", places)


def without_magics(source: str) -> list[str]:
    """Lines of a cell; a magic becomes `pass`, a cell of another language is empty."""
    lines = source.splitlines()
    first = CELL_MAGIC.match(lines[0]) if lines else None
    if first and first[1] not in PYTHON_CELLS:
        return ["" for _ in lines]
    kept = []
    going_on = False  # a shell command may end in a backslash
    for line in lines:
        if going_on or MAGIC.match(line):
            indent = line[: len(line) - len(line.lstrip())]
            kept.append("" if going_on else f"{indent}pass")
            going_on = line.rstrip().endswith("\\")
        else:
            kept.append(line)
    return kept
