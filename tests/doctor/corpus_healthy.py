"""Models, steps and artifacts with nothing wrong, from as many corners as broken ones come from."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from cases import (
    FLAT,
    IMAGES,
    LABELS,
    LOGITS,
    Case,
    L,
    X,
    Y,
    conv_block,
    make_step,
    registry,
    settle,
    small_cnn,
    small_mlp,
    write_lite,
)
from monte_carlo_dropout import to_monte_carlo

CASES, case = registry()


# -- by API style -----------------------------------------------------------------------------------------------------


@case
def fresh_functional_cnn() -> Case:
    return Case(small_cnn(), X, Y)


@case
def trained_sequential_with_dropout() -> Case:
    model = small_mlp(momentum=0.8)
    model.compile(keras.optimizers.Adam(3e-3), LOGITS)
    model.fit(IMAGES[:640].reshape(-1, 64), LABELS[:640], batch_size=32, epochs=4, verbose=0)
    return Case(model, FLAT, Y)


class Block(L.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = L.Conv2D(filters, 3, padding="same"), L.BatchNormalization(momentum=0.9)

    def call(self, x, training=None):
        return tf.nn.relu(self.norm(self.conv(x), training=training))


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two, self.pool = Block(6), Block(8), L.GlobalAveragePooling2D()
        self.drop, self.head = L.Dropout(0.3), L.Dense(10)

    def call(self, x, training=None):
        x = self.pool(self.two(self.one(x, training=training), training=training))
        return self.head(self.drop(x, training=training))


@case
def subclass_with_blocks_and_a_step() -> Case:
    model = settle(Subclassed(), X)
    return Case(model, X, Y, {"train_step": make_step(model)})


@case
def unbuilt_subclass() -> Case:
    return Case(Subclassed(name="later"), X, Y)


@case
def unbuilt_sequential() -> Case:
    return Case(keras.Sequential([L.Dense(8), L.BatchNormalization(), L.Dense(2)]), FLAT)


@case
def nested_three_deep() -> Case:
    inner = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.BatchNormalization(momentum=0.9)], name="inner")
    middle_in = keras.Input((8, 8, 1))
    middle = keras.Model(middle_in, L.Flatten()(inner(middle_in)), name="middle")
    inputs = keras.Input((8, 8, 1))
    return Case(settle(keras.Model(inputs, L.Dense(10)(middle(inputs))), X), X, Y)


@case
def several_inputs_and_outputs() -> Case:
    image, side = keras.Input((8, 8, 1), name="image"), keras.Input((3,), name="side")
    x = L.GlobalAveragePooling2D()(conv_block(image, 6, "one"))
    x = L.Concatenate()([x, L.Dense(4)(side)])
    model = keras.Model([image, side], [L.Dense(10, name="digit")(x), L.Dense(1, name="ink")(x)])
    x = (X, np.random.default_rng(0).normal(size=(32, 3)).astype("float32"))
    return Case(settle(model, x), x)


@case
def dict_in_dict_out() -> Case:
    class Ranker(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.dense, self.norm = L.Embedding(30, 6), L.Dense(6), L.BatchNormalization(momentum=0.9)

        def call(self, inputs, training=None):
            v = tf.concat([self.embed(inputs["id"]), self.dense(inputs["features"])], -1)
            v = self.norm(v, training=training)
            return {"score": tf.reduce_sum(v, -1), "vector": v}

    x = {"id": np.arange(32) % 30, "features": FLAT}
    return Case(settle(Ranker(), x), x)


@case
def wrapper_that_fixes_inference_for_its_backbone() -> Case:
    """The documented cure for the recorded phase: a `call` that decides."""
    base = settle(small_cnn("backbone", outputs=8), X)

    class Tuner(keras.Model):
        def __init__(self):
            super().__init__()
            self.base, self.drop, self.head = base, L.Dropout(0.3), L.Dense(10)

        def call(self, x, training=None):
            return self.head(self.drop(self.base(x, training=False), training=training))

    model = Tuner()
    model(X)
    return Case(model, X, Y, {"train_step": make_step(model)})


@case
def feature_extractor_without_a_phase() -> Case:
    """`call` takes no phase because it decides all of it itself."""
    base = settle(small_cnn("backbone", outputs=8), X)

    class Extractor(keras.Model):
        def __init__(self):
            super().__init__()
            self.base = base

        def call(self, x):
            return tf.math.l2_normalize(self.base(x, training=False), axis=-1)

    return Case(Extractor(), X)


@case
def subclass_without_phase_dependent_layers() -> Case:
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.dense = L.LayerNormalization(), L.Dense(4)

        def call(self, x):
            return self.dense(self.norm(x))

    return Case(Plain(), FLAT)


# -- by architecture --------------------------------------------------------------------------------------------------


def encoder_block(x, heads=2, dim=8, dropout=0.2):
    a = L.MultiHeadAttention(heads, dim, dropout=dropout)(x, x)
    x = L.LayerNormalization()(x + L.Dropout(dropout)(a))
    f = L.Dense(dim)(L.Dense(16, activation="gelu")(x))
    return L.LayerNormalization()(x + L.Dropout(dropout)(f))


@case
def transformer_classifier() -> Case:
    inputs = keras.Input((8, 8))
    x = encoder_block(encoder_block(inputs))
    model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling1D()(x)))
    return Case(model, X[..., 0], Y, {"train_step": make_step(model)})


@case
def causal_language_model_with_masked_embedding() -> Case:
    tokens = keras.Input((None,), dtype="int32")
    x = L.Embedding(40, 8, mask_zero=True)(tokens)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True))
    model = keras.Model(tokens, L.Dense(40)(x))
    ids = np.random.default_rng(0).integers(1, 40, (16, 9))
    ids[:, 6:] = 0
    return Case(model, ids)


@case
def lstm_with_both_dropouts() -> Case:
    inputs = keras.Input((8, 8))
    x = L.LSTM(8, dropout=0.2, recurrent_dropout=0.1, return_sequences=True)(inputs)
    model = keras.Model(inputs, L.Dense(10)(L.GRU(6, dropout=0.2)(x)))
    return Case(model, X[..., 0], Y, {"train_step": make_step(model)})


@case
def stateful_rnn() -> Case:
    inputs = keras.Input(batch_shape=(32, 8, 8))
    return Case(keras.Model(inputs, L.Dense(3)(L.GRU(5, stateful=True)(inputs))), X[..., 0])


@case
def bidirectional_with_batchnorm() -> Case:
    inputs = keras.Input((8, 8))
    x = L.Bidirectional(L.GRU(6, return_sequences=True, dropout=0.1))(inputs)
    x = L.BatchNormalization(momentum=0.9)(x)
    model = keras.Model(inputs, L.Dense(10)(L.GlobalMaxPooling1D()(x)))
    return Case(settle(model, X[..., 0]), X[..., 0], Y)


@case
def masked_sequence_with_batchnorm() -> Case:
    inputs = keras.Input((8, 8))
    x = L.BatchNormalization(momentum=0.9)(L.Masking()(inputs))
    model = keras.Model(inputs, L.Dense(10)(L.LSTM(6)(x)))
    x = X[..., 0].copy()
    x[:, 5:] = 0
    return Case(settle(model, x), x, Y)


@case
def conv_lstm_with_batchnorm() -> Case:
    inputs = keras.Input((3, 8, 8, 1))
    x = L.BatchNormalization(momentum=0.9)(L.ConvLSTM2D(4, 3)(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    clips = np.stack([IMAGES[i : i + 3] for i in range(16)])
    return Case(settle(model, clips), clips)


@case
def time_distributed_encoder_without_batchnorm() -> Case:
    frame = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.LayerNormalization(), L.Flatten()])
    inputs = keras.Input((3, 8, 8, 1))
    x = L.TimeDistributed(frame)(inputs)
    clips = np.stack([IMAGES[i : i + 3] for i in range(16)])
    return Case(keras.Model(inputs, L.Dense(10)(L.GRU(6)(x))), clips)


@case
def unet_for_segmentation() -> Case:
    inputs = keras.Input((8, 8, 1))
    a = conv_block(inputs, 6, "down1")
    b = conv_block(L.MaxPooling2D()(a), 8, "down2")
    c = L.Conv2DTranspose(6, 2, strides=2)(b)
    c = conv_block(L.Concatenate()([a, c]), 6, "up1")
    model = settle(keras.Model(inputs, L.Conv2D(1, 1, activation="sigmoid")(c)), X)
    masks = (X > 0.5).astype("float32")
    bce = keras.losses.BinaryCrossentropy()
    return Case(model, X, masks, {"train_step": make_step(model, bce), "loss": bce})


@case
def residual_net_with_zero_gamma() -> Case:
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, padding="same")(inputs)
    for _ in range(2):
        h = L.Conv2D(8, 3, padding="same")(L.ReLU()(L.BatchNormalization(momentum=0.9)(x)))
        x = L.Add()([x, L.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(h)])
    model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))
    return Case(settle(model, X), X, Y)


@case
def depthwise_net_after_real_training() -> Case:
    inputs = keras.Input((8, 8, 1))
    x = conv_block(inputs, 8, "stem", momentum=0.8)
    x = L.ReLU(6.0)(L.BatchNormalization(momentum=0.8)(L.DepthwiseConv2D(3, padding="same")(x)))
    model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.Adam(2e-3), LOGITS, metrics=["accuracy"])
    model.fit(IMAGES[:960], LABELS[:960], batch_size=32, epochs=3, verbose=0)
    return Case(model, IMAGES[1200:1232], LABELS[1200:1232])


@case
def group_and_layer_normalisation_only() -> Case:
    inputs = keras.Input((8, 8, 1))
    x = L.GroupNormalization(4)(L.Conv2D(8, 3)(inputs))
    x = L.LayerNormalization()(L.Conv2D(8, 3, activation="relu")(x))
    model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))
    return Case(model, X, Y, {"train_step": make_step(model)})


@case
def siamese_with_a_shared_encoder_in_one_call() -> Case:
    encoder = small_cnn("encoder", outputs=6)
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    distance = L.Lambda(lambda t: tf.norm(t[0] - t[1], axis=-1, keepdims=True))([encoder(a), encoder(b)])
    model = keras.Model([a, b], distance)
    x = (X, IMAGES[32:64])
    return Case(settle(model, x), x)


@case
def siamese_step_on_concatenated_branches() -> Case:
    encoder = settle(small_cnn("encoder", outputs=6), X)
    optimizer = keras.optimizers.Adam()

    @tf.function
    def step(x):
        pairs = tf.concat([x, 1.0 - x], axis=0)
        with tf.GradientTape() as tape:
            one, two = tf.split(encoder(pairs, training=True), 2)
            value = tf.reduce_mean((one - two) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(value, encoder.trainable_variables), encoder.trainable_variables, strict=False)
        )
        return value

    return Case(encoder, X, None, {"train_step": step})


@case
def contrastive_model_with_a_similarity_matrix() -> Case:
    a, b = keras.Input((64,)), keras.Input((64,))
    unit = L.UnitNormalization()
    similarity = L.Lambda(lambda t: tf.matmul(t[0], t[1], transpose_b=True))([unit(L.Dense(8)(a)), unit(L.Dense(8)(b))])
    return Case(keras.Model([a, b], similarity), (FLAT, FLAT[::-1].copy()))


@case
def candidates_that_compete_in_one_batch() -> Case:
    """Batch mates are mixed on purpose, and `allow` says so."""
    inputs = keras.Input((64,))
    score = L.Dense(1)(L.Dense(16, "relu")(inputs))
    share = L.Lambda(lambda t: tf.nn.softmax(t, axis=0), name="share")(score)
    return Case(keras.Model(inputs, share), FLAT, options={"allow": "PD304"})


@case
def denoising_autoencoder() -> Case:
    inputs = keras.Input((64,))
    x = L.Dense(16, activation="relu")(L.GaussianNoise(0.2)(inputs))
    x = L.BatchNormalization(momentum=0.9)(x)
    model = settle(keras.Model(inputs, L.Dense(64)(x)), FLAT)
    return Case(model, FLAT, FLAT, {"train_step": make_step(model, keras.losses.MeanSquaredError())})


@case
def stochastic_depth() -> Case:
    class DropPath(L.Layer):
        def __init__(self, rate, **kwargs):
            super().__init__(**kwargs)
            self.rate, self.seeds = rate, keras.random.SeedGenerator(1)

        def call(self, x, training=None):
            if not training:
                return x
            keep = 1 - self.rate
            drawn = keras.random.uniform((tf.shape(x)[0],) + (1,) * (len(x.shape) - 1), seed=self.seeds)
            return x * tf.floor(keep + drawn) / keep

    inputs = keras.Input((8, 8, 1))
    x = conv_block(inputs, 8, "stem")
    x = L.Add()([x, DropPath(0.2)(conv_block(x, 8, "branch"))])
    model = settle(keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x))), X)
    return Case(model, X, Y, {"train_step": make_step(model)})


@case
def mixture_of_experts() -> Case:
    inputs = keras.Input((64,))
    gate = L.Dense(3, activation="softmax")(inputs)
    experts = L.Lambda(lambda t: tf.stack(t, axis=1))([L.Dense(8, activation="relu")(inputs) for _ in range(3)])
    mixed = L.Lambda(lambda t: tf.einsum("be,beh->bh", t[0], t[1]))([gate, experts])
    return Case(keras.Model(inputs, L.Dense(10)(L.Dropout(0.2)(mixed))), FLAT, Y)


@case
def channels_first_axis() -> Case:
    inputs = keras.Input((4, 16))
    x = L.BatchNormalization(axis=1, momentum=0.9)(L.Dense(12)(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    x = FLAT.reshape(32, 4, 16)
    return Case(settle(model, x), x)


@case
def adapted_normalization_and_rescaling() -> Case:
    front = L.Normalization()
    front.adapt(FLAT)
    inputs = keras.Input((64,))
    x = L.Dense(12)(L.Rescaling(2.0)(front(inputs)))
    model = settle(keras.Model(inputs, L.Dense(1)(L.BatchNormalization(momentum=0.9)(x))), FLAT)
    return Case(model, FLAT)


@case
def strings_to_tokens_inside_the_model() -> Case:
    texts = np.array(["the cat sat", "a dog ran far", "the dog sat", "one cat"] * 4)
    vectorize = L.TextVectorization(max_tokens=20, output_sequence_length=5)
    vectorize.adapt(texts)
    model = keras.Sequential(
        [keras.Input((), dtype="string"), vectorize, L.Embedding(20, 6), L.GlobalAveragePooling1D()]
    )
    model.add(L.Dropout(0.2))
    model.add(L.Dense(2))
    return Case(model, tf.constant(texts))


@case
def argmax_output() -> Case:
    base = settle(small_cnn(), X)
    inputs = keras.Input((8, 8, 1))
    return Case(keras.Model(inputs, L.Lambda(lambda t: tf.argmax(t, -1))(base(inputs))), X)


@case
def dead_channels_with_exact_zero_variance() -> Case:
    """Recalibrated statistics of a channel that is constant in the data are zero, and right."""
    model = keras.Sequential([keras.Input((64,)), L.BatchNormalization(name="pixels"), L.Dense(10)])
    norm = model.get_layer("pixels")
    norm.moving_mean.assign(FLAT.mean(0))
    norm.moving_variance.assign(FLAT.var(0))
    return Case(model, FLAT, Y)


# -- generative, on purpose stochastic --------------------------------------------------------------------------------


class VAE(keras.Model):
    def __init__(self, latent=4, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential([L.Dense(16, "relu"), L.Dense(2 * latent)])
        self.decoder = keras.Sequential([L.Dense(16, "relu"), L.Dense(64, "sigmoid")])
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x, training=None):
        mean, log_var = tf.split(self.encoder(x), 2, axis=-1)
        z = mean + tf.exp(0.5 * log_var) * keras.random.normal(tf.shape(mean), seed=self.seeds)
        self.add_loss(-0.5 * tf.reduce_mean(1 + log_var - mean**2 - tf.exp(log_var)))
        return self.decoder(z)


@case
def vae_allowed_to_sample() -> Case:
    return Case(VAE(), FLAT, FLAT, {"allow": ("PD305",)})


@case
def vae_with_stateful_noise_in_its_step() -> Case:
    encoder = keras.Sequential([keras.Input((64,)), L.Dense(12), L.BatchNormalization(momentum=0.9), L.Dense(8)])
    decoder = keras.Sequential([keras.Input((4,)), L.Dense(64)])
    settle(encoder, FLAT)
    optimizer = keras.optimizers.Adam()

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            mean, log_var = tf.split(encoder(x, training=True), 2, axis=-1)
            z = mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
            value = tf.reduce_mean((decoder(z, training=True) - x) ** 2)
        weights = encoder.trainable_variables + decoder.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))

    return Case(encoder, FLAT, None, {"train_step": step})


@case
def monte_carlo_dropout_on_purpose() -> Case:
    class AlwaysOn(L.Dropout):
        def call(self, x, training=None):
            return super().call(x, training=True)

    model = keras.Sequential([keras.Input((64,)), L.Dense(16, "relu"), AlwaysOn(0.3), L.Dense(10)])
    return Case(model, FLAT, Y, {"allow": ("PD305", "PD304")})


@case
def monte_carlo_dropout_that_tells_nobody() -> Case:  # a batch normalisation behind it goes by the model's phase
    class AlwaysOn(L.Dropout):
        def call(self, x, training=None):
            return super().call(x, training=True)

    layers = [L.Dense(16, "relu"), AlwaysOn(0.3), L.BatchNormalization(), L.Dense(10)]
    model = settle(keras.Sequential([keras.Input((64,)), *layers]), FLAT)
    return Case(model, FLAT, Y, {"allow": ("PD305", "PD304")})


@case
def recorded_true_converted_to_monte_carlo() -> Case:  # what the recipe gives keeps the record; its layer obeys nobody
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, activation="relu")(inputs)
    x = L.SpatialDropout2D(0.3, name="maps")(x, training=True)
    x = L.Dropout(0.4)(L.Flatten()(x), training=True)
    return Case(to_monte_carlo(keras.Model(inputs, L.Dense(10)(x))), X, Y, {"allow": ("PD305",)})


def gan_parts():
    generator = keras.Sequential(
        [
            keras.Input((6,)),
            L.Dense(32),
            L.BatchNormalization(momentum=0.8),
            L.ReLU(),
            L.Dense(64),
            L.Reshape((8, 8, 1)),
        ],
        name="generator",
    )
    critic = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(8, 3),
            L.BatchNormalization(momentum=0.8),
            L.LeakyReLU(),
            L.Flatten(),
            L.Dense(1),
        ],
        name="critic",
    )
    return generator, critic


@case
def gan_step_with_one_pass_for_real_and_fake() -> Case:
    generator, critic = gan_parts()
    noise = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    settle(generator, noise)
    settle(critic, X)
    g_opt, c_opt = keras.optimizers.Adam(), keras.optimizers.Adam()

    @tf.function
    def step(z, real):
        with tf.GradientTape() as g_tape:
            fake = generator(z, training=True)
            g_loss = -tf.reduce_mean(critic(fake, training=False))
        with tf.GradientTape() as c_tape:
            scores = critic(tf.concat([real, tf.stop_gradient(fake)], 0), training=True)
            c_loss = tf.reduce_mean(scores[32:]) - tf.reduce_mean(scores[:32])
        g_opt.apply_gradients(
            zip(g_tape.gradient(g_loss, generator.trainable_variables), generator.trainable_variables, strict=False)
        )
        c_opt.apply_gradients(
            zip(c_tape.gradient(c_loss, critic.trainable_variables), critic.trainable_variables, strict=False)
        )

    return Case(generator, noise, X, {"train_step": step})


@case
def gan_model_with_its_own_train_step_and_no_call() -> Case:
    generator, critic = gan_parts()

    class GAN(keras.Model):
        def __init__(self):
            super().__init__(name="gan")
            self.generator, self.critic = generator, critic
            self.seeds = keras.random.SeedGenerator(2)

        def compile(self, g_opt, c_opt):
            super().compile()
            self.g_opt, self.c_opt = g_opt, c_opt

        def train_step(self, real):
            z = keras.random.normal((tf.shape(real)[0], 6), seed=self.seeds)
            with tf.GradientTape() as c_tape:
                both = tf.concat([real, self.generator(z, training=False)], 0)
                scores = self.critic(both, training=True)
                half = tf.shape(real)[0]
                c_loss = tf.reduce_mean(scores[half:]) - tf.reduce_mean(scores[:half])
            weights = self.critic.trainable_variables
            self.c_opt.apply_gradients(zip(c_tape.gradient(c_loss, weights), weights, strict=True))
            with tf.GradientTape() as g_tape:
                g_loss = -tf.reduce_mean(self.critic(self.generator(z, training=True), training=False))
            weights = self.generator.trainable_variables
            self.g_opt.apply_gradients(zip(g_tape.gradient(g_loss, weights), weights, strict=True))
            return {"c_loss": c_loss, "g_loss": g_loss}

    model = GAN()
    model.compile(keras.optimizers.Adam(), keras.optimizers.Adam())
    return Case(model, X)


@case
def gan_trained_in_turn() -> Case:  # compiled alone, thawed for its own step, frozen for the generator's
    generator, critic = gan_parts()
    critic.compile("adam", "binary_crossentropy")
    critic.trainable = False
    noise = keras.Input((6,))
    gan = keras.Model(noise, critic(generator(noise)))
    gan.compile("adam", "binary_crossentropy")
    for _ in range(2):
        critic.trainable = True
        critic.train_on_batch(X, np.ones((32, 1)))
        critic.trainable = False
        gan.train_on_batch(np.random.default_rng(0).normal(size=(32, 6)), np.ones((32, 1)))
    return Case(settle(critic, X), X, np.ones((32, 1)))


@case
def critic_with_spectral_normalisation() -> Case:
    critic = keras.Sequential(
        [keras.Input((8, 8, 1)), L.SpectralNormalization(L.Conv2D(6, 3)), L.LeakyReLU(), L.Flatten(), L.Dense(1)]
    )
    for _ in range(20):
        critic(X, training=True)
    return Case(critic, X)


# -- frozen -----------------------------------------------------------------------------------------------------------


@case
def frozen_backbone_in_two_stages() -> Case:
    base = settle(small_cnn("backbone", outputs=8), X)
    base.trainable = False
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(10)(L.Dropout(0.2)(base(inputs))))
    model.compile("adam", LOGITS)
    model.fit(X, Y, verbose=0)
    return Case(model, X, Y)


@case
def recorded_false_with_nothing_behind_that_heeds_a_phase() -> Case:
    base = settle(small_cnn("backbone", outputs=8), X)
    base.trainable = False
    inputs = keras.Input((8, 8, 1))
    h = L.LayerNormalization()(L.ReLU()(base(inputs, training=False)))
    return Case(keras.Model(inputs, L.Dense(10)(h)), X, Y)


@case
def phase_given_back_behind_the_backbone() -> Case:
    """A wrapper states inference inside, and then the phase that came in: right on 3.15 and on 3.16."""

    class InPhase(L.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.give_back = inner, L.Dropout(0)

        def call(self, x, training=None):
            return self.give_back(self.inner(x, training=False), training=bool(training))

    base = settle(small_cnn("backbone", outputs=8), X)
    inputs = keras.Input((8, 8, 1))
    h = L.Dropout(0.2)(L.BatchNormalization()(InPhase(base)(inputs)))
    return Case(settle(keras.Model(inputs, L.Dense(10)(h)), X), X, Y)


@case
def fine_tuning_with_each_batchnorm_frozen() -> Case:
    base = settle(small_cnn("backbone", outputs=8), X)
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(10)])
    for layer in base.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.trainable = False
    return Case(model, X, Y, {"train_step": make_step(model)})


@case
def unfrozen_and_compiled_again() -> Case:
    base = settle(small_cnn("backbone", outputs=8), X)
    base.trainable = False
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(10)])
    model.compile("adam", LOGITS)
    model.fit(X, Y, verbose=0)
    base.trainable = True
    model.compile("adam", LOGITS)
    return Case(model, X, Y)


@case
def teacher_averaged_by_the_step() -> Case:
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = small_mlp("student"), small_mlp("teacher")
            self.teacher.trainable = False

        def call(self, x, training=None):
            return self.student(x, training=training)

    model = settle(Distiller(), FLAT)
    settle(model.teacher, FLAT)
    optimizer = keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        weights = model.student.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        for slow, fast in zip(model.teacher.weights, model.student.weights, strict=True):
            if slow.dtype == "float32":
                slow.assign(0.99 * slow + 0.01 * fast)

    return Case(model, FLAT, Y, {"train_step": step})


# -- steps ------------------------------------------------------------------------------------------------------------


@case
def teacher_inside_a_model_that_was_fitted() -> Case:
    class MeanTeacher(keras.Model):
        def __init__(self):
            super().__init__(name="mean_teacher")
            self.student, self.teacher = small_mlp("student"), small_mlp("teacher")
            self.teacher.trainable = False

        def call(self, x, training=None):
            return self.student(x, training=training)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                value = LOGITS(y, self.student(x, training=True))
            gradients = tape.gradient(value, self.student.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.student.trainable_variables, strict=True))
            for mine, own in zip(self.teacher.weights, self.student.weights, strict=True):
                mine.assign(tf.cast(0.9 * tf.cast(mine, tf.float32) + 0.1 * tf.cast(own, tf.float32), mine.dtype))
            return {"loss": value}

    model = MeanTeacher()
    settle(model.student, FLAT)
    model.compile("adam")
    model.fit(FLAT, Y, verbose=0)
    return Case(model, FLAT, Y)


@case
def distillation_with_the_students_variables() -> Case:  # keras-team/keras-io#242: the teacher is no part of it
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__(name="distiller")
            self.student, self.teacher = small_mlp("student", dropout=0.0), settle(small_mlp("teacher"), FLAT)

        def call(self, x, training=None):
            return self.student(x, training=training)

        def train_step(self, data):
            x, y = data
            soft = tf.nn.softmax(self.teacher(x, training=False))
            with tf.GradientTape() as tape:
                answer = self.student(x, training=True)
                value = LOGITS(y, answer) + tf.reduce_mean((tf.nn.softmax(answer) - soft) ** 2)
            weights = self.student.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
            return {"loss": value}

    model = Distiller()
    settle(model.student, FLAT)
    model.compile(keras.optimizers.SGD(1e-3))
    model.fit(FLAT, Y, verbose=0)
    return Case(model, FLAT, Y)


def headed(center):
    """A flat model with a new head, whose loop trains the head alone, and a model of the same layers."""
    inputs = keras.Input((64,))
    options = {"center": center, "scale": center}
    x = L.BatchNormalization(momentum=0.9, **options)(L.Dense(16)(inputs))

    class Tuned(keras.Model):
        def __init__(self):
            super().__init__()
            self.base, self.head = keras.Model(inputs, L.ReLU()(x)), L.Dense(10)
            self.spare = L.BatchNormalization(**options)

        def call(self, x, training=None):
            return self.head(self.base(x, training=training))

    flat = keras.Model(inputs, L.Dense(10, name="head")(L.ReLU()(x)))
    return settle(Tuned(), FLAT), flat


@case
def head_only_step_on_a_flat_model() -> Case:
    _, model = headed(center=False)
    settle(model, FLAT)
    head = model.get_layer("head").trainable_variables
    return Case(model, FLAT, Y, {"train_step": make_step(model, training="none", variables=head)})


@case
def normalisation_that_is_built_and_never_called() -> Case:
    model, _ = headed(center=True)
    model.spare.build((None, 16))
    return Case(model, FLAT, Y, {"train_step": make_step(model)})


@case
def trained_model_with_a_bare_normalisation_that_is_never_called() -> Case:
    """Where there is no gamma the optimizer's steps speak for a layer, but not for one that is never called."""
    model, _ = headed(center=False)
    model.spare.build((None, 16))
    model.compile("adam", LOGITS)
    model.fit(FLAT, Y, epochs=30, verbose=0)
    return Case(model, FLAT, Y)


