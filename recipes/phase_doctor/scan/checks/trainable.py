"""PS32x: `trainable` that is set where nobody looks at it any more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..check import check
from ..holds import constant, keyword
from ..names import DEEP
from ..source import Source, of_layers
from ..things import Class, Net
from ..tree import Position, Scope, Site

Found = Iterator[tuple[ast.AST, str]]
FITS = ("fit", "fit_generator", "train_on_batch")


@dataclass
class Event:
    what: str  # compile, fit, trainable, bind
    key: str
    site: Site
    value: Any = None


def events(source: Source, scope: Scope) -> list[Event]:
    """What one function does with models, in order."""
    found = []
    for site in scope.calls:
        func = site.node.func  # type: ignore[attr-defined]
        if isinstance(func, ast.Attribute) and func.attr in ("compile", *FITS):
            what = "compile" if func.attr == "compile" else "fit"
            found.append(Event(what, ast.unparse(func.value), site))
    for target, given, site in scope.assigned:
        if target.attr == "trainable":
            found.append(
                Event("trainable", ast.unparse(target.value), site, (target, given))
            )
    for name, bindings in scope.names.items():
        for binding in bindings:
            found.append(
                Event(
                    "bind",
                    name,
                    Site(Place(*binding.at), scope, binding.arms, (), ast.Pass()),
                )
            )
    return sorted(found, key=lambda event: event.site.at)


class Place(ast.AST):
    def __init__(self, line: int, column: int) -> None:
        super().__init__()
        self.lineno, self.col_offset = line, column


def straight(site: Site) -> tuple:
    """The branches around a site; a loop over layers is none."""
    return tuple(arm for arm in site.arms if arm[1] != "for")


@check(
    "PS321",
    "warning",
    "trainable is set after fit has traced the step",
    instead="Call `compile` after the last change of `trainable`.",
    broken="""
import keras

model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(x, y)
model.layers[0].trainable = False
model.fit(x, y)
""",
    cured="""
import keras

model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(x, y)
model.layers[0].trainable = False
model.compile("sgd", "mse")
model.fit(x, y)
""",
)
def after_compile(source: Source) -> Found:
    """Keras 3 reads `trainable` when the first `fit` traces the step, Keras 2 in
    `compile`.

    What is set later changes nothing until the next `compile`.
    """
    for scope in source.scopes:
        steps = [] if scope.kind == "class" else events(source, scope)
        for number, event in enumerate(steps):
            if event.what != "trainable":
                continue
            later = next((e for e in steps[number:] if e.what == "fit"), None)
            if later is None or not concerns(source, event, later):
                continue
            key = later.key
            before = [
                e
                for e in steps[:number]
                if e.key == key and e.what in ("compile", "fit", "bind")
            ]
            between = [
                e
                for e in steps[number : steps.index(later)]
                if e.key == key and e.what in ("compile", "bind")
            ]
            whats = [e.what for e in before]
            after_last = whats[-1:] == ["fit"] or (
                source.release < (3,) and whats[-1:] == ["compile"]
            )
            arms = {straight(e.site) for e in (event, later, *before[-1:])}
            if (
                after_last
                and not between
                and len(arms) == 1
                and not loops(later, before[-1])
                and not anew(source, scope, event, later, before)
            ):
                yield (
                    event.site.statement,
                    f"The training step of `{key}` was made before: this changes "
                    f"nothing in its next `{method(later)}` without a `compile` in "
                    f"between.",
                )


def anew(
    source: Source, scope: Scope, event: Event, later: Event, before: list[Event]
) -> bool:
    """May the step be made anew before the next fit, by whatever else?"""
    key = later.key
    eager = [keyword(e.site.node, "run_eagerly") for e in before if e.what == "compile"]
    if any(constant(given) not in (False, None, ...) for given in eager):
        return True
    model = source.values.at(later.site.node.func.value, later.site)  # type: ignore[attr-defined]
    for site in scope.calls:
        if not event.site.at < site.at < later.site.at:
            continue
        func = site.node.func  # type: ignore[attr-defined]
        on = func.value if isinstance(func, ast.Attribute) else None
        if on is not None and func.attr in ("compile", "make_train_function"):
            renewed = source.values.at(on, site)
            if renewed is None or renewed is model:
                return True
        given = [*site.node.args, *(k.value for k in site.node.keywords)]  # type: ignore[attr-defined]
        own = on is not None and key == f"{ast.unparse(on)}.{key.rpartition('.')[2]}"
        if own or any(ast.unparse(part) == key for part in given):
            return True
    return any(
        target.attr == "train_function" and event.site.at < site.at < later.site.at
        for target, _, site in scope.assigned
    )


def loops(*several: Event) -> bool:
    return any(
        arm[1] in ("for", "while") for event in several for arm in event.site.arms
    )


def method(event: Event) -> str:
    return event.site.node.func.attr  # type: ignore[attr-defined]


def concerns(source: Source, event: Event, fit: Event) -> bool:
    """Is what `trainable` is set on the fitted model, or one of its parts?"""
    target = event.value[0].value
    model = source.values.at(fit.site.node.func.value, fit.site)  # type: ignore[attr-defined]
    if event.key == fit.key or re.match(
        rf"{re.escape(fit.key)}\.(layers\[|get_layer\()", event.key
    ):
        return True
    if isinstance(target, ast.Name):
        bound = source.values.before(
            event.site.scope.names.get(target.id, []), event.site.at, event.site.arms
        )
        if (
            bound is not None
            and bound.how == "item"
            and isinstance(bound.value, ast.expr)
        ) and re.match(rf"{re.escape(fit.key)}\.layers\b", ast.unparse(bound.value)):
            return True
    if not isinstance(model, Net):
        return False
    part = source.values.at(target, event.site) or of_layers(
        source.values, target, event.site
    )
    return part is not None and any(p is part for p in model.parts)


@check(
    "PS322",
    "error",
    "a discriminator that is frozen before its first step never learns",
    since=(3, 0),
    instead="Write one model with a `train_step` that names the variables of each "
    "optimizer. Or set `discriminator.trainable = True` before its own first step, and "
    "`False` again before the first step of the combined model.",
    broken="""
