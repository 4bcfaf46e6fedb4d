"""Examine a Keras model and its training step, and name every phase bug with evidence.

Symptom: Training looks fine and validation does not, or the exported model disagrees with the one in memory.
Nothing raises, so it is unclear which of two dozen known phase pitfalls this model has.

Cause: A layer runs in another phase than meant, or its moving statistics do not fit its weights.
Both can be seen from outside: by running the model in each phase and watching what changes.

Fix: `diagnose(model, x, y, train_step=step)` names each fault by a stable code (PD101, PD201, ...), says which layer,
gives the numbers and the cure. `assert_healthy(...)` does the same inside a test suite.
`python phase_doctor.py model.keras --data x.npy` does it from a shell.

Holds on: Keras 3.0 to 3.16.dev on the TensorFlow backend, and tf_keras 2.21 (Keras 2); Python 3.11 and newer.

More: docs/recipes/phase_doctor.md in Phasebook
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import dis
import functools
import importlib
import inspect
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "PHASEBOOK_DEMO" not in os.environ:
    # Run the demo in a child process and drop TensorFlow's start-up lines, which no setting stops.
    noise = re.compile(
        r"WARNING: All log messages before absl|To enable the following instructions"
        r"|[IWE]\d{4} .*(port|cudart_stub|cpu_feature_guard|cuda_platform|cuda_executor|gpu_device"
        r"|mlir_graph_optimization_pass|tf_tfl_flatbuffer_helpers|reader|loader|function_optimizer"
        r"|flatbuffer_export|cuda_fft|cuda_dnn|cuda_blas|computation_placer|service|device_compiler"
        r"|xla_compilation_cache|devices|grappler|dump_mlir_util|single_machine)\.cc:"
        r"|INFO: Created TensorFlow Lite XNNPACK delegate"
    )
    with subprocess.Popen(
        [sys.executable, *sys.argv], env={**os.environ, "PHASEBOOK_DEMO": "1"}, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if not noise.match(line):
                sys.stderr.write(line)
    sys.exit(child.returncode)

if not hasattr(dis.Instruction, "positions"):
    raise ImportError("phase_doctor needs Python 3.11 or newer: it reads where in a step's code each name is used.")

import keras
import numpy as np
import tensorflow as tf

# --8<-- [start:rules]
# code: (what the finding says, severity when nothing softens it, cure, recipe)
RULES: dict[str, tuple[str, str, str, str | None]] = {
    "PD001": ("the model, the step or the artifact raised", "error", "Make it run on this batch first.", None),
    "PD002": (
        "not examined, or not put back",
        "note",
        "Read the message; `insist=True` runs the step all the same.",
        None,
    ),
    "PD101": (
        "`call` cannot be told the phase",
        "error",
        "Declare `def call(self, inputs, training=None)` and pass `training` to every layer inside.",
        "subclass_training_arg",
    ),
    "PD102": (
        "a recorded `training=` is ignored by this Keras",
        "error",
        "Set `trainable = False` on each BatchNormalization before `compile`, or call it in a subclass's `call`.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD103": (
        "a phase-dependent layer whose variables the model does not track",
        "error",
        "Assign the layer to an attribute of the model, not to a closure, a global or a hidden container.",
        "subclass_training_arg",
    ),
    "PD104": (
        "one BatchNormalization serves several places",
        "warning",
        "Create one BatchNormalization for each place; weights of other layers may stay shared.",
        "fit_explicit_phase",
    ),
    "PD105": (
        "`trainable` changed after `compile`",
        "error",
        "Call `compile` again after every change of `trainable`.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD106": (
        "a layer's default `training=True` puts later layers in training mode on a bare call",
        "warning",
        "Call `model(x, training=False)`, and export through an endpoint that says so.",
        "export_inference_model",
    ),
    "PD201": (
        "statistics untouched since initialisation though weights were trained",
        "error",
        "Call `model(x, training=True)` in the train step; save and restore all of `model.weights`.",
        "functional_learning_phase",
    ),
    "PD202": (
        "statistics far behind the data",
        "warning",
        "Train for more steps, lower the momentum, or re-estimate the statistics over training batches.",
        "fit_explicit_phase",
    ),
    "PD203": (
        "statistics not finite, or a variance not positive",
        "error",
        "Find the batch that was empty or not finite, then re-estimate the statistics.",
        "fit_explicit_phase",
    ),
    "PD301": (
        "the step leaves statistics unmoved",
        "error",
        "Call the model with `training=True` inside the train step.",
        "functional_learning_phase",
    ),
    "PD302": (
        "statistics move more than once a step",
        "error",
        "Run one training-phase forward pass a step; run any other with `training=False`.",
        "fit_explicit_phase",
    ),
    "PD303": (
        "a frozen layer moves",
        "error",
        "Set `trainable = False` before `compile` and before the step is first traced.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD304": (
        "inference depends on batch mates",
        "error",
        "Pass `training=False` down to the layer at inference; never fix `training=True` in `call`.",
        "subclass_training_arg",
    ),
    "PD305": (
        "inference is stochastic",
        "error",
        "Make the random layer obey `training`. If you mean it, pass `allow=('PD305',)`.",
        "monte_carlo_dropout",
    ),
    "PD306": (
        "inference changes state",
        "error",
        "Update state only when `training` is true.",
        "subclass_training_arg",
    ),
    "PD307": (
        "inference output constant though training output is not",
        "error",
        "Repair the moving statistics: update them while training, or re-estimate them.",
        "functional_learning_phase",
    ),
    "PD308": (
        "the two phases disagree far beyond noise",
        "warning",
        "Repair the moving statistics, or the layer that behaves differently in the two phases.",
        "fit_explicit_phase",
    ),
    "PD309": (
        "`model(x)` differs from `predict`",
        "warning",
        "Say the phase on every direct call: `model(x, training=False)`.",
        "functional_learning_phase",
    ),
    "PD401": (
        "the artifact differs from `model(x, training=False)`",
        "error",
        "Export again through an endpoint that passes `training=False`.",
        "export_inference_model",
    ),
    "PD402": (
        "the artifact holds assigning or random operations",
        "error",
        "Export a function that calls `model(x, training=False)`.",
        "export_inference_model",
    ),
    "PD403": (
        "the artifact has a fixed batch size or a phase input",
        "warning",
        "Export with a batch dimension of None and with the phase fixed.",
        "export_inference_model",
    ),
}
# --8<-- [end:rules]

# A finding is a consequence of the first of these codes that is found too, at a layer that bears on it.
CAUSES: dict[str, tuple[str, ...]] = {
    "PD301": ("PD103", "PD101", "PD102", "PD105"),
    "PD302": ("PD104",),
    "PD303": ("PD105",),
    "PD306": ("PD304",),
    "PD309": ("PD106", "PD102", "PD101", "PD305"),
    "PD201": ("PD103", "PD101", "PD301", "PD105"),
    "PD202": ("PD101", "PD301", "PD203", "PD102", "PD302", "PD104"),
    "PD307": ("PD203", "PD103", "PD101", "PD301", "PD201", "PD202"),
    "PD308": ("PD203", "PD103", "PD101", "PD301", "PD201", "PD202", "PD104", "PD302"),
    "PD401": ("PD402", "PD106", "PD309"),
    "PD402": ("PD106", "PD305", "PD306", "PD304"),
}
# What whole models do: a fault in any layer explains it.
GLOBAL = ("PD307", "PD308", "PD309", "PD401", "PD402")
ORDER = (
    "PD001", "PD101", "PD103", "PD106", "PD105", "PD102", "PD104", "PD203", "PD301", "PD303", "PD302",
    "PD304", "PD305", "PD306", "PD201", "PD202", "PD309", "PD307", "PD308", "PD402", "PD403", "PD401", "PD002",
)  # fmt: skip


class CannotExamine(ValueError):
    """The doctor was handed something it cannot examine; the message says what to hand it instead."""


# --8<-- [start:diagnosis]
@dataclasses.dataclass
class Finding:
    """One fault, or one remark.

    Attributes:
        code: Stable rule code, such as `"PD301"`.
        severity: `"error"`, `"warning"` or `"note"`.
        where: Path of the layer (`"backbone/bn1"`), or None when the whole model is meant.
        message: One sentence about this model.
        evidence: The measured numbers behind the message.
        cure: What to do.
        recipe: Slug of the Phasebook recipe that shows the cure, or None.
        caused_by: Code of the root finding that explains this one, or None.
    """

    code: str
    severity: str
    where: str | None
    message: str
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    cure: str = ""
    recipe: str | None = None
    caused_by: str | None = None


@dataclasses.dataclass
class Diagnosis:
    """What `diagnose` found, root causes first.

    Attributes:
        findings: Every `Finding`, errors, warnings and notes.
        timing: Seconds spent: `"tracing"` is the doctor's own graph building, `"running"` the rest.
        versions: TensorFlow and Keras release examined.
        model: Name of the examined model.
    """

    findings: list[Finding]
    timing: dict[str, float]
    versions: dict[str, str]
    model: str

    @property
    def ok(self) -> bool:
        """True when no finding is an error or a warning."""
        return not self.codes

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of errors and warnings, each once, root causes first."""
        return tuple(dict.fromkeys(f.code for f in self.findings if f.severity != "note"))

    def to_json(self, indent: int | None = 2) -> str:
        """The whole diagnosis as a JSON object; numbers that are not finite become strings."""
        body = {"ok": self.ok, "codes": self.codes, "model": self.model, "versions": self.versions}
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return json.dumps(_plain({**body, "timing": self.timing, "findings": findings}), indent=indent)

    def __str__(self) -> str:
        groups: dict[tuple[str, str, str | None], list[Finding]] = {}
        for finding in self.findings:
            # Fifty layers with one fault are one row.
            kind = re.sub(r"[\d.]+(e[+-]?\d+)?", "#", finding.message.replace(repr(finding.where), "@"))
            groups.setdefault((finding.code, finding.severity, kind), []).append(finding)
        faults = sum(f.severity != "note" for f in self.findings)
        releases = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"{self.model}: {'healthy' if self.ok else f'{faults} findings'} ({releases})"]
        for members in groups.values():
            first, more = members[0], len(members) - 1
            where = (first.where or "whole model") + (f" and {more} more" if more else "")
            cause = f"  (caused by {first.caused_by})" if first.caused_by else ""
            lines.append(f"{first.code}  {first.severity:<7}  {where}{cause}")
            lines.append(f"       {first.message}")
            if first.severity != "note":
                lines.append(f"       cure: {first.cure}" + (f" [{first.recipe}]" if first.recipe else ""))
        return "\n".join(lines)


# --8<-- [end:diagnosis]


def _plain(value: Any) -> Any:
    """JSON-ready copy: NumPy numbers become Python ones, NaN and infinity become strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


# ---------------------------------------------------------------------------------------------------------------
# Variables: read and write them by handle, so that one hidden in a closure is as good as one in `model.weights`.


def _tf_variables(variable: Any) -> list[Any]:
    """The TensorFlow variables behind a Keras or TensorFlow variable (several under a distribution strategy)."""
    inner = variable if isinstance(variable, tf.Variable) else getattr(variable, "_value", None)
    if inner is None:
        return []
    parts = getattr(inner, "values", None)
    return list(parts) if isinstance(parts, (tuple, list)) else [inner]


def _handle(variable: Any) -> Any:
    parts = _tf_variables(variable)
    return getattr(parts[0], "handle", None) if parts else None


class _State:
    """Values of variables, taken and put back bit for bit."""

    def __init__(self) -> None:
        self.saved: dict[int, tuple[Any, tf.Tensor]] = {}

    def add(self, handle: Any) -> bool:
        """Remembers the value behind `handle`, once. False when it is no initialised variable."""
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
            for part in _tf_variables(variable):
                if getattr(part, "handle", None) is not None:
                    self.add(part.handle)

    def read(self, key: int) -> np.ndarray:
        handle, value = self.saved[key]
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=value.dtype).numpy()

    def restore(self, keys: Iterable[int] | None = None) -> None:
        for key in list(self.saved) if keys is None else keys:
            if key in self.saved:
                handle, value = self.saved[key]
                tf.raw_ops.AssignVariableOp(resource=handle, value=value)


# ---------------------------------------------------------------------------------------------------------------
# What a traced graph would do, read off the graph without running it.

# Of `tf.DType` and of the number that a saved graph holds in its place.
_FLOATS = {kind for d in (tf.float16, tf.bfloat16, tf.float32, tf.float64) for kind in (d, d.as_datatype_enum)}
_READS = re.compile(
    r"^(ReadVariableOp|ResourceGather\w*|VariableShape|VarIsInitializedOp|DisableCopyOnRead|_?Identity\w*)$"
)
_WRITES = re.compile(
    r"^(Assign\w*VariableOp|AssignVariable\w*|Resource(Apply|SparseApply|Scatter|Strided|AccumulatorApply)\w*"
    r"|Stateful(Uniform|StandardNormal|TruncatedNormal|RandomBinomial)\w*|RngSkip|RngReadAndSkip)$"
)
_RANDOM = re.compile(
    r"^(RandomUniform(Int)?|RandomStandardNormal|TruncatedNormal|ParameterizedTruncatedNormal|RandomGamma"
    r"|RandomPoisson(V2)?|Multinomial|RandomShuffle|RandomCrop|SampleDistortedBoundingBox\w*|CudnnRNN(V\d)?)$"
)
_KERNEL_RANDOM = re.compile(_RANDOM.pattern + r"|^(Stateless(Random|Truncated|Multinomial|Shuffle|Parameterized)\w*)$")
_OUTSIDE = re.compile(
    r"^((Eager)?PyFunc\w*|Iterator\w*GetNext\w*|WriteFile|Save(V2)?|\w*Summary(V2)?|LookupTable(Insert|Import|Remove)\w*"
    r"|(Queue|Stack)(En|De|Push|Pop)\w*|MutableHashTable\w*|Barrier\w*)$"
)


@dataclasses.dataclass
class _Effects:
    """Writes by key (argument position inside a function, id of the handle outside), and what cannot be undone."""

    writes: dict[Any, tuple[float, float]] = dataclasses.field(default_factory=dict)  # fewest and most a call
    random: set[str] = dataclasses.field(default_factory=set)
    outside: set[str] = dataclasses.field(default_factory=set)
    drawn: set[str] = dataclasses.field(default_factory=set)

    def add(self, key: Any, low: float, high: float) -> None:
        old = self.writes.get(key, (0, 0))
        self.writes[key] = (old[0] + low, old[1] + high)


def _graph_effects(
    nodes: Iterable[Any], arguments: Mapping[str, Any], library: Mapping[str, Any], memo: dict
) -> _Effects:
    """Adds up the effects of `nodes`; `arguments` maps the names of resource inputs to keys."""
    effects, where = _Effects(), dict(arguments)
    nodes = list(nodes)
    sources = {node.name: node for node in nodes}

    def key_of(name: str) -> Any:
        while True:
            name = name.split(":")[0]
            if name in where:
                return where[name]
            node = sources.get(name)
            if (
                node is None
                or node.op not in ("Identity", "Enter", "Switch", "RefIdentity", "StopGradient")
                or not node.input
            ):
                return None
            name = node.input[0]

    def inside(name: str) -> _Effects:
        if name not in memo:
            memo[name] = _Effects()  # a recursive function ends here
            function = library[name]
            names = {argument.name: i for i, argument in enumerate(function.signature.input_arg)}
            memo[name] = _graph_effects(function.node_def, names, library, memo)
        return memo[name]

    def merge(branches: list[_Effects], inputs: list[str], loop: bool = False) -> None:
        for branch in branches:
            effects.random |= branch.random
            effects.outside |= branch.outside
            effects.drawn |= branch.drawn
        for position in {key for branch in branches for key in branch.writes}:
            ranges = [branch.writes.get(position, (0, 0)) for branch in branches]
            key = key_of(inputs[position]) if position < len(inputs) else None
            if key is not None:
                low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
                effects.add(key, 0 if loop else low, math.inf if loop else high)

    for node in nodes:
        inputs = [name for name in node.input if not name.startswith("^")]
        called = [a.func.name for a in node.attr.values() if a.HasField("func") and a.func.name in library]
        called += [f.name for a in node.attr.values() for f in a.list.func if f.name in library]
        if node.op in library:
            called = [node.op]
        if _RANDOM.match(node.op):
            effects.random.add(node.op)
        if _KERNEL_RANDOM.match(node.op):
            effects.drawn.add(node.op)
        if _OUTSIDE.match(node.op):
            effects.outside.add(node.op)
        if _WRITES.match(node.op):
            if "Random" in node.op or "Stateful" in node.op or node.op.startswith("Rng"):
                effects.drawn.add(node.op)
            for name in inputs:
                key = key_of(name)
                if key is not None:
                    effects.add(key, 1, 1)
        elif node.op in ("While", "StatelessWhile"):
            for name in called:
                merge([inside(name)], inputs, loop=True)
        elif node.op in ("If", "StatelessIf", "Case", "StatelessCase"):
            merge([inside(name) for name in called], inputs[1:])
        elif called:
            for name in called:
                merge([inside(name)], inputs)
    return effects


def _effects(concrete: Any) -> _Effects:
    """What running `concrete` would write and draw; the keys are `id(handle)` of the captured variables."""
    definition = concrete.graph.as_graph_def()
    library = {function.signature.name: function for function in definition.library.function}
    arguments = {
        inner.op.name: id(outer)
        for outer, inner in zip(concrete.graph.external_captures, concrete.graph.internal_captures, strict=False)
        if outer.dtype == tf.resource
    }
    return _graph_effects(definition.node, arguments, library, {})


# ---------------------------------------------------------------------------------------------------------------
# The layers of a model, and what each is told while the model is traced.


@dataclasses.dataclass
class _Node:
    path: str
    layer: Any
    parents: tuple[Any, ...]


def _children(layer: Any) -> list[Any]:
    try:
        return list(layer._flatten_layers(include_self=False, recursive=False))
    except Exception:
        return []


def _walk(model: Any) -> dict[int, _Node]:
    """Every layer once, the model itself first, by `id`."""
    nodes = {id(model): _Node(model.name, model, ())}

    def visit(layer: Any, prefix: str, parents: tuple[Any, ...]) -> None:
        for child_layer in _children(layer):
            if id(child_layer) not in nodes:
                path = f"{prefix}{child_layer.name}"
                nodes[id(child_layer)] = _Node(path, child_layer, parents)
                visit(child_layer, path + "/", (*parents, child_layer))

    visit(model, "", (model,))
    return nodes


def _library(layer: Any) -> Any:
    """The Keras package that `layer` belongs to: `keras` or `tf_keras`; None when it is no Keras layer."""
    for name in ("keras", "tf_keras"):
        package = sys.modules.get(name)
        if package is not None and isinstance(layer, package.layers.Layer):
            return package
    if any(base.__module__.startswith("tf_keras.") for base in type(layer).__mro__):
        return importlib.import_module("tf_keras")
    return None


def _parameter(layer: Any) -> inspect.Parameter | None:
    """The parameter `training` of `layer.call` as Keras sees it, or None when there is none."""
    try:
        return inspect.signature(layer.call).parameters.get("training")
    except (TypeError, ValueError):
        return None


def _is_graph(layer: Any) -> bool:
    """Functional and Sequential models: they hand the phase down themselves."""
    return hasattr(layer, "_nodes_by_depth") or hasattr(layer, "_functional") or type(layer).__name__ == "Sequential"


def _is_batchnorm(layer: Any) -> bool:
    return getattr(layer, "moving_mean", None) is not None and getattr(layer, "moving_variance", None) is not None


def _is_stock(layer: Any) -> bool:
    return type(layer).__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow", "keras_hub", "keras_cv")


def _heeds_phase(layer: Any) -> bool:
    """Whether this leaf does something else when told another phase, judged by its own settings."""
    if _is_batchnorm(layer):
        return bool(layer.trainable)
    if _parameter(layer) is None:
        return False
    for attribute in ("rate", "stddev", "dropout", "recurrent_dropout", "_dropout"):
        value = getattr(layer, attribute, None)
        if isinstance(value, (int, float)) and value > 0:
            return True
    if _children(layer):
        return False
    if _is_stock(layer):
        name = type(layer).__name__
        return name.startswith("Random") or name in ("AutoContrast", "CutMix", "MixUp", "RandAugment", "AugMix")
    return True


@dataclasses.dataclass
class _Call:
    """One invocation of a layer during a trace."""

    layer: Any
    parent: int | None
    training: Any
    explicit: Any  # the `training=` its caller wrote, or None
    inputs: list[Any]
    outputs: list[Any] = dataclasses.field(default_factory=list)


class _Recorder:
    """Notes, while a graph is traced, which layer was called how. Everything patched is put back on exit."""

    def __init__(self, layers: Iterable[Any], packages: Iterable[Any]) -> None:
        self.calls: list[_Call] = []
        self._stack: list[int] = []
        self._pending: list[tuple[Any, Any]] = []
        self._hooked: dict[int, Any] = {}
        self._layers = list(layers)
        self._classes = [package.layers.Layer for package in packages]
        self._originals: list[Any] = []

    def __enter__(self) -> _Recorder:
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
        original, parameter = layer.call, _parameter(layer)
        try:
            position = list(inspect.signature(original).parameters).index("training") if parameter else -1
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
            tensors = [leaf for leaf in tf.nest.flatten((args, kwargs)) if tf.is_tensor(leaf)]
            record = _Call(layer, parent, training, explicit, tensors)
            self.calls.append(record)
            self._stack.append(len(self.calls) - 1)
            try:
                outputs = original(*args, **kwargs)
            finally:
                self._stack.pop()
            record.outputs = [leaf for leaf in tf.nest.flatten(outputs) if tf.is_tensor(leaf)]
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


# ---------------------------------------------------------------------------------------------------------------
# Data.


def _inputs(model: Any) -> list[Any]:
    """The model's symbolic inputs; none for a subclass or an unbuilt model."""
    try:
        return list(getattr(model, "inputs", None) or ())
    except (AttributeError, ValueError):
        return []


