"""The doctor's promises: state put back bit for bit, what cannot be put back said first, inputs of every shape."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from phase_doctor import CannotExamine, assert_healthy, cli, diagnose, noise
from phase_doctor.clock import Clock
from phase_doctor.step import TracedStep

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batch(samples: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(1.0, 2.0, (samples, 6)).astype("float32"), generator.integers(0, 3, samples)


def net(dropout: float = 0.3, momentum: float = 0.9) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12),
            layers.BatchNormalization(momentum=momentum, name="bn"),
            layers.ReLU(),
            layers.Dropout(dropout, name="drop"),
            layers.Dense(3),
        ],
        name="net",
    )


def closure_step(model: keras.Model, training: bool | None = True, compiled: bool = True):
    """A step whose optimizer and metric live in its closure only, slots not made yet."""
    optimizer, metric = keras.optimizers.Adam(1e-2), keras.metrics.Mean()

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=training))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        metric.update_state(loss)
        return loss

    return (tf.function(step) if compiled else step), optimizer, metric


def losses(step, steps: int = 4) -> list[float]:
    return [float(step(*[tf.constant(part) for part in batch(seed=i)])) for i in range(steps)]


def values(*things) -> list[bytes]:
    return [np.asarray(v).tobytes() for thing in things for v in thing.variables]


@pytest.mark.parametrize("compiled", [True, False], ids=["tf.function", "plain"])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_next_losses_are_identical_with_and_without_an_examination(compiled, steps_before):
    def run(examined: bool) -> list[float]:
        keras.utils.set_random_seed(3)
        model = net()
        step, _, _ = closure_step(model, compiled=compiled)
        losses(step, steps_before)
        if examined:
            diagnose(model, *batch(), train_step=step)
        return losses(step)

    assert run(True) == run(False)


def test_model_optimizer_metrics_and_seeds_are_left_bit_for_bit():
    model = net()
    model.compile("adam", LOSS, metrics=["accuracy"])
    x, y = batch()
    model.fit(x, y, verbose=0)
    step, optimizer, metric = closure_step(model)
    losses(step, 1)
    compile_metrics = model.metrics
    before = values(model, model.optimizer, optimizer, metric, *compile_metrics)
    train_function = model.train_function
    diagnosis = diagnose(model, x, y, train_step=step)
    assert values(model, model.optimizer, optimizer, metric, *compile_metrics) == before
    assert model.train_function is train_function
    assert diagnosis.timing["total"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_state_comes_back_after_an_exception_too(monkeypatch, error):
    """The exception strikes right after the step was taken."""
    model = net()
    step, optimizer, metric = closure_step(model)
    losses(step, 1)
    before = values(model, optimizer, metric)
    run, taken = TracedStep.run, []

    def strike(self):
        run(self)
        taken.append(values(model, optimizer, metric) != before)
        raise error("stopped by the test")

    monkeypatch.setattr(TracedStep, "run", strike)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            diagnose(model, *batch(), train_step=step)
    else:
        assert "PD001" in diagnose(model, *batch(), train_step=step).codes
    assert taken == [True]
    assert values(model, optimizer, metric) == before
    assert tf.config.experimental.tensor_float_32_execution_enabled()


def test_it_examines_in_float32_and_puts_tensorfloat_32_back():
    """On an H100 a healthy depthwise net was told PD304: TensorFloat-32 rounds by the size of the batch."""
    config, seen = tf.config.experimental, []

    class Looks(keras.layers.Layer):
        def call(self, x):
            seen.append(config.tensor_float_32_execution_enabled())
            return x

    model = keras.Sequential([keras.Input((6,)), Looks()])
    model(batch()[0])
    assert all(seen)
    seen.clear()
    diagnose(model, batch()[0])
    assert seen and not any(seen)
    assert config.tensor_float_32_execution_enabled()


def test_numpy_and_python_random_states_and_files_are_left_alone(tmp_path):
    import random

    model, (x, y) = net(), batch()
    path = tmp_path / "model.keras"
    model.save(path)
    content = path.read_bytes()
    python, numpy = random.getstate(), np.random.get_state()[1].copy()
    diagnose(model, x, y, artifact=path)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["model.keras"]


def test_an_unbuilt_model_comes_back_built_and_is_said_to():
    model = keras.Sequential([keras.layers.Dense(3)])
    notes = [f.message for f in diagnose(model, batch()[0]).findings if f.code == "PD002"]
    assert model.built and any("was not built" in note for note in notes)


def plain_step(model, body):
    """An eager-style step whose Python does something on the side."""
    inner, _, _ = closure_step(model)

    def step(x, y):
        body()
        return inner(x, y)

    return step


def test_building_an_unbuilt_model_moves_nothing_in_it():
    """What exists before the model is built: a backbone's statistics, a seed, a counter."""

    class Wrapper(keras.Model):
        def __init__(self):
            super().__init__()
            self.base = net()
            self.drop = keras.layers.Dropout(0.5, seed=3)
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
            self.head = keras.layers.Dense(3)

        def call(self, x):
            self.calls.assign_add(1.0)
            return self.head(self.drop(self.base(x, training=True), training=True))

    model = Wrapper()
    things = [*model.base.variables, model.drop.seed_generator.state, model.calls]
    before = [np.asarray(v).tobytes() for v in things]
    diagnosis = diagnose(model, *batch())
    assert [np.asarray(v).tobytes() for v in things] == before
    assert any("built on the batch" in f.message for f in diagnosis.findings)


