"""Two training loops on real digits, one word apart, before the doctor."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .interface import diagnose


def demo(seed: int) -> None:
    """Two training loops on real digits, one word apart, before the doctor."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise SystemExit(
            "The demo's digits come with scikit-learn: pip install scikit-learn"
        ) from error
    digits = datasets.load_digits()
    x, y = (digits.images[..., None] / 16.0).astype("float32"), digits.target
    try:
        track = importlib.import_module("rich.progress").track
    except ImportError:
        track = lambda sequence, **_: sequence  # noqa: E731
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for training in (None, True):
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        model = keras.Sequential([keras.Input((8, 8, 1))])
        for block in range(3):
            model.add(layers.Conv2D(16, 3, padding="same"))
            model.add(layers.BatchNormalization(momentum=0.9, name=f"bn{block}"))
            model.add(layers.ReLU())
        model.add(layers.GlobalAveragePooling2D())
        model.add(layers.Dense(10))
        optimizer = keras.optimizers.Adam(3e-3)

        @tf.function
        def step(
            xb: Any, yb: Any, model=model, optimizer=optimizer, training=training
        ) -> Any:
            with tf.GradientTape() as tape:
                value = loss(yb, model(xb, training=training))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(
                zip(gradients, model.trainable_variables, strict=True)
            )
            return value

        said = "model(x, training=True)" if training else "model(x)"
        batches = (
            tf.data.Dataset.from_tensor_slices((x[:1400], y[:1400]))
            .shuffle(1400, seed=seed)
            .repeat()
            .batch(32)
            .take(150)
        )
        for xb, yb in track(list(batches), description=f"training with {said}"):
            step(xb, yb)
        predicted = np.argmax(model.predict(x[1400:], verbose=0), axis=-1)
        diagnosis = diagnose(
            model,
            x[1400:1432],
            y[1400:1432],
            train_step=step,
            loss=loss,
            progress=False,
        )
        print(
            f"\nstep calls {said}: accuracy on held-out digits {np.mean(predicted == y[1400:]):.2f}"
        )
        print(diagnosis)
