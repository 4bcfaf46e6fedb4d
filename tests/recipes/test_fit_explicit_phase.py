"""What `fit` passes, why validation lags, and what re-estimating the statistics does and leaves alone."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import fit_explicit_phase as recipe
import keras
import numpy as np
import pytest
import tensorflow as tf

BN = keras.layers.BatchNormalization
# Batch means leave Keras in float32 (relative error 6e-8 each); a few roundings more on the way.
FLOAT32 = {"rtol": 2e-6, "atol": 2e-6}


def mean_and_variance(layer):
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def expect(layer, values, **tolerance):
    """The layer holds the population mean and variance of `values`, pooled over all axes but the last."""
    pooled = np.asarray(values, "float64").reshape(-1, values.shape[-1])
    mean, variance = mean_and_variance(layer)
    np.testing.assert_allclose(mean, pooled.mean(0), **(tolerance or FLOAT32))
    np.testing.assert_allclose(variance, pooled.var(0), **(tolerance or FLOAT32))


def everything(model):
    """All state a training run carries: weights, seeds, metrics, optimizer, by value."""
    variables = list(model.variables) + (list(model.optimizer.variables) if model.compiled else [])
    return [np.array(variable.numpy()) for variable in variables]


def assert_same(before, after):
    assert len(before) == len(after) > 0
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)  # NaN equals NaN here


@pytest.fixture
def sorted_batches():
    """Class-sorted, unequal batches: means 0, 5 and -20, sizes 40, 24 and 8."""
    generator = np.random.default_rng(0)
    return [
        (generator.normal(mean, scale, (rows, 3)) + np.arange(3)).astype("float32")
        for mean, scale, rows in ((0, 1, 40), (5, 2, 24), (-20, 0.5, 8))
    ]


def single(layer, shape=(3,)):
    """A model that is one layer."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


# ---------------------------------------------------------------- how long until the statistics mean something


@pytest.mark.parametrize(("momentum", "remaining", "steps"), [(0.99, 0.05, 299), (0.999, 0.05, 2995), (0.5, 0.25, 2)])
def test_steps_until_meaningful_known_values(momentum, remaining, steps):
    assert recipe.steps_until_meaningful(momentum, remaining) == steps


def test_steps_until_meaningful_is_the_smallest_such_number():
    for momentum in (0.0, 0.1, 0.5, 0.9, 0.97, 0.99, 0.999, 0.9999):
        for remaining in (0.9, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001):
            steps = recipe.steps_until_meaningful(momentum, remaining)
            assert steps >= 1
            assert momentum**steps <= remaining * (1 + 1e-8)  # up to rounding
            assert steps == 1 or momentum ** (steps - 1) > remaining


def test_a_momentum_made_for_n_steps_takes_n_steps():
    assert [recipe.steps_until_meaningful(0.05 ** (1 / n)) for n in range(1, 400)] == list(range(1, 400))


def test_keras_really_keeps_momentum_to_the_n():
    layer = BN(momentum=0.9)
    constant = np.full((4, 1), 7.0, "float32")  # mean 7, variance 0
    for _ in range(recipe.steps_until_meaningful(0.9, 0.5)):
        layer(constant, training=True)
    assert recipe.steps_until_meaningful(0.9, 0.5) == 7
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.9**7, rtol=1e-5)  # of the initial 1
    np.testing.assert_allclose(layer.moving_mean.numpy(), 7 * (1 - 0.9**7), rtol=1e-5)


@pytest.mark.parametrize("arguments", [(1.0,), (-0.1,), (float("nan"),), (0.9, 0.0), (0.9, 1.0)])
def test_steps_until_meaningful_refuses(arguments):
    with pytest.raises(ValueError, match=r"momentum must be in|remaining must be"):
        recipe.steps_until_meaningful(*arguments)


# ---------------------------------------------------------------- momentum across a model


