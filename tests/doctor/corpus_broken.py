"""Models and steps with one phase bug each, after the threads that reported it (keras# and tf# name the trackers)."""

from __future__ import annotations

import dataclasses
import functools
import math
import types

import keras
import numpy as np
import tensorflow as tf
from cases import (
    FLAT,
    IMAGES,
    LABELS,
    LOGITS,
    Case,
    Followed,
    L,
    X,
    Y,
    agreement,
    conv_block,
    finite,
    handed_on,
    make_step,
    registry,
    settle,
    small_cnn,
    small_mlp,
    stillness,
    write_lite,
)
from monte_carlo_dropout import to_monte_carlo
from recalibrate_batchnorm import recalibrate

CASES, case = registry()


# -- PD101: `call` cannot be told the phase ---------------------------------------------------------------------------


@case
def subclass_without_argument() -> Case:  # keras-team/keras-hub#1500
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.conv, self.norm, self.pool = L.Conv2D(6, 3), L.BatchNormalization(), L.GlobalMaxPooling2D()
            self.head = L.Dense(10)

        def call(self, inputs):
            return self.head(self.pool(tf.nn.relu(self.norm(self.conv(inputs)))))

    return Case(Net(), X, Y, codes=("PD101",), where="net")


@case
def subclass_with_kwargs_only() -> Case:  # tf#36073
    class Tagger(keras.Model):
        def __init__(self):
            super().__init__(name="tagger")
            self.embed, self.rnn = L.Embedding(50, 8), L.GRU(8, dropout=0.3, return_sequences=True)
            self.out = L.Dense(4)

        def call(self, tokens, **kwargs):
            return self.out(self.rnn(self.embed(tokens)))

    tokens = np.random.default_rng(0).integers(0, 50, (16, 7))
    return Case(Tagger(), tokens, codes=("PD101",), where="tagger")


@case
def decorated_call_hides_the_argument() -> Case:  # item 3 of "Five that no documentation states"
    def logged(call):
        def inner(self, x):
            return call(self, x)

        return inner

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="decorated")
            self.hidden, self.drop, self.head = L.Dense(16, "relu"), L.Dropout(0.4), L.Dense(10)

        @logged
        def call(self, x, training=None):
            return self.head(self.drop(self.hidden(x), training=training))

    class Fixed(Net):
        """Only the drawing of masks is left to Keras."""

        @logged
        def call(self, x):
            return self.head(self.drop(self.hidden(x)))

    return Case(Fixed(), FLAT, Y, codes=("PD101",), where="decorated")


@case
def dict_inputs_without_argument() -> Case:  # keras-team/keras-hub#1623
    class TwoTower(keras.Model):
        def __init__(self):
            super().__init__(name="towers")
            self.user, self.item = L.Dense(8), L.Dense(8)
            self.norm, self.drop = L.BatchNormalization(), L.Dropout(0.5)

        def call(self, features):
            u = self.drop(self.user(features["user"]))
            return tf.reduce_sum(u * self.norm(self.item(features["item"])), axis=-1, keepdims=True)

    x = {"user": FLAT[:, :32], "item": FLAT[:, 32:]}
    return Case(TwoTower(), x, codes=("PD101",), where="towers")


@case
def explicit_phase_of_a_sibling_reaches_dropout() -> (
    Case
):  # keras#23166: the call context keeps what a sibling was told
    class Tuner(keras.Model):
        def __init__(self):
            super().__init__(name="tuner")
            self.backbone = keras.Sequential([L.Conv2D(4, 3), L.BatchNormalization()], name="backbone")
            self.backbone.trainable = False
            self.pool, self.drop, self.head = L.GlobalAveragePooling2D(), L.Dropout(0.5, name="drop"), L.Dense(10)

        def call(self, x, training=None):
            x = self.pool(self.backbone(x, training=False))
            return self.head(self.drop(x))

    return Case(Tuner(), X, Y, codes=("PD101",), where="drop")


@case
def compiled_transformer_without_argument() -> Case:  # "dropout never used"
    class Encoder(keras.Model):
        def __init__(self):
            super().__init__(name="encoder")
            self.attention = L.MultiHeadAttention(2, 4)
            self.drop, self.norm, self.head = L.Dropout(0.3), L.LayerNormalization(), L.Dense(3)

        def call(self, x, mask=None):
            return self.head(self.norm(x + self.drop(self.attention(x, x))))

    model = Encoder()
    model.compile("adam", "mse")
    x = X[..., 0]
    model.fit(x, np.zeros((32, 8, 3), "float32"), verbose=0)
    return Case(model, x, codes=("PD101",), where="encoder")


@case
def argument_by_another_name() -> Case:  # ported from a framework that calls it so
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="misnamed")
            self.conv, self.norm, self.head = L.Conv2D(8, 3), L.BatchNormalization(), L.Dense(10)

        def call(self, x, is_training=False):
            return self.head(tf.reduce_mean(tf.nn.relu(self.norm(self.conv(x), training=is_training)), (1, 2)))

    model = Net()
    model.compile("adam", LOGITS)
    return Case(model, X, Y, codes=("PD101",), where="misnamed")


# -- PD102: recorded and ignored --------------------------------------------------------------------------------------


@case
def fine_tuning_with_recorded_false() -> Case:  # keras#23364, the official guide
    base = small_cnn("backbone", outputs=8)
    settle(base, X)
    inputs = keras.Input((8, 8, 1))
    outputs = L.Dense(10)(L.Dropout(0.2)(base(inputs, training=False)))
    model = keras.Model(inputs, outputs)
    statistics = base.get_layer("one_bn").non_trainable_variables

    def apply():
        for layer in base.layers:
            if isinstance(layer, L.BatchNormalization):
                layer.trainable = False
        return model

    kept = lambda m: stillness(m, lambda: m(X + 1, training=True), statistics)  # noqa: E731
    cure = Followed("freeze-by-trainable", apply, kept, 0.01, ("delete-the-recorded-true",))
    return Case(model, X, Y, codes=("PD102", "PD108"), where="backbone", cure=cure)


@case
def monte_carlo_dropout_recorded_true() -> Case:  # keras-team/tf-keras#81
    inputs = keras.Input((64,))
    x = L.Dense(24, activation="relu")(inputs)
    x = L.Dropout(0.5, name="mc")(x, training=True)
    model = keras.Model(inputs, L.Dense(10)(x))

    def samples_differ(model):
        one, two = (model.predict(FLAT, verbose=0) for _ in range(2))
        return -agreement(one, two)

    harms = ("freeze-by-trainable", "delete-the-recorded-true")
    cure = Followed("convert-to-monte-carlo", lambda: to_monte_carlo(model), samples_differ, 0.1, harms)
    return Case(model, FLAT, Y, codes=("PD102",), where="mc", cure=cure)


@case
def norms_recorded_true_in_a_residual_net() -> Case:  # a helper's default, as in a course's assignment
    def net(recorded):
        keras.utils.set_random_seed(0)
        said = {"training": True} if recorded else {}
        inputs = keras.Input((64,))
        x = L.Dense(24)(inputs)
        h = L.ReLU()(L.BatchNormalization(momentum=0.8, name="first")(x, **said))
        x = L.Add()([x, L.BatchNormalization(momentum=0.8)(L.Dense(24)(h), **said)])
        model = keras.Model(inputs, L.Dense(10)(L.ReLU()(x)))
        model.compile(keras.optimizers.Adam(1e-2), LOGITS)
        model.fit(IMAGES[:640].reshape(-1, 64), LABELS[:640], batch_size=64, epochs=6, verbose=0)
        return model

    def one_by_one(model):  # as a server asks, without saying a phase
        return float(np.mean([np.argmax(model(FLAT[i : i + 1])) == Y[i] for i in range(32)]))

    harms = ("freeze-by-trainable", "convert-to-monte-carlo")
    cure = Followed("delete-the-recorded-true", lambda: net(False), one_by_one, 0.3, harms)
    return Case(net(True), FLAT, Y, codes=("PD102",), where="first", cure=cure)


