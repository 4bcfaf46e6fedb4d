"""The reader's training step: traced, run, and put back."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .bytecode import python_effects
from .effects import WRITES, Effects, effects_of, made_by
from .reach import reach, reachable_variables
from .recorder import Recorder
from .routes import traces_of
from .variables import handle_of

if TYPE_CHECKING:
    from .examination import Exam


class Step:
    """The reader's training step: traced without being run, then run if all it does can be put back."""

    def __init__(self, exam: Exam, step: Any, name: str) -> None:
        self.exam, self.step, self.name = exam, step, name
        self.function = getattr(step, "python_function", step)
        self.args = arguments_of(self.function, *exam.batches[0])
        self.remarks: list[str] = []
        self.effects: Effects | None = None
        self.concrete: Any = None
        self.eager = False
        self.cached = False
        self._runner: Callable[[], Any] | None = None
        self._record: Recorder | None = None
        self._values: list[np.ndarray] | None = None
        self._outer: dict[int, list[Any]] = {}
        self._inputs: list[Any] = []
        self._fresh: set[int] | None = None

    def trace(self) -> None:
        """Builds the graph of the step; lazy optimizer slots come into being here, without a step being taken."""
        step, args = self.step, self.args
        if hasattr(step, "get_concrete_function"):
            self.cached = bool(traces_of(step))
            if not self.cached:
                # The reader's own function stays untraced, so that it still sees flags set after this examination.
                options = {
                    "autograph": getattr(step, "_autograph", True),
                    "jit_compile": getattr(step, "_jit_compile", None),
                    "input_signature": getattr(step, "input_signature", None),
                }
                step = tf.function(self.function, **options)
            self.concrete = step.get_concrete_function(*args)
            self._runner = lambda: step(*args)
        else:
            self.remarks += python_effects(self.function)
            if (
                any(
                    re.match(r"reads the one-shot|opens a|writes by", r)
                    for r in self.remarks
                )
                and not self.exam.insist
            ):
                self.remarks.append(
                    "so it was not even traced, for tracing runs its Python"
                )
                return
            failure: list[BaseException] = []

            def guarded(*given: Any) -> Any:
                failure.clear()
                try:
                    result = self.step(*given)
                except Exception as error:
                    if not wants_value(error):
                        raise
                    failure.append(error)
                    return tf.constant(0)
                return [
                    leaf for leaf in tf.nest.flatten(result) if tf.is_tensor(leaf)
                ] or tf.constant(0)

            try:
                traced = tf.function(guarded, autograph=False)
                self.concrete = traced.get_concrete_function(*args)
            except Exception as error:
                if not needs_autograph(error):
                    raise
                traced = tf.function(self.step)
                self.concrete = traced.get_concrete_function(*args)
            self._runner = lambda: traced(*args)
            if failure:
                # `float(loss)` after the update is harmless; before it, the rest of the step is out of sight.
                writes = effects_of(self.concrete).writes
                trained = {
                    id(handle_of(v))
                    for v in reachable_variables(self.step)
                    if getattr(v, "trainable", False)
                }
                trained |= {
                    id(handle_of(v)) for v in self.exam.model.trainable_variables
                }
                if not trained & set(writes):
                    self.remarks.append(
                        f"cannot be traced to its end ({type(failure[0]).__name__}: {str(failure[0])[:100]})"
                    )
                    self.eager = True
                    self._runner = lambda: self.step(*args)
        self.effects = effects_of(self.concrete)
        if self.effects.random:
            self.remarks.append(
                f"draws from stateful random operations ({', '.join(sorted(self.effects.random))})"
            )
        if self.effects.outside:
            self.remarks.append(
                f"reaches outside TensorFlow's variables ({', '.join(sorted(self.effects.outside))})"
            )

    def run(self) -> None:
        assert self._runner is not None
        self._runner()

    # -- what the step calls ---------------------------------------------------------------------------------------

    def record(self) -> Recorder | None:
        """Traces the step's Python once more, noting which layer is called how. None when that fails."""
        if self._record is not None:
            return self._record
        exam = self.exam
        began = time.perf_counter()
        recorder = Recorder([n.layer for n in exam.nodes.values()], exam.packages)
        outputs: list[Any] = []

        def function(*given: Any) -> Any:
            recorder.calls.clear()
            self._inputs = [t for t in tf.nest.flatten(given) if tf.is_tensor(t)]
            try:
                self.function(*given)
            except Exception as error:
                if not wants_value(error):
                    raise
            graph = tf.compat.v1.get_default_graph()
            outputs.clear()
            self._outer.clear()
            for number, record in enumerate(recorder.calls):
                if record.parent is None:
                    usable = [
                        t for t in record.inputs if getattr(t, "graph", None) is graph
                    ]
                    self._outer[number] = list(
                        range(len(outputs), len(outputs) + len(usable))
                    )
                    outputs.extend(usable)
            return [tf.identity(t) for t in outputs]

        try:
            with recorder:
                traced = tf.function(function, autograph=False)
                concrete = traced.get_concrete_function(*self.args)
            self._fresh = set(effects_of(concrete).writes)
            self._rerun = lambda: traced(*self.args)
        except Exception:
            return None
        finally:
            exam.clock.tracing += time.perf_counter() - began
        self._record = recorder
        return recorder

    def same_input(self, numbers: list[int]) -> bool:
        """Whether two of these outermost calls get the very same numbers."""
        assert self._record is not None
        calls = self._record.calls
        for i, first in enumerate(numbers):
            for second in numbers[i + 1 :]:
                a, b = calls[first].inputs, calls[second].inputs
                if (
                    a
                    and len(a) == len(b)
                    and all(s is t for s, t in zip(a, b, strict=False))
                ):
                    return True
        if self.remarks and not self.exam.insist:
            return False
        if self._values is None:
            try:
                self._values = [np.asarray(v) for v in self._rerun()]
            except Exception:
                self._values = []
            finally:
                self.exam.state.restore()
        groups = [
            [self._values[i] for i in self._outer.get(n, []) if i < len(self._values)]
            for n in numbers
        ]
        for i, one in enumerate(groups):
            for two in groups[i + 1 :]:
                if (
                    one
                    and len(one) == len(two)
                    and all(
                        np.array_equal(a, b) for a, b in zip(one, two, strict=False)
                    )
                ):
                    return True
        return False

    def origin(self, number: int) -> str:
        """In words: what an outermost call is given."""
        assert self._record is not None
        calls = self._record.calls
        record = calls[number]
        name = self.exam.path(record.layer)
        for tensor in record.inputs[:1]:
            for i, given in enumerate(self._inputs):
                if tensor is given:
                    return f"{name}({'x' if i == 0 else 'y' if i == len(self._inputs) - 1 else f'input {i}'})"
            for earlier in calls:
                if any(tensor is out for out in earlier.outputs):
                    return f"{name}(output of {self.exam.path(earlier.layer)!r})"
            return f"{name}({made_by(tensor)})"
        return name

    def copies(self, key: int) -> bool:
        """Whether what is assigned to a variable depends on another one of its shape; True where the graph hides it."""
        if self.concrete is None:
            return True
        graph = self.concrete.graph
        keys = {
            inner.op.name: id(outer)
            for outer, inner in graph.captures
            if outer.dtype == tf.resource
        }
        assigned = [
            op
            for op in graph.get_operations()
            if WRITES.match(op.type) and keys.get(op.inputs[0].op.name) == key
        ]
        if not assigned:
            return True
        for op in assigned:
            shape, queue, seen = (
                op.inputs[-1].shape,
                [t.op for t in op.inputs[1:]],
                set(),
            )
            while queue:
                source = queue.pop()
                if source.name in seen:
                    continue
                seen.add(source.name)
                if source.type in (
                    "PartitionedCall",
                    "StatefulPartitionedCall",
                    "While",
                    "If",
                ):
                    return True
                if source.type == "ReadVariableOp":
                    if (
                        keys.get(source.inputs[0].op.name) != key
                        and source.outputs[0].shape == shape
                    ):
                        return True
                    continue
                queue += [t.op for t in source.inputs]
        return False

    def says_inference(self, layer: Any) -> bool:
        """Whether the step itself writes `training=False` on every outermost call that holds `layer`."""
        recorder = self.record()
        if recorder is None:
            return False
        seen = [
            recorder.calls[([n, *recorder.ancestors(n)])[-1]].explicit
            for n, record in enumerate(recorder.calls)
            if record.layer is layer
        ]
        return bool(seen) and all(explicit is False for explicit in seen)

    def fresh_writes(self) -> set[int] | None:
        """What the step would write if it were traced now; None unless the reader's trace is an older one."""
        if not self.cached:
            return None
        self.record()
        return self._fresh

    def optimized(self) -> set[int]:
        """Variables held by any optimizer that the step can reach."""
        held: set[int] = set()
        for item in reach(self.step):
            known = getattr(item, "_trainable_variables", None)
            if known and hasattr(item, "apply_gradients"):
                held |= {id(handle_of(v)) for v in known}
        own = getattr(
            getattr(self.exam.model, "optimizer", None), "_trainable_variables", None
        )
        return held | {id(handle_of(v)) for v in own or ()}


def arguments_of(function: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """What to hand the step: (x, y), or x alone, or the pair as one argument, as its signature asks."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return (x,) if y is None else (x, y)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    needed = [p for p in positional if p.default is inspect.Parameter.empty]
    if (
        any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        or len(positional) >= 2
    ):
        return (x, y) if y is not None or len(needed) > 1 else (x,)
    if not positional:
        return ()
    return (x,) if y is None else ((x, y),)


def wants_value(error: BaseException) -> bool:
    """Whether an exception says that Python wanted the number behind a symbolic tensor (`float(loss)`, `.numpy()`)."""
    kinds = (TypeError, AttributeError, NotImplementedError, ValueError)
    return isinstance(error, kinds) and bool(
        re.search(
            r"[Ss]ymbolic|has no attribute 'numpy'|SymbolicTensor|numpy\(\) is only available",
            str(error),
        )
    )


def needs_autograph(error: BaseException) -> bool:
    return "OperatorNotAllowedInGraph" in type(
        error
    ).__name__ or "as a Python `bool`" in str(error)
