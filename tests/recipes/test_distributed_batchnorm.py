"""Several replicas: with synchronised statistics they are one device, and without they are not, in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import distributed_batchnorm as recipe
import keras
import numpy as np
import pytest
import releases
import tensorflow as tf

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
X = np.random.default_rng(0).normal(3, 2, (32, 4)).astype("float32")
Y = np.arange(32) % 3


def build(**options):
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(momentum=0.9, **options)
    head = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([keras.Input((4,)), norm, head]), keras.optimizers.SGD(0.1)


def test_cure_on_one_device_the_steps_are_those_of_train_on_batch_and_evaluation_changes_nothing():
    model, optimizer, train_step, test_step = recipe.make_steps(tf.distribute.get_strategy(), build, LOSS, 32)
    value = float(train_step(X, Y))
    other, _ = build()
    other.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert value == pytest.approx(float(other.train_on_batch(X, Y)), rel=1e-5)
    for ours, theirs in zip(model.variables, other.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.layers[0].moving_mean.numpy(), X.mean(0) / 10, rtol=1e-5)
    before = [v.numpy() for v in model.variables]
    np.testing.assert_allclose(test_step(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-5)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert int(optimizer.iterations.numpy()) == 1


def test_evaluation_is_inference_where_the_models_own_default_is_training():
    class On(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)
            self.head.build((None, 4))

        def call(self, x, training=True):
            return self.head(10 * x if training else x)

    alone, made = tf.distribute.get_strategy(), (On(), keras.optimizers.SGD())
    model, _, _, test_step = recipe.make_steps(alone, lambda: made, LOSS, 32)
    np.testing.assert_allclose(test_step(X), model(X, training=False), rtol=1e-5, atol=1e-5)


def test_a_model_whose_replicas_would_keep_their_own_statistics_is_refused():
    two = SimpleNamespace(num_replicas_in_sync=2)
    inner = build()[0]
    model = keras.Sequential([keras.Input((4,)), inner])
    with pytest.raises(ValueError, match=f"{inner.layers[0].name}: each replica would keep"):
        recipe.require_synchronized(two, model)
    recipe.require_synchronized(SimpleNamespace(num_replicas_in_sync=1), model)
    recipe.require_synchronized(two, build(synchronized=True)[0])
    inner.layers[0].trainable = False
    recipe.require_synchronized(two, model)


# Logical devices are made before anything else in a process.
DEVICES = """
import json, distributed_batchnorm as recipe, keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
told = {}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
random = np.random.default_rng(0)
x = random.normal(3, 2, (32, 4)).astype("float32")
x[20:] += 1.5
y = random.integers(0, 3, 32)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
alone = tf.distribute.get_strategy()


def deal(values, bounds):
    parts = [tf.constant(part) for part in np.split(values, bounds)]
    return strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group])


def train(strategy, kind, bounds=None, synchronized=True, twice=False):
    def build():
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization(momentum=0.0, synchronized=True)
        head = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
        optimizer = kind(0.01)
        if twice:
            apply = optimizer.apply_gradients
            def once_more(pairs):
                gradients, variables = zip(*pairs)
                return apply(zip(tf.distribute.get_replica_context().all_reduce("SUM", list(gradients)), variables))
            optimizer.apply_gradients = once_more
        return keras.Sequential([keras.Input((4,)), norm, head]), optimizer

    model, optimizer, train_step, test_step = recipe.make_steps(strategy, build, loss, 32)
    model.layers[0].synchronized = synchronized
    values = [float(train_step(*(deal(v, bounds) if bounds else v for v in (x, y)))) for _ in range(3)]
    return values[-1], [v.numpy() for v in model.variables], model, test_step


def gaps(one, other):
    state = [float(np.abs(a - b).max()) for a, b in zip(one[1], other[1], strict=True)]
    return {"loss": abs(one[0] - other[0]), "statistics": max(state[2:4]), "weights": max(state[:2] + state[4:])}


for name, kind in ("sgd", keras.optimizers.SGD), ("adam", keras.optimizers.Adam):
    one = train(alone, kind)
    told[name] = {"equal": gaps(one, train(strategy, kind, [16])), "unequal": gaps(one, train(strategy, kind, [20]))}
    told[name]["apart"] = gaps(one, train(strategy, kind, [20], synchronized=False))
    told[name]["twice"] = gaps(one, train(strategy, kind, [20], twice=True))
_, before, model, test_step = train(strategy, keras.optimizers.SGD, [20])
outputs = strategy.experimental_local_results(test_step(deal(x, [20])))
told["evaluation changes"] = any(not np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables))
model.save("model.keras")
loaded = keras.models.load_model("model.keras")(x, training=False)
told["saved differs"] = float(np.abs(np.concatenate(outputs) - loaded).max())

told["variance"] = {}
for mean in 0, 100, 1000, 10000:
    z = (mean + random.normal(0, 1, (512, 1))).astype("float32")
    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.0, synchronized=True)
        norm.build((None, 1))
    strategy.run(lambda part: norm(part, training=True), args=(deal(z, 2),))
    told["variance"][mean] = abs(float(norm.moving_variance.numpy()[0]) / z.astype("float64").var() - 1)
z -= 10000
strategy.run(lambda part: norm(part, training=True), args=(deal(z, 2),))
told["variance"]["centred"] = abs(float(norm.moving_variance.numpy()[0]) / z.astype("float64").var() - 1)

