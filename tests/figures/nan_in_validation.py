"""Training and validation accuracy by epoch, one infinite pixel in epoch 3: left alone, and repaired after it."""

from typing import Any

import keras
import recalibrate_batchnorm as recipe
from sklearn.datasets import load_digits

EPOCHS, BAD = 6, 3


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(2):
        model.add(keras.layers.Dense(48, use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10, activation="softmax"))
    # As under mixed_float16: a step whose gradients are not finite is skipped.
    sgd = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(sgd, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def measure() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    spoiled = x[:1440].copy()
    spoiled[700, 3] = float("inf")
    panels, last = [], []
    for title, repair in (("one infinite pixel in epoch 3", None), ("re-estimated after epoch 4", 4)):
        model = net()
        training, validation = [], []
        for epoch in range(1, EPOCHS + 1):
            data = spoiled if epoch == BAD else x[:1440]
            training.append(model.fit(data, y[:1440], verbose=0).history["accuracy"][0])
            if epoch == repair:
                recipe.recalibrate(model, [x[:1440]])
            validation.append(model.evaluate(x[1440:], y[1440:], verbose=0)[1])
        last.append(f"{validation[-1]:.2f}")
        panels.append(
            {
                "title": title,
                "kind": "lines",
                "x": {"label": "epoch", "values": list(range(1, EPOCHS + 1))},
                "y": {"label": "accuracy", "range": [0, 1]},
                "series": [
                    {"name": "training", "values": training, "role": "training"},
                    {"name": "validation", "values": validation, "role": "inference"},
                ],
            }
        )
    return {
        "says": f"Scanned digits; a loss-scale optimizer skips the step with the infinite pixel, the statistics keep "
        f"its NaN. After {EPOCHS} epochs validation says {last[0]}; re-estimated once, {last[1]}.",
        "panels": panels,
    }
