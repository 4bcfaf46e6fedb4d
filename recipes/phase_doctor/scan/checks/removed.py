"""PS1xx: what Keras 3 does not have any more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .. import known
from ..check import check
from ..holds import Signature
from ..source import Source
from ..things import Instance, Layer, Net
from ..tree import Site

PHASE_NAMES = {
    f"keras.backend.{name}"
    for name in (
        "learning_phase",
        "set_learning_phase",
        "learning_phase_scope",
        "symbolic_learning_phase",
        "in_train_phase",
        "in_test_phase",
    )
}
KERAS_3 = (3, 0)
Found = Iterator[tuple[ast.AST, str]]


ASKS = re.compile(r"hasattr|getattr|version|V2|TF2|tf1|keras_?[23]|legacy", re.I)


def guarded(source: Source, site: Site) -> bool:
    """In a `try`, or where a condition asks for the release or for the name itself."""
    for number, arm in site.arms:
        test = source.indexer.tests.get(number)
        if arm.startswith(("try", "except")) or (test and asks(source, test, site)):
            return True
    if any(
        "suppress" in ast.unparse(i.context_expr) for w in site.withs for i in w.items
    ):
        return True
    for node in ast.walk(site.scope.node):
        match node:
            case ast.IfExp(test=test, body=one, orelse=other):
                inside = [*ast.walk(one), *ast.walk(other)]
            case ast.BoolOp(values=[test, *rest]):
                inside = [part for value in rest for part in ast.walk(value)]
            case ast.If(
                test=test, body=[*_, ast.Return() | ast.Raise() | ast.Continue()]
            ):
                inside = [site.node] if node.lineno < site.at[0] else []
            case _:
                continue
        if any(part is site.node for part in inside) and asks(source, test, site):
            return True
    return False


def asks(source: Source, test: ast.expr, site: Site) -> bool:
    """Does a condition, or what its name was assigned, ask for the release?"""
    parts = [test, *(n for n in ast.walk(test) if isinstance(n, ast.Name))]
    texts = [ast.unparse(part) for part in parts]
    given = [source.values.given(part, site) for part in parts]
    texts += [ast.unparse(g) for g in given if isinstance(g, ast.expr)]
    return any(ASKS.search(text) for text in texts)


def sites(source: Source) -> Iterator[tuple[str, Site]]:
    """Names of libraries that are imported or read."""
    for name, site in source.indexer.imports:
        yield known.canonical(name), site
    for site in source.indexer.attributes:
        assert isinstance(site.node, ast.Attribute)
        if "phase" in site.node.attr:
            value = source.values.at(site.node, site)
            yield getattr(value, "name", ""), site


@check(
    "PS101",
    "error",
    "the learning phase does not exist",
    since=KERAS_3,
    instead="Delete it and state the phase where the model is called: "
    "`model(x, training=True)`; `fit`, `evaluate` and `predict` state it themselves. "
    "In a layer `call(self, x, training=None)` has it: `a if training else b`.",
    broken="""
from keras import backend as K

K.set_learning_phase(0)
""",
    cured="""
import keras

model = keras.Sequential([keras.layers.Dropout(0.5)])
logits = model(x, training=False)
""",
)
def learning_phase(source: Source) -> Found:
    """Keras 3 has no learning phase: the name is an AttributeError or an ImportError.

    Every call of a model has its own phase, handed in as `training=`.
    """
    for name, site in sites(source):
        if name in PHASE_NAMES and not guarded(source, site):
            yield site.node, f"`{name}` does not exist on Keras 3: this line raises."


@check(
    "PS102",
    "error",
    "get_updates_for does not exist",
    since=KERAS_3,
    instead="Delete it: `model(x, training=True)` moves the statistics itself.",
    broken="""
import keras

model = keras.Sequential([keras.layers.BatchNormalization()])
updates = model.get_updates_for(x)
""",
    cured="""
import keras

model = keras.Sequential([keras.layers.BatchNormalization()])
logits = model(x, training=True)
""",
)
def get_updates_for(source: Source) -> Found:
    """Updates are no ops to fetch and run: a call in the training phase makes them."""
    for site, receiver in source.methods("get_updates_for"):
        if is_model(source, receiver, site) and not guarded(source, site):
            yield site.node, "A model of Keras 3 has no `get_updates_for`: this raises."


@check(
    "PS103",
    "error",
    "model.updates does not exist",
    since=KERAS_3,
    instead="Delete it: `model(x, training=True)` moves the statistics itself.",
    broken="""
import keras

model = keras.Sequential([keras.layers.BatchNormalization()])
updates = model.updates
""",
    cured="""
import keras

model = keras.Sequential([keras.layers.BatchNormalization()])
logits = model(x, training=True)
""",
)
def updates(source: Source) -> Found:
    """There is no list of updates: a call in the training phase makes them."""
    given = {target.attr for s in source.scopes for target, _, _ in s.assigned}
    for site in () if "updates" in given else source.indexer.attributes:
        node = site.node
        assert isinstance(node, ast.Attribute)
        read = node.attr == "updates" and isinstance(node.ctx, ast.Load)
        if read and is_model(source, node.value, site) and not guarded(source, site):
            message = "A model of Keras 3 has no `updates`: this raises AttributeError."
            yield node, message


def is_model(source: Source, node: ast.expr, site: Site) -> bool:
    """Made in the file as a Keras model, and no attribute of a class of the file's."""
    value = source.values.at(node, site)
    if isinstance(value, Instance):
        return value.of.is_model and "updates" not in value.of.scope.names
    return isinstance(value, Net)


