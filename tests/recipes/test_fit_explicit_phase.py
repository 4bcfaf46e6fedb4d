"""What `fit` passes, why validation lags, and what re-estimating the statistics does and leaves alone."""

from __future__ import annotations

import fit_explicit_phase as recipe
import keras
import numpy as np
import pytest

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
    variables = list(model.variables) + (list(model.optimizer.variables) if model.optimizer else [])
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
        (generator.normal(mean, scale, (rows, 3)) + [0, 1, 2]).astype("float32")
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
            assert momentum**steps <= remaining
            assert steps == 1 or momentum ** (steps - 1) > remaining


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
    model.compile("sgd", "mse")
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


def train_alike(kind):
    """Three epochs with unequal batches, sample weights, dropout, a penalty and a weighted metric."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.3)(BN()(keras.layers.Dense(8, kernel_regularizer="l2")(inputs)))
    model = kind(inputs, keras.layers.Dense(1, dtype="float32")(x))
    model.compile("adam", "mse", metrics=["mae"], weighted_metrics=["mse"])
    weights = np.linspace(0.1, 2, len(X)).astype("float32")
    logs = model.fit(X, Y, 4, 3, 0, sample_weight=weights, validation_data=(X, Y)).history
    return model, logs


class PlainNet(keras.Model):
    pass


def test_the_mixin_trains_exactly_as_keras_does():
    (plain, plain_logs), (explicit, explicit_logs) = train_alike(PlainNet), train_alike(recipe.Net)
    assert_same(everything(plain), everything(explicit))
    assert plain_logs == explicit_logs


def test_the_mixin_scales_the_loss_under_mixed_precision_as_keras_does(mixed_float16):
    (plain, plain_logs), (explicit, explicit_logs) = train_alike(PlainNet), train_alike(recipe.Net)
    assert type(explicit.optimizer).__name__ == "LossScaleOptimizer"
    assert_same(everything(plain), everything(explicit))
    assert plain_logs == explicit_logs
