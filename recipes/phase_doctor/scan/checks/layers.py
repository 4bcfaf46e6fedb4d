"""PS4xx: what is kept, exported, and how fast statistics forget."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .. import known
from ..check import check
from ..holds import constant, keyword
from ..source import Source
from ..things import Layer, Net
from ..tree import Site
from .recorded import recorded

Found = Iterator[tuple[ast.AST, str]]
SAVERS = {
    "tensorflow.train.Checkpoint",
    "tensorflow.train.Saver",
    "numpy.save",
    "numpy.savez",
    "numpy.savez_compressed",
    "pickle.dump",
    "pickle.dumps",
    "joblib.dump",
}
# What hands on values, or numbers and names them.
COPIES = {
    *("numpy", "array", "asarray", "convert_to_numpy", "value", "read_value", "copy"),
    *("get_value", "batch_get_value", "enumerate", "zip", "list", "tuple", "dict"),
    *("str", "replace", "format", "run"),
}


@check(
    "PS401",
    "error",
    "a checkpoint without moving statistics",
    instead="Save the model, `model.weights`, or `tf.train.Checkpoint(model=model)`.",
    broken="""
import keras
import numpy as np

model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(1)])
np.savez("weights.npz", *[v.numpy() for v in model.trainable_variables])
""",
    cured="""
import keras
import numpy as np

model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(1)])
np.savez("weights.npz", *[v.numpy() for v in model.weights])
""",
)
def trainable_only(source: Source) -> Found:
    """Moving mean and variance are not trainable: they are not in the file, and after
    loading inference normalises with (0, 1).
    """
    for site in source.calls:
        if source.func(site) not in SAVERS:
            continue
        call = site.node
        assert isinstance(call, ast.Call)
        plain = [a.value if isinstance(a, ast.Starred) else a for a in call.args]
        plain += [k.value for k in call.keywords]
        parts = [source.values.given(part, site) for part in plain]
        for node in (node for part in parts for node in variables(part)):
            model = source.values.at(node.value, site)
            if source.holds.normalises(model) and not kept(source, node.value):
                yield (
                    site.node,
                    f"`{ast.unparse(node)}` holds no moving statistics: those of "
                    f"BatchNormalization are not saved.",
                )


def kept(source: Source, model: ast.expr) -> bool:
    """Are this model's statistics saved, or read, in another place of the file?"""
    name = re.escape(ast.unparse(model))
    whole = r"save\(|save_weights\(|non_trainable_|get_weights\(|weights\b|variables\b"
    return (
        re.search(
            rf"(?<![\w.]){name}\.(?:{whole})|\.moving_(?:mean|var)", source.text.text
        )
        is not None
    )


def variables(part: ast.AST) -> Iterator[ast.Attribute]:
    """`model.trainable_variables`, if their values are saved and not their number."""
    found = []
    for node in ast.walk(part):
        match node:
            case ast.Call(func=func):
                if ast.unparse(func).split(".")[-1] not in COPIES:
                    return
            case (
                ast.ListComp(elt=ast.Attribute(attr=what))
                | ast.GeneratorExp(elt=ast.Attribute(attr=what))
            ):
                if what in ("name", "shape", "dtype", "path", "size"):
                    return
            case (
                ast.ListComp(elt=ast.BinOp()) | ast.GeneratorExp(elt=ast.BinOp())
            ):  # a square, as of Fisher's information, is no weight
                return
        if isinstance(node, ast.Attribute) and node.attr in (
            "trainable_variables",
            "trainable_weights",
        ):
            found.append(node)
    yield from found


@check(
    "PS402",
    "warning",
    "the export trains: a preprocessing layer opens the training phase",
    since=(3, 0),
    until=(3, 16),
    instead="Export an endpoint that says `training=False` with "
    "`keras.export.ExportArchive`.",
    broken="""
import keras
from keras import layers

inputs = keras.Input((8, 8, 3))
outputs = layers.BatchNormalization()(layers.RandomFlip()(inputs))
model = keras.Model(inputs, outputs)
model.export("served")
""",
    cured="""
import keras
from keras import layers

inputs = keras.Input((8, 8, 3))
outputs = layers.BatchNormalization()(layers.Rescaling(0.5)(inputs))
model = keras.Model(inputs, outputs)
model.export("served")
""",
)
def leaking_export(source: Source) -> Found:
    """`export` states no phase, nor does `tf.saved_model.save` without `signatures`.
    The `Random…` layers, from 3.6 on `Resizing` and `CenterCrop` too, run with their
    default, `training=True`, which BatchNormalization behind takes over.
    """
    if any(recorded(source, False)):  # such a layer stays in inference
        return
    for site, receiver, draws in exports(source):
        model = source.values.at(receiver, site)
        if not isinstance(model, Net):
            continue
        layers = list(source.holds.layers(model))
        if not draws and any(part.kind.startswith("Random") for part in layers):
            continue  # this way to save raises for their seeds
        leaks = [
            number
            for number, part in enumerate(layers)
            if known.leaks(part.kind, source.release)
        ]
        behind = [
            part.kind
            for part in (layers[leaks[0] :] if leaks else [])
            if part.kind in known.NORMALISATIONS and source.holds.acts(part)
        ]
        if behind:
            yield (
                site.node,
                f"`{layers[leaks[0]].kind}` opens the training phase: `{behind[0]}` "
                f"behind it trains in what is exported.",
            )


def exports(source: Source) -> Iterator[tuple[Site, ast.expr, bool]]:
    """What traces a model without a phase: the model, and whether it may draw."""
    yield from ((site, model, True) for site, model in source.methods("export"))
    for site in source.calls:
        if source.func(site) == "tensorflow.saved_model.save":
            match site.node:
                case ast.Call(args=[model, *rest], keywords=given):
                    if len(rest) < 2 and not {k.arg for k in given} - {"export_dir"}:
                        yield site, model, False


@check(
    "PS403",
    "warning",
    "momentum of 0.1 or below",
    instead="Write `momentum=0.9` or more: Keras keeps this share of the old "
    "value. PyTorch's 0.1 is 0.9 here.",
    broken="""
from keras import layers

norm = layers.BatchNormalization(momentum=0.1)
""",
    cured="""
from keras import layers

norm = layers.BatchNormalization(momentum=0.9)
""",
)
def momentum(source: Source) -> Found:
    """Moving statistics then are those of the last batch or two: inference is noisy."""
    for site in source.calls:
        layer = source.values.at(site.node, site)
        if (
            isinstance(layer, Layer)
            and layer.node is site.node
            and layer.kind in known.NORMALISATIONS
        ):
            given = keyword(layer.node, "momentum")
            if given is None and len(layer.node.args) > 1:
                given = layer.node.args[1]
            value = constant(given)
            if (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and 0 <= value <= 0.1
            ):
                yield (
                    site.node,
                    f"`momentum={value}` keeps {value:.0%} of the old statistics at "
                    f"each step: they are those of the last batch.",
                )
