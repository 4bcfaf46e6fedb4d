"""A subclassed model that can be told its phase, and a training loop that tells it.

Symptom: a subclassed model learns badly or not at all, under `fit` too: moving_mean is
    still 0, moving_variance still 1, dropout never drops, and nothing warns.
Cause: Keras hands the phase to an argument named `training`, and `call` has none.
Fix: `def call(self, x, training=None)`, passed on to every layer; in your own loop
    `training=True` in the train step and `training=False` in the test step.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/subclass_training_arg.md, Phasebook 0.2.0
"""

import inspect

import keras
import numpy as np
import tensorflow as tf


class ConvBlock(keras.layers.Layer):
    """Convolution, BatchNormalization, ReLU: (batch, h, w, c) to (batch, h, w, f)."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)
        # 0.9, not Keras's 0.99: the statistics follow within some twenty steps.
        self.norm = keras.layers.BatchNormalization(momentum=0.9)

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training))


class Net(keras.Model):
    """Logits (batch, 10) of images (batch, height, width, channels)."""

    def __init__(self, depth=10, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [ConvBlock(16) for _ in range(depth)]
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.dropout = keras.layers.Dropout(0.1)
        self.head = keras.layers.Dense(10)

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.dropout(self.pool(x), training=training))


def make_steps(model, optimizer, loss, metrics=()):
    """Return `train_step(x, y)` and `test_step(x, y)`, each with its phase written out.

    Both update `metrics` and return the loss, a scalar with regularisation in it.
    Raises TypeError, before anything changes, when `model.call` has no `training`.
    """
    require_training_argument(model)

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


def require_training_argument(model):
    """Raise TypeError unless `model.call` names `training`: Keras goes by that name.

    `**kwargs` does not count, and a decorator without functools.wraps hides the name.
    """
    if "training" not in inspect.signature(model.call).parameters:
        raise TypeError(
            f"{type(model).__name__}.call has no argument named `training`, so Keras "
            "cannot tell it the phase: write `def call(self, x, training=None)` and "
            "pass `training=training` on to every layer."
        )


class UntoldNet(Net):
    """The same layers in a `call` that cannot be told the phase."""

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(self.pool(x)))


def main():
    """Train both nets on scanned digits with `fit`, and compare what became of them."""
    from sklearn.datasets import load_digits  # real scans that come with the package

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, y, x_val, y_val = images[:1440], labels[:1440], images[1440:], labels[1440:]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    print(f"{'model':<12}{'moving means that moved':<26}validation accuracy")
    for kind in (UntoldNet, Net):
        keras.utils.set_random_seed(0)
        model = kind()
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(optimizer, loss, metrics=["accuracy"])
        model.fit(x, y, batch_size=32, epochs=4, verbose=0)
        moved = sum(np.any(b.norm.moving_mean.numpy() != 0) for b in model.blocks)
        _, accuracy = model.evaluate(x_val, y_val, verbose=0)
        count = f"{moved} of {len(model.blocks)}"
        print(f"{kind.__name__:<12}{count:<26}{accuracy:.2f}")


if __name__ == "__main__":
    main()