@case
def recorded_false_two_models_deep() -> Case:  # keras#20285
    inner = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.BatchNormalization()], name="inner")
    middle_in = keras.Input((8, 8, 1))
    middle = keras.Model(middle_in, L.Flatten()(inner(middle_in, training=False)), name="middle")
    inputs = keras.Input((8, 8, 1))
    model = settle(keras.Model(inputs, L.Dense(10)(middle(inputs))), X)
    return Case(model, X, Y, codes=("PD102",), where="middle/inner")


@case
def spatial_dropout_meant_to_stay_on() -> Case:  # keras#9422
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, activation="relu")(inputs)
    x = L.SpatialDropout2D(0.4, name="keep_on")(x, training=True)
    return Case(keras.Model(inputs, L.Dense(1)(L.Flatten()(x))), X, codes=("PD102",), where="keep_on")


# -- PD108, from Keras 3.16 on PD101 or PD306: a stated phase reaches the layers behind -------------------------------


class Stating(L.Layer):
    """Fixes the phase of the layer inside."""

    def __init__(self, inner, phase, name):
        super().__init__(name=name)
        self.inner, self.phase = inner, phase

    def call(self, x):
        return self.inner(x, training=self.phase)


def drops(model, x):
    """1 where two passes of training differ."""
    one, two = (np.array(model(x, training=True)) for _ in range(2))
    return float(not np.array_equal(one, two))


@case
def guides_model_with_a_frozen_base() -> Case:  # keras#23364: right until 3.15, its head is silent from 3.16 on
    def net(**phase):
        keras.utils.set_random_seed(0)
        base = settle(small_cnn("backbone", outputs=8), X)
        base.trainable = False
        inputs = keras.Input((8, 8, 1))
        h = L.BatchNormalization(momentum=0.5, name="head_bn")(base(inputs, **phase))
        model = keras.Model(inputs, L.Dense(10)(L.Dropout(0.2, name="drop")(h)))
        model.compile("adam", LOGITS)
        model.fit(X, Y, epochs=12, verbose=0)
        return model

    cure = Followed(
        *("freeze-and-write-no-phase", net, lambda m: drops(m, X), float(handed_on())),
        ("say-the-phase-here", "keep-the-phase-to-the-dropout"),
    )
    code, where = ("PD101", "head_bn") if handed_on() else ("PD108", "backbone")
    return Case(net(training=False), X, Y, codes=(code,), where=where, cure=cure)


@case
def inference_fixed_inside_a_layer_of_a_sequential() -> Case:
    def net(freeze):
        norm = L.BatchNormalization(name="norm")
        norm.trainable = not freeze
        first = norm if freeze else Stating(norm, False, "kept")
        layers = [L.Dense(24), first, L.ReLU(), L.Dropout(0.3, name="drop"), L.Dense(10)]
        return keras.Sequential([keras.Input((64,)), *layers])

    cure = Followed("freeze-and-write-no-phase", lambda: net(True), lambda m: drops(m, FLAT), float(handed_on()))
    code, where = ("PD101", "drop") if handed_on() else ("PD108", "kept/norm")
    return Case(net(False), FLAT, Y, codes=(code,), where=where, cure=cure)


@case
def monte_carlo_in_front_of_batchnorm() -> Case:  # as tutorials have it: from 3.16 on `predict` trains what is behind
    def net():
        inputs = keras.Input((64,))
        x = L.Dropout(0.3, name="mc")(L.Dense(24, activation="relu")(inputs), training=True)
        return keras.Model(inputs, L.Dense(10)(L.BatchNormalization(name="norm")(x)))

    def kept(model):
        moving = model.get_layer("norm").non_trainable_variables[:2]
        return stillness(model, lambda: model.predict(FLAT + 1, verbose=0), moving)

    id, gain = "keep-the-phase-to-the-dropout", 0.001 if handed_on() else 0.0
    model = settle(net(), FLAT)
    cure = Followed(id, lambda: to_monte_carlo(model), kept, gain, ("freeze-and-write-no-phase",))
    codes, where = (("PD306",), "norm") if handed_on() else (("PD108", "PD102"), "mc")
    return Case(model, FLAT, Y, codes=codes, where=where, cure=cure)


@case
def dropout_that_a_block_keeps_on_in_front_of_batchnorm() -> Case:
    def net(kept_on):
        layers = [L.Dense(24), kept_on, L.BatchNormalization(name="norm"), L.Dense(10)]
        return settle(keras.Sequential([keras.Input((64,)), *layers]), FLAT)

    class AlwaysOn(L.Dropout):
        def call(self, x, training=None):
            return super().call(x, training=True)

    def kept(model):
        moving = model.get_layer("norm").non_trainable_variables[:2]
        return stillness(model, lambda: model.predict(FLAT + 1, verbose=0), moving)

    id, gain = "keep-the-phase-to-the-dropout", 0.001 if handed_on() else 0.0
    cure = Followed(id, lambda: net(AlwaysOn(0.3)), kept, gain)
    code, where = ("PD306", "norm") if handed_on() else ("PD108", "kept/mc")
    return Case(net(Stating(L.Dropout(0.3, name="mc"), True, "kept")), FLAT, Y, codes=(code,), where=where, cure=cure)


@case
def dropout_kept_on_in_a_subclass_trains_the_statistics_behind() -> Case:  # so on every Keras 3
    class AlwaysOn(L.Dropout):
        def call(self, x, training=None):
            return super().call(x, training=True)

    class Net(keras.Model):
        def __init__(self, drop, **stated):
            super().__init__(name="sampler")
            self.hidden, self.drop, self.norm, self.head = L.Dense(24), drop, L.BatchNormalization(), L.Dense(10)
            self.stated = stated
            self(FLAT)

        def call(self, x, training=None):
            return self.head(self.norm(self.drop(self.hidden(x), **self.stated)))

    def kept(model):
        moving = model.norm.non_trainable_variables[:2]
        return stillness(model, lambda: model.predict(FLAT + 1, verbose=0), moving)

    model = Net(L.Dropout(0.3, name="mc"), training=True)
    cure = Followed("keep-the-phase-to-the-dropout", lambda: Net(AlwaysOn(0.3)), kept, 0.001)
    return Case(model, FLAT, Y, codes=("PD306",), where=model.norm.name, cure=cure)


# -- PD103: untracked -------------------------------------------------------------------------------------------------


@case
def batchnorm_in_a_lambda_closure() -> Case:  # shenweichen/DeepCTR#522
    norm = L.BatchNormalization(name="closure_norm")
    model = keras.Sequential([keras.Input((64,)), L.Dense(12), L.Lambda(lambda t: norm(t)), L.Dense(10)])
    return Case(model, FLAT, Y, codes=("PD103",), where="closure_norm")


@case
def batchnorm_in_a_namespace() -> Case:  # keras#16797
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = types.SimpleNamespace(norm=L.BatchNormalization(name="tucked_away"))
            self.dense = L.Dense(10)

        def call(self, x, training=None):
            return self.dense(self.parts.norm(x, training=training))

    model = Net()
    model(FLAT)
    return Case(model, FLAT, Y, codes=("PD103",), where="tucked_away")


@case
def global_layer_in_a_custom_block() -> Case:
    shared = L.BatchNormalization(name="global_norm", momentum=0.9)

    class Block(L.Layer):
        def __init__(self, units):
            super().__init__()
            self.dense = L.Dense(units)

        def call(self, x, training=None):
            return tf.nn.gelu(shared(self.dense(x), training=training))

    inputs = keras.Input((64,))
    model = keras.Model(inputs, L.Dense(1)(Block(16)(inputs)))
    return Case(model, FLAT, codes=("PD103",), where="global_norm")


@case
def statistics_in_bare_variables() -> Case:  # Keras 3 does not track a tf.Variable, and does not save it
    class Standardise(L.Layer):
        def build(self, shape):
            self.mean = tf.Variable(tf.zeros(shape[-1]), trainable=False)
            self.variance = tf.Variable(tf.ones(shape[-1]), trainable=False)

        def call(self, x, training=None):
            mean, variance = self.mean, self.variance
            if training:
                mean, variance = tf.nn.moments(x, [0])
                self.mean.assign(0.9 * self.mean + 0.1 * mean)
                self.variance.assign(0.9 * self.variance + 0.1 * variance)
            return (x - mean) * tf.math.rsqrt(variance + 1e-3)

    model = keras.Sequential([keras.Input((64,)), L.Dense(16), Standardise(name="standardise"), L.Dense(10)])
    return Case(model, FLAT, Y, codes=("PD103",), where="standardise")


