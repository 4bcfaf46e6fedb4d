"""One BatchNormalization, several inputs: siamese pairs, two domains, time steps.

Symptom: a siamese or two-domain model is good in training and poor in validation;
    `TimeDistributed(BatchNormalization())` has other statistics than the layer alone.
Cause: each call normalises its own input, and moves the statistics once. Inference
    uses a mixture, whose variance lacks what the inputs' means differ by.
Fix: `together`, one call on all inputs; or `DomainNormalization`, one for each kind.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/shared_and_siamese_batchnorm.md, Phasebook 0.2.0
"""

import keras
import numpy as np
import tensorflow as tf


def together(model, parts, training):
    """The outputs for each of `parts`, batches of one shape, from one call on all.

    In training all are normalised alike, as in inference, and the statistics move once.
    For siamese and contrastive pairs, and wherever the inputs are of one kind.
    """
    outputs = model(tf.concat(parts, axis=0), training=training)
    return tf.split(outputs, [tf.shape(part)[0] for part in parts])


def by_domain(model, parts, training):
    """The outputs for each of `parts`, one domain each, in the order of its number.

    The model takes `domain` in its `call` and has `DomainNormalization` inside.
    """
    return [
        model(part, domain=domain, training=training)
        for domain, part in enumerate(parts)
    ]


class DomainNormalization(keras.layers.Layer):
    """One BatchNormalization for each of `domains`, with statistics of its own.

    `domain`, a Python int, chooses it at the call. `options` are those of
    BatchNormalization. Raises ValueError at the call when there is no such domain.
    """

    def __init__(self, domains, options=None, **more):
        super().__init__(**more)
        self.options = dict(options or {})
        make = keras.layers.BatchNormalization
        self.norms = [make(**self.options) for _ in range(domains)]

    def build(self, shape):
        for norm in self.norms:
            norm.build(shape)

    def call(self, x, domain=0, training=None):
        if domain not in range(len(self.norms)):
            raise ValueError(
                f"There is no domain {domain!r}: 0 to {len(self.norms) - 1}."
            )
        return self.norms[domain](x, training=training)

    def get_config(self):
        config = {"domains": len(self.norms), "options": self.options}
        return {**super().get_config(), **config}


def make_step(model, optimizer, loss, call):
    """Return `train_step(parts, targets)`, lists of batches; it gives the summed loss.

    `call` is `together` or `by_domain`.
    """

    @tf.function
    def train_step(parts, targets):
        with tf.GradientTape() as tape:
            answers = call(model, parts, training=True)
            losses = [loss(y, a) for y, a in zip(targets, answers, strict=True)]
            value = sum(losses) + sum(model.losses)
            scaled = optimizer.scale_loss(value)
        weights = model.trainable_variables
        gradients = tape.gradient(scaled, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    return train_step


def apart(model, parts, training):
    """What siamese code usually does: one call for each."""
    return [model(part, training=training) for part in parts]


class Net(keras.Model):
    """Ten logits for 64 pixels, from one or several domains."""

    def __init__(self, domains=1):
        super().__init__()
        self.hidden = keras.layers.Dense(32, use_bias=False)
        self.norm = DomainNormalization(domains, {"momentum": 0.9})
        self.head = keras.layers.Dense(10)

    def build(self, shape):
        self.hidden.build(shape)
        self.norm.build((None, 32))
        self.head.build((None, 32))

    def call(self, x, domain=0, training=None):
        x = self.norm(self.hidden(x), domain=domain, training=training)
        return self.head(keras.ops.relu(x))


def main():
    """Scans, and the same washed out: one net for both, trained in three ways."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    scans = np.float32(x / 16)
    kinds = scans, 0.3 * scans + 2
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    print("call        accuracy on new scans, washed out")
    for call in apart, together, by_domain:
        keras.utils.set_random_seed(0)
        model = Net(domains=2 if call is by_domain else 1)
        model.build((None, 64))
        step = make_step(model, keras.optimizers.Adam(0.01), loss, call)
        for epoch in range(5):
            order = np.random.default_rng(epoch).permutation(1440)
            for rows in order.reshape(-1, 48):
                step([kind[rows] for kind in kinds], [y[rows]] * 2)
        answers = call(model, [kind[1440:] for kind in kinds], training=False)
        right = [np.mean(np.argmax(a, axis=-1) == y[1440:]) for a in answers]
        print(f"{call.__name__:<12}{right[0]:.2f}                  {right[1]:.2f}")


if __name__ == "__main__":
    main()
