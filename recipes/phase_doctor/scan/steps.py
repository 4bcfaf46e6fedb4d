"""Which layers a method calls with which phase, and what is trained where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from .holds import Signature, constant, keyword, phase_of
from .source import Source
from .things import Class, Instance, Layer, Net
from .tree import Scope, Site

# From here on `model(x, training=True)` reaches a `call` that takes no `training`.
HEARS = (3, 10)
APPLIES = {"apply_gradients", "apply", "minimize"}


def calls_of_layers(source: Source, scope: Scope) -> Iterator[tuple[Site, Any, Any]]:
    """The layers that a method calls, in order, each with the phase it is given."""
    for site in sorted(scope.calls, key=end):
        value = source.callee(site)
        known_layer = isinstance(value, (Layer, Net))
        if known_layer or (isinstance(value, Instance) and value.of.is_layer):
            yield site, value, phase_of(site, value)


def end(site: Site) -> tuple[int, int]:
    """Calls run in the order in which they end: an argument before its call."""
    return site.node.end_lineno, site.node.end_col_offset  # type: ignore[attr-defined]


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


def trains(source: Source, site: Site) -> bool:
    """Is what is called trained by this call: is it recorded by a tape that gives the
    gradient of its variables, in a function that applies gradients?
    """
    nodes = list(ast.walk(site.scope.node))
    applied = {n.attr for n in nodes if isinstance(n, ast.Attribute)} & APPLIES
    if not applied or cut_off(source, site):
        return False
    return any(
        gives(nodes, tape, block, site.node.func)  # type: ignore[attr-defined]
        for block in site.withs
        for tape in tapes(source, block, site)
    )


def tapes(source: Source, block: ast.With | ast.AsyncWith, site: Site) -> Iterator[str]:
    for item in block.items:
        call, tape = item.context_expr, item.optional_vars
        if isinstance(call, ast.Call) and isinstance(tape, ast.Name):
            name = getattr(source.values.at(call.func, site), "name", "")
            if name == "tensorflow.GradientTape":
                yield tape.id


def cut_off(source: Source, site: Site) -> bool:
    """No gradient goes through `tf.stop_gradient(…)` or `tape.stop_recording()`."""
    for block in site.withs:
        if any("stop_recording" in ast.unparse(i.context_expr) for i in block.items):
            return True
    return any(
        source.func(other) == "tensorflow.stop_gradient"
        and any(node is site.node for node in ast.walk(other.node))
        for other in site.scope.calls
    )


def gives(
    nodes: list[ast.AST], tape: str, block: ast.With | ast.AsyncWith, model: ast.expr
) -> bool:
    """Does this tape, up to its next use, give the gradient of a model's variables?"""
    later = [
        node.lineno
        for node in nodes
        if isinstance(node, ast.With)
        and node.lineno > block.lineno
        and any(
            ast.unparse(i.optional_vars) == tape for i in node.items if i.optional_vars
        )
    ]
    last = min(later, default=float("inf"))
    own = re.compile(
        rf"(?<![\w.]){re.escape(ast.unparse(model))}\.trainable_(?:variables|weights)\b"
    )
    names = {
        ast.unparse(target)
        for node in nodes
        if isinstance(node, (ast.Assign, ast.AugAssign))
        and own.search(ast.unparse(node.value))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    for node in nodes:
        match node:
            case ast.Call(ast.Attribute(ast.Name(name), "gradient"), args, keywords):
                named = [k.value for k in keywords if k.arg == "sources"]
                asked = " ".join(ast.unparse(a) for a in [*args[1:], *named])
                words = set(re.findall(r"[\w.]+", asked))
                here = name == tape and block.lineno <= node.lineno <= last
                if here and (own.search(asked) or words & names):
                    return True
            case ast.Call(ast.Attribute(attr="minimize"), args, keywords):
                asked = " ".join(
                    ast.unparse(a) for a in [*args, *(k.value for k in keywords)]
                )
                if re.search(rf"\b{tape}\b", asked) and own.search(asked):
                    return True
    return False


def stepped(source: Source, told: bool = False) -> Iterator[tuple[Site, Instance]]:
    """Bare calls of a class's instances under a tape whose gradients are applied.

    With `told` also those that state `training=True`.
    """
    for site in source.calls:
        value = source.callee(site)
        if not isinstance(value, Instance):
            continue
        phase = phase_given(source, site, value)
        fits = phase is None or (told and constant(phase) is True)  # type: ignore[arg-type]
        if fits and trains(source, site):
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