# -- PD104: one BatchNormalization, several places --------------------------------------------------------------------


@case
def one_norm_after_two_denses() -> Case:  # keras#11927
    norm = L.BatchNormalization(name="reused", momentum=0.9)
    inputs = keras.Input((64,))
    x = L.ReLU()(norm(L.Dense(16)(inputs)))
    x = L.ReLU()(norm(L.Dense(16)(x)))
    return Case(settle(keras.Model(inputs, L.Dense(10)(x)), FLAT), FLAT, Y, codes=("PD104",), where="reused")


@case
def one_norm_in_encoder_and_decoder() -> Case:  # keras#6623
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.down, self.up = L.Conv2D(6, 3, 2, "same"), L.Conv2DTranspose(6, 3, 2, "same")
            self.norm, self.out = L.BatchNormalization(name="both_ways"), L.Conv2D(1, 1)

        def call(self, x, training=None):
            h = tf.nn.relu(self.norm(self.down(x), training=training))
            return self.out(tf.nn.relu(self.norm(self.up(h), training=training)))

    model = Net()
    model(X)
    return Case(model, X, codes=("PD104",), where="both_ways")


@case
def one_norm_for_two_modalities() -> Case:  # keras#8794
    norm = L.BatchNormalization(name="for_both", momentum=0.9)
    a, b = keras.Input((64,)), keras.Input((64,))
    both = L.Concatenate()([norm(a), norm(b)])
    x = (FLAT, (FLAT * 40 + 10).astype("float32"))
    return Case(keras.Model([a, b], L.Dense(1)(both)), x, codes=("PD104",), where="for_both")


# -- PD105: flags after compile ---------------------------------------------------------------------------------------


@case
def backbone_frozen_after_fit() -> Case:  # tf#29535
    base = small_cnn("backbone", outputs=8)
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(10)])
    model.compile("adam", LOGITS)
    model.fit(X, Y, verbose=0)
    base.trainable = False
    return Case(model, X, Y, codes=("PD105", "PD303"), where="backbone")


@case
def discriminator_of_the_classic_gan_recipe() -> Case:  # keras#8585
    critic = keras.Sequential([keras.Input((64,)), L.Dense(16), L.LeakyReLU(), L.Dense(1)], name="critic")
    critic.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    critic.trainable = False
    ones = np.ones((32, 1))

    def apply():
        critic.trainable = True
        for _ in range(3):
            critic.train_on_batch(FLAT, ones)
        critic.trainable = False  # for the step of the generator
        return critic

    score = lambda m: float(tf.reduce_mean(m(FLAT)))  # noqa: E731
    cure = Followed("thaw-for-its-own-step", apply, score, 1e-3, ("compile-again",))
    return Case(critic, FLAT, ones, codes=("PD105",), where="critic", cure=cure)


@case
def unfrozen_without_compiling_again() -> Case:  # keras#22787
    base = small_cnn("backbone", outputs=8)
    settle(base, X)
    base.trainable = False
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(10)])
    model.compile("adam", LOGITS)
    model.fit(X, Y, verbose=0)
    base.trainable = True
    return Case(model, X, Y, codes=("PD105",), where="backbone")


# -- PD106: a default that leaks --------------------------------------------------------------------------------------


@case
def resizing_before_batchnorm() -> Case:  # keras#23166
    inputs = keras.Input((10, 10, 1))
    x = conv_block(L.Resizing(8, 8, name="resize")(inputs), 6, "one")
    model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))
    x = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return Case(settle(model, x), x, Y, codes=("PD106",), where="resize")


@case
def augmentation_inside_a_subclass() -> Case:  # keras#17385
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="augmented")
            self.flip, self.flat = L.RandomFlip(name="flip"), L.Flatten()
            self.drop, self.head = L.Dropout(0.3, name="drop"), L.Dense(10)

        def call(self, x, training=None):
            return self.head(self.drop(self.flat(self.flip(x))))

    model = Net()
    model(X, training=False)
    return Case(model, X, Y, codes=("PD106",), where="flip")


@case
def cropping_inside_a_preprocessing_model() -> Case:  # keras#23166
    front = keras.Sequential([keras.Input((8, 8, 1)), L.CenterCrop(6, 6, name="crop"), L.Rescaling(2.0)], name="front")
    inputs = keras.Input((8, 8, 1))
    x = L.BatchNormalization(momentum=0.9)(L.Flatten()(front(inputs)))
    return Case(settle(keras.Model(inputs, L.Dense(10)(x)), X), X, Y, codes=("PD106",), where="front/crop")


# -- PD201: untouched -------------------------------------------------------------------------------------------------


@case
def trained_in_a_loop_without_the_phase() -> Case:  # tf#32864
    model = small_cnn("looped")
    step = make_step(model, training="none")
    for _ in range(3):
        step(X, Y)
    return Case(model, X, Y, codes=("PD201",), where="one_bn")


@case
def checkpoint_of_trainable_variables_only() -> Case:  # tinghuiz/SfMLearner#17
    trained, model = fitted(small_mlp("saved")), small_mlp("restored")
    for target, source in zip(model.trainable_variables, trained.trainable_variables, strict=True):
        target.assign(source)

    def apply():
        model.set_weights(trained.get_weights())
        return model

    cure = Followed("train-in-the-training-phase", apply, right, 0.1, ("keep-the-returned-state",))
    return Case(model, FLAT, Y, codes=("PD201",), where="norm", cure=cure)


def fitted(model):
    model.compile(keras.optimizers.Adam(1e-2), LOGITS)
    model.fit(IMAGES[:640].reshape(-1, 64), LABELS[:640], batch_size=32, epochs=5, verbose=0)
    return model


def right(model, images=IMAGES[:640], labels=LABELS[:640]):
    """Accuracy in inference."""
    answers = model.predict(images.reshape(-1, *model.input_shape[1:]), verbose=0)
    return float(np.mean(np.argmax(answers, 1) == labels))


@case
def frozen_backbone_without_its_statistics() -> Case:
    base = small_cnn("backbone", outputs=8)
    for weight in base.trainable_variables:
        weight.assign(weight + 0.1)
    base.trainable = False
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(10)])
    return Case(model, X, Y, codes=("PD201",), where="backbone/one_bn")


@case
def norm_without_gamma_and_beta() -> Case:
    model = keras.Sequential(
        [keras.Input((64,)), L.Dense(16), L.BatchNormalization(center=False, scale=False, name="plain"), L.Dense(10)]
    )
    model.compile("sgd", LOGITS)

    @tf.function
    def loop(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x))
        variables = model.trainable_variables
        model.optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    loop(FLAT, Y)
    return Case(model, FLAT, Y, codes=("PD201",), where="plain")


# -- PD202: far behind ------------------------------------------------------------------------------------------------


@case
def fifty_steps_at_the_default_momentum() -> Case:  # keras#7265
    model = small_cnn("short", momentum=0.99)
    model.compile(keras.optimizers.Adam(1e-3), LOGITS)
    model.fit(IMAGES[:640], LABELS[:640], batch_size=32, epochs=2, verbose=0)
    return Case(model, X, Y, codes=("PD202", "PD308"), where="one_bn")


@case
def residual_net_at_mobilenet_momentum() -> Case:  # tf#36446
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, padding="same")(inputs)
    for i in range(3):
        h = L.BatchNormalization(momentum=0.999, name=f"norm{i}")(x)
        x = L.Add()([x, L.Conv2D(8, 3, padding="same")(L.ReLU()(h))])
    model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))
    step = make_step(model, optimizer=keras.optimizers.Adam(5e-3))
    for i in range(30):
        step(IMAGES[i * 32 : i * 32 + 32], LABELS[i * 32 : i * 32 + 32])
    return Case(model, X, Y, {"train_step": step}, codes=("PD202",), where="norm0")