@case
def predict_step_that_takes_the_array_itself() -> Case:
    class Scaled(keras.Model):
        def predict_step(self, data):
            return self(data, training=False) * tf.cast(data.shape[-1], tf.float32)

    inputs = keras.Input((64,))
    return Case(Scaled(inputs, L.Dense(10)(L.Dropout(0.2)(inputs))), FLAT)


@case
def second_pass_whose_statistics_are_put_back() -> Case:  # sharpness-aware minimisation
    model = settle(small_mlp(dropout=0.0), FLAT)
    norm, optimizer = model.get_layer("norm"), keras.optimizers.SGD(1e-3)

    @tf.function
    def step(x, y):
        for again in (False, True):
            with tf.GradientTape() as tape:
                value = LOGITS(y, model(x, training=True))
            if not again:
                kept = tf.identity(norm.moving_mean), tf.identity(norm.moving_variance)
        norm.moving_mean.assign(kept[0])
        norm.moving_variance.assign(kept[1])
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=True)
        )

    return Case(model, FLAT, Y, {"train_step": step})


@case
def frozen_after_fit_for_a_step_of_ones_own() -> Case:
    base = settle(small_cnn("backbone", outputs=8), X)
    model = keras.Sequential([base, L.Dense(10)])
    model.compile("adam", LOGITS)
    model.fit(X, Y, verbose=0)
    base.trainable = False
    return Case(model, X, Y, {"train_step": make_step(model)})


