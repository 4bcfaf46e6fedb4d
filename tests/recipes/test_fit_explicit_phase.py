"""What `fit` passes, what steps that state their phase do, and how long statistics lag behind."""

import fit_explicit_phase as recipe
import keras
import numpy as np
import pytest

BN = keras.layers.BatchNormalization
X = np.random.default_rng(0).normal(2, 3, (10, 3)).astype("float32")
Y = np.random.default_rng(1).normal(0, 1, (10, 1)).astype("float32")


def everything(model):
    """All state a training run carries: weights, seeds, metrics, optimizer, by value."""
    return [np.array(variable.numpy()) for variable in [*model.variables, *model.optimizer.variables]]


def assert_same(before, after):
    assert len(before) == len(after) > 0
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


# ---------------------------------------------------------------- how long until the statistics mean something


def follow(momentum, steps, mean, variance):
    """Moving mean and variance of a real layer after so many steps on batches of this mean and variance."""
    layer = BN(momentum=momentum)
    batch = np.array([[-1.0], [1.0]], "float32") * variance**0.5 + mean
    for _ in range(steps):
        layer(batch, training=True)
    return layer.moving_mean.numpy()[0], layer.moving_variance.numpy()[0]


@pytest.mark.parametrize("variance", [0.002, 0.04, 0.9, 1, 30])
def test_cure_so_many_steps_bring_a_real_layer_within_5_percent(variance):
    steps = recipe.steps_until_meaningful(0.9, variance)
    mean, moving = follow(0.9, steps, 7, variance)
    assert abs(mean - 7) <= 0.0501 * 7
    assert abs(moving - variance) <= 0.0501 * variance


def test_pitfall_5_percent_of_the_start_are_most_of_a_small_variance():
    _, moving = follow(0.9, recipe.steps_until_meaningful(0.9), 0, 0.01)
    assert moving > 5 * 0.01  # 29 steps; it takes 73
    assert recipe.steps_until_meaningful(0.9, 0.01) == 73


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [((0.99,), 299), ((0.999,), 2995), ((0.5, 1, 0.25), 2), ((0.9, 0.036), 60), ((0.9, 100), 29), ((0.0,), 1)],
)
def test_steps_until_meaningful_known_values(arguments, steps):
    assert recipe.steps_until_meaningful(*arguments) == steps


def test_a_momentum_made_for_n_steps_takes_n_steps():
    assert [recipe.steps_until_meaningful(0.05 ** (1 / n)) for n in range(1, 400)] == list(range(1, 400))


@pytest.mark.parametrize("arguments", [(1.0,), (-0.1,), (float("nan"),), (0.9, 0), (0.9, 1, 0), (0.9, 1, 1)])
def test_steps_until_meaningful_refuses(arguments):
    with pytest.raises(ValueError, match="Needs 0 <= momentum < 1"):
        recipe.steps_until_meaningful(*arguments)


# ---------------------------------------------------------------- momentum across a model


class Block(keras.layers.Layer):
    """A layer that holds a layer in a list, as blocks do."""

    def __init__(self, momentum, **kwargs):
        super().__init__(**kwargs)
        self.parts = [BN(momentum=momentum)]

    def build(self, shape):
        self.parts[0].build(shape)

    def call(self, x, training=None):
        return self.parts[0](x, training=training)


def nested(momentum=0.9):
    inner = keras.Sequential([keras.Input((3,)), BN(momentum=momentum), Block(momentum)])
    inputs = keras.Input((3,))
    return keras.Model(inputs, BN(momentum=momentum)(inner(inputs)))


def test_set_momentum_reaches_every_level_and_refuses_before_changing():
    model = nested()
    layers = [model.layers[1].layers[0], model.layers[1].layers[1].parts[0], model.layers[2]]
    for momentum in (1, 1.5, -0.1):
        with pytest.raises(ValueError, match="at 1 nothing moves"):
            recipe.set_momentum(model, momentum)
    assert [layer.momentum for layer in layers] == [0.9] * 3
    assert recipe.set_momentum(model, 0.75) == 3
    assert [layer.momentum for layer in layers] == [0.75] * 3


def test_pitfall_the_attribute_alone_has_no_effect_after_fit_and_cure_set_momentum_has():
    model = nested()
    model.compile("sgd", "mse")
    x = np.full((4, 3), 1.0, "float32")  # batch mean 1
    layer = model.layers[1].layers[0]

    def moved():
        layer.moving_mean.assign([0.0] * 3)
        model.fit(x, x, verbose=0)
        return layer.moving_mean.numpy()[0]

    assert moved() == pytest.approx(0.1)
    layer.momentum = 0.5
    assert moved() == pytest.approx(0.1)  # the traced step keeps 0.9
    recipe.set_momentum(model, 0.5)
    assert moved() == pytest.approx(0.5)


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


def built(kind, explicit=True):
    model = type(kind.__name__, (recipe.ExplicitPhase, kind) if explicit else (kind,), {})()
    model.build((None, 3))
    return model


