"""Validation at chance and the statistics that end it: exact, in one pass, with all else left alone."""

import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import recalibrate_batchnorm as recipe
import tensorflow as tf

BN = keras.layers.BatchNormalization
# Batch means leave Keras in float32 (relative error 6e-8 each); a few roundings more on the way.
FLOAT32 = {"rtol": 2e-6, "atol": 2e-6}
X = np.random.default_rng(0).normal(2, 3, (10, 3)).astype("float32")
Y = np.random.default_rng(1).normal(0, 1, (10, 1)).astype("float32")


def expect(layer, values, **tolerance):
    """The layer holds the population mean and variance of `values`, pooled over all axes but the last."""
    pooled = np.asarray(values, "float64").reshape(-1, values.shape[-1])
    np.testing.assert_allclose(layer.moving_mean.numpy(), pooled.mean(0), **(tolerance or FLOAT32))
    np.testing.assert_allclose(layer.moving_variance.numpy(), pooled.var(0), **(tolerance or FLOAT32))


def fresh(layer):
    return not np.any(layer.moving_mean.numpy()) and np.all(layer.moving_variance.numpy() == 1)


def assert_same(before, after):
    assert len(before) == len(after) > 0
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)  # NaN equals NaN here


def single(layer, shape=(3,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


@pytest.fixture
def sorted_batches():
    """Class-sorted, unequal batches: means 0, 5 and -20, sizes 40, 24 and 8."""
    generator = np.random.default_rng(0)
    return [
        (generator.normal(mean, scale, (rows, 3)) + np.arange(3)).astype("float32")
        for mean, scale, rows in ((0, 1, 40), (5, 2, 24), (-20, 0.5, 8))
    ]


@pytest.fixture
def mixed_float16():
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy(policy)


# ---------------------------------------------------------------- exact statistics


def test_cure_statistics_are_the_population_s_and_not_an_average_of_averages(sorted_batches):
    model = single(BN())
    layer = model.layers[1]
    assert recipe.recalibrate(model, sorted_batches) == [layer.name]
    expect(layer, np.concatenate(sorted_batches))
    # What dropping the between-batch part would give: another number by far.
    within = np.mean([batch.var(0) for batch in sorted_batches], axis=0)
    assert np.all(layer.moving_variance.numpy() > 10 * within)
    # Averaging the batch means without their sizes: another mean.
    assert np.all(np.abs(layer.moving_mean.numpy() - np.mean([batch.mean(0) for batch in sorted_batches], 0)) > 3)


def test_pitfall_momentum_0_alone_would_keep_the_last_batch(sorted_batches):
    model = single(BN(momentum=0.0))
    for batch in sorted_batches:
        model(batch, training=True)
    expect(model.layers[1], sorted_batches[-1])
    recipe.recalibrate(model, sorted_batches)
    expect(model.layers[1], np.concatenate(sorted_batches))


def test_cure_of_poisoned_statistics_and_no_trace_of_an_earlier_estimate(sorted_batches):
    model = single(BN())
    layer = model.layers[1]
    layer.moving_mean.assign([np.nan] * 3)
    layer.moving_variance.assign([np.inf] * 3)
    model(sorted_batches[0], training=True)
    assert not np.isfinite(layer.moving_mean.numpy()).any()  # training never repairs them
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
    np.testing.assert_allclose(model.layers[1].moving_mean.numpy(), pooled.mean(0), rtol=1e-6)
    # Batch means near 3000 are float32 numbers, 2.4e-4 apart: squared, and times a deviation of up to 0.4.
    np.testing.assert_allclose(model.layers[1].moving_variance.numpy(), pooled.var(0), atol=1e-3)
    assert model.layers[1].synchronized == synchronized


def test_each_layer_of_a_deep_net_sees_what_training_gives_it(sorted_batches):
    """Second layer: its inputs are normalised with each batch's own statistics, as in a training step."""
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


class Loop(keras.Model):
    """One layer, called at every position of a sequence, in a graph loop."""

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


def time_distributed():
    inputs = keras.Input((5, 3))
    return keras.Model(inputs, keras.layers.TimeDistributed(BN())(inputs))


def loop():
    model = Loop()
    model.build((None, 5, 3))
    return model


@pytest.mark.parametrize("make", [loop, time_distributed])
def test_a_layer_called_at_every_step_pools_all_steps(make):
    model = make()
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 3)).astype("float32")
    x += np.arange(5, dtype="float32")[:, None]  # each step has a mean of its own
    recipe.recalibrate(model, [x[:6], x[6:]])
    expect(recipe.trainable_normalizations(model)[0], x)