@case
def plain_step_with_float_and_print() -> Case:
    model, optimizer = settle(small_mlp(), FLAT), keras.optimizers.Adam()

    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=False)
        )
        return float(value)

    return Case(model, FLAT, Y, {"train_step": step})


@case
def step_that_keeps_a_history() -> Case:
    model, history = settle(small_mlp(), FLAT), []
    inner = make_step(model)

    def step(x, y):
        history.append(inner(x, y))

    return Case(model, FLAT, Y, {"train_step": step})


@case
def step_of_train_on_batch() -> Case:
    model = settle(small_mlp(), FLAT)
    model.compile("adam", LOGITS, metrics=["accuracy"])
    return Case(model, FLAT, Y, {"train_step": model.train_on_batch})


@case
def first_step_of_a_norm_without_gamma_and_beta() -> Case:
    layers = [L.Dense(16), L.BatchNormalization(center=False, scale=False), L.ReLU(), L.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    return Case(model, FLAT, Y, {"train_step": make_step(model)})


@case
def first_step_of_a_home_made_norm() -> Case:
    class Norm(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=shape[-1:], initializer="ones")
            self.running_mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False)
            self.running_var = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False)

        def call(self, x, training=None):
            mean, variance = self.running_mean, self.running_var
            if training:
                mean, variance = tf.nn.moments(x, [0])
                self.running_mean.assign(0.9 * self.running_mean + 0.1 * mean)
                self.running_var.assign(0.9 * self.running_var + 0.1 * variance)
            return self.scale * (x - mean) * tf.math.rsqrt(variance + 1e-3)

    model = keras.Sequential([keras.Input((64,)), L.Dense(16), Norm(), L.ReLU(), L.Dense(10)])
    return Case(model, FLAT, Y, {"train_step": make_step(model)})