class Block(keras.layers.Layer):
    """A layer that holds a layer in a list, as blocks do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [BN()]

    def build(self, shape):
        self.parts[0].build(shape)

    def call(self, x, training=None):
        return self.parts[0](x, training=training)


def nested():
    inner = keras.Sequential([keras.Input((3,)), BN(), Block()])
    inputs = keras.Input((3,))
    return keras.Model(inputs, BN()(inner(inputs)))


def test_set_momentum_reaches_every_level():
    model = nested()
    assert recipe.set_momentum(model, 0.75) == 3
    assert [layer.momentum for layer in recipe.batch_normalization_layers(model)] == [0.75] * 3


def test_set_momentum_takes_effect_in_a_compiled_model_and_the_attribute_alone_does_not():
    model = single(BN(momentum=0.9))
    model.compile("sgd", "mse")
    x = np.full((4, 3), 1.0, "float32")  # batch mean 1
    layer = model.layers[1]

    def moved():
        layer.moving_mean.assign([0.0] * 3)
        model.fit(x, x, verbose=0)
        return layer.moving_mean.numpy()[0]

    assert moved() == pytest.approx(0.1)
    layer.momentum = 0.5
    assert moved() == pytest.approx(0.1)  # the pitfall: the traced step keeps 0.9
    recipe.set_momentum(model, 0.5)
    assert moved() == pytest.approx(0.5)


def test_set_momentum_refuses_before_changing():
    model = nested()
    for momentum in (1, 1.5, -0.1):
        with pytest.raises(ValueError, match="momentum must be in"):
            recipe.set_momentum(model, momentum)
    assert {layer.momentum for layer in recipe.batch_normalization_layers(model)} == {0.99}
    with pytest.raises(ValueError, match="holds no BatchNormalization layer"):
        recipe.set_momentum(single(keras.layers.Dense(1)), 0.9)


# ---------------------------------------------------------------- which phase a step states


class Spy(keras.layers.Layer):
    """Records the phase it is given each time it is traced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.phases = set()

    def call(self, x, training=None):
        self.phases.add(training)
        return x


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.spy, self.norm, self.dense = Spy(), BN(momentum=0.5), keras.layers.Dense(1)

    def build(self, shape):
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x, training=None):
        return self.dense(self.norm(self.spy(x, training=training), training=training))


class DefaultsToTraining(Subclass):
    def call(self, x, training=True):
        return super().call(x, training=training)


class WithoutArgument(Subclass):
    def call(self, x):
        return self.dense(self.norm(self.spy(x)))


class ManyArguments(Subclass):
    def call(self, x, **kwargs):
        return self.dense(self.norm(self.spy(x)))


class ExplicitSubclass(recipe.ExplicitPhase, Subclass):
    pass


class ExplicitDefaultsToTraining(recipe.ExplicitPhase, DefaultsToTraining):
    pass


class ExplicitWithoutArgument(recipe.ExplicitPhase, WithoutArgument):
    pass


class ExplicitManyArguments(recipe.ExplicitPhase, ManyArguments):
    pass


class ExplicitSequential(recipe.ExplicitPhase, keras.Sequential):
    pass


def functional():
    inputs = keras.Input((3,))
    return recipe.Net(inputs, keras.layers.Dense(1)(BN(momentum=0.5)(Spy()(inputs))))


def sequential():
    return ExplicitSequential([keras.Input((3,)), Spy(), BN(momentum=0.5), keras.layers.Dense(1)])


def subclass(kind):
    model = kind()
    model.build((None, 3))
    return model


def spy_and_norm(model):
    layers = list(model._flatten_layers())
    return next(x for x in layers if isinstance(x, Spy)), next(x for x in layers if isinstance(x, BN))


X = np.random.default_rng(0).normal(2, 3, (10, 3)).astype("float32")
Y = np.random.default_rng(1).normal(0, 1, (10, 1)).astype("float32")
ROUTES = {
    "fit": (lambda model: model.fit(X, Y, verbose=0, batch_size=10), True),
    "train_on_batch": (lambda model: model.train_on_batch(X, Y), True),
    "evaluate": (lambda model: model.evaluate(X, Y, verbose=0), False),
    "test_on_batch": (lambda model: model.test_on_batch(X, Y), False),
    "predict": (lambda model: model.predict(X, verbose=0), False),
    "predict_on_batch": (lambda model: model.predict_on_batch(X), False),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "make", [functional, sequential, lambda: subclass(ExplicitSubclass), lambda: subclass(ExplicitDefaultsToTraining)]
)
def test_every_route_states_its_phase(route, make):
    run, phase = ROUTES[route]
    model = make()
    model.compile("sgd", "mse", run_eagerly=True)
    spy, norm = spy_and_norm(model)
    spy.phases.clear()
    moving = norm.moving_mean.numpy().copy()
    run(model)
    assert phase in spy.phases
    assert (not phase) not in spy.phases
    assert np.any(norm.moving_mean.numpy() != moving) == phase


def test_validation_in_fit_is_in_the_inference_phase():
    model = functional()
    model.compile("sgd", "mse")
    spy, _ = spy_and_norm(model)
    history = model.fit(X, Y, validation_data=(X, Y), batch_size=10, verbose=0).history
    assert spy.phases >= {True, False}
    assert history["val_loss"][0] == pytest.approx(np.mean((model(X, training=False).numpy() - Y) ** 2), rel=1e-5)


def test_keras_passes_true_false_and_to_a_call_without_the_argument_nothing():
    told = subclass(Subclass)
    told.compile("sgd", "mse")
    told.fit(X, Y, verbose=0)
    assert True in spy_and_norm(told)[0].phases
    for kind in (WithoutArgument, ManyArguments):
        untold = subclass(kind)
        untold.compile("sgd", "mse")
        spy, norm = spy_and_norm(untold)
        untold.fit(X, Y, epochs=2, verbose=0)
        assert True not in spy.phases
        np.testing.assert_array_equal(norm.moving_mean.numpy(), 0)  # the pitfall still bites, silently