def functional():
    inputs = keras.Input((3,))
    return recipe.Net(inputs, keras.layers.Dense(1)(BN(momentum=0.5)(Spy()(inputs))))


def sequential():
    kind = type("Stack", (recipe.ExplicitPhase, keras.Sequential), {})
    return kind([keras.Input((3,)), Spy(), BN(momentum=0.5), keras.layers.Dense(1)])


def spy_and_norm(model):
    layers = list(model._flatten_layers())
    return next(x for x in layers if isinstance(x, Spy)), next(x for x in layers if isinstance(x, BN))


ROUTES = {
    "fit": (lambda model: model.fit(X, Y, verbose=0, batch_size=10), True),
    "train_on_batch": (lambda model: model.train_on_batch(X, Y), True),
    "evaluate": (lambda model: model.evaluate(X, Y, verbose=0), False),
    "test_on_batch": (lambda model: model.test_on_batch(X, Y), False),
    "predict": (lambda model: model.predict(X, verbose=0), False),
    "predict_on_batch": (lambda model: model.predict_on_batch(X), False),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("make", [functional, sequential, lambda: built(Subclass), lambda: built(DefaultsToTraining)])
def test_cure_every_route_states_its_phase(route, make):
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
    model.compile("sgd", "mse", run_eagerly=True)
    spy, _ = spy_and_norm(model)
    history = model.fit(X, Y, validation_data=(X, Y), batch_size=10, verbose=0).history
    assert spy.phases >= {True, False}
    assert history["val_loss"][0] == pytest.approx(np.mean((model(X, training=False).numpy() - Y) ** 2), rel=1e-5)


def test_pitfall_fit_passes_nothing_to_a_call_without_the_argument():
    told = built(Subclass, explicit=False)
    told.compile("sgd", "mse", run_eagerly=True)
    told.fit(X, Y, verbose=0)
    assert True in spy_and_norm(told)[0].phases
    for kind in (WithoutArgument, ManyArguments):
        untold = built(kind, explicit=False)
        untold.compile("sgd", "mse", run_eagerly=True)
        spy, norm = spy_and_norm(untold)
        untold.fit(X, Y, epochs=2, verbose=0)
        assert True not in spy.phases
        np.testing.assert_array_equal(norm.moving_mean.numpy(), 0)


@pytest.mark.parametrize("kind", [WithoutArgument, ManyArguments])
@pytest.mark.parametrize("route", ["fit", "evaluate", "predict"])
def test_a_call_that_cannot_be_told_is_refused_before_anything_changes(kind, route):
    model = built(kind)
    model.compile("sgd", "mse")
    before = everything(model)
    with pytest.raises(TypeError, match="has no argument named `training`"):
        ROUTES[route][0](model)
    assert_same(before, everything(model))


# ---------------------------------------------------------------- all else is Keras's own


class PlainNet(keras.Model):
    pass


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


@pytest.mark.parametrize(
    ("policy", "run_eagerly"),
    [
        ("mixed_float16", True),
        pytest.param("float32", True, marks=pytest.mark.slow),
        pytest.param("float32", False, marks=pytest.mark.slow),
        pytest.param("mixed_float16", False, marks=pytest.mark.slow),
    ],
)
def test_the_mixin_trains_exactly_as_keras_does(policy, run_eagerly):
    keras.mixed_precision.set_global_policy(policy)
    (plain, plain_logs), (explicit, logs) = (train_alike(kind, run_eagerly) for kind in (PlainNet, recipe.Net))
    assert (type(explicit.optimizer).__name__ == "LossScaleOptimizer") == (policy == "mixed_float16")
    assert_same(everything(plain), everything(explicit))
    assert set(plain_logs) == set(logs)
    for name in plain_logs:  # a mean over rows, divided in another order on Keras 3.0
        np.testing.assert_allclose(plain_logs[name], logs[name], rtol=1e-6)


def test_the_reported_loss_counts_rows_not_batches():
    """Batches of 8 and 2. Keras reports the plain mean of batch losses in its early 3.x releases."""
    model = functional()
    model.compile("sgd", "mse", run_eagerly=True)
    reported = model.evaluate(X, Y, batch_size=8, verbose=0)
    errors = (model(X, training=False).numpy() - Y) ** 2
    assert reported == pytest.approx(errors.mean(), rel=1e-5)
    assert abs(errors.mean() - (errors[:8].mean() + errors[8:].mean()) / 2) > 0.05 * errors.mean()


@pytest.mark.slow
def test_demo_validation_follows_the_lower_momentum(demo):
    """Chance is 0.5: the higher momentum stays there for all four epochs."""
    slow, quick = (line.split() for line in demo.splitlines()[1:])
    assert int(slow[1]) == 2995 and int(quick[1]) == 45
    assert max(map(float, slow[2:])) < 0.7 and float(quick[-1]) > 0.85
