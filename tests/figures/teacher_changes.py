"""A teacher's own accuracy while a student learns from it: called in the training phase, and in inference."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

EPOCHS = 5


def net(depth: int) -> keras.Model:
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(depth):
        model.add(keras.layers.Dense(48, use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def distil(teacher: keras.Model, x: np.ndarray, phase: bool) -> Any:
    """A step that trains a student on what the teacher says, the teacher called in `phase`."""
    student, adam = net(1), keras.optimizers.Adam()

    @tf.function
    def step(x: tf.Tensor) -> None:
        soft = teacher(x, training=phase)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.categorical_crossentropy(soft, student(x, training=True)))
            scaled = adam.scale_loss(loss)
        adam.apply(tape.gradient(scaled, student.trainable_variables), student.trainable_variables)

    return step


def measure() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    series = []
    for name, role, phase in (("training=True", "bad", True), ("training=False", "good", False)):
        keras.utils.set_random_seed(0)
        teacher = net(2)
        teacher.fit(x[:1440], y[:1440], epochs=5, verbose=0)
        step, generator = distil(teacher, x, phase), np.random.default_rng(0)
        accuracy = []
        for epoch in range(EPOCHS + 1):
            accuracy.append(teacher.evaluate(x[1440:], y[1440:], verbose=0)[1])
            for start in range(0, 1440 if epoch < EPOCHS else 0, 32):
                light = generator.uniform(0, 0.5, (32, 1)).astype("float32")  # what augments the student's images
                step(tf.constant(x[start : start + 32] * light))
        series.append({"name": name, "values": accuracy, "role": role})
    first, bad, good = series[0]["values"][0], series[0]["values"][-1], series[1]["values"][-1]
    return {
        "says": f"Accuracy of the teacher on digits it has not seen: {first:.2f} before a student learns from it on "
        f"darkened images. After {EPOCHS} epochs of calls with training=True: {bad:.2f}; with training=False: "
        f"{good:.2f}.",
        "panels": [
            {
                "title": "the teacher, which nobody trains",
                "kind": "lines",
                "x": {"label": "epoch of the student", "values": list(range(EPOCHS + 1))},
                "y": {"label": "accuracy", "range": [0, 1]},
                "series": series,
            }
        ],
    }
