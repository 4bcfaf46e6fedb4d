"""Turns a model's layers, variables and traces into the plain data of `evidence.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from .bench import Bench, Route
from .effects import Effects, source_of
from .evidence import Call, Layer, Statistic, Trace, Variable
from .layers import (
    bare_variables,
    children_of,
    heeds_phase,
    is_batchnorm,
    is_graph,
    is_stock,
    is_true,
    is_wrapper,
    phase_parameter,
    walk,
)
from .recorder import Recorder
from .subject import metrics_of, variables_of
from .variables import handle_of, tf_variables


def keys_of(variables: Iterable[Any]) -> frozenset[int]:
    return frozenset(id(handle_of(v)) for v in variables)


class Views:
    """The examined model as plain data; a layer that only a trace shows joins later."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.subject = bench, bench.subject
        self.real: dict[Layer, Any] = {}
        self.layers: dict[int, Layer] = {}
        self.owner: dict[int, Layer] = {}
        self.flags = getattr(self.subject.model, "_compiled_trainable_state", None)
        for node in walk(self.subject.model).values():
            parents = tuple(self.layers[id(parent)] for parent in node.parents)
            view = self._view(node.layer, node.path, parents, True)
            for key in view.variables:
                self.owner[key] = view  # children come later in the walk and win
        self.model = next(iter(self.layers.values()))

    def of(self, layer: Any) -> Layer:
        if id(layer) not in self.layers:
            self._view(layer, layer.name, (), False)
        return self.layers[id(layer)]

    def _view(self, layer: Any, path: str, parents: Any, in_tree: bool) -> Layer:
        parameter = phase_parameter(layer)
        axis = getattr(layer, "axis", -1)
        axis = axis[0] if isinstance(axis, (list, tuple)) and axis else axis
        scale = [getattr(layer, name, None) is not None for name in ("gamma", "beta")]
        flag = self.flags.get(layer) if self.flags and variables_of(layer) else None
        view = Layer(
            path,
            parents,
            kind=type(layer).__name__,
            trainable=bool(layer.trainable),
            takes_training=parameter is not None,
            default=parameter.default if parameter is not None else None,
            norm=is_batchnorm(layer),
            heeds=heeds_phase(layer),
            stock=is_stock(layer),
            graph=is_graph(layer),
            wrapper=is_wrapper(layer),
            stateful=bool(getattr(layer, "stateful", False)),
            leaf=not children_of(layer),
            in_tree=in_tree,
            affine=any(scale),
            trained=is_batchnorm(layer) and scaled(layer),
            axis=axis if isinstance(axis, int) else -1,
            variables=keys_of(variables_of(layer)),
            bare=frozenset(bare_variables(layer)),
            at_compile=None if flag is None else bool(flag),
        )
        self.real[view], self.layers[id(layer)] = layer, view
        return view

    def trace(self, route: Route) -> Trace:
        return self.trace_of(route.name, route.recorder, route.effects, route.concrete)

    def trace_of(
        self,
        name: str,
        recorder: Recorder | None,
        effects: Effects,
        concrete: Any,
        origins: dict[int, str] | None = None,
    ) -> Trace:
        captured = concrete.graph.external_captures if concrete is not None else ()
        reads = tuple(id(h) for h in captured if h.dtype == tf.resource)
        random = frozenset(effects.drawn | effects.outside)
        calls = self._calls(recorder, origins or {}) if recorder else []
        return Trace(name, calls, dict(effects.writes), reads, random)

    def _calls(self, recorder: Recorder, origins: dict[int, str]) -> list[Call]:
        known: dict[int, tuple[int, Any]] = {}  # alive, for an id to mean one tensor

        def number(tensors: Iterable[Any]) -> tuple[int, ...]:
            return tuple(known.setdefault(id(t), (len(known), t))[0] for t in tensors)

        return [
            Call(
                self.of(record.layer),
                record.parent,
                is_true(record.training),
                None if record.explicit is None else is_true(record.explicit),
                number(record.inputs),
                number(record.outputs),
                number([source_of(t) for t in record.inputs]),
                origins.get(n, ""),
            )
            for n, record in enumerate(recorder.calls)
        ]

    def variables(self, concretes: Iterable[Any]) -> dict[int, Variable]:
        """Every saved variable, and every other that a graph captures."""
        model, saved = self.subject.model, self.bench.snapshot.saved
        known = [(handle_of(v), v) for v in self.subject.everything()]
        real = {id(handle): v for handle, v in known if handle is not None}
        tracked = frozenset(real)
        for concrete in concretes:
            held = [v for v in concrete.graph.variables if hasattr(v, "handle")]
            real.update({id(v.handle): v for v in held})
        trainable = keys_of(model.trainable_variables)
        metrics = keys_of(v for m in metrics_of(model) for v in m.variables)
        memory = keys_of(
            v
            for layer in self.real.values()
            if getattr(layer, "stateful", False)
            for v in tf.nest.flatten(getattr(layer, "states", None))
        )
        found = {}
        for key in dict.fromkeys((*saved, *real)):
            owner = self.owner.get(key)
            value = saved[key][1] if key in saved else None
            kind: Any = real.get(key) if value is None else value
            number = bool(getattr(tf.as_dtype(kind.dtype), "is_floating", False))
            found[key] = Variable(
                key,
                str(getattr(real.get(key), "name", "")).split(":")[0],
                owner,
                tuple(kind.shape),
                floating=number and value is not None,
                tracked=key in tracked,
                trainable=key in trainable,
                metric=key in metrics,
                memory=key in memory or (owner is not None and owner.stateful),
            )
            if number and value is not None and owner is not None:
                found[key].not_finite = not_finite(value)
                if key not in trainable:
                    found[key].statistic = self._is_statistic(key, owner)
        return found

    def _is_statistic(self, key: int, owner: Layer) -> bool:
        """Whether it is no weight, no metric and no state of an RNN."""
        layer = self.real[owner]
        own = keys_of(getattr(layer, "_trainable_variables", ()) or ())
        metrics = keys_of(v for m in metrics_of(layer) for v in m.variables)
        return not owner.stateful and key not in own and key not in metrics

    def statistics(
        self, variables: dict[int, Variable], training: Trace | None
    ) -> list[Statistic]:
        """BatchNormalization, and layers by the state they write when training."""
        found = []
        for view, layer in self.real.items():
            if view.norm and view.in_tree:
                mean, variance = map(
                    handle_of, (layer.moving_mean, layer.moving_variance)
                )
                if mean is not None and variance is not None:
                    self.bench.snapshot.add(mean)
                    self.bench.snapshot.add(variance)
                    found.append(self._statistic(layer, view, id(mean), id(variance)))
        known = {key for s in found for key in s.keys}
        by_owner: dict[Layer, list[Variable]] = {}
        for key in training.writes if training else ():
            variable = variables.get(key)
            if variable and variable.owner and variable.statistic and key not in known:
                by_owner.setdefault(variable.owner, []).append(variable)
        for view, written in by_owner.items():
            layer = self.real[view]
            spread = [v for v in written if SPREAD.search(v.name.lower())]
            level = [v.key for v in written if v not in spread]
            if len(level) == 1 and len(spread) == 1:
                found.append(self._statistic(layer, view, level[0], spread[0].key))
            else:
                found += [self._statistic(layer, view, key, None) for key in level]
        return found

    def _statistic(
        self, layer: Any, view: Layer, mean: int, variance: int | None
    ) -> Statistic:
        value, momentum = self.bench.snapshot.value, getattr(layer, "momentum", None)

        def initial(name: str, key: int, default: Any) -> np.ndarray:
            make = getattr(layer, f"{name}_initializer", None) or default
            return as_float(make(value(key).shape))

        now, first = value(mean), initial("moving_mean", mean, np.zeros)
        spread = first_spread = None
        if variance is not None:
            spread = value(variance)
            first_spread = initial("moving_variance", variance, np.ones)
        return Statistic(
            view,
            mean,
            variance,
            float(momentum) if isinstance(momentum, (int, float)) else None,
            float(getattr(layer, "epsilon", 1e-3)),
            (now, spread),
            (first, first_spread),
        )