@case
def averaged_weights_with_stale_statistics() -> Case:  # keras#10533
    model = settle(small_cnn("averaged"), X)
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, L.Conv2D):
            layer.kernel.assign(generator.normal(0, 0.6, layer.kernel.shape).astype("float32"))
    return Case(model, X, Y, codes=("PD202",), where="one_bn")


@case
def data_on_another_scale() -> Case:  # "evaluate on my training data differs from fit"
    model = settle(small_cnn("scaled"), X)
    given = {"x": X * 255.0}

    def apply():
        given["x"] = given["x"] / 255.0
        return model

    near = lambda m: agreement(m(given["x"], training=False), m(X, training=False))  # noqa: E731
    harms = ("train-longer-or-re-estimate", "tell-data-from-statistics", "repair-the-statistics")
    cure = Followed("prepare-the-input-as-in-training", apply, near, 1, harms)
    return Case(model, X * 255.0, Y, codes=("PD202",), where="one_bn", cure=cure)


@case
def some_layers_skipped_on_load() -> Case:  # manishsoni1908/Mobilenet-ssd-keras#15
    def net(width):
        layers = [L.Dense(width, name="d1"), L.BatchNormalization(momentum=0.8, name="b1"), L.ReLU()]
        layers += [L.Dense(24, name="d2"), L.BatchNormalization(momentum=0.8, name="b2"), L.ReLU(), L.Dense(10)]
        return keras.Sequential([keras.Input((64,)), *layers])

    trained, model = fitted(net(16)), net(12)
    for place in (4, -1):  # what fits: b2 and the head
        model.layers[place].set_weights(trained.layers[place].get_weights())
    model.compile("adam", LOGITS)
    harms = ("train-longer-or-re-estimate", "tell-data-from-statistics", "repair-the-statistics")
    cure = Followed("load-or-train-this-layer", lambda: trained, right, 0.5, harms)
    return Case(model, FLAT, Y, codes=("PD202",), where="b2", cure=cure)


@case
def trained_on_batches_of_one_class() -> Case:  # keras#6499: folders, not shuffled
    def net(order):
        keras.utils.set_random_seed(0)
        model = small_mlp("folders", momentum=0.8, dropout=0.0)
        model.compile(keras.optimizers.SGD(3e-2), LOGITS)
        model.fit(IMAGES.reshape(-1, 64)[order], LABELS[order], batch_size=32, epochs=3, shuffle=False, verbose=0)
        return model

    rows = [np.flatnonzero(digit == LABELS)[:160] for digit in range(10)]
    ordered = np.concatenate(rows)
    mixed = np.random.default_rng(0).permutation(ordered)
    x, y = IMAGES.reshape(-1, 64)[rows[0]][:64], LABELS[rows[0]][:64]
    harms = ("train-longer-or-re-estimate", "repair-the-statistics")
    cure = Followed("shuffle-the-batches", lambda: net(mixed), lambda m: right(m, IMAGES, LABELS), 0.3, harms)
    return Case(net(ordered), x, y, codes=("PD202",), where="norm", cure=cure)


@case
def initial_variance_far_above_small_data() -> Case:  # the distance of a variance is logarithmic
    def net(steps):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((64,)), L.Dense(12), L.BatchNormalization(momentum=0.9, name="norm"), L.Dense(3)]
        )
        norm = model.get_layer("norm")
        norm.beta.assign(norm.beta + 0.01)  # a sign of training
        for _ in range(steps):
            model(x, training=True)
        return model

    def near(model):
        return -abs(float(np.mean(np.log(np.array(model.get_layer("norm").moving_variance) / variance))))

    x = (FLAT - FLAT.mean(0)) * 0.05
    variance = np.array(net(0).layers[0](x)).var(0)
    steps = math.ceil(math.log(0.05 * np.median(variance)) / math.log(0.9))
    cure = Followed("train-longer-or-re-estimate", lambda: net(steps), near, 2, ("tell-data-from-statistics",))
    return Case(net(29), x, codes=("PD202",), where="norm", cure=cure)


# -- PD203: not finite ------------------------------------------------------------------------------------------------


@case
def one_batch_with_nan() -> Case:
    model = settle(small_mlp("poisoned"), FLAT)
    spoilt = FLAT.copy()
    spoilt[3, 5] = np.nan
    model(spoilt, training=True)

    def apply():
        recalibrate(model, [FLAT])
        return model

    cure = Followed("re-estimate-after-the-bad-batch", apply, lambda m: finite(m, FLAT), 1, ("restore-the-weights",))
    return Case(model, FLAT, Y, codes=("PD203",), where="norm", cure=cure)


@case
def kernel_with_nan() -> Case:  # one step on a loss that was not finite
    model = settle(small_mlp("diverged"), FLAT)
    checkpoint = model.get_weights()
    model.get_layer("hidden").kernel.assign(model.get_layer("hidden").kernel * np.nan)
    model(FLAT, training=True)

    def apply():
        model.set_weights(checkpoint)
        return model

    cure = Followed("restore-the-weights", apply, lambda m: finite(m, FLAT), 1, ("re-estimate-after-the-bad-batch",))
    return Case(model, FLAT, Y, codes=("PD203",), where="hidden", cure=cure)


@case
def negative_variance() -> Case:  # tf#18334
    model = settle(small_cnn("negative"), X)
    norm = model.get_layer("two_bn")
    norm.moving_variance.assign(norm.moving_variance - 10.0)
    return Case(model, X, Y, codes=("PD203",), where="two_bn")


@case
def infinite_mean_in_a_nested_model() -> Case:  # keras#9646
    base = settle(small_cnn("backbone", outputs=8), X)
    norm = base.get_layer("one_bn")
    norm.moving_mean.assign(tf.fill(norm.moving_mean.shape, np.inf))
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(2)])
    return Case(model, X, codes=("PD203",), where="backbone/one_bn")


@case
def variances_zeroed_by_a_loader() -> Case:
    model = settle(small_cnn(), X)
    norm = model.get_layer("two_bn")
    norm.moving_variance.assign(tf.zeros_like(norm.moving_variance))
    return Case(model, X, Y, codes=("PD203",), where="two_bn")


@case
def one_variance_zeroed() -> Case:
    model = settle(small_cnn(), X)
    norm = model.get_layer("one_bn")
    norm.moving_variance.assign(tf.where(tf.range(8) == 3, 0.0, tf.convert_to_tensor(norm.moving_variance)))
    return Case(model, X, Y, codes=("PD203",), where="one_bn")


# -- PD301: unmoved ---------------------------------------------------------------------------------------------------


@case
def functional_step_without_the_phase() -> Case:  # the source article, C3
    model = small_cnn("article")

    def apply():
        step = make_step(model)
        for _ in range(3):
            step(X, Y)
        return model

    cure = Followed("call-with-training-true", apply, moved_from_zero, 1e-3, ("keep-the-returned-state",))
    options = {"train_step": make_step(model, training="none")}
    return Case(model, X, Y, options, codes=("PD301",), where="one_bn", cure=cure)


def moved_from_zero(model):
    norm = next(layer for layer in model.layers if isinstance(layer, L.BatchNormalization))
    return float(np.abs(np.array(norm.moving_mean)).mean())


@case
def returned_state_dropped() -> Case:  # keras#20378
    model, optimizer = small_mlp("stateless"), keras.optimizers.Adam(1e-2)
    optimizer.build(model.trainable_variables)

    def make(keep):
        @tf.function
        def step(x, y):
            weights = [v.value for v in model.trainable_variables]
            state = [v.value for v in model.non_trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(weights)
                output, new = model.stateless_call(weights, state, x, training=True)
                value = LOGITS(y, output)
            optimizer.apply_gradients(zip(tape.gradient(value, weights), model.trainable_variables, strict=True))
            for variable, kept in zip(model.non_trainable_variables, new, strict=True) if keep else ():
                variable.assign(kept)

        return step

    def apply():
        step = make(True)
        for _ in range(3):
            step(FLAT, Y)
        return model

    step = make(False)
    for _ in range(3):
        step(FLAT, Y)
    cure = Followed("keep-the-returned-state", apply, moved_from_zero, 1e-3, ("call-with-training-true",))
    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD301", "PD201"), where="norm", cure=cure)


@case
def subclass_step_with_false() -> Case:  # tf#28028
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm, self.head = L.Dense(16), L.BatchNormalization(name="norm"), L.Dense(10)

        def call(self, x, training=False):
            return self.head(tf.nn.relu(self.norm(self.dense(x), training=training)))

    model = Net()
    return Case(model, FLAT, Y, {"train_step": make_step(model, training=False)}, codes=("PD301",), where="norm")


@case
def overridden_train_step_without_the_phase() -> Case:
    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    inputs = keras.Input((64,))
    norm = L.BatchNormalization(name="norm")(L.Dense(16)(inputs))
    model = Own(inputs, L.Dense(10)(L.ReLU()(norm)))
    model.compile("adam", LOGITS)
    return Case(model, FLAT, Y, codes=("PD301",), where="norm")


@case
def eager_step_that_returns_a_float() -> Case:
    model, optimizer = small_mlp("eager"), keras.optimizers.SGD(0.1)

    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=False)
        )
        return float(value)

    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD301",), where="norm")


