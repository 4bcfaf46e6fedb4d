"""What a deep subclassed net answers to ten digits after `fit`: its `call` without and with an argument `training`."""

from typing import Any

import keras
import numpy as np
import subclass_training_arg as recipe
from sklearn.datasets import load_digits

EPOCHS = 4


def measure() -> dict[str, Any]:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    panels, answers = [], []
    for title, kind in (("def call(self, x)", recipe.UntoldNet), ("def call(self, x, training=None)", recipe.Net)):
        keras.utils.set_random_seed(0)
        model = kind()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
        model.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0)
        found = np.argmax(model.predict(images[:10], verbose=0), -1).tolist()
        answers.append(len(set(found)))
        cells = [
            {"text": str(answer), "role": "good" if answer == label else "bad"}
            for answer, label in zip(found, labels[:10].tolist(), strict=True)
        ]
        panels.append({"title": title, "kind": "strip", "cells": cells})
    return {
        "says": f"The digits 0 to 9, from the training data, asked of ten convolution blocks after {EPOCHS} epochs of "
        f"fit. Without the argument the moving statistics never moved: {answers[0]} answer for all ten. "
        f"With it: {answers[1]} answers.",
        "panels": panels,
    }