import keras

discriminator = keras.Sequential([keras.layers.Dense(1)])
discriminator.compile("sgd", "mse")
generator = keras.Sequential([keras.layers.Dense(8)])
z = keras.Input((4,))
discriminator.trainable = False
gan = keras.Model(z, discriminator(generator(z)))
gan.compile("sgd", "mse")
discriminator.train_on_batch(x, y)
gan.train_on_batch(x[:, :4], y)
""",
    cured="""
import keras

discriminator = keras.Sequential([keras.layers.Dense(1)])
discriminator.compile("sgd", "mse")
generator = keras.Sequential([keras.layers.Dense(8)])
z = keras.Input((4,))
discriminator.trainable = False
gan = keras.Model(z, discriminator(generator(z)))
gan.compile("sgd", "mse")
discriminator.trainable = True
discriminator.train_on_batch(x, y)
discriminator.trainable = False
gan.train_on_batch(x[:, :4], y)
""",
)
def frozen_discriminator(source: Source) -> Found:
    """Keras 2 remembered in `compile` what was trainable. Keras 3 looks when the first
    step is traced, and finds the discriminator frozen.
    """
    for event in (*frozen_here(source), *frozen_elsewhere(source)):
        yield (
            event.site.statement,
            f"`{event.key}` is frozen before its first step: on Keras 3 its own "
            f"steps train nothing.",
        )


def frozen_here(source: Source) -> Iterator[Event]:
    """Compiled and frozen in one function."""
    for scope in source.scopes:
        steps = [] if scope.kind == "class" else events(source, scope)
        for number, event in enumerate(steps):
            if event.what != "trainable" or constant(event.value[1]) is not False:
                continue
            key = event.key
            mine = [
                e
                for e in steps[:number]
                if e.key == key and e.what in ("compile", "fit")
            ]
            other = [e for e in steps[number:] if e.key != key and e.what == "compile"]
            again = [e for e in steps[number:] if e.key == key and e.what == "compile"]
            if (
                not mine
                or mine[-1].what == "fit"
                or not other
                or again
                or event.site.arms != mine[-1].site.arms
                or stepped_between(source, scope, mine[-1], event)
            ):
                continue
            if trained_later(source, scope, event) and not thawed(source, key):
                yield event


def stepped_between(source: Source, scope: Scope, first: Event, last: Event) -> bool:
    """Has a method of the same object, called in between, a fit of it?"""
    cls = source.values.this(scope) if first.key.startswith("self.") else None
    called = {
        ast.unparse(site.node.func)  # type: ignore[attr-defined]
        for site in scope.calls
        if first.site.at < site.at < last.site.at
    }
    return any(
        f"self.{inner.name}" in called
        and any(e.what == "fit" and e.key == first.key for e in events(source, inner))
        for inner in (cls.scope.inner if cls else ())
    )


def frozen_elsewhere(source: Source) -> Iterator[Event]:
    """Compiled, frozen and trained in functions that are called in this order."""
    of_models: dict[int, list[Event]] = {}
    for scope in source.scopes:
        for event in events(source, scope) if scope.kind != "class" else ():
            on = receiver(event)
            model = None if on is None else source.values.at(on, event.site)
            if isinstance(model, Net):
                of_models.setdefault(id(model), []).append(event)
    for steps in of_models.values():
        trails = {id(event): trail_of(source, event.site) for event in steps}
        if len({event.site.scope for event in steps}) < 2 or None in trails.values():
            continue
        steps.sort(key=lambda event: trails[id(event)] or ())
        order = " ".join(event.what for event in steps)
        frozen = [event for event in steps if event.what == "trainable"]
        if (
            re.fullmatch("compile( trainable)+( fit)+", order)
            and not any(event.site.arms for event in frozen)
            and all(constant(event.value[1]) is False for event in frozen)
            and not any(thawed(source, event.key) for event in steps)
        ):
            yield frozen[0]


def receiver(event: Event) -> ast.expr | None:
    """What is compiled, fitted or frozen."""
    if event.what == "trainable":
        return event.value[0].value
    return None if event.what == "bind" else event.site.node.func.value  # type: ignore[attr-defined]


Trail = tuple[Position, ...]


def trail_of(source: Source, site: Site) -> Trail | None:
    """Where the module's own code comes to this place; None if it is not known."""
    trail: Trail = (site.at,)
    while site.scope.kind != "module":
        calls = source.values.calls_of(site.scope)
        if len(calls) != 1 or len(trail) > DEEP:
            return None
        site = calls[0]
        trail = (site.at, *trail)
    return trail


def trained_later(source: Source, scope: Scope, event: Event) -> bool:
    """Here behind it, or in another method of the class."""
    key = event.key
    cls: Class | None = source.values.this(scope) if key.startswith("self.") else None
    for other in [scope, *(cls.scope.inner if cls else [])]:
        for step in events(source, other):
            if (
                step.what == "fit"
                and step.key == key
                and (other is not scope or step.site.at > event.site.at)
            ):
                return True
    return False


def thawed(source: Source, key: str) -> bool:
    """Is it, or what may be it, made trainable anywhere?"""
    name = re.escape(key.rpartition(".")[2])
    return bool(
        re.search(
            rf"{name}\b[^\n]*True|trainable\s*=\s*(?!False|\s)\w", source.text.text
        )
    )
