"""Side effects of a step's Python, read off its bytecode."""

from __future__ import annotations

import dis
import functools
import inspect
import io
import re
import types
from collections.abc import Iterator
from typing import Any

CHANGING = re.compile(
    "append(left)?|extend|insert|update|add|pop(left|item)?|remove|discard|clear"
    "|setdefault|sort|reverse"
)
WRITING = re.compile("write(lines|rows?)?|send|put(_nowait)?|dump|log(_metric)?|save")
PLAIN = (int, float, complex, str, bytes, bool, type(None))
LIBRARIES = frozenset(
    [
        "keras",
        "tf_keras",
        "tensorflow",
        "numpy",
        "functools",
        "phase_doctor",
        "inspect",
        "rich",
        "absl",
    ]
)


def unwrapped(function: Any) -> Any:
    """The function behind partials, `tf.function` and bound methods."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "python_function"):
            function = function.python_function
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            return function


def code_of(function: Any) -> types.CodeType | None:
    function = unwrapped(function)
    if not hasattr(function, "__code__"):
        function = inspect.getattr_static(type(function), "__call__", None)
    return getattr(function, "__code__", None)


def is_bound(function: Any) -> bool:
    """Whether the first parameter outlives the call: a method's, or `__call__`'s."""
    while isinstance(function, functools.partial) or hasattr(
        function, "python_function"
    ):
        partial = isinstance(function, functools.partial)
        function = function.func if partial else function.python_function
    return inspect.ismethod(function) or not inspect.isroutine(function)


def names_of(function: Any) -> dict[str, Any]:
    """The free and global names a function uses, with their values now."""
    function = unwrapped(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    values: dict[str, Any] = {}
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars, cells, strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:
            continue
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    used = {name for c in (code, *inner) for name in c.co_names}
    space = getattr(function, "__globals__", {})
    return {**{name: space[name] for name in used if name in space}, **values}


def is_own_code(value: Any) -> bool:
    """Whether it is a Python function outside the libraries, worth reading."""
    function = unwrapped(value)
    module = getattr(function, "__module__", None) or ""
    own = module.split(".")[0] not in LIBRARIES
    return isinstance(function, types.FunctionType) and own


def is_graph_object(value: Any) -> bool:
    """Keras and TensorFlow objects, whose state lies in variables."""
    roots = {c.__module__.split(".")[0] for c in type(value).__mro__}
    return bool(roots & {"keras", "tf_keras", "tensorflow"})


def python_effects(
    function: Any, depth: int = 0, seen: set[int] | None = None
) -> list[str]:
    """Side effects that a graph does not hold, each as a phrase.

    Found are writes to `nonlocal` and `global` names, to attributes and items of
    objects from outside the function, mutating method calls on such objects, and
    one-shot iterators: in the step and in the functions it calls by name. What hides
    deeper is not found.
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
    reader = Reader(code, values, code.co_varnames[:1] if is_bound(function) else ())
    said = [reader.effect(instruction) for instruction in reader.instructions]
    return list(dict.fromkeys([*remarks, *(text for text in said if text)]))


class Reader:
    """Reads one function's instructions, knowing what its names stand for."""

    def __init__(
        self, code: types.CodeType, values: dict[str, Any], bound: tuple[str, ...]
    ) -> None:
        self.code, self.values, self.bound = code, values, bound
        self.instructions = list(dis.get_instructions(code))
        self.loads: dict[tuple[int | None, int | None], dis.Instruction] = {}
        for one in self.instructions:
            if one.opname.startswith("LOAD_") and one.positions is not None:
                place = (one.positions.lineno, one.positions.col_offset)
                self.loads.setdefault(place, one)

    def outside(self, one: dis.Instruction) -> str | None:
        """Name of the outside object that the expression of `one` begins with."""
        if one.positions is None:
            return None
        first = self.loads.get((one.positions.lineno, one.positions.col_offset))
        if first is None or first is one:
            return None
        name = str(first.argval[0] if isinstance(first.argval, tuple) else first.argval)
        if first.opname in ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME"):
            module = isinstance(self.values.get(name), types.ModuleType)
            return None if module else name
        local = first.opname.startswith("LOAD_FAST")
        return name if local and name in self.bound else None

    def effect(self, one: dis.Instruction) -> str | None:
        operation, name = one.opname, one.argval
        outer = operation == "STORE_DEREF" and name in self.code.co_freevars
        if operation == "STORE_GLOBAL" or outer:
            return f"assigns the outer name `{name}`"
        if operation in ("STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR"):
            base = self.outside(one)
            attribute = operation == "STORE_ATTR"
            what = f"`{base}.{name}`" if attribute else f"an item of `{base}`"
            return f"sets {what}" if base else None
        if operation in ("LOAD_ATTR", "LOAD_METHOD"):
            writes = WRITING.fullmatch(str(name))
            base = (
                self.outside(one) if writes or CHANGING.fullmatch(str(name)) else None
            )
            if base and not is_graph_object(self.values.get(base)):
                return f"{'writes by' if writes else 'calls'} `{base}.{name}`"
        loads = operation in ("LOAD_GLOBAL", "LOAD_NAME")
        if loads and name == "open" and "open" not in self.values:
            return "opens a file"
        return None