@pytest.mark.parametrize("kind", [ExplicitWithoutArgument, ExplicitManyArguments])
@pytest.mark.parametrize("route", ["fit", "evaluate", "predict"])
def test_the_mixin_refuses_a_call_that_cannot_be_told(kind, route):
    model = subclass(kind)
    model.compile("sgd", "mse")
    before = everything(model)
    with pytest.raises(TypeError, match="has no argument named 'training'"):
        ROUTES[route][0](model)
    assert_same(before, everything(model))


@pytest.fixture
def mixed_float16():
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy(policy)


def train_alike(kind, run_eagerly):
    """Two epochs with sample weights, dropout, a penalty and a weighted metric."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.3)(BN()(keras.layers.Dense(8, kernel_regularizer="l2")(inputs)))
    model = kind(inputs, keras.layers.Dense(1, dtype="float32")(x))
    model.compile("adam", "mse", metrics=["mae"], weighted_metrics=["mse"], run_eagerly=run_eagerly)
    weights = np.linspace(0.1, 2, len(X)).astype("float32")
    fitted = model.fit(X, Y, 5, 2, 0, sample_weight=weights, validation_data=(X, Y))
    return model, fitted.history


class PlainNet(keras.Model):
    pass


def assert_trained_alike(run_eagerly):
    (plain, plain_logs), (explicit, explicit_logs) = (train_alike(kind, run_eagerly) for kind in (PlainNet, recipe.Net))
    assert_same(everything(plain), everything(explicit))
    for name in plain_logs:  # a mean over rows, divided in another order on Keras 3.0
        assert explicit_logs[name] == pytest.approx(plain_logs[name], rel=1e-6)
    return explicit


@pytest.mark.parametrize("run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_mixin_trains_exactly_as_keras_does(run_eagerly):
    assert_trained_alike(run_eagerly)


def test_the_mixin_scales_the_loss_under_mixed_precision_as_keras_does(mixed_float16):
    assert type(assert_trained_alike(True).optimizer).__name__ == "LossScaleOptimizer"


def test_the_reported_loss_counts_rows_not_batches():
    """Batches of 8 and 2. Keras reports the plain mean of batch losses in its early 3.x releases."""
    model = functional()
    model.compile("sgd", "mse", run_eagerly=True)
    reported = model.evaluate(X, Y, batch_size=8, verbose=0)
    errors = (model(X, training=False).numpy() - Y) ** 2
    assert reported == pytest.approx(errors.mean(), rel=1e-5)
    assert abs(errors.mean() - (errors[:8].mean() + errors[8:].mean()) / 2) > 0.05 * errors.mean()


# ---------------------------------------------------------------- exact statistics


def test_statistics_are_the_population_s_and_not_an_average_of_averages(sorted_batches):
    model = single(BN())
    layer = model.layers[1]
    assert recipe.recalibrate(model, sorted_batches) == [layer.name]
    expect(layer, np.concatenate(sorted_batches))
    # What dropping the between-batch part would give: another number by far.
    within = np.mean([batch.var(0) for batch in sorted_batches], axis=0)
    assert np.all(layer.moving_variance.numpy() > 10 * within)
    # Averaging the batch means without their sizes: another mean.
    assert np.all(np.abs(layer.moving_mean.numpy() - np.mean([batch.mean(0) for batch in sorted_batches], 0)) > 3)


def test_an_earlier_estimate_and_poisoned_statistics_leave_no_trace(sorted_batches):
    model = single(BN())
    layer = model.layers[1]
    layer.moving_mean.assign([np.nan] * 3)
    layer.moving_variance.assign([np.inf] * 3)
    recalibrator = recipe.Recalibrator(model)
    recalibrator([batch * 100 for batch in sorted_batches])
    recalibrator(sorted_batches)
    expect(layer, np.concatenate(sorted_batches))


@pytest.mark.parametrize("synchronized", [False, True])
def test_a_large_offset_does_not_cancel(synchronized):
    # In float32, E[x**2] - E[x]**2 of values near 3000 is off by about 3000**2 * 6e-8 = 0.5: half the variance here.
    generator = np.random.default_rng(0)
    batches = [(3000 + generator.normal(0, 1, (rows, 2))).astype("float32") for rows in (64, 7, 300)]
    pooled = np.concatenate(batches).astype("float64")
    model = single(BN(synchronized=synchronized), (2,))
    recipe.recalibrate(model, batches)
    mean, variance = mean_and_variance(model.layers[1])
    np.testing.assert_allclose(mean, pooled.mean(0), rtol=1e-6)
    # Batch means near 3000 are float32 numbers, 2.4e-4 apart: squared, and times a deviation of up to 0.4.
    np.testing.assert_allclose(variance, pooled.var(0), atol=1e-3)


def test_each_layer_of_a_deep_net_sees_what_training_gives_it(sorted_batches):
    """Second layer: its inputs are normalised with each batch's own statistics, as in a training step."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    first, dense, second = BN(), keras.layers.Dense(4, activation="tanh"), BN()
    model = keras.Model(inputs, second(dense(first(inputs))))
    recipe.recalibrate(model, [(batch, np.zeros(len(batch))) for batch in sorted_batches])
    expect(first, np.concatenate(sorted_batches))
    kernel, bias = (weight.numpy().astype("float64") for weight in dense.weights)
    hidden = []
    for batch in sorted_batches:
        batch = batch.astype("float64")
        hidden.append(np.tanh((batch - batch.mean(0)) / np.sqrt(batch.var(0) + first.epsilon) @ kernel + bias))
    expect(second, np.concatenate(hidden), rtol=1e-5, atol=1e-5)  # float32 through a product and tanh


