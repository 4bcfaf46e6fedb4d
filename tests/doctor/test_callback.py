"""`PhaseDoctor` finds in `fit` what `diagnose` finds, and training is the same, bit for bit, with and without it."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from phase_doctor import PhaseDoctor, diagnose, examine_first

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (32, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 32)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Told(keras.Model):
    """With `training`, or without: then Keras tells it no phase."""

    def __init__(self, told=True):
        super().__init__()
        self.body = [keras.layers.Dense(8), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dropout(0.2)]
        self.head = keras.layers.Dense(3)

    def call(self, x, training=None):
        x = self.body[0](x)
        return self.head(self.body[2](self.body[1](x, training=training), training=training))


class Untold(Told):
    def call(self, x):
        return self.head(self.body[2](self.body[1](self.body[0](x))))


def sequential():
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dropout(0.2)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])


def functional():
    inputs = keras.Input((6,))
    hidden = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(8)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dropout(0.2)(hidden)))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, n):
        return X[8 * n : 8 * n + 8], Y[8 * n : 8 * n + 8]


def arrays():
    return (X, Y), {"batch_size": 8}


def dataset():
    return (tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(32).batch(8),), {}


def pydataset():
    return (Batches(),), {}


def state(model):
    values = [np.array(v.value) for v in [*model.variables, *model.optimizer.variables]]
    drawn = np.random.random(), random.random(), float(tf.random.uniform(())), float(keras.random.uniform(()))
    return [*values, *drawn]


def trained(build, data, callbacks, compiled, optimizer="adam", scope=contextlib.nullcontext):
    keras.backend.clear_session()  # on early Keras 3 a seed alone does not reset `keras.random`
    keras.utils.set_random_seed(0)
    with scope():
        model = build()
        model.compile(optimizer() if callable(optimizer) else optimizer, LOSS, metrics=["accuracy"], **compiled)
    given, options = data()
    history = model.fit(*given, epochs=2, verbose=0, callbacks=callbacks, **options).history
    return history, state(model)


def assert_the_same(doctor, *how):
    plain, examined = (trained(*how[:2], callbacks, *how[2:]) for callbacks in ([], [doctor]))
    assert plain[0] == examined[0]
    assert all(np.array_equal(one, other) for one, other in zip(plain[1], examined[1], strict=True))


WAYS = [
    (sequential, arrays, {}),
    (functional, dataset, {"jit_compile": False}),
    (functional, pydataset, {"steps_per_execution": 2}),
    (Told, arrays, {}),  # not built before `fit`
    (Told, dataset, {"run_eagerly": True}),
    (sequential, pydataset, {"run_eagerly": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "data", "compiled"), WAYS)
def test_training_is_the_same_bit_for_bit(build, data, compiled, capsys):
    doctor = PhaseDoctor(X, Y, every=1)
    assert_the_same(doctor, build, data, compiled)
    assert [when for when, _ in doctor.diagnoses] == ["before the first step", "after epoch 1", "after the last step"]
    assert capsys.readouterr().out.count("after the last step") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, use_ema=True),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    ],
    ids=["use_ema", "loss scale"],
)
def test_training_is_the_same_with_averages_and_a_scaled_loss(optimizer):
    assert_the_same(PhaseDoctor(X, Y), sequential, arrays, {}, optimizer)


@pytest.mark.slow
def test_training_is_the_same_in_mixed_precision():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        assert_the_same(PhaseDoctor(X, Y), Told, arrays, {}, "sgd")
    finally:
        keras.mixed_precision.set_dtype_policy(before)


TWO_REPLICAS = """
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_callback as t
doctor = t.PhaseDoctor(t.X, t.Y)
scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
t.assert_the_same(doctor, t.sequential, t.arrays, {}, "adam", scope)
assert all(found.ok for _, found in doctor.diagnoses[:1])
"""


@pytest.mark.slow
def test_training_is_the_same_on_two_replicas():
    here = Path(__file__).parent
    paths = f"import sys; sys.path[:0] = {[str(here), str(here.parents[1] / 'recipes')]!r}\n"
    done = subprocess.run([sys.executable, "-c", paths + TWO_REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def sick():
    keras.utils.set_random_seed(0)
    model = Untold()
    model.compile("adam", LOSS)
    return model


def test_what_it_finds_is_what_diagnose_finds_and_the_report_keeps_it(sick, tmp_path, capsys):
    wanted = diagnose(sick, X, Y).codes
    doctor = PhaseDoctor(X, Y, report=tmp_path / "new" / "phases.json")
    sick.fit(X, Y, batch_size=8, verbose=0, callbacks=[doctor])
    assert wanted and doctor.diagnoses[0][1].codes == wanted
    told = json.loads((tmp_path / "new" / "phases.json").read_text())
    assert [one["when"] for one in told] == ["before the first step", "after the last step"]
    assert {f["code"] for f in told[0]["findings"]} >= set(wanted)
    assert wanted[0] in capsys.readouterr().out


def test_strict_raises_before_anything_is_trained(sick):
    before = sick.get_weights()
    with pytest.raises(AssertionError, match="before the first step"):
        sick.fit(X, Y, batch_size=8, verbose=0, callbacks=[PhaseDoctor(X, Y, strict=True)])
    assert all(map(np.array_equal, before, sick.get_weights()))


def test_a_callback_that_does_not_put_back_would_be_seen():
    touch = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: touch.model(X, training=True))
    plain, touched = (trained(sequential, arrays, callbacks, {}) for callbacks in ([], [touch]))
    assert not all(np.array_equal(one, other) for one, other in zip(plain[1], touched[1], strict=True))


@pytest.mark.parametrize(
    "strategy",
    [lambda: tf.distribute.OneDeviceStrategy("/cpu:0"), lambda: tf.distribute.MirroredStrategy(["CPU:0"])],
    ids=["one device", "mirrored"],
)
def test_inside_a_strategys_scope_it_examines(strategy):
    strategy = strategy()
    with strategy.scope():
        model = sequential()
        model.compile("sgd", LOSS)
    doctor = PhaseDoctor(X, Y)
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[doctor])
    assert len(doctor.diagnoses) == 2 and doctor.diagnoses[0][1].ok


@pytest.mark.parametrize("told", [True, False])
def test_a_step_of_ones_own_is_examined_at_its_first_call(told, capsys):
    model, optimizer = sequential(), keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = LOSS(y, model(x, training=True) if told else model(x))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        return value

    first = examine_first(step, model)
    assert float(first(X, Y)) > 0 and int(optimizer.iterations.numpy()) == 1
    assert ("PD301" in first.diagnosis.codes) == (not told)
    printed = capsys.readouterr().out
    first(X, Y)
    assert printed and capsys.readouterr().out == ""


def test_a_step_of_one_argument_is_examined_and_called_with_one():
    model = sequential()
    first = examine_first(tf.function(lambda x: model(x, training=True)), model)
    assert first(X).shape == (32, 3) and first.diagnosis is not None


@pytest.mark.parametrize(
    ("code", "status", "said"), [("pd301", 0, "unmoved"), ("PS201", 0, "training"), ("PD9", 2, "There is no PD9")]
)
def test_a_code_is_explained_without_tensorflow(code, status, said):
    script = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; sys.path.insert(0, 'recipes')\n"
        f"from phase_doctor import cli; sys.exit(cli.main(['--explain', {code!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == status and said in done.stdout + done.stderr
    assert "```" not in done.stdout and "<!--" not in done.stdout


def test_every_code_is_explained_with_its_cures_and_no_marks():
    from phase_doctor import RULES, explain

    known = explain.explanations()
    assert set(RULES) < set(known)
    for code, rule in RULES.items():
        assert known[code].startswith(code) and "](" not in known[code], code
        assert all(cure in known[code] for cure in rule.cures), code
        assert ">>>" in known[code] or code in ("PD001", "PD002"), code
