"""A GAN in one `train_step`: two networks, two lists of variables, nothing frozen.

Symptom: the discriminator's loss is the same number at every step; "UserWarning: The
    model does not have any trainable weights."
Cause: Keras 3 reads `trainable` when a model is first trained, not when it was
    compiled, so "compile, freeze, compile the GAN" freezes the discriminator in both.
Fix: `GAN(generator, discriminator, noise_shape)`, then `compile` and `fit`.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/gan_two_networks.md, Phasebook 0.2.0
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf


class GAN(keras.Model):
    """Trains `generator` (noise to images) and `discriminator` (images to logits).

    Both run in the training phase throughout. Each moves its moving statistics in its
    own step alone. `penalty` weighs `gradient_penalty`. As a model of its own it maps
    noise to images, in the phase that it is told.
    """

    def __init__(self, generator, discriminator, noise_shape, penalty=0.0, **options):
        super().__init__(**options)
        self.generator, self.discriminator = generator, discriminator
        self.noise_shape, self.penalty = tuple(noise_shape), penalty
        self.seed = keras.random.SeedGenerator()
        self.loss_g = keras.metrics.Mean("loss_g")
        self.loss_d = keras.metrics.Mean("loss_d")
        self.built = True  # there is no weight beside those of the two

    def compile(self, optimizer_g, optimizer_d, **options):
        """Give each network its optimizer.

        Raises ValueError, before anything changes, when a network has no weights to
        train: it is frozen, or not built.
        """
        for network in (self.generator, self.discriminator):
            if not network.trainable_variables:
                raise ValueError(
                    f"{network.name!r} has no trainable weights. Build it, and leave "
                    "`trainable` alone: each optimizer gets the variables of its own."
                )
        super().compile(**options)
        self.optimizer_g, self.optimizer_d = optimizer_g, optimizer_d
        optimizer_g.build(self.generator.trainable_variables)
        optimizer_d.build(self.discriminator.trainable_variables)

    def call(self, noise, training=None):
        return self.generator(noise, training=training)

    def train_step(self, data):
        real, *_ = keras.utils.unpack_x_y_sample_weight(data)
        with statistics_kept(self.generator):  # the same fakes as in its own step
            fake = self.generator(self.noise(real), training=True)
        with tf.GradientTape() as tape:
            # Real and fake in calls of their own: each is normalised by itself.
            on_real = self.discriminator(real, training=True)
            on_fake = self.discriminator(fake, training=True)
            loss_d = cross_entropy(1, on_real) + cross_entropy(0, on_fake)
            if self.penalty:
                loss_d += self.penalty * gradient_penalty(self.discriminator, real)
            scaled = self.optimizer_d.scale_loss(loss_d)
        weights = self.discriminator.trainable_variables
        gradients = tape.gradient(scaled, weights)
        self.optimizer_d.apply_gradients(zip(gradients, weights, strict=True))

        with tf.GradientTape() as tape:
            fake = self.generator(self.noise(real), training=True)
            with statistics_kept(self.discriminator):  # judged as in its own step
                judged = self.discriminator(fake, training=True)
            loss_g = cross_entropy(1, judged)
            scaled = self.optimizer_g.scale_loss(loss_g)
        weights = self.generator.trainable_variables
        gradients = tape.gradient(scaled, weights)
        self.optimizer_g.apply_gradients(zip(gradients, weights, strict=True))

        self.loss_g.update_state(loss_g)
        self.loss_d.update_state(loss_d)
        return {"loss_g": self.loss_g.result(), "loss_d": self.loss_d.result()}

    @property
    def metrics(self):
        return [self.loss_g, self.loss_d]  # `fit` resets them before each epoch

    def noise(self, images):
        shape = tf.shape(images)[0], *self.noise_shape
        return keras.random.normal(shape, seed=self.seed)


@contextlib.contextmanager
def statistics_kept(model):
    """Whatever a built model runs inside, its moving statistics end as they began.

    In eager code and in a `tf.function`. The seeds of its dropout go on.
    """
    kept = [(w, tf.identity(w.value)) for w in model.non_trainable_weights]
    yield
    for weight, value in kept:
        weight.assign(value)


def gradient_penalty(discriminator, images):
    """Mean over images of the squared gradient of the logit, a scalar.

    R1 of arXiv:1801.04406. In inference: in training the other images of the batch act
    on an image's logit, and what all share cancels in the gradient of their sum.
    """
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = discriminator(images, training=False)
    gradient = tf.reshape(tape.gradient(logits, images), (tf.shape(images)[0], -1))
    return tf.reduce_mean(tf.reduce_sum(gradient**2, axis=1))


def cross_entropy(label, logits):
    labels = tf.fill(tf.shape(logits), tf.cast(label, logits.dtype))
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(tf.cast(losses, "float32"))


def networks():
    layers = keras.layers
    generator = [keras.Input((16,)), layers.Dense(64, use_bias=False)]
    generator += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    generator += [layers.Dense(64, activation="sigmoid")]
    # None on the images: it would take away the mean that tells fakes from scans.
    discriminator = [keras.Input((64,)), layers.Dense(64), layers.LeakyReLU()]
    discriminator += [layers.Dense(64, use_bias=False)]
    discriminator += [layers.BatchNormalization(momentum=0.9), layers.LeakyReLU()]
    discriminator += [layers.Dense(1)]
    return keras.Sequential(generator), keras.Sequential(discriminator)


def frozen_and_compiled(generator, discriminator, images):
    """The way of many books, as it runs on Keras 3."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    discriminator.compile(keras.optimizers.Adam(3e-3, 0.5), loss)
    discriminator.trainable = False
    gan = keras.Sequential([generator, discriminator])
    gan.compile(keras.optimizers.Adam(3e-3, 0.5), loss)
    ones, zeros = np.ones((64, 1)), np.zeros((64, 1))
    for batch in images[: len(images) // 64 * 64].reshape(-1, 64, 64):
        noise = np.random.normal(size=(64, 16))
        fake = generator.predict_on_batch(noise)
        discriminator.train_on_batch(batch, ones)
        discriminator.train_on_batch(fake, zeros)
        gan.train_on_batch(noise, ones)


def two_lists(generator, discriminator, images):
    gan = GAN(generator, discriminator, (16,))
    gan.compile(keras.optimizers.Adam(3e-3, 0.5), keras.optimizers.Adam(3e-3, 0.5))
    gan.fit(images, batch_size=64, verbose=0)


def main():
    """Train the same two networks in both ways: which of them learn?"""
    from sklearn.datasets import load_digits  # scans that come with the package

    images = np.tile(load_digits().data / 16, (6, 1)).astype("float32")
    for way in (frozen_and_compiled, two_lists):
        keras.utils.set_random_seed(0)
        generator, discriminator = networks()
        before = discriminator.layers[0].kernel.numpy()
        way(generator, discriminator, images)
        learned = np.any(discriminator.layers[0].kernel.numpy() != before)
        fakes = generator.predict(np.random.normal(size=(1000, 16)), verbose=0)
        off = np.abs(fakes.mean(0) - images.mean(0)).mean()
        what = "learned," if learned else "as it began,"
        print(f"{way.__name__:<20} discriminator {what:<13} fakes off by {off:.2f}")


if __name__ == "__main__":
    main()
