"""Loss and accuracy of an untrained MobileNetV2 in a loop: `model(x)` against `model(x, training=True)`."""

from typing import Any

import functional_learning_phase as recipe
import keras
import numpy as np
from sklearn.datasets import load_digits

POINTS, EVERY, BATCH = 7, 6, 60


def measure() -> dict[str, Any]:
    scans, labels = load_digits(return_X_y=True)
    images = np.float32(scans.reshape(-1, 8, 8, 1) / 8 - 1).repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    panels, ends = [], []
    for call, told in (("model(x)", False), ("model(x, training=True)", True)):
        keras.utils.set_random_seed(0)
        model, optimizer = recipe.mobilenet(), keras.optimizers.SGD(0.02)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy()
        make_step = recipe.make_steps if told else recipe.make_bare_step
        step = make_step(model, optimizer, loss, [metric])
        step = step[0] if told else step
        losses, accuracies = [], []
        for point in range(POINTS):
            metric.reset_state()
            rows = [np.arange(BATCH * i, BATCH * (i + 1)) % 1440 for i in range(EVERY * point, EVERY * (point + 1))]
            losses.append(float(np.mean([step(images[row], labels[row] % 2) for row in rows])))
            accuracies.append(float(metric.result()))
        ends.append(f"loss {losses[-1]:.2f} and accuracy {accuracies[-1]:.2f}")
        panels.append(
            {
                "title": call,
                "kind": "lines",
                "x": {"label": "step", "values": [EVERY * (point + 1) for point in range(POINTS)]},
                "y": {"label": "mean of six steps", "range": [0, 1]},
                "series": [
                    {"name": "loss", "values": losses, "role": "bad"},
                    {"name": "accuracy", "values": accuracies, "role": "good"},
                ],
            }
        )
    return {
        "says": f"An untrained MobileNetV2 tells odd from even digits, {POINTS * EVERY} steps of {BATCH}. "
        f"With model(x) in the step: {ends[0]}. With training=True: {ends[1]}.",
        "panels": panels,
    }
