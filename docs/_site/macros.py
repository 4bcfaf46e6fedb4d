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
WILD = ROOT / "docs/reference/doctor/wild.json"
DISTRIBUTED = ROOT / "docs/reference/distributed-cost.json"
SCAN = ROOT / "docs/reference/doctor/scan.json"
FAULTS = ROOT / "docs/reference/doctor/wild-faults.json"


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


def wild_findings() -> list[dict[str, Any]]:
    """Return every error and warning of docs/reference/doctor/wild.json with its judgement, or None for none."""
    judged = json.loads(FAULTS.read_text(encoding="utf-8"))
    findings = []
    for package, entry in json.loads(WILD.read_text(encoding="utf-8")).items():
        for model, examined in entry["models"].items():
            for state, told in examined["states"].items():
                for finding in told["findings"]:
                    if finding["severity"] == "note":
                        continue
                    key = (package, model, finding["code"])
                    ours = [
                        f for f in judged if f["package"] == key[0] and model in f["models"] and key[2] in f["codes"]
                    ]
                    fault = ours[0] if ours else None
                    findings.append({**finding, "package": package, "model": model, "state": state, "fault": fault})
    return findings


def doctor_wild() -> str:
    """Return docs/reference/doctor/wild.json as a table of packages and a section a fault."""
    wild = json.loads(WILD.read_text(encoding="utf-8"))
    findings = wild_findings()
    accused = {(finding["package"], finding["model"]) for finding in findings}
    models = [(package, model) for package, entry in wild.items() for model in entry["models"]]
    seconds = [
        told["seconds"] for entry in wild.values() for m in entry["models"].values() for told in m["states"].values()
    ]
    one = next(iter(wild.values()))
    days = sorted({entry["date"] for entry in wild.values()})
    text = (
        f"**{len(models)} models of {len(wild)} packages, {len(models) - len(accused)} clean.** "
        f"Each as released, with TensorFlow {one['tensorflow']} and Keras {one['keras']}; "
        f"measured on {' and '.join(dict.fromkeys((days[0], days[-1])))}. "
        f"Half of the examinations took less than {sorted(seconds)[len(seconds) // 2]:.0f} s of CPU, "
        f"the longest {max(seconds):.0f} s.\n\n"
        "| package | models | clean | with a fault |\n|---|--:|--:|---|\n"
    )
    for package, entry in wild.items():
        faulty = [model for model in entry["models"] if (package, model) in accused]
        text += f"| {package} {entry['version']} | {len(entry['models'])} | {len(entry['models']) - len(faulty)} | "
        text += f"{', '.join(f'`{model}`' for model in faulty)} |\n"
    text += '\n??? note "The clean models"\n\n'
    for package, entry in wild.items():
        clean = [f"`{model}`" for model in entry["models"] if (package, model) not in accused]
        text += f"    {package}: {', '.join(clean) or 'none'}.\n\n"
    for fault in json.loads(FAULTS.read_text(encoding="utf-8")):
        entry = wild[fault["package"]]
        ours = [finding for finding in findings if finding["fault"] == fault]
        line = f"{fault['file']}:{entry['lines'][fault['name']]}"
        report = fault["report"]
        if "#" in report:
            project, number = report.split("#")
            report = f"reported: [{report}](https://github.com/{project}/issues/{number})"
        text += f"\n### {fault['package']} {entry['version']}: {', '.join(fault['models'])} {{ #{fault['name']} }}\n\n"
        text += f"{fault['what']}\n\n`{line}`, {report}.\n\n"
        seen: dict[tuple[str, str], list[str]] = {}
        for finding in ours:
            words = f"{finding['code']} at `{finding['where'] or 'the model'}`: {finding['message']}"
            seen.setdefault((finding["model"], words), []).append(finding["state"])
        text += (
            "\n".join(f"- `{model}`, {' and '.join(states)}: {words}" for (model, words), states in seen.items()) + "\n"
        )
    return text


def scan_judged() -> str:
    """Return docs/reference/doctor/scan.json as a sentence and a table of codes, and every finding judged false."""
    data = json.loads(SCAN.read_text(encoding="utf-8"))
    true = [entry for entry in data["judged"] if entry["verdict"] == "true"]
    text = (
        f"**{len(true)} of {len(data['judged'])} are true.** Scanned on {data['date']}, Keras {data['keras']} assumed: "
        f"{data['files']} files of {data['repositories']} repositories, {data['notebooks']} of them notebooks. "
        f"{data['unread']} could not be parsed. {sum(data['found'].values())} errors and warnings; "
        f"{len(data['judged'])} of them, drawn at random, were read.\n\n"
        "| code | found | read | true |\n|---|--:|--:|--:|\n"
    )
    for code, found in data["found"].items():
        read = [entry["verdict"] for entry in data["judged"] if entry["code"] == code]
        text += f"| [{code}](#{code.lower()}) | {found} | {len(read)} | {read.count('true')} |\n"
    wrong = [e for e in data["judged"] if e["verdict"] != "true"]
    lines = [f"- {e['code']} at `{e['repo']}`, `{e['path']}:{e['line']}`: {e['verdict']}" for e in wrong]
    return text + ("\nJudged false:\n\n" + "\n".join(lines) + "\n" if lines else "")


def distributed_cost() -> str:
    """Return docs/reference/distributed-cost.json as a table, workers by layers."""
    data = json.loads(DISTRIBUTED.read_text(encoding="utf-8"))
    rows, measured = data["rows"], data["measured"]
    layers = sorted({row["layers"] for row in rows})
    text = "| workers |" + "".join(f" {n} layer{'s' * (n > 1)} |" for n in layers) + "\n|--:|" + "--:|" * len(layers)
    for workers in sorted({row["workers"] for row in rows}):
        ratios = {row["layers"]: row["ratio"] for row in rows if row["workers"] == workers}
        text += f"\n| {workers} |" + "".join(f" {ratios[n]:.3g} |" for n in layers)
    return text + f"\n\nTensorFlow {measured['tensorflow']}, Keras {measured['keras']}, {measured['machine']}."


def define_env(env: Any) -> None:
    env.macro(distributed_cost)
    env.macro(scan_judged)
    env.macro(bench_table)
    env.macro(doctor_examined)
    env.macro(doctor_wild)
    for name in ("matrix", "matrix_cell", "matrix_changes", "matrix_size", "matrix_page"):
        env.macro(getattr(matrix, name))
    casefile.define_macros(env)