def test_python_side_effects_are_said_and_the_step_is_not_run_unless_insisted_on():
    model, history = net(), []
    step = plain_step(model, lambda: history.append(1))
    notes = [f.message for f in diagnose(model, *batch(), train_step=step).findings if f.code == "PD002"]
    assert any("history.append" in note and "without running" in note for note in notes)
    assert history == []
    notes = [f.message for f in diagnose(model, *batch(), train_step=step, insist=True).findings if f.code == "PD002"]
    assert any("run all the same" in note for note in notes)


def test_a_callable_trainer_is_put_back_and_its_side_effects_are_said():
    class Trainer:
        def __init__(self):
            self.model, self.steps, self.history = net(), 0, []
            self.step, *_ = closure_step(self.model)

        def __call__(self, x, y):
            loss = self.step(x, y)
            self.steps += 1
            self.history.append(loss)
            return loss

    trainer = Trainer()
    diagnosis = diagnose(trainer.model, *batch(), train_step=trainer)
    assert (trainer.steps, trainer.history) == (0, [])
    (said,) = [f.message for f in diagnosis.findings if f.code == "PD002"]
    assert "`self.steps`" in said and "without running it" in said


def test_what_is_insisted_on_is_said_before_the_step_runs(capsys, monkeypatch):
    model, history = net(), []
    run, heard = TracedStep.run, []

    def listen(self):
        heard.append(capsys.readouterr().err)
        run(self)

    monkeypatch.setattr(TracedStep, "run", listen)
    diagnose(model, *batch(), train_step=plain_step(model, lambda: history.append(1)), insist=True)
    assert "about to run train_step" in heard[0] and "history.append" in heard[0]


def test_a_step_that_writes_files_is_not_even_traced(tmp_path):
    model, log = net(), tmp_path / "log.txt"

    def step(x, y):
        with open(log, "a") as file:
            file.write("step")

    diagnose(model, *batch(), train_step=step)
    assert not log.exists()


def test_a_one_shot_iterator_is_not_used_up():
    model = net()
    source = iter([batch(seed=i) for i in range(3)])
    inner, _, _ = closure_step(model)

    def step(x, y):
        return inner(*next(source))

    notes = [f.message for f in diagnose(model, *batch(), train_step=step).findings if f.code == "PD002"]
    assert any("one-shot iterator `source`" in note for note in notes)
    assert len(list(source)) == 3


def test_stateful_random_operations_are_judged_by_the_graph_alone():
    model, optimizer = net(), keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x + tf.random.normal(tf.shape(x))))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    finding = next(f for f in diagnose(model, *batch(), train_step=step).findings if f.code == "PD301")
    assert finding.evidence["executed"] is False and finding.where == "bn"


@pytest.mark.parametrize("kind", ["SparseTensor", "RaggedTensor"])
def test_sparse_and_ragged_input_is_refused_by_name_with_the_way_out(kind):
    x = {"SparseTensor": tf.sparse.eye(4), "RaggedTensor": tf.ragged.constant([[1.0], [2.0, 3.0]])}[kind]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(CannotExamine, match=f"{kind}.*dense batch"):
        diagnose(model, x)


def test_allow_turns_a_code_into_a_note_and_an_unknown_code_is_refused():
    noisy = keras.Sequential([keras.Input((6,)), keras.layers.Lambda(lambda t: t + tf.random.normal(tf.shape(t)))])
    x, _ = batch()
    assert diagnose(noisy, x).codes == ("PD305",)
    assert diagnose(noisy, x, allow=("PD305",)).ok
    with pytest.raises(CannotExamine, match="PD999"):
        diagnose(noisy, x, allow=("PD999",))


def test_a_raising_model_is_reported_not_crashed_on():
    class Raises(keras.Model):
        def call(self, x, training=None):
            if training:
                raise RuntimeError("no training today")
            return x

    model = Raises()
    model(batch()[0])
    finding = diagnose(model, batch()[0]).findings[0]
    assert finding.code == "PD001" and "no training today" in finding.message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((object(), [1.0]), "not a Keras model"),
        ((None, iter(())), "no batch"),
        ((None, np.zeros((0, 6), "float32")), "empty"),
        ((None, 3.5j), "hand the doctor a batch"),
    ],
    ids=["no model", "no batch", "empty batch", "no data"],
)
def test_bad_input_is_named(arguments, said):
    model, x = arguments
    with pytest.raises(CannotExamine, match=said):
        diagnose(net() if model is None else model, x)


