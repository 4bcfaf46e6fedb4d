"""The training step: traced once, under the recorder; run if all can be put back."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from .bench import Bench
from .bytecode import python_effects
from .effects import Effects, effects_of, made_by, traces_of
from .layers import walk
from .reach import reachable_variables
from .recorder import Recorder
from .variables import handle_of

plainly = tf.autograph.experimental.do_not_convert


@dataclass(eq=False)
class Recording:
    """A trace of the step that notes the calls and returns what the outermost get."""

    recorder: Recorder
    traced: Any = None
    concrete: Any = None
    given: list[Any] = field(default_factory=list)
    # Of an outermost call: places of its inputs in what the traced function returns.
    places: dict[int, list[int]] = field(default_factory=dict)
    swallowed: list[BaseException] = field(default_factory=list)  # `float(loss)`
    values: list[np.ndarray] | None = None

    def origins(self, path: Callable[[Any], str]) -> dict[int, str]:
        """In words: what each outermost call is given."""
        calls = self.recorder.calls
        said = {}
        for number in self.places:
            name = path(calls[number].layer)
            what = [self._origin(t, path) for t in calls[number].inputs[:1]]
            said[number] = f"{name}({what[0]})" if what else name
        return said

    def _origin(self, tensor: Any, path: Callable[[Any], str]) -> str:
        for i, given in enumerate(self.given):
            if tensor is given:
                last = i == len(self.given) - 1
                return "x" if i == 0 else "y" if last else f"input {i}"
        for earlier in self.recorder.calls:
            if any(tensor is out for out in earlier.outputs):
                return f"output of {path(earlier.layer)!r}"
        return made_by(tensor)


class TracedStep:
    """A step, the graph of it, and what stands against running it."""

    def __init__(self, bench: Bench, step: Any, name: str, insist: bool) -> None:
        self.bench, self.step, self.name, self.insist = bench, step, name, insist
        self.function = getattr(step, "python_function", step)
        subject = bench.subject
        self.args = arguments_of(self.function, subject.given, subject.y)
        self.remarks: list[str] = []
        self.concrete: Any = None
        self.effects: Effects | None = None
        self.recording: Recording | None = None
        self.kept = bool(traces_of(step))  # the reader's function holds a trace
        self.eager = self.autograph = False
        self._runner: Callable[[], Any] = lambda: None

    @property
    def runs(self) -> bool:
        """Whether it may be run: all can be put back, or the reader insists."""
        return self.insist or not self.remarks

    def trace(self) -> None:
        """Builds the graph; lazy optimizer slots come into being, no step is taken."""
        if self.kept:
            self.concrete = self.step.get_concrete_function(*self.args)
            self._runner = lambda: self.step(*self.args)
        else:
            if not hasattr(self.step, "get_concrete_function"):
                self.remarks += python_effects(self.function)
                untraceable = any(ONE_WAY.match(remark) for remark in self.remarks)
                if untraceable and not self.insist:
                    text = "so it was not even traced, for tracing runs its Python"
                    self.remarks.append(text)
                    return
            self._trace_afresh()
        self.effects = effects_of(self.concrete)
        for said, operations in (
            ("draws from stateful random operations", self.effects.random),
            ("reaches outside TensorFlow's variables", self.effects.outside),
        ):
            if operations:
                self.remarks.append(f"{said} ({', '.join(sorted(operations))})")

    def _trace_afresh(self) -> None:
        """The reader's own function stays untraced, so it still sees later flags."""
        self.recording = self.record()
        if self.recording is not None:
            traced, self.concrete = self.recording.traced, self.recording.concrete
            self._runner = lambda: self._run_recorded(traced)
            if self.recording.swallowed:
                self._look_behind(self.recording.swallowed[0])
            return
        options = {**self.options(), "autograph": self.autograph}
        plain = tf.function(self.function, **options)
        self.concrete = plain.get_concrete_function(*self.args)
        self._runner = lambda: plain(*self.args)

    def options(self, autograph: bool = True) -> dict[str, Any]:
        """How to trace it: as the reader's own `tf.function` would be."""
        step = self.step
        return {
            "autograph": getattr(step, "_autograph", autograph),
            "jit_compile": getattr(step, "_jit_compile", None),
        }

    def _run_recorded(self, traced: Any) -> None:
        assert self.recording is not None
        self.recording.values = [np.asarray(v) for v in traced(*self.args)]

    def _look_behind(self, error: BaseException) -> None:
        """`float(loss)` after the update is harmless; before it, it hides the rest."""
        model, writes = self.bench.subject.model, effects_of(self.concrete).writes
        reached = [v for v in reachable_variables(self.step) if is_trainable(v)]
        trained = {id(handle_of(v)) for v in (*reached, *model.trainable_variables)}
        if not trained & set(writes):
            text = f"{type(error).__name__}: {str(error)[:100]}"
            self.remarks.append(f"cannot be traced to its end ({text})")
            self.eager = True
            self._runner = lambda: self.step(*self.args)

    def run(self) -> None:
        with self.bench.clock.counting("running" if self.kept else "tracing"):
            self._runner()

    def record(self) -> Recording | None:
        """Traces the step's Python under the recorder. None where that fails."""
        # As it stands first; AutoGraph rewrites what cannot be traced so.
        modes = [False, True]
        if hasattr(self.step, "get_concrete_function"):
            modes = [bool(self.options()["autograph"])]
        for self.autograph in modes:
            recording = Recording(self.bench.recorder())
            try:
                with recording.recorder:
                    self._record(recording, self.autograph)
                return recording
            except Exception as error:
                if not needs_autograph(error):
                    return None
        return None

    def _record(self, recording: Recording, autograph: bool) -> None:
        function, calls = self.function, recording.recorder.calls

        def guarded(*given: Any) -> None:
            try:
                function(*given)
            except Exception as error:
                if not wants_value(error):
                    raise
                recording.swallowed.append(error)

        @plainly
        def before(given: Sequence[Any]) -> None:
            calls.clear()
            recording.swallowed.clear()
            recording.given = [t for t in tf.nest.flatten(given) if tf.is_tensor(t)]

        @plainly
        def after() -> list[Any]:
            graph = tf.compat.v1.get_default_graph()
            outputs: list[Any] = []
            recording.recorder.keep_last_traces()
            recording.places.clear()
            for number, call in enumerate(calls):
                if call.parent is None:
                    usable = [t for t in call.inputs if getattr(t, "graph", 0) is graph]
                    first = len(outputs)
                    outputs += [tf.identity(t) for t in usable]
                    recording.places[number] = list(range(first, len(outputs)))
            return outputs

        if autograph:

            def rehearsal(*given: Any) -> Any:
                before(given)
                function(*given)
                return after()
        else:

            def rehearsal(*given: Any) -> Any:
                before(given)
                guarded(*given)
                return after()

        options = {**self.options(), "autograph": autograph}
        recording.traced = tf.function(rehearsal, **options)
        recording.concrete = recording.traced.get_concrete_function(*self.args)

    def path(self, layer: Any) -> str:
        nodes = walk(self.bench.subject.model)
        return nodes[id(layer)].path if id(layer) in nodes else layer.name