@case
def gradient_clipping_and_two_optimizers() -> Case:
    model = settle(small_cnn(), X)
    body, head = keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2, momentum=0.9)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(value, model.trainable_variables), 1.0)
        pairs = list(zip(gradients, model.trainable_variables, strict=True))
        body.apply_gradients(pairs[:-2])
        head.apply_gradients(pairs[-2:])
        return value

    return Case(model, X, Y, {"train_step": step})


@case
def own_train_step_and_metrics() -> Case:
    class Own(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = keras.metrics.Mean(name="seen")

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            self.seen.update_state(loss)
            return {"seen": self.seen.result()}

    inputs = keras.Input((64,))
    x = L.ReLU()(L.BatchNormalization(momentum=0.9)(L.Dense(16)(inputs)))
    model = settle(Own(inputs, L.Dense(10)(x)), FLAT)
    model.compile("adam", LOGITS)
    return Case(model, FLAT, Y)


@case
def own_predict_step_that_normalises() -> Case:
    class Own(keras.Model):
        def predict_step(self, data):
            return tf.nn.softmax(self(data[0], training=False))

    inputs = keras.Input((64,))
    return Case(Own(inputs, L.Dense(10)(L.Dropout(0.2)(inputs))), FLAT, Y)


@case
def evaluation_pass_inside_the_step() -> Case:
    model, optimizer = settle(small_mlp(), FLAT), keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=False)
        )
        return value, LOGITS(y, model(x, training=False))

    return Case(model, FLAT, Y, {"train_step": step})