def test_masked_positions_do_not_count():
    generator = np.random.default_rng(0)
    batches = []
    for rows, share in ((12, 0.9), (5, 0.3), (3, 0.0)):  # the last one is padding only
        x, mask = generator.normal(rows, 1, (rows, 4, 2)), generator.random((rows, 4)) < share
        batches.append(((np.where(mask[..., None], x, 1e3).astype("float32"), mask), None))  # loud padding
    inputs, mask = keras.Input((4, 2)), keras.Input((4,), dtype="bool")
    model = keras.Model([inputs, mask], BN()(inputs, mask=mask))
    recipe.recalibrate(model, batches)
    kept = np.concatenate([x[mask] for (x, mask), _ in batches])
    assert len(kept) < sum(mask.size for (_, mask), _ in batches) * 0.8
    # Keras divides by the count plus 1e-7, which is a float32 rounding.
    expect(model.layers[2], kept, rtol=1e-5, atol=1e-5)

    refused = keras.Model([inputs, mask], BN(synchronized=True, name="both")(inputs, mask=mask))
    with pytest.raises(ValueError, match="'both' wrongly if masked"):
        recipe.recalibrate(refused, batches)
    assert fresh(refused.layers[2]) and refused.layers[2].synchronized and refused.layers[2].momentum == 0.99


def test_mixed_precision_estimates_in_float32_and_pure_bfloat16_is_refused(mixed_float16):
    generator = np.random.default_rng(0)
    x = generator.normal(100, 1, (600, 3)).astype("float16")  # 600 * 100 ends near float16's 65504; squares far beyond
    model = single(BN())
    assert model.layers[1].compute_dtype == "float16"
    recipe.recalibrate(model, [x[:400], x[400:]])
    # Before Keras 3.3 the layer itself rounds what it assigns to float16, in training too: 0.06 apart near 100.
    rounding = 1e-4 if tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 3) else 5e-3
    expect(model.layers[1], x, rtol=rounding, atol=rounding)
    with pytest.raises(ValueError, match="float32"):
        recipe.recalibrate(single(BN(dtype="bfloat16")), [x])


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


def test_forward_states_the_training_pass_of_a_custom_loop():
    model = single(BN())

    def forward(x):  # a contrastive step: the model sees both views
        model(x["view"], training=True)
        model(x["other"], training=True)

    recipe.recalibrate(model, [{"view": x, "other": x + 10} for x in (X[:6], X[6:])], forward)
    expect(model.layers[1], np.concatenate([X, X + 10]))


# ---------------------------------------------------------------- who keeps its statistics


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


def test_nested_layers_are_set_and_frozen_ones_keep_theirs(sorted_batches):
    model = nested()
    frozen, in_block, outer = model.layers[1].layers[0], model.layers[1].layers[1].parts[0], model.layers[2]
    recalibrator = recipe.Recalibrator(model)
    assert len(recalibrator([batch - 7 for batch in sorted_batches])) == 3
    frozen.trainable = False  # noticed by the next use
    frozen.moving_mean.assign([0.0] * 3)
    frozen.moving_variance.assign([1.0] * 3)
    assert set(recalibrator(sorted_batches)) == {in_block.name, outer.name}
    assert fresh(frozen)
    # A frozen layer with the initial statistics divides by sqrt(1 + epsilon), so the next one sees that.
    expect(in_block, np.concatenate(sorted_batches) / np.sqrt(1 + frozen.epsilon), rtol=1e-5, atol=1e-5)

    model.trainable = False
    before = [v.numpy() for v in model.variables]
    assert recipe.recalibrate(model, sorted_batches) == []
    assert_same(before, [v.numpy() for v in model.variables])


class TwoPhases(keras.Model):
    """One layer that is told the phase, and one that is always called in inference."""

    def __init__(self, told=True):
        super().__init__()
        self.told, self.norm, self.second = told, BN(name="told"), BN(name="always_in_inference")

    def build(self, shape):
        self.norm.build(shape)
        self.second.build(shape)

    def call(self, x, training=None):
        return self.second(self.norm(x, training=training and self.told), training=False)