def test_a_step_that_is_no_function_and_a_missing_artifact_are_named(tmp_path):
    with pytest.raises(CannotExamine, match="function of"):
        diagnose(net(), *batch(), train_step=3)
    with pytest.raises(CannotExamine, match="no artifact"):
        diagnose(net(), *batch(), artifact=tmp_path / "nothing")


def test_root_causes_come_first_and_the_table_and_json_tell_the_same():
    model = net(dropout=0.0, momentum=0.99)
    step, _, _ = closure_step(model, training=None)
    losses(step)
    diagnosis = diagnose(model, *batch(), train_step=step)
    assert diagnosis.codes[0] == "PD301" and "PD201" in diagnosis.codes
    assert next(f for f in diagnosis.findings if f.code == "PD201").caused_by == "PD301"
    body = json.loads(diagnosis.to_json())
    assert tuple(body["codes"]) == diagnosis.codes and body["ok"] is False and body["schema"] == 1
    assert body["findings"][0]["cure_id"] == diagnosis.findings[0].cure_id == "call-with-training-true"
    assert str(diagnosis).splitlines()[1].startswith("PD301  error    bn")
    with pytest.raises(AssertionError, match="PD301"):
        assert_healthy(model, *batch(), train_step=step)


def test_a_cause_is_sought_in_the_layers_that_bear_on_the_finding():
    """Two faults that have nothing to do with each other: neither is said to cause the other."""
    layers = keras.layers

    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norm = layers.BatchNormalization(name="unmoved")

        def call(self, x, training=None):
            return self.norm(x, training=False)

    inputs = keras.Input((6,))
    # In front of the block: from Keras 3.16 on its False reaches what runs after it.
    x = layers.ReLU()(layers.BatchNormalization(name="stale")(layers.Dense(12)(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(Block(name="block")(x)))
    for norm in (model.get_layer("stale"), model.get_layer("block").norm):
        norm.gamma.assign(norm.gamma * 1.1)  # trained, and yet its statistics are the initial ones
    step, _, _ = closure_step(model)
    found = {(f.code, f.where): f.caused_by for f in diagnose(model, *batch(), train_step=step).findings}
    assert found["PD301", "block/unmoved"] is None
    assert found["PD201", "block/unmoved"] == "PD301"
    assert found["PD201", "stale"] is None


def test_the_command_line_answers_by_exit_status(tmp_path, capsys):
    model, (x, _) = net(), batch()
    model.save(tmp_path / "healthy.keras")
    trained = net(dropout=0.0, momentum=0.5)
    losses(closure_step(trained)[0], 40)
    trained.save(tmp_path / "trained.keras")
    norm = model.get_layer("bn")
    norm.moving_variance.assign(norm.moving_variance - 5.0)
    model.save(tmp_path / "broken.keras")
    np.save(tmp_path / "x.npy", x)
    data = ["--data", str(tmp_path / "x.npy")]
    assert cli.main([str(tmp_path / "healthy.keras"), *data]) == 0
    assert cli.main([str(tmp_path / "broken.keras"), *data, "--json"]) == 1
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["codes"] == ["PD203"]
    assert cli.main([str(tmp_path / "missing.keras")]) == 2
    # Without data, noise stands in, and a trained model is not blamed for being unlike it.
    assert cli.main([str(tmp_path / "trained.keras"), "--json"]) == 0
    out = capsys.readouterr().out
    notes = json.loads(out[out.index("{") :])["findings"]
    assert {"PD202", "PD002"} <= {note["code"] for note in notes}
    assert cli.main([str(tmp_path / "healthy.keras"), "--data", str(tmp_path / "missing.npy")]) == 2


def test_progress_is_said_after_two_seconds_only(capsys):
    clock = Clock(show=True)
    clock.stage("early")
    assert capsys.readouterr().err == ""
    clock.start -= 3
    clock.stage("later")
    assert "later" in capsys.readouterr().err


def test_limits_are_the_quantiles_that_the_docstrings_state():
    # Scipy comes with scikit-learn; the recipe itself does without.
    from scipy import stats

    assert stats.f.isf(1e-3, 5, 5) == pytest.approx(noise.F_LIMIT**2, rel=1e-3)
    assert stats.t.sf(noise.ROUNDING_SIGMAS, 3) == pytest.approx(1e-5, rel=0.01)
    for freedom in (15, 31, 63):
        assert noise.t_limit(1e-6, freedom) == pytest.approx(stats.t.isf(5e-7, freedom), rel=0.03)


@pytest.mark.slow
def test_the_demo_blames_the_loop_without_the_phase_and_only_that(capsys):
    cli.main([])
    _, without, said = capsys.readouterr().out.split("step calls ")
    assert without.startswith("model(x):") and "PD301" in without
    assert said.startswith("model(x, training=True):") and "healthy" in said
