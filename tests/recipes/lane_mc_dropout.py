"""Makes tests/recipes/data/mc_dropout.json and docs/assets/mc_dropout_calibration.svg from it.

Run with the recipes on the path: `PYTHONPATH=recipes python tests/recipes/lane_mc_dropout.py`, or with
`--figure` to draw the figure alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import monte_carlo_dropout as recipe
import numpy as np
import tensorflow as tf

DATA = Path(__file__).parent / "data" / "mc_dropout.json"
FIGURE = Path(__file__).parents[2] / "docs/assets/mc_dropout_calibration.svg"
SEEDS = range(5)
SAMPLES = 64
ANGLES = (0, 15, 30, 45, 60, 90)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DRAWN, REFERENCE, INPUTS = 1024, 1024, 200  # samples of the estimates, of what they are compared with; images


def trained(seed: int) -> tuple[Any, tuple[np.ndarray, ...]]:
    """Return the recipe's classifier, trained as in its demo, and its digits."""
    keras.utils.set_random_seed(seed)
    data = recipe.digits(seed)
    model = recipe.classifier()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(data[0], data[1], epochs=25, batch_size=32, verbose=0)
    return model, data


def accuracy(p: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(p.argmax(-1) == y))


def turned(model: Any, sampler: Any, x: np.ndarray, y: np.ndarray, angle: int, seed: int) -> dict[str, Any]:
    """Return accuracy, calibration error and reliability of one pass and of the samples on turned images."""
    images = recipe.rotate(x, angle)
    answer = {}
    for way, p in (
        ("one_pass", model.predict(images, verbose=0)),
        ("samples", recipe.predict_with_uncertainty(sampler, images, SAMPLES, seed=seed).mean),
    ):
        confidence, right, count = recipe.reliability(p, y)
        answer[way] = {
            "accuracy": round(accuracy(p, y), 4),
            "calibration_error": round(recipe.expected_calibration_error(p, y), 4),
            "reliability": [[round(float(v), 4) for v in row] for row in (confidence, right, count)],
        }
    return answer


def unseen(model: Any, sampler: Any, x: np.ndarray, new: np.ndarray, seed: int) -> dict[str, float]:
    """Return, for three measures, the chance that an unseen digit looks less certain than a test digit."""
    a, b = (recipe.predict_with_uncertainty(sampler, images, SAMPLES, seed=seed) for images in (new, x))
    one = [recipe.entropy(model.predict(images, verbose=0)) for images in (new, x)]
    return {
        "one_pass_entropy": round(recipe.auroc(*one), 4),
        "entropy": round(recipe.auroc(a.entropy, b.entropy), 4),
        "mutual_information": round(recipe.auroc(a.mutual_information, b.mutual_information), 4),
    }


