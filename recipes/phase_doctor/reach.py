"""What a step can reach, and the Python state among it."""

from __future__ import annotations

import collections
import dis
import functools
import inspect
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .bytecode import PLAIN, code_of, is_graph_object, is_own_code, names_of
from .variables import tf_variables


def reach(start: Any) -> Iterator[Any]:
    """Objects a function can reach through closures, globals, partials and attributes, itself included."""
    queue = collections.deque([(start, 0)])
    seen: set[int] = set()
    while queue and len(seen) < 5000:
        item, depth = queue.popleft()
        if (
            id(item) in seen
            or isinstance(item, (*PLAIN, np.ndarray, types.ModuleType, type))
            or depth > 6
        ):
            continue
        seen.add(id(item))
        yield item
        children: list[Any] = []
        if isinstance(item, functools.partial):
            children += [item.func, *item.args, *item.keywords.values()]
        elif inspect.ismethod(item):
            children += [item.__self__, item.__func__]
        elif hasattr(item, "python_function"):
            children.append(item.python_function)
        elif isinstance(item, types.FunctionType):
            children += list(names_of(item).values()) if is_own_code(item) else []
            children += list(item.__defaults__ or ())
        elif isinstance(item, Mapping):
            children += list(item.values())
        elif isinstance(item, (list, tuple, set)):
            children += list(item)
        elif not is_graph_object(item):
            children += list(getattr(item, "__dict__", {}).values())
        elif hasattr(item, "optimizer"):
            children.append(getattr(item, "optimizer", None))
        queue.extend((c, depth + 1) for c in children)


def reachable_variables(step: Any) -> list[Any]:
    """Variables of every model, layer, metric and optimizer that a step can reach, and bare ones."""
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


class PythonState:
    """Python objects that a step may change while it is traced: containers, plain names, random generators."""

    def __init__(self, step: Any, model: Any) -> None:
        self.random = (random.getstate(), np.random.get_state())
        self.cells: list[tuple[Any, Any]] = []
        self.globals: list[tuple[dict, str, Any]] = []
        self.copies: list[tuple[Any, Any]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.plain: list[
            tuple[dict, dict, set[str]]
        ] = []  # numbers and names that a step sets on Keras objects
        stored = stored_attributes(step) if step is not None else set()
        for name in (
            "train_function",
            "test_function",
            "predict_function",
            "train_tf_function",
            "stop_training",
        ):
            if name in getattr(model, "__dict__", {}):
                self.attributes.append((model, name, model.__dict__[name]))
        for item in reach(step) if step is not None else ():
            if isinstance(item, types.FunctionType):
                for cell in item.__closure__ or ():
                    try:
                        self.cells.append((cell, cell.cell_contents))
                    except ValueError:
                        continue
                code = item.__code__
                self.globals += [
                    (item.__globals__, n, item.__globals__[n])
                    for n in code.co_names
                    if n in item.__globals__
                ]
            elif type(item) in (
                list,
                dict,
                set,
                collections.deque,
                collections.defaultdict,
                collections.Counter,
            ):
                self.copies.append((item, item.copy()))
            elif (
                not is_graph_object(item)
                and hasattr(item, "__dict__")
                and not inspect.isroutine(item)
            ):
                self.copies.append((item.__dict__, dict(item.__dict__)))
            elif is_graph_object(item) and isinstance(
                getattr(item, "__dict__", None), dict
            ):
                now = {
                    k: v
                    for k, v in item.__dict__.items()
                    if k in stored and type(v) in PLAIN
                }
                self.plain.append((item.__dict__, now, stored))

    def restore(self) -> None:
        random.setstate(self.random[0])
        np.random.set_state(self.random[1])
        for cell, value in self.cells:
            if cell.cell_contents is not value:
                cell.cell_contents = value
        for space, name, value in self.globals:
            if space.get(name) is not value:
                space[name] = value
        for original, copy in self.copies:
            if (
                original != copy
                if isinstance(original, (set, collections.deque))
                else not identical(original, copy)
            ):
                if isinstance(original, (list, collections.deque)):
                    original.clear()
                    original.extend(copy)
                else:
                    original.clear()
                    original.update(copy)
        for space, before, stored in self.plain:
            for name in [
                k
                for k, v in space.items()
                if k in stored and type(v) in PLAIN and k not in before
            ]:
                del space[name]
            space.update(before)
        for owner, name, value in self.attributes:
            if owner.__dict__.get(name) is not value:
                owner.__dict__[name] = value


def stored_attributes(step: Any) -> set[str]:
    """Names of the attributes that a step's own Python sets."""
    codes = {code_of(item) for item in reach(step) if is_own_code(item)} | {
        code_of(step)
    }
    return {
        str(i.argval)
        for c in codes
        if c is not None
        for i in dis.get_instructions(c)
        if i.opname == "STORE_ATTR"
    }


def identical(first: Any, second: Any) -> bool:
    if len(first) != len(second):
        return False
    if isinstance(first, list):
        return all(a is b for a, b in zip(first, second, strict=False))
    return all(key in second and second[key] is value for key, value in first.items())
