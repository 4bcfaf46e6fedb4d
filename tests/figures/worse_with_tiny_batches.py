"""Validation accuracy against the size of the micro-batch, 32 samples to an update: two normalisations."""

from typing import Any

import keras
import recalibrate_batchnorm as recipe
from sklearn.datasets import load_digits

SIZES, SAMPLES, UPDATE = (2, 8, 32), 480, 32


def accuracy(normalization: Any, size: int) -> float:
    """Train with `UPDATE // size` accumulated micro-batches an update; statistics are re-estimated: no lag is left."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(2):
        model.add(keras.layers.Dense(32, use_bias=False))
        model.add(normalization())
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10, activation="softmax"))
    steps = UPDATE // size
    adam = keras.optimizers.Adam(3e-3, gradient_accumulation_steps=steps if steps > 1 else None)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:SAMPLES], y[:SAMPLES], size, epochs=4, verbose=0)
    if normalization is keras.layers.BatchNormalization:
        recipe.recalibrate(model, [x[:SAMPLES]])
    return model.evaluate(x[1440:], y[1440:], verbose=0)[1]


def measure() -> dict[str, Any]:
    batch = [accuracy(keras.layers.BatchNormalization, size) for size in SIZES]
    groups = accuracy(lambda: keras.layers.GroupNormalization(8), 8)
    return {
        "says": f"Scanned digits, dense layers, {UPDATE} samples to an update at every size. BatchNormalization "
        f"reaches {batch[0]:.2f} with micro-batches of 2, {batch[1]:.2f} with 8 "
        f"and {batch[-1]:.2f} without accumulation; GroupNormalization {groups:.2f} with 8.",
        "panels": [
            {
                "title": "validation accuracy",
                "kind": "bars",
                "y": {"label": "accuracy", "range": [0, 1]},
                "bars": [
                    *(
                        {"name": str(size), "value": value, "role": "bad"}
                        for size, value in zip(SIZES[:-1], batch, strict=False)
                    ),
                    {"name": "32", "value": batch[-1], "role": "good"},
                    {"name": "Group, 8", "value": groups, "role": "good"},
                ],
            }
        ],
    }