def _is_array(value: Any) -> bool:
    return tf.is_tensor(value) or isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__")


def _tensor(leaf: Any) -> Any:
    return leaf if leaf is None or tf.is_tensor(leaf) else tf.convert_to_tensor(leaf)


def _batches(model: Any, x: Any, y: Any, most: int) -> tuple[list[tuple[Any, Any]], str | None]:
    """At most `most` batches as (x, y) of tensors, and a remark when something was used up that cannot be put back."""
    remark = None
    width = len(_inputs(model))
    several = isinstance(x, (list, tuple)) and bool(x) and not isinstance(x[0], (int, float))
    if _is_array(x) or isinstance(x, Mapping):
        pairs = [(x, y)]
    elif several and all(isinstance(item, tuple) and len(item) in (2, 3) for item in x) and y is None:
        pairs = [(item[0], item[1]) for item in x[:most]]
    elif isinstance(x, list) and several and len(x) != width and width > 0 and all(_is_array(item) for item in x):
        targets = y if isinstance(y, (list, tuple)) and len(y) == len(x) else [None] * len(x)
        pairs = list(zip(x, targets, strict=False))[:most]
    elif isinstance(x, (list, tuple)):
        # Plain nested numbers are one array; anything else is a structure of inputs.
        numbers = not any(leaf is None or _is_array(leaf) or isinstance(leaf, str) for leaf in tf.nest.flatten(x))
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
                pairs.append((item[0] if isinstance(item, (tuple, list)) and len(item) == 1 else item, y))
            if len(pairs) == most:
                break
        if not pairs:
            raise CannotExamine("`x` yields no batch: hand the doctor at least one batch of data.")
    read = [(tf.nest.map_structure(_tensor, a), tf.nest.map_structure(_tensor, b)) for a, b in pairs]
    sizes = {int(leaf.shape[0]) for leaf in tf.nest.flatten(read[0][0]) if leaf is not None and leaf.shape.rank}
    if 0 in sizes:
        raise CannotExamine("The first batch of `x` is empty: hand the doctor a batch with samples in it.")
    return read, remark


def _model_input(x: Any) -> Any:
    """Float64 leaves in Keras's own float type, as `fit` and `predict` would hand them on."""
    floatx = tf.as_dtype(keras.backend.floatx())
    return tf.nest.map_structure(lambda t: tf.cast(t, floatx) if t is not None and t.dtype == tf.float64 else t, x)


def _rows(x: Any, index: np.ndarray) -> Any:
    return tf.nest.map_structure(lambda t: None if t is None else tf.gather(t, index), x)


def _size(x: Any) -> int | None:
    """Number of samples, or None when the leaves disagree."""
    sizes = {t.shape[0] for t in tf.nest.flatten(x) if t is not None and t.shape.rank}
    return int(sizes.pop()) if len(sizes) == 1 else None


class _Clock:
    """Counts tracing apart from running, and says what is going on once two seconds have passed."""

    def __init__(self, show: bool) -> None:
        self.start, self.tracing, self.show, self.shown = time.perf_counter(), 0.0, show, False

    def stage(self, text: str) -> None:
        spent = time.perf_counter() - self.start
        if self.show and (spent > 2 or self.shown):
            self.shown = True
            print(f"phase doctor, {spent:.0f} s: {text}", file=sys.stderr, flush=True)

    def timing(self) -> dict[str, float]:
        total = time.perf_counter() - self.start
        return {"tracing": self.tracing, "running": total - self.tracing, "total": total}


# ---------------------------------------------------------------------------------------------------------------
# Statistics: how far is far.

# Student's t with 3 degrees of freedom exceeds 48 with probability 1e-5.
ROUNDING_SIGMAS = 48.0
# Fisher's F with (5, 5) degrees of freedom exceeds 29.75 with probability 0.001; this is its root.
F_LIMIT = math.sqrt(29.75)
# Half a standard deviation: "medium" in J. Cohen, Statistical Power Analysis for the Behavioral Sciences (1988).
MEDIUM_EFFECT = 0.5


def _rms(values: Sequence[np.ndarray]) -> float:
    flat = np.concatenate([np.ravel(v) for v in values]) if values else np.zeros(0)
    return float(np.sqrt(np.mean(np.square(flat)))) if flat.size else 0.0


def _differences(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [a - b for a, b in zip(first, second, strict=False) if a.shape == b.shape and a.size]


@dataclasses.dataclass
class _Route:
    """One way of calling the model, traced: its graph, its effects, and which layer was called how."""

    concrete: Any
    calls: list[_Call]
    recorder: _Recorder
    effects: _Effects
    variables: dict[int, Any]
    fetched: list[tuple[int, list[int], list[int]]]  # call index, positions of its inputs and outputs
    count: int  # outputs proper


@dataclasses.dataclass
class _Statistic:
    """The moving statistics of one layer: keys of the variables, and the momentum when it says so."""

    node: _Node
    mean: int
    variance: int | None
    momentum: float | None


def _has_call(model: Any) -> bool:
    """Whether the model's class defines what calling it does."""
    call = getattr(type(model), "call", None)
    owner = next((c for c in type(model).__mro__ if "call" in c.__dict__), None)
    if call is None or owner is None:
        return False
    stock = owner.__module__.startswith(("keras.", "tf_keras."))
    return not (stock and owner.__name__ in ("Model", "Layer", "Operation"))


def _numbers(tensors: Iterable[Any]) -> list[np.ndarray]:
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


def _apart(inputs: list[np.ndarray], layer: Any) -> tuple[float, float]:
    """Largest Welch t between the channel means of two calls, and the limit that noise passes once in 10,000 times.

    One sample is one observation (its mean over space), so neighbouring pixels do not count twice. The limit is the
    normal quantile for an error rate of 1e-4 over all channels and pairs (Bonferroni); with fewer than 30 samples
    it is widened by Student's t, approximated after Cornish and Fisher.
    """
    axis = getattr(layer, "axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) else axis
    rows = []
    for value in inputs:
        moved = np.moveaxis(np.asarray(value, dtype=np.float64), axis, -1)
        rows.append(moved.reshape(moved.shape[0], -1, moved.shape[-1]).mean(axis=1))
    if len(rows) < 2 or any(r.shape[1] != rows[0].shape[1] or r.shape[0] < 3 for r in rows):
        return 0.0, math.inf
    largest, pairs = 0.0, 0
    for i, first in enumerate(rows):
        for second in rows[i + 1 :]:
            pairs += 1
            error = np.sqrt(first.var(axis=0, ddof=1) / len(first) + second.var(axis=0, ddof=1) / len(second))
            gap = np.abs(first.mean(axis=0) - second.mean(axis=0))
            scale = np.maximum(np.abs(first).max(), np.abs(second).max())
            t = gap / np.maximum(error, 1e-6 * scale + 1e-30)
            largest = max(largest, float(t.max()))
    return largest, _t_limit(1e-4 / (pairs * rows[0].shape[1]), min(len(r) for r in rows) - 1)


def _t_limit(error_rate: float, freedom: int) -> float:
    """Two-sided Student quantile, exact for the normal part (bisection on erfc), Cornish-Fisher for the rest."""
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2)) > error_rate else (low, middle)
    z, n = low, max(freedom, 1)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def _true(training: Any) -> bool:
    return bool(training) if isinstance(training, (bool, int, np.bool_)) else training is not None


def _is_wrapper(layer: Any) -> bool:
    return type(layer).__name__ in ("TimeDistributed", "Bidirectional", "RNN", "Wrapper")


def _bare_variables(layer: Any) -> set[int]:
    """Handles of the `tf.Variable` objects in a layer's attributes, and in lists and dicts there."""
    found: list[Any] = []
    for value in vars(layer).values():
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
        found += [part for part in parts if isinstance(part, tf.Variable)]
    return {id(_handle(variable)) for variable in found}


def _stateless(layer: Any) -> bool:
    try:
        return not layer.variables
    except Exception:
        return False


def _inner_functions(function: Any) -> list[Any]:
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
                if callable(cell.cell_contents) and not isinstance(cell.cell_contents, type):
                    queue.append(cell.cell_contents)
            except ValueError:
                continue
    return found


def _traces(function: Any) -> list[Any]:
    """Concrete functions that a `tf.function` already holds."""
    try:
        return list(function._list_all_concrete_functions())
    except Exception:
        return []


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.tobytes() == second.tobytes()


def _has_true_default(layer: Any) -> bool:
    parameter = _parameter(layer)
    return parameter is not None and parameter.default is True


def _agree(first: list[Any], second: list[Any], rows: np.ndarray | None) -> bool:
    """Whether two lists of tensors are equal up to 1e-4 of their size; only used to name a layer, not to find fault."""
    for a, b in zip(_numbers(first), _numbers(second), strict=False):
        if rows is not None and a.ndim and a.shape[:1] != b.shape[:1] and rows[-1] < len(a):
            a = a[rows]
        if a.shape != b.shape:
            continue
        if _rms([a - b]) > 1e-4 * max(_rms([a]), 1e-12):
            return False
    return True


def _spread(outputs: Sequence[np.ndarray]) -> float:
    """Root mean square deviation of the samples from their mean."""
    return _rms([o - o.mean(axis=0, keepdims=True) for o in outputs if o.size])


