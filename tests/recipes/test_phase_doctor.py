"""The doctor's promises: state put back bit for bit, what cannot be put back said first, inputs of every shape."""

from __future__ import annotations


import keras
import numpy as np
import phase_doctor as recipe
import pytest
import tensorflow as tf
from phase_doctor import CannotExamine, assert_healthy, diagnose

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
    model = net()
    step, optimizer, metric = closure_step(model)
    losses(step, 1)
    before = values(model, optimizer, metric)
    seen = []

    def stop(self, *args):
        recipe._Step.run.__wrapped__(self)  # the step has been taken
        seen.append(values(model, optimizer, metric) != before)
        raise error

    stop.__wrapped__ = recipe._Step.run
    original = recipe._Step.run
    stop.__wrapped__ = original
    monkeypatch.setattr(
        recipe._Step, "run", lambda self: (original(self), seen.append(values(model) != before[:10]), _raise(error))
    )
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            diagnose(model, *batch(), train_step=step)
    else:
        assert "PD001" in diagnose(model, *batch(), train_step=step).codes
    assert seen == [True], "the step was taken before the exception"
    assert values(model, optimizer, metric) == before


def _raise(error):
    raise error("stopped by the test")


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
