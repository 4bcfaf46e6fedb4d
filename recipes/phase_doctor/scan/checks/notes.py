"""PS9xx: notes, shown where selected. What some mean, and what is TensorFlow 1."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ..check import check
from ..holds import Signature, constant, keyword
from ..source import Source
from ..steps import calls_of_layers
from ..things import Layer

Found = Iterator[tuple[ast.AST, str]]
HEAD = """
import keras
from keras import layers

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
"""
TOLD = f"{HEAD}        return self.drop(x, training=training)"


def told_calls(source: Source) -> Iterator:
    for cls in source.classes:
        call = next((s for s in cls.scope.inner if s.name == "call"), None)
        if cls.is_layer and call is not None and Signature(call).takes:
            yield from calls_of_layers(source, call)


@check(
    "PS901",
    "note",
    "a layer is not handed the phase",
    since=(3, 0),
    instead="`self.drop(x, training=training)`.",
    broken=f"{HEAD}        return self.drop(x)",
    cured=TOLD,
)
def untold(source: Source) -> Found:
    """On Keras 3 it inherits the phase: all is well while no neighbour states one."""
    for site, value, phase in told_calls(source):
        if phase is None and source.holds.heeding(value):
            yield (
                site.node,
                f"`{ast.unparse(site.node.func)}` is not handed `training`; on "
                f"Keras 3 it inherits it.",
            )


@check(
    "PS902",
    "note",
    "a fixed training=True",
    instead="`training=training`, unless you mean to sample at inference.",
    broken=f"{HEAD}        return self.drop(x, training=True)",
    cured=TOLD,
)
def fixed_true(source: Source) -> Found:
    """The layer trains in `predict` too, as Monte Carlo dropout does on purpose."""
    for site, value, phase in told_calls(source):
        if constant(phase) is True and source.holds.heeding(value):
            yield (
                site.node,
                f"`{ast.unparse(site.node.func)}` is in the training phase always.",
            )


@check(
    "PS903",
    "note",
    "training=True in what evaluates",
    instead="`training=False`, unless you mean to sample at inference.",
    broken="""
import tensorflow as tf

def evaluate(model, x):
    return model(x, training=True)
""",
    cured="""
import tensorflow as tf

def evaluate(model, x):
    return model(x, training=False)
""",
)
def trains_in_evaluation(source: Source) -> Found:
    """Pix2pix and Monte Carlo dropout do so on purpose. Others forgot it there."""
    for site in source.calls:
        if (
            re.match(
                r"_?(eval|test|valid|predict|infer|generate)",
                site.scope.name,
                re.IGNORECASE,
            )
            and constant(keyword(site.node, "training")) is True
        ):
            yield site.node, f"`{site.scope.name}` calls in the training phase."


@check(
    "PS904",
    "note",
    "each replica keeps its own statistics",
    instead="`BatchNormalization(synchronized=True)`.",
    broken="""
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
norm = tf.keras.layers.BatchNormalization()
""",
    cured="""
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
norm = tf.keras.layers.BatchNormalization(synchronized=True)
""",
)
def not_synchronized(source: Source) -> Found:
    """Under a strategy a batch is split, and so are the statistics of a plain layer."""
    strategies = ("MirroredStrategy", "MultiWorkerMirroredStrategy", "TPUStrategy")
    if not any(name in source.text.text for name in strategies):
        return
    if not any(
        source.func(site).rpartition(".")[2] in strategies for site in source.calls
    ):
        return
    for site in source.calls:
        layer = source.values.at(site.node, site)
        if (
            isinstance(layer, Layer)
            and layer.node is site.node
            and layer.kind == "BatchNormalization"
        ) and constant(keyword(layer.node, "synchronized")) in (..., False, None):
            yield (
                site.node,
                "Without `synchronized=True` each replica normalises by its own "
                "part of the batch.",
            )


def names(source: Source, pattern: str) -> Iterator[tuple[ast.AST, str]]:
    expression = re.compile(pattern)
    return ((node, name) for node, name in source.named() if expression.fullmatch(name))


@check(
    "PS905",
    "note",
    "UPDATE_OPS are collected",
    instead="Delete it: `model(x, training=True)` moves the statistics itself.",
    broken="""
import tensorflow as tf

updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
""",
    cured="""
import tensorflow as tf

logits = model(x, training=True)
""",
)
def update_ops(source: Source) -> Found:
    """Layers of TensorFlow 2 put nothing into this collection."""
    for node, _ in names(source, r"tensorflow\.GraphKeys\.UPDATE_OPS"):
        yield node, "No layer of TensorFlow 2 fills UPDATE_OPS."


@check(
    "PS911",
    "note",
    "a session or a placeholder of TensorFlow 1",
    instead="Call the model eagerly or in a `tf.function`, with the phase as a "
    "Python bool.",
    broken="""
import tensorflow as tf

phase = tf.placeholder(tf.bool)
""",
    cured="""
import tensorflow as tf

phase = True
""",
)
def session(source: Source) -> Found:
    """TensorFlow 2 has them under `tf.compat.v1` only, without eager execution."""
    pattern = r"tensorflow\.(?:(?:Interactive)?Session|placeholder(?:_with_default)?)"
    for node, name in names(source, pattern):
        yield node, f"`{name}` is TensorFlow 1."


@check(
    "PS912",
    "note",
    "slim",
    instead="A `keras.Model`; `is_training=` becomes `training=` where it is called.",
    broken="""
import tensorflow.contrib.slim as slim
""",
    cured="""
import tensorflow.keras.layers as layers
""",
)
def slim(source: Source) -> Found:
    """`tf.contrib` is gone; `slim.batch_norm(is_training=…)` with it."""
    for name, site in source.indexer.imports:
        if re.match(r"tensorflow\.contrib\.(slim|layers)|tf_slim", name):
            yield site.node, f"`{name}` is TensorFlow 1."


@check(
    "PS913",
    "note",
    "tf.layers",
    instead="`tf.keras.layers`, with `training=` where the layer is called.",
    broken="""
import tensorflow as tf

h = tf.layers.batch_normalization(x, training=True)
""",
    cured="""
import tensorflow as tf

h = norm(x, training=True)
""",
)
def tf_layers(source: Source) -> Found:
    """Functions of TensorFlow 1 that keep their variables in a graph."""
    for node, name in names(
        source, r"tensorflow\.layers\.(batch_normalization|dropout)"
    ):
        yield node, f"`{name}` is TensorFlow 1 and raises with Keras 3."
