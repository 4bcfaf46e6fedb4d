"""The reader's data: one batch of it, as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .report import CannotExamine

ONE_SHOT = (
    "`x` is a one-shot iterator: one batch was taken from it and cannot be put back."
)


def inputs_of(model: Any) -> list[Any]:
    """The model's symbolic inputs; none for a subclass or an unbuilt model."""
    try:
        return list(getattr(model, "inputs", None) or ())
    except (AttributeError, ValueError):
        return []


def is_array(value: Any) -> bool:
    array = isinstance(value, (np.ndarray, np.generic))
    return tf.is_tensor(value) or array or hasattr(value, "__array__")


def as_tensors(data: Any) -> Any:
    def tensor(leaf: Any) -> Any:
        known = leaf is None or tf.is_tensor(leaf)
        return leaf if known else tf.convert_to_tensor(leaf)

    return tf.nest.map_structure(tensor, data)


def first_batch(model: Any, x: Any, y: Any) -> tuple[tuple[Any, Any], str | None]:
    """The first (x, y) as tensors, and a remark when something was used up for it."""
    remark = None
    if is_array(x) or isinstance(x, Mapping):
        pair = (x, y)
    elif isinstance(x, (list, tuple)):
        pair = of_list(x, y, len(inputs_of(model)))
    else:
        remark = ONE_SHOT if isinstance(x, Iterator) else None
        pair = of_iterable(x, y)
    for leaf in tf.nest.flatten(pair[0]):
        if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
            raise CannotExamine(
                f"`x` holds a {type(leaf).__name__}, and the doctor takes batches "
                "apart by rows: hand it a dense batch (`tf.sparse.to_dense(x)`, "
                "`x.to_tensor()`)."
            )
    given, target = as_tensors(pair[0]), as_tensors(pair[1])
    leaves = [t for t in tf.nest.flatten(given) if t is not None and t.shape.rank]
    if any(leaf.shape[0] == 0 for leaf in leaves):
        raise CannotExamine(
            "The first batch of `x` is empty: "
            "hand the doctor a batch with samples in it."
        )
    return (given, target), remark


def is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) in (2, 3)


def of_list(x: Any, y: Any, width: int) -> tuple[Any, Any]:
    """Pairs, batches, plain numbers, or one batch for a model of several inputs."""
    several = bool(x) and not isinstance(x[0], (int, float))
    if several and y is None and all(is_pair(item) for item in x):
        return x[0][0], x[0][1]
    arrays = all(is_array(item) for item in x)
    if isinstance(x, list) and several and len(x) != width > 0 and arrays:
        targets = isinstance(y, (list, tuple)) and len(y) == len(x)
        return x[0], y[0] if targets else None
    leaves = tf.nest.flatten(x)
    # Plain nested numbers are one array; anything else is a structure of inputs.
    if any(leaf is None or is_array(leaf) or isinstance(leaf, str) for leaf in leaves):
        return x, y
    return np.asarray(x), y


def of_iterable(x: Any, y: Any) -> tuple[Any, Any]:
    if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        source: Iterable[Any] = (x[i] for i in range(len(x)))
    elif isinstance(x, Iterable):
        source = x
    else:
        raise CannotExamine(
            f"`x` is {type(x).__name__}: "
            "hand the doctor a batch (array, tensor, dict, tuple) or batches."
        )
    for item in source:
        if not isinstance(item, (tuple, list)):
            return item, y
        if len(item) in (2, 3) and y is None:
            return item[0], item[1]
        return item[0] if len(item) == 1 else item, y
    raise CannotExamine(
        "`x` yields no batch: hand the doctor at least one batch of data."
    )


def outputs_of(result: Any) -> tuple[list[Any], list[str]]:
    """The tensors of what a call returned, in dataclasses too; and the names of the
    classes that cannot be read."""
    tensors: list[Any] = []
    unread: list[str] = []
    for leaf in tf.nest.flatten(result):
        if tf.is_tensor(leaf):
            tensors.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            fields = [getattr(leaf, part.name) for part in dataclasses.fields(leaf)]
            inside, others = outputs_of(fields)
            tensors, unread = tensors + inside, unread + others
        elif not isinstance(leaf, (type(None), bool, int, float, str, bytes)):
            unread.append(type(leaf).__name__)
    return tensors, list(dict.fromkeys(unread))


def model_input(x: Any) -> Any:
    """Float64 leaves in Keras's own float type, as `fit` and `predict` hand them on."""
    floatx = tf.as_dtype(keras.backend.floatx())

    def cast(t: Any) -> Any:
        return t if t is None or t.dtype != tf.float64 else tf.cast(t, floatx)

    return tf.nest.map_structure(cast, x)


def rows_of(x: Any, index: np.ndarray) -> Any:
    def gather(t: Any) -> Any:
        return None if t is None else tf.gather(t, index)

    return tf.nest.map_structure(gather, x)


def size_of(x: Any) -> int | None:
    """Number of samples, or None when the leaves disagree."""
    sizes = {t.shape[0] for t in tf.nest.flatten(x) if t is not None and t.shape.rank}
    return int(sizes.pop()) if len(sizes) == 1 else None
