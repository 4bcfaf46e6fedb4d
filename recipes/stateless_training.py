"""A loop around `stateless_call`: phase as an argument, statistics as a result.

Symptom: a loop around `stateless_call` learns, and validation stays at chance; the
    moving statistics are still 0 and 1, or dropout draws one mask for ever.
Cause: without `training=True` the call is inference; and what it returns beside the
    outputs, new statistics and seeds, is lost unless it is kept for the next step.
Fix: `make_step`, which keeps it; `make_loss`, the pure function in it.
Holds on: Keras 3.0 to 3.16.dev, on TensorFlow.
More: docs/recipes/stateless_training.md, Phasebook 0.2.0
"""

import keras
import numpy as np
import tensorflow as tf


def make_loss(model, loss):
    """Return a pure `objective(trainable, other, x, y, training)`.

    `trainable` and `other` are lists of values for `model.trainable_variables` and
    `model.non_trainable_variables`: moving statistics, and the seeds of dropout. It
    gives the loss, a scalar with the model's own losses, and the next `other`. No
    variable is read or changed, so one model serves any number of sets of values.
    Raises ValueError, before anything, when the model is not built.
    """
    if not model.built:
        raise ValueError(
            f"{model.name!r} is not built, so it has no variables to stand for. Call "
            "it on a batch first."
        )

    def objective(trainable, other, x, y, training):
        outputs, other, losses = model.stateless_call(
            trainable, other, x, training=training, return_losses=True
        )
        return loss(y, outputs) + sum(losses), other

    return objective


def make_step(model, optimizer, loss):
    """Return `train_step(x, y)`, which trains the model's variables; gives the loss.

    The optimizer keeps its own state: on TensorFlow Keras has no `stateless_apply`.
    """
    objective = make_loss(model, loss)

    @tf.function
    def train_step(x, y):
        trainable, other = values(model)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            value, other = objective(trainable, other, x, y, training=True)
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, trainable)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        for variable, new in zip(model.non_trainable_variables, other, strict=True):
            variable.assign(new)
        return value

    return train_step


def make_test_step(model, loss):
    """Return `test_step(trainable, other, x, y)`: the loss of any values, in inference.

    What it returns beside the loss is left alone: inference changes no statistic.
    """
    objective = make_loss(model, loss)

    @tf.function
    def test_step(trainable, other, x, y):
        return objective(trainable, other, x, y, training=False)[0]

    return test_step


def values(model):
    """What the model's variables hold now, as two lists of tensors."""
    kinds = model.trainable_variables, model.non_trainable_variables
    return [[tf.identity(v.value) for v in kind] for kind in kinds]


def make_forgetful_step(model, optimizer, loss):
    """What is often written: the phase is there, and the new statistics are dropped."""

    @tf.function
    def train_step(x, y):
        trainable, other = values(model)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            outputs, _ = model.stateless_call(trainable, other, x, training=True)
            value = loss(y, outputs)
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, trainable)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    return train_step


def net():
    """Eight dense layers with BatchNormalization, and dropout: ten logits."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(8):
        model.add(keras.layers.Dense(32, use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dropout(0.1))
    model.add(keras.layers.Dense(10))
    return model


def main():
    """Train with the new statistics left behind, and with them kept."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    x = np.float32(x / 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    print("step                  loss   validation accuracy")
    for make in make_forgetful_step, make_step:
        model = net()
        step = make(model, keras.optimizers.Adam(0.003), loss)
        for epoch in range(4):
            for rows in np.random.default_rng(epoch).permutation(1440).reshape(-1, 48):
                value = step(x[rows], y[rows])
        right = model.predict(x[1440:], verbose=0).argmax(-1) == y[1440:]
        print(f"{make.__name__:<22}{float(value):<7.2f}{right.mean():.2f}")


if __name__ == "__main__":
    main()