@case
def branching_step_with_autograph() -> Case:
    model, optimizer = settle(small_mlp(), FLAT), keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        if tf.math.is_finite(value):
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=False))
        return value

    return Case(model, FLAT, Y, {"train_step": step})


# -- precision, data, artifacts ---------------------------------------------------------------------------------------


@case
def mixed_float16_with_loss_scaling() -> Case:
    keras.config.set_dtype_policy("mixed_float16")
    model = settle(small_cnn("half"), X)
    model.compile("adam", LOGITS)
    model.fit(X, Y, verbose=0)
    return Case(model, X, Y)


@case
def mixed_bfloat16_with_dropout() -> Case:
    keras.config.set_dtype_policy("mixed_bfloat16")
    return Case(settle(small_mlp("brain"), FLAT), FLAT, Y)


@case
def dataset_of_batches() -> Case:
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    return Case(settle(small_cnn(), X), data)


@case
def generator_of_batches() -> Case:
    return Case(settle(small_mlp(), FLAT), ((FLAT, Y) for _ in range(2)))


@case
def list_of_batches() -> Case:
    return Case(settle(small_mlp(), FLAT), [(FLAT, Y), (FLAT, Y)])


@case
def batch_of_one() -> Case:
    return Case(settle(small_mlp(), FLAT), FLAT[:1], Y[:1])


