"""Training and validation accuracy by epoch of a deep net at the default momentum: alone, and with the callback."""

from typing import Any

import keras
import recalibrate_batchnorm as recipe
import tensorflow as tf
from sklearn.datasets import load_digits

EPOCHS, DEPTH, BATCH = 3, 10, 48


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for _ in range(DEPTH):
        model.add(keras.layers.Conv2D(16, 3, padding="same", use_bias=False))
        model.add(keras.layers.BatchNormalization())  # momentum 0.99
        model.add(keras.layers.ReLU())
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(2, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def measure() -> dict[str, Any]:
    images, numbers = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, y, validation = images[:1440], numbers[:1440] % 2, (images[1440:], numbers[1440:] % 2)
    batches = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=0).batch(BATCH)
    panels, last = [], []
    for title, callbacks in (
        ("fit alone", []),
        ("with the callback", [recipe.RecalibrateBatchNormalization(batches)]),
    ):
        options = {"validation_data": validation, "callbacks": callbacks, "verbose": 0}
        history = net().fit(x, y, batch_size=BATCH, epochs=EPOCHS, **options).history
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
        "says": f"{DEPTH} convolutions with BatchNormalization at its default momentum, 0.99, tell odd from even "
        f"digits. After {EPOCHS} epochs of {-(-len(x) // BATCH)} steps validation says {last[0]} with fit alone and "
        f"{last[1]} with the callback: the same training, the same weights.",
        "panels": panels,
    }
