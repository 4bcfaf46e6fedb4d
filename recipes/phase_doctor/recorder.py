"""Which layer is called how while a graph is traced."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from .batches import outputs_of
from .layers import phase_parameter


@dataclasses.dataclass
class Record:
    """One invocation of a layer during a trace."""

    layer: Any
    parent: int | None
    training: Any
    explicit: Any  # the `training=` its caller wrote, or None
    inputs: list[Any]
    outputs: list[Any] = dataclasses.field(default_factory=list)


class Recorder:
    """Notes, while a graph is traced, which layer was called how; unpatches on exit."""

    def __init__(self, layers: Iterable[Any], packages: Iterable[Any]) -> None:
        self.calls: list[Record] = []
        self._stack: list[int] = []
        self._pending: list[tuple[Any, Any]] = []
        self._hooked: dict[int, Any] = {}
        self._layers = list(layers)
        self._classes = [package.layers.Layer for package in packages]
        self._originals: list[Any] = []

    def __enter__(self) -> Recorder:
        for layer in self._layers:
            self._hook(layer)
        for cls in self._classes:
            original = cls.__dict__["__call__"]
            self._originals.append((cls, original))
            cls.__call__ = self._entry(original)
        return self

    def __exit__(self, *_: Any) -> None:
        for cls, original in self._originals:
            cls.__call__ = original
        for layer in self._hooked.values():
            layer.__dict__.pop("call", None)

    def _entry(self, original: Any) -> Any:
        @functools.wraps(original)
        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:
            self._hook(layer)
            self._pending.append((layer, kwargs.get("training")))
            try:
                return original(layer, *args, **kwargs)
            finally:
                self._pending.pop()

        return tf.autograph.experimental.do_not_convert(__call__)

    def _hook(self, layer: Any) -> None:
        if id(layer) in self._hooked or "call" in layer.__dict__:
            return
        original, parameter = layer.call, phase_parameter(layer)
        try:
            position = (
                list(inspect.signature(original).parameters).index("training")
                if parameter
                else -1
            )
        except ValueError:
            position = -1

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            training = parameter.default if parameter is not None else None
            if 0 <= position < len(args):
                training = args[position]
            training = kwargs.get("training", training)
            pending = self._pending[-1] if self._pending else (None, None)
            explicit = pending[1] if pending[0] is layer else kwargs.get("training")
            parent = self._stack[-1] if self._stack else None
            tensors = [
                leaf for leaf in tf.nest.flatten((args, kwargs)) if tf.is_tensor(leaf)
            ]
            record = Record(layer, parent, training, explicit, tensors)
            self.calls.append(record)
            self._stack.append(len(self.calls) - 1)
            try:
                outputs = original(*args, **kwargs)
            finally:
                self._stack.pop()
            record.outputs, _ = outputs_of(outputs)
            return outputs

        layer.__dict__["call"] = tf.autograph.experimental.do_not_convert(call)
        self._hooked[id(layer)] = layer

    def ancestors(self, index: int) -> list[int]:
        """Indices of the calls around call `index`, innermost first."""
        chain, parent = [], self.calls[index].parent
        while parent is not None:
            chain.append(parent)
            parent = self.calls[parent].parent
        return chain

    def keep_last_traces(self) -> None:
        """Drops the calls of an inner function's trace that another one replaced.

        A `tf.function` that creates variables is traced twice, under one name.
        """
        latest = {graph_name(call): graph_of(call) for call in self.calls}
        kept: dict[int, int] = {}
        for number, call in enumerate(self.calls):
            if call.parent is None:
                stays = graph_of(call) is latest[graph_name(call)]
            else:
                stays = call.parent in kept
            if stays:
                kept[number] = len(kept)
        calls = [self.calls[number] for number in kept]
        for call in calls:
            call.parent = None if call.parent is None else kept[call.parent]
        self.calls[:] = calls


def graph_of(call: Record) -> Any:
    tensors = [*call.inputs, *call.outputs]
    return getattr(tensors[0], "graph", None) if tensors else None


def graph_name(call: Record) -> Any:
    return getattr(graph_of(call), "name", None)
