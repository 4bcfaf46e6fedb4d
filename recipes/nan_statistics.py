"""Keep one bad batch out of the moving statistics, or repair them without retraining.

Symptom: "loss: 0.0950 - val_loss: nan"; `predict` returns NaN, or validation falls to
    chance within one epoch and stays there.
Cause: a NaN, an infinity, an overflow in float16 or an empty batch reached the moving
    statistics. An average never forgets a NaN, and a skipped step does not undo it.
Fix: `make_guarded_step`, which leaves such a batch out; `repair(model, batches)` after.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/nan_statistics.md, Phasebook 0.2.0
"""

import keras
import numpy as np
import tensorflow as tf


def make_guarded_step(model, optimizer, loss):
    """Return `train_step(x, y)`, giving the loss and whether the batch counted.

    A batch with which the loss or a moving statistic is not finite changes nothing but
    random seeds. Gradients that overflow alone are a loss-scaled optimizer's to skip.
    """

    @tf.function
    def train_step(x, y):
        kept = [(v, tf.identity(v)) for v in statistics(model)]
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) + sum(model.losses)
            scaled = optimizer.scale_loss(value)
        weights = model.trainable_variables
        gradients = tape.gradient(scaled, weights)
        counts = all_finite([value, *statistics(model)])
        if counts:
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        else:
            for variable, before in kept:
                variable.assign(before)
        return value, counts

    return train_step


def spoiled(model):
    """The paths of the model's variables that hold a NaN or an infinity."""
    values = {v.path: np.float32(v.numpy()) for v in model.variables}
    return [path for path, value in values.items() if not np.isfinite(value).all()]


def repair(model, batches):
    """Estimate all moving statistics anew from `batches` of inputs, finite ones.

    Each becomes the mean over the batches of what a batch has. Nothing else changes but
    random seeds. ValueError, before anything changes, when a weight or the statistics
    of a frozen layer are spoiled; with all as it was when the batches bring a NaN.
    """
    norms = batch_norms(model)
    frozen = [v for n in norms if not n.trainable for v in n.non_trainable_weights]
    stuck = {v.path for v in [*model.trainable_variables, *frozen]} & {*spoiled(model)}
    if stuck:
        raise ValueError(
            f"No pass over data repairs {sorted(stuck)}. Weights: go back to a "
            "checkpoint. Statistics of a frozen layer: set its `trainable` first."
        )
    momenta = [norm.momentum for norm in norms]
    kept = [(v, v.numpy()) for v in statistics(model)]
    try:
        for variable, value in kept:
            variable.assign(np.nan_to_num(value, posinf=0, neginf=0))  # 0 * NaN is NaN
        count = 0
        for count, x in enumerate(batches, 1):
            for norm in norms:
                norm.momentum = 1 - 1 / count  # the mean of those so far
            model(x, training=True)
        if not count or spoiled(model):
            raise ValueError(
                "Give finite batches, one at least: none, or a NaN in one."
            )
    except BaseException:
        for variable, value in kept:
            variable.assign(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def statistics(model):
    """The `tf.Variable`s of all moving means and variances."""
    norms = batch_norms(model)
    return [v.value for n in norms for v in (n.moving_mean, n.moving_variance)]


def batch_norms(model):
    layers = model._flatten_layers()  # public `layers` leaves out what lies deeper
    return [n for n in layers if isinstance(n, keras.layers.BatchNormalization)]


def all_finite(tensors):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])


def make_plain_step(model, optimizer, loss):
    def train_step(x, y):
        return model.train_on_batch(x, y), True

    model.compile(optimizer, loss)
    return train_step


def net():
    """Two dense layers with BatchNormalization: ten logits for 64 pixels."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(2):
        model.add(keras.layers.Dense(32, use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    return model


def main():
    """Train with one pixel at infinity: plainly, repaired afterwards, guarded."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    x = np.float32(x / 16)
    spoiled_x = x[:1440].copy()
    spoiled_x[700, 3] = np.inf

    def tell(name):
        logits = model.predict(x[1440:], verbose=0)
        right = np.mean(logits.argmax(-1) == y[1440:])
        print(
            f"{name:<14}{len(spoiled(model))} spoiled variables, accuracy {right:.2f}"
        )

    for make_step in make_plain_step, make_guarded_step:
        model = net()
        # Its step is skipped when gradients are not finite; the statistics are not.
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.003))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        step = make_step(model, optimizer, loss)
        for epoch in range(3):
            order = np.random.default_rng(epoch).permutation(1440).reshape(-1, 32)
            counted = [bool(step(spoiled_x[rows], y[rows])[1]) for rows in order]
        if make_step is make_plain_step:
            tell("plain step")
            repair(model, np.split(x[:1440], 45))
            tell("repaired")
        else:
            tell("guarded step")
    print(f"{counted.count(False)} of {len(counted)} batches left out in an epoch")


if __name__ == "__main__":
    main()
