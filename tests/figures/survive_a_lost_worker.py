"""The losses of a run of two workers, one of them killed, beside one process that nobody disturbed."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import survive_a_lost_worker as recipe
import tensorflow as tf


def measure() -> dict[str, Any]:
    series = []
    with tempfile.TemporaryDirectory() as lost, tempfile.TemporaryDirectory() as whole:
        recipe.supervise([sys.executable, recipe.__file__, lost], workers=2)
        recipe.work(whole, tf.distribute.get_strategy(), slice(64), chief=True)
        for folder, name, role in (
            (whole, "nobody disturbed", "training"),
            (lost, "a worker killed at step 4", "good"),
        ):
            told = dict(line.split() for line in Path(folder, "losses").read_text().splitlines())
            series.append({"name": name, "values": [float(told[str(n)]) for n in range(8)], "role": role})
    gap = max(abs(a - b) for a, b in zip(*(one["values"] for one in series), strict=True))
    return {
        "says": "Two workers on one machine; one is killed with SIGKILL at step 4, and both are started again from the "
        f"last checkpoint. Their losses are within {gap:.0e} of those of one process on the whole batches.",
        "panels": [
            {
                "title": "loss of a step",
                "kind": "lines",
                "x": {"label": "step", "values": list(range(8))},
                "y": {"label": "loss", "range": [0, 4]},
                "series": series,
            }
        ],
    }