def test_a_constant_has_no_variance_not_a_negative_one():
    constants = 2.0**24 - 1 - 2 * np.arange(500, dtype="float32")  # all 24 bits in use: their squares sum up rounded
    model = single(BN(), (500,))
    recipe.recalibrate(model, [constants[None]] * 37)
    variance = model.layers[1].moving_variance.numpy()
    assert np.all(variance >= 0)
    assert np.all(variance <= 1e-15 * constants**2)  # some float64 roundings (1.1e-16) of the square
    np.testing.assert_array_equal(model.layers[1].moving_mean.numpy(), constants)


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 4, 5)), (-1, (4, 5, 3)), (-1, (4, 5, 1))])
def test_axes_and_a_single_channel(axis, shape):
    generator = np.random.default_rng(0)
    batches = [(generator.normal(rows, 1, (rows, *shape))).astype("float32") for rows in (6, 2)]
    model = single(BN(axis=axis), shape)
    recipe.recalibrate(model, batches)
    expect(model.layers[1], np.moveaxis(np.concatenate(batches), axis, -1))


def test_a_shared_layer_pools_all_its_calls(sorted_batches):
    shared = BN()
    left, right = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([left, right], shared(left) + shared(shared(right)))
    recipe.recalibrate(model, [((batch, 2 * batch + 1), batch) for batch in sorted_batches])
    values = []
    for batch in sorted_batches:
        right_values = 2 * batch.astype("float64") + 1
        normal = (right_values - right_values.mean(0)) / np.sqrt(right_values.var(0) + shared.epsilon)
        values += [batch, right_values, normal]
    expect(shared, np.concatenate(values))


def test_a_layer_called_in_a_graph_loop_pools_all_steps():
    class Loop(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BN()

        def build(self, shape):
            self.norm.build((shape[0], shape[2]))

        def call(self, x, training=None):
            return tf.while_loop(
                lambda step, total: step < tf.shape(x)[1],
                lambda step, total: (step + 1, total + self.norm(x[:, step], training=training)),
                [0, tf.zeros_like(x[:, 0])],
            )[1]

    model = Loop()
    model.build((None, 5, 3))
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 3)).astype("float32")
    x += np.arange(5, dtype="float32")[:, None]  # each step has a mean of its own
    recipe.recalibrate(model, [x[:6], x[6:]])
    expect(model.norm, x)


def test_nested_layers_and_frozen_ones(sorted_batches):
    model = nested()
    inner = model.layers[1]
    frozen, in_block, outer = [*recipe.batch_normalization_layers(inner), model.layers[2]]
    frozen.trainable = False
    assert set(recipe.recalibrate(model, sorted_batches)) == {in_block.name, outer.name}
    np.testing.assert_array_equal(frozen.moving_mean.numpy(), 0)
    np.testing.assert_array_equal(frozen.moving_variance.numpy(), 1)
    # A frozen layer with the initial statistics divides by sqrt(1 + epsilon), so the next one sees that.
    expect(in_block, np.concatenate(sorted_batches) / np.sqrt(1 + frozen.epsilon))

    model = nested()
    model.layers[1].trainable = False  # the parent
    assert recipe.recalibrate(model, sorted_batches) == [model.layers[2].name]
    for layer in recipe.batch_normalization_layers(model.layers[1]):
        np.testing.assert_array_equal(layer.moving_mean.numpy(), 0)

    model.trainable = False
    before = everything(model)
    assert recipe.recalibrate(model, sorted_batches) == []
    assert_same(before, everything(model))


