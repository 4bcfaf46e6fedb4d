"""PS205, PS30x: steps of your own, and what they call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from ..check import check
from ..holds import constant, keyword
from ..source import Source
from ..steps import calls_of_layers, phase_given, trains
from ..things import Class, Dotted, Instance, Net
from ..tree import Site
from .classes import in_call, in_graph, told_nothing, trains_by_itself, words

Found = Iterator[tuple[ast.AST, str]]


@check(
    "PS301",
    "error",
    "a training step calls the model without a phase",
    instead="Write `model(x, training=True)` under the tape.",
    broken="""
import keras
import tensorflow as tf

model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(1)])

def step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_fn(y, model(x))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
""",
    cured="""
import keras
import tensorflow as tf

model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(1)])

def step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_fn(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
""",
)
def bare_call(source: Source) -> Found:
    """Outside of `fit` nobody states a phase for you, and none means inference.

    Dropout drops nothing, and BatchNormalization trains against statistics that never
    move.
    """
    if "set_learning_phase" in source.text.text and source.release < (3,):
        return
    for site in source.calls:
        value = called_model(source, site) if site.withs else None
        if (
            value is None
            or phase_given(source, site, value) is not None
            or trains_by_itself(source, value)
        ):
            continue
        call = value.of.method("call") if isinstance(value, Instance) else None
        if call and source.release >= (3,) and told_nothing(source, value.of, call):
            continue  # PS201
        kinds = source.holds.heeding(value)
        func = site.node.func  # type: ignore[attr-defined]
        if kinds and trains(source, site):
            yield (
                site.node,
                f"`{ast.unparse(func)}` is called without a phase in a training "
                f"step: {words(kinds)} inside run in inference.",
            )


def called_model(source: Source, site: Site) -> Any:
    """The model that is called: made in the file, or `self` in a method of one."""
    func = site.node.func  # type: ignore[attr-defined]
    value = source.values.at(func, site)
    cls: Class | None = None
    if isinstance(func, ast.Name) and func.id == source.values.self_name(site.scope):
        cls = source.values.this(site.scope)
        value = Instance(cls, func) if cls else None
    elif isinstance(value, Instance):
        cls = value.of
    if cls is not None:
        return (
            value
            if cls.is_model and cls.method("call") and not cls.method("__call__")
            else None
        )
    return value if isinstance(value, Net) else None


@check(
    "PS302",
    "error",
    "the state that stateless_call returns is dropped",
    since=(3, 0),
    instead="Keep the second result and assign it to "
    "`model.non_trainable_variables` after the step.",
    broken="""
import keras

model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(1)])

def loss(trainable, state, x, y):
    y_pred, _ = model.stateless_call(trainable, state, x, training=True)
    return loss_fn(y, y_pred)
""",
    cured="""
import keras

model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(1)])

def loss(trainable, state, x, y):
    y_pred, state = model.stateless_call(trainable, state, x, training=True)
    return loss_fn(y, y_pred), state
""",
)
def dropped_state(source: Source) -> Found:
    """`stateless_call` changes nothing: what moves is in its second result alone."""
    for site, receiver in source.methods("stateless_call"):
        if constant(keyword(site.node, "training")) is not True or not dropped(site):
            continue
        model = source.values.at(receiver, site)
        if not source.holds.heeding(model):
            continue
        yield (
            site.node,
            "The second result of `stateless_call(…, training=True)` is "
            "dropped: moving statistics and seeds stay as they were.",
        )


def dropped(site: Site) -> bool:
    for node in ast.walk(site.statement):  # `stateless_call(…)[0]`
        if isinstance(node, ast.Subscript) and node.value is site.node:
            return constant(node.slice) == 0
    match site.statement:
        case ast.Assign(
            targets=[
                ast.Tuple(elts=[_, ast.Name(name) | ast.Starred(ast.Name(name)), *_])
            ],
            value=value,
        ) if value is site.node:
            in_loop = any(arm[1] in ("for", "while") for arm in site.arms)
            read = any(
                isinstance(node, ast.Name)
                and node.id == name
                and isinstance(node.ctx, ast.Load)
                and (in_loop or node.lineno > (site.statement.end_lineno or 0))
                for node in ast.walk(site.scope.node)
            )
            private = site.scope.kind == "function" or name.startswith("_")
            return private and not read
    return False


TENSORS = {
    "constant",
    "Variable",
    "cast",
    "convert_to_tensor",
    "equal",
    "logical_not",
    "placeholder",
}


@check(
    "PS205",
    "error",
    "a tensor as training",
    since=(3, 0),
    instead="Hand in a Python bool; a `tf.function` then has one trace a phase.",
    broken="""
import keras
import tensorflow as tf

model = keras.Sequential([keras.layers.Dropout(0.5)])

@tf.function
def step(x):
    return model(x, training=tf.constant(True))
""",
    cured="""
import keras
import tensorflow as tf

model = keras.Sequential([keras.layers.Dropout(0.5)])

@tf.function
def step(x):
    return model(x, training=True)
""",
)
def tensor(source: Source) -> Found:
    """Keras 3 asks `if training:`, which raises on a tensor of a graph."""
    for scope in source.scopes:
        if scope.kind != "function":
            continue
        if not in_graph(source, scope) and not in_call(source, scope):
            continue
        for site, value, phase in calls_of_layers(source, scope):
            phase = source.values.given(phase, site)
            inside = scope.node.lineno <= getattr(phase, "lineno", 0)  # type: ignore[attr-defined]
            made = isinstance(phase, ast.Call) and (
                inside or ast.unparse(phase.func).endswith("Variable")
            )
            if made and source.holds.heeding(value):
                name = source.values.at(phase.func, site)
                if isinstance(name, Dotted) and name.name in {
                    f"tensorflow.{t}" for t in TENSORS
                }:
                    yield (
                        site.node,
                        f"`training=` gets a tensor, `{ast.unparse(phase)}`: "
                        "in a graph "
                        f"this raises.",
                    )
