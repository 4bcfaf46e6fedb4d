"""Dropout in recurrent and attention layers that is on in training, and how to see it.

Symptom: a loop of one's own overfits although the layers have dropout; `dropout` and
    `recurrent_dropout` change nothing; no warning, and no variable that could tell.
Cause: `model(x)` in a loop is inference, and so is a sublayer that nobody tells the
    phase. Nothing moves, as BatchNormalization would: dropout leaves no trace.
Fix: `training=True` in the step, a block that hands it on; `drops(model, x)` looks.
Holds on: Keras 3.0 to 3.16.dev; 3.0 and 3.1 ignore `recurrent_dropout`.
More: docs/recipes/recurrent_and_attention_dropout.md, Phasebook 0.2.0
"""

import keras
import numpy as np
import tensorflow as tf


class Block(keras.layers.Layer):
    """A transformer block: (batch, time, width) to the same shape.

    `call` hands `training` to every sublayer that has two phases: the attention's own
    dropout and the two after it.
    """

    def __init__(self, heads, width, rate=0.1, **options):
        super().__init__(**options)
        layers = keras.layers
        self.settings = {"heads": heads, "width": width, "rate": rate}
        self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=rate)
        self.mlp = [layers.Dense(4 * width, "gelu"), layers.Dense(width)]
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.drops = [layers.Dropout(rate), layers.Dropout(rate)]

    def build(self, shape):
        self.attention.build(shape, shape)
        self.mlp[0].build(shape)
        self.mlp[1].build((*shape[:-1], 4 * self.settings["width"]))
        for norm in self.norms:
            norm.build(shape)

    def call(self, x, training=None):
        normed = self.norms[0](x)
        mixed = self.attention(normed, normed, training=training)
        x = x + self.drops[0](mixed, training=training)
        hidden = self.mlp[1](self.mlp[0](self.norms[1](x)))
        return x + self.drops[1](hidden, training=training)

    def get_config(self):
        return {**super().get_config(), **self.settings}


def make_steps(model, optimizer, loss):
    """Return `train_step(x, y)`, which trains, and `test_step(x, y)`: both the loss."""

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) + sum(model.losses)
            scaled = optimizer.scale_loss(value)
        weights = model.trainable_variables
        gradients = tape.gradient(scaled, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    @tf.function
    def test_step(x, y):
        return loss(y, model(x, training=False))

    return train_step, test_step


def drops(model, x):
    """Whether two calls on one batch differ: in training, and in inference.

    (True, False) is right for a model with dropout. (False, False): the rate is 0, or
    a layer on the way does not hand the phase on.
    """

    def differ(training):
        one, other = (np.asarray(model(x, training=training)) for _ in range(2))
        return bool(np.abs(one - other).max() > 1e-3 * np.abs(one).max())  # not noise

    return differ(True), differ(False)


def step_drops(step, x, y):
    """Whether a train step has dropout on: whether its losses on one batch differ.

    Make `step` with an optimizer of learning rate 0, such as `SGD(0.0)`: then nothing
    but dropout can make two steps differ. Statistics move all the same.
    """
    losses = [float(step(x, y)) for _ in range(4)]
    return max(losses) - min(losses) > 1e-4 * abs(losses[0])


class Untold:
    """Calls a model as a loop does that forgets the phase."""

    losses = ()

    def __init__(self, model):
        self.model, self.trainable_variables = model, model.trainable_variables

    def __call__(self, x, training):
        return self.model(x)


def net(rate):
    """A recurrent layer over the rows of an image (8, 8), and a block: ten logits."""
    keras.utils.set_random_seed(0)
    both = {"dropout": rate, "recurrent_dropout": rate}
    body = [keras.layers.LSTM(32, return_sequences=True, **both), Block(2, 32, rate)]
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8)), *body, *head])


def main():
    """Train on 100 images in the loop that forgets the phase, and in this one."""
    from sklearn.datasets import load_digits  # scans that come with the package

    digits = load_digits()
    x, y = np.float32(digits.images / 16), digits.target
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    print("drops in training, in inference:", *drops(net(0.3), x[:32]))
    print(f"{'call in the train step':<24}loss   validation loss")
    for told in False, True:
        model, optimizer = net(0.3), keras.optimizers.Adam(0.01)
        train_step, test_step = make_steps(model, optimizer, loss)
        if not told:
            train_step, _ = make_steps(Untold(model), optimizer, loss)
        for _ in range(120):
            train_step(x[:100], y[:100])
        call = "model(x, training=True)" if told else "model(x)"
        seen, new = test_step(x[:100], y[:100]), test_step(x[900:], y[900:])
        print(f"{call:<24}{float(seen):<7.2f}{float(new):.2f}")


if __name__ == "__main__":
    main()