def test_freezing_between_two_uses_is_noticed(sorted_batches):
    model = nested()
    recalibrator = recipe.Recalibrator(model)
    recalibrator(sorted_batches)
    before = model.layers[2].moving_mean.numpy()
    model.layers[2].trainable = False
    recalibrator([batch + 100 for batch in sorted_batches])
    np.testing.assert_array_equal(model.layers[2].moving_mean.numpy(), before)
    layer = recipe.batch_normalization_layers(model.layers[1])[0]
    expect(layer, np.concatenate(sorted_batches) + 100, rtol=1e-5, atol=1e-4)


def test_a_layer_called_with_training_false_keeps_its_statistics_and_is_named(sorted_batches):
    class Half(Subclass):
        def call(self, x, training=None):
            return self.second(self.norm(x, training=training), training=False)

        def build(self, shape):
            super().build(shape)
            self.second = BN(name="reference_statistics")
            self.second.build(shape)

    model = subclass(Half)
    with pytest.warns(UserWarning, match="'reference_statistics' never ran in the training phase"):
        assert recipe.recalibrate(model, sorted_batches) == [model.norm.name]
    np.testing.assert_array_equal(model.second.moving_mean.numpy(), 0)
    expect(model.norm, np.concatenate(sorted_batches))


def masked_model(**arguments):
    inputs, mask = keras.Input((4, 2)), keras.Input((4,), dtype="bool")
    return keras.Model([inputs, mask], BN(**arguments)(inputs, mask=mask))


def masked_batches():
    generator = np.random.default_rng(0)
    batches = []
    for rows, share in ((12, 0.9), (5, 0.3), (3, 0.0)):  # the last one is padding only
        x, mask = generator.normal(rows, 1, (rows, 4, 2)), generator.random((rows, 4)) < share
        batches.append((np.where(mask[..., None], x, 1e3).astype("float32"), mask))  # loud padding
    return batches


def test_masked_positions_do_not_count():
    batches = masked_batches()
    model = masked_model()
    recipe.recalibrate(model, [(batch, None) for batch in batches])
    kept = np.concatenate([x[mask] for x, mask in batches])
    assert len(kept) < sum(mask.size for _, mask in batches) * 0.8
    # Keras divides by the count plus 1e-7, which is a float32 rounding.
    expect(model.layers[2], kept, rtol=1e-5, atol=1e-5)


def test_synchronized_with_a_mask_is_a_named_error():
    model = masked_model(synchronized=True, name="both")
    before = everything(model)
    with pytest.raises(recipe.SynchronizedMaskError, match="'both' has synchronized=True and receives a mask"):
        recipe.recalibrate(model, [(batch, None) for batch in masked_batches()])
    assert_same(before, everything(model))


def test_mixed_precision_estimates_in_float32(mixed_float16):
    generator = np.random.default_rng(0)
    x = generator.normal(100, 1, (600, 3)).astype("float16")  # 600 * 100 ends near float16's 65504; squares far beyond
    model = single(BN())
    assert model.layers[1].compute_dtype == "float16"
    recipe.recalibrate(model, [x[:400], x[400:]])
    expect(model.layers[1], x, rtol=1e-4, atol=1e-4)


def test_renorm_is_consistent_or_not_there(sorted_batches):
    try:
        layer = BN(renorm=True)
    except (TypeError, ValueError):
        assert tuple(map(int, keras.__version__.split(".")[:2])) < (3, 14)  # the argument returned in 3.14
        return
    model = single(layer)
    recipe.recalibrate(model, sorted_batches)
    expect(layer, np.concatenate(sorted_batches))
    np.testing.assert_array_equal(layer.renorm_mean.numpy(), 0)  # training reads these: they stay
    np.testing.assert_array_equal(layer.renorm_stddev.numpy(), 1)
    layer.momentum = 1.0  # the next update must start from the new statistics
    layer(sorted_batches[0], training=True)
    expect(layer, np.concatenate(sorted_batches), rtol=1e-4, atol=1e-4)


def test_every_kind_of_batches():
    x = np.random.default_rng(0).normal(4, 2, (10, 3)).astype("float32")

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return x[4 * index : 4 * index + 4], x[4 * index : 4 * index + 4]

    data = tf.data.Dataset.from_tensor_slices(x)
    for batches, steps, used in (
        (data.batch(4), None, x),
        (tf.data.Dataset.zip((data, data, data)).batch(4), None, x),
        (Batches(), None, x),
        ([x[:4], x[4:4], x[4:]], None, x),  # a batch without rows counts for nothing
        (data.batch(4).repeat(), 2, x[:8]),
        (data.batch(4), 1, x[:4]),
    ):
        model = single(BN())
        recipe.recalibrate(model, batches, steps)
        expect(model.layers[1], used)


