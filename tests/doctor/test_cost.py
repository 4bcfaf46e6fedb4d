"""What an examination costs, counted: traces of the reader's step, steps taken, passes, operations of graphs.

Seconds against the number of layers: tests/figures/phase_doctor.py.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from phase_doctor import diagnose
from phase_doctor.bench import Bench
from phase_doctor.step import TracedStep

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(1, 2, (32, 6)).astype("float32")
Y = np.arange(32) % 3


class Bill:
    """Counts, while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.traces, self.steps, self.passes, self.operations = 0, 0, 0.0, 0
        run, take, trace, record = Bench.run, TracedStep.run, Bench._trace, TracedStep.record

        def counted(bench: Bench, route: Any, x: Any, look: Any = None) -> Any:
            self.passes += len(x) / bench.subject.size
            return run(bench, route, x, look)

        def taken(step: TracedStep) -> None:
            self.steps += 1
            take(step)

        def traced(*given: Any, **options: Any) -> Any:
            route = trace(*given, **options)
            self.operations += operations_of(route.concrete)
            return route

        def recorded(step: TracedStep) -> Any:
            recording = record(step)
            self.operations += operations_of(recording.concrete)
            return recording

        monkeypatch.setattr(Bench, "run", counted)
        monkeypatch.setattr(Bench, "_trace", traced)
        monkeypatch.setattr(TracedStep, "run", taken)
        monkeypatch.setattr(TracedStep, "record", recorded)

    def step_of(self, model: keras.Model, compiled: bool, training: bool | None = True) -> Any:
        bill = self

        class Counting(keras.optimizers.SGD):
            """In the step itself a counter would be a side effect, and the step would not be run."""

            def apply_gradients(self, *given: Any) -> Any:
                bill.traces += 1
                return super().apply_gradients(*given)

        optimizer = Counting(0.1)
        optimizer.build(model.trainable_variables)  # TensorFlow traces twice where a variable is made

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                value = LOSS(y, model(x, training=training))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return value

        return tf.function(step) if compiled else step


def operations_of(concrete: Any) -> int:
    return len(concrete.graph.get_operations())


def net(*middle: Any) -> keras.Model:
    middle = middle or (L.BatchNormalization(momentum=0.5, name="norm"), L.ReLU(), L.Dropout(0.2))
    return keras.Sequential([keras.Input((6,)), L.Dense(8), *middle, L.Dense(3)], name="net")


@pytest.mark.parametrize("compiled", [True, False], ids=["tf.function", "plain"])
@pytest.mark.parametrize("training", [True, None], ids=["healthy", "PD301"])
def test_a_new_step_is_traced_once_and_taken_once(compiled, training, monkeypatch):
    model, bill = net(), Bill(monkeypatch)
    found = diagnose(model, X, Y, train_step=bill.step_of(model, compiled, training))
    assert found.ok == (training is True)
    assert (bill.traces, bill.steps) == (1, 1)


@pytest.mark.parametrize(("training", "more"), [(True, 0), (False, 1)], ids=["healthy", "who said False?"])
def test_a_step_that_holds_a_trace_is_traced_again_only_where_a_rule_asks(training, more, monkeypatch):
    model, bill = net(), Bill(monkeypatch)
    step = bill.step_of(model, True, training)
    model(X, training=True)
    step(tf.constant(X), tf.constant(Y))
    before = bill.traces
    diagnose(model, X, Y, train_step=step)
    assert (bill.traces - before, bill.steps) == (more, 1)


@pytest.mark.parametrize("fault", ["none", "behind", "mates", "noise"])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_all_passes_together_cost_less_than_ten_steps(fault, batch, monkeypatch):
    """A step is three passes: one forward, two backward. Thirty passes are ten steps."""
    middle = {
        "mates": (L.Lambda(lambda t: t - tf.reduce_mean(t, axis=0)), L.BatchNormalization()),
        "noise": (L.Lambda(lambda t: t + tf.random.normal(tf.shape(t))), L.BatchNormalization()),
    }.get(fault, ())
    model, bill = net(*middle), Bill(monkeypatch)
    for _ in range(20):
        model(X, training=True)
    if fault == "behind":
        model.get_layer("norm").beta.assign([0.1] * 8)  # a sign of training
        model.get_layer("norm").moving_mean.assign([9.0] * 8)
    found = diagnose(model, X[:batch], Y[:batch], train_step=bill.step_of(model, True), loss=LOSS)
    if batch == len(X):  # a few samples say less
        assert found.ok == (fault == "none"), found
    assert 3 * bill.steps + bill.passes <= 30, (bill.steps, bill.passes)


def deep(layers: int) -> keras.Model:
    inputs = h = keras.Input((6,))
    for _ in range(layers // 3):
        h = L.ReLU()(L.BatchNormalization(momentum=0.5)(L.Dense(8)(h)))
    return keras.Model(inputs, L.Dense(3)(h))


def transformer(blocks: int) -> keras.Model:
    inputs = keras.Input((6,))
    h = L.Dense(8)(L.Reshape((6, 1))(inputs))
    for _ in range(blocks):
        h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 4, dropout=0.1)(h, h))
        h = L.LayerNormalization()(h + L.Dropout(0.1)(L.Dense(8)(L.Dense(16, "gelu")(h))))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(h)))


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize(
    "make", [lambda: deep(10), lambda: deep(40), lambda: transformer(2)], ids=["10", "40", "attention"]
)
def test_all_graphs_together_are_about_as_large_as_two_steps(make, batch, monkeypatch):
    """The step's own once, and three of the forward pass, each far smaller than a step with its gradients."""
    model, bill = make(), Bill(monkeypatch)
    for _ in range(20):
        model(X, training=True)
    step = bill.step_of(model, True)
    own = operations_of(tf.function(step.python_function).get_concrete_function(X[:batch], Y[:batch]))
    traces, bill.operations = bill.traces, 0
    found = diagnose(model, X[:batch], Y[:batch], train_step=step)
    assert found.ok, found
    assert (bill.traces - traces, bill.steps) == (1, 1)
    assert bill.operations <= 2.2 * own
    assert 3 * bill.steps + bill.passes <= 30
