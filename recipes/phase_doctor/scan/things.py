"""What an expression can stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .tree import Scope


@dataclass(eq=False)
class Dotted:
    """A name of a library, in one spelling."""

    name: str


@dataclass(eq=False)
class Layer:
    """`Dropout(0.5)`: an instance of a layer of Keras."""

    kind: str
    node: ast.Call
    inner: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Net:
    """A Sequential, Functional or application, with the layers that are known of it."""

    kind: str
    node: ast.AST
    parts: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Class:
    scope: Scope
    bases: list[Any]

    @property
    def name(self) -> str:
        return self.scope.name

    def is_a(self, *names: str) -> bool:
        return any(
            (isinstance(base, Dotted) and base.name in names)
            or (isinstance(base, Class) and base.is_a(*names))
            for base in self.bases
        )

    @property
    def is_model(self) -> bool:
        return self.is_a("keras.Model", "keras.Sequential", "keras.Functional")

    @property
    def is_layer(self) -> bool:
        return self.is_model or self.is_a("keras.layers.Layer")

    def method(self, name: str) -> Scope | None:
        """The method of this class or of a base in the file."""
        for scope in self.scope.inner:
            if scope.name == name:
                return scope
        for base in self.bases:
            found = base.method(name) if isinstance(base, Class) else None
            if found:
                return found
        return None


@dataclass(eq=False)
class Instance:
    of: Class
    node: ast.AST


@dataclass(eq=False)
class Function:
    scope: Scope


@dataclass(eq=False)
class Tensor:
    """What a layer or model gave when called."""

    by: Any
    node: ast.Call
    inputs: list[Any]


@dataclass(eq=False)
class Many:
    items: list[Any]


def path(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The layers that a tensor went through, as far as they are known."""
    seen = set() if seen is None else seen
    if value is None or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Many):
        for item in value.items:
            yield from path(item, seen)
    elif isinstance(value, Tensor):
        for item in value.inputs:
            yield from path(item, seen)
        if isinstance(value.by, Tensor):
            yield from path(value.by, seen)
        elif value.by is not None:
            yield value.by
