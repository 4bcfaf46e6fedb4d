"""Validation of averaged weights by epoch: with the statistics of the training weights, and re-estimated."""

from typing import Any

import keras
import recalibrate_batchnorm as recipe
from sklearn.datasets import load_digits

EPOCHS = 3


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(8):
        model.add(keras.layers.Dense(48, use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10, activation="softmax"))
    sgd = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.99)
    model.compile(sgd, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def measure() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    panels, last = [], []
    for title, more in (
        ("averaged weights alone", []),
        ("and statistics re-estimated", [recipe.RecalibrateBatchNormalization([x[:1440]])]),
    ):
        callbacks = [keras.callbacks.SwapEMAWeights(), *more]
        options = {"validation_data": (x[1440:], y[1440:]), "callbacks": callbacks, "verbose": 0}
        history = net().fit(x[:1440], y[:1440], batch_size=32, epochs=EPOCHS, **options).history
        last.append(f"{history['val_accuracy'][-1]:.2f}")
        panels.append(
            {
                "title": title,
                "kind": "lines",
                "x": {"label": "epoch", "values": list(range(1, EPOCHS + 1))},
                "y": {"label": "accuracy", "range": [0, 1]},
                "series": [
                    {"name": "training", "values": history["accuracy"], "role": "training"},
                    {"name": "validation", "values": history["val_accuracy"], "role": "inference"},
                ],
            }
        )
    return {
        "says": f"Scanned digits, use_ema=True with SwapEMAWeights. After {EPOCHS} epochs the averaged weights "
        f"validate at {last[0]} with the statistics that training left, and at {last[1]} with their own.",
        "panels": panels,
    }