with strategy.scope():
    norm = keras.layers.BatchNormalization(momentum=0.0, synchronized=True)
    norm.build((None, 1, 4))
strategy.run(
    lambda part: norm(part[:, None], training=True, mask=tf.ones_like(part[:, :1], "bool")), args=(deal(x, [20]),)
)
mean, means = norm.moving_mean.numpy(), {"first": x[:20].mean(0), "whole": x.mean(0)}
told["masked"] = {name: float(np.abs(mean - rows).max()) for name, rows in means.items()}

with strategy.scope():
    model, optimizer = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), keras.optimizers.Adam()


def unbuilt(part):
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(part, training=True))
    optimizer.apply_gradients(zip(tape.gradient(value, model.trainable_variables), model.trainable_variables))


try:
    tf.function(lambda data: strategy.run(unbuilt, args=(data,)))(deal(x, [20]))
    told["unbuilt optimizer"] = ""
except tf.errors.InvalidArgumentError as error:
    told["unbuilt optimizer"] = str(error)

with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, batch_size=16, verbose=0)
told["fit mirrored"] = "ran"
print(json.dumps(told))
"""

# One strategy a process: the two of them would share the numbers of their collective operations.
WORKERS = """
import json, os, distributed_batchnorm as recipe, keras, numpy as np, tensorflow as tf
other = recipe.start_worker(__file__) if "TF_CONFIG" not in os.environ else None
strategy = tf.distribute.MultiWorkerMirroredStrategy()
try:
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile("sgd", "mse")
    data = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    model.fit(tf.data.Dataset.from_tensor_slices(data).batch(8), verbose=0)
    said = "ran"
except ValueError as error:
    said = str(error)
finally:
    if other:
        other.kill()
if other:
    print(json.dumps(said))
"""


def run(script, folder):
    (folder / "script.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(recipe.__file__).parent)}
    environment.pop("TF_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(recipe.__file__).parent)}
    environment.pop("TF_CONFIG", None)
    return run(DEVICES, tmp_path_factory.mktemp("devices"))


# Float32, summed in another order: a few roundings of values near 5.
SAME = 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("parts", ["equal", "unequal"])
def test_cure_two_replicas_are_one_device(told, kind, parts):
    assert max(told[kind][parts].values()) < (SAME if kind == "sgd" else 1e-4)  # Adam divides by tiny gradients


@pytest.mark.slow
def test_pitfall_without_synchronized_the_first_replicas_statistics_remain(told):
    """The parts differ by 1.5 in their means: nothing is raised."""
    assert told["sgd"]["apart"]["statistics"] > 0.3
    assert told["sgd"]["apart"]["loss"] > 0.01


@pytest.mark.slow
def test_pitfall_a_reduction_of_ones_own_doubles_the_step_and_adam_hides_it(told):
    assert told["sgd"]["twice"]["weights"] > 1e-3
    assert told["adam"]["twice"]["weights"] < 0.1 * told["sgd"]["twice"]["weights"]


@pytest.mark.slow
def test_evaluation_changes_nothing_and_what_is_saved_answers_the_same(told):
    assert told["evaluation changes"] is False
    assert told["saved differs"] < SAME


@pytest.mark.slow
def test_pitfall_the_synchronised_variance_loses_its_digits_with_the_mean_and_centring_helps(told):
    """It is E[x²] - E[x]² in float32: the error grows with mean²/variance, and at 10000 nothing is left."""
    assert told["variance"]["0"] < 1e-6 and told["variance"]["centred"] < 1e-6
    assert told["variance"]["100"] < 0.01
    assert told["variance"]["1000"] > 0.001
    assert told["variance"]["10000"] > 0.5


@pytest.mark.slow
def test_pitfall_an_optimizer_built_while_a_step_is_traced_may_fail(told):
    """Keras 3.5 to 3.15 raise; earlier and later ones do not."""
    assert told["unbuilt optimizer"] == "" or "feed a value for placeholder tensor" in told["unbuilt optimizer"]


@pytest.mark.slow
def test_fit_under_mirrored_strategy_runs(told):
    assert told["fit mirrored"] == "ran"


@pytest.mark.slow
def test_pitfall_fit_under_multi_worker_mirrored_strategy_raises_where_the_matrix_says_so(tmp_path):
    said, cell = run(WORKERS, tmp_path), releases.answer_on_this_release("fit_under_two_workers_runs")
    assert said == "ran" if cell is True else said[:25] in cell["error"]


@pytest.mark.slow
def test_pitfall_with_a_mask_nothing_is_synchronised(told):
    """The first replica's mean remains; the whole batch's is 0.5 away."""
    assert told["masked"]["first"] < 0.01 and told["masked"]["whole"] > 0.3


@pytest.mark.slow
def test_demo_two_processes_with_synchronized_statistics_are_one_device(demo):
    apart, together = ([float(word) for word in line.split()[-3:]] for line in demo.splitlines()[1:])
    assert max(together) <= SAME
    assert apart[0] > 0.005 and apart[1] > 0.1  # the digits are sorted, so the parts differ


def test_the_recipe_knows_which_releases_add_gradients_up():
    assert releases.on_this_release("mirrored_apply_gradients_adds_up") == recipe.ADDS_UP
