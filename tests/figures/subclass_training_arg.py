"""Accuracy by epoch of one subclassed net under `fit`: its `call` without and with an argument `training`."""

from typing import Any

import keras
import numpy as np
import subclass_training_arg as recipe
from sklearn.datasets import load_digits

EPOCHS = 3


def measure() -> dict[str, Any]:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    panels, told = [], []
    for title, kind in (("def call(self, x)", recipe.UntoldNet), ("def call(self, x, training=None)", recipe.Net)):
        keras.utils.set_random_seed(0)
        model = kind()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
        validation = images[1440:], labels[1440:]
        history = model.fit(
            images[:1440], labels[:1440], batch_size=32, epochs=EPOCHS, validation_data=validation, verbose=0
        ).history
        moved = sum(bool(np.any(block.norm.moving_mean.numpy() != 0)) for block in model.blocks)
        told.append(f"{moved} of {len(model.blocks)} moving means moved, validation {history['val_accuracy'][-1]:.2f}")
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
        "says": f"Ten convolution blocks on scanned digits under fit. Without the argument: {told[0]}. "
        f"With it: {told[1]}.",
        "panels": panels,
    }
