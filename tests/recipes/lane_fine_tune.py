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
from sklearn.datasets import load_digits

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


def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32").reshape(-1, 8, 8, 1), labels


def new_task(labelled: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the digits 5 to 9 as x, y with `labelled` images to train on, and the rest as x, y to test on."""
    x, y = digits()
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(y >= 5))
    train, test = chosen[:labelled], chosen[labelled:]
    return x[train], y[train] - 5, x[test], y[test] - 5


def pretrained(seed: int) -> list[np.ndarray]:
    """Return the weights of the small backbone after its pretraining on the digits 0 to 4."""
    keras.utils.set_random_seed(seed)
    backbone = recipe.small_backbone()
    x, y = digits()
    recipe.fit(recipe.with_head(backbone), 2e-3, x[y < 5], y[y < 5], 10, 32)
    return backbone.get_weights()


def statistics(backbone: Any) -> list[np.ndarray]:
    """Return the moving mean and variance of every BatchNormalization, as (2, channels) each."""
    return [np.stack([n.moving_mean.numpy(), n.moving_variance.numpy()]) for n in recipe.batchnorms(backbone)]


class AfterEachEpoch(keras.callbacks.Callback):
    """Fit by the recipe, and keep the test accuracy of every epoch."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self.data, self.accuracy = (x, y), []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.accuracy.append(self.model.evaluate(*self.data, verbose=0)[1])


def run(
    way: str,
    backbone: Any,
    data: tuple[np.ndarray, ...],
    learning_rate: float,
    epochs: int,
    batch_size: int,
    head_epochs: int = 30,
) -> dict[str, Any]:
    """Do both stages in one `way`, "documented" or "frozen", on x, y to train on and x, y to test on.

    Returns test accuracy after the head ("head") and after each epoch of stage two ("accuracy"), and by how much the
    statistics of each layer moved in stage two ("drift").
    """
    x, y, x_test, y_test = data
    model = recipe.with_head(backbone, **({"training": False} if way == "documented" else {}))
    recipe.freeze(model, backbone)
    recipe.fit(model, 1e-2, x, y, head_epochs, 32)
    head = model.evaluate(x_test, y_test, verbose=0)[1]
    before = statistics(backbone)
    if way == "documented":
        backbone.trainable = True
    else:
        recipe.unfreeze(model, backbone)
    each = AfterEachEpoch(x_test, y_test)
    recipe.fit(model, learning_rate, x, y, epochs, batch_size, callbacks=[each])
    drift = [float(np.max(np.abs(a - b))) for a, b in zip(statistics(backbone), before, strict=True)]
    return {"head": head, "accuracy": each.accuracy, "drift": drift}


def one(seed: int, situation: dict[str, Any], weights: list[np.ndarray]) -> dict[str, Any]:
    """Return test accuracies after stage one, and for each way after the first and the last epoch of stage two."""
    x, y, x_test, y_test = new_task(situation["labelled"], seed)
    if situation.get("inverted"):
        x, x_test = 1 - x, 1 - x_test
    options = {key: situation[key] for key in set(situation) - {"labelled", "inverted"}}
    answer: dict[str, Any] = {}
    for way in ("documented", "frozen"):
        keras.utils.set_random_seed(seed)
        backbone = recipe.small_backbone()
        backbone.set_weights(weights)
        found = run(way, backbone, (x, y, x_test, y_test), **options)
        answer["head"] = round(found["head"], 4)
        answer[way] = {
            "first_epoch": round(found["accuracy"][0], 4),
            "last_epoch": round(found["accuracy"][-1], 4),
            "moved": sum(change != 0 for change in found["drift"]),
            "drift": round(max(found["drift"]), 4),
        }
    return answer


def cheap() -> dict[str, Any]:
    return one(0, CHEAP, pretrained(0))


def points(values: list[float]) -> str:
    """Return a mean over seeds as 'mean (lowest to highest)', in per cent."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def table(data: dict[str, Any]) -> str:
    """Return the table that the page shows."""
    lines = [
        "| stage two | head only | `training=False` | frozen | frozen is better in |",
        "|---|---|---|---|---|",
    ]
    for name, runs in data["situations"].items():
        better = sum(run["frozen"]["last_epoch"] > run["documented"]["last_epoch"] for run in runs)
        cells = [points([run["head"] for run in runs])]
        cells += [points([run[way]["last_epoch"] for run in runs]) for way in ("documented", "frozen")]
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