@case
def generator_never_in_training_mode() -> Case:  # keras#5644
    generator = keras.Sequential(
        [keras.Input((6,)), L.Dense(32), L.BatchNormalization(name="g_norm"), L.ReLU(), L.Dense(64)], name="generator"
    )
    critic = keras.Sequential([keras.Input((64,)), L.Dense(16, "relu"), L.Dense(1)], name="critic")
    g_opt, c_opt = keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3)

    @tf.function
    def step(noise, real):
        with tf.GradientTape() as g_tape, tf.GradientTape() as c_tape:
            fake = generator(noise)
            c_fake = critic(fake, training=True)
            c_loss = tf.reduce_mean(c_fake) - tf.reduce_mean(critic(real, training=True))
            g_loss = -tf.reduce_mean(c_fake)
        g_opt.apply_gradients(
            zip(g_tape.gradient(g_loss, generator.trainable_variables), generator.trainable_variables, strict=True)
        )
        c_opt.apply_gradients(
            zip(c_tape.gradient(c_loss, critic.trainable_variables), critic.trainable_variables, strict=True)
        )
        return c_loss

    noise = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    return Case(generator, noise, FLAT, {"train_step": step}, codes=("PD301",), where="g_norm")


class RunningNorm(L.Layer):
    """A normalisation of one's own, with statistics under names of its own."""

    def __init__(self, decay: float = 0.9, obey_freeze: bool = True, obey_phase: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.decay, self.obey_freeze, self.obey_phase = decay, obey_freeze, obey_phase

    def build(self, shape):
        self.centre = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="centre")
        self.var = self.add_weight(shape=(shape[-1],), initializer="ones", trainable=False, name="var")
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x, training=None):
        update = training or not self.obey_phase
        if update and (self.trainable or not self.obey_freeze):
            mean, var = tf.nn.moments(x, list(range(len(x.shape) - 1)))
            self.centre.assign(self.decay * self.centre + (1 - self.decay) * mean)
            self.var.assign(self.decay * self.var + (1 - self.decay) * var)
        if training:
            mean, var = tf.nn.moments(x, list(range(len(x.shape) - 1)))
            return self.gain * (x - mean) * tf.math.rsqrt(var + 1e-3)
        return self.gain * (x - self.centre) * tf.math.rsqrt(self.var + 1e-3)


@case
def home_made_norm_never_updated() -> Case:
    model = keras.Sequential([keras.Input((64,)), L.Dense(12), RunningNorm(name="own_norm"), L.Dense(10)])
    return Case(model, FLAT, Y, {"train_step": make_step(model, training="none")}, codes=("PD301",), where="own_norm")


@case
def step_with_stateful_noise_and_no_phase() -> Case:  # judged without running it
    model, optimizer = small_mlp("noisy"), keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x + tf.random.normal(tf.shape(x), stddev=0.01)))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=False)
        )
        return value

    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD301",), where="norm")


@case
def training_false_left_in_a_block() -> Case:
    class Block(L.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.hidden, self.norm = L.Dense(16), L.BatchNormalization(name="norm")

        def call(self, x, training=None):
            return tf.nn.relu(self.norm(self.hidden(x), training=False))  # from an hour of debugging

    inputs = keras.Input((64,))
    model = keras.Model(inputs, L.Dense(10)(Block(name="block")(inputs)))
    return Case(model, FLAT, Y, {"train_step": make_step(model)}, codes=("PD301",), where="block/norm")


# -- PD302: more than once --------------------------------------------------------------------------------------------


@case
def second_pass_for_the_metric() -> Case:
    model, optimizer, accuracy = small_cnn("twice"), keras.optimizers.Adam(), keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=False)
        )
        accuracy.update_state(y, model(x, training=True))
        return value

    return Case(model, X, Y, {"train_step": step}, codes=("PD302",), where="one_bn")


@case
def discriminator_on_real_and_fake_apart() -> Case:  # carpedm20/DCGAN-tensorflow#266
    critic = settle(small_cnn("critic", outputs=1), X)
    optimizer = keras.optimizers.Adam()

    @tf.function
    def step(x):
        fake = tf.random.stateless_uniform(tf.shape(x), seed=(1, 2))
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(critic(fake, training=True)) - tf.reduce_mean(critic(x, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(value, critic.trainable_variables), critic.trainable_variables, strict=False)
        )

    return Case(critic, X, None, {"train_step": step}, codes=("PD302",), where="one_bn")


@case
def gradient_accumulation_over_micro_batches() -> Case:  # andreped/GradientAccumulator#6
    model = settle(small_mlp("accumulated"), FLAT)
    optimizer = keras.optimizers.SGD(0.01)

    @tf.function
    def step(x, y):
        total = [tf.zeros_like(v) for v in model.trainable_variables]
        for part in range(4):
            rows = slice(part * 8, part * 8 + 8)
            with tf.GradientTape() as tape:
                value = LOGITS(y[rows], model(x[rows], training=True)) / 4
            total = [t + g for t, g in zip(total, tape.gradient(value, model.trainable_variables), strict=True)]
        optimizer.apply_gradients(zip(total, model.trainable_variables, strict=True))

    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD302",), where="norm")


@case
def time_distributed_batchnorm() -> Case:  # keras#7467
    inputs = keras.Input((8, 8))
    x = L.TimeDistributed(L.BatchNormalization(momentum=0.9, name="per_step"), name="timed")(L.Dense(6)(inputs))
    model = settle(keras.Model(inputs, L.Dense(10)(L.GRU(8)(x))), X[..., 0])
    return Case(model, X[..., 0], Y, codes=("PD302",), where="timed/per_step")


@case
def siamese_branches_in_two_calls() -> Case:  # keras#4808
    encoder = settle(small_cnn("encoder", outputs=8), X)
    optimizer = keras.optimizers.Adam()

    @tf.function
    def step(x):
        flipped = 1.0 - x
        with tf.GradientTape() as tape:
            value = tf.reduce_mean((encoder(x, training=True) - encoder(flipped, training=True)) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(value, encoder.trainable_variables), encoder.trainable_variables, strict=False)
        )

    return Case(encoder, X, None, {"train_step": step}, codes=("PD302",), where="two_bn")


@case
def two_masks_for_one_input_under_train_on_batch() -> Case:  # R-Drop
    class RDrop(keras.Model):
        def __init__(self):
            super().__init__(name="rdrop")
            self.net = keras.Sequential(
                [L.Dense(16), L.BatchNormalization(name="norm"), L.ReLU(), L.Dropout(0.3), L.Dense(10)], name="net"
            )

        def call(self, x, training=None):
            first = self.net(x, training=training)
            if not training:
                return first
            second = self.net(x, training=training)
            self.add_loss(tf.reduce_mean((first - second) ** 2))
            return (first + second) / 2

    model = RDrop()
    model.compile("adam", LOGITS)
    model(FLAT)
    step = lambda x, y: model.train_on_batch(x, y)  # noqa: E731
    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD302",), where="net/norm")


# -- PD303: frozen and moving -----------------------------------------------------------------------------------------


@case
def step_traced_before_freezing() -> Case:  # keras#3268
    base = small_cnn("backbone", outputs=8)
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(10)])
    settle(model, X)
    step = make_step(model)
    step(tf.constant(X), tf.constant(Y))
    base.trainable = False
    return Case(model, X, Y, {"train_step": step}, codes=("PD303",), where="backbone/one_bn")


