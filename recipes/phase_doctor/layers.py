"""The layers of a model, and what can be asked of each."""

from __future__ import annotations

import dataclasses
import dis
import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from .variables import handle_of

STOCK = ("keras", "tf_keras", "tensorflow", "keras_hub", "keras_cv")
AUGMENTS = ("AutoContrast", "CutMix", "MixUp", "RandAugment", "AugMix")
WRAPPERS = ("TimeDistributed", "Bidirectional", "RNN", "Wrapper")


@dataclasses.dataclass
class Node:
    path: str
    layer: Any
    parents: tuple[Any, ...]


def children_of(layer: Any) -> list[Any]:
    try:
        return list(layer._flatten_layers(include_self=False, recursive=False))
    except Exception:
        return []


def walk(model: Any) -> dict[int, Node]:
    """Every layer once, the model itself first, by `id`."""
    nodes = {id(model): Node(model.name, model, ())}

    def visit(layer: Any, prefix: str, parents: tuple[Any, ...]) -> None:
        for child_layer in children_of(layer):
            if id(child_layer) not in nodes:
                path = f"{prefix}{child_layer.name}"
                nodes[id(child_layer)] = Node(path, child_layer, parents)
                visit(child_layer, path + "/", (*parents, child_layer))

    visit(model, "", (model,))
    return nodes


def library_of(layer: Any) -> Any:
    """The Keras package that a layer belongs to; None when it is no Keras layer."""
    for name in ("keras", "tf_keras"):
        package = sys.modules.get(name)
        if package is not None and isinstance(layer, package.layers.Layer):
            return package
    if any(base.__module__.startswith("tf_keras.") for base in type(layer).__mro__):
        return importlib.import_module("tf_keras")
    return None


def phase_parameter(layer: Any) -> inspect.Parameter | None:
    """The parameter `training` of `layer.call` as Keras sees it, or None."""
    try:
        return inspect.signature(layer.call).parameters.get("training")
    except (TypeError, ValueError):
        return None


def reads_phase(layer: Any) -> bool:
    """Whether `call` reads the `training` it takes, or hides what it does."""
    code = getattr(inspect.unwrap(layer.call), "__code__", None)
    if code is None or "training" not in code.co_varnames + code.co_cellvars:
        return True
    loads = {i.argval for i in dis.get_instructions(code) if "LOAD" in i.opname}
    return "training" in loads | set(code.co_cellvars)


def is_graph(layer: Any) -> bool:
    """Functional and Sequential models: they hand the phase down themselves."""
    return (
        hasattr(layer, "_nodes_by_depth")
        or hasattr(layer, "_functional")
        or type(layer).__name__ == "Sequential"
    )


def is_batchnorm(layer: Any) -> bool:
    return (
        getattr(layer, "moving_mean", None) is not None
        and getattr(layer, "moving_variance", None) is not None
    )


def is_stock(layer: Any) -> bool:
    return type(layer).__module__.split(".")[0] in STOCK


def heeds_phase(layer: Any) -> bool:
    """Whether this leaf does something else in another phase, by its own settings."""
    if is_batchnorm(layer):
        return bool(layer.trainable)
    if phase_parameter(layer) is None or not reads_phase(layer):
        return False
    for attribute in ("rate", "stddev", "dropout", "recurrent_dropout", "_dropout"):
        value = getattr(layer, attribute, None)
        if isinstance(value, (int, float)) and value > 0:
            return True
    name = type(layer).__name__
    if is_stock(layer) and name == "SpectralNormalization":
        return True
    if children_of(layer):
        return False
    if is_stock(layer):
        return name.startswith("Random") or name in AUGMENTS
    return True


def has_call(model: Any) -> bool:
    """Whether the model's class defines what calling it does."""
    call = getattr(type(model), "call", None)
    owner = next((c for c in type(model).__mro__ if "call" in c.__dict__), None)
    if call is None or owner is None:
        return False
    stock = owner.__module__.startswith(("keras.", "tf_keras."))
    return not (stock and owner.__name__ in ("Model", "Layer", "Operation"))


def is_true(training: Any) -> bool:
    """A tensor for a phase may be true."""
    if isinstance(training, (bool, int, np.bool_)):
        return bool(training)
    return training is not None


def is_wrapper(layer: Any) -> bool:
    return type(layer).__name__ in WRAPPERS


def bare_variables(layer: Any) -> set[int]:
    """Keys of `tf.Variable` objects in a layer's attributes, and in lists there."""
    found: list[Any] = []
    for value in vars(layer).values():
        parts: Any = [value]
        if isinstance(value, Mapping):
            parts = value.values()
        elif isinstance(value, (list, tuple)):
            parts = value
        found += [part for part in parts if isinstance(part, tf.Variable)]
    return {id(handle_of(variable)) for variable in found}
