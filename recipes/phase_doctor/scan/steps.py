"""Which layers a method calls with which phase, and what is trained where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from .holds import Signature, constant, keyword, phase_of
from .source import Source
from .things import Class, Instance, Layer, Net
from .tree import Scope, Site

HEARS = (
    3,
    10,
)  # from here on a `call` without `training` heeds `model(x, training=True)`


def calls_of_layers(source: Source, scope: Scope) -> Iterator[tuple[Site, Any, Any]]:
    """The layers that a method calls, in order, each with the phase it is given."""
    for site in sorted(scope.calls, key=lambda s: s.at):
        value = source.callee(site)
        known_layer = isinstance(value, (Layer, Net))
        if known_layer or (isinstance(value, Instance) and value.of.is_layer):
            yield site, value, phase_of(site, value)


def phase_given(source: Source, site: Site, value: Any) -> ast.expr | bool | None:
    """`phase_of`, also where `call` names its phase otherwise, as `is_training`."""
    phase = phase_of(site, value)
    call = value.of.method("call") if isinstance(value, Instance) else None
    if phase is not None or call is None:
        return phase
    own, node = Signature(call), site.node
    for _, _, handed in calls_of_layers(source, call):
        if isinstance(handed, ast.Name) and handed.id in own.names:
            place = own.names.index(handed.id) - 1
            found = keyword(node, handed.id) or node.args[place : place + 1]  # type: ignore[attr-defined]
            if found:
                return found if isinstance(found, ast.expr) else found[0]
    return None


def under_tape(source: Source, site: Site) -> bool:
    """Is it recorded for more than the gradient of what a tape watches, an input?"""
    for block in site.withs:
        for item in block.items:
            call, tape = item.context_expr, item.optional_vars
            if isinstance(call, ast.Call):
                name = getattr(source.values.at(call.func, site), "name", "")
                if name == "tensorflow.GradientTape" and not (
                    isinstance(tape, ast.Name) and watches(site.scope, tape.id)
                ):
                    return True
    return False


def watches(scope: Scope, tape: str) -> bool:
    """Does a tape give the gradient of what it watches, and no other?"""
    watched, asked = set(), set()
    for site in scope.calls:
        match site.node:
            case ast.Call(ast.Attribute(ast.Name(name), "watch"), [what]):
                watched |= {ast.unparse(what)} if name == tape else set()
            case ast.Call(ast.Attribute(ast.Name(name), "gradient"), [_, what, *_]):
                asked |= {ast.unparse(what)} if name == tape else set()
    return bool(asked) and asked <= watched


def updates(scope: Scope, model: ast.expr) -> bool:
    """Does the function hand gradients of this model's variables to an optimizer?"""
    name, applies, mine = ast.unparse(model), False, False
    for node in ast.walk(scope.node):
        if isinstance(node, ast.Attribute):
            applies |= node.attr in ("apply_gradients", "apply", "minimize")
            if node.attr in ("trainable_variables", "trainable_weights"):
                mine |= ast.unparse(node.value) == name
    return applies and mine


def stepped(source: Source, told: bool = False) -> Iterator[tuple[Site, Instance]]:
    """Bare calls of a class's instances under a tape whose gradients are applied.

    With `told` also those that state `training=True`.
    """
    for site in source.calls:
        value = source.callee(site)
        if not isinstance(value, Instance) or not under_tape(source, site):
            continue
        phase = phase_given(source, site, value)
        fits = phase is None or (told and constant(phase) is True)  # type: ignore[arg-type]
        if fits and updates(site.scope, site.node.func):  # type: ignore[attr-defined]
            yield site, value


def trained(source: Source) -> dict[Class, str]:
    """The classes of the file whose instances it trains, and where it does so."""
    unheard = (3,) <= source.release < HEARS
    found = {value.of: "its training step" for _, value in stepped(source, unheard)}
    for site, receiver in source.methods("fit", "compile", "train_on_batch"):
        value = source.values.at(receiver, site)
        if isinstance(value, Instance):
            found[value.of] = "`fit`"
    return found
