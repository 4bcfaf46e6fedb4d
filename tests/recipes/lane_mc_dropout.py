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
from scipy.ndimage import rotate as turn
from sklearn.datasets import load_digits

DATA = Path(__file__).parent / "data" / "mc_dropout.json"
FIGURE = Path(__file__).parents[2] / "docs/assets/mc_dropout_calibration.svg"
SEEDS = range(5)
SAMPLES = 64
ANGLES = (0, 15, 30, 45, 60, 90)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SEEN, TRAINED_ON = 8, 400  # digits 0 to 7 are trained on, 400 of them
DRAWN, REFERENCE, INPUTS = 1024, 1024, 200  # samples of the estimates, of what they are compared with; images


def classifier() -> Any:
    """Return an untrained network for (8, 8, 1) images of the digits 0 to 7, with dropout and BatchNormalization."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.SpatialDropout2D(0.1),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(SEEN, activation="softmax"),
        ],
        name="classifier",
    )


def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y to train on and x, y to test on, of scikit-learn's digits 0 to 7; and the unseen 8 and 9 as x.

    Images are (n, 8, 8, 1) float32 in [0, 1].
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(labels < SEEN))
    train, test = order[:TRAINED_ON], order[TRAINED_ON:]
    return images[train], labels[train], images[test], labels[test], images[labels >= SEEN]


def rotate(images: np.ndarray, degrees: float) -> np.ndarray:
    """Return `images` (n, 8, 8, 1) turned by `degrees`, with black corners."""
    return np.clip(turn(images, degrees, axes=(2, 1), reshape=False, order=1), 0, 1)


def reliability(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean confidence, accuracy and count of each bin of confidence that is not empty.

    `p` is (inputs, classes), `labels` (inputs,). Confidence is the probability of the predicted class.
    """
    confidence, right = p.max(axis=-1), p.argmax(axis=-1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    full = count > 0
    mean, accuracy = (np.bincount(index, value, bins)[full] / count[full] for value in (confidence, right))
    return mean, accuracy, count[full]


def expected_calibration_error(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Return the mean gap between confidence and accuracy over bins (Guo et al. 2017, arXiv:1706.04599)."""
    confidence, accuracy, count = reliability(p, labels, bins)
    return float(np.average(np.abs(confidence - accuracy), weights=count))


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return the chance that a value of `higher` is above one of `lower`; ties count half (Mann & Whitney 1947)."""
    gaps = higher[:, None] - lower[None, :]
    return float(np.mean(gaps > 0) + np.mean(gaps == 0) / 2)


def calibration_figure(curves: dict[str, Any], path: str, **metadata: str | None) -> None:
    """Draw `curves`, name -> (confidence, accuracy, ...) as `reliability` gives them, to the image file `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#767676", linestyle=":", label="calibrated")
    for (name, (confidence, accuracy, *_)), style in zip(curves.items(), ("o--", "s-", "^-."), strict=False):
        axes.plot(confidence, accuracy, style, label=name)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.legend(loc="upper left")
    figure.savefig(path, metadata=metadata or None)


def trained(seed: int) -> tuple[Any, tuple[np.ndarray, ...]]:
    """Return the classifier, trained, and its digits."""
    keras.utils.set_random_seed(seed)
    data = digits(seed)
    model = classifier()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(data[0], data[1], epochs=25, batch_size=32, verbose=0)
    return model, data


def accuracy(p: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(p.argmax(-1) == y))


def turned(model: Any, sampler: Any, x: np.ndarray, y: np.ndarray, angle: int) -> dict[str, Any]:
    """Return accuracy, calibration error and reliability of one pass and of the samples on turned images."""
    images = rotate(x, angle)
    answer = {}
    for way, p in (
        ("one_pass", model.predict(images, verbose=0)),
        ("samples", recipe.predict_with_uncertainty(sampler, images, SAMPLES).mean),
    ):
        confidence, right, count = reliability(p, y)
        answer[way] = {
            "accuracy": round(accuracy(p, y), 4),
            "calibration_error": round(expected_calibration_error(p, y), 4),
            "reliability": [[round(float(v), 4) for v in row] for row in (confidence, right, count)],
        }
    return answer


def unseen(model: Any, sampler: Any, x: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """Return, for three measures, the chance that an unseen digit looks less certain than a test digit."""
    a, b = (recipe.predict_with_uncertainty(sampler, images, SAMPLES) for images in (new, x))
    one = [recipe.entropy(model.predict(images, verbose=0)) for images in (new, x)]
    return {
        "one_pass_entropy": round(auroc(*one), 4),
        "entropy": round(auroc(a.entropy, b.entropy), 4),
        "mutual_information": round(auroc(a.mutual_information, b.mutual_information), 4),
    }


def enough(sampler: Any, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> dict[str, dict[str, float]]:
    """Return, by number of samples, how far results are from those of 1,024 other samples, on images turned by 30°."""
    known = rotate(x[:INPUTS], 30)
    p, q = (np.concatenate(list(recipe.sample(sampler, images, DRAWN + REFERENCE))) for images in (known, new[:INPUTS]))
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
            "calibration_error": round(float(np.mean([expected_calibration_error(u.mean, labels) for u in one])), 4),
            "mutual_information": round(float(np.mean([u.mutual_information.mean() for u in one])), 4),
            "unseen_by_entropy": round(
                float(np.mean([auroc(b.entropy, a.entropy) for a, b in zip(one, two, strict=True)])), 4
            ),
        }
    return answer


def _mean(values: list[float], digits: int = 3) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(data: dict[str, Any]) -> str:
    """Return the table that the page shows, as mean (lowest to highest) over the seeds."""
    runs = data["runs"]
    rows = [
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
        rows.append(f"| {angle}° | {' | '.join(cells)} |")
    return "\n".join(rows)


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
    code = inspect.getsource(curves) + inspect.getsource(calibration_figure)
    return hashlib.sha256(DATA.read_bytes() + code.encode()).hexdigest()


def draw() -> None:
    import matplotlib

    # A fixed salt and no date, so that the same data give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "phasebook"}):
        calibration_figure(
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
                "turned": {str(angle): turned(model, sampler, x, y, angle) for angle in ANGLES},
                "unseen": unseen(model, sampler, x, new),
                "enough": enough(sampler, x, y, new),
            }
        )
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    data = {"tensorflow": tf.__version__, "keras": keras.__version__, "seeds": list(SEEDS), "runs": runs}
    # All or nothing: a stopped run leaves the old file.
    with tempfile.NamedTemporaryFile("w", dir=DATA.parent, suffix=".part", delete=False) as part:
        part.write(json.dumps(data, indent=1) + "\n")
    os.replace(part.name, DATA)
    draw()
    print(table(data))


if __name__ == "__main__":
    if "--figure" in sys.argv[1:]:
        draw()
    else:
        main()
