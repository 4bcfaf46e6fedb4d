"""The reader's data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .report import CannotExamine


def inputs_of(model: Any) -> list[Any]:
    """The model's symbolic inputs; none for a subclass or an unbuilt model."""
    try:
        return list(getattr(model, "inputs", None) or ())
    except (AttributeError, ValueError):
        return []


def is_array(value: Any) -> bool:
    return (
        tf.is_tensor(value)
        or isinstance(value, (np.ndarray, np.generic))
        or hasattr(value, "__array__")
    )


def as_tensor(leaf: Any) -> Any:
    return leaf if leaf is None or tf.is_tensor(leaf) else tf.convert_to_tensor(leaf)


def read_batches(
    model: Any, x: Any, y: Any, most: int
) -> tuple[list[tuple[Any, Any]], str | None]:
    """At most `most` batches as (x, y) of tensors, and a remark when something was used up that cannot be put back."""
    remark = None
    width = len(inputs_of(model))
    several = (
        isinstance(x, (list, tuple)) and bool(x) and not isinstance(x[0], (int, float))
    )
    if is_array(x) or isinstance(x, Mapping):
        pairs = [(x, y)]
    elif (
        several
        and all(isinstance(item, tuple) and len(item) in (2, 3) for item in x)
        and y is None
    ):
        pairs = [(item[0], item[1]) for item in x[:most]]
    elif (
        isinstance(x, list)
        and several
        and len(x) != width
        and width > 0
        and all(is_array(item) for item in x)
    ):
        targets = (
            y if isinstance(y, (list, tuple)) and len(y) == len(x) else [None] * len(x)
        )
        pairs = list(zip(x, targets, strict=False))[:most]
    elif isinstance(x, (list, tuple)):
        # Plain nested numbers are one array; anything else is a structure of inputs.
        numbers = not any(
            leaf is None or is_array(leaf) or isinstance(leaf, str)
            for leaf in tf.nest.flatten(x)
        )
        pairs = [(np.asarray(x) if numbers else x, y)]
    else:
        once = isinstance(x, Iterator)
        if once:
            most = 1
            remark = "`x` is a one-shot iterator: one batch was taken from it and cannot be put back."
        pairs = []
        if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
            source: Iterable[Any] = (x[i] for i in range(len(x)))
        elif isinstance(x, Iterable):
            source = x
        else:
            raise CannotExamine(
                f"`x` is {type(x).__name__}: hand the doctor a batch (array, tensor, dict, tuple) or batches."
            )
        for item in source:
            if isinstance(item, (tuple, list)) and len(item) in (2, 3) and y is None:
                pairs.append((item[0], item[1]))
            else:
                pairs.append(
                    (
                        item[0]
                        if isinstance(item, (tuple, list)) and len(item) == 1
                        else item,
                        y,
                    )
                )
            if len(pairs) == most:
                break
        if not pairs:
            raise CannotExamine(
                "`x` yields no batch: hand the doctor at least one batch of data."
            )
    read = [
        (tf.nest.map_structure(as_tensor, a), tf.nest.map_structure(as_tensor, b))
        for a, b in pairs
    ]
    sizes = {
        int(leaf.shape[0])
        for leaf in tf.nest.flatten(read[0][0])
        if leaf is not None and leaf.shape.rank
    }
    if 0 in sizes:
        raise CannotExamine(
            "The first batch of `x` is empty: hand the doctor a batch with samples in it."
        )
    return read, remark


def model_input(x: Any) -> Any:
    """Float64 leaves in Keras's own float type, as `fit` and `predict` would hand them on."""
    floatx = tf.as_dtype(keras.backend.floatx())
    return tf.nest.map_structure(
        lambda t: tf.cast(t, floatx) if t is not None and t.dtype == tf.float64 else t,
        x,
    )


def rows_of(x: Any, index: np.ndarray) -> Any:
    return tf.nest.map_structure(
        lambda t: None if t is None else tf.gather(t, index), x
    )


def size_of(x: Any) -> int | None:
    """Number of samples, or None when the leaves disagree."""
    sizes = {t.shape[0] for t in tf.nest.flatten(x) if t is not None and t.shape.rank}
    return int(sizes.pop()) if len(sizes) == 1 else None
