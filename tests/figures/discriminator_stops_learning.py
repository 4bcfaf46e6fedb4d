"""The discriminator's loss on one batch of real data: frozen after its compile, and unfrozen for its own step."""

from typing import Any

import keras
import numpy as np

STEPS = 20


def pair() -> tuple[keras.Model, keras.Model]:
    """A discriminator compiled, then frozen, and the model that trains the generator through it."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.BatchNormalization()]
    discriminator = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, activation="sigmoid")])
    discriminator.compile(keras.optimizers.SGD(0.05), "binary_crossentropy")
    discriminator.trainable = False
    noise = keras.Input((2,))
    gan = keras.Model(noise, discriminator(keras.layers.Dense(4)(noise)))
    gan.compile(keras.optimizers.SGD(0.05), "binary_crossentropy")
    return discriminator, gan


def measure() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    real, ones = generator.normal(2, 1, (64, 4)).astype("float32"), np.ones((64, 1), "float32")
    noise = generator.normal(size=(64, 2)).astype("float32")
    series = []
    for name, role, unfrozen in (("compiled, then frozen", "bad", False), ("unfrozen for its own step", "good", True)):
        discriminator, gan = pair()
        losses = []
        for _ in range(STEPS):
            discriminator.trainable = unfrozen
            losses.append(float(discriminator.train_on_batch(real, ones)))
            discriminator.trainable = False
            gan.train_on_batch(noise, ones)
        series.append({"name": name, "values": losses, "role": role})
    first, last = (f"{series[0]['values'][place]:.2f}" for place in (0, -1))
    at_last = f"{series[1]['values'][-1]:.2f}"
    return {
        "says": f"Binary cross-entropy of the discriminator on one batch of real data. Frozen after its compile it "
        f"goes from {first} to {last} in {STEPS} steps; unfrozen for its own step it ends at {at_last}.",
        "panels": [
            {
                "title": "loss of the discriminator",
                "kind": "lines",
                "x": {"label": "step", "values": list(range(1, STEPS + 1))},
                "y": {"label": "loss", "range": [0, 2.5]},
                "series": series,
            }
        ],
    }
