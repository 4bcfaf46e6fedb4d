"""Accumulate gradients over micro-batches, and know what BatchNormalization sees.

Symptom: 8 micro-batches of 2 train worse than one batch of 16, or not at all.
Cause: gradients add up, statistics do not: BatchNormalization normalises each
    micro-batch by itself, and moves its statistics once for each.
Fix: `with_group_normalization(model)`, which looks at one sample at a time; else larger
    micro-batches, and `keep_time(model, parts)` for the moving statistics.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/small_batch_and_accumulation.md, Phasebook 0.2.0
"""

import math

import keras
import numpy as np
import tensorflow as tf


def make_accumulating_step(model, optimizer, loss, parts):
    """Return `train_step(x, y)`: one update from `parts` equal micro-batches.

    Without BatchNormalization and Dropout it is the step on the whole batch, whose
    size `parts` must divide. `loss` is a mean over samples. Gives the mean loss.
    """

    @tf.function
    def train_step(x, y):
        weights = model.trainable_variables
        total, mean = [tf.zeros_like(w) for w in weights], 0.0
        for some_x, some_y in zip(tf.split(x, parts), tf.split(y, parts), strict=True):
            with tf.GradientTape() as tape:
                value = loss(some_y, model(some_x, training=True)) + sum(model.losses)
                scaled = optimizer.scale_loss(value / parts)
            gradients = tape.gradient(scaled, weights)
            total = [t + g for t, g in zip(total, gradients, strict=True)]
            mean += value / parts
        optimizer.apply_gradients(zip(total, weights, strict=True))
        return mean

    return train_step


def keep_time(model, parts):
    """Give BatchNormalization the momentum m ** (1 / parts), once, before training.

    An update of the weights then moves the statistics as far as one whole batch would:
    m ** (1 / parts), `parts` times over, is m. Returns the layers' names.
    Raises ValueError, before anything changes, when there is none to change.
    """
    norms = batch_norms(model)
    if not norms:
        raise ValueError(f"{model.name!r} has no BatchNormalization: nothing to keep.")
    for layer in norms:
        layer.momentum **= 1 / parts
    return [layer.name for layer in norms]


def with_group_normalization(model, groups=8):
    """A copy of a built Functional or Sequential model without BatchNormalization.

    GroupNormalization stands in its place, in up to `groups` groups of channels; all
    other weights are the model's own. It has one phase and no moving statistics, so
    train it: pretrained weights expect the BatchNormalization that they had.
    """

    def swap(layer):
        if isinstance(layer, keras.Model):
            return with_group_normalization(layer, groups)
        if not isinstance(layer, keras.layers.BatchNormalization):
            return type(layer).from_config(layer.get_config())
        number = math.gcd(groups, layer.moving_mean.shape[0])
        return keras.layers.GroupNormalization(number, axis=layer.axis, name=layer.name)

    copy = keras.models.clone_model(model, clone_function=swap)
    for mine, theirs in zip(copy.layers, model.layers, strict=True):
        if not isinstance(theirs, (keras.layers.BatchNormalization, keras.Model)):
            mine.set_weights(theirs.get_weights())
    return copy


def batch_norms(model):
    layers = model._flatten_layers()  # public `layers` leaves out what lies deeper
    return [n for n in layers if isinstance(n, keras.layers.BatchNormalization)]


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
    """Train in updates of 16 samples, whole and in micro-batches of 2."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    x = np.float32(x / 16)
    print("normalisation  micro-batch  validation accuracy")
    for change in (lambda model: model, with_group_normalization):
        for parts in (1, 8):
            model = change(net())
            if batch_norms(model):
                keep_time(model, parts)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            optimizer = keras.optimizers.Adam(0.003)
            step = make_accumulating_step(model, optimizer, loss, parts)
            for epoch in range(4):
                order = np.random.default_rng(epoch).permutation(480)
                for rows in order.reshape(-1, 16):
                    step(x[rows], y[rows])
            right = model.predict(x[1440:], verbose=0).argmax(-1) == y[1440:]
            kind = "Batch" if batch_norms(model) else "Group"
            print(f"{kind:<15}{16 // parts:<13}{right.mean():.2f}")


if __name__ == "__main__":
    main()
