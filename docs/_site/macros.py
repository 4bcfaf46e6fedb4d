"""The macros of pages that opt in with `render_macros: true`: every figure they print is read from data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import casefile
import matrix

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "docs/reference/benchmarks.json"
EXAMINED = ROOT / "docs/reference/doctor/examined.json"


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


def doctor_examined() -> str:
    """Return docs/reference/doctor/examined.json as two Markdown tables, and every verdict that is not as it should be.

    A verdict is "ok", "absent: why this release cannot have the fault", or what the doctor got wrong.
    """
    data = json.loads(EXAMINED.read_text(encoding="utf-8"))
    text, wrong = "", []
    for what, head in (
        ("corpus", "| the corpus on | broken models named | healthy models passed | fault absent |\n|---|--:|--:|--:|"),
        ("applications", "| `keras.applications` on | fresh, passed | after training, passed |\n|---|--:|--:|"),
    ):
        rows = []
        for part, entry in data.items():
            if not part.startswith(f"{what}@"):
                continue
            where = f"Keras {entry['keras']}, TensorFlow {entry['tensorflow']}"
            verdicts = entry["verdicts"]
            wrong += [f"- {where}, {n}: {v}" for n, v in verdicts.items() if v.split(":")[0] not in ("ok", "absent")]

            def passed(kind: Callable[[str], bool], verdicts: dict[str, str] = verdicts) -> str:
                these = [v for name, v in verdicts.items() if kind(name) and not v.startswith("absent")]
                return f"{these.count('ok')} of {len(these)}"

            if what == "corpus":
                absent = sum(v.startswith("absent") for v in verdicts.values())
                cells = [
                    passed(lambda n: n.startswith("broken")),
                    passed(lambda n: n.startswith("healthy")),
                    str(absent),
                ]
            else:
                cells = [passed(lambda n: n.endswith("fresh")), passed(lambda n: n.endswith("trained"))]
            rows.append(f"| {where} | {' | '.join(cells)} |")
        text += "\n".join([head, *rows]) + "\n\n"
    days = sorted({entry["date"] for entry in data.values()})
    text += f"<small>Measured on {' and '.join(dict.fromkeys((days[0], days[-1])))}.</small>\n\n"
    return text + ("Not as it should be:\n\n" + "\n".join(wrong) + "\n" if wrong else "")


def define_env(env: Any) -> None:
    env.macro(bench_table)
    env.macro(doctor_examined)
    for name in ("matrix", "matrix_cell", "matrix_changes", "matrix_size", "matrix_page"):
        env.macro(getattr(matrix, name))
    casefile.define_macros(env)