@case
def home_made_norm_ignores_freezing() -> Case:  # keras#7085
    model = keras.Sequential(
        [keras.Input((64,)), L.Dense(12), RunningNorm(obey_freeze=False, name="stubborn"), L.Dense(10)]
    )
    settle(model, FLAT, 60)
    stubborn = model.layers[1]
    stubborn.trainable = False

    def apply():
        stubborn.obey_freeze = True
        return model

    kept = lambda m: stillness(m, lambda: make_step(m)(FLAT + 1, Y), [stubborn.centre])  # noqa: E731
    cure = Followed("ask-whether-frozen", apply, kept, 0.01, ("freeze-before-compile-and-trace",))
    return Case(model, FLAT, Y, {"train_step": make_step(model)}, codes=("PD303",), where="stubborn", cure=cure)


@case
def optimizer_holds_a_list_from_before() -> Case:  # keras#6405
    model = settle(small_mlp("listed"), FLAT)
    variables = list(model.trainable_variables)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(variables)
    model.get_layer("hidden").trainable = False

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            tape.watch([v._value for v in variables])
            value = LOGITS(y, model(x, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, [v._value for v in variables]), variables, strict=True))

    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD303",), where="hidden")


@case
def weights_clipped_with_the_frozen_ones() -> Case:  # as a Wasserstein critic does, over too long a list
    model = small_mlp()
    model.get_layer("hidden").trainable = False
    optimizer = keras.optimizers.Adam(1e-3)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOGITS(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        for weight in model.weights:
            if "float" in str(weight.dtype):
                weight.assign(tf.clip_by_value(weight, -0.1, 0.1))

    hidden, weights = model.get_layer("hidden"), list(model.weights)

    def apply():
        weights[:] = model.trainable_variables
        return model

    def clip():
        for weight in weights:
            if "float" in str(weight.dtype):
                weight.assign(tf.clip_by_value(weight, -0.1, 0.1))

    def kept(model):
        hidden.kernel.assign(tf.ones_like(hidden.kernel))
        return stillness(model, clip, [hidden.kernel])

    cure = Followed("assign-to-the-trainable-only", apply, kept, 0.5, ("freeze-before-compile-and-trace",))
    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD303",), where="hidden", cure=cure)


# -- PD304: batch mates -----------------------------------------------------------------------------------------------


@case
def training_true_fixed_in_call() -> Case:  # keras#12400
    class Net(keras.Model):
        always = True

        def __init__(self):
            super().__init__()
            self.conv, self.norm = L.Conv2D(6, 3), L.BatchNormalization(name="always")
            self.head = keras.Sequential([L.Flatten(), L.Dense(10)])

        def call(self, x, training=None):
            return self.head(tf.nn.relu(self.norm(self.conv(x), training=self.always or training)))

    model = Net()
    model(X)

    def apply():
        model.always = False
        return model

    cure = Followed("pass-training-false-down", apply, alone_as_in_company, 0.01, ("compute-by-sample",))
    return Case(model, X, Y, codes=("PD304", "PD306"), where="always", cure=cure)


def alone_as_in_company(model, x=X):
    return agreement(model(x[:4], training=False), model(x, training=False)[:4])


@case
def layer_centres_over_the_batch() -> Case:  # tf#39663
    class Centre(L.Layer):
        over = 0

        def call(self, x):
            return x - tf.reduce_mean(x, axis=self.over, keepdims=True)

    model = keras.Sequential([keras.Input((64,)), L.Dense(8, "relu"), Centre(name="centre"), L.Dense(2)])

    def apply():
        model.get_layer("centre").over = 1
        return model

    measure = functools.partial(alone_as_in_company, x=FLAT)
    cure = Followed("compute-by-sample", apply, measure, 0.01, ("pass-training-false-down",))
    return Case(model, FLAT, codes=("PD304",), where="centre", cure=cure)


@case
def softmax_over_the_wrong_axis() -> Case:
    inputs = keras.Input((64,))
    scores = L.Lambda(lambda t: tf.nn.softmax(t, axis=0), name="gate")(L.Dense(8)(inputs))
    return Case(keras.Model(inputs, L.Dense(3)(scores)), FLAT, codes=("PD304",), where="gate")


@case
def scaled_by_the_largest_of_the_batch() -> Case:
    class Scale(L.Layer):
        def call(self, x):
            return x / tf.reduce_max(tf.abs(x))

    x = FLAT.copy()
    x[2] *= 3  # the half with the outlier does not notice the other
    model = keras.Sequential([keras.Input((64,)), Scale(name="scale"), L.Dense(4)])
    return Case(model, x, codes=("PD304",), where="scale")


@case
def recurrence_over_the_batch() -> Case:  # copied from a framework whose RNNs take time first
    class TimeMajor(keras.Model):
        def __init__(self):
            super().__init__(name="time_major")
            self.rnn, self.head = L.LSTM(8, return_sequences=True, name="rnn"), L.Dense(3)

        def call(self, x, training=None):
            states = self.rnn(tf.transpose(x, (1, 0, 2)))
            return self.head(tf.transpose(states, (1, 0, 2))[:, -1])

    x = np.random.default_rng(0).normal(size=(16, 6, 4)).astype("float32")
    return Case(TimeMajor(), x, codes=("PD304",))


# -- PD305: chance ----------------------------------------------------------------------------------------------------


@case
def dropout_fixed_on() -> Case:  # keras#9412
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.drop, self.out = L.Embedding(40, 8), L.Dropout(0.5, name="always_on"), L.Dense(2)

        def call(self, tokens, training=None):
            return self.out(self.drop(tf.reduce_mean(self.embed(tokens), axis=1), training=True))

    model = Net()
    tokens = np.random.default_rng(0).integers(0, 40, (16, 6))
    model(tokens)
    return Case(model, tokens, codes=("PD305",), where="always_on")


@case
def tf_dropout_in_a_lambda() -> Case:  # keras#1606
    drop = L.Lambda(lambda t: tf.nn.dropout(t, 0.4), name="raw_dropout")
    return Case(
        keras.Sequential([keras.Input((64,)), L.Dense(16), drop, L.Dense(10)]),
        FLAT,
        Y,
        codes=("PD305",),
        where="raw_dropout",
    )


@case
def noise_that_ignores_the_phase() -> Case:
    class Noise(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seeds = keras.random.SeedGenerator(3)

        def call(self, x):
            return x + keras.random.normal(tf.shape(x), stddev=0.1, seed=self.seeds)

    inputs = keras.Input((8, 8))
    x = L.LSTM(6)(Noise(name="noise")(inputs))
    return Case(keras.Model(inputs, L.Dense(1)(x)), X[..., 0], codes=("PD305",), where="noise")


# -- PD306: inference that writes -------------------------------------------------------------------------------------


@case
def statistics_updated_at_inference() -> Case:
    model = keras.Sequential(
        [keras.Input((64,)), L.Dense(12), RunningNorm(obey_phase=False, name="eager_norm"), L.Dense(10)]
    )
    return Case(settle(model, FLAT, 60), FLAT * 1.3, Y, codes=("PD306",), where="eager_norm")


@case
def codebook_that_learns_while_serving() -> Case:
    class Codebook(L.Layer):
        def build(self, shape):
            self.codes = self.add_weight(shape=(5, shape[-1]), trainable=False, initializer="uniform", name="codes")

        def call(self, x):
            nearest = tf.argmin(tf.reduce_sum((x[:, None] - self.codes[None]) ** 2, -1), -1)
            picked = tf.gather(self.codes, nearest)
            counts = tf.one_hot(nearest, 5)
            means = tf.math.divide_no_nan(tf.matmul(counts, x, transpose_a=True), tf.reduce_sum(counts, 0)[:, None])
            self.codes.assign(0.9 * self.codes + 0.1 * means)
            return picked

    model = keras.Sequential([keras.Input((64,)), L.Dense(4), Codebook(name="codebook"), L.Dense(2)])
    return Case(model, FLAT, codes=("PD306",), where="codebook")


# -- PD307, PD308, PD309 ----------------------------------------------------------------------------------------------


@case
def every_prediction_the_same() -> Case:  # the source article, C3 and C7
    inputs = keras.Input((8, 8, 1))
    x = inputs
    for i in range(4):
        x = conv_block(x, 8, f"b{i}", momentum=0.99, kernel_initializer=keras.initializers.RandomNormal(stddev=0.02))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    step = make_step(model, training="none")
    for _ in range(2):
        step(X, Y % 2)

    def apply():
        recalibrate(model, [X])
        return model

    spread = lambda m: float(np.std(np.array(m(X, training=False)), axis=0).mean())  # noqa: E731
    harms = ("train-longer-or-re-estimate", "tell-data-from-statistics", "prepare-the-input-as-in-training")
    cure = Followed("repair-the-statistics", apply, spread, 0.05, harms)  # what PD307 and PD308 say
    return Case(model, X, Y % 2, {"loss": LOGITS}, codes=("PD201", "PD307", "PD308"), where="b0_bn", cure=cure)


@case
def dropout_that_forgets_to_rescale() -> Case:
    class Drop(L.Layer):
        def call(self, x, training=None):
            return x * 0.2 if training else x

    model = keras.Sequential([keras.Input((64,)), L.Dense(16, "relu"), Drop(name="unscaled"), L.Dense(10)])
    return Case(model, FLAT, Y, {"train_step": make_step(model)}, codes=("PD308",), where="unscaled")


@case
def default_of_call_is_true() -> Case:  # the source article, C10
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="eager_default")
            self.dense, self.norm, self.head = L.Dense(16), L.BatchNormalization(momentum=0.9), L.Dense(10)

        def call(self, x, training=True):
            return self.head(tf.nn.relu(self.norm(self.dense(x), training=training)))

    model = Net()
    return Case(settle(model, FLAT), FLAT, Y, codes=("PD309",), where="eager_default")


@case
def stochastic_depth_that_drops_all_at_inference() -> Case:
    class DropPath(L.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, x, training=None):
            if training:
                return x * tf.cast(keras.random.uniform((tf.shape(x)[0], 1), seed=self.seeds) < 0.8, x.dtype) / 0.8
            return x * 0.0

    model = keras.Sequential([keras.Input((64,)), L.Dense(16, "relu"), DropPath(name="drop_path"), L.Dense(10)])
    return Case(model, FLAT, Y, {"train_step": make_step(model)}, codes=("PD307",))


# -- PD4: artifacts ---------------------------------------------------------------------------------------------------


def saved(model, path, training, batch=None):
    serve = tf.function(functools.partial(model, training=training))
    spec = tf.TensorSpec([batch, *model.input_shape[1:]], "float32", name="image")
    tf.saved_model.save(model, str(path), signatures=serve.get_concrete_function(spec))
    return path


@case
def exported_in_training_mode(tmp_path) -> Case:  # tf#26075
    model = settle(small_cnn("shipped"), X)
    return Case(model, X, Y, {"artifact": saved(model, tmp_path / "train", True)}, codes=("PD401", "PD402"))


@case
def export_of_a_model_with_resizing(tmp_path) -> Case:  # keras#23166
    inputs = keras.Input((8, 8, 1))
    x = L.BatchNormalization(momentum=0.9)(L.Flatten()(L.Resizing(6, 6, name="resize")(inputs)))
    model = settle(keras.Model(inputs, L.Dense(10)(x)), X)
    model.export(str(tmp_path / "exported"))
    return Case(model, X, Y, {"artifact": tmp_path / "exported"}, codes=("PD106", "PD402", "PD401"))


@case
def export_with_a_fixed_batch(tmp_path) -> Case:
    model = settle(small_cnn("fixed"), X)
    return Case(model, X, Y, {"artifact": saved(model, tmp_path / "fixed", False, 1)}, codes=("PD403",))


@case
def stale_lite_artifact(tmp_path) -> Case:
    model = settle(small_mlp("lite"), FLAT)
    write_lite(model, [None, 64], tmp_path / "old.tflite")
    settle(model, FLAT)
    model.get_layer("head").kernel.assign(model.get_layer("head").kernel * 1.5)

    def apply():
        write_lite(model, [None, 64], tmp_path / "old.tflite")
        return model

    def served(model):
        serve = tf.lite.Interpreter(str(tmp_path / "old.tflite"))
        (given,), (answer,) = serve.get_input_details(), serve.get_output_details()
        serve.resize_tensor_input(given["index"], FLAT.shape)
        serve.allocate_tensors()
        serve.set_tensor(given["index"], FLAT)
        serve.invoke()
        return agreement(serve.get_tensor(answer["index"]), model(FLAT, training=False))

    cure = Followed("score-both", apply, served, 0.1, ("export-with-training-false",))
    return Case(model, FLAT, Y, {"artifact": tmp_path / "old.tflite"}, codes=("PD401",), cure=cure)


# -- PD310: the step trains with dropout off --------------------------------------------------------------------------


def dropping_mlp(name: str = "dropping") -> keras.Model:
    layers = [L.Dense(24, "relu"), L.Dropout(0.4, name="drop"), L.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *layers], name=name)


