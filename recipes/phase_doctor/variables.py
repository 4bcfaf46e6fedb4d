"""Variables by handle: one in a closure is as good as one in `model.weights`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf


def tf_variables(variable: Any) -> list[Any]:
    """The TensorFlow variables behind one (several under a distribution strategy)."""
    inner = (
        variable
        if isinstance(variable, tf.Variable)
        else getattr(variable, "_value", None)
    )
    if inner is None:
        return []
    parts = getattr(inner, "values", None)
    return list(parts) if isinstance(parts, (tuple, list)) else [inner]


def handle_of(variable: Any) -> Any:
    parts = tf_variables(variable)
    return getattr(parts[0], "handle", None) if parts else None


class Snapshot:
    """Values of variables, taken and put back bit for bit."""

    def __init__(self) -> None:
        self.saved: dict[int, tuple[Any, tf.Tensor]] = {}

    def add(self, handle: Any) -> bool:
        """Remembers the value behind it, once. False where there is none."""
        if id(handle) in self.saved:
            return True
        try:
            kind = handle._handle_data.shape_and_type[0].dtype
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=kind)
        except Exception:  # a table, an iterator, a variable without a value
            return False
        self.saved[id(handle)] = (handle, value)
        return True

    def add_all(self, variables: Iterable[Any]) -> None:
        for variable in variables:
            for part in tf_variables(variable):
                if getattr(part, "handle", None) is not None:
                    self.add(part.handle)

    def value(self, key: int) -> np.ndarray:
        """The saved value."""
        return self.saved[key][1].numpy().astype(np.float64)

    def read(self, key: int) -> np.ndarray:
        """The value of now."""
        handle, value = self.saved[key]
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=value.dtype).numpy()

    def differs(self, key: int) -> bool:
        return self.read(key).tobytes() != self.saved[key][1].numpy().tobytes()

    def write(self, key: int, value: Any) -> None:
        handle, saved = self.saved[key]
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.cast(value, saved.dtype))

    def restore(self, keys: Iterable[int] | None = None) -> None:
        for key in list(self.saved) if keys is None else keys:
            if key in self.saved:
                handle, value = self.saved[key]
                tf.raw_ops.AssignVariableOp(resource=handle, value=value)
