"""What a step can reach, and the Python state among it."""

from __future__ import annotations

import collections
import dis
import functools
import inspect
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .bytecode import PLAIN, code_of, is_graph_object, is_own_code, names_of
from .variables import tf_variables


def reach(start: Any) -> Iterator[Any]:
    """What a function can reach through closures, globals, partials and attributes."""
    queue = collections.deque([(start, 0)])
    seen: set[int] = set()
    ends = (*PLAIN, np.ndarray, types.ModuleType, type)
    while queue and len(seen) < 5000:
        item, depth = queue.popleft()
        if id(item) in seen or isinstance(item, ends) or depth > 6:
            continue
        seen.add(id(item))
        yield item
        queue.extend((child, depth + 1) for child in within(item))


def within(item: Any) -> list[Any]:
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if inspect.ismethod(item):
        return [item.__self__, item.__func__]
    if hasattr(item, "python_function"):
        return [item.python_function]
    if isinstance(item, types.FunctionType):
        names = names_of(item).values() if is_own_code(item) else ()
        return [*names, *(item.__defaults__ or ())]
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, (list, tuple, set)):
        return list(item)
    if not is_graph_object(item):
        return list(getattr(item, "__dict__", {}).values())
    return [item.optimizer] if hasattr(item, "optimizer") else []


def reachable_variables(step: Any) -> list[Any]:
    """Variables of every Keras object that a step can reach, and bare ones."""
    found: list[Any] = []
    for item in reach(step):
        if tf_variables(item):
            found.append(item)
        elif is_graph_object(item):
            variables = getattr(item, "variables", None)
            try:
                found += list(variables() if callable(variables) else variables or ())
            except Exception:
                continue
    return found


def optimized_variables(step: Any, model: Any) -> list[Any]:
    """Variables held by any optimizer that the step can reach, or by the model's."""
    held = list(
        getattr(getattr(model, "optimizer", None), "_trainable_variables", None) or ()
    )
    for item in reach(step):
        if hasattr(item, "apply_gradients"):
            held += list(getattr(item, "_trainable_variables", None) or ())
    return held


CONTAINERS = (
    *(list, dict, set),
    *(collections.deque, collections.defaultdict, collections.Counter),
)
# What Keras sets on a model when it is trained or asked.
KEPT = (
    *("train_function", "test_function", "predict_function"),
    *("train_tf_function", "stop_training"),
)


class PythonState:
    """Python objects that tracing a step may change: containers, names, generators."""

    def __init__(self, step: Any, model: Any) -> None:
        self.undo: list[Callable[[], None]] = []
        python, numpy = random.getstate(), np.random.get_state()
        self.undo.append(lambda: random.setstate(python))
        self.undo.append(lambda: np.random.set_state(numpy))
        attributes = getattr(model, "__dict__", {})
        for name in KEPT:
            if name in attributes:
                self._entry(attributes, name)
        if step is None:
            return
        stored = stored_attributes(step)
        for item in reach(step):
            if isinstance(item, types.FunctionType):
                for cell in item.__closure__ or ():
                    self._cell(cell)
                for name in item.__code__.co_names:
                    if name in item.__globals__:
                        self._entry(item.__globals__, name)
            elif type(item) in CONTAINERS:
                self._container(item)
            elif isinstance(getattr(item, "__dict__", None), dict):
                if is_graph_object(item):
                    self._plain(item.__dict__, stored)
                elif not inspect.isroutine(item):
                    self._container(item.__dict__)

    def restore(self) -> None:
        for undo in self.undo:
            undo()

    def _cell(self, cell: Any) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            return

        def undo() -> None:
            if cell.cell_contents is not value:
                cell.cell_contents = value

        self.undo.append(undo)

    def _entry(self, space: dict[str, Any], name: str) -> None:
        value = space[name]

        def undo() -> None:
            if space.get(name) is not value:
                space[name] = value

        self.undo.append(undo)

    def _container(self, original: Any) -> None:
        copy = original.copy()

        def undo() -> None:
            if same_items(original, copy):
                return
            original.clear()
            listed = isinstance(original, (list, collections.deque))
            (original.extend if listed else original.update)(copy)

        self.undo.append(undo)

    def _plain(self, space: dict[str, Any], stored: set[str]) -> None:
        """Numbers and names that the step sets on a Keras object."""

        def now() -> dict[str, Any]:
            return {k: v for k, v in space.items() if k in stored and is_plain(v)}

        before = now()

        def undo() -> None:
            for name in now().keys() - before.keys():
                del space[name]
            space.update(before)

        self.undo.append(undo)


def is_plain(value: Any) -> bool:
    return type(value) in PLAIN


def stored_attributes(step: Any) -> set[str]:
    """Names of the attributes that a step's own Python sets."""
    codes = {code_of(item) for item in reach(step) if is_own_code(item)}
    read = [dis.get_instructions(c) for c in codes | {code_of(step)} if c is not None]
    return {str(i.argval) for each in read for i in each if i.opname == "STORE_ATTR"}


def same_items(first: Any, second: Any) -> bool:
    if isinstance(first, (set, collections.deque)):
        return first == second
    if len(first) != len(second):
        return False
    if isinstance(first, list):
        return all(a is b for a, b in zip(first, second, strict=True))
    return all(key in second and second[key] is value for key, value in first.items())