@case
def dropout_in_a_loop_that_names_no_phase() -> Case:
    model = dropping_mlp()
    return Case(model, FLAT, Y, {"train_step": make_step(model, training="none")}, codes=("PD310",), where="dropping")


@case
def own_train_step_that_calls_itself_without_a_phase() -> Case:
    class Bare(keras.Model):
        def __init__(self):
            super().__init__(name="bare")
            self.body = dropping_mlp("body")

        def call(self, x, training=False):  # the default looks written when it is handed down
            return self.body(x, training=training)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return {"loss": loss}

    model = Bare()
    model.compile("adam", LOGITS)
    model.fit(FLAT, Y, verbose=0)
    return Case(model, FLAT, Y, codes=("PD310",), where="bare")


@case
def critic_whose_spectral_norm_never_runs() -> Case:
    """The loss is linear in the output, so no update hangs on the last layer's value."""
    layers = [L.SpectralNormalization(L.Dense(12)), L.LeakyReLU(), L.SpectralNormalization(L.Dense(1))]
    critic = keras.Sequential([keras.Input((64,)), *layers], name="critic")
    optimizer, seeds = keras.optimizers.RMSprop(1e-3), keras.random.SeedGenerator(0)

    @tf.function
    def step(real):
        fake = keras.random.normal(tf.shape(real), seed=seeds)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(critic(fake)) - tf.reduce_mean(critic(real))
        variables = critic.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    step(tf.constant(FLAT))
    return Case(critic, FLAT, None, {"train_step": step}, codes=("PD310",), where="critic")


@case
def spectral_norm_whose_vector_is_old() -> Case:
    """The kernels were trained by calls that leave the power iteration alone: the bound of 1 does not hold."""
    layers = [L.SpectralNormalization(L.Dense(12, name="inner"), name="first"), L.LeakyReLU(), L.Dense(10)]
    critic = keras.Sequential([keras.Input((64,)), *layers], name="critic")
    critic.compile(keras.optimizers.Adam(3e-2), LOGITS)
    critic.fit(FLAT, Y, epochs=1, verbose=0)
    critic.layers[0].layer.kernel.assign(critic.layers[0].layer.kernel * 5)

    def largest(model):
        return -float(np.linalg.svd(np.array(model.layers[0].layer.kernel), compute_uv=False)[0])

    def apply():
        step = make_step(critic)
        for _ in range(20):
            step(FLAT, Y)
        return critic

    cure = Followed("update-it-in-every-step", apply, largest, 3, ("repair-the-layer", "repair-the-statistics"))
    return Case(critic, FLAT, Y, codes=("PD308",), where="first/inner", cure=cure)


@case
def recurrent_dropout_in_a_loop_of_steps() -> Case:
    """AutoGraph makes a graph of its own of the loop's body."""
    inputs = keras.Input((8, 8))
    h = L.LSTM(8, recurrent_dropout=0.3, name="lstm")(inputs)
    model = keras.Model(inputs, L.Dense(10)(h), name="sequence")
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        loss = 0.0
        for _ in tf.range(2):
            with tf.GradientTape() as tape:
                loss = LOGITS(y, model(x))
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return Case(model, X[..., 0], Y, {"train_step": step}, codes=("PD310",), where="sequence")


