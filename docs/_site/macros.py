"""The macros of pages that opt in with `render_macros: true`: every figure they print is read from data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import casefile
import matrix

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "docs/reference/benchmarks.json"


def bench_table(group: str) -> str:
    """Return one group of docs/reference/benchmarks.json as a Markdown table, with what it was measured on."""
    data = json.loads(BENCHMARKS.read_text(encoding="utf-8"))
    if group not in data["groups"]:
        raise KeyError(f"no benchmark group {group!r}; {BENCHMARKS.name} has {', '.join(data['groups'])}")
    table = data["groups"][group]
    rows = [
        " | ".join(["", *table["columns"], ""]).strip(),
        "|".join(["", "---", *["---:"] * (len(table["columns"]) - 1), ""]),
    ]
    rows += [" | ".join(["", *map(str, row), ""]).strip() for row in table["rows"]]
    where = data["measured"]
    note = (
        f"Measured on {where['date']} with TensorFlow {where['tensorflow']} and Keras {where['keras']} "
        f"on {where['machine']}; median of {table['repeats']} interleaved runs."
    )
    return "\n".join(rows) + f"\n\n<small>{note}</small>\n"


def define_env(env: Any) -> None:
    env.macro(bench_table)
    for name in ("matrix", "matrix_cell", "matrix_changes", "matrix_size", "matrix_page"):
        env.macro(getattr(matrix, name))
    casefile.define_macros(env)
