"""What layers and models hold that heeds a phase, and how a class takes the phase."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from . import known
from .things import Class, Instance, Layer, Many, Net
from .tree import Scope, Site
from .values import Values


def constant(node: ast.AST | None) -> Any:
    """The value of a literal; an Ellipsis where there is none."""
    return node.value if isinstance(node, ast.Constant) else ...


def keyword(call: ast.AST, name: str) -> ast.expr | None:
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return next((k.value for k in keywords if k.arg == name), None)


def opaque(call: ast.Call) -> bool:
    """Arguments that cannot be read: `*args`, `**kwargs`."""
    return any(k.arg is None for k in call.keywords) or any(
        isinstance(a, ast.Starred) for a in call.args
    )


def rate_of(layer: Layer) -> Any:
    named = keyword(layer.node, known.RATE[layer.kind])
    if named is None and layer.node.args:
        named = layer.node.args[0]
    return constant(named)


def heeds(layer: Layer) -> bool:
    """Does this layer do something else in training?"""
    if layer.kind in known.DROPOUTS:
        return rate_of(layer) not in (0, 0.0, None)
    if layer.kind in known.NORMALISATIONS:
        return constant(keyword(layer.node, "trainable")) is not False
    if layer.kind in known.HEED_WITH:
        given = [keyword(layer.node, name) for name in known.HEED_WITH[layer.kind]]
        return any(constant(g) not in (0, 0.0, None, ...) for g in given)
    return layer.kind in known.HEED_ALWAYS


BASE = ast.Name("base")  # who makes the layers of an application


class Holdings:
    """Asks a value for the layers inside; only what is surely there counts."""

    def __init__(self, values: Values) -> None:
        self.values = values
        # A frozen BatchNormalization runs in inference whatever it is told: the nodes
        # of those that the file freezes, and BASE for those of an application.
        self.frozen: set[int] = set()

    def layers(self, value: Any, seen: frozenset = frozenset()) -> Iterator[Layer]:
        """Every layer of Keras inside."""
        if value is None or id(value) in seen:
            return
        seen = seen | {id(value)}
        if isinstance(value, Layer):
            yield value
            for part in value.inner:
                yield from self.layers(part, seen)
        elif isinstance(value, Net):
            if known.APPLICATIONS_WITH_NORM.fullmatch(value.kind):
                yield Layer("BatchNormalization", ast.Call(BASE, [], []))
            for part in value.parts:
                yield from self.layers(part, seen)
        elif isinstance(value, Many):
            for part in value.items:
                yield from self.layers(part, seen)
        elif isinstance(value, Instance):
            yield from self.layers(value.of, seen)
        elif isinstance(value, Class):
            for name in self.values.attributes(value):
                yield from self.layers(self.values.attribute(value, name), seen)

    def heeding(self, value: Any) -> list[str]:
        """The kinds of layers inside that heed a phase, each once."""
        found: dict[str, None] = {}
        for part in self.layers(value):
            if self.acts(part):
                found[part.kind] = None
        return list(found)

    def acts(self, part: Layer) -> bool:
        """Does it do something else in training, and does the file not freeze it?"""
        frozen = {id(part.node), id(part.node.func)} & self.frozen
        return heeds(part) and not (frozen and part.kind in known.NORMALISATIONS)

    def leaking(self, value: Any) -> list[str]:
        return [part.kind for part in self.layers(value) if known.leaks(part.kind)]

    def normalises(self, value: Any) -> bool:
        norms = [p for p in self.layers(value) if p.kind in known.NORMALISATIONS]
        return any(heeds(part) for part in norms)


class Signature:
    """How a `call` takes the phase."""

    def __init__(self, scope: Scope) -> None:
        arguments: ast.arguments = scope.node.args  # type: ignore[attr-defined]
        plain = [*arguments.posonlyargs, *arguments.args]
        self.names = [a.arg for a in plain] + [a.arg for a in arguments.kwonlyargs]
        self.defaults: dict[str, ast.expr] = dict(
            zip([a.arg for a in plain][::-1], arguments.defaults[::-1], strict=False)
        )
        for argument, default in zip(
            arguments.kwonlyargs, arguments.kw_defaults, strict=True
        ):
            if default is not None:
                self.defaults[argument.arg] = default
        self.takes = "training" in self.names
        self.hidden = arguments.kwarg is not None
        self.place = self.names.index("training") - 1 if self.takes else None

    def default(self, name: str = "training") -> Any:
        return constant(self.defaults.get(name))


def phase_of(site: Site, value: Any) -> ast.expr | bool | None:
    """The `training=` of a call; None where none is, False where it cannot be read."""
    call = site.node
    assert isinstance(call, ast.Call)
    if opaque(call):
        return False
    given = keyword(call, "training")
    if given is not None:
        return given
    place = 1
    if isinstance(value, Layer) and value.kind in known.HEED_WITH:
        return None  # their second argument is a state, or what is attended to
    if isinstance(value, Instance):
        method = value.of.method("call")
        if method is None:
            return False
        place_in = Signature(method).place
        if place_in is None:
            return None
        place = place_in
    return call.args[place] if len(call.args) > place else None
