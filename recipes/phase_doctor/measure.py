"""Measurements that few rules ask for: each made once, when first asked.

Every one begins with the variables as they were found, states of seed generators
included, and leaves them so; the order in which rules ask does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from .batches import rows_of
from .bench import Bench, Route, numbers_of
from .effects import WRITES, effects_of
from .evidence import INFERENCE, TRAINING, Arrays, Phases, Trace
from .flow import feeds, trained_through
from .losses import loss_of
from .noise import agree
from .step import Recording, TracedStep
from .views import Views

Method = TypeVar("Method", bound=Callable[..., Any])


def once(method: Method) -> Method:
    """Remembers the answer by its arguments, and asks from the snapshot."""

    @functools.wraps(method)
    def asked(self: Measure, *given: Any) -> Any:
        key = (method.__name__, *given)
        if key not in self.answers:
            with self.bench.fresh():
                self.answers[key] = method(self, *given)
        return self.answers[key]

    return asked  # type: ignore[return-value]


class Measure:
    def __init__(
        self,
        bench: Bench,
        views: Views,
        routes: dict[str, Route],
        step: TracedStep | None,
    ) -> None:
        self.bench, self.views, self.routes, self.step = bench, views, routes, step
        self.answers: dict[Any, Any] = {}
        self.x = bench.subject.x

    # -- where two runs part ---------------------------------------------------------

    @once
    def first_difference(
        self, first: str, second: str, rows: tuple[int, int] | None = None
    ) -> str | None:
        """Path of the first layer whose inputs agree between two ways of calling the
        model and whose outputs do not. `rows` is the part that the second way gets."""
        one, two = self.routes[first], self.routes[second]
        index = None if rows is None else np.arange(*rows)
        part = self.x if index is None else rows_of(self.x, index)
        try:
            a = self.bench.trace(first, one.call, self.x, fetch=True)
            same = one is two and index is None
            b = a if same else self.bench.trace(second, two.call, part, fetch=True)
            values = [self.bench.run(a, self.x)[0], self.bench.run(b, part)[0]]
        except Exception:
            return None
        suspects = parting(a, b, values[0], values[1], index)
        for number in suspects:  # the innermost of the first
            if not any(number in a.recorder.ancestors(inner) for inner in suspects):
                return self.views.of(a.recorder.calls[number].layer).path
        return None

    @once
    def shared_inputs(self) -> dict[int, np.ndarray] | None:
        """What each call in the training phase gets as its first input."""
        try:
            call = self.routes[TRAINING].call
            route = self.bench.trace(TRAINING, call, self.x, fetch=True)
            values, _ = self.bench.run(route, self.x)
        except Exception:
            return None
        calls = route.recorder.calls
        return {
            n: values[inputs[0]].numpy()
            for n, inputs, _ in route.fetched
            if inputs and self.views.of(calls[n].layer).norm
        }

    # -- the training phase ----------------------------------------------------------

    @once
    def training_again(self) -> tuple[Arrays, Arrays]:
        """Two training passes over the batch, with other draws."""
        route = self.routes[TRAINING]
        return self.bench.outputs(route, self.x), self.bench.outputs(route, self.x)

    @once
    def training_means(self) -> dict[int, np.ndarray]:
        """Every variable that one training pass writes, after it."""
        route, read = self.routes[TRAINING], self.bench.snapshot.read
        keys = self.bench.floats(route.effects.writes)
        _, means = self.bench.run(route, self.x, lambda: {k: read(k) for k in keys})
        return means

    # -- the loss --------------------------------------------------------------------

    @once
    def losses(self) -> dict[str, float]:
        """The loss of both phases on the batch; empty without a loss."""
        subject = self.bench.subject
        loss = loss_of(subject)
        if loss is None:
            return {}
        found = {}
        try:
            for name, way in (
                ("loss_training", TRAINING),
                ("loss_inference", INFERENCE),
            ):
                route = self.routes[way]
                outputs, _ = self.bench.run(route, self.x)
                found[name] = float(loss(subject.y, outputs[: route.count]))
        except Exception:
            return {}
        return found

    @once
    def sample_losses(self, phases: Phases) -> Any:
        """Losses by sample, under the batch's own statistics and under the moving ones;
        None where they cannot be told."""
        subject = self.bench.subject
        loss = loss_of(subject)
        if loss is None or not phases.substituted:
            return None

        def of(outputs: Arrays, i: int) -> float:
            row = rows_of(subject.y, np.arange(i, i + 1))
            mine = [tf.constant(o[i : i + 1], "float32") for o in outputs]
            return float(loss(row, mine))

        try:
            samples = range(min(64, *(len(o) for o in phases.substituted)))
            both = (phases.substituted, phases.moving)
            return tuple(np.array([of(o, i) for i in samples]) for o in both)
        except Exception:
            return None

    # -- the step --------------------------------------------------------------------

    @once
    def recording(self) -> Recording | None:
        """The step's Python under the recorder: its only trace, or one made afresh."""
        if self.step is None or self.step.effects is None:
            return None
        if self.step.recording is None and self.step.kept:
            with self.bench.clock.counting("tracing"):
                self.step.recording = self.step.record()
        return self.step.recording

    @once
    def step_calls(self) -> Trace | None:
        """Which layer the step calls how; None where that cannot be seen."""
        found = self.recording()
        if found is None:
            return None
        effects = effects_of(found.concrete)
        origins = found.origins(lambda layer: self.views.of(layer).path)
        recorder = found.recorder
        return self.views.trace_of("step", recorder, effects, found.concrete, origins)

    @once
    def trained_through(self, updated: frozenset[int]) -> dict[int, frozenset[int]]:
        """By call of the step: those of the updated variables that get their gradients
        through it. A call that no graph holds is left out."""
        found = self.recording()
        if found is None:
            return {}
        return trained_through(found.recorder.calls, found.concrete, updated)

    @once
    def feeds(self, updated: frozenset[int]) -> dict[int, frozenset[int]]:
        """By call of the step: those of the updated variables that learn from it."""
        found = self.recording()
        if found is None:
            return {}
        return feeds(found.recorder.calls, found.concrete, updated)

    def fresh_writes(self) -> frozenset[int] | None:
        """What the step would write if traced now; None where no older one is kept."""
        if self.step is None or not self.step.kept:
            return None
        calls = self.step_calls()
        return None if calls is None else frozenset(calls.writes)

    @once
    def outer_inputs(self) -> dict[int, list[np.ndarray]]:
        """What the outermost calls of the step are given; empty if it may not run."""
        found = self.recording()
        if found is None or self.step is None or not self.step.runs:
            return {}
        if found.values is None:
            try:
                found.values = [np.asarray(v) for v in found.traced(*self.step.args)]
            except Exception:
                return {}
        values = found.values
        return {n: [values[i] for i in places] for n, places in found.places.items()}

    @once
    def copies(self, key: int) -> bool:
        """Whether what the step assigns to a variable depends on another one of its
        shape; True where the graph hides it."""
        if self.step is None or self.step.concrete is None:
            return True
        graph = self.step.concrete.graph
        captured = [(o, i) for o, i in graph.captures if o.dtype == tf.resource]
        keys = {inner.op.name: id(outer) for outer, inner in captured}
        assigned = [
            op
            for op in graph.get_operations()
            if WRITES.match(op.type) and keys.get(op.inputs[0].op.name) == key
        ]
        return not assigned or any(reads_another(op, key, keys) for op in assigned)


