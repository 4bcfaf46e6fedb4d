"""Accuracy of a model with a random shift, and of what is exported of it in two ways."""

import tempfile
from typing import Any

import augmentation_inside_the_model as recipe
import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits


def measure() -> dict[str, Any]:
    digits = load_digits()
    x, y = np.float32(digits.images[..., None] / 16), digits.target
    shift = keras.layers.RandomTranslation(0.2, 0.2, fill_mode="constant", seed=0)
    model = recipe.Augmented(shift, recipe.network())
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:1440], y[:1440], epochs=4, verbose=0)
    plain = keras.Sequential([keras.Input((8, 8, 1)), shift, model.network])
    with tempfile.TemporaryDirectory() as folder, recipe.quiet():
        recipe.serve(model, folder + "/served", (8, 8, 1))
        plain.export(folder + "/plain")
        files = [tf.saved_model.load(folder + name) for name in ("/plain", "/served")]
        answers = [model.predict(x[1440:], verbose=0), *(file.serve(x[1440:]) for file in files)]
    right = [float(np.mean(np.argmax(answer, -1) == y[1440:])) for answer in answers]
    names = ("predict", "good"), ("model.export", "bad"), ("serve", "good")
    return {
        "says": f"A net for scanned digits with a random shift in front. predict reaches {right[0]:.2f}; the file of "
        f"model.export {right[1]:.2f}, since it shifts what it is asked; the recipe's file {right[2]:.2f}.",
        "panels": [
            {
                "title": "accuracy on new images",
                "kind": "bars",
                "y": {"label": "accuracy", "range": [0, 1]},
                "bars": [
                    {"name": name, "value": value, "role": role}
                    for (name, role), value in zip(names, right, strict=True)
                ],
            }
        ],
    }