ONE_WAY = re.compile(r"reads the one-shot|opens a|writes by")


def is_trainable(variable: Any) -> bool:
    return bool(getattr(variable, "trainable", False))


def arguments_of(function: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """What to hand the step: (x, y), x alone, or the pair, as its signature asks."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return (x,) if y is None else (x, y)
    Kind = inspect.Parameter
    kinds = (Kind.POSITIONAL_ONLY, Kind.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    needed = [p for p in positional if p.default is Kind.empty]
    any_number = any(p.kind is Kind.VAR_POSITIONAL for p in parameters)
    if any_number or len(positional) >= 2:
        return (x, y) if y is not None or len(needed) > 1 else (x,)
    if not positional:
        return ()
    return (x,) if y is None else ((x, y),)


def wants_value(error: BaseException) -> bool:
    """Whether Python wanted the number behind a tensor, as `float(loss)` does."""
    kinds = (TypeError, AttributeError, NotImplementedError, ValueError)
    said = r"[Ss]ymbolic|has no attribute 'numpy'|numpy\(\) is only available"
    return isinstance(error, kinds) and bool(re.search(said, str(error)))


def needs_autograph(error: BaseException) -> bool:
    name = type(error).__name__
    return "OperatorNotAllowedInGraph" in name or "as a Python `bool`" in str(error)