@case
def attention_dropout_inside_strategy_run() -> Case:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        inputs = keras.Input((8, 8))
        h = L.MultiHeadAttention(2, 4, dropout=0.2)(inputs, inputs)
        model = keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling1D()(h)), name="attentive")
        optimizer = keras.optimizers.Adam(1e-3)
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = LOGITS(y, model(x))
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        return strategy.run(replica, args=(x, y))

    return Case(model, X[..., 0], Y, {"train_step": step}, codes=("PD310",), where="attentive")


@case
def stateless_call_that_hands_back_what_it_got() -> Case:
    """Every statistic is assigned, with the value that it had."""
    model = small_mlp("stateless")
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        weights = [v.value for v in model.trainable_variables]
        state = [v.value for v in model.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, state = model.stateless_call(weights, state, x)
            loss = LOGITS(y, outputs)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), model.trainable_variables, strict=True))
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return loss

    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD301", "PD310"), where="norm")


@case
def denoiser_whose_noise_stays_off() -> Case:
    """No weight comes before it, so no gradient passes through it; all that is learnt hangs on it."""
    layers = [L.GaussianNoise(0.3, name="noise"), L.Dense(16, "relu"), L.Dense(64)]
    model = keras.Sequential([keras.Input((64,)), *layers], name="denoiser")
    step = make_step(model, loss=keras.losses.MeanSquaredError(), training="none")
    return Case(model, FLAT, FLAT, {"train_step": step}, codes=("PD310",), where="denoiser")


@case
def noisy_labels_learnt_by_heart() -> Case:
    """64 digits, a third of them mislabelled: without its dropout the network is sure of what it does not know."""
    generator = np.random.default_rng(0)
    few, said = IMAGES[:64].reshape(64, 64), LABELS[:64].copy()
    wrong = generator.random(64) < 0.3
    said[wrong] = generator.integers(0, 10, wrong.sum())

    def trained(training):
        keras.utils.set_random_seed(1)
        layers = [L.Dense(256, "relu"), L.Dropout(0.6, name="drop"), L.Dense(10)]
        model = keras.Sequential([keras.Input((64,)), *layers], name="dropping")
        step = make_step(model, optimizer=keras.optimizers.Adam(3e-3), training=training)
        for _ in range(150):
            step(few, said)
        return model, step

    model, step = trained("none")
    # Minus the loss on other digits: -2.9 without dropout, -1.9 with it.
    cure = Followed("say-training-in-the-step", lambda: trained(True)[0], unseen_loss, 0.5, ("declare-training",))
    return Case(model, few, said, {"train_step": step}, codes=("PD310",), where="dropping", cure=cure)


def unseen_loss(model):
    """Minus the loss on digits that no case trains on."""
    images, labels = IMAGES[1000:], LABELS[1000:]
    return -float(LOGITS(labels, model(images.reshape(-1, *model.input_shape[1:]), training=False)))


# -- PD311: the step moves statistics of what it does not train -------------------------------------------------------


@case
def teacher_in_the_training_phase() -> Case:
    teacher, student = settle(small_mlp("teacher"), FLAT), settle(small_mlp("student"), FLAT)

    class Distiller(keras.Model):
        def __init__(self):
            super().__init__(name="distiller")
            self.student, self.teacher = student, teacher

        def call(self, x, training=None):
            return self.student(x, training=training)

    model = Distiller()
    model(FLAT)
    optimizer = keras.optimizers.Adam(1e-3)

    @tf.function
    def step(x, y):
        soft = tf.nn.softmax(teacher(x, training=True))
        with tf.GradientTape() as tape:
            out = student(x, training=True)
            loss = LOGITS(y, out) + tf.reduce_mean(keras.losses.kl_divergence(soft, tf.nn.softmax(out)))
        variables = student.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return Case(model, FLAT, Y, {"train_step": step}, codes=("PD311",), where="teacher/norm")


@case
def teacher_told_on_other_data() -> Case:
    """Ten steps of the student on inverted images, and the teacher no longer knows its own."""
    teacher = fitted(small_mlp("teacher"))
    taught = teacher.get_weights()
    other = tf.constant(1 - IMAGES[:256].reshape(-1, 64))

    def distilled(phase):
        teacher.set_weights(taught)
        student, optimizer = small_mlp("student"), keras.optimizers.Adam(1e-3)
        both = keras.Model(student.inputs, [student.outputs[0], teacher(student.inputs[0])], name="both")
        variables = student.trainable_variables

        def step(x):
            soft = tf.nn.softmax(teacher(x, training=phase))
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.kl_divergence(soft, tf.nn.softmax(student(x, training=True))))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

        for _ in range(10):
            step(other)
        return both, step

    both, step = distilled(True)
    cure = Followed("run-the-untrained-in-inference", lambda: distilled(False)[0], lambda both: right(teacher), 0.3)
    return Case(both, other, None, {"train_step": step}, codes=("PD311",), where="teacher/norm", cure=cure)


@case
def head_alone_is_trained_and_the_backbone_told() -> Case:
    """Nothing is frozen by a flag: the step picks the head's weights."""
    model = settle(small_cnn("flat"), X)
    step = make_step(model, compiled=False, variables=model.layers[-1].trainable_variables)
    return Case(model, X, Y, {"train_step": step}, codes=("PD311",), where="one_bn")


# -- PD107: a layer unfrozen inside a frozen model ---------------------------------------------------------------------


@case
def last_layers_thawed_inside_a_frozen_model() -> Case:
    model = settle(small_cnn("pretrained"), X)
    model.trainable = False
    for layer in model.layers[-6:]:
        layer.trainable = True
    model.compile(keras.optimizers.Adam(1e-2), LOGITS)

    def learnt(model):
        before = float(LOGITS(Y, model(X, training=False)))
        model.fit(X, Y, epochs=20, verbose=0)
        return before - float(LOGITS(Y, model(X, training=False)))

    def apply():
        model.trainable = True
        for layer in model.layers[:-6]:
            layer.trainable = False
        model.compile(keras.optimizers.Adam(1e-2), LOGITS)
        return model

    cure = Followed("thaw-the-model-first", apply, learnt, 0.3, ("compile-again", "freeze-before-compile-and-trace"))
    return Case(model, X, Y, codes=("PD107",), where="pretrained", cure=cure)


@case
def head_thawed_inside_a_frozen_model_without_statistics() -> Case:
    model = keras.Sequential([keras.Input((64,)), L.Dense(16, "relu"), L.Dense(10)], name="plain")
    model.trainable = False
    model.layers[-1].trainable = True
    model.compile("sgd", LOGITS)
    return Case(model, FLAT, Y, codes=("PD107",), where="plain")


# -- PD204: momentum at 0.1 or below ----------------------------------------------------------------------------------


@case
def momentum_of_another_framework() -> Case:
    def trained(momentum):
        keras.utils.set_random_seed(0)
        model = small_mlp(momentum=momentum)
        step, generator = make_step(model, optimizer=keras.optimizers.Adam(1e-2)), np.random.default_rng(0)
        for _ in range(60):
            rows = generator.choice(1000, 4)
            step(IMAGES[rows].reshape(-1, 64), LABELS[rows])
        return model

    cure = Followed("keep-nine-tenths", lambda: trained(0.9), unseen_loss, 0.1, ("train-longer-or-re-estimate",))
    return Case(trained(0.1), FLAT, Y, codes=("PD204",), where="norm", cure=cure)


@case
def epsilon_handed_in_as_momentum() -> Case:
    return Case(small_cnn(momentum=1e-3), X, Y, codes=("PD204",), where="one_bn")


# -- outputs in a dataclass -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Output:
    scores: object
    hidden: object = None


@case
def dataclass_whose_batch_mates_matter() -> Case:
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="centred")
            self.hidden, self.head = L.Dense(32, activation="gelu"), L.Dense(4)

        def call(self, x, training=None):
            hidden = self.head(self.hidden(x))
            return Output(hidden - tf.reduce_mean(hidden, 0, keepdims=True), {"hidden": hidden})

    return Case(Net(), FLAT, codes=("PD304",))
