"""PS2xx: models and layers of your own, and how their `call` hands the phase on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from .. import known
from ..check import check
from ..holds import Signature, constant, heeds
from ..source import Source
from ..steps import calls_of_layers, trained
from ..things import Class, Dotted, Function, Instance, Layer
from ..tree import Scope, Site

Found = Iterator[tuple[ast.AST, str]]
KERAS_3 = (3, 0)


def words(kinds: list[str]) -> str:
    return " and ".join(f"`{kind}`" for kind in kinds[:2]) + (
        " and others" if kinds[2:] else ""
    )


@check(
    "PS201",
    "error",
    "call takes no training, so fit trains in the inference phase",
    since=KERAS_3,
    instead="Write `def call(self, x, training=None)` and hand "
    "`training=training` to every layer that heeds it.",
    broken="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(1)

    def call(self, x):
        return self.head(self.drop(x))

model = Net()
model.compile("sgd", "mse")
model.fit(x, y)
""",
    cured="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        return self.head(self.drop(x, training=training))

model = Net()
model.compile("sgd", "mse")
model.fit(x, y)
""",
)
def no_training(source: Source) -> Found:
    """`fit` hands the phase to an argument named `training`, and to no other.

    A model whose `call` has none, or hides it in `**kwargs`, runs its layers in
    inference while it trains: dropout drops nothing, statistics stay as they were.
    `model(x)` in a step of your own does the same, and before Keras 3.10 so does
    `model(x, training=True)`.
    """
    steps = trained(source)
    for cls in source.classes:
        call = cls.method("call")
        if call is None or cls not in steps:
            continue
        kinds = told_nothing(source, cls, call)
        if kinds:
            own = Signature(call)
            how = (
                "hides `training` in `**kwargs`"
                if own.hidden
                else "takes no `training`"
            )
            yield (
                call.node,
                f"`{cls.name}.call` {how}: {words(kinds)} inside run in inference "
                f"in {steps[cls]}.",
            )


def told_nothing(source: Source, cls: Class, call: Scope) -> list[str]:
    """What runs in inference inside a model whose `call` takes no `training`."""
    own = ("train_step", "__call__", "fit", "train_on_batch")
    others = any(cls.method(name) for name in own)
    if not cls.is_model or Signature(call).takes or others or decorated(source, call):
        return []
    return [] if source.holds.leaking(cls) else untold(source, call)


def trains_by_itself(source: Source, value: Any) -> bool:
    """Can it train without being told: by a default, a literal, a leaking layer?"""
    if source.release >= (3,) and source.holds.leaking(value):
        return True
    if not isinstance(value, Instance):
        return any(
            isinstance(part, Instance) and trains_by_itself(source, part)
            for part in value.parts
        )
    call = value.of.method("call")
    if call is None or decorated(source, call) or Signature(call).default() is True:
        return True
    for scope in (call, *helpers(value.of, call)):
        own = Signature(scope)
        for _, _, phase in calls_of_layers(source, scope):
            by_name = isinstance(phase, ast.Name) and own.default(phase.id) is True
            if constant(phase) is True or phase is False or by_name:
                return True
    for _, part, _ in calls_of_layers(source, call):
        if (
            isinstance(part, Instance)
            and part.of is not value.of
            and trains_by_itself(source, part)
        ):
            return True
    return False


def helpers(cls: Class, call: Scope) -> list[Scope]:
    """The methods of the class that its `call` calls."""
    called = {ast.unparse(site.node.func) for site in call.calls}  # type: ignore[attr-defined]
    return [s for s in cls.scope.inner if f"self.{s.name}" in called]


def decorated(source: Source, scope: Scope) -> bool:
    """By anything but `tf.function`, which keeps the signature."""
    return len(getattr(scope.node, "decorator_list", ())) > in_graph(source, scope)


def in_graph(source: Source, scope: Scope) -> bool:
    """Decorated with `tf.function`."""
    for decorator in getattr(scope.node, "decorator_list", ()):
        node = decorator.func if isinstance(decorator, ast.Call) else decorator
        at = decorator.lineno, decorator.col_offset
        value = source.values.of(node, scope.parent, at, ())  # type: ignore[arg-type]
        if isinstance(value, Dotted) and value.name == "tensorflow.function":
            return True
    return False


def untold(source: Source, call: Scope) -> list[str]:
    """The kinds of layers that a `call` without `training` runs in inference."""
    kinds: list[str] = []
    own = Signature(call)
    for site, value, phase in calls_of_layers(source, call):
        if constant(phase) is True or phase is False:
            return []
        if isinstance(value, Instance) and trains_by_itself(source, value):
            return []
        by_name = isinstance(phase, ast.Name) and own.default(phase.id) in (False, None)
        if (phase is None or by_name or constant(phase) is None) and not site.arms:
            kinds += source.holds.heeding(value)
    return list(dict.fromkeys(kinds))


@check(
    "PS202",
    "warning",
    "a layer takes over its neighbour's phase",
    since=KERAS_3,
    instead="State the phase in every call: `self.drop(x, training=training)`.",
    broken="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        x = self.norm(x, training=False)
        return self.drop(x)
""",
    cured="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        x = self.norm(x, training=False)
        return self.drop(x, training=training)
