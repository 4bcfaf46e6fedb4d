"""Two training loops on real digits, one word apart, before the doctor."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .interface import diagnose


def build() -> Any:
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for block in range(3):
        model.add(layers.Conv2D(16, 3, padding="same"))
        model.add(layers.BatchNormalization(momentum=0.9, name=f"bn{block}"))
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


def step_of(model: Any, loss: Any, training: bool | None) -> Any:
    optimizer = keras.optimizers.Adam(3e-3)

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=training))
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return value

    return step


def demo(seed: int) -> None:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        text = "The demo's digits come with scikit-learn: pip install scikit-learn"
        raise SystemExit(text) from error
    digits = datasets.load_digits()
    x, y = (digits.images[..., None] / 16.0).astype("float32"), digits.target
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for training in (None, True):
        keras.utils.set_random_seed(seed)
        model = build()
        step = step_of(model, loss, training)
        data = tf.data.Dataset.from_tensor_slices((x[:1400], y[:1400]))
        for batch in data.shuffle(1400, seed=seed).repeat().batch(32).take(150):
            step(*batch)
        answers = np.argmax(model.predict(x[1400:], verbose=0), axis=-1)
        right = np.mean(answers == y[1400:])
        said = "model(x, training=True)" if training else "model(x)"
        print(f"\nstep calls {said}: accuracy on held-out digits {right:.2f}")
        batch = (x[1400:1432], y[1400:1432])
        print(diagnose(model, *batch, train_step=step, loss=loss, progress=False))
