"""What the experiments of the case file measured, once for each release by tests/versions/experiments.py."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs/labs/data"
EXPERIMENTS = ROOT / "tests/versions/experiments.py"
RELEASES = ("1.14.0", "2.0.0", "2.15.1", "2.21.0")
TODAY = RELEASES[-1]


@functools.cache
def record(release: str) -> dict[str, Any]:
    """Return what one release measured: `version`, `seed`, `date` and `results`."""
    return json.loads((DATA / f"{release}.json").read_text(encoding="utf-8"))


def results(release: str = TODAY) -> dict[str, Any]:
    return record(release)["results"]


def runs(experiment: str, live: bool = False) -> dict[str, Any]:
    """Return one experiment's measurements by release, of those that ran it; with `live`, measure it now as well."""
    measured = {release: results(release)[experiment] for release in RELEASES if experiment in results(release)}
    if live:
        sys.path.insert(0, str(EXPERIMENTS.parent))
        import experiments

        measured["live"] = experiments.rounded(experiments.experiments(experiments.load_digits(), seed=0)[experiment]())
    return measured


def label(release: str) -> str:
    if release == "live":
        return "your TensorFlow"
    return f"TF {release}" + (" (today)" if release == TODAY else "")


@functools.cache
def article() -> dict[str, Any]:
    """Return the figures that the article printed."""
    return json.loads((DATA / "article.json").read_text(encoding="utf-8"))


def smooth(values: list[float], width: int = 20) -> np.ndarray:
    """Means of `width` steps at a time."""
    whole = len(values) // width * width
    return np.array(values[:whole]).reshape(-1, width).mean(axis=1)