""",
)
def neighbour(source: Source) -> Found:
    """On Keras 3 a layer called without a phase takes the one that was stated last.

    That is the model's own only until a layer before it is given a literal.
    """
    for cls in source.classes:
        call = next((s for s in cls.scope.inner if s.name == "call"), None)
        if not cls.is_layer or call is None:
            continue
        stated: tuple[Site, bool] | None = None
        for site, value, phase in calls_of_layers(source, call):
            if (
                phase is None
                and stated
                and stated[0].arms == site.arms[: len(stated[0].arms)]
            ):
                kinds = source.holds.heeding(value)
                func = site.node.func  # type: ignore[attr-defined]
                if kinds and not isinstance(func, ast.Call):  # which is PS204
                    name = ast.unparse(func)
                    yield (
                        site.node,
                        f"`{name}` is given no phase and takes over "
                        f"`training={stated[1]}` "
                        f"from line {stated[0].at[0]}.",
                    )
            elif isinstance(constant(phase), bool):
                stated = (site, constant(phase))
            elif phase is not None:
                stated = None


@check(
    "PS203",
    "warning",
    "training=True is the default",
    instead="Write `training=None`, and hand `training=True` in where you train.",
    broken="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=True):
        return self.drop(x, training=training)
""",
    cured="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.drop(x, training=training)
""",
)
def default_true(source: Source) -> Found:
    """A call without a phase, such as `model(x)` or `model.export`, then trains.

    Dropout drops, and statistics move, in what was meant as inference.
    """
    for cls in source.classes:
        call = next((s for s in cls.scope.inner if s.name == "call"), None)
        if not cls.is_layer or call is None or Signature(call).default() is not True:
            continue
        used = any(
            isinstance(node, ast.Name)
            and node.id == "training"
            and isinstance(node.ctx, ast.Load)
            for node in ast.walk(call.node)
        )
        if used or source.holds.heeding(cls):
            yield (
                call.node,
                f"`{cls.name}` called without a phase runs in the training phase: "
                f"`training=True` is its default.",
            )


@check(
    "PS204",
    "error",
    "a layer is made inside call",
    since=KERAS_3,
    instead="Make the layer once, in `__init__`, and keep it as an attribute.",
    broken="""
import keras
from keras import layers

class Net(keras.Model):
    def call(self, x, training=None):
        return layers.Dropout(0.5)(x, training=training)
""",
    cured="""
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.drop(x, training=training)
""",
)
def made_in_call(source: Source) -> Found:
    """Each call makes a new one. In a graph, as in `fit`, Keras 3 raises for the
    variables that it creates; eagerly its weights start anew, in no list of the model.
    """
    in_layers = in_lambdas(source)
    for scope in source.scopes:
        inside = scope in in_layers or in_call(source, scope)
        for site in scope.calls if inside else ():
            value = source.values.at(site.node, site)
            made = isinstance(value, Layer) and value.node is site.node
            if (
                made
                and not perhaps(source, site)
                and value.kind in known.HEED_ALWAYS
                and heeds(value)
            ):
                yield (
                    site.node,
                    f"`{value.kind}` is made anew at every call: `fit` raises for its "
                    "variables, and no list of the model holds them.",
                )


def perhaps(source: Source, site: Site) -> bool:
    """Is it made in some calls only? Not so in a loop, or in every training call."""
    tests = source.indexer.tests
    return any(
        arm != "for" and not (arm == "if" and ast.unparse(tests[number]) == "training")
        for number, arm in site.arms
    )


def in_call(source: Source, scope: Scope) -> bool:
    cls = source.values.this(scope)
    return (
        scope.name == "call"
        and cls is not None
        and cls.is_layer
        and scope.parent is cls.scope
    )


def in_lambdas(source: Source) -> set[Scope]:
    """The functions that Lambda layers run."""
    found = set()
    for site in source.calls:
        given = site.node.args[:1]  # type: ignore[attr-defined]
        if given and source.func(site) == "keras.layers.Lambda":
            value = source.values.at(given[0], site)
            if isinstance(given[0], ast.Lambda):
                found.add(source.values.scopes[id(given[0])])
            elif isinstance(value, Function):
                found.add(value.scope)
    return found