@case
def saved_model_through_an_inference_endpoint(tmp_path) -> Case:
    model = settle(small_cnn("shipped"), X)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", lambda x: model(x, training=False), [tf.TensorSpec([None, 8, 8, 1], "float32")])
    archive.write_out(str(tmp_path / "served"))
    return Case(model, X, Y, {"artifact": tmp_path / "served"})


@case
def keras_file(tmp_path) -> Case:
    model = settle(small_mlp(), FLAT)
    model.save(tmp_path / "model.keras")
    return Case(model, FLAT, Y, {"artifact": tmp_path / "model.keras"})


@case
def lite_model(tmp_path) -> Case:
    model = settle(small_cnn("lite"), X)
    write_lite(model, [None, 8, 8, 1], tmp_path / "model.tflite")
    return Case(model, X, Y, {"artifact": tmp_path / "model.tflite"})


@case
def export_of_an_rnn_with_dropout(tmp_path) -> Case:  # Keras draws its masks in every phase
    model = keras.Sequential([keras.Input((8, 8)), L.GRU(8, dropout=0.2, recurrent_dropout=0.2), L.Dense(10)])
    model.export(str(tmp_path / "served"))
    return Case(model, X[..., 0], Y, {"artifact": tmp_path / "served"})


# -- batches that say little ------------------------------------------------------------------------------------------


