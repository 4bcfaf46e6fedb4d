"""Side effects of a step's Python, read off its bytecode."""

from __future__ import annotations

import dis
import functools
import inspect
import io
import types
from collections.abc import Iterator
from typing import Any

CHANGING = frozenset(
    ("append", "appendleft", "extend", "insert", "update", "add", "pop", "popleft", "popitem", "remove", "discard",
     "clear", "setdefault", "sort", "reverse")
)  # fmt: skip


WRITING = frozenset(
    (
        "write",
        "writelines",
        "writerow",
        "writerows",
        "send",
        "put",
        "put_nowait",
        "dump",
        "log",
        "log_metric",
        "save",
    )
)


PLAIN = (int, float, complex, str, bytes, bool, type(None))


def code_of(function: Any) -> types.CodeType | None:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "python_function"):
            function = function.python_function
        else:
            break
    if not hasattr(function, "__code__"):
        function = inspect.getattr_static(type(function), "__call__", None)
    return getattr(function, "__code__", None)


def is_bound(function: Any) -> bool:
    """Whether the first parameter of a step's code is an object that outlives the call: a method's, or `__call__`'s."""
    while isinstance(function, functools.partial) or hasattr(
        function, "python_function"
    ):
        function = (
            function.func
            if isinstance(function, functools.partial)
            else function.python_function
        )
    return inspect.ismethod(function) or not inspect.isroutine(function)


def unwrapped(function: Any) -> Any:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "python_function"):
            function = function.python_function
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            return function


def names_of(function: Any) -> dict[str, Any]:
    """The free and global names a function uses, with their values now."""
    function = unwrapped(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    values: dict[str, Any] = {}
    for name, cell in zip(
        code.co_freevars, getattr(function, "__closure__", None) or (), strict=False
    ):
        try:
            values[name] = cell.cell_contents
        except ValueError:
            continue
    used = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            used |= set(constant.co_names)
    space = getattr(function, "__globals__", {})
    values.update(
        {name: space[name] for name in used if name in space and name not in values}
    )
    return values


def is_own_code(value: Any) -> bool:
    """Whether `value` is a Python function outside the libraries, whose body is worth reading."""
    function = unwrapped(value)
    module = getattr(function, "__module__", None) or ""
    return isinstance(function, types.FunctionType) and module.split(".")[0] not in (
        "keras", "tf_keras", "tensorflow", "numpy", "functools", "phase_doctor", "inspect", "rich", "absl"
    )  # fmt: skip


def python_effects(
    function: Any, depth: int = 0, seen: set[int] | None = None
) -> list[str]:
    """Side effects of a step's Python that a graph does not hold, read off its bytecode, each as a phrase.

    Found are writes to `nonlocal` and `global` names, to attributes and items of objects from outside the function,
    mutating method calls on such objects, and one-shot iterators. Reading the bytecode finds what is written in the
    step and in the functions it calls by name; what hides deeper is not found.
    """
    seen = set() if seen is None else seen
    code = code_of(function)
    if code is None or id(code) in seen or depth > 3:
        return []
    seen.add(id(code))
    values, remarks = names_of(function), []
    for name, value in values.items():
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            remarks.append(f"reads the one-shot iterator `{name}`")
        elif is_own_code(value):
            remarks += python_effects(value, depth + 1, seen)
    bound = code.co_varnames[:1] if is_bound(function) else ()
    instructions = list(dis.get_instructions(code))
    loads: dict[tuple[int | None, int | None], dis.Instruction] = {}
    for step in instructions:
        if step.opname.startswith("LOAD_") and step.positions is not None:
            loads.setdefault((step.positions.lineno, step.positions.col_offset), step)

    def outside(step: dis.Instruction) -> str | None:
        """Name of the outside object that the expression of `step` begins with."""
        if step.positions is None:
            return None
        first = loads.get((step.positions.lineno, step.positions.col_offset))
        if first is None or first is step:
            return None
        name = str(first.argval[0] if isinstance(first.argval, tuple) else first.argval)
        if first.opname in ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME"):
            return None if isinstance(values.get(name), types.ModuleType) else name
        return name if first.opname.startswith("LOAD_FAST") and name in bound else None

    for step in instructions:
        text = None
        if step.opname == "STORE_GLOBAL" or (
            step.opname == "STORE_DEREF" and step.argval in code.co_freevars
        ):
            text = f"assigns the outer name `{step.argval}`"
        elif step.opname in ("STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR"):
            base = outside(step)
            what = (
                f"`{base}.{step.argval}`"
                if step.opname == "STORE_ATTR"
                else f"an item of `{base}`"
            )
            text = f"sets {what}" if base else None
        elif (
            step.opname in ("LOAD_ATTR", "LOAD_METHOD")
            and step.argval in CHANGING | WRITING
        ):
            base = outside(step)
            if base and not is_graph_object(values.get(base)):
                text = f"{'writes by' if step.argval in WRITING else 'calls'} `{base}.{step.argval}`"
        elif (
            step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
            and step.argval == "open"
            and "open" not in values
        ):
            text = "opens a file"
        if text and text not in remarks:
            remarks.append(text)
    return remarks


def is_graph_object(value: Any) -> bool:
    """Keras and TensorFlow objects, whose state lies in variables."""
    return any(
        c.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow")
        for c in type(value).__mro__
    )