LSTM_1 = ("dropout_W", "dropout_U", "inner_init", "consume_less", "time_major")
GONE: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "BatchNormalization": {
        **dict.fromkeys(
            (
                "fused",
                "virtual_batch_size",
                "adjustment",
                "mode",
                "beta_init",
                "gamma_init",
            ),
            ((3, 0), (99,)),
        ),
        **dict.fromkeys(
            ("renorm", "renorm_clipping", "renorm_momentum"), ((3, 0), (3, 14))
        ),
    },
    "Dropout": {"p": ((3, 0), (99,))},
    **{
        kind: dict.fromkeys(LSTM_1, ((3, 0), (99,)))
        for kind in ("LSTM", "GRU", "SimpleRNN")
    },
}


@check(
    "PS104",
    "error",
    "an argument that this release refuses",
    since=KERAS_3,
    instead="Delete the argument; the behaviour that it chose is gone with it.",
    broken="""
from tensorflow.keras import layers

norm = layers.BatchNormalization(fused=True)
""",
    cured="""
from tensorflow.keras import layers

norm = layers.BatchNormalization()
""",
)
def arguments(source: Source) -> Found:
    """`fused` and `virtual_batch_size` are gone; `renorm` is back from 3.14 on."""
    for site in source.calls:
        value = source.values.at(site.node, site)
        if not isinstance(value, Layer) or value.node is not site.node:
            continue
        for given in value.node.keywords:
            since, until = GONE.get(value.kind, {}).get(given.arg or "", ((99,), (99,)))
            if since <= source.release < until and not guarded(source, site):
                yield (
                    site.node,
                    f"`{value.kind}` refuses `{given.arg}=`: this line raises.",
                )


HOMES = re.compile(
    r"^(?:tensorflow\.(?:python\.)?)?keras\.(?:layers\.(?:normalization|core|noise|recurrent|experimental)"
    r"|engine)(?:\.|$)"
)


@check(
    "PS105",
    "error",
    "a module that Keras 3 does not have",
    since=KERAS_3,
    instead="Import layers from `keras.layers`; `experimental.preprocessing` "
    "moved there too, and `SyncBatchNormalization` is "
    "`BatchNormalization(synchronized=True)`.",
    broken="""
from keras.layers.normalization import BatchNormalization
""",
    cured="""
from keras.layers import BatchNormalization
""",
)
def modules(source: Source) -> Found:
    """Keras 3 keeps every layer in `keras.layers`."""
    for name, site in source.indexer.imports:
        gone = HOMES.match(name)
        if (
            gone
            and not name.startswith("tensorflow.python")
            and not guarded(source, site)
        ):
            last = name.rpartition(".")[2]
            if last in known.LAYERS | {"*"} or known.leaks(last) or last[:1].islower():
                yield (
                    site.node,
                    f"`{gone[0].rstrip('.')}` is no module of Keras 3: this import "
                    f"raises.",
                )
    for site in source.indexer.attributes:
        assert isinstance(site.node, ast.Attribute)
        if site.node.attr == "experimental" and not guarded(source, site):
            value = source.values.at(site.node, site)
            if getattr(value, "name", "") == "keras.layers.experimental":
                yield (
                    site.node,
                    "`keras.layers.experimental` is no module of Keras 3: this raises.",
                )


@check(
    "PS106",
    "error",
    "the phase is handed in by position",
    since=KERAS_3,
    instead="Name it: `self.drop(x, training=training)`.",
    broken="""
import keras

model = keras.Sequential([keras.layers.Dropout(0.5)])
outputs = model(x, True)
""",
    cured="""
import keras

model = keras.Sequential([keras.layers.Dropout(0.5)])
outputs = model(x, training=True)
""",
)
def by_position(source: Source) -> Found:
    """Keras 3 takes tensors by position and nothing else. A bool there raises
    `ValueError: Only input tensors may be passed as positional arguments`.
    """
    for site in source.calls:
        value = source.callee(site)
        one_input = isinstance(value, (Layer, Net)) and not (
            isinstance(value, Layer) and value.kind in known.HEED_WITH
        )
        if not one_input and not (isinstance(value, Instance) and plain(value)):
            continue
        match site.node:
            case ast.Call(args=[_, ast.Constant(value=True | False)]):
                pass
            case ast.Call(args=[_, ast.Name("training")]):
                if not takes_phase(site):
                    continue
            case _:
                continue
        if not guarded(source, site):
            yield (
                site.node,
                f"`{ast.unparse(site.node)}` hands the phase in by position: Keras 3 "
                f"raises as soon as it is True or False.",
            )


def plain(value: Instance) -> bool:
    """A layer of the file's that Keras calls, and whose second argument is a phase."""
    call = value.of.method("call")
    return (
        value.of.is_layer
        and call is not None
        and not value.of.method("__call__")
        and Signature(call).place == 1
    )


def takes_phase(site: Site) -> bool:
    """In a `call` that Keras hands the phase to."""
    return site.scope.name == "call" and "training" in Signature(site.scope).names
