"""A Functional or Sequential model in your own loop: every call names its phase.

Symptom: in a GradientTape loop the loss stays at 0.693 and every row of a batch gets
    the same prediction; under `fit` the same model trains.
Cause: a bare `model(x)` is inference: BatchNormalization works with moving mean 0 and
    variance 1, and never updates them. Keras 3 has no learning phase to set.
Fix: `model(x, training=True)` in the train step, `training=False` in the test step;
    code that calls `model(x)` and is not yours to change gets a `PhaseView`.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/functional_learning_phase.md, Phasebook 0.2.0
"""

import inspect

import keras
import numpy as np
import tensorflow as tf


def make_steps(model, optimizer, loss, metrics=()):
    """Return `train_step(x, y)` and `test_step(x, y)`, each with its phase written out.

    Both update `metrics` and return the loss, a scalar with regularisation in it. The
    call itself updates the moving statistics: there are no update ops to run.
    """

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            value = loss(y, predictions) + sum(model.losses)
            scaled = optimizer.scale_loss(value)  # differs under loss scaling alone
        variables = model.trainable_variables
        gradients = tape.gradient(scaled, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for metric in metrics:
            metric.update_state(y, predictions)
        return value

    @tf.function
    def test_step(x, y):
        predictions = model(x, training=False)
        for metric in metrics:
            metric.update_state(y, predictions)
        return loss(y, predictions) + sum(model.losses)

    return train_step, test_step


def fit_loop(train_step, test_step, metrics, train_data, val_data, epochs=1):
    """Train and validate epoch by epoch; return one dict an epoch, named as by `fit`.

    The data give batches (x, y), anew in each epoch: a tf.data.Dataset or a list.
    """
    history = []
    for _ in range(epochs):
        results = {}
        parts = ("", train_step, train_data), ("val_", test_step, val_data)
        for prefix, step, data in parts:
            losses, rows = [], []
            for metric in metrics:
                metric.reset_state()
            for x, y in data:
                losses.append(step(x, y))
                rows.append(len(y))
            results[prefix + "loss"] = float(np.average(losses, weights=rows))
            results |= {prefix + m.name: float(m.result()) for m in metrics}
        history.append(results)
    return history


class PhaseView(tf.Module):
    """`model` in one fixed phase, for code that calls `model(x)`. It owns no variables.

    A tf.Module, so that tf.train.Checkpoint and tf.saved_model.save find the weights.
    Raises TypeError for a phase that is no Python bool, as tf.function cannot branch
    on a tensor here, and for a `model.call` without an argument `training`.
    """

    def __init__(self, model, training):
        if not isinstance(training, bool):
            raise TypeError(
                f"the phase must be Python's True or False, not {training!r}"
            )
        if "training" not in inspect.signature(model.call).parameters:
            raise TypeError(f"{type(model).__name__}.call has no argument `training`")
        super().__init__()
        self.model, self._training = model, training

    def __call__(self, inputs, training=None, **kwargs):
        """Call the model; ValueError when `training` says the other phase."""
        if training is not None and training is not self._training:
            raise ValueError(
                f"this view runs with training={self._training}, not {training}"
            )
        return self.model(inputs, training=self._training, **kwargs)

    trainable = property(lambda self: self.model.trainable)  # to be set on the model
    losses = property(lambda self: self.model.losses)
    variables = property(lambda self: self.model.variables)
    trainable_variables = property(lambda self: self.model.trainable_variables)
    non_trainable_variables = property(lambda self: self.model.non_trainable_variables)


def make_bare_step(model, optimizer, loss, metrics=()):
    """A train step as somebody else wrote it: it names no phase."""

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            predictions = model(x)
            value = loss(y, predictions) + sum(model.losses)
            scaled = optimizer.scale_loss(value)
        variables = model.trainable_variables
        gradients = tape.gradient(scaled, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for metric in metrics:
            metric.update_state(y, predictions)
        return value

    return train_step


def mobilenet():
    """An untrained MobileNetV2: two logits for images (batch, 32, 32, 3) in [-1, 1]."""
    shape = 32, 32, 3
    base = keras.applications.MobileNetV2(shape, 0.35, include_top=False, weights=None)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # Keras builds it with 0.999, too slow for 72 steps
    pool = keras.layers.GlobalAveragePooling2D()
    return keras.Sequential([keras.Input(shape), base, pool, keras.layers.Dense(2)])


def main():
    """Tell odd from even digits, with no phase in the train step and with True."""
    from sklearn.datasets import load_digits  # real scans that come with the package

    scans, labels = load_digits(return_X_y=True)
    images = np.float32(scans.reshape(-1, 8, 8, 1) / 8 - 1)
    images = images.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    data = tf.data.Dataset.from_tensor_slices((images, labels % 2))
    train, validate = data.take(1440).batch(60), data.skip(1440).batch(357)
    print(f"{'call in the train step':<26}loss   accuracy   validation accuracy")
    for call in "model(x)", "model(x, training=True)":
        keras.utils.set_random_seed(0)
        model, optimizer = mobilenet(), keras.optimizers.SGD(0.1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
        train_step, test_step = make_steps(model, optimizer, loss, metrics)
        if call == "model(x)":
            train_step = make_bare_step(model, optimizer, loss, metrics)
        end = fit_loop(train_step, test_step, metrics, train, validate, epochs=3)[-1]
        accuracies = f"{end['accuracy']:<11.2f}{end['val_accuracy']:.2f}"
        print(f"{call:<26}{end['loss']:<7.3f}{accuracies}")


if __name__ == "__main__":
    main()