SPREAD = re.compile(r"var|std|sigma|scale")


def as_float(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def not_finite(value: Any) -> int:
    """How many of a variable's values are NaN or infinite."""
    return int(np.sum(~np.isfinite(tf.cast(value, tf.float32).numpy())))


def scaled(layer: Any) -> bool:
    """Whether gamma or beta is no longer the initial one."""
    for name in ("gamma", "beta"):
        weight = getattr(layer, name, None)
        initializer = getattr(layer, f"{name}_initializer", None)
        if weight is None or initializer is None:
            continue
        now = np.asarray(tf_variables(weight)[0].numpy(), dtype=np.float64)
        initial = as_float(initializer(tuple(weight.shape)))
        if not np.array_equal(now, initial):
            return True
    return False


def recorded_phases(views: Views) -> dict[Layer, bool]:
    """`training=` written into the nodes of Functional graphs, by the layer called."""
    found: dict[Layer, bool] = {}
    for layer in list(views.real.values()):
        graph = getattr(layer, "_functional", None) or layer
        depths = (getattr(graph, "_nodes_by_depth", None) or {}).values()
        for node in (node for depth in depths for node in depth):
            kwargs = getattr(getattr(node, "arguments", None), "kwargs", None)
            kwargs = kwargs or getattr(node, "call_kwargs", None) or {}
            training = kwargs.get("training")
            called = getattr(node, "operation", None) or getattr(node, "layer", None)
            if not isinstance(training, (bool, int)) or called is None:
                continue
            parameter = phase_parameter(called)
            # Keras records the signature's own default too; only what differs was
            # written by the author.
            if parameter is None or parameter.default is not bool(training):
                found[views.of(called)] = bool(training)
    return found