def test_forward_states_the_training_step_of_a_custom_loop():
    x = np.random.default_rng(0).normal(4, 2, (10, 3)).astype("float32")
    model = single(BN())

    def forward(batch):  # a contrastive step: the model sees both views
        model(batch["view"], training=True)
        model(batch["other"], training=True)

    recipe.recalibrate(
        model, [{"view": x[:6], "other": x[:6] + 10}, {"view": x[6:], "other": x[6:] + 10}], None, forward
    )
    expect(model.layers[1], np.concatenate([x, x + 10]))


# ---------------------------------------------------------------- everything else is as before


class Rewriting(keras.layers.Dense):
    """Assigns a trainable weight in the training phase, as spectral normalisation does."""

    def call(self, x, training=None):
        if training:
            self.kernel.assign(self.kernel * 0.5)
        return super().call(x)


class Stateful(keras.Model):
    """Dropout seeds, a metric, a layer that rewrites its kernel in training, a counter Keras does not know of."""

    def __init__(self):
        super().__init__()
        self.dropout, self.norm = keras.layers.Dropout(0.5), BN(momentum=0.7)
        self.dense = Rewriting(1)
        self.seen = keras.metrics.Sum(name="seen")
        self.counter = [tf.Variable(0)]

    def call(self, x, training=None):
        self.seen.update_state(x)
        self.counter[0].assign_add(1)
        x = x + keras.random.normal((3,))  # the global seed generator
        return self.dense(self.norm(self.dropout(x, training=training), training=training), training=training)


@pytest.fixture
def stateful():
    keras.utils.set_random_seed(5)
    model = Stateful()
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    model.fit(X, Y, batch_size=4, verbose=0)
    return model


def surroundings(model):
    numpy_state = np.random.get_state()
    return [
        *everything(model),
        model.counter[0].numpy(),
        keras.random.normal((3,), seed=keras.random.SeedGenerator(1)).numpy(),
        np.array(random.getstate()[1]),
        numpy_state[1],
        np.array(numpy_state[2]),
        np.array(model.norm.momentum),
    ]


class Batches(list):
    """Draws from Python's and NumPy's global generators for each batch, then raises if told to."""

    def __init__(self, batches, error=None):
        super().__init__(batches)
        self.error = error

    def __iter__(self):
        for index, batch in enumerate(super().__iter__()):
            random.random()
            np.random.random()
            if index == 2 and self.error:
                raise self.error
            yield batch


