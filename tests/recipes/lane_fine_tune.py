"""Makes tests/recipes/data/fine_tune_seeds.json: what the documented way costs, over seeds and situations.

Run with the recipes on the path: `PYTHONPATH=recipes python tests/recipes/lane_fine_tune.py`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import fine_tune_frozen_batchnorm as recipe
import keras
import numpy as np
import tensorflow as tf

DATA = Path(__file__).parent / "data" / "fine_tune_seeds.json"
SEEDS = range(5)
# Each is a situation in which stage two runs; the images of an inverted one are 1 - image, so unlike the pretraining's.
SITUATIONS: dict[str, dict[str, Any]] = {
    "400 labelled, batch 32, rate 1e-3": {"labelled": 400, "batch_size": 32, "learning_rate": 1e-3, "epochs": 5},
    "100 labelled, batch 32, rate 1e-3": {"labelled": 100, "batch_size": 32, "learning_rate": 1e-3, "epochs": 5},
    "100 labelled, batch 2, rate 1e-4": {"labelled": 100, "batch_size": 2, "learning_rate": 1e-4, "epochs": 5},
    "100 labelled, batch 32, rate 1e-2": {"labelled": 100, "batch_size": 32, "learning_rate": 1e-2, "epochs": 5},
    "400 labelled, inverted, batch 32, rate 1e-3": {
        "labelled": 400, "batch_size": 32, "learning_rate": 1e-3, "epochs": 20, "inverted": True
    },
}  # fmt: skip
# A short run that the tests repeat and compare.
CHEAP = {"labelled": 64, "batch_size": 4, "learning_rate": 1e-4, "epochs": 1, "head_epochs": 10}


def cheap() -> dict[str, Any]:
    return one(0, CHEAP, pretrained(0))


def pretrained(seed: int) -> list[np.ndarray]:
    """Return the weights of the small backbone after its pretraining on the digits 0 to 4."""
    keras.utils.set_random_seed(seed)
    backbone = recipe.small_backbone()
    recipe.pretrain(backbone)
    return backbone.get_weights()


def one(seed: int, situation: dict[str, Any], weights: list[np.ndarray]) -> dict[str, Any]:
    """Return test accuracies after stage one, and for each way after the first and the last epoch of stage two."""
    x, y, x_test, y_test = recipe.new_task(situation["labelled"], seed)
    if situation.get("inverted"):
        x, x_test = 1 - x, 1 - x_test
    options = {key: situation[key] for key in set(situation) - {"labelled", "inverted"}}
    answer: dict[str, Any] = {}
    for way in ("documented", "frozen"):
        found = recipe.run(way, recipe.small_backbone, weights, (x, y, x_test, y_test), seed, **options)
        answer["head"] = round(found["head"], 4)
        answer[way] = {
            "first_epoch": round(found["accuracy"][0], 4),
            "last_epoch": round(found["accuracy"][-1], 4),
            "moved": sum(change != 0 for change in found["drift"].values()),
            "drift": round(max(found["drift"].values()), 4),
        }
    return answer


def points(values: list[float]) -> str:
    """Return a mean over seeds as 'mean (lowest to highest)', in per cent."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def table(data: dict[str, Any]) -> str:
    """Return the table that the page shows."""
    lines = [
        "| stage two | head only | documented, first epoch | documented, last | frozen, first epoch | frozen, last "
        "| frozen is better in |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in data["situations"].items():
        better = sum(run["frozen"]["last_epoch"] > run["documented"]["last_epoch"] for run in runs)
        cells = [points([run["head"] for run in runs])]
        for way in ("documented", "frozen"):
            cells += [points([run[way][when] for run in runs]) for when in ("first_epoch", "last_epoch")]
        lines.append(f"| {name} | {' | '.join(cells)} | {better} of {len(runs)} seeds |")
    return "\n".join(lines)


def main() -> None:
    runs: dict[str, list[Any]] = {name: [] for name in SITUATIONS}
    for seed in SEEDS:
        weights = pretrained(seed)
        for name, situation in SITUATIONS.items():
            keras.backend.clear_session()
            runs[name].append(one(seed, situation, weights))
            print(seed, name, runs[name][-1], file=sys.stderr, flush=True)
    data = {"tensorflow": tf.__version__, "keras": keras.__version__, "seeds": list(SEEDS), "situations": runs}
    data["cheap"] = cheap()
    # All or nothing: a stopped run leaves the old file.
    with tempfile.NamedTemporaryFile("w", dir=DATA.parent, suffix=".part", delete=False) as part:
        part.write(json.dumps(data, indent=1) + "\n")
    os.replace(part.name, DATA)
    print(table(data))


if __name__ == "__main__":
    main()