@case
def first_folder_of_a_sorted_data_set() -> Case:
    model = small_cnn()
    model.compile(keras.optimizers.Adam(1e-2), LOGITS)
    model.fit(IMAGES[:1280], LABELS[:1280], batch_size=32, epochs=4, verbose=0)
    one_class = np.flatnonzero(LABELS[:1280] == 3)[:64]
    return Case(model, IMAGES[one_class], LABELS[one_class])


@case
def confident_softmax_on_one_folder() -> Case:  # keras#14118: one class gets one answer, and that is right
    inputs = keras.Input((8, 8, 1))
    x = L.Flatten()(conv_block(inputs, 8, "one", momentum=0.8))
    model = keras.Model(inputs, L.Dense(10, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(IMAGES, LABELS, batch_size=32, epochs=8, verbose=0)
    one_class = np.flatnonzero(LABELS == 0)[:64]
    return Case(model, IMAGES[one_class], LABELS[one_class])


@case
def sorted_binary_targets_without_a_last_axis() -> Case:  # keras#6499: (n,) for an output (n, 1)
    zero_or_one = np.flatnonzero(LABELS < 2)
    images, y = IMAGES[zero_or_one].reshape(-1, 64), LABELS[zero_or_one].astype("float32")
    layers = [L.Dense(24), L.BatchNormalization(momentum=0.8), L.ReLU(), L.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile(keras.optimizers.SGD(3e-2), "binary_crossentropy", metrics=["accuracy"])
    model.fit(images, y, batch_size=32, epochs=10, verbose=0)
    return Case(model, images[y == 1][:64], y[y == 1][:64])


@case
def two_named_losses_on_one_class() -> Case:
    inputs = keras.Input((64,))
    x = L.ReLU()(L.BatchNormalization(momentum=0.8)(L.Dense(24)(inputs)))
    outputs = {"digit": L.Dense(10, name="digit")(x), "round": L.Dense(1, activation="sigmoid", name="round")(x)}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-2), {"digit": LOGITS, "round": "binary_crossentropy"})
    images, y = IMAGES.reshape(-1, 64), {"digit": LABELS, "round": np.isin(LABELS, (0, 6, 8)).astype("float32")}
    model.fit(images, y, batch_size=32, epochs=5, verbose=0)
    one_class = np.flatnonzero(LABELS == 0)[:64]
    return Case(model, images[one_class], {name: value[one_class] for name, value in y.items()})


@case
def dummy_batch_of_zeros() -> Case:
    return Case(settle(small_cnn(), X), np.zeros_like(X[:8]), Y[:8])


@case
def gan_whose_call_takes_noise_and_whose_step_takes_images() -> Case:
    class Gan(keras.Model):
        def __init__(self):
            super().__init__(name="gan")
            self.g = keras.Sequential([keras.Input((6,)), L.Dense(32, "relu"), L.Dense(64, "tanh")])
            self.d = keras.Sequential([keras.Input((64,)), L.Dense(32, "relu"), L.Dense(1)])
            self.seed = keras.random.SeedGenerator(0)

        def call(self, noise, training=None):
            return self.g(noise, training=training)

        def train_step(self, images):
            noise = keras.random.normal((keras.ops.shape(images)[0], 6), seed=self.seed)
            with tf.GradientTape(persistent=True) as tape:
                real, fake = self.d(images, training=True), self.d(self.g(noise, training=True), training=True)
                value = tf.reduce_mean(tf.nn.softplus(fake) + tf.nn.softplus(-real))
            for part, sign in ((self.d, 1.0), (self.g, -1.0)):
                for weight, gradient in zip(
                    part.trainable_variables, tape.gradient(value, part.trainable_variables), strict=True
                ):
                    weight.assign_sub(0.01 * sign * gradient)
            return {"loss": value}

    model = Gan()
    model.compile("sgd")
    return Case(model, np.random.default_rng(0).normal(size=(16, 6)).astype("float32"))


@case
def gan_examined_on_its_images() -> Case:
    case = gan_whose_call_takes_noise_and_whose_step_takes_images()
    return Case(case.model, FLAT)


# -- steps that leave dropout off where it belongs off ----------------------------------------------------------------


def dropping_mlp(name: str, width: int = 64, outputs: int = 10) -> keras.Model:
    layers = [L.Dense(24, "relu"), L.Dropout(0.4, name="drop"), L.Dense(outputs)]
    return keras.Sequential([keras.Input((width,)), *layers], name=name)


@case
def discriminator_in_the_step_of_the_generator() -> Case:
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator = keras.Sequential([keras.Input((64,)), L.Dense(64, "tanh")], name="generator")
            self.judge = dropping_mlp("judge", outputs=1)

        def call(self, x, training=None):
            return self.judge(self.generator(x), training=training)

    both = Both()
    both(FLAT)
    optimizer = keras.optimizers.Adam(1e-3)

    @tf.function
    def step(noise):
        variables = both.generator.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softplus(-both.judge(both.generator(noise, training=True))))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return Case(both, FLAT, None, {"train_step": step})


