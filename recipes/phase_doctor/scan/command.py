"""`phase-doctor scan PATH…`: options in, a report and an exit status out."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from . import checks, files, sarif, settings
from .check import CHECKS, Check, Finding
from .source import Source, findings

assert checks  # it fills CHECKS


@dataclass
class Report:
    """What a scan gave. `unread` names files that Python 3 cannot parse, and why."""

    keras: str
    because: str
    read: int = 0
    skipped: int = 0
    found: list[Finding] = field(default_factory=list)
    notes: int = 0
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return int(any(finding.severity != "note" for finding in self.found))


def chosen(select: Sequence[str], ignore: Sequence[str]) -> list[Check]:
    """The checks to show: notes where selected only. Raises Unusable."""
    for prefix in (*select, *ignore):
        if not prefix or not any(code.startswith(prefix) for code in CHECKS):
            raise settings.Unusable(f"No code begins with {prefix!r}.")
    shown = []
    for code, check in CHECKS.items():
        wanted = (
            any(code.startswith(p) for p in select)
            if select
            else check.severity != "note"
        )
        if wanted and not any(code.startswith(p) for p in ignore):
            shown.append(check)
    return shown


def scan(
    paths: Sequence[str],
    keras: str,
    because: str,
    shown: Sequence[Check],
    exclude: Sequence[str] = (),
) -> Report:
    """Reads every file under `paths`. Raises FileNotFoundError and Unusable."""
    report, release = Report(keras, because), settings.numbers(keras)
    hidden = [c for c in CHECKS.values() if c not in shown and c.severity == "note"]
    for path in files.walk(paths, exclude):
        try:
            text = files.read(path)
            if text is None:
                report.skipped += 1
                continue
            source = Source(text, release)
            report.found += findings(source, list(shown))
            report.notes += sum(1 for _ in findings(source, hidden))
        except (SyntaxError, ValueError, RecursionError, OSError) as error:
            report.unread[str(path)] = reason(error)
        else:
            report.read += 1
    return report


def reason(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"Python 3 cannot parse it: {error.msg}, line {error.lineno}"
    return f"{type(error).__name__}: {error}"


def as_text(report: Report) -> str:
    counts = {level: 0 for level in ("error", "warning", "note")}
    lines = [
        f"Keras {report.keras} is assumed ({report.because}). {report.read} "
        f"{'file' if report.read == 1 else 'files'} read, {report.skipped} skipped: "
        f"nothing about phases in them."
    ]
    for finding in report.found:
        counts[finding.severity] += 1
        lines.append(as_lines(finding))
    for path, why in report.unread.items():
        lines.append(f"{path}: not read. {why}")
    total = ", ".join(
        f"{number} {level}s" if number != 1 else f"1 {level}"
        for level, number in counts.items()
        if number
    )
    lines.append((total or "Nothing found") + ".")
    if report.notes:
        lines[-1] += f" {report.notes} notes are not shown: --select PS."
    return "\n".join(lines)


def as_lines(finding: Finding) -> str:
    said = f"{finding.where}: {finding.code} {finding.severity}: {finding.message}"
    return f"{said}\n    instead: {finding.instead}"


def as_json(report: Report) -> str:
    told: dict[str, Any] = {"schema": 1, **asdict(report)}
    told["findings"] = [
        {**finding, "why": CHECKS[finding["code"]].why} for finding in told.pop("found")
    ]
    return json.dumps(told, indent=2, ensure_ascii=False)


def printed(check: Check) -> str:
    """What the scan says of a check's example."""
    release = settings.numbers(check.keras or settings.CURRENT)
    source = Source(files.Text("model.py", check.broken), release)
    return "\n".join(as_lines(finding) for finding in findings(source, [check]))


def explanations() -> dict[str, str]:
    """What `--explain` prints, by code."""
    return {code: check.text(printed(check)) for code, check in CHECKS.items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="phase-doctor scan",
        description="Read .py and .ipynb files, import nothing, and name phase bugs "
        "that can be "
        "seen in text. Exit status: 0 nothing found, 1 errors or warnings, "
        "2 could not scan.",
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="files and folders")
    add(
        "--keras",
        metavar="RELEASE",
        help="the release to assume; else that of [tool.phase-doctor], of the "
        "project's pins, or current",
    )
    add(
        "--select",
        metavar="CODE",
        action="append",
        default=[],
        help="codes to show, by prefix; notes are shown where selected",
    )
    add(
        "--ignore",
        metavar="CODE",
        action="append",
        default=[],
        help="codes to leave out, by prefix",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")
    add(
        "--explain",
        metavar="CODE",
        help="print what a code means, with an example, and stop",
    )
    options = parser.parse_args(argv)
    for name in ("select", "ignore"):
        given = [
            part.strip()
            for value in getattr(options, name)
            for part in value.split(",")
        ]
        setattr(options, name, tuple(given))
    if not options.paths and not options.explain:
        parser.error("name the PATH to scan")
    return options


def main(argv: Sequence[str] | None = None, version: str = "") -> int:
    options = parse(argv)
    try:
        if options.explain:
            text = explanations().get(options.explain)
            if text is None:
                raise settings.Unusable(
                    f"There is no {options.explain!r}; codes are {', '.join(CHECKS)}."
                )
            print(text)
            return 0
        report = run(options)
    except FileNotFoundError as error:
        print(f"could not scan: there is no {error.args[0]}", file=sys.stderr)
        return 2
    except settings.Unusable as error:
        print(f"could not scan: {error}", file=sys.stderr)
        return 2
    if options.sarif:
        print(json.dumps(sarif.log(report.found, version, report.unread), indent=2))
    else:
        print(as_json(report) if options.json else as_text(report))
    return report.status


def run(options: argparse.Namespace) -> Report:
    folder = settings.project_of(options.paths[0])
    project = settings.table(folder)
    given = settings.settings(project)
    keras, because = settings.assumed(options.keras, given, folder, project)
    shown = chosen(options.select or given.select, options.ignore or given.ignore)
    gc.disable()  # trees are full of references, none of which is a circle to be found
    try:
        return scan(options.paths, keras, because, shown, given.exclude)
    finally:
        gc.enable()