def reads_another(assignment: Any, key: int, keys: dict[str, int]) -> bool:
    """Whether an assigned value comes from another variable of that shape."""
    shape, seen = assignment.inputs[-1].shape, set()
    queue = [t.op for t in assignment.inputs[1:]]
    while queue:
        source = queue.pop()
        if source.name in seen:
            continue
        seen.add(source.name)
        if source.type in ("PartitionedCall", "StatefulPartitionedCall", "While", "If"):
            return True
        if source.type == "ReadVariableOp":
            another = keys.get(source.inputs[0].op.name) != key
            if another and source.outputs[0].shape == shape:
                return True
            continue
        queue += [t.op for t in source.inputs]
    return False


def parting(
    one: Route, two: Route, left: Any, right: Any, rows: np.ndarray | None
) -> list[int]:
    """Calls whose inputs agree between two runs and whose outputs do not."""

    def numbered(route: Route) -> list[tuple[int, tuple[int, int], Any, Any]]:
        seen: dict[int, int] = {}
        found = []
        for number, inputs, outputs in route.fetched:
            layer = id(route.recorder.calls[number].layer)
            seen[layer] = seen.get(layer, 0) + 1
            found.append((number, (layer, seen[layer]), inputs, outputs))
        return found

    others = {name: places for _, name, *places in numbered(two)}
    suspects = []
    for number, name, *places in numbered(one):
        if name not in others:
            continue
        agreeing = [
            agree(numbers_of(left[i] for i in a), numbers_of(right[i] for i in b), rows)
            for a, b in zip(places, others[name], strict=True)
        ]
        if agreeing == [True, False]:
            suspects.append(number)
    return suspects