def enough(sampler: Any, x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Return, by number of samples, how far results are from those of 1,024 other samples, on images turned by 30°."""
    known = recipe.rotate(x[:INPUTS], 30)
    p, q = (
        np.concatenate(list(recipe.sample(sampler, images, DRAWN + REFERENCE, seed=seed)))
        for images in (known, new[:INPUTS])
    )
    labels, reference = y[:INPUTS], p[:, DRAWN:].mean(1)
    answer = {}
    for count in COUNTS:
        # Up to 16 groups of samples that share none.
        groups = min(16, DRAWN // count)
        parts = p[:, : groups * count].reshape(INPUTS, groups, count, -1)
        others = q[:, : groups * count].reshape(INPUTS, groups, count, -1)
        one = [recipe.summarise(parts[:, g]) for g in range(groups)]
        two = [recipe.summarise(others[:, g]) for g in range(groups)]
        answer[str(count)] = {
            "error": round(float(np.sqrt(np.mean([(u.mean - reference) ** 2 for u in one]))), 5),
            "accuracy": round(float(np.mean([accuracy(u.mean, labels) for u in one])), 4),
            "calibration_error": round(
                float(np.mean([recipe.expected_calibration_error(u.mean, labels) for u in one])), 4
            ),
            "mutual_information": round(float(np.mean([u.mutual_information.mean() for u in one])), 4),
            "unseen_by_entropy": round(
                float(np.mean([recipe.auroc(b.entropy, a.entropy) for a, b in zip(one, two, strict=True)])), 4
            ),
        }
    return answer


def _mean(values: list[float], digits: int = 3) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def tables(data: dict[str, Any]) -> dict[str, str]:
    """Return the tables that the page shows, as mean (lowest to highest) over the seeds."""
    runs = data["runs"]
    angles = [
        "| digits turned by | accuracy, one pass | accuracy, samples | calibration error, one pass | "
        "calibration error, samples |",
        "|---|---|---|---|---|",
    ]
    for angle in map(str, ANGLES):
        cells = [
            _mean([run["turned"][angle][way][what] for run in runs])
            for what in ("accuracy", "calibration_error")
            for way in ("one_pass", "samples")
        ]
        angles.append(f"| {angle}° | {' | '.join(cells)} |")
    names = {
        "one_pass_entropy": "entropy of one pass",
        "entropy": "entropy of the predictive mean",
        "mutual_information": "mutual information",
    }
    new = ["| measure | chance that an unseen digit looks less certain |", "|---|---|"]
    new += [f"| {name} | {_mean([run['unseen'][key] for run in runs])} |" for key, name in names.items()]
    counts = [
        "| samples | error of the mean | accuracy | calibration error | mutual information, nats | unseen found |",
        "|---|---|---|---|---|---|",
    ]
    for count in map(str, COUNTS):
        row = [run["enough"][count] for run in runs]
        keys = ("error", "accuracy", "calibration_error", "mutual_information", "unseen_by_entropy")
        cells = [f"{np.mean([r[key] for r in row]):.3f}" for key in keys]
        counts.append(f"| {count} | {' | '.join(cells)} |")
    return {"turned": "\n".join(angles), "unseen": "\n".join(new), "enough": "\n".join(counts)}


def curves(data: dict[str, Any]) -> dict[str, Any]:
    """Return the reliability of both ways on the digits turned by 30°, all seeds pooled, by bin."""
    pooled = {}
    for way, name in (("one_pass", "one pass, inference"), ("samples", f"mean of {SAMPLES} samples")):
        rows = np.concatenate([np.array(run["turned"]["30"][way]["reliability"]).T for run in data["runs"]])
        index = np.minimum((rows[:, 0] * 10).astype(int), 9)
        bins = [rows[index == i] for i in np.unique(index)]
        pooled[name] = tuple(np.array([np.average(b[:, column], weights=b[:, 2]) for b in bins]) for column in (0, 1))
    return pooled


def digest() -> str:
    """Return what the figure depends on: the data, how it is pooled and how it is drawn."""
    code = inspect.getsource(curves) + inspect.getsource(recipe.calibration_figure)
    return hashlib.sha256(DATA.read_bytes() + code.encode()).hexdigest()


def draw() -> None:
    import matplotlib

    # A fixed salt and no date, so that the same data give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "phasebook"}):
        recipe.calibration_figure(
            curves(json.loads(DATA.read_text(encoding="utf-8"))),
            str(FIGURE),
            Date=None,
            Title="Confidence and accuracy on digits turned by 30 degrees",
            Description=f"sha256 {digest()}",
        )


def main() -> None:
    runs = []
    for seed in SEEDS:
        model, (_, _, x, y, new) = trained(seed)
        sampler = recipe.to_monte_carlo(model)
        runs.append(
            {
                "turned": {str(angle): turned(model, sampler, x, y, angle, seed) for angle in ANGLES},
                "unseen": unseen(model, sampler, x, new, seed),
                "enough": enough(sampler, x, y, new, seed),
            }
        )
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    data = {"tensorflow": tf.__version__, "keras": keras.__version__, "seeds": list(SEEDS), "runs": runs}
    # All or nothing: a stopped run leaves the old file.
    with tempfile.NamedTemporaryFile("w", dir=DATA.parent, suffix=".part", delete=False) as part:
        part.write(json.dumps(data, indent=1) + "\n")
    os.replace(part.name, DATA)
    draw()
    for text in tables(data).values():
        print(text + "\n")


if __name__ == "__main__":
    if "--figure" in sys.argv[1:]:
        draw()
    else:
        main()