def test_a_layer_called_with_training_false_keeps_its_statistics(sorted_batches):
    model = TwoPhases()
    model.build((None, 3))
    assert recipe.recalibrate(model, sorted_batches) == ["told"]
    assert fresh(model.second)
    expect(model.norm, np.concatenate(sorted_batches))


def test_a_model_that_cannot_be_re_estimated_is_refused():
    deaf = TwoPhases(told=False)
    deaf.build((None, 3))
    for model, batches, message in (
        (deaf, [X], "No layer ran in training"),
        (single(BN()), [], "No layer ran in training"),
        (single(keras.layers.Dense(1)), [X], "needs BatchNormalization"),
        (keras.Sequential([BN()]), [X], "built"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.recalibrate(model, batches)


class Compiled(keras.Model):
    """Its layers are called in a `tf.function` of their own."""

    def __init__(self):
        super().__init__()
        self.norm = BN(momentum=0.5)

    def build(self, shape):
        self.norm.build(shape)

    @tf.function(autograph=False)
    def inside(self, x, training):
        return self.norm(x, training=training)

    def call(self, x, training=None):
        return self.inside(x, training)


@pytest.mark.parametrize("traced_before", [False, True])
def test_a_tf_function_inside_is_seen_and_not_left_with_our_momentum(traced_before):
    model = Compiled()
    model.build((None, 3))
    if traced_before:
        model(tf.constant(X), training=True)
    recipe.recalibrate(model, [X[:4], X[4:]])
    expect(model.norm, X)
    model(tf.constant(X + 8), training=True)  # half of the way to the new mean
    np.testing.assert_allclose(model.norm.moving_mean.numpy(), X.mean(0) + 4, rtol=1e-5)


def test_a_forward_that_hides_its_calls_is_refused():
    model = single(BN())
    hidden = tf.function(lambda x: model(x, training=True)).get_concrete_function(tf.TensorSpec([None, 3]))
    with pytest.raises(ValueError, match="No layer ran in training"):
        recipe.recalibrate(model, [X], hidden)
    assert fresh(model.layers[1])


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
    """All that a training run carries, then the two moving statistics."""
    own = [model.norm.moving_mean, model.norm.moving_variance]
    rest = [v for v in [*model.variables, *model.optimizer.variables] if all(v is not s for s in own)]
    return [
        np.array(random.getstate()[1]),
        *np.random.get_state()[1:3],
        model.norm.momentum,
        "call" in vars(model.norm),
        tf.config.functions_run_eagerly(),
        model.counter[0].numpy(),
        *(np.array(v.numpy()) for v in [*rest, *own]),
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


THREE = [X[:4], X[4:8], X[8:]]


def test_only_the_statistics_change(stateful):
    before = surroundings(stateful)
    recipe.recalibrate(stateful, Batches(THREE))
    after = surroundings(stateful)
    assert_same(before[:-2], after[:-2])
    assert not np.array_equal(before[-2], after[-2]) and not np.array_equal(before[-1], after[-1])


def test_an_interrupted_pass_leaves_everything(stateful):
    before = surroundings(stateful)
    for error in OSError("disk"), KeyboardInterrupt():
        with pytest.raises(type(error)):
            recipe.recalibrate(stateful, Batches(THREE, error))
        assert_same(before, surroundings(stateful))
    recipe.recalibrate(stateful, Batches(THREE))  # and it can be done again
    assert not np.array_equal(before[-1], surroundings(stateful)[-1])


def test_values_that_are_not_finite_are_refused(stateful):
    before = surroundings(stateful)
    for value in np.nan, np.inf:  # whole rows: dropout may drop a single one
        with pytest.raises(ValueError, match=f"NaN or infinity reached '{stateful.norm.name}'"):
            recipe.recalibrate(stateful, [X[:4], np.full((2, 3), value, "float32"), X[8:]])
        assert_same(before, surroundings(stateful))


def test_a_failing_forward_pass_leaves_everything(stateful):
    before = surroundings(stateful)

    def forward(x):
        stateful(x, training=True)
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        recipe.recalibrate(stateful, [X], forward)
    assert_same(before, surroundings(stateful))


# ---------------------------------------------------------------- the callback


def net(run_eagerly=True):  # eager steps spare tiny nets their tracing; the pass itself is a graph all the same
    keras.utils.set_random_seed(7)
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.3)(BN(momentum=0.999)(keras.layers.Dense(4, activity_regularizer="l2")(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1)(BN(momentum=0.999)(x)))
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=run_eagerly)
    return model


def own_batches():
    return tf.data.Dataset.from_tensor_slices(X).shuffle(10, seed=1).batch(4)


def moving(model):
    return [v.numpy() for layer in recipe.trainable_normalizations(model) for v in recipe.statistics(layer)]


def rest(model):
    """Weights, dropout seeds and optimizer: all that decides the next training step."""
    own = {id(v) for layer in recipe.trainable_normalizations(model) for v in layer.non_trainable_variables}
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    variables = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in own | metrics]
    return [np.array(variable.numpy()) for variable in variables]


@pytest.mark.parametrize(
    ("validation", "run_eagerly"),
    [
        ((X[:5], Y[:5]), True),
        pytest.param((X[:5], Y[:5]), False, marks=pytest.mark.slow),
        pytest.param(None, True, marks=pytest.mark.slow),
    ],
)
def test_cure_training_is_bit_identical_with_and_without_the_callback(validation, run_eagerly):
    def run(callbacks):
        model = net(run_eagerly)
        options = dict(validation_data=validation, callbacks=callbacks, verbose=0)
        return model, model.fit(X, Y, batch_size=4, epochs=2, **options).history

    (plain, plain_logs), (cured, cured_logs) = run([]), run([recipe.RecalibrateBatchNormalization(own_batches())])
    assert_same(rest(plain), rest(cured))
    for name in ("loss", "mae"):
        assert plain_logs[name] == cured_logs[name]
    # The two-sided part: the statistics differ, and validation with them.
    assert not any(np.array_equal(x, y) for x, y in zip(moving(plain), moving(cured), strict=True))
    if validation:
        assert all(x != y for x, y in zip(plain_logs["val_loss"], cured_logs["val_loss"], strict=True))
        # The last validation used what the model holds now.
        loss = cured.evaluate(*validation, batch_size=4, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(loss, cured_logs["val_loss"][-1], rtol=1e-6)


@pytest.mark.slow
def test_pitfall_a_shuffled_dataset_shared_with_fit_changes_the_next_order_and_one_of_its_own_does_not():
    def run(shared):
        model = net()
        data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(10, seed=1).batch(4)
        callbacks = [] if shared is None else [recipe.RecalibrateBatchNormalization(data if shared else own_batches())]
        options = dict(callbacks=callbacks, validation_data=(X, Y), shuffle=False, verbose=0)
        return model.fit(data, epochs=2, **options).history["loss"]

    alone, own, shared = run(None), run(False), run(True)
    assert own == alone
    assert shared[0] == alone[0]
    assert shared[1:] != alone[1:]


class Noting(list):
    """Batches that note each pass over them."""

    passes = 0

    def __iter__(self):
        Noting.passes += 1
        return super().__iter__()


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        pytest.param({"epochs": 2, "validation_data": (X, Y)}, 2, marks=pytest.mark.slow),
        ({"epochs": 3, "validation_data": (X, Y), "validation_freq": 2}, 2),
        pytest.param({"epochs": 3}, 1, marks=pytest.mark.slow),
    ],
)
def test_one_pass_for_each_validation_and_one_at_the_end_all_traced_once(options, passes):
    model, traces = net(), []

    def forward(x):
        traces.append(x)
        model(x, training=True)

    Noting.passes = 0
    callback = recipe.RecalibrateBatchNormalization(Noting(THREE), forward)
    model.fit(X, Y, batch_size=10, verbose=0, callbacks=[callback], **options)
    assert Noting.passes == passes
    assert len(traces) == 1


# ---------------------------------------------------------------- several replicas

REPLICAS = """
import keras, numpy as np, recalibrate_batchnorm as recipe, tensorflow as tf
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
    callback = recipe.RecalibrateBatchNormalization(tf.data.Dataset.from_tensor_slices(x).batch(24))
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


@pytest.mark.slow
def test_demo_training_is_the_same_and_validation_leaves_chance(demo):
    """Chance is 0.5."""
    rows = [line.split() for line in demo.splitlines()]
    (trained, seen), (trained_again, seen_again) = rows[1:3], rows[4:6]
    assert trained == trained_again and trained[0] == "accuracy"
    assert float(seen[2]) < 0.7 and float(seen_again[2]) > 0.75 and float(seen_again[-1]) > 0.85
