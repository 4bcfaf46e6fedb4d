"""Three momenta: what is left of the initial statistics after n steps, and what validation sees by epoch."""

from typing import Any

import fit_explicit_phase as recipe
import keras
import numpy as np
from sklearn.datasets import load_digits

EPOCHS, BATCH = 6, 32
ROLES = {0.999: "bad", 0.99: "inference", 0.9: "good"}


def left(momentum: float, steps: list[int]) -> list[float]:
    """The share of the initial variance that a real layer still holds after so many steps."""
    layer, shares = keras.layers.BatchNormalization(momentum=momentum), []
    constant = np.ones((2, 1), "float32")  # variance 0: what is not 0 is left of the start
    for step in range(max(steps) + 1):
        if step in steps:
            shares.append(float(layer.moving_variance[0]) if step else 1.0)
        layer(constant, training=True)
    return shares


def measure() -> dict[str, Any]:
    images, numbers = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, y, validation = images[:1440], numbers[:1440] % 2, (images[1440:], numbers[1440:] % 2)
    inputs = hidden = keras.Input((8, 8, 1))
    keras.utils.set_random_seed(0)
    for filters in (16, 32, 32):
        hidden = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
    pooled = keras.layers.GlobalAveragePooling2D()(hidden)
    model = recipe.Net(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
    weights = model.get_weights()
    an_epoch = -(-len(x) // BATCH)
    steps = list(range(0, EPOCHS * an_epoch + 1, 27))
    shares, seen = [], []
    for momentum, role in ROLES.items():
        name = str(momentum)
        shares.append({"name": name, "values": left(momentum, steps), "role": role})
        keras.utils.set_random_seed(0)
        model.set_weights(weights)
        recipe.set_momentum(model, momentum)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, validation_data=validation, verbose=0).history
        seen.append({"name": name, "values": history["val_accuracy"], "role": role})
    needed = ", ".join(f"{recipe.steps_until_meaningful(momentum)} at {momentum}" for momentum in ROLES)
    return {
        "says": f"Steps until 5 % of the initial statistics is left: {needed}. Validation of odd or even digits "
        f"follows: the same net and seed, {an_epoch} steps an epoch.",
        "panels": [
            {
                "title": "left of the start, by momentum",
                "kind": "lines",
                "x": {"label": "training steps", "values": steps},
                "y": {"label": "share", "range": [0, 1]},
                "series": shares,
            },
            {
                "title": "validation, by momentum",
                "kind": "lines",
                "x": {"label": "training steps", "values": [epoch * an_epoch for epoch in range(1, EPOCHS + 1)]},
                "y": {"label": "accuracy", "range": [0, 1]},
                "series": seen,
            },
        ],
    }
