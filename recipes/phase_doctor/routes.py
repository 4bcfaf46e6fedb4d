"""One way of calling a model, traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from .effects import Effects
from .layers import Node
from .recorder import Call, Recorder


@dataclasses.dataclass
class Route:
    """One way of calling the model, traced: its graph, its effects, and which layer was called how."""

    concrete: Any
    calls: list[Call]
    recorder: Recorder
    effects: Effects
    variables: dict[int, Any]
    fetched: list[
        tuple[int, list[int], list[int]]
    ]  # call index, positions of its inputs and outputs
    count: int  # outputs proper


@dataclasses.dataclass
class Statistic:
    """The moving statistics of one layer: keys of the variables, and the momentum when it says so."""

    node: Node
    mean: int
    variance: int | None
    momentum: float | None


def numbers_of(tensors: Iterable[Any]) -> list[np.ndarray]:
    """Float64 copies of the tensors that hold numbers."""
    arrays = []
    for tensor in tensors:
        if hasattr(tensor, "flat_values"):
            tensor = tensor.flat_values
        elif hasattr(tensor, "indices") and hasattr(tensor, "values"):
            tensor = tensor.values
        if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool:
            arrays.append(tf.cast(tensor, tf.float64).numpy())
        elif tensor.dtype.is_complex:
            arrays.append(np.abs(tensor.numpy()).astype(np.float64))
    return arrays


def inner_functions(function: Any) -> list[Any]:
    """The `tf.function` objects inside a (wrapped) training function."""
    found, seen, queue = [], set(), [function]
    while queue:
        item = queue.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if hasattr(item, "get_concrete_function"):
            found.append(item)
            continue
        queue.append(getattr(item, "__wrapped__", None))
        for cell in getattr(item, "__closure__", None) or ():
            try:
                if callable(cell.cell_contents) and not isinstance(
                    cell.cell_contents, type
                ):
                    queue.append(cell.cell_contents)
            except ValueError:
                continue
    return found


def traces_of(function: Any) -> list[Any]:
    """Concrete functions that a `tf.function` already holds."""
    try:
        return list(function._list_all_concrete_functions())
    except Exception:
        return []