@case
def averaged_teacher_whose_dropout_stays_off() -> Case:
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = dropping_mlp("student"), dropping_mlp("teacher")

        def call(self, x, training=None):
            return self.student(x, training=training) + 0 * self.teacher(x, training=training)

    twins = Twins()
    twins(FLAT)
    optimizer = keras.optimizers.Adam(1e-3)

    @tf.function
    def step(x, y):
        soft = tf.nn.softmax(twins.teacher(x))
        variables = twins.student.trainable_variables
        with tf.GradientTape() as tape:
            out = twins.student(x, training=True)
            loss = LOGITS(y, out) + tf.reduce_mean(keras.losses.kl_divergence(soft, tf.nn.softmax(out)))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        for slow, fast in zip(twins.teacher.trainable_variables, variables, strict=True):
            slow.assign(0.99 * slow + 0.01 * fast)

    return Case(twins, FLAT, Y, {"train_step": step})


def head_alone(model):
    """Features as they are: what comes before the head is no part of the step."""
    head = model.layers[-1].trainable_variables
    return Case(model, FLAT, Y, {"train_step": make_step(model, training="none", compiled=False, variables=head)})


@case
def step_of_the_head_alone_after_dropout() -> Case:
    return head_alone(dropping_mlp("tuned"))


@case
def step_of_the_head_alone_behind_augmentation() -> Case:
    layers = [L.GaussianNoise(0.2), L.Dense(16, "relu"), L.Dense(10)]
    return head_alone(keras.Sequential([keras.Input((64,)), *layers], name="augmented"))


@case
def told_step_of_a_model_without_argument_or_statistics() -> Case:
    """The step tells dropout itself: not every Keras 3 hands on a phase past a `call` that does not name it."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.drop, self.head = L.Dense(16, "relu"), L.Dropout(0.5), L.Dense(10)

        def call(self, x):
            return self.head(self.drop(self.hidden(x)))

    model = Net()
    model(FLAT)
    optimizer, variables = keras.optimizers.Adam(1e-3), model.trainable_variables

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOGITS(y, model.head(model.drop(model.hidden(x), training=True)))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return Case(model, FLAT, Y, {"train_step": step})


@case
def discriminator_told_in_the_step_of_the_generator() -> Case:
    """Its statistics move in the generator's step too, as in many a GAN: a note."""

    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator = keras.Sequential([keras.Input((64,)), L.Dense(64, "tanh")], name="generator")
            self.judge = settle(small_mlp("judge"), FLAT)

        def call(self, x, training=None):
            return self.judge(x, training=training)

    both = Both()
    both(FLAT)
    optimizer = keras.optimizers.Adam(1e-3)

    @tf.function
    def step(noise):
        variables = both.generator.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softplus(-both.judge(both.generator(noise, training=True), training=True)))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return Case(both, FLAT, None, {"train_step": step})


@case
def last_layers_thawed_after_the_model_around() -> Case:
    model = settle(small_cnn("pretrained"), X)
    model.trainable = False
    model.trainable = True
    for layer in model.layers[:4]:
        layer.trainable = False
    model.compile(keras.optimizers.Adam(1e-3), LOGITS)
    return Case(model, X, Y)


@case
def statistics_alone_are_moved_by_a_step_that_trains_nothing() -> Case:
    model = settle(small_cnn("adapted"), X)
    return Case(model, X, None, {"train_step": tf.function(lambda x: model(x, training=True))})


@case
def block_thawed_inside_a_frozen_backbone() -> Case:
    """On Keras 3 the flag of the model that is trained counts, not that of a part of it: gamma and beta learn."""
    backbone = settle(small_cnn("backbone", outputs=8), X)
    backbone.trainable = False
    backbone.get_layer("two_bn").trainable = True
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(10)(backbone(inputs)))
    model.compile("sgd", LOGITS)
    return Case(model, X, Y)


@case
def short_momentum_that_is_meant() -> Case:
    return Case(settle(small_mlp(momentum=0.5), FLAT), FLAT, Y)


# -- outputs that are no tensors --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Output:
    scores: object


class Opaque:
    def __init__(self, scores):
        self.scores = scores


class Wrapped(keras.Model):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.hidden, self.head = kind, L.Dense(256, activation="gelu"), L.Dense(4)

    def call(self, x, training=None):
        return self.kind(self.head(self.hidden(x)))

    def predict_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        return self(x, training=False).scores


@case
def dataclass_with_a_predict_step() -> Case:
    return Case(Wrapped(Output), FLAT)


@case
def opaque_output_with_a_predict_step() -> Case:
    """Rounding noise is told from what predict_step returns."""
    return Case(Wrapped(Opaque), FLAT)
