"""Say the phase in `fit`, and choose a momentum that keeps up with it.

Symptom: under `fit` moving statistics stay at 0 and 1, or validation lags for epochs.
Cause: `fit` tells the phase only to a `call` with an argument named `training`; and n
    steps leave momentum**n of the initial statistics: 91 % of them after 90 at 0.999.
Fix: steps that state the phase (`ExplicitPhase`), and a momentum for the steps there
    are: `set_momentum(model, 0.05 ** (1 / steps))` leaves 5 % after so many.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/fit_explicit_phase.md, Phasebook 0.2.0
"""

import inspect
import math

import keras
import tensorflow as tf


class ExplicitPhase:
    """Steps of `fit`, `evaluate` and `predict` that state their phase, for any model.

    Put it first: `class Net(ExplicitPhase, keras.Model)` for a subclass or for
    `Net(inputs, outputs)`, `class Net(ExplicitPhase, keras.Sequential)`. Losses,
    metrics, sample weights and loss scaling stay Keras's own. Raises TypeError, before
    a weight changes, when the model's `call` cannot be told the phase.
    """

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        require_training_argument(self)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)  # batch statistics, dropout on
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight)
            scaled = self.optimizer.scale_loss(loss)  # of use in mixed_float16 alone
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self.step_logs(x, y, y_pred, weight, loss)

    def test_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        require_training_argument(self)
        y_pred = self(x, training=False)  # moving statistics, dropout off
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight)
        return self.step_logs(x, y, y_pred, weight, loss)

    def predict_step(self, data):
        require_training_argument(self)
        return self(keras.utils.unpack_x_y_sample_weight(data)[0], training=False)

    def step_logs(self, x, y, y_pred, weight, loss):
        rows = tf.shape(tf.nest.flatten(x)[0])[0]  # a short last batch counts less
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss, sample_weight=rows)
        return self.compute_metrics(x, y, y_pred, sample_weight=weight)


def require_training_argument(model):
    """Raise TypeError unless `model.call` names `training`: Keras goes by that name."""
    if "training" not in inspect.signature(model.call).parameters:
        raise TypeError(
            f"{type(model).__name__}.call has no argument named `training`, so it "
            "cannot be told the phase. Write `def call(self, x, training=None)` and "
            "hand it on."
        )


def steps_until_meaningful(momentum, variance=1.0, remaining=0.05):
    """Training steps until moving mean and variance are within 5 % of the data's.

    Keras updates `moving = momentum * moving + (1 - momentum) * batch`. After n steps
    the initial variance 1 keeps the weight momentum**n, and that must be small beside
    the `variance` of what the layer gets: momentum**n <= remaining * min(1, variance).
    A layer called k times a step needs 1/k of the steps.

    Raises ValueError unless 0 <= momentum < 1, 0 < remaining < 1 and variance > 0.
    """
    if not (0 <= momentum < 1 and 0 < remaining < 1 and variance > 0):
        raise ValueError("Needs 0 <= momentum < 1, 0 < remaining < 1 and variance > 0.")
    if momentum == 0:
        return 1
    steps = math.log(remaining * min(1, variance)) / math.log(momentum)
    return math.ceil(steps - 1e-6)  # so that 0.05 ** (1 / n) takes n, not n + 1


def set_momentum(model, momentum):
    """Give every BatchNormalization in `model`, at any depth, this momentum.

    Returns how many there are. The momentum is compiled into a traced step: `fit` of
    this model is traced afresh, but trace a `tf.function` of yours, or compile a model
    around this one, again. Raises ValueError unless 0 <= momentum < 1.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum {momentum} is not in [0, 1): at 1 nothing moves.")
    every = model._flatten_layers()  # nothing public goes into layers
    layers = [n for n in every if isinstance(n, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = float(momentum)
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
    return len(layers)


class Net(ExplicitPhase, keras.Model):
    """A Functional model whose steps state their phase: `Net(inputs, outputs)`."""


def main():
    """Train the same net with two momenta and print what validation saw each epoch."""
    from sklearn.datasets import load_digits  # scans that come with the package

    images, numbers = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, y = images[:1440], numbers[:1440] % 2
    validation = images[1440:], numbers[1440:] % 2
    steps = math.ceil(len(x) / 32)
    print("momentum  steps to 5 %  validation accuracy by epoch")
    for momentum in (0.999, 0.05 ** (1 / steps)):
        keras.utils.set_random_seed(0)
        inputs = hidden = keras.Input((8, 8, 1))
        for filters in (16, 32, 32):
            conv = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)
            hidden = keras.layers.BatchNormalization()(conv(hidden))
            hidden = keras.layers.ReLU()(hidden)
        pooled = keras.layers.GlobalAveragePooling2D()(hidden)
        model = Net(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
        set_momentum(model, momentum)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, 32, 4, verbose=0, validation_data=validation).history
        seen = "  ".join(f"{value:.2f}" for value in history["val_accuracy"])
        print(f"{momentum:8.3f}{steps_until_meaningful(momentum):14}  {seen}")


if __name__ == "__main__":
    main()
