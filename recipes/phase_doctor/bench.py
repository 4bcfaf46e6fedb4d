"""Where a model is traced and run: every run begins from the snapshot and is undone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from .batches import outputs_of
from .clock import Clock
from .effects import Effects, effects_of
from .layers import Node, walk
from .recorder import Recorder
from .subject import Subject
from .variables import Snapshot


@dataclass(eq=False)
class Route:
    """One way of calling the model, traced."""

    name: str
    call: Callable[[Any], Any]
    concrete: Any
    recorder: Recorder
    effects: Effects
    # Of a trace with `fetch`: call number, places of its inputs and outputs.
    fetched: list[tuple[int, list[int], list[int]]]
    count: int  # outputs proper
    unread: list[str]  # classes of outputs that are no tensors
    ran: bool = False


class Bench:
    def __init__(self, subject: Subject, clock: Clock) -> None:
        self.subject, self.clock = subject, clock
        self.snapshot = Snapshot()
        self.remember()

    def remember(self) -> None:
        self.snapshot.add_all(self.subject.everything())

    def nodes(self) -> list[Node]:
        return list(walk(self.subject.model).values())

    def recorder(self) -> Recorder:
        return Recorder([n.layer for n in self.nodes()], self.subject.packages)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[None]:
        """Inside, the random states go on from run to run; it begins and ends anew."""
        self.snapshot.restore()
        try:
            yield
        finally:
            self.snapshot.restore()

    def trace(
        self, name: str, call: Callable[[Any], Any], x: Any, fetch: bool = False
    ) -> Route:
        """Traces `call(x)`, with a free batch size where the model allows one."""
        with self.clock.counting("tracing"):
            try:
                return self._trace(name, call, x, fetch, free=True)
            except Exception:
                return self._trace(name, call, x, fetch, free=False)

    def _trace(self, name: str, call: Any, x: Any, fetch: bool, free: bool) -> Route:
        recorder = self.recorder()
        leaves = tf.nest.flatten(x)
        present = [i for i, leaf in enumerate(leaves) if leaf is not None]
        fetched: list[tuple[int, list[int], list[int]]] = []
        unread: list[str] = []
        count = 0

        def function(*given: Any) -> list[Any]:
            nonlocal count
            recorder.calls.clear()
            fetched.clear()
            filled = list(leaves)
            for i, value in zip(present, given, strict=False):
                filled[i] = value
            result = call(tf.nest.pack_sequence_as(x, filled))
            outputs, unread[:] = outputs_of(result)
            count = len(outputs)
            for number, record in enumerate(recorder.calls if fetch else ()):
                places = [
                    add_floats(outputs, t) for t in (record.inputs, record.outputs)
                ]
                fetched.append((number, places[0], places[1]))
            return outputs

        specs = [spec_of(leaves[i], free) for i in present]
        with recorder:
            traced = tf.function(function, autograph=False)
            concrete = traced.get_concrete_function(*specs)
        effects = effects_of(concrete)
        return Route(name, call, concrete, recorder, effects, fetched, count, unread)

    def capture(self, concrete: Any) -> None:
        """Takes the variables that a graph captures into the snapshot."""
        for handle in concrete.graph.external_captures:
            if handle.dtype == tf.resource:
                self.snapshot.add(handle)

    def run(
        self, route: Route, x: Any, look: Callable[[], Any] | None = None
    ) -> tuple[list[Any], Any]:
        """Runs a route, calls `look` while its changes stand, and undoes them.

        States of seed generators stay: see `fresh`.
        """
        self.capture(route.concrete)
        given = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
        # TensorFlow optimises a graph when it is first run.
        what = "running" if route.ran else "tracing"
        route.ran = True
        try:
            with self.clock.counting(what):
                outputs = list(route.concrete(*given))
            seen = look() if look else None
        finally:
            self.snapshot.restore(self.floats(route.effects.writes))
        return outputs, seen

    def outputs(self, route: Route, x: Any) -> list[np.ndarray]:
        """The route's outputs proper as float64 arrays."""
        result, _ = self.run(route, x)
        return numbers_of(result[: route.count])

    def changed(self, keys: Iterable[int]) -> frozenset[int]:
        return frozenset(k for k in keys if self.snapshot.differs(k))

    def floats(self, keys: Iterable[int]) -> list[int]:
        """Of the saved variables, those that are no state of a seed generator."""
        saved = self.snapshot.saved
        return [k for k in keys if k in saved and saved[k][1].dtype.is_floating]


def add_floats(outputs: list[Any], tensors: list[Any]) -> list[int]:
    """Adds those that are numbers of this graph to its outputs; says where they lie."""
    graph = tf.compat.v1.get_default_graph()
    usable = [
        t for t in tensors if getattr(t, "graph", None) is graph and t.dtype.is_floating
    ]
    outputs += usable
    return list(range(len(outputs) - len(usable), len(outputs)))


def spec_of(leaf: Any, free: bool) -> Any:
    spec = tf.type_spec_from_value(leaf)
    if free and isinstance(spec, tf.TensorSpec) and spec.shape.rank:
        return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
    return spec


def numbers_of(tensors: Iterable[Any]) -> list[np.ndarray]:
    """Float64 copies of the tensors that hold numbers."""
    arrays = []
    for tensor in tensors:
        if hasattr(tensor, "flat_values"):
            tensor = tensor.flat_values
        elif hasattr(tensor, "indices") and hasattr(tensor, "values"):
            tensor = tensor.values
        kind = tensor.dtype
        if kind.is_floating or kind.is_integer or kind.is_bool:
            arrays.append(tf.cast(tensor, tf.float64).numpy())
        elif kind.is_complex:
            arrays.append(np.abs(tensor.numpy()).astype(np.float64))
    return arrays