def test_only_the_statistics_change(stateful):
    before = surroundings(stateful)
    weights = {id(stateful.norm.moving_mean), id(stateful.norm.moving_variance)}
    kept = [id(variable) not in weights for variable in [*stateful.variables, *stateful.optimizer.variables]]
    recipe.recalibrate(stateful, Batches([X[:4], X[4:8], X[8:]]))
    after = surroundings(stateful)
    kept += [True] * (len(after) - len(kept))
    assert kept.count(False) == 2
    assert_same(
        [x for x, keep in zip(before, kept, strict=True) if keep],
        [x for x, keep in zip(after, kept, strict=True) if keep],
    )
    assert not any(np.array_equal(x, y) for x, y, keep in zip(before, after, kept, strict=True) if not keep)


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), SystemExit()])
def test_an_interrupted_pass_leaves_everything(stateful, error):
    before = surroundings(stateful)
    with pytest.raises(type(error)):
        recipe.recalibrate(stateful, Batches([X[:4], X[4:8], X[8:]], error))
    assert_same(before, surroundings(stateful))
    assert "_moments" not in vars(stateful.norm)
    recipe.recalibrate(stateful, Batches([X[:4], X[4:8], X[8:]]))  # and it can be done again
    assert any(not np.array_equal(x, y) for x, y in zip(before, surroundings(stateful), strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(stateful, value):
    before = surroundings(stateful)
    broken = X.copy()
    broken[8:] = value  # whole rows: dropout may drop a single one
    with pytest.raises(ValueError, match=f"NaN or infinity reached '{stateful.norm.name}'"):
        recipe.recalibrate(stateful, [broken[:4], broken[4:8], broken[8:]])
    assert_same(before, surroundings(stateful))


def test_a_failing_forward_pass_leaves_everything(stateful):
    before = surroundings(stateful)

    def forward(batch):
        stateful(batch, training=True)
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        recipe.recalibrate(stateful, [X], forward=forward)
    with pytest.raises(Exception, match=r"dim|shape|axis|incompatible"):
        recipe.recalibrate(stateful, [X[:4], X[:, :2]])
    assert_same(before, surroundings(stateful))
    assert "_moments" not in vars(stateful.norm)


# ---------------------------------------------------------------- refusals


def refusals():
    x = np.ones((4, 3), "float32")
    endless = tf.data.Dataset.from_tensors(x).repeat()
    return [
        (x, None, TypeError, r"Expected training batches, got ndarray"),
        ((x, x), None, TypeError, r"Expected training batches, got tuple"),
        (None, None, TypeError, r"Expected training batches, got NoneType"),
        (iter([x]), None, TypeError, r"one-shot iterator \(list_iterator\)"),
        ((batch for batch in [x]), None, TypeError, r"one-shot iterator \(generator\)"),
        (iter(endless), 3, TypeError, r"one-shot iterator"),
        (endless, None, ValueError, r"The dataset is endless"),
        ([x], 0, ValueError, r"steps must be a whole number"),
        ([x], 1.5, ValueError, r"steps must be a whole number"),
    ]


@pytest.mark.parametrize("case", range(9))
def test_unusable_batches_are_refused_by_function_and_callback(case):
    batches, steps, error, message = refusals()[case]
    model = single(BN())
    with pytest.raises(error, match=message):
        recipe.recalibrate(model, batches, steps)
    with pytest.raises(error, match=message):
        recipe.RecalibrateBatchNormalization(batches, steps)
    np.testing.assert_array_equal(model.layers[1].moving_mean.numpy(), 0)


def test_unusable_models_and_empty_data_are_refused():
    with pytest.raises(ValueError, match="is not built"):
        recipe.recalibrate(keras.Sequential([BN()]), [X])
    with pytest.raises(ValueError, match="holds no BatchNormalization layer"):
        recipe.recalibrate(single(keras.layers.Dense(1)), [X])
    for empty in ([], [X[:0]], tf.data.Dataset.from_tensor_slices(X[:0]).batch(2)):
        with pytest.raises(ValueError, match="The dataset gave no rows"):
            recipe.recalibrate(single(BN()), empty)
    all_masked = [((x, np.zeros_like(mask)), None) for x, mask in masked_batches()]
    with pytest.raises(ValueError, match="saw only masked values"):
        recipe.recalibrate(masked_model(), all_masked)


def test_a_model_that_never_trains_its_statistics_is_refused():
    class Deaf(Subclass):
        def call(self, x, training=None):
            return self.dense(self.norm(x, training=False))

    with pytest.raises(ValueError, match="ran in the training phase"):
        recipe.recalibrate(subclass(Deaf), [X])


# ---------------------------------------------------------------- the callback


def net(run_eagerly=True):  # eager steps spare tiny nets their tracing; the pass itself is a graph all the same
    keras.utils.set_random_seed(7)
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.3)(BN(momentum=0.999)(keras.layers.Dense(4, activity_regularizer="l2")(inputs)))
    model = recipe.Net(inputs, keras.layers.Dense(1)(BN(momentum=0.999)(x)))
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=run_eagerly)
    return model


def own_batches():
    return tf.data.Dataset.from_tensor_slices(X).shuffle(10, seed=1).batch(4)


def statistics(model):
    return [
        np.array(v.numpy()) for layer in recipe.batch_normalization_layers(model) for v in layer.non_trainable_variables
    ]


def rest(model):
    """Weights, dropout seeds and optimizer: all that decides the next training step."""
    own = {id(v) for layer in recipe.batch_normalization_layers(model) for v in layer.non_trainable_variables}
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    variables = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in own | metrics]
    return [np.array(variable.numpy()) for variable in variables]


@pytest.mark.parametrize(
    ("validation", "run_eagerly"),
    [(None, True), ((X[:5], Y[:5]), True), pytest.param((X[:5], Y[:5]), False, marks=pytest.mark.slow)],
)
def test_training_is_bit_identical_with_and_without_the_callback(validation, run_eagerly):
    def run(callbacks):
        model = net(run_eagerly)
        logs = model.fit(
            X, Y, batch_size=4, epochs=2, validation_data=validation, callbacks=callbacks, verbose=0
        ).history
        return model, logs

    (plain, plain_logs), (cured, cured_logs) = run([]), run([recipe.RecalibrateBatchNormalization(own_batches())])
    assert_same(rest(plain), rest(cured))
    for name in ("loss", "mae"):
        assert plain_logs[name] == cured_logs[name]
    # The two-sided part: the statistics differ, and validation with them.
    assert not any(np.array_equal(x, y) for x, y in zip(statistics(plain), statistics(cured), strict=True))
    if validation:
        assert all(x != y for x, y in zip(plain_logs["val_loss"], cured_logs["val_loss"], strict=True))
        # The last validation used what the model holds now.
        np.testing.assert_allclose(
            cured.evaluate(*validation, batch_size=4, verbose=0, return_dict=True)["loss"],
            cured_logs["val_loss"][-1],
            rtol=1e-6,
        )


