"""What docs/reference/doctor/scan.json says of the scan on public files is enough, and true enough."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from phase_doctor.scan import checks, settings
from phase_doctor.scan.check import CHECKS

assert checks
ROOT = Path(__file__).resolve().parents[2]
DATA = json.loads((ROOT / "docs/reference/doctor/scan.json").read_text(encoding="utf-8"))


def test_enough_files_were_scanned_and_enough_findings_judged() -> None:
    assert DATA["keras"] == settings.CURRENT
    assert DATA["files"] >= 300 and DATA["repositories"] >= 100 and len(DATA["judged"]) >= 150
    assert set(DATA["found"]) <= {code for code, check in CHECKS.items() if check.severity != "note"}
    drawn = Counter(entry["code"] for entry in DATA["judged"])
    assert all(drawn[code] <= DATA["found"][code] for code in drawn)


def test_at_least_95_percent_are_true() -> None:
    verdicts = [entry["verdict"] for entry in DATA["judged"]]
    assert all(verdict == "true" or verdict.startswith("false: ") for verdict in verdicts)
    assert verdicts.count("true") >= 0.95 * len(verdicts)
