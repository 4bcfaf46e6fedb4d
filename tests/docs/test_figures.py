"""Every figure on a page is drawn from data that today's code and TensorFlow give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import figures
import lane_figures
import pytest

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- figure: (\w+) -->$", re.MULTILINE)
SHOWN = {name for page in (ROOT / "docs").rglob("*.md") for name in MARKER.findall(page.read_text(encoding="utf-8"))}
STORED = {name: json.loads((lane_figures.FIGURES / f"{name}.json").read_text("utf-8")) for name in lane_figures.NAMES}
# These train for ten seconds or more: `nox -s figures` alone measures them.
LANE = {
    *("distributed_batchnorm", "every_prediction_the_same", "fine_tune_frozen_batchnorm", "fine_tuning_collapses"),
    *("fit_explicit_phase", "functional_learning_phase", "recalibrate_batchnorm", "recurrent_and_attention_dropout"),
    *("stateless_training", "subclass_training_arg", "survive_a_lost_worker", "teacher_changes"),
    *("validation_at_chance", "worse_after_averaging", "worse_with_tiny_batches"),
}


def test_every_measured_figure_is_shown_and_every_shown_one_is_measured() -> None:
    assert SHOWN == set(lane_figures.NAMES) == {path.stem for path in lane_figures.FIGURES.glob("*.json")}


@pytest.mark.parametrize("name", lane_figures.NAMES)
def test_a_figure_is_small_says_what_it_shows_and_takes_the_pages_colour(name: str) -> None:
    drawn = figures.figure(name)
    assert len(drawn.encode()) < 30_000
    assert drawn.count('role="img"') == drawn.count("aria-label=") == drawn.count("<svg") > 0
    assert len(re.findall("<figcaption>(.+?)<small>", drawn)[0]) > 40
    assert figures.drawing.INK not in drawn and "currentColor" in drawn


@pytest.mark.parametrize("name", lane_figures.NAMES)
def test_a_figure_was_measured_with_the_code_and_the_releases_of_today(name: str) -> None:
    told = f"measure it again: nox -s figures -- {name}"
    measured = STORED[name]["measured"]
    assert measured["code"] == lane_figures.code_of(name), told
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for package in "tensorflow", "keras":
        assert re.search(rf"^{package}=={re.escape(measured[package])}\b", lock, re.MULTILINE), told


def shape_of(data: Any) -> Any:
    """The data with its numbers left out, and with which of its cells are good."""
    if isinstance(data, dict):
        left = {key: value for key, value in data.items() if key not in ("measured", "says", "text")}
        return {key: len(value) if key == "cells" else shape_of(value) for key, value in left.items()}
    return [shape_of(value) for value in data] if isinstance(data, list) else isinstance(data, int | float) or data


def heights(panel: dict[str, Any]) -> dict[str, float]:
    """What the eye takes from a panel: the mean of each line or cloud, the height of each bar."""
    lines = {series["name"]: series.get("values", series.get("y")) for series in panel.get("series", ())}
    bars = {bar["name"]: [bar["value"]] for bar in panel.get("bars", ())}
    cells = {"good cells": [cell["role"] == "good" for cell in panel.get("cells", ())] or [0]}
    return {name: sum(values) / len(values) for name, values in {**lines, **bars, **cells}.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(lane_figures.NAMES) - LANE))
def test_today_looks_like_the_figure(name: str) -> None:
    stored = STORED[name]
    today = lane_figures.measured(name)
    assert shape_of(today) == shape_of(stored), f"measure it again: nox -s figures -- {name}"
    for then, now in zip(stored["panels"], today["panels"], strict=True):
        low, high = then.get("y", {}).get("range", (0, 1))
        for what, value in heights(now).items():
            # A tenth of the axis: other threads and kernels change the third digit, a lost effect changes the picture.
            assert abs(value - heights(then)[what]) <= 0.1001 * (high - low), f"{name}: {then['title']}, {what}"