def test_a_shuffled_dataset_shared_with_fit_changes_the_next_order_and_one_of_its_own_does_not():
    def run(shared):
        model = net()
        data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(10, seed=1).batch(4)
        callbacks = [] if shared is None else [recipe.RecalibrateBatchNormalization(data if shared else own_batches())]
        return model.fit(data, epochs=2, callbacks=callbacks, validation_data=(X, Y), shuffle=False, verbose=0).history[
            "loss"
        ]

    alone, own, shared = run(None), run(False), run(True)
    assert own == alone
    assert shared[0] == alone[0]
    assert shared[1:] != alone[1:]  # the pitfall, and why the docstring asks for a dataset of its own


class Count(recipe.RecalibrateBatchNormalization):
    """Notes at which epoch a pass is due, instead of making it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.epoch, self.runs = None, []

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch

    def _run(self):
        self.runs += [self.epoch] if self._due else []
        self._due = False


def test_one_pass_for_each_validation_and_one_at_the_end_if_needed():
    def runs(optimizer="adam", **arguments):
        model, callback = net(), Count(own_batches())
        model.compile(optimizer, "mse", run_eagerly=True)
        model.fit(X, Y, batch_size=10, verbose=0, callbacks=[callback], **arguments)
        after_fit = list(callback.runs)
        model.evaluate(X, Y, verbose=0, callbacks=[callback])  # outside fit: nothing
        assert callback.runs == after_fit
        return callback.runs

    assert runs(epochs=2, validation_data=(X, Y)) == [0, 1]
    assert runs(epochs=3) == [2]
    assert runs(epochs=3, validation_data=(X, Y), validation_freq=2) == [1, 2]
    # The optimizer's averaged weights arrive after the last validation: their statistics are due again.
    averaged = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    assert runs(averaged, epochs=2, validation_data=(X, Y)) == [0, 1, 1]


def test_the_callback_traces_once_in_a_fit():
    model, traces = net(), []

    def forward(batch):
        traces.append(batch)
        model(batch, training=True)

    callback = recipe.RecalibrateBatchNormalization(own_batches(), None, forward)
    model.fit(X, Y, batch_size=4, epochs=3, validation_data=(X, Y), callbacks=[callback], verbose=0)
    assert len(traces) == 1


def test_the_callback_refuses_a_model_without_the_layer():
    model = single(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    before = everything(model)
    with pytest.raises(ValueError, match="holds no BatchNormalization layer"):
        model.fit(X, Y, verbose=0, callbacks=[recipe.RecalibrateBatchNormalization([X])])
    assert_same(before, everything(model))


# ---------------------------------------------------------------- several replicas

REPLICAS = """
import fit_explicit_phase as recipe, keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(3, 2, (64, 3)).astype("float32")
x[32:] += 9
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for synchronized in (False, True):
    with strategy.scope():
        inputs = keras.Input((3,))
        layer = keras.layers.BatchNormalization(synchronized=synchronized)
        model = keras.Model(inputs, layer(inputs))
        model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensor_slices(x).batch(24)
    callback = recipe.RecalibrateBatchNormalization(batches)
    model.fit(x, x, batch_size=32, validation_data=(x, x), callbacks=[callback], verbose=0)
    for mean, variance in zip(layer.moving_mean.value.values, layer.moving_variance.value.values, strict=True):
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(variance, x.var(0), rtol=1e-5)
        print("replica")
"""


@pytest.mark.slow
def test_every_replica_gets_the_statistics():
    folder = Path(recipe.__file__).parent  # logical devices can only be made in a fresh process
    done = subprocess.run([sys.executable, "-c", REPLICAS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("replica") == 4


# ---------------------------------------------------------------- the article's case


@pytest.mark.slow
def test_mobilenet_v2_leaves_chance_with_no_further_training():
    """MobileNetV2 from scratch on odd or even digits: validation at chance, then above 0.85 by statistics alone."""
    (x, y), validation = recipe.digits(0)

    def enlarge(images):
        return np.repeat(images.repeat(4, 1).repeat(4, 2), 3, -1) * 2 - 1  # (n, 32, 32, 3) in [-1, 1]

    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg")
    assert {layer.momentum for layer in recipe.batch_normalization_layers(base)} == {0.999}
    model = recipe.Net(base.input, keras.layers.Dense(2, activation="softmax")(base.output))
    model.compile(keras.optimizers.RMSprop(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, validation = enlarge(x), (enlarge(validation[0]), validation[1])
    training = model.fit(x, y, batch_size=32, epochs=6, verbose=0).history["accuracy"][-1]
    before = model.evaluate(*validation, verbose=0)[1]
    weights = [weight.numpy() for weight in model.trainable_variables]
    names = recipe.recalibrate(model, tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=0).batch(32))
    after = model.evaluate(*validation, verbose=0)[1]
    print(training, before, after)
    assert len(names) == 52
    assert training > 0.85
    assert before < 0.6
    assert after > 0.85
    assert_same(weights, [weight.numpy() for weight in model.trainable_variables])
