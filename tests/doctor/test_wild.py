"""What was found in published packages (docs/reference/doctor/wild.json): all of it judged, none a false alarm."""

from __future__ import annotations

import json

import lane_wild
import macros
import pytest

WILD = lane_wild.read()
FAULTS = json.loads(macros.FAULTS.read_text(encoding="utf-8"))


def test_every_model_was_examined_in_both_states():
    models = [model for entry in WILD.values() for model in entry["models"].values()]
    assert len(models) >= 100
    assert all(list(model["states"]) == ["fresh", "trained"] for model in models)


@pytest.mark.parametrize("package", lane_wild.PINS)
def test_the_versions_are_the_pinned_ones(package):
    assert f"{package}=={WILD[package]['version']}" == lane_wild.PINS[package][0]
    assert WILD[package]["tensorflow"] == lane_wild.COLUMN


def test_every_finding_is_a_fault_that_was_looked_up():
    for finding in macros.wild_findings():
        assert finding["fault"], f"judge {finding} in {macros.FAULTS.name}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["name"])
def test_every_fault_is_seen_today_and_has_its_line(fault):
    seen = {(finding["model"], finding["code"]) for finding in macros.wild_findings() if finding["fault"] == fault}
    assert {model for model, _ in seen} == set(fault["models"])
    assert {code for _, code in seen} == set(fault["codes"])
    assert WILD[fault["package"]]["lines"][fault["name"]] > 0
    assert fault["report"] == "not reported" or fault["report"].count("#") == 1


def test_the_page_shows_every_model_with_a_fault_and_every_report():
    page = macros.doctor_wild()
    for fault in FAULTS:
        assert fault["what"] in page and fault["report"] in page and fault["file"] in page