def _common(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    """Whether two random runs over one batch tell its samples apart alike: one-sided t test over samples, 0.001.

    The products of a sample's deviations in the two runs average zero when only the draws differ.
    """
    for a, b in zip(first, second, strict=False):
        if a.shape != b.shape or not a.ndim or len(a) < 4:
            continue
        one, two = (v.reshape(len(v), -1) for v in (a - a.mean(axis=0), b - b.mean(axis=0)))
        products = (one * two).sum(axis=1)
        error = float(np.std(products, ddof=1)) / math.sqrt(len(products))
        if np.mean(products) > _t_limit(0.002, len(products) - 1) * max(error, 1e-30):
            return True
    return False


def _remaining(now: np.ndarray, data: np.ndarray, start: np.ndarray, unit: np.ndarray) -> float:
    """Share of the initial value that is left in moving statistics: the median of (now - data) / (start - data).

    Only channels whose data lie at least half a standard deviation from the start say anything; NaN without any.
    """
    apart = np.abs(start - data) > 0.5 * unit
    if not apart.any():
        return math.nan
    return float(np.median((now[apart] - data[apart]) / (start[apart] - data[apart])))


def _source(tensor: Any) -> Any:
    """The tensor behind casts and identities."""
    while getattr(tensor, "op", None) is not None and tensor.op.type in ("Identity", "Cast", "StopGradient"):
        tensor = tensor.op.inputs[0]
    return tensor


def _made_by(tensor: Any) -> str:
    """In words: the operation behind a tensor, or a random draw a few operations back."""
    first = getattr(tensor, "op", None)
    level = [first]
    for _ in range(6):
        if any(op is not None and _KERNEL_RANDOM.match(op.type) for op in level):
            return "a random draw"
        level = [source.op for op in level if op is not None for source in op.inputs]
    return f"result of {getattr(first, 'type', 'the step')}"


def _same_within(calls: Sequence[_Call], ancestors: Callable[[int], list[int]], numbers: Sequence[int]) -> bool:
    """Whether one call hands two of these calls, or the same layer around each of them, one and the same tensor."""
    chains = [[*reversed(ancestors(n)), n] for n in numbers]
    for i, first in enumerate(chains):
        for second in chains[i + 1 :]:
            fork = next((k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
            if fork is None:
                continue
            one, two = calls[first[fork]], calls[second[fork]]
            a, b = [_source(t) for t in one.inputs], [_source(t) for t in two.inputs]
            if one.layer is two.layer and a and len(a) == len(b) and all(s is t for s, t in zip(a, b, strict=False)):
                return True
    return False


def _size_of(change: float, noise: float, spread: float) -> float:
    """Effect size: the change without its share of noise, in standard deviations over the samples."""
    return math.sqrt(max(change**2 - noise**2, 0.0)) / max(spread, 1e-30)


class _Exam:
    """One examination: traces, runs, measures, and gathers findings."""

    def __init__(
        self, model: Any, batches: list[tuple[Any, Any]], step: Any, loss: Any, insist: bool, clock: _Clock
    ) -> None:
        self.model, self.batches, self.loss, self.insist, self.clock = model, batches, loss, insist, clock
        self.step = step
        self.package = _library(model)
        self.keras3 = self.package.__name__ == "keras" and not hasattr(self.package, "__internal__")
        self.packages = [sys.modules[name] for name in ("keras", "tf_keras") if name in sys.modules]
        self.findings: list[Finding] = []
        self.state = _State()
        self.x = _model_input(batches[0][0])
        self.y = batches[0][1]
        self.size = _size(self.x)
        self.nodes = _walk(model)
        self.owner: dict[int, _Node] = {}
        self.unread: set[str] = set()

    # -- bookkeeping -----------------------------------------------------------------------------------------

    def report(self, code: str, where: str | None, message: str, severity: str | None = None, **evidence: Any) -> None:
        _, usual, cure, recipe = RULES[code]
        if any(f.code == code and f.where == where and f.message == message for f in self.findings):
            return
        self.findings.append(Finding(code, severity or usual, where, message, evidence, cure, recipe))

    def found(self, code: str, where: str | None = "any") -> bool:
        return any(
            f.code == code and f.severity != "note" and (where == "any" or f.where == where) for f in self.findings
        )

    def path(self, layer: Any) -> str:
        node = self.nodes.get(id(layer))
        return node.path if node else layer.name

    def index_variables(self) -> None:
        """Maps every variable the model tracks to the innermost layer that owns it."""
        self.nodes = _walk(self.model)
        self.owner = {}
        for node in self.nodes.values():
            for variable in self.variables_of(node.layer):
                handle = _handle(variable)
                if handle is not None:
                    self.owner[id(handle)] = node  # children come later in the walk and win

    @staticmethod
    def variables_of(layer: Any) -> list[Any]:
        try:
            return list(layer.variables)
        except Exception:  # an unbuilt model
            return []

    def everything(self) -> list[Any]:
        """Variables that belong to the model, its optimizer, its metrics and the global seed generator."""
        found = self.variables_of(self.model)
        optimizer = getattr(self.model, "optimizer", None)
        slots = getattr(optimizer, "variables", None)
        with_slots = slots() if callable(slots) else slots
        found += list(with_slots or [])
        try:
            for metric in self.model.metrics:
                found += list(metric.variables)
        except Exception:
            pass
        return found

    # -- tracing and running -----------------------------------------------------------------------------------

    def trace(self, call: Callable[[Any], Any], x: Any, fetch: bool = False, warm: bool = True) -> _Route:
        """Traces `call(x)` with a free batch size where the model allows one."""
        began = time.perf_counter()
        leaves = tf.nest.flatten(x)
        present = [i for i, leaf in enumerate(leaves) if leaf is not None]

        def build(free: bool) -> _Route:
            recorder = _Recorder([n.layer for n in self.nodes.values()], self.packages)
            fetched: list[tuple[int, list[int], list[int]]] = []
            count = 0

            def function(*given: Any) -> list[Any]:
                nonlocal count
                recorder.calls.clear()
                fetched.clear()
                filled = list(leaves)
                for i, value in zip(present, given, strict=False):
                    filled[i] = value
                result = call(tf.nest.pack_sequence_as(x, filled))
                outputs = [leaf for leaf in tf.nest.flatten(result) if tf.is_tensor(leaf)]
                count = len(outputs)
                if fetch:
                    graph = tf.compat.v1.get_default_graph()
                    for number, record in enumerate(recorder.calls):
                        spots: list[list[int]] = []
                        for tensors in (record.inputs, record.outputs):
                            usable = [t for t in tensors if getattr(t, "graph", None) is graph and t.dtype.is_floating]
                            spots.append(list(range(len(outputs), len(outputs) + len(usable))))
                            outputs.extend(usable)
                        fetched.append((number, spots[0], spots[1]))
                return outputs

            specs = []
            for i in present:
                spec = tf.type_spec_from_value(leaves[i])
                if free and isinstance(spec, tf.TensorSpec) and spec.shape.rank:
                    spec = tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
                specs.append(spec)
            with recorder:
                concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
            variables = {id(v.handle): v for v in concrete.graph.variables if hasattr(v, "handle")}
            return _Route(concrete, list(recorder.calls), recorder, _effects(concrete), variables, fetched, count)

        try:
            try:
                route = build(free=True)
            except Exception:
                return build(free=False)
            if warm and not fetch and self.size is not None and self.size > 4:
                # TensorFlow optimises a graph on its first run; two samples are enough for that.
                with contextlib.suppress(Exception):
                    self.run(route, _rows(x, np.arange(2)))
            return route
        finally:
            self.clock.tracing += time.perf_counter() - began

    def run(self, route: _Route, x: Any, look: Callable[[], Any] | None = None) -> tuple[list[Any], Any]:
        """Runs a route, calls `look` while its changes stand, and undoes them; only seeds go on until the end."""
        for handle in route.concrete.graph.external_captures:
            if handle.dtype == tf.resource and not self.state.add(handle):
                self.unread.add(str(handle.dtype))
        given = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
        try:
            outputs = [o for o in route.concrete(*given)]
            seen = look() if look else None
        finally:
            self.state.restore(k for k in route.effects.writes if k in self.state.saved and not self.is_seed(k))
        return outputs, seen

    def outputs(self, route: _Route, x: Any) -> list[np.ndarray]:
        """The route's outputs proper as float64 arrays."""
        result, _ = self.run(route, x)
        return _numbers(result[: route.count])

    def is_seed(self, key: int) -> bool:
        return not self.state.saved[key][1].dtype.is_floating

    def phase(self, training: bool | None) -> Callable[[Any], Any]:
        """`model(x, training=...)` for a model that takes it, `model(x)` for one that does not."""
        model = self.model
        if training is None:
            return lambda x: model(x)

        def call(x: Any) -> Any:
            try:
                return model(x, training=training)
            except TypeError as error:
                if "training" not in str(error) or _parameter(model) is not None:
                    raise
                return model(x)

        return call

    # -- the examination -----------------------------------------------------------------------------------------

    def examine(self) -> None:
        self.build()
        self.index_variables()
        self.state.add_all(self.everything())
        self.statistics: list[_Statistic] = []
        self.forward = True
        infer = self.attempt(
            "tracing inference", lambda: self.trace(self.phase(False), self.x), "model(x, training=False)"
        )
        self.index_variables()
        self.state.add_all(self.everything())
        self.trained = self.signs_of_training()
        fit = told = None
        if infer is not None:
            fit, told = self.training_routes()
        self.find_statistics(told)
        self.look_at_flags()
        self.answered = infer is not None
        self.look_at_step(told)
        if self.step is None and self.step_ran and infer is None:
            for call in ("model(x, training=False)", "model(x, training=True)", "model(x)"):
                self.soften(call, "The model's own train_step takes this batch, so that is what was examined.")
        self.look_at_values()
        if infer is None or not self.forward:
            return
        self.look_at_structure(infer, fit, told)
        self.look_at_inference(infer)
        if told is not None:
            self.look_at_phases(infer, told)

    def attempt(self, stage: str, action: Callable[[], Any], what: str) -> Any:
        """Runs one part of the examination; an exception becomes a finding."""
        self.clock.stage(stage)
        try:
            return action()
        except NotImplementedError as error:
            if isinstance(error, NotImplementedError) and what.startswith("model(x") and not _has_call(self.model):
                self.forward = False
                self.report("PD002", None, "The model has no `call`; only its layers and the step were examined.")
                return None
            self.failed(what, error)
        except Exception as error:
            self.failed(what, error)
        return None

    def failed(self, what: str, error: Exception) -> None:
        # TensorFlow puts a stack trace before what went wrong.
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras writes in bold
        dull = re.compile(r"^\s*(Graph execution error|Detected at node|File \"|Exception encountered when calling|$)")
        lines = [line.strip() for line in plain.splitlines() if not dull.match(line)]
        # AutoGraph quotes the code first and names the error last.
        first = (lines or [""])[-1 if "in user code:" in plain else 0]
        self.report("PD001", None, f"{what} raised {type(error).__name__}: {first}", exception=type(error).__name__)

    def build(self) -> None:
        """Creates the variables of an unbuilt model by tracing a call, which runs nothing."""
        if getattr(self.model, "built", True) and (self.variables_of(self.model) or not _has_call(self.model)):
            return
        if not _has_call(self.model):
            return
        before = len(self.variables_of(self.model))

        self.clock.stage("building the model")
        began = time.perf_counter()
        try:
            tf.function(lambda: self.phase(False)(self.x), autograph=False).get_concrete_function()
        except Exception:
            # Python control flow and the like: run it then, and put back what it moves.
            state = _State()
            state.add_all(self.everything())
            try:
                self.phase(False)(self.x)
            except Exception as error:
                if self.own_step() is not None:
                    why = f"{type(error).__name__}; its own train_step may"
                    self.report("PD002", None, f"The model's `call` does not take this batch ({why}): not built.")
                    return
                raise CannotExamine(
                    f"The model is not built and calling it on the batch raised {type(error).__name__}: {error}. "
                    "Hand the doctor a batch that the model accepts, or build the model first."
                ) from error
            finally:
                state.restore()
        finally:
            self.clock.tracing += time.perf_counter() - began
        made = len(self.variables_of(self.model)) - before
        if made:
            self.report("PD002", None, f"The model was not built; it was built on the batch ({made} variables).")

    def training_routes(self) -> tuple[_Route | None, _Route | None]:
        """The graph `fit` would run forward, and the one that `model(x, training=True)` runs."""
        told = self.attempt("tracing training", lambda: self.trace(self.phase(True), self.x), "model(x, training=True)")
        fit = told
        if self.keras3 and _parameter(self.model) is None:
            fit = self.attempt("tracing fit", lambda: self.trace(self.phase(None), self.x), "model(x)")
        return fit, told

    def find_statistics(self, told: _Route | None) -> None:
        """BatchNormalization by its attributes; other layers by the float state they write in the training phase."""
        for node in self.nodes.values():
            layer = node.layer
            if _is_batchnorm(layer):
                mean, variance = _handle(layer.moving_mean), _handle(layer.moving_variance)
                if mean is not None and variance is not None:
                    momentum = getattr(layer, "momentum", None)
                    momentum = float(momentum) if isinstance(momentum, (int, float)) else None
                    self.state.add(mean)
                    self.state.add(variance)
                    self.statistics.append(_Statistic(node, id(mean), id(variance), momentum))
        if told is None:
            return
        known = {key for s in self.statistics for key in (s.mean, s.variance)}
        grouped: dict[str, list[int]] = {}
        for key in told.effects.writes:
            owner = self.owner.get(key)
            if key not in known and owner is not None and self.is_statistic(key, owner):
                grouped.setdefault(owner.path, []).append(key)
        for keys in grouped.values():
            names = {key: str(getattr(told.variables.get(key), "name", "")).lower() for key in keys}
            spread = [key for key in keys if re.search(r"var|std|sigma|scale", names[key])]
            level = [key for key in keys if key not in spread]
            node = self.owner[keys[0]]
            momentum = getattr(node.layer, "momentum", None)
            momentum = float(momentum) if isinstance(momentum, (int, float)) else None
            if len(level) == 1 and len(spread) == 1:
                self.statistics.append(_Statistic(node, level[0], spread[0], momentum))
            else:
                self.statistics += [_Statistic(node, key, None, momentum) for key in level]

    def is_statistic(self, key: int, node: _Node) -> bool:
        """Float state that only training writes: not a trainable weight, a metric, a loss or the state of an RNN."""
        self_state = self.state.saved.get(key)
        if self_state is None or not self_state[1].dtype.is_floating:
            return False
        layer = node.layer
        if getattr(layer, "stateful", False):
            return False
        trainable = {id(_handle(v)) for v in getattr(layer, "_trainable_variables", ()) or ()}
        trainable |= {id(_handle(v)) for v in self.model.trainable_variables}
        metrics = {id(_handle(v)) for m in getattr(layer, "metrics", ()) or () for v in m.variables}
        return key not in trainable and key not in metrics

    # -- state -----------------------------------------------------------------------------------------------------

    def value(self, variable: Any) -> np.ndarray:
        return np.asarray(_tf_variables(variable)[0].numpy(), dtype=np.float64)

    def signs_of_training(self) -> dict[str, Any]:
        """What shows that the weights have been trained: moved gamma or beta by layer, and optimizer steps."""
        moved = set()
        for node in self.nodes.values():
            layer = node.layer
            if not _is_batchnorm(layer):
                continue
            for name in ("gamma", "beta"):
                weight = getattr(layer, name, None)
                initializer = getattr(layer, f"{name}_initializer", None)
                if weight is None or initializer is None:
                    continue
                initial = np.asarray(initializer(tuple(weight.shape)), dtype=np.float64)
                if not np.array_equal(self.value(weight), initial.astype(self.value(weight).dtype)):
                    moved.add(id(layer))
        iterations = getattr(getattr(self.model, "optimizer", None), "iterations", None)
        steps = 0
        if iterations is not None and _tf_variables(iterations):
            steps = int(self.value(iterations))
        return {"moved": moved, "steps": steps, "any": bool(moved) or steps > 0}

    def initial(self, statistic: _Statistic) -> tuple[np.ndarray, np.ndarray | None]:
        """The moving statistics as they were when the layer was created."""
        layer, shape = statistic.node.layer, self.state.saved[statistic.mean][1].shape
        mean = getattr(layer, "moving_mean_initializer", None)
        variance = getattr(layer, "moving_variance_initializer", None)
        first = np.asarray(mean(tuple(shape)), dtype=np.float64) if mean else np.zeros(tuple(shape))
        if statistic.variance is None:
            return first, None
        return first, np.asarray(variance(tuple(shape)), dtype=np.float64) if variance else np.ones(tuple(shape))

    def untouched(self, statistic: _Statistic) -> bool:
        mean, variance = self.initial(statistic)
        now = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
        if not np.array_equal(now, mean):
            return False
        if statistic.variance is None or variance is None:
            return True
        return np.array_equal(self.state.saved[statistic.variance][1].numpy().astype(np.float64), variance)

    def look_at_values(self) -> None:
        """PD203 and PD201."""
        statistical = {key for s in self.statistics for key in (s.mean, s.variance)}
        for key, node in self.owner.items():
            saved = self.state.saved.get(key)
            if saved is None or not saved[1].dtype.is_floating or key in statistical:
                continue
            wrong = int(np.sum(~np.isfinite(tf.cast(saved[1], tf.float32).numpy())))
            if wrong:
                self.report(
                    "PD203",
                    node.path,
                    f"A weight of {node.path!r} holds {wrong} values that are not finite.",
                    values=wrong,
                )
        for statistic in self.statistics:
            path = statistic.node.path
            mean = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
            variance = None
            if statistic.variance is not None:
                variance = self.state.saved[statistic.variance][1].numpy().astype(np.float64)
            wrong = int(np.sum(~np.isfinite(mean))) + (0 if variance is None else int(np.sum(~np.isfinite(variance))))
            below = 0 if variance is None else int(np.sum(variance < 0))
            nought = variance is not None and not np.any(variance)
            if wrong:
                self.report("PD203", path, f"{wrong} moving statistics of {path!r} are not finite.", values=wrong)
            elif below:
                self.report(
                    "PD203",
                    path,
                    f"{below} moving variances of {path!r} are negative.",
                    channels=below,
                    smallest=float(np.min(variance)) if variance is not None else 0.0,
                )
            elif nought:
                # A layer written by hand may start at 0; until it is trained, that is its author's choice.
                began = _is_batchnorm(statistic.node.layer) or self.trained["any"]
                text = f"Every moving variance of {path!r} is 0: inference divides by the square root of epsilon alone."
                self.report("PD203", path, text, None if began else "note", channels=int(mean.size))
            elif self.untouched(statistic) and self.weights_trained(statistic):
                self.report(
                    "PD201",
                    path,
                    f"The moving statistics of {path!r} are still the initial ones, but its weights were trained.",
                    optimizer_steps=self.trained["steps"],
                    channels=int(mean.size),
                )

    def weights_trained(self, statistic: _Statistic) -> bool:
        """Whether the layer itself was trained; the model's step counter speaks for layers without gamma and beta."""
        layer = statistic.node.layer
        if id(layer) in self.trained["moved"]:
            return True
        if not layer.trainable:
            return False
        bare = all(getattr(layer, name, None) is None for name in ("gamma", "beta"))
        return bare and bool(self.trained["any"])

    # -- structure ---------------------------------------------------------------------------------------------------

    def look_at_flags(self) -> None:
        """PD105: the flags that `compile` (or the optimizer) saw against the flags of now."""
        model = self.model
        if not getattr(model, "compiled", getattr(model, "_is_compiled", False)):
            return
        changed: dict[int, tuple[_Node, bool]] = {}
        recorded = getattr(model, "_compiled_trainable_state", None)
        if recorded:
            for node in self.nodes.values():
                before = recorded.get(node.layer)
                if before is not None and bool(before) != bool(node.layer.trainable) and not _stateless(node.layer):
                    changed[id(node.layer)] = (node, bool(before))
        known = getattr(getattr(model, "optimizer", None), "_trainable_variables", None)
        if known and getattr(model.optimizer, "built", True):
            held = {id(_handle(v)) for v in known}
            for node in self.nodes.values():
                own = [v for v in self.variables_of(node.layer) if self.owner.get(id(_handle(v))) is node]
                keys = {id(_handle(v)) for v in own}
                weights = {id(_handle(v)) for v in model.trainable_variables} & keys
                if keys & held and not node.layer.trainable:
                    changed.setdefault(id(node.layer), (node, True))
                elif weights and not weights & held:
                    changed.setdefault(id(node.layer), (node, False))
        # A container all of whose layers changed alike is what the reader froze.
        for node in reversed(list(self.nodes.values())):
            inner = [n for n in self.nodes.values() if node.layer in n.parents and not _children(n.layer)]
            inner = [n for n in inner if not _stateless(n.layer)]
            directions = {changed[id(n.layer)][1] if id(n.layer) in changed else None for n in inner}
            if inner and len(directions) == 1 and None not in directions and id(node.layer) not in changed:
                changed[id(node.layer)] = (node, bool(directions.pop()))
        stale = self.stale_writes()
        for node, before in changed.values():
            if any(id(parent) in changed for parent in node.parents):
                continue
            inside = {id(n.layer) for n in self.nodes.values() if node.layer is n.layer or node.layer in n.parents}
            moving = sum(1 for k in stale if k in self.owner and id(self.owner[k].layer) in inside)
            now = "frozen" if before else "trainable"
            where = node.path
            severity = None
            if not self.keras3 and node.layer is model and before:
                severity = "note"  # Keras 2 trains with the flags seen by `compile`, and GAN code counts on it.
            self.report(
                "PD105",
                where,
                f"{where!r} was made {now} after `compile`; the compiled training function may not know.",
                severity,
                trainable_at_compile=before,
                trainable_now=not before,
                variables_still_written=moving if before else 0,
            )
        # An own train_step may write to a frozen layer on purpose; its trace is stale where a flag was changed later.
        written_by_hand = self.own_step() is not None
        for key in stale:
            owner = self.owner.get(key)
            flagged = owner and any(id(layer) in changed for layer in (owner.layer, *owner.parents))
            if owner and not owner.layer.trainable and not self.is_seed_key(key) and (flagged or not written_by_hand):
                self.report(
                    "PD303",
                    owner.path,
                    f"{owner.path!r} is frozen, but the training function traced earlier still writes its variables.",
                    executed=False,
                )

    def is_seed_key(self, key: int) -> bool:
        return key in self.state.saved and self.is_seed(key)

    def stale_writes(self) -> dict[int, Any]:
        """Variables that the model's already traced training function would write."""
        writes: dict[int, Any] = {}
        for function in _inner_functions(getattr(self.model, "train_function", None)):
            for concrete in _traces(function):
                try:
                    writes.update(_effects(concrete).writes)
                except Exception:
                    continue
        return writes

    def look_at_structure(self, infer: _Route, fit: _Route | None, told: _Route | None) -> None:
        recorded = self.recorded_phases()
        if fit is not None:
            self.look_for_deaf(fit, recorded)
        if told is not None:
            self.look_for_overruled(infer, told, recorded)
            self.look_for_untracked(infer, told)
            self.look_for_sharing(told)

    def recorded_phases(self) -> dict[int, bool]:
        """`training=` written into the nodes of Functional graphs, by id of the layer called there."""
        found: dict[int, bool] = {}
        for node in self.nodes.values():
            graph = getattr(node.layer, "_functional", None) or node.layer
            for depth in (getattr(graph, "_nodes_by_depth", None) or {}).values():
                for call in depth:
                    kwargs = getattr(getattr(call, "arguments", None), "kwargs", None) or getattr(
                        call, "call_kwargs", None
                    )
                    training = (kwargs or {}).get("training")
                    layer = getattr(call, "operation", None) or getattr(call, "layer", None)
                    if not isinstance(training, (bool, int)) or layer is None:
                        continue
                    parameter = _parameter(layer)
                    # Keras also records the signature's own default; only what differs was written by the author.
                    if parameter is None or parameter.default is not bool(training):
                        found[id(layer)] = bool(training)
        return found

    def decided(self, route: _Route, number: int, recorded: Mapping[int, bool]) -> bool:
        """Whether the author wrote a phase at this call, or at one around it below the model."""
        for index in (number, *route.recorder.ancestors(number)):
            record = route.calls[index]
            if record.parent is None:
                return False
            if id(record.layer) in recorded:
                return True
            parent = route.calls[record.parent].layer
            if record.explicit is not None and not _is_graph(parent) and not _is_wrapper(parent):
                return True
        return False

    def look_for_deaf(self, fit: _Route, recorded: Mapping[int, bool]) -> None:
        """PD101: in the graph that `fit` runs, a layer that heeds the phase is not told that this is training."""
        blamed: dict[str, list[str]] = {}
        # A phase written in `call` is the author's decision, and makes sense for statistics that came from somewhere.
        compiled = getattr(self.model, "compiled", getattr(self.model, "_is_compiled", False))
        in_training = self.trained["any"] or compiled or self.step is not None
        fresh = {id(s.node.layer) for s in self.statistics if in_training and self.untouched(s)}
        for number, record in enumerate(fit.calls):
            if not _heeds_phase(record.layer) or _true(record.training):
                continue
            chain = [fit.calls[i].layer for i in fit.recorder.ancestors(number)]
            deaf = [layer for layer in chain if _parameter(layer) is None and not _is_stock(layer)]
            if self.decided(fit, number, recorded) and not (deaf and id(record.layer) in fresh):
                continue
            culprit = deaf[-1] if deaf else record.layer
            blamed.setdefault(self.path(culprit), []).append(self.path(record.layer))
        for where, layers in blamed.items():
            names = ", ".join(repr(name) for name in dict.fromkeys(layers))
            if where in layers:
                text = f"{where!r} is not told the phase during training: an earlier layer's explicit phase reaches it."
            else:
                text = f"`call` of {where!r} takes no `training`, so `fit` never puts {names} into training mode."
            helped = self.step is not None and self.step_told
            severity = "note" if helped else None
            if helped:
                text += (
                    " The step handed in says the phase itself, so only `fit`, `evaluate` and `predict` are affected."
                )
            self.report("PD101", where, text, severity, layers=list(dict.fromkeys(layers)))
            if where in layers and self.findings[-1].code == "PD101":
                self.findings[-1].cure = (
                    "Say the phase on this call too: `layer(x, training=training)`. In a Functional model freeze by "
                    "`trainable = False` and record no `training=` before it."
                )

    def look_for_overruled(self, infer: _Route, told: _Route, recorded: Mapping[int, bool]) -> None:
        """PD102: a recorded phase that does not hold when the model is told the other one."""
        by_id = {id(n.layer): n for n in self.nodes.values()}
        for key, training in recorded.items():
            if key not in by_id:
                continue
            route = infer if training else told
            affected = []
            for number, record in enumerate(route.calls):
                around = (number, *route.recorder.ancestors(number))
                if not any(id(route.calls[i].layer) == key for i in around) or not _heeds_phase(record.layer):
                    continue
                inner = next(recorded[id(route.calls[i].layer)] for i in around if id(route.calls[i].layer) in recorded)
                told_here = _true(record.training)
                if inner == training and told_here != training:
                    affected.append(record.layer)
            if not affected:
                continue
            node = by_id[key]
            names = list(dict.fromkeys(self.path(layer) for layer in affected))
            norms = [layer for layer in affected if _is_batchnorm(layer)]
            mode = "inference" if training else "training"
            self.report(
                "PD102",
                node.path,
                f"`training={training}` was recorded at {node.path!r}, but {self.package.__name__} "
                f"{self.package.__version__} runs it in {mode} mode when the model is.",
                # Dropout in a frozen backbone loses nothing but determinism.
                None if training or norms else "note",
                layers=names,
                batchnorms=len(norms),
            )

    def look_for_untracked(self, infer: _Route, told: _Route) -> None:
        """PD103: variables in the graph that no list of the model holds, and the layer that uses them."""
        tracked = {id(_handle(v)) for v in self.everything()}
        strangers = [
            v
            for handle in told.concrete.graph.external_captures
            if handle.dtype == tf.resource and id(handle) not in tracked
            for v in (told.variables.get(id(handle)),)
            if v is not None and v.dtype.is_floating
        ]
        if not strangers:
            return
        keys = {id(v.handle) for v in strangers}
        blamed: dict[int, Any] = {}
        for record in told.calls:
            own = {id(_handle(v)) for v in self.variables_of(record.layer)}
            if own & keys and id(record.layer) not in self.nodes:
                inner = [
                    r.layer for r in told.calls if r.parent is not None and told.calls[r.parent].layer is record.layer
                ]
                if not any({id(_handle(v)) for v in self.variables_of(layer)} & keys for layer in inner):
                    blamed[id(record.layer)] = record.layer
        read = {id(handle) for handle in infer.concrete.graph.external_captures}
        covered = {id(_handle(v)) for layer in blamed.values() for v in self.variables_of(layer)}
        lost: dict[str | None, list[Any]] = {}
        for variable in strangers:
            key = id(variable.handle)
            # What training writes and inference only reads is a statistic, also as a bare tf.Variable.
            statistic = key in told.effects.writes and key in read and key not in infer.effects.writes
            if statistic and key not in covered:
                holders = [n.path for n in self.nodes.values() if key in _bare_variables(n.layer)]
                lost.setdefault(holders[-1] if holders else None, []).append(variable)
        for where, variables in lost.items():
            names = ", ".join(repr(str(v.name).split(":")[0]) for v in variables)
            self.report(
                "PD103",
                where,
                f"Training writes and inference reads {names}, which is in no list of the model: it is not saved.",
                variables=len(variables),
                parameters=int(sum(math.prod(v.shape) for v in variables)),
            )
        for layer in blamed.values():
            mine = [v for v in self.variables_of(layer) if id(_handle(v)) in keys]
            heeds = (
                _heeds_phase(layer) or _is_batchnorm(layer) or any(id(_handle(v)) in told.effects.writes for v in mine)
            )
            self.report(
                "PD103",
                layer.name,
                f"{layer.name!r} runs inside the model, but its {len(mine)} variables are in no list of the model: "
                "they are not trained, not frozen and not saved.",
                None if heeds else "note",
                variables=len(mine),
                parameters=int(sum(math.prod(v.shape) for v in mine)),
            )

    def look_for_sharing(self, told: _Route) -> None:
        """PD104: one BatchNormalization called several times in one pass, on inputs that do not belong together."""
        calls: dict[int, list[int]] = {}
        for number, record in enumerate(told.calls):
            if _is_batchnorm(record.layer) and record.inputs:
                calls.setdefault(id(record.layer), []).append(number)
        shared = {key: numbers for key, numbers in calls.items() if len(numbers) > 1}
        if not shared:
            return
        producers: dict[int, Any] = {}
        for record in told.calls:
            for tensor in record.outputs:
                producers.setdefault(id(tensor), record.layer)
        route = self.attempt(
            "comparing the inputs of shared layers",
            lambda: self.trace(self.phase(True), self.x, fetch=True),
            "the model",
        )
        if route is None:
            return
        values, _ = self.run(route, self.x)
        spots = {number: places for number, places, _ in route.fetched}
        for numbers in shared.values():
            layer = told.calls[numbers[0]].layer
            if not layer.trainable:
                continue
            path = self.path(layer)
            before = [producers.get(id(told.calls[n].inputs[0])) for n in numbers]
            named = {id(p): p for p in before if p is not None and type(p).__name__ != "InputLayer" and p is not layer}
            looped = any(_is_wrapper(told.calls[i].layer) for i in told.recorder.ancestors(numbers[0]))
            inputs = [values[spots[n][0]].numpy() for n in numbers if spots.get(n)]
            distance, limit = _apart(inputs, layer)
            evidence: dict[str, Any] = {"calls": len(numbers), "largest_t": distance, "limit_t": limit}
            if len(named) > 1:
                places = ", ".join(repr(self.path(p)) for p in named.values())
                self.report(
                    "PD104",
                    path,
                    f"{path!r} normalises the outputs of {places}; its moving statistics are a mixture that fits none.",
                    **evidence,
                )
            elif distance > limit and not looped:
                self.report(
                    "PD104",
                    path,
                    f"{path!r} is called {len(numbers)} times in one pass on inputs whose means differ "
                    f"(t = {distance:.1f}, limit {limit:.1f}); inference normalises each with the mixture.",
                    **evidence,
                )

    # -- inference ---------------------------------------------------------------------------------------------------

    def look_at_inference(self, infer: _Route) -> None:
        """PD304, PD305, PD306, PD309 and PD106: inference by every route the reader may take."""
        self.clock.stage("running inference")
        routes = [("model(x, training=False)", infer, self.phase(False))]
        bare = self.attempt("tracing model(x)", lambda: self.trace(self.phase(None), self.x), "model(x)")
        predict = self.predict_call()
        if predict is None and _parameter(self.model) is None and self.keras3 and bare is not None:
            routes.append(("predict", bare, self.phase(None)))
        elif predict is not None:
            own = self.attempt("tracing predict_step", lambda: self.trace(predict, self.x), "predict_step")
            if own is not None:
                routes.append(("predict", own, predict))
        self.base = self.outputs(infer, self.x)
        stochastic = False
        for name, route, call in routes:
            stochastic |= self.look_for_chance(name, route, call)
            self.look_for_writes(name, route)
        self.stochastic = stochastic
        self.alone = None
        if self.size is not None and self.size >= 2 and not stochastic:
            with contextlib.suppress(Exception):  # a model of one batch size only
                self.alone = self.outputs(infer, _rows(self.x, np.arange(self.size // 2)))
        self.noise = self.rounding(infer)
        name, route, call = routes[-1]
        if self.size is None or self.size < 2:
            self.report(
                "PD002", None, "Whether inference depends on batch mates needs a batch of at least two samples."
            )
        elif not stochastic:
            for name, route, call in routes:
                self.look_for_mates(name, route, call)
        if bare is not None:
            self.look_at_bare(bare, name, route, call)

    def predict_call(self) -> Callable[[Any], Any] | None:
        """The model's own `predict_step`, or None when it is Keras's."""
        owner = next((c for c in type(self.model).__mro__ if "predict_step" in c.__dict__), None)
        if owner is None or owner.__module__.startswith(("keras.", "tf_keras.")):
            return None
        return lambda x: self.model.predict_step((x,))

    def rounding(self, infer: _Route, runs: int = 3) -> float:
        """Standard deviation of the outputs' rounding noise: three runs, inputs moved by one unit in the last place."""
        kinds = {str(getattr(n.layer, "compute_dtype", "float32")) for n in self.nodes.values()}
        unit = 2.0**-8 if "bfloat16" in kinds else 2.0**-11 if "float16" in kinds else 2.0**-23
        floor = 2 * unit * max([float(np.max(np.abs(b))) for b in self.base if b.size] or [0.0])
        if self.stochastic:
            again = [_rms(_differences(self.outputs(infer, self.x), self.base)) for _ in range(runs)]
            return max(floor, *again)
        x, base = self.x, self.base
        if self.alone is not None and self.size is not None:
            x, base = _rows(self.x, np.arange(self.size // 2)), self.alone  # half the cost, the same noise
        generator = np.random.default_rng(0)
        squares = []
        for _ in range(runs):
            moved = tf.nest.map_structure(
                lambda t: (
                    t
                    if t is None or not isinstance(t, tf.Tensor) or not t.dtype.is_floating
                    else t * (1 + unit * tf.cast(generator.choice([-1.0, 1.0], size=t.shape), t.dtype))
                ),
                x,
            )
            squares.append(_rms(_differences(self.outputs(infer, moved), base)) ** 2)
        return max(floor, math.sqrt(float(np.mean(squares))))

    def differs(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[bool, dict[str, Any]]:
        """Whether two outputs differ by more than rounding.

        Test: the root mean square of the difference against `ROUNDING_SIGMAS` (48) standard deviations of rounding
        noise. That noise is estimated from three runs, so the ratio of one output follows Student's t with 3 degrees
        of freedom: 48 is passed with probability 2e-5. Averaging over many outputs only lowers it.
        """
        distance = _rms(_differences(first, second))
        evidence = {"rms_difference": distance, "rounding_noise": self.noise, "rms_output": _rms(first)}
        return distance > ROUNDING_SIGMAS * self.noise, evidence

    def look_for_chance(self, name: str, route: _Route, call: Callable[[Any], Any]) -> bool:
        """PD305. A graph without random operations cannot be stochastic, so only others are run again."""
        if not route.effects.drawn and not route.effects.outside:
            return False
        first, second = self.outputs(route, self.x), self.outputs(route, self.x)
        distance, scale = _rms(_differences(first, second)), _rms(first)
        if distance <= 1e-5 * scale:
            return False
        where = self.locate(call, self.x, call, self.x)
        self.report(
            "PD305",
            where,
            f"Two runs of {name} on one batch differ by {distance / max(scale, 1e-30):.1%} of the output"
            + (f"; {where!r} draws at random." if where else "."),
            rms_difference=distance,
            rms_output=scale,
            operations=sorted(route.effects.drawn | route.effects.outside),
        )
        return True

    def look_for_writes(self, name: str, route: _Route) -> None:
        """PD306: variables that a run of inference leaves changed."""
        keys = [k for k in route.effects.writes if k in self.state.saved and not self.is_seed(k)]
        if not keys:
            return

        def look() -> dict[int, bool]:
            return {k: not _same(self.state.read(k), self.state.saved[k][1].numpy()) for k in keys}

        _, changed = self.run(route, self.x, look)
        metrics = {id(_handle(v)) for m in getattr(self.model, "metrics", ()) or () for v in m.variables}
        # A stateful RNN carries its state over on purpose.
        keepers = [n.layer for n in self.nodes.values() if getattr(n.layer, "stateful", False)]
        remembered = {id(_handle(v)) for k in keepers for v in tf.nest.flatten(getattr(k, "states", None))}
        grouped: dict[str, list[int]] = {}
        for key in keys:
            if not changed[key] or key in metrics:
                continue
            node = self.owner.get(key)
            if key in remembered or (node is not None and getattr(node.layer, "stateful", False)):
                continue
            grouped.setdefault(
                node.path if node else str(getattr(route.variables.get(key), "name", "a variable")), []
            ).append(key)
        for where, moved in grouped.items():
            self.report(
                "PD306",
                where,
                f"A run of {name} changes {len(moved)} variables of {where!r}.",
                variables=len(moved),
                route=name,
            )

    def look_for_mates(self, name: str, route: _Route, call: Callable[[Any], Any]) -> None:
        """PD304: each half of the batch, alone and in company. A first row or a maximum may lie in either."""
        assert self.size is not None
        half = self.size // 2
        first = name == "model(x, training=False)"
        whole = self.base if first else self.outputs(route, self.x)
        for rows in (np.arange(half), np.arange(half, self.size)):
            part = _rows(self.x, rows)
            try:
                known = self.alone if first and rows[0] == 0 else None
                alone = known if known is not None else self.outputs(route, part)
            except Exception:
                try:
                    alone = self.outputs(self.trace(call, part), part)
                except Exception:
                    self.report(
                        "PD002", None, f"{name} takes this batch size only, so batch mates could not be compared."
                    )
                    return
            pairs = [
                (w[rows], a)
                for w, a in zip(whole, alone, strict=False)
                if w.shape[:1] == (self.size,) and w[rows].shape == a.shape
            ]
            differs, evidence = self.differs([w for w, _ in pairs], [a for _, a in pairs])
            if not differs:
                continue
            where = self.locate(call, self.x, call, part, rows)
            share = evidence["rms_difference"] / max(evidence["rms_output"], 1e-30)
            self.report(
                "PD304",
                where,
                f"With other batch mates the output of {name} changes by {share:.1%}"
                + (f"; it starts at {where!r}." if where else "."),
                **evidence,
            )
            return

    def look_at_bare(self, bare: _Route, name: str, route: _Route, call: Callable[[Any], Any]) -> None:
        """PD106 and PD309: what `model(x)` does when nobody says the phase."""
        leak = None
        for number, record in enumerate(bare.calls):
            parameter = _parameter(record.layer)
            default = parameter.default if parameter is not None else None
            # Functional graphs record the default as if it had been written.
            graph = record.parent is not None and _is_graph(bare.calls[record.parent].layer)
            if leak is None and _true(record.training) and default is True and (record.explicit is None or graph):
                leak = number
        if leak is not None:
            source = bare.calls[leak].layer
            inside = {number for number in range(len(bare.calls)) if leak in bare.recorder.ancestors(number)}
            later = [
                r.layer
                for number, r in enumerate(bare.calls)
                if number > leak
                and _heeds_phase(r.layer)
                and _true(r.training)
                and number not in inside
                and not _has_true_default(r.layer)
            ]
            names = list(dict.fromkeys(self.path(layer) for layer in later))
            if names and not _children(source) and source is not self.model:
                self.report(
                    "PD106",
                    self.path(source),
                    f"`call` of {self.path(source)!r} defaults to `training=True`; on a bare `model(x)` it puts "
                    f"{', '.join(map(repr, names[:3]))}{' and others' if len(names) > 3 else ''} into training mode.",
                    layers=names,
                    variables_written=len(
                        [k for k in bare.effects.writes if k in self.state.saved and not self.is_seed(k)]
                    ),
                )
        if bare is route:
            return
        values, own = self.outputs(bare, self.x), self.predict_call() is not None
        reference = self.outputs(route, self.x) if name == "predict" else self.base
        if own and not self.differs(values, self.base)[0]:
            # The phase is not what makes them differ: `predict_step` was written to return something else.
            if self.differs(values, reference)[0] or len(values) != len(reference):
                self.report("PD309", self.model.name, "`predict_step` returns something else than `model(x)`.", "note")
            return
        if len(values) != len(reference) or any(a.shape != b.shape for a, b in zip(values, reference, strict=False)):
            self.report("PD309", self.model.name, "`model(x)` and `predict` return different structures.")
            return
        differs, evidence = self.differs(values, reference)
        if not differs:
            return
        where = (
            self.path(bare.calls[leak].layer)
            if leak is not None
            else self.locate(self.phase(None), self.x, call, self.x)
        )
        share = evidence["rms_difference"] / max(evidence["rms_output"], 1e-30)
        self.report("PD309", where, f"`model(x)` differs from `predict` by {share:.1%} of the output.", **evidence)

    def locate(
        self,
        first: Callable[[Any], Any],
        xa: Any,
        second: Callable[[Any], Any],
        xb: Any,
        rows: np.ndarray | None = None,
    ) -> str | None:
        """Path of the first layer whose inputs agree between two runs and whose outputs do not."""
        try:
            one = self.trace(first, xa, fetch=True)
            two = one if first is second and xa is xb else self.trace(second, xb, fetch=True)
            a, b = self.run(one, xa)[0], self.run(two, xb)[0]
        except Exception:
            return None
        seen: dict[int, int] = {}
        index: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for number, inputs, outputs in two.fetched:
            layer = two.calls[number].layer
            seen[id(layer)] = seen.get(id(layer), 0) + 1
            index[id(layer), seen[id(layer)]] = (inputs, outputs)
        seen.clear()
        suspects = []
        for number, inputs, outputs in one.fetched:
            layer = one.calls[number].layer
            seen[id(layer)] = seen.get(id(layer), 0) + 1
            other = index.get((id(layer), seen[id(layer)]))
            if other is None:
                continue
            same_inputs = _agree([a[i] for i in inputs], [b[i] for i in other[0]], rows)
            if same_inputs and not _agree([a[i] for i in outputs], [b[i] for i in other[1]], rows):
                suspects.append(number)
        for number in suspects:  # the innermost of the first
            if not any(number in one.recorder.ancestors(inner) for inner in suspects):
                return self.path(one.calls[number].layer)
        return None

    # -- both phases ---------------------------------------------------------------------------------------------------

    def look_at_phases(self, infer: _Route, told: _Route) -> None:
        """PD202, PD307 and PD308: the statistics against the data, and the outputs of the two phases."""
        self.clock.stage("comparing the two phases")
        if self.size is None or self.size < 4 or self.found("PD203"):
            return
        if self.alike():
            self.report(
                "PD002", None, "Every sample of the batch is the same: the two phases cannot be compared on it."
            )
            return
        self.find_momentum(told)
        self.told_statistics = {
            k for k, n in self.owner.items() if k in told.effects.writes and self.is_statistic(k, n)
        }
        keys = [k for s in self.statistics for k in (s.mean, s.variance) if k is not None]
        keys = [k for k in keys if k in told.effects.writes]

        def look() -> dict[int, np.ndarray]:
            return {k: self.state.read(k).astype(np.float64) for k in keys}

        order = np.random.default_rng(0).permutation(self.size)
        halves = [np.sort(order[: self.size // 2]), np.sort(order[self.size // 2 :])]
        try:
            whole, after = self.run(told, self.x, look)
            parts = [self.run(told, _rows(self.x, half), look) for half in halves]
        except Exception as error:
            self.report("PD002", None, f"The two phases could not be compared on half a batch: {type(error).__name__}.")
            return
        full = _numbers(whole[: told.count])
        split = [_numbers(part[: told.count]) for part, _ in parts]
        self.compare_outputs(full, split, halves)
        self.rows_matter = False
        spread = self.distance["spread_inference"] if self.distance else math.inf
        if spread <= self.noise and told.effects.drawn and not self.stochastic:
            self.rows_matter = _common(full, self.outputs(told, self.x))
        self.compare_statistics(told, after, [seen for _, seen in parts])
        self.compare_substituted(infer)
        self.conclude(infer)

    def alike(self) -> bool:
        """Whether the batch is one sample repeated, such as zeros: its statistics say nothing about any data."""
        leaves = [leaf for leaf in tf.nest.flatten(self.x) if isinstance(leaf, tf.Tensor) and leaf.shape.rank]
        return bool(leaves) and all(bool(tf.reduce_all(tf.equal(leaf, leaf[:1]))) for leaf in leaves)

    def find_momentum(self, told: _Route) -> None:
        """Momentum of layers that do not name one: two updates on one batch shrink by this factor."""
        unknown = [s for s in self.statistics if s.momentum is None and s.mean in told.effects.writes]
        if not unknown:
            return
        seeds = [k for k in told.effects.writes if k in self.state.saved and self.is_seed(k)]

        def look() -> None:
            first = {s.mean: self.state.read(s.mean).astype(np.float64) for s in unknown}
            self.state.restore(seeds)
            told.concrete(*[leaf for leaf in tf.nest.flatten(self.x) if leaf is not None])
            for s in unknown:
                start = self.state.saved[s.mean][1].numpy().astype(np.float64)
                one, two = first[s.mean] - start, self.state.read(s.mean).astype(np.float64) - first[s.mean]
                large = (np.abs(one) >= np.median(np.abs(one))) & (one != 0)
                ratios = two[large] / one[large]
                if ratios.size and 0 < np.median(ratios) < 1 and np.ptp(np.percentile(ratios, [25, 75])) < 0.05:
                    s.momentum = float(np.median(ratios))

        self.state.restore(seeds)
        self.run(told, self.x, look)

    def compare_outputs(self, full: list[np.ndarray], split: list[list[np.ndarray]], halves: list[np.ndarray]) -> None:
        """Measures the distance of the phases in units of what other batch mates and dropout masks change anyway."""
        self.distance = None
        usable = [
            i
            for i, (b, f) in enumerate(zip(self.base, full, strict=False))
            if b.shape == f.shape
            and b.ndim
            and b.shape[0] == self.size
            and all(s[i].shape[1:] == f.shape[1:] for s in split)
        ]
        if not usable or len(self.base) != len(full):
            return
        joined = []
        for i in usable:
            mixed = np.empty_like(full[i])
            for half, values in zip(halves, split, strict=False):
                mixed[half] = values[i]
            joined.append(mixed)
        signal = [self.base[i] - full[i] for i in usable]
        noise = [m - full[i] for m, i in zip(joined, usable, strict=False)]
        self.distance = {
            "rms_between_phases": _rms(signal),
            "rms_noise": max(_rms(noise), self.noise),
            "spread_inference": _spread([self.base[i] for i in usable]),
            "spread_training": _spread([full[i] for i in usable]),
            "spread_noise": _spread(noise),
        }
        self.training_outputs = full

    def compare_statistics(
        self, told: _Route, after: dict[int, np.ndarray], parts: list[dict[int, np.ndarray]]
    ) -> None:
        """Distance of moving from batch statistics against sampling noise, and what is left of the start."""
        self.behind: list[tuple[_Statistic, dict[str, float]]] = []
        self.substitutes: list[dict[int, np.ndarray]] = [{}, {}, {}]
        for statistic in self.statistics:
            low, high = told.effects.writes.get(statistic.mean, (0, 0))
            if not statistic.node.layer.trainable or low < 1 or not math.isfinite(high) or statistic.momentum is None:
                continue
            keep = statistic.momentum ** ((low + high) / 2)
            if not 0 < keep < 1 or (statistic.variance is not None and statistic.variance not in after):
                continue

            def batch(seen: dict[int, np.ndarray], key: int, keep: float = keep) -> np.ndarray:
                before = self.state.saved[key][1].numpy().astype(np.float64)
                return (seen[key] - keep * before) / (1 - keep)

            moving = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
            mean = batch(after, statistic.mean)
            if statistic.variance is not None:
                # A channel that never varies may reach 0; one that varies in this batch may not.
                now = self.state.saved[statistic.variance][1].numpy()
                wrong = (now == 0) & (batch(after, statistic.variance) > 1e-6) if now.any() else np.zeros(1, bool)
                if wrong.any():
                    path = statistic.node.path
                    text = (
                        f"{int(wrong.sum())} moving variances of {path!r} are 0, and the data vary in these channels."
                    )
                    self.report("PD203", path, text, channels=int(wrong.sum()))
            thirds = [batch(p, statistic.mean) for p in parts]
            start_mean, start_variance = self.initial(statistic)
            if statistic.variance is not None and start_variance is not None:
                epsilon = float(getattr(statistic.node.layer, "epsilon", 1e-3))
                spread = np.maximum(batch(after, statistic.variance), 0) + epsilon
                moving_spread = self.state.saved[statistic.variance][1].numpy().astype(np.float64) + epsilon
                parts_spread = [np.maximum(batch(p, statistic.variance), 0) + epsilon for p in parts]
            else:
                spread = np.full_like(mean, max(float(np.var(mean)), 1e-12))
                moving_spread, parts_spread, start_variance = spread, [spread, spread], spread
                epsilon = 0.0
            sigma = np.sqrt(spread)
            shift, stretch = (moving - mean) / sigma, 0.5 * np.log(moving_spread / spread)
            noise_shift = (thirds[0] - thirds[1]) / sigma / 2
            noise_stretch = 0.5 * np.log(parts_spread[0] / parts_spread[1]) / 2
            far = math.sqrt(float(np.mean(shift**2 + stretch**2)))
            near = math.sqrt(float(np.mean(noise_shift**2 + noise_stretch**2)))
            left = _remaining(
                np.concatenate([moving, moving_spread - epsilon]),
                np.concatenate([mean, spread - epsilon]),
                np.concatenate([start_mean, np.broadcast_to(start_variance, mean.shape)]),
                np.concatenate([sigma, spread]),
            )
            self.behind.append((statistic, {"distance": far, "noise": near, "left": left}))
            for target, values in zip(self.substitutes, (after, *parts), strict=False):
                target[statistic.mean] = batch(values, statistic.mean)
                if statistic.variance is not None:
                    target[statistic.variance] = np.maximum(batch(values, statistic.variance), 0)

    def compare_substituted(self, infer: _Route) -> None:
        """Inference with the batch's own statistics in place of the moving ones: what the statistics alone change."""
        self.effect = None
        if not self.behind or self.stochastic:
            return

        rows = np.arange(self.size // 2) if self.alone is not None and self.size is not None else None
        x = self.x if rows is None else _rows(self.x, rows)
        base = self.base if rows is None or self.alone is None else self.alone

        def outputs(values: dict[int, np.ndarray]) -> list[np.ndarray]:
            try:
                for key, value in values.items():
                    handle, saved = self.state.saved[key]
                    tf.raw_ops.AssignVariableOp(resource=handle, value=tf.cast(value, saved.dtype))
                return self.outputs(infer, x)
            finally:
                self.state.restore(values)

        full, one, two = (outputs(values) for values in self.substitutes)
        self.effect = {
            "rms_change": _rms(_differences(base, full)),
            "rms_noise": max(_rms(_differences(one, two)) / 2, self.noise),
            "spread_batch": _spread(full),
            "spread_moving": _spread(base),
        }
        self.substituted = full

    # -- the training step ---------------------------------------------------------------------------------------------

    def look_at_step(self, told: _Route | None) -> None:
        """PD301, PD302 and PD303: what one step writes, by its graph and, where it can be undone, by running it."""
        self.step_told = self.step_ran = False
        self.stepped: dict[int, np.ndarray] = {}
        self.written: set[int] = set()
        step, name = self.step, "train_step"
        if step is None:
            step, name = self.own_step(), "the model's train_step"
        if step is None:
            if told is not None:
                self.judge_step(told.effects, None, told, None, handed=False)
            return
        self.clock.stage("tracing the training step")
        traced = _Step(self, step, name)
        began = time.perf_counter()
        try:
            traced.trace()
        except Exception as error:
            self.failed_step(name, error)
            return
        finally:
            self.clock.tracing += time.perf_counter() - began
        if traced.remarks:
            self.report(
                "PD002",
                None,
                f"{name} does what cannot be put back: {'; '.join(traced.remarks)}. "
                + ("It was run all the same." if self.insist else "It was examined without running it."),
            )
            if self.insist:
                print(
                    f"phase doctor: about to run {name}, which {'; '.join(traced.remarks)}", file=sys.stderr, flush=True
                )
        if traced.effects is None and not (self.insist and traced.eager):
            return
        self.index_variables()
        self.state.add_all(self.everything())
        self.state.add_all(_reachable(step))
        if not self.statistics or told is None:
            self.statistics = []
            self.find_statistics(told)
        if traced.concrete is not None:
            for handle in traced.concrete.graph.external_captures:
                if handle.dtype == tf.resource:
                    self.state.add(handle)
        changed = None
        if self.insist or not traced.remarks:
            self.clock.stage("running the training step")
            try:
                traced.run()
                changed = {k for k in self.state.saved if not _same(self.state.read(k), self.state.saved[k][1].numpy())}
                self.stepped = {s.mean: self.state.read(s.mean).astype(np.float64) for s in self.statistics}
            except Exception as error:
                self.failed_step(name, error)
                return
            finally:
                self.state.restore()
        self.step_ran = True
        self.count_steps(traced)
        effects = traced.effects or _Effects({k: (1, 1) for k in changed or ()})
        self.judge_step(effects, changed, told, traced, handed=True)
        if self.step is not None:
            self.excuse_flags()

    def excuse_flags(self) -> None:
        """PD105 is about the compiled training function; a step handed in that goes by the flags of now is spared."""
        stale = [f for f in self.findings if f.code == "PD105" and f.severity != "note"]
        for finding in stale:
            inside = f"{finding.where}/"
            keys = [
                key
                for key, node in self.owner.items()
                if finding.where == self.model.name or f"{node.path}/".startswith(inside)
            ]
            moved = any(k in self.written and k in self.state.saved and not self.is_seed(k) for k in keys)
            if moved == finding.evidence["trainable_now"]:
                finding.severity = "note"
                finding.message += " The step handed in goes by the flags of now."
        if stale and all(finding.severity == "note" for finding in stale):
            for finding in self.findings:
                if finding.code == "PD303" and "the training function traced earlier" in finding.message:
                    finding.severity = "note"

    def failed_step(self, name: str, error: Exception) -> None:
        """A step that the reader handed in has to run; the model's own may take other batches than its `call` does."""
        self.failed(name, error)
        if self.step is None and self.answered:
            self.soften(name, "Hand in `train_step=` with a batch that it takes, or examine the parts of the model.")

    def soften(self, what: str, advice: str) -> None:
        """Turns what raised into a note, where another use of the same batch shows that it was not meant for it."""
        for finding in self.findings:
            if finding.code == "PD001" and finding.message.startswith(f"{what} raised"):
                finding.code, finding.severity, finding.cure = "PD002", "note", RULES["PD002"][2]
                finding.message += f". {advice}"

    def own_step(self) -> Callable[..., Any] | None:
        """The `train_step` that the reader's own class defines, once compiled."""
        owner = next((c for c in type(self.model).__mro__ if "train_step" in c.__dict__), None)
        if owner is None or owner.__module__.startswith(("keras.", "tf_keras.")):
            return None
        if not getattr(self.model, "compiled", getattr(self.model, "_is_compiled", False)):
            return None
        model = self.model
        if self.y is None:
            return lambda x: model.train_step((x,) if isinstance(x, (list, tuple)) else x)  # as `fit` packs it
        return lambda x, y: model.train_step((x, y))

    def count_steps(self, traced: _Step) -> None:
        if traced.concrete is None:
            return
        for variable in traced.concrete.graph.variables:
            name = str(getattr(variable, "name", "")).lower()
            key = id(getattr(variable, "handle", None))
            if "iteration" in name and key in self.state.saved and variable.shape.rank == 0:
                steps = int(self.state.saved[key][1].numpy())
                self.trained["steps"] = max(self.trained["steps"], steps)
                self.trained["any"] = self.trained["any"] or steps > 0

    def own_keys(self, node: _Node) -> list[int]:
        return [key for key, owner in self.owner.items() if owner is node]

    def step_trains(self, statistic: _Statistic) -> bool:
        """Whether the step trains the weights this layer serves: its own gamma and beta, else its neighbours'."""
        trainable = {id(_handle(v)) for v in self.model.trainable_variables}
        own = [k for k in self.own_keys(statistic.node) if k in trainable]
        if own:
            return any(k in self.written for k in own)
        parent = statistic.node.parents[-1] if statistic.node.parents else None
        near = [n for n in self.nodes.values() if n.parents and n.parents[-1] is parent]
        return any(k in self.written and k in trainable for n in near for k in self.own_keys(n))

    def judge_step(
        self, effects: _Effects, changed: set[int] | None, told: _Route | None, traced: _Step | None, handed: bool
    ) -> None:
        self.written = set(effects.writes) if changed is None else changed
        executed = changed is not None
        self.judge_frozen(effects, told, traced, executed)
        for statistic in self.statistics:
            node = statistic.node
            if not node.layer.trainable:
                continue
            low, high = effects.writes.get(statistic.mean, (0, 0))
            if high > 0 and handed:
                self.step_told = True
            if high == 0 and handed and self.step_trains(statistic):
                self.judge_unmoved(statistic, told, traced, executed)
            elif high > 1:
                self.judge_repeated(statistic, low, high, told, traced, handed)

    def judge_unmoved(self, statistic: _Statistic, told: _Route | None, traced: _Step | None, executed: bool) -> None:
        """PD301."""
        path = statistic.node.path
        recorded = self.recorded_phases()
        if told is not None and statistic.mean not in told.effects.writes and not self.untouched(statistic):
            for number, record in enumerate(told.calls):
                if record.layer is statistic.node.layer and self.decided(told, number, recorded):
                    return  # the model keeps statistics that it once got, whatever it is told
        severity = None
        if traced is not None and not self.untouched(statistic) and traced.says_inference(statistic.node.layer):
            severity = "note"
        mean = self.state.saved[statistic.mean][1].numpy()
        self.report(
            "PD301",
            path,
            f"The step trains the weights of {path!r} but leaves its moving statistics unmoved"
            + (": it says `training=False` itself." if severity else ": the layer runs in inference mode."),
            severity,
            executed=executed,
            statistics=int(np.size(mean)),
            change=0.0,
        )

    def judge_repeated(
        self, statistic: _Statistic, low: float, high: float, told: _Route | None, traced: _Step | None, handed: bool
    ) -> None:
        """PD302."""
        path, layer = statistic.node.path, statistic.node.layer
        times = "several" if math.isinf(high) else f"{high:.0f}" if low == high else f"up to {high:.0f}"
        evidence: dict[str, Any] = {"updates": high, "momentum": statistic.momentum}
        if statistic.momentum and math.isfinite(high):
            evidence["effective_momentum"] = statistic.momentum**high
        outer: list[int] = []
        calls: list[_Call] = told.calls if told is not None else []
        ancestors: Callable[[int], list[int]] = told.recorder.ancestors if told is not None else (lambda _: [])
        if traced is not None:
            recorder = traced.record()
            # A training function that Keras keeps runs no Python when traced again: the model's own calls stand in.
            if recorder and any(record.layer is layer for record in recorder.calls):
                calls, ancestors = recorder.calls, recorder.ancestors
        for number, record in enumerate(calls):
            if record.layer is layer and (_true(record.training) or not _is_stock(layer)):
                outer.append(([number, *ancestors(number)])[-1])
        distinct = list(dict.fromkeys(outer))
        looped = any(
            type(calls[i].layer).__name__ == "TimeDistributed"
            for number, record in enumerate(calls)
            if record.layer is layer
            for i in ancestors(number)[:1]
        )
        if len(distinct) <= 1:
            if _same_within(calls, ancestors, [n for n, record in enumerate(calls) if record.layer is layer]):
                text = f"{path!r} updates its moving statistics {times} times a step, on the same input."
                self.report("PD302", path, text, "error", **evidence)
            elif looped:
                text = f"{path!r} updates its moving statistics {times} times a step, once for every timestep."
                self.report("PD302", path, text, "warning", **evidence)
            else:
                text = f"{path!r} updates its moving statistics {times} times a step, all within one call of the model."
                self.report("PD302", path, text, "note", **evidence)
            return
        assert traced is not None
        if self.moved_once(statistic, told):
            text = f"The step writes the statistics of {path!r} {times} times and leaves them where one update would."
            self.report("PD302", path, text, "note", **evidence)
            return
        origins = [traced.origin(i) for i in distinct]
        if traced.same_input(distinct):
            text = f"The step moves the statistics of {path!r} {times} times on the same input ({origins[0]})."
            self.report("PD302", path, text, "error", **evidence, inputs=origins)
        else:
            text = (
                f"The step moves the statistics of {path!r} {times} times, mixing the inputs of {len(distinct)} calls: "
                f"{', '.join(origins)}. Inference normalises each of them with the mixture."
            )
            self.report("PD302", path, text, "warning", **evidence, inputs=origins)

    def moved_once(self, statistic: _Statistic, told: _Route | None) -> bool:
        """Whether the step took the statistics where one training-phase pass over the batch takes them, within 2 %.

        A second update on the same batch adds momentum times the first one, so it is seen from momentum 0.02 on.
        """
        if told is None or statistic.mean not in self.stepped or told.effects.writes.get(statistic.mean) != (1, 1):
            return False
        before = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
        _, once = self.run(told, self.x, lambda: self.state.read(statistic.mean).astype(np.float64))
        one = once - before
        return _rms([self.stepped[statistic.mean] - before - one]) < 0.02 * _rms([one])

    def judge_frozen(self, effects: _Effects, told: _Route | None, traced: _Step | None, executed: bool) -> None:
        """PD303: frozen, and yet written by its own update, by a stale trace, or by an optimizer."""
        metrics = {id(_handle(v)) for m in getattr(self.model, "metrics", ()) or () for v in m.variables}
        fresh = optimized = None
        for node in self.nodes.values():
            if node.layer.trainable or getattr(node.layer, "stateful", False):
                continue
            moved = [
                k
                for k in self.own_keys(node)
                if k in self.written and k not in metrics and k in self.state.saved and not self.is_seed(k)
            ]
            if not moved:
                continue
            if traced is not None and fresh is None:
                fresh, optimized = traced.fresh_writes(), traced.optimized()
            by_layer = [k for k in moved if told is not None and k in told.effects.writes]
            by_trace = [k for k in moved if fresh is not None and k not in fresh]
            by_optimizer = [k for k in moved if optimized and k in optimized]
            evidence: dict[str, Any] = {"variables": len(moved), "executed": executed}
            if by_trace:
                why = "the step was traced before the layer was frozen"
            elif by_layer:
                why = "the layer updates itself without asking whether it is frozen"
            elif by_optimizer:
                why = "the optimizer of the step still holds its weights"
            elif traced is not None and not any(traced.copies(key) for key in moved):
                why = "the step assigns to its variables what it computes from them alone"
            else:
                text = f"{node.path!r} is frozen and the step assigns its variables itself, as an averaged copy would."
                self.report("PD303", node.path, text, "note", **evidence)
                continue
            self.report("PD303", node.path, f"{node.path!r} is frozen, but one step changes it: {why}.", **evidence)

    def conclude(self, infer: _Route) -> None:
        """Turns the distances into PD202, PD307 and PD308.

        Two conditions, both needed. Significance: a layer's moving statistics lie farther from the batch's than
        sampling noise explains, or they move the output farther than the statistics of half batches do. The squared
        ratio of the two is compared with Fisher's F; channels are correlated, so they count as five independent ones,
        and F(5, 5) exceeds 29.75 with probability 0.001. Size: the statistics move the inference output by at least
        half a standard deviation over the samples (Cohen's medium effect), with the sampling noise taken off first.
        """
        distance: dict[str, Any] = self.distance or {}
        effect = self.effect
        far = [(s, m) for s, m in self.behind if m["distance"] > F_LIMIT * max(m["noise"], 1e-9)]
        far.sort(key=lambda item: -item[1]["distance"] / max(item[1]["noise"], 1e-9))
        size = _size_of(effect["rms_change"], effect["rms_noise"], effect["spread_batch"]) if effect else 0.0
        if effect and not far and effect["rms_change"] > F_LIMIT * effect["rms_noise"]:
            far = [max(self.behind, key=lambda item: item[1]["distance"] / max(item[1]["noise"], 1e-9))]
        harmful = bool(far) and size >= MEDIUM_EFFECT
        signs = self.trained["any"] or self.found("PD301")
        soft = None if signs else "note"
        untrained = "" if signs else " Every freshly initialised network is here."
        if effect and effect["spread_batch"] > F_LIMIT * effect["rms_noise"]:
            low, high, least = effect["spread_moving"], effect["spread_batch"], effect["rms_noise"]
        elif distance and (distance["spread_training"] > F_LIMIT * distance["rms_noise"] or self.rows_matter):
            low, high, least = distance["spread_inference"], distance["spread_training"], 0.0
        else:
            low, high, least = 1.0, 0.0, 0.0
        constant = low <= max(least, ROUNDING_SIGMAS * self.noise) and low < high
        better = signs and bool(far) and not constant and self.serves_better()
        if better:
            soft = "note"
            untrained = (
                " They give it a lower loss than its own statistics: the batch is unlike the data they describe."
            )
        if harmful:
            for statistic, measured in far:
                path = statistic.node.path
                if self.found("PD201", path):
                    continue
                own_signs = self.trained["any"] or self.found("PD301", path)
                if better or own_signs:
                    self.report_behind(statistic, measured, size, soft, untrained)
                else:
                    self.report_behind(statistic, measured, size, "note", " Every freshly initialised network is here.")
        direct = (
            bool(distance)
            and distance["rms_between_phases"] > F_LIMIT * distance["rms_noise"]
            and (
                _size_of(distance["rms_between_phases"], distance["rms_noise"], distance["spread_training"])
                >= MEDIUM_EFFECT
            )
        )
        where = far[0][0].node.path if far else None
        if constant:
            # Fresh statistics excuse only a network that has any.
            excuse = bool(self.statistics)
            kind = "with the batch's own statistics" if effect else "in training"
            self.report(
                "PD307",
                where,
                f"Over the batch inference output varies by {low:.2g}, {kind} by {high:.2g}: "
                f"inference says the same for every sample.{untrained if excuse else ''}",
                soft if excuse else None,
                spread_inference=low,
                spread_training=high,
                noise=max(least, self.noise),
            )
        if harmful or direct:
            losses = self.losses()
            # Fresh statistics explain a fresh network; a layer that changes its output by itself is another matter.
            judged = {key for s, _ in self.behind for key in (s.mean, s.variance)}
            own = direct and not far and self.told_statistics <= judged and not self.explained()
            own = own and not self.found("PD103")  # statistics out of sight are fresh ones as well
            if direct and where is None and not own and self.behind:
                where = max(self.behind, key=lambda item: item[1]["distance"] / max(item[1]["noise"], 1e-9))[
                    0
                ].node.path
            if direct and where is None:
                where = self.locate(self.phase(False), self.x, self.phase(True), self.x)
            if losses:
                said = "the loss is {loss_training:.3g} in training and {loss_inference:.3g} in inference".format(
                    **losses
                )
            else:
                moved = distance["rms_between_phases"] if distance else effect["rms_change"] if effect else 0.0
                said = f"outputs differ by {moved:.2g} (root mean square)"
            self.report(
                "PD308",
                where,
                f"On one batch the two phases disagree far beyond noise: {said}." + ("" if own else untrained),
                None if own else soft,
                **losses, **distance, effect_size=size,
            )  # fmt: skip

    def serves_better(self) -> bool:
        """Whether the moving statistics give this batch a lower loss than its own do.

        Test: paired Student's t over the samples, one-sided, at an error rate of 0.01. A batch of one class, or in
        sorted order, is far from the data that the statistics describe, and they are right all the same. Weights
        trained in the inference phase prefer it too, so statistics that never moved are not excused.
        """
        loss = self.loss_function()
        if loss is None or self.effect is None or len(self.substituted) != 1 or self.found("PD201"):
            return False
        if self.found("PD301") or self.found("PD101"):
            return False
        own, number = self.substituted[0], min(len(self.substituted[0]), 64)
        moving = self.base[0][: len(own)]
        try:

            def of(output: np.ndarray, i: int) -> float:
                row = _rows(self.y, np.arange(i, i + 1))
                return float(np.mean(loss(row, tf.constant(output[i : i + 1], tf.float32))))

            gains = np.array([of(own, i) - of(moving, i) for i in range(number)])
        except Exception:
            return False
        error = float(np.std(gains, ddof=1)) / math.sqrt(number) if number > 2 else math.inf
        return bool(np.mean(gains) > _t_limit(0.02, number - 1) * error)

    def explained(self) -> bool:
        """Whether inference with the batch's own statistics gives what training gives, up to noise."""
        if self.effect is None or not self.distance:
            return False
        # The substituted run may cover the first half of the batch only.
        trained = [
            t[: len(b)] for t, b in zip(self.training_outputs, self.substituted, strict=False) if t.ndim and b.ndim
        ]
        rest, noise = _rms(_differences(self.substituted, trained)), self.distance["rms_noise"]
        return rest <= F_LIMIT * noise or _size_of(rest, noise, self.distance["spread_training"]) < MEDIUM_EFFECT

    def report_behind(
        self, statistic: _Statistic, measured: dict[str, float], size: float, severity: str | None, untrained: str
    ) -> None:
        path, momentum, left = statistic.node.path, statistic.momentum or 0.0, measured["left"]
        evidence: dict[str, Any] = {
            "distance_in_noise": measured["distance"] / max(measured["noise"], 1e-9),
            "limit": F_LIMIT,
            "effect_size": size,
            "momentum": momentum,
        }
        enough = math.ceil(math.log(0.05) / math.log(momentum)) if 0 < momentum < 1 else 0
        # More steps than would leave a tenth of that: something else keeps the statistics from the batch's.
        taken = momentum ** self.trained["steps"] if 0 < momentum < 1 else 0.0
        if 0.05 < left <= 1 and enough and taken > left / 10:
            seen = 0 if left >= 1 else round(math.log(left) / math.log(momentum))
            evidence |= {"initial_value_left": left, "steps_seen": seen, "steps_for_95_percent": enough}
            text = (
                f"{left:.0%} of the initial moving statistics of {path!r} is left, as after {seen} steps at momentum "
                f"{momentum:g}; below 5% takes {enough}."
            )
        else:
            text = (
                f"The moving statistics of {path!r} lie {evidence['distance_in_noise']:.0f} times sampling noise from "
                "this batch's, and what is left of the initial values does not explain it: the weights have changed "
                "since, or the batch is unlike the training data."
            )
        self.report("PD202", path, text + untrained, severity, **evidence)

    def loss_function(self) -> Callable[..., Any] | None:
        """The reader's loss, or the compiled one; None without targets or without a loss that is one function."""
        if self.y is None:
            return None
        loss = self.loss if self.loss is not None else getattr(self.model, "loss", None)
        if isinstance(loss, str):
            try:
                loss = self.package.losses.get(loss)
            except ValueError:
                return None
        return loss if callable(loss) else None

    def losses(self) -> dict[str, Any]:
        """The loss of both phases on the batch, from `loss` or the compiled one; empty without one."""
        loss = self.loss_function()
        if loss is None:
            return {}
        try:
            found = {}
            for name, training in (("loss_training", True), ("loss_inference", False)):
                call = self.phase(training)
                route = self.trace(lambda x, call=call: loss(self.y, call(x)), self.x, warm=False)  # type: ignore[misc]
                found[name] = float(np.mean(self.outputs(route, self.x)[0]))
            return found
        except Exception:
            return {}


class _Step:
    """The reader's training step: traced without being run, then run if all it does can be put back."""

    def __init__(self, exam: _Exam, step: Any, name: str) -> None:
        self.exam, self.step, self.name = exam, step, name
        self.function = getattr(step, "python_function", step)
        self.args = _arguments(self.function, *exam.batches[0])
        self.remarks: list[str] = []
        self.effects: _Effects | None = None
        self.concrete: Any = None
        self.eager = False
        self.cached = False
        self._runner: Callable[[], Any] | None = None
        self._record: _Recorder | None = None
        self._values: list[np.ndarray] | None = None
        self._outer: dict[int, list[Any]] = {}
        self._inputs: list[Any] = []
        self._fresh: set[int] | None = None

    def trace(self) -> None:
        """Builds the graph of the step; lazy optimizer slots come into being here, without a step being taken."""
        step, args = self.step, self.args
        if hasattr(step, "get_concrete_function"):
            self.cached = bool(_traces(step))
            if not self.cached:
                # The reader's own function stays untraced, so that it still sees flags set after this examination.
                options = {
                    "autograph": getattr(step, "_autograph", True),
                    "jit_compile": getattr(step, "_jit_compile", None),
                    "input_signature": getattr(step, "input_signature", None),
                }
                step = tf.function(self.function, **options)
            self.concrete = step.get_concrete_function(*args)
            self._runner = lambda: step(*args)
        else:
            self.remarks += _python_effects(self.function)
            if any(re.match(r"reads the one-shot|opens a|writes by", r) for r in self.remarks) and not self.exam.insist:
                self.remarks.append("so it was not even traced, for tracing runs its Python")
                return
            failure: list[BaseException] = []

            def guarded(*given: Any) -> Any:
                failure.clear()
                try:
                    result = self.step(*given)
                except Exception as error:
                    if not _wants_value(error):
                        raise
                    failure.append(error)
                    return tf.constant(0)
                return [leaf for leaf in tf.nest.flatten(result) if tf.is_tensor(leaf)] or tf.constant(0)

            try:
                traced = tf.function(guarded, autograph=False)
                self.concrete = traced.get_concrete_function(*args)
            except Exception as error:
                if not _needs_autograph(error):
                    raise
                traced = tf.function(self.step)
                self.concrete = traced.get_concrete_function(*args)
            self._runner = lambda: traced(*args)
            if failure:
                # `float(loss)` after the update is harmless; before it, the rest of the step is out of sight.
                writes = _effects(self.concrete).writes
                trained = {id(_handle(v)) for v in _reachable(self.step) if getattr(v, "trainable", False)}
                trained |= {id(_handle(v)) for v in self.exam.model.trainable_variables}
                if not trained & set(writes):
                    self.remarks.append(
                        f"cannot be traced to its end ({type(failure[0]).__name__}: {str(failure[0])[:100]})"
                    )
                    self.eager = True
                    self._runner = lambda: self.step(*args)
        self.effects = _effects(self.concrete)
        if self.effects.random:
            self.remarks.append(f"draws from stateful random operations ({', '.join(sorted(self.effects.random))})")
        if self.effects.outside:
            self.remarks.append(f"reaches outside TensorFlow's variables ({', '.join(sorted(self.effects.outside))})")

    def run(self) -> None:
        assert self._runner is not None
        self._runner()

    # -- what the step calls ---------------------------------------------------------------------------------------

    def record(self) -> _Recorder | None:
        """Traces the step's Python once more, noting which layer is called how. None when that fails."""
        if self._record is not None:
            return self._record
        exam = self.exam
        began = time.perf_counter()
        recorder = _Recorder([n.layer for n in exam.nodes.values()], exam.packages)
        outputs: list[Any] = []

        def function(*given: Any) -> Any:
            recorder.calls.clear()
            self._inputs = [t for t in tf.nest.flatten(given) if tf.is_tensor(t)]
            try:
                self.function(*given)
            except Exception as error:
                if not _wants_value(error):
                    raise
            graph = tf.compat.v1.get_default_graph()
            outputs.clear()
            self._outer.clear()
            for number, record in enumerate(recorder.calls):
                if record.parent is None:
                    usable = [t for t in record.inputs if getattr(t, "graph", None) is graph]
                    self._outer[number] = list(range(len(outputs), len(outputs) + len(usable)))
                    outputs.extend(usable)
            return [tf.identity(t) for t in outputs]

        try:
            with recorder:
                traced = tf.function(function, autograph=False)
                concrete = traced.get_concrete_function(*self.args)
            self._fresh = set(_effects(concrete).writes)
            self._rerun = lambda: traced(*self.args)
        except Exception:
            return None
        finally:
            exam.clock.tracing += time.perf_counter() - began
        self._record = recorder
        return recorder

    def same_input(self, numbers: list[int]) -> bool:
        """Whether two of these outermost calls get the very same numbers."""
        assert self._record is not None
        calls = self._record.calls
        for i, first in enumerate(numbers):
            for second in numbers[i + 1 :]:
                a, b = calls[first].inputs, calls[second].inputs
                if a and len(a) == len(b) and all(s is t for s, t in zip(a, b, strict=False)):
                    return True
        if self.remarks and not self.exam.insist:
            return False
        if self._values is None:
            try:
                self._values = [np.asarray(v) for v in self._rerun()]
            except Exception:
                self._values = []
            finally:
                self.exam.state.restore()
        groups = [[self._values[i] for i in self._outer.get(n, []) if i < len(self._values)] for n in numbers]
        for i, one in enumerate(groups):
            for two in groups[i + 1 :]:
                if one and len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=False)):
                    return True
        return False

    def origin(self, number: int) -> str:
        """In words: what an outermost call is given."""
        assert self._record is not None
        calls = self._record.calls
        record = calls[number]
        name = self.exam.path(record.layer)
        for tensor in record.inputs[:1]:
            for i, given in enumerate(self._inputs):
                if tensor is given:
                    return f"{name}({'x' if i == 0 else 'y' if i == len(self._inputs) - 1 else f'input {i}'})"
            for earlier in calls:
                if any(tensor is out for out in earlier.outputs):
                    return f"{name}(output of {self.exam.path(earlier.layer)!r})"
            return f"{name}({_made_by(tensor)})"
        return name

    def copies(self, key: int) -> bool:
        """Whether what is assigned to a variable depends on another one of its shape; True where the graph hides it."""
        if self.concrete is None:
            return True
        graph = self.concrete.graph
        keys = {inner.op.name: id(outer) for outer, inner in graph.captures if outer.dtype == tf.resource}
        assigned = [
            op for op in graph.get_operations() if _WRITES.match(op.type) and keys.get(op.inputs[0].op.name) == key
        ]
        if not assigned:
            return True
        for op in assigned:
            shape, queue, seen = op.inputs[-1].shape, [t.op for t in op.inputs[1:]], set()
            while queue:
                source = queue.pop()
                if source.name in seen:
                    continue
                seen.add(source.name)
                if source.type in ("PartitionedCall", "StatefulPartitionedCall", "While", "If"):
                    return True
                if source.type == "ReadVariableOp":
                    if keys.get(source.inputs[0].op.name) != key and source.outputs[0].shape == shape:
                        return True
                    continue
                queue += [t.op for t in source.inputs]
        return False

    def says_inference(self, layer: Any) -> bool:
        """Whether the step itself writes `training=False` on every outermost call that holds `layer`."""
        recorder = self.record()
        if recorder is None:
            return False
        seen = [
            recorder.calls[([n, *recorder.ancestors(n)])[-1]].explicit
            for n, record in enumerate(recorder.calls)
            if record.layer is layer
        ]
        return bool(seen) and all(explicit is False for explicit in seen)

    def fresh_writes(self) -> set[int] | None:
        """What the step would write if it were traced now; None unless the reader's trace is an older one."""
        if not self.cached:
            return None
        self.record()
        return self._fresh

    def optimized(self) -> set[int]:
        """Variables held by any optimizer that the step can reach."""
        held: set[int] = set()
        for item in _reach(self.step):
            known = getattr(item, "_trainable_variables", None)
            if known and hasattr(item, "apply_gradients"):
                held |= {id(_handle(v)) for v in known}
        own = getattr(getattr(self.exam.model, "optimizer", None), "_trainable_variables", None)
        return held | {id(_handle(v)) for v in own or ()}


def _arguments(function: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """What to hand the step: (x, y), or x alone, or the pair as one argument, as its signature asks."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return (x,) if y is None else (x, y)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    needed = [p for p in positional if p.default is inspect.Parameter.empty]
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters) or len(positional) >= 2:
        return (x, y) if y is not None or len(needed) > 1 else (x,)
    if not positional:
        return ()
    return (x,) if y is None else ((x, y),)


def _wants_value(error: BaseException) -> bool:
    """Whether an exception says that Python wanted the number behind a symbolic tensor (`float(loss)`, `.numpy()`)."""
    kinds = (TypeError, AttributeError, NotImplementedError, ValueError)
    return isinstance(error, kinds) and bool(
        re.search(r"[Ss]ymbolic|has no attribute 'numpy'|SymbolicTensor|numpy\(\) is only available", str(error))
    )


def _needs_autograph(error: BaseException) -> bool:
    return "OperatorNotAllowedInGraph" in type(error).__name__ or "as a Python `bool`" in str(error)


# -- Python's side of a step ------------------------------------------------------------------------------------------

_CHANGING = frozenset(
    ("append", "appendleft", "extend", "insert", "update", "add", "pop", "popleft", "popitem", "remove", "discard",
     "clear", "setdefault", "sort", "reverse")
)  # fmt: skip
_WRITING = frozenset(
    ("write", "writelines", "writerow", "writerows", "send", "put", "put_nowait", "dump", "log", "log_metric", "save")
)
_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def _code(function: Any) -> types.CodeType | None:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "python_function"):
            function = function.python_function
        else:
            break
    if not hasattr(function, "__code__"):
        function = inspect.getattr_static(type(function), "__call__", None)
    return getattr(function, "__code__", None)


def _is_bound(function: Any) -> bool:
    """Whether the first parameter of a step's code is an object that outlives the call: a method's, or `__call__`'s."""
    while isinstance(function, functools.partial) or hasattr(function, "python_function"):
        function = function.func if isinstance(function, functools.partial) else function.python_function
    return inspect.ismethod(function) or not inspect.isroutine(function)


def _unwrapped(function: Any) -> Any:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "python_function"):
            function = function.python_function
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            return function


def _names(function: Any) -> dict[str, Any]:
    """The free and global names a function uses, with their values now."""
    function = _unwrapped(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    values: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:
            continue
    used = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            used |= set(constant.co_names)
    space = getattr(function, "__globals__", {})
    values.update({name: space[name] for name in used if name in space and name not in values})
    return values


def _own_code(value: Any) -> bool:
    """Whether `value` is a Python function outside the libraries, whose body is worth reading."""
    function = _unwrapped(value)
    module = getattr(function, "__module__", None) or ""
    return isinstance(function, types.FunctionType) and module.split(".")[0] not in (
        "keras", "tf_keras", "tensorflow", "numpy", "functools", "phase_doctor", "inspect", "rich", "absl"
    )  # fmt: skip


def _python_effects(function: Any, depth: int = 0, seen: set[int] | None = None) -> list[str]:
    """Side effects of a step's Python that a graph does not hold, read off its bytecode, each as a phrase.

    Found are writes to `nonlocal` and `global` names, to attributes and items of objects from outside the function,
    mutating method calls on such objects, and one-shot iterators. Reading the bytecode finds what is written in the
    step and in the functions it calls by name; what hides deeper is not found.
    """
    seen = set() if seen is None else seen
    code = _code(function)
    if code is None or id(code) in seen or depth > 3:
        return []
    seen.add(id(code))
    values, remarks = _names(function), []
    for name, value in values.items():
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            remarks.append(f"reads the one-shot iterator `{name}`")
        elif _own_code(value):
            remarks += _python_effects(value, depth + 1, seen)
    bound = code.co_varnames[:1] if _is_bound(function) else ()
    instructions = list(dis.get_instructions(code))
    loads: dict[tuple[int | None, int | None], dis.Instruction] = {}
    for step in instructions:
        if step.opname.startswith("LOAD_") and step.positions is not None:
            loads.setdefault((step.positions.lineno, step.positions.col_offset), step)

    def outside(step: dis.Instruction) -> str | None:
        """Name of the outside object that the expression of `step` begins with."""
        if step.positions is None:
            return None
        first = loads.get((step.positions.lineno, step.positions.col_offset))
        if first is None or first is step:
            return None
        name = str(first.argval[0] if isinstance(first.argval, tuple) else first.argval)
        if first.opname in ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME"):
            return None if isinstance(values.get(name), types.ModuleType) else name
        return name if first.opname.startswith("LOAD_FAST") and name in bound else None

    for step in instructions:
        text = None
        if step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars):
            text = f"assigns the outer name `{step.argval}`"
        elif step.opname in ("STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR"):
            base = outside(step)
            what = f"`{base}.{step.argval}`" if step.opname == "STORE_ATTR" else f"an item of `{base}`"
            text = f"sets {what}" if base else None
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in _CHANGING | _WRITING:
            base = outside(step)
            if base and not _is_graph_object(values.get(base)):
                text = f"{'writes by' if step.argval in _WRITING else 'calls'} `{base}.{step.argval}`"
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval == "open" and "open" not in values:
            text = "opens a file"
        if text and text not in remarks:
            remarks.append(text)
    return remarks


def _is_graph_object(value: Any) -> bool:
    """Keras and TensorFlow objects, whose state lies in variables."""
    return any(c.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow") for c in type(value).__mro__)


def _reach(start: Any) -> Iterator[Any]:
    """Objects a function can reach through closures, globals, partials and attributes, itself included."""
    queue = collections.deque([(start, 0)])
    seen: set[int] = set()
    while queue and len(seen) < 5000:
        item, depth = queue.popleft()
        if id(item) in seen or isinstance(item, (*_PLAIN, np.ndarray, types.ModuleType, type)) or depth > 6:
            continue
        seen.add(id(item))
        yield item
        children: list[Any] = []
        if isinstance(item, functools.partial):
            children += [item.func, *item.args, *item.keywords.values()]
        elif inspect.ismethod(item):
            children += [item.__self__, item.__func__]
        elif hasattr(item, "python_function"):
            children.append(item.python_function)
        elif isinstance(item, types.FunctionType):
            children += list(_names(item).values()) if _own_code(item) else []
            children += list(item.__defaults__ or ())
        elif isinstance(item, Mapping):
            children += list(item.values())
        elif isinstance(item, (list, tuple, set)):
            children += list(item)
        elif not _is_graph_object(item):
            children += list(getattr(item, "__dict__", {}).values())
        elif hasattr(item, "optimizer"):
            children.append(getattr(item, "optimizer", None))
        queue.extend((c, depth + 1) for c in children)


def _reachable(step: Any) -> list[Any]:
    """Variables of every model, layer, metric and optimizer that a step can reach, and bare ones."""
    found: list[Any] = []
    for item in _reach(step):
        if _tf_variables(item):
            found.append(item)
        elif _is_graph_object(item):
            variables = getattr(item, "variables", None)
            try:
                found += list(variables() if callable(variables) else variables or ())
            except Exception:
                continue
    return found


class _PythonState:
    """Python objects that a step may change while it is traced: containers, plain names, random generators."""

    def __init__(self, step: Any, model: Any) -> None:
        self.random = (random.getstate(), np.random.get_state())
        self.cells: list[tuple[Any, Any]] = []
        self.globals: list[tuple[dict, str, Any]] = []
        self.copies: list[tuple[Any, Any]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.plain: list[tuple[dict, dict, set[str]]] = []  # numbers and names that a step sets on Keras objects
        stored = _stored_attributes(step) if step is not None else set()
        for name in ("train_function", "test_function", "predict_function", "train_tf_function", "stop_training"):
            if name in getattr(model, "__dict__", {}):
                self.attributes.append((model, name, model.__dict__[name]))
        for item in _reach(step) if step is not None else ():
            if isinstance(item, types.FunctionType):
                for cell in item.__closure__ or ():
                    try:
                        self.cells.append((cell, cell.cell_contents))
                    except ValueError:
                        continue
                code = item.__code__
                self.globals += [
                    (item.__globals__, n, item.__globals__[n]) for n in code.co_names if n in item.__globals__
                ]
            elif type(item) in (list, dict, set, collections.deque, collections.defaultdict, collections.Counter):
                self.copies.append((item, item.copy()))
            elif not _is_graph_object(item) and hasattr(item, "__dict__") and not inspect.isroutine(item):
                self.copies.append((item.__dict__, dict(item.__dict__)))
            elif _is_graph_object(item) and isinstance(getattr(item, "__dict__", None), dict):
                now = {k: v for k, v in item.__dict__.items() if k in stored and type(v) in _PLAIN}
                self.plain.append((item.__dict__, now, stored))

    def restore(self) -> None:
        random.setstate(self.random[0])
        np.random.set_state(self.random[1])
        for cell, value in self.cells:
            if cell.cell_contents is not value:
                cell.cell_contents = value
        for space, name, value in self.globals:
            if space.get(name) is not value:
                space[name] = value
        for original, copy in self.copies:
            if original != copy if isinstance(original, (set, collections.deque)) else not _identical(original, copy):
                if isinstance(original, (list, collections.deque)):
                    original.clear()
                    original.extend(copy)
                else:
                    original.clear()
                    original.update(copy)
        for space, before, stored in self.plain:
            for name in [k for k, v in space.items() if k in stored and type(v) in _PLAIN and k not in before]:
                del space[name]
            space.update(before)
        for owner, name, value in self.attributes:
            if owner.__dict__.get(name) is not value:
                owner.__dict__[name] = value


def _stored_attributes(step: Any) -> set[str]:
    """Names of the attributes that a step's own Python sets."""
    codes = {_code(item) for item in _reach(step) if _own_code(item)} | {_code(step)}
    return {str(i.argval) for c in codes if c is not None for i in dis.get_instructions(c) if i.opname == "STORE_ATTR"}


def _identical(first: Any, second: Any) -> bool:
    if len(first) != len(second):
        return False
    if isinstance(first, list):
        return all(a is b for a, b in zip(first, second, strict=False))
    return all(key in second and second[key] is value for key, value in first.items())


# ---------------------------------------------------------------------------------------------------------------
# Artifacts.


@dataclasses.dataclass
class _Artifact:
    """An exported model: how to run it, and what its graph says."""

    kind: str
    run: Callable[[Any], list[np.ndarray]]
    fixed: list[str]  # what fixes the batch size or asks for a phase
    writes: int
    seeds: int  # of the writes, those to integers: the states of seed generators
    drawn: list[str]
    unit: float = 2.0**-23  # relative size of one rounding step in the artifact's numbers


_PHASE_INPUT = re.compile(r"learning_phase|(^|[/_])(is_)?training(:|$|_)", re.IGNORECASE)


def _spec_remarks(name: str, shape: Any, dtype: Any) -> list[str]:
    remarks = []
    dims = list(shape) if shape is not None else []
    if dims and isinstance(dims[0], int) and dims[0] > 0:
        remarks.append(f"input {name!r} takes batches of exactly {dims[0]}")
    if _PHASE_INPUT.search(str(name)) or (not dims and "bool" in str(dtype)):
        remarks.append(f"input {name!r} asks for the phase")
    return remarks


def _open_artifact(path: Path, exam: _Exam) -> _Artifact:
    """Loads an artifact by its kind, without writing anything."""
    if not path.exists():
        raise CannotExamine(f"There is no artifact at {path}.")
    if path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise CannotExamine(f"{path} is a folder without saved_model.pb: hand the doctor a SavedModel, or a file.")
        return _open_saved_model(path)
    suffix = path.suffix.lower()
    if suffix in (".keras", ".h5", ".hdf5") and not path.name.endswith(".weights.h5"):
        return _open_keras(path, exam)
    if suffix == ".tflite":
        return _open_tflite(path)
    if suffix == ".onnx":
        return _open_onnx(path)
    raise CannotExamine(f"{path.name} is no SavedModel folder, .keras, .h5, .tflite or .onnx file.")


def _by_name(x: Any, names: Sequence[str], shapes: Sequence[Any], order: Sequence[str]) -> dict[str, Any]:
    """Which leaf of `x` goes to which named input: by key, by the model's input names, else in order."""
    if isinstance(x, Mapping) and len(names) == len(x):
        found = {name: next((x[k] for k in x if str(name).split(":")[0].endswith(str(k))), None) for name in names}
        if all(value is not None for value in found.values()):
            return found
    leaves = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
    if len(names) == 1:
        return {names[0]: leaves[0]}
    if set(order) == set(names):
        return {name: leaves[list(order).index(name)] for name in names}
    rest, found = list(leaves), {}
    for name, shape in zip(names, shapes, strict=False):
        fits = [leaf for leaf in rest if _fits(leaf, shape)] or rest
        if not fits:
            raise CannotExamine(f"the artifact wants an input {name!r} that the batch does not have")
        found[name] = fits[0]
        rest = [leaf for leaf in rest if leaf is not fits[0]]
    return found


def _fits(leaf: Any, shape: Any) -> bool:
    dims = list(shape) if shape is not None else None
    if dims is None or len(dims) != len(leaf.shape):
        return False
    pairs = zip(dims[1:], leaf.shape[1:], strict=False)
    return all(d is None or not isinstance(d, int) or d < 0 or d == n for d, n in pairs)


def _open_saved_model(path: Path) -> _Artifact:
    loaded = tf.saved_model.load(str(path))
    if loaded.signatures:
        name = "serving_default" if "serving_default" in loaded.signatures else sorted(loaded.signatures)[0]
        concrete = loaded.signatures[name]
        specs = concrete.structured_input_signature[1]
    else:
        endpoint = getattr(loaded, "serve", None) or (loaded if callable(loaded) else None)
        traces = (
            _traces(endpoint)
            or getattr(endpoint, "concrete_functions", [])
            or _traces(inspect.getattr_static(type(loaded), "__call__", None))
        )
        if not traces:
            raise CannotExamine(f"{path} holds no signature and no callable endpoint.")
        concrete = traces[0]
        specs = concrete.structured_input_signature[1]
    effects = _effects(concrete)
    fixed = []
    for key, spec in specs.items():
        fixed += _spec_remarks(key, spec.shape if spec.shape.rank is not None else None, spec.dtype.name)

    def run(x: Any) -> list[np.ndarray]:
        # A SavedModel written by a signature names its inputs; the loaded object keeps them alive.
        names = list(specs)
        given = _by_name(x, names, [specs[n].shape for n in names], getattr(run, "order", ()))
        out = concrete(**{n: tf.cast(v, specs[n].dtype) if v.dtype != specs[n].dtype else v for n, v in given.items()})
        run.__dict__["keep"] = loaded
        return _numbers(tf.nest.flatten(out))

    captured = [handle for handle in concrete.graph.external_captures if id(handle) in effects.writes]
    seeds = sum(handle._handle_data.shape_and_type[0].dtype not in _FLOATS for handle in captured)
    return _Artifact("SavedModel", run, fixed, len(effects.writes), seeds, sorted(effects.drawn))


def _open_keras(path: Path, exam: _Exam) -> _Artifact:
    model = exam.package.models.load_model(str(path), compile=False)
    inner = _Exam(model, exam.batches, None, None, False, exam.clock)
    route = inner.trace(inner.phase(False), inner.x)
    inner.state.add_all(inner.everything())
    inner.index_variables()
    fixed = []
    for tensor in _inputs(model):
        fixed += _spec_remarks(tensor.name, tuple(tensor.shape), tensor.dtype)
    for handle in route.concrete.graph.external_captures:
        if handle.dtype == tf.resource:
            inner.state.add(handle)
    writes = [k for k in route.effects.writes if k in inner.state.saved and not inner.is_seed(k)]

    def run(x: Any) -> list[np.ndarray]:
        try:
            return inner.outputs(route, x)
        except Exception:
            return inner.outputs(inner.trace(inner.phase(False), x), x)

    return _Artifact(path.suffix, run, fixed, len(writes), 0, sorted(route.effects.drawn))


def _open_tflite(path: Path) -> _Artifact:
    interpreter = tf.lite.Interpreter(model_path=str(path))
    details = interpreter.get_input_details()
    fixed = []
    for one in details:
        signature = one.get("shape_signature", one["shape"])
        fixed += _spec_remarks(one["name"], [int(d) for d in signature], np.dtype(one["dtype"]).name)
    operations = [str(d.get("op_name", "")).upper() for d in interpreter._get_ops_details()]
    drawn = sorted({o for o in operations if "RANDOM" in o or "MULTINOMIAL" in o})
    writes = sum("ASSIGN" in o for o in operations)
    kinds = {np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()}
    unit = 2.0**-8 if kinds & {"int8", "uint8", "int16"} else 2.0**-11 if "float16" in kinds else 2.0**-23

    def run(x: Any) -> list[np.ndarray]:
        names = [one["name"] for one in details]
        given = _by_name(
            x, names, [one.get("shape_signature", one["shape"]) for one in details], getattr(run, "order", ())
        )
        for one in details:
            interpreter.resize_tensor_input(one["index"], list(given[one["name"]].shape))
        interpreter.allocate_tensors()
        for one in details:
            value = given[one["name"]].numpy()
            scale, zero = one.get("quantization", (0.0, 0))
            if scale and np.issubdtype(one["dtype"], np.integer) and np.issubdtype(value.dtype, np.floating):
                limits = np.iinfo(one["dtype"])
                value = np.clip(np.round(value / scale + zero), limits.min, limits.max)
            interpreter.set_tensor(one["index"], value.astype(one["dtype"]))
        interpreter.invoke()
        results = []
        for one in interpreter.get_output_details():
            value = interpreter.get_tensor(one["index"]).astype(np.float64)
            scale, zero = one.get("quantization", (0.0, 0))
            results.append((value - zero) * scale if scale else value)
        return results

    return _Artifact("LiteRT", run, fixed, writes, 0, drawn, unit)


def _open_onnx(path: Path) -> _Artifact:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise CannotExamine("An .onnx artifact needs onnxruntime: pip install onnxruntime.") from error
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    fixed = []
    for one in inputs:
        fixed += _spec_remarks(one.name, [d if isinstance(d, int) else None for d in one.shape], one.type)
    drawn: list[str] = []
    try:
        graph = importlib.import_module("onnx").load(str(path)).graph
        drawn = sorted({n.op_type for n in graph.node if n.op_type.startswith("Random") or n.op_type == "Multinomial"})
    except ImportError:
        pass

    def run(x: Any) -> list[np.ndarray]:
        given = _by_name(x, [one.name for one in inputs], [one.shape for one in inputs], getattr(run, "order", ()))
        feed = {}
        for one in inputs:
            kind = {"float": "float32", "double": "float64", "float16": "float16"}.get(one.type[7:-1], one.type[7:-1])
            feed[one.name] = given[one.name].numpy().astype(kind)
        return [np.asarray(v, dtype=np.float64) for v in session.run(None, feed)]

    return _Artifact("ONNX", run, fixed, 0, 0, drawn)


def _repeats(artifact: _Artifact, exam: _Exam) -> bool:
    """Whether two runs of an artifact give the same numbers bit for bit."""
    try:
        first, second = artifact.run(exam.x), artifact.run(exam.x)
    except Exception:
        return False
    return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))


def _look_at_artifact(exam: _Exam, path: Path) -> None:
    """PD401, PD402 and PD403."""
    exam.clock.stage(f"examining {path.name}")
    try:
        began = time.perf_counter()
        artifact = _open_artifact(path, exam)
        exam.clock.tracing += time.perf_counter() - began
    except CannotExamine:
        raise
    except Exception as error:
        exam.failed(f"loading {path.name}", error)
        return
    artifact.run.__dict__["order"] = [t.name for t in _inputs(exam.model)]
    if artifact.writes or artifact.drawn:
        what = [f"{artifact.writes} assignments to variables"] * bool(artifact.writes) + artifact.drawn
        # Keras draws the masks of an RNN in every phase and uses them in one: that is no fault of the export.
        idle = bool(artifact.drawn) and artifact.writes == artifact.seeds and _repeats(artifact, exam)
        exam.report(
            "PD402", None,
            f"The endpoint of {path.name} holds {', '.join(what)}" + (", which no output depends on." if idle else "."),
            "note" if idle else None,
            assignments=artifact.writes, random_operations=artifact.drawn,
        )  # fmt: skip
    if artifact.fixed:
        exam.report("PD403", None, f"{path.name}: {'; '.join(artifact.fixed)}.", inputs=artifact.fixed)
    base = getattr(exam, "base", None)
    if base is None:
        return
    try:
        values = artifact.run(exam.x)
    except Exception as error:
        if not artifact.fixed:
            exam.failed(f"running {path.name}", error)
        return
    # Exporters may reorder outputs: each of the model's is compared with the nearest of its shape.
    pairs = []
    for expected in base:
        fits = [v for v in values if v.shape == expected.shape]
        if fits:
            pairs.append((expected, min(fits, key=lambda v: _rms([v - expected]))))
    if len(pairs) < len(base):
        shapes = [v.shape for v in values]
        exam.report(
            "PD401", None, f"{path.name} returns {shapes}, the model {[b.shape for b in base]}.", outputs=len(values)
        )
        return
    biggest = max((float(np.max(np.abs(b))) for b in base if b.size), default=0.0)
    noise = max(exam.noise, artifact.unit * biggest)
    distance, spread = _rms([v - b for b, v in pairs]), _spread([b for b in base if b.ndim])
    evidence: dict[str, Any] = {"rms_difference": distance, "rounding_noise": noise, "spread": spread}
    if exam.stochastic:
        exam.report("PD002", None, f"{path.name} was not compared in numbers: the model's inference is stochastic.")
    elif not math.isfinite(distance) or distance > ROUNDING_SIGMAS * noise:
        share = distance / max(_rms(base), 1e-30)
        amount = f"by {share:.1%} of the output" if math.isfinite(share) else "and answers what is not finite"
        exam.report("PD401", None, f"{path.name} differs from `model(x, training=False)` {amount}.", **evidence)
    elif spread <= ROUNDING_SIGMAS * noise:
        exam.report(
            "PD002", None, f"{path.name} agrees, but the output hardly varies over the batch: that proves nothing.",
            **evidence,
        )  # fmt: skip


def _shown_model(path: str) -> Any:
    """The Keras model at `path`, or CannotExamine."""
    if not Path(path).exists():
        raise CannotExamine(f"There is no model at {path}.")
    if Path(path).suffix.lower() not in (".keras", ".h5", ".hdf5"):
        raise CannotExamine(f"{path} is no .keras or .h5 file; hand other formats in with --artifact beside the model.")
    try:
        return keras.models.load_model(path)
    except Exception as error:
        raise CannotExamine(f"{path} could not be loaded: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------------------------------------------
# The interface.


def _bears_on(root: Finding, finding: Finding, model: str) -> bool:
    """Whether the layer of `root`, or one that it names, holds the layer of `finding` or lies in it."""
    if finding.code in GLOBAL or root.where in (None, model) or finding.where in (None, model):
        return True
    place = f"{finding.where}/"
    named = [f"{path}/" for path in (root.where, *root.evidence.get("layers", ()))]
    return any(place.startswith(path) or path.startswith(place) for path in named)


# --8<-- [start:diagnose]
def diagnose(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    train_step: Callable[..., Any] | None = None,
    artifact: str | os.PathLike[str] | None = None,
    loss: Any = None,
    allow: Sequence[str] = (),
    insist: bool = False,
    progress: bool = True,
) -> Diagnosis:
    """Examines a model, and the reader's own training step and artifact, for phase bugs.

    Everything is left as it was, bit for bit: weights, statistics, optimizer slots, metrics and seed generators are
    put back even after an exception or Ctrl-C. An unbuilt model comes back built, and optimizer slots that the first
    step would create exist afterwards; the diagnosis says so.

    Args:
        model: A Keras 3 or tf_keras model. Functional, Sequential, subclassed or nested.
        x: One batch as the model takes it (array, tensor, dict, tuple; shape (samples, ...)), or an iterable of
            batches. At least 8 samples are better; statistics need 4, the batch-mates rule 2.
        y: The targets of that batch, or None. Iterables of batches bring their own as (x, y).
        train_step: The reader's step, called as `train_step(x, y)`. Without one, a compiled model's own step stands in.
        artifact: Path of what was exported: SavedModel folder, .keras, .h5, .tflite or .onnx.
        loss: `loss(y, output)`, to report both phases' losses; default is the compiled one.
        allow: Codes to report as notes, for models that mean it: `("PD305",)` for Monte Carlo dropout or a VAE.
        insist: Run the step even when what it does cannot be put back (stateful `tf.random`, Python side effects,
            a one-shot iterator). Without it such a step is traced and judged by its graph alone.
        progress: Say on stderr what is going on once two seconds have passed.

    Raises:
        CannotExamine: For what is no Keras model, no data or no artifact; before anything is run.
    """
    # --8<-- [end:diagnose]
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    unknown = [code for code in allow if code not in RULES]
    if unknown:
        raise CannotExamine(
            f"`allow` names {', '.join(map(repr, unknown))}; the doctor's codes are {', '.join(RULES)}."
        )
    if _library(model) is None or not hasattr(model, "variables"):
        raise CannotExamine(
            f"`model` is {type(model).__module__}.{type(model).__name__}, not a Keras model: hand the doctor a "
            "keras.Model (or a tf_keras.Model). Load a file first with keras.models.load_model."
        )
    if _library(model) is keras and keras.backend.backend() != "tensorflow":
        raise CannotExamine(f"Keras runs on {keras.backend.backend()!r}: the doctor reads TensorFlow graphs.")
    if train_step is not None and not callable(train_step):
        raise CannotExamine(f"`train_step` is {type(train_step).__name__}: hand the doctor a function of (x, y).")
    if artifact is not None and not Path(artifact).exists():
        raise CannotExamine(f"There is no artifact at {artifact}.")
    clock = _Clock(progress)
    batches, remark = _batches(model, x, y, 1)
    exam = _Exam(model, batches, train_step, loss, insist, clock)
    if remark:
        exam.report("PD002", None, remark)
    exam.build()
    python = _PythonState(train_step, model)
    try:
        exam.examine()
        if artifact is not None:
            _look_at_artifact(exam, Path(artifact))
    finally:
        exam.state.restore()
        python.restore()
    for finding in exam.findings:
        if finding.code in allow:
            finding.severity = "note"
    roots = [f for f in exam.findings if f.severity != "note"]
    for finding in exam.findings:
        explains = {root.code for root in roots if _bears_on(root, finding, model.name)}
        finding.caused_by = next((code for code in CAUSES.get(finding.code, ()) if code in explains), None)
    severities = ("error", "warning", "note")
    exam.findings.sort(key=lambda f: (f.severity == "note", ORDER.index(f.code), severities.index(f.severity)))
    versions = {"TensorFlow": tf.__version__, exam.package.__name__: exam.package.__version__}
    return Diagnosis(exam.findings, clock.timing(), versions, model.name)


# --8<-- [start:assert_healthy]
def assert_healthy(model: Any, x: Any, y: Any = None, **options: Any) -> Diagnosis:
    """Raises AssertionError with the whole table when `diagnose` finds an error or a warning.

    Takes the arguments of `diagnose` and returns its diagnosis, so that a test can look at the notes as well.
    """
    diagnosis = diagnose(model, x, y, **options)
    if not diagnosis.ok:
        raise AssertionError(str(diagnosis))
    return diagnosis


# --8<-- [end:assert_healthy]


def _random_batch(model: Any, samples: int = 16) -> Any:
    """A batch of noise in the shape of the model's inputs, for want of data."""
    inputs = _inputs(model)
    if not inputs:
        raise CannotExamine("The model does not say what it takes: hand in a batch with --data X.npy.")
    generator = np.random.default_rng(0)
    leaves = []
    for tensor in inputs:
        shape = (samples, *(8 if d is None else int(d) for d in tuple(tensor.shape)[1:]))
        if "int" in str(tensor.dtype):
            leaves.append(generator.integers(0, 2, size=shape).astype("int32"))
        else:
            leaves.append(generator.normal(size=shape).astype("float32"))
    return leaves if len(leaves) > 1 else leaves[0]


def _load_batch(path: str) -> Any:
    """A batch from .npy, or a dict of arrays from .npz."""
    if not Path(path).exists():
        raise CannotExamine(f"There is no data at {path}.")
    try:
        loaded = np.load(path, allow_pickle=False)
        return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else loaded
    except (ValueError, OSError) as error:
        raise CannotExamine(f"{path} is no .npy or .npz file of plain arrays: {error}") from error


def _demo(seed: int) -> None:
    """Two training loops on real digits, one word apart, before the doctor."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise SystemExit("The demo's digits come with scikit-learn: pip install scikit-learn") from error
    digits = datasets.load_digits()
    x, y = (digits.images[..., None] / 16.0).astype("float32"), digits.target
    try:
        track = importlib.import_module("rich.progress").track
    except ImportError:
        track = lambda sequence, **_: sequence  # noqa: E731
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for training in (None, True):
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        model = keras.Sequential([keras.Input((8, 8, 1))])
        for block in range(3):
            model.add(layers.Conv2D(16, 3, padding="same"))
            model.add(layers.BatchNormalization(momentum=0.9, name=f"bn{block}"))
            model.add(layers.ReLU())
        model.add(layers.GlobalAveragePooling2D())
        model.add(layers.Dense(10))
        optimizer = keras.optimizers.Adam(3e-3)

        @tf.function
        def step(xb: Any, yb: Any, model=model, optimizer=optimizer, training=training) -> Any:
            with tf.GradientTape() as tape:
                value = loss(yb, model(xb, training=training))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return value

        said = "model(x, training=True)" if training else "model(x)"
        batches = (
            tf.data.Dataset.from_tensor_slices((x[:1400], y[:1400]))
            .shuffle(1400, seed=seed)
            .repeat()
            .batch(32)
            .take(150)
        )
        for xb, yb in track(list(batches), description=f"training with {said}"):
            step(xb, yb)
        predicted = np.argmax(model.predict(x[1400:], verbose=0), axis=-1)
        diagnosis = diagnose(model, x[1400:1432], y[1400:1432], train_step=step, loss=loss, progress=False)
        print(f"\nstep calls {said}: accuracy on held-out digits {np.mean(predicted == y[1400:]):.2f}")
        print(diagnosis)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 when healthy, 1 with findings, 2 when the model could not be examined."""
    parser = argparse.ArgumentParser(
        prog="phase_doctor.py",
        description="Find phase bugs in a Keras model: layers that run in the wrong phase, stale moving statistics, "
        "inference that depends on batch mates. Exit status: 0 healthy, 1 findings, 2 could not examine.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a .keras or .h5 file; without one, a demo on digits")
    parser.add_argument(
        "--data", metavar="X.npy", help="a batch of real inputs (.npy, or .npz for named inputs); without it, noise"
    )
    parser.add_argument("--artifact", metavar="PATH", help="what was exported: SavedModel, .keras, .tflite or .onnx")
    parser.add_argument("--allow", metavar="CODE", nargs="*", default=(), help="codes to report as notes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seed", type=int, default=0, help="seed of the demo")
    options = parser.parse_args(argv)
    if options.model is None:
        if options.data or options.artifact:
            parser.error("name the MODEL to examine")
        _demo(options.seed)
        return 0
    try:
        model = _shown_model(options.model)
        x = _load_batch(options.data) if options.data else _random_batch(model)
        # Noise is unlike any data that the statistics of a good model describe.
        noise = () if options.data else ("PD202", "PD307", "PD308")
        diagnosis = diagnose(model, x, artifact=options.artifact, allow=(*options.allow, *noise))
        if noise:
            text = "No --data: random numbers were used, so what compares statistics with data is a note."
            diagnosis.findings.append(Finding("PD002", "note", None, text, cure=RULES["PD002"][2]))
    except CannotExamine as error:
        print(f"could not examine: {error}", file=sys.stderr)
        return 2
    print(diagnosis.to_json() if options.json else diagnosis)
    if any(f.code == "PD001" for f in diagnosis.findings):
        return 2
    return 0 if diagnosis.ok else 1


if __name__ == "__main__":
    sys.exit(main())
