"""PS31x: phases that are recorded while a Functional model is built."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from .. import known
from ..check import check
from ..holds import constant, heeds, phase_of
from ..source import Source, of_layers
from ..things import Dotted, Layer, Many, Net, Tensor
from ..tree import Site

Found = Iterator[tuple[ast.AST, str]]
FREEZES_NORMS = re.compile(
    r"isinstance\([^)]*BatchNorm|BatchNorm\w*['\"]?\s*(?:in|==)|['\"](?:bn|BatchNorm)"
)


def symbolic(source: Source, value: Any, seen: set[int] | None = None) -> bool:
    """Does this tensor come from a `keras.Input` of the file?"""
    seen = set() if seen is None else seen
    if value is None or id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Many):
        return any(symbolic(source, item, seen) for item in value.items)
    if not isinstance(value, Tensor):
        return False
    if value.by is None and not value.inputs and isinstance(value.node, ast.Call):
        return True
    if isinstance(value.by, Layer) and value.by.kind == "Input":
        return True
    return any(symbolic(source, part, seen) for part in (*value.inputs, value.by))


def given_phase(site: Site, value: Any) -> Any:
    phase = phase_of(site, value)
    return constant(phase) if isinstance(phase, ast.AST) else ...


def recorded(source: Source, phase: bool) -> Iterator[tuple[Site, Any]]:
    """Layers and models that are called on a symbolic tensor with this phase."""
    for site in source.calls:
        if not any(k.arg == "training" for k in site.node.keywords):  # type: ignore[attr-defined]
            continue
        value = source.callee(site)
        if isinstance(value, (Layer, Net)) and given_phase(site, value) is phase:
            inputs = [source.values.at(part, site) for part in site.node.args]  # type: ignore[attr-defined]
            if any(symbolic(source, part) for part in inputs):
                yield site, value


def flags(source: Source, value: Any) -> Iterator[tuple[Any, Site, bool]]:
    """Assignments of a literal to `trainable` of this value or of its layers."""
    for scope in source.scopes:
        for target, given, site in scope.assigned:
            if target.attr == "trainable" and isinstance(constant(given), bool):
                holder = source.values.at(target.value, site)
                if (
                    holder is value
                    or of_layers(source.values, target.value, site) is value
                ):
                    yield constant(given), site, holder is value


@check(
    "PS311",
    "warning",
    "a recorded training=False does not hold in fit",
    since=(3, 0),
    until=(3, 16),
    instead="Set `trainable = False` on each BatchNormalization of the base, "
    "before `compile`.",
    broken="""
import keras

base = keras.applications.ResNet50(include_top=False)
base.trainable = False
inputs = keras.Input((224, 224, 3))
x = base(inputs, training=False)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
base.trainable = True
""",
    cured="""
import keras

base = keras.applications.ResNet50(include_top=False)
inputs = keras.Input((224, 224, 3))
x = base(inputs)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
base.trainable = True
for layer in base.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.trainable = False
""",
)
def recorded_false(source: Source) -> Found:
    """On Keras 3.0 to 3.15 `fit` overrides what was recorded.

    As long as the base is frozen that does no harm. Once it is trainable, its moving
    statistics move and batch statistics normalise.
    """
    if FREEZES_NORMS.search(source.text.text):
        return
    for site, value in recorded(source, False):
        if not source.holds.normalises(value):
            continue
        set_to = list(flags(source, value))
        if any(of_layers(source.values, *place) is value for place in unsure(source)):
            continue
        thawed = [s for given, s, _ in set_to if given is True and s.at > site.at]
        frozen = [s for given, s, _ in set_to if given is False]
        if thawed or not (frozen or unknown_flags(source)):
            name = ast.unparse(site.node.func)  # type: ignore[attr-defined]
            short = name if len(name) < 40 else getattr(value, "kind", "layer")
            yield (
                site.node,
                f"`training=False` recorded on `{short}` does not hold in `fit`: "
                f"while it is trainable, its BatchNormalization trains.",
            )


def unsure(source: Source) -> Iterator[tuple[ast.expr, Site]]:
    """Where `trainable` is given what is no literal."""
    for scope in source.scopes:
        for target, given, site in scope.assigned:
            if target.attr == "trainable" and not isinstance(constant(given), bool):
                yield target.value, site


def unknown_flags(source: Source) -> bool:
    """Is a `trainable` set somewhere, on what cannot be resolved, or by a name?"""
    return bool(
        re.search(r"\.trainable\s*=|trainable\s*=\s*False|\bfreeze", source.text.text)
    )


@check(
    "PS312",
    "warning",
    "a recorded training=True is off in predict",
    since=(3, 0),
    until=(3, 16),
    instead="Subclass Dropout with `def call(self, x, training=None): return "
    "super().call(x, training=True)`.",
    broken="""
import keras

inputs = keras.Input((8,))
x = keras.layers.Dropout(0.5)(inputs, training=True)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
""",
    cured="""
import keras

class AlwaysDropout(keras.layers.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)

inputs = keras.Input((8,))
x = AlwaysDropout(0.5)(inputs)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
""",
)
def recorded_true(source: Source) -> Found:
    """On Keras 3.0 to 3.15 `predict` and `evaluate` override what was recorded: nothing
    is dropped, and Monte Carlo samples are identical.
    """
    for site, value in recorded(source, True):
        if isinstance(value, Layer) and value.kind in known.DROPOUTS and heeds(value):
            yield (
                site.node,
                f"`{value.kind}(…)(x, training=True)` drops nothing in `predict` "
                f"and `evaluate`: they override what was recorded.",
            )


@check(
    "PS313",
    "warning",
    "a recorded phase reaches the layers behind",
    since=(3, 16),
    keras="3.16",
    instead="Freeze by `trainable`, and force a dropout in a subclass that "
    "calls `super().call`.",
    broken="""
import keras

inputs = keras.Input((8,))
x = keras.layers.Dropout(0.5)(inputs, training=True)
x = keras.layers.BatchNormalization()(x)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
""",
    cured="""
import keras

class AlwaysDropout(keras.layers.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)

inputs = keras.Input((8,))
x = AlwaysDropout(0.5)(inputs)
x = keras.layers.BatchNormalization()(x)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
""",
)
def recorded_reaches(source: Source) -> Found:
    """From Keras 3.16 on a stated phase holds, and every layer that runs later and
    states none takes it over.
    """
    for site in source.calls:
        value = source.callee(site)
        if not isinstance(value, (Layer, Net)) or phase_of(site, value) is not None:
            continue
        kinds = source.holds.heeding(value)
        for part in site.node.args if kinds else ():  # type: ignore[attr-defined]
            stated = stated_before(source, source.values.at(part, site))
            if stated is not None and symbolic(source, source.values.at(part, site)):
                yield (
                    site.node,
                    f"`{kinds[0]}` takes over `training={stated[0]}` from line "
                    f"{stated[1]}.",
                )


def stated_before(source: Source, value: Any) -> tuple[bool, int] | None:
    """The literal phase of the nearest call that a tensor went through."""
    for _ in range(60):
        if not isinstance(value, Tensor):
            return None
        call = value.node
        if isinstance(call, ast.Call):
            for given in call.keywords:
                if given.arg == "training":
                    phase = constant(given.value)
                    return (phase, call.lineno) if isinstance(phase, bool) else None
        tensors = [part for part in value.inputs if isinstance(part, Tensor)]
        if len(tensors) != 1 or isinstance(value.by, (Tensor, Dotted)):
            return None
        value = tensors[0]
    return None
