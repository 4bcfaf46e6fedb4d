"""Exported files: how to run each kind, and what its graph says."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .batches import inputs_of
from .bench import Bench, numbers_of
from .effects import FLOATS, effects_of, traces_of
from .evidence import Artifact
from .report import CannotExamine
from .subject import Subject

Run = Callable[[Any], list[np.ndarray]]


def gather_artifact(path: Path, bench: Bench, run_it: bool) -> Artifact | None:
    """Reads the file and runs it on the batch; twice where it draws at random."""
    subject, name = bench.subject, path.name
    try:
        with bench.clock.counting("tracing"):
            artifact, run = open_artifact(path, bench)
    except CannotExamine:
        raise
    except Exception as error:
        subject.failed(f"loading {name}", error, "artifact")
        return None
    if not run_it:
        return artifact
    try:
        artifact.outputs = run(subject.x)
        if artifact.drawn:
            artifact.again = run(subject.x)
    except Exception as error:
        if not artifact.fixed:
            subject.failed(f"running {name}", error, "artifact")
    return artifact


def open_artifact(path: Path, bench: Bench) -> tuple[Artifact, Run]:
    """Loads an artifact by its kind, without writing anything."""
    order = [t.name for t in inputs_of(bench.subject.model)]
    suffix = path.suffix.lower()
    if path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise CannotExamine(
                f"{path} is a folder without saved_model.pb: "
                "hand the doctor a SavedModel, or a file."
            )
        return open_saved_model(path, order)
    weights = path.name.endswith(".weights.h5")
    if suffix in (".keras", ".h5", ".hdf5") and not weights:
        return open_keras(path, bench)
    if suffix == ".tflite":
        return open_tflite(path, order)
    if suffix == ".onnx":
        return open_onnx(path, order)
    raise CannotExamine(
        f"{path.name} is no SavedModel folder, .keras, .h5, .tflite or .onnx file."
    )


PHASE_INPUT = re.compile(r"learning_phase|(^|[/_])(is_)?training(:|$|_)", re.IGNORECASE)


def spec_remarks(name: str, shape: Any, dtype: Any) -> list[str]:
    remarks = []
    dims = list(shape) if shape is not None else []
    if dims and isinstance(dims[0], int) and dims[0] > 0:
        remarks.append(f"input {name!r} takes batches of exactly {dims[0]}")
    if PHASE_INPUT.search(str(name)) or (not dims and "bool" in str(dtype)):
        remarks.append(f"input {name!r} asks for the phase")
    return remarks


def by_name(
    x: Any, names: Sequence[str], shapes: Sequence[Any], order: Sequence[str]
) -> dict[str, Any]:
    """Which leaf of `x` goes to which named input: by key, by the model's input names,
    else by shape, in order."""
    if isinstance(x, Mapping) and len(names) == len(x):
        found = {name: value_of(x, str(name).split(":")[0]) for name in names}
        if all(value is not None for value in found.values()):
            return found
    leaves = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
    if len(names) == 1:
        return {names[0]: leaves[0]}
    if set(order) == set(names):
        return {name: leaves[list(order).index(name)] for name in names}
    rest, found = list(leaves), {}
    for name, shape in zip(names, shapes, strict=False):
        fits = [leaf for leaf in rest if fits_shape(leaf, shape)] or rest
        if not fits:
            raise CannotExamine(
                f"the artifact wants an input {name!r} that the batch does not have"
            )
        found[name] = fits[0]
        rest = [leaf for leaf in rest if leaf is not fits[0]]
    return found


def value_of(x: Mapping[Any, Any], name: str) -> Any:
    return next((value for key, value in x.items() if name.endswith(str(key))), None)


def fits_shape(leaf: Any, shape: Any) -> bool:
    dims = list(shape) if shape is not None else None
    if dims is None or len(dims) != len(leaf.shape):
        return False
    pairs = zip(dims[1:], leaf.shape[1:], strict=False)
    return all(d is None or not isinstance(d, int) or d < 0 or d == n for d, n in pairs)


def open_saved_model(path: Path, order: Sequence[str]) -> tuple[Artifact, Run]:
    loaded = tf.saved_model.load(str(path))
    concrete = endpoint_of(loaded, path)
    specs = concrete.structured_input_signature[1]
    effects = effects_of(concrete)
    captured = [h for h in concrete.graph.external_captures if id(h) in effects.writes]
    kinds = [handle._handle_data.shape_and_type[0].dtype for handle in captured]
    artifact = Artifact(
        path.name,
        writes=len(effects.writes),
        seeds=sum(kind not in FLOATS for kind in kinds),
        drawn=sorted(effects.drawn),
    )
    for key, spec in specs.items():
        shape = spec.shape if spec.shape.rank is not None else None
        artifact.fixed += spec_remarks(key, shape, spec.dtype.name)

    def run(x: Any, keep_alive: Any = loaded) -> list[np.ndarray]:
        given = by_name(x, list(specs), [s.shape for s in specs.values()], order)
        cast = {
            n: v if v.dtype == specs[n].dtype else tf.cast(v, specs[n].dtype)
            for n, v in given.items()
        }
        return numbers_of(tf.nest.flatten(concrete(**cast)))

    return artifact, run


def endpoint_of(loaded: Any, path: Path) -> Any:
    """The concrete function that serves: a signature, `serve`, or the object itself."""
    signatures = loaded.signatures
    if signatures:
        usual = "serving_default"
        return signatures[usual if usual in signatures else sorted(signatures)[0]]
    endpoint = getattr(loaded, "serve", None) or (loaded if callable(loaded) else None)
    traces = (
        traces_of(endpoint)
        or getattr(endpoint, "concrete_functions", [])
        or traces_of(inspect.getattr_static(type(loaded), "__call__", None))
    )
    if not traces:
        raise CannotExamine(f"{path} holds no signature and no callable endpoint.")
    return traces[0]


def open_keras(path: Path, bench: Bench) -> tuple[Artifact, Run]:
    """A file with the model in it: examined as the model itself is."""
    subject = bench.subject
    model = subject.package.models.load_model(str(path), compile=False)
    inner = Bench(Subject(model, (subject.given, subject.y), None, None), bench.clock)
    call = inner.subject.phase(False)
    route = inner.trace(path.name, call, inner.subject.x)
    inner.remember()
    inner.capture(route.concrete)
    artifact = Artifact(
        path.name,
        writes=len(inner.floats(route.effects.writes)),
        drawn=sorted(route.effects.drawn),
    )
    for tensor in inputs_of(model):
        artifact.fixed += spec_remarks(tensor.name, tuple(tensor.shape), tensor.dtype)

    def run(x: Any) -> list[np.ndarray]:
        try:
            return inner.outputs(route, x)
        except Exception:  # another batch size
            return inner.outputs(inner.trace(path.name, call, x), x)

    return artifact, run


def open_tflite(path: Path, order: Sequence[str]) -> tuple[Artifact, Run]:
    interpreter = tf.lite.Interpreter(model_path=str(path))
    details = interpreter.get_input_details()
    names = [one["name"] for one in details]
    shapes = [one.get("shape_signature", one["shape"]) for one in details]
    operations = interpreter._get_ops_details()
    operations = [str(one.get("op_name", "")).upper() for one in operations]
    kinds = {np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()}
    artifact = Artifact(
        path.name,
        writes=sum("ASSIGN" in o for o in operations),
        drawn=sorted({o for o in operations if "RANDOM" in o or "MULTINOMIAL" in o}),
    )
    if kinds & {"int8", "uint8", "int16"}:
        artifact.unit = 2.0**-8
    elif "float16" in kinds:
        artifact.unit = 2.0**-11
    for one, shape in zip(details, shapes, strict=True):
        dims, kind = [int(d) for d in shape], np.dtype(one["dtype"]).name
        artifact.fixed += spec_remarks(one["name"], dims, kind)

    def run(x: Any) -> list[np.ndarray]:
        given = by_name(x, names, shapes, order)
        for one in details:
            size = list(given[one["name"]].shape)
            interpreter.resize_tensor_input(one["index"], size)
        interpreter.allocate_tensors()
        for one in details:
            value = quantized(given[one["name"]].numpy(), one)
            interpreter.set_tensor(one["index"], value.astype(one["dtype"]))
        interpreter.invoke()
        results = []
        for one in interpreter.get_output_details():
            value = interpreter.get_tensor(one["index"]).astype(np.float64)
            scale, zero = one.get("quantization", (0.0, 0))
            results.append((value - zero) * scale if scale else value)
        return results

    return artifact, run


def quantized(value: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """What an integer input of a quantized file takes in place of a number."""
    scale, zero = detail.get("quantization", (0.0, 0))
    whole = np.issubdtype(detail["dtype"], np.integer)
    if not scale or not whole or not np.issubdtype(value.dtype, np.floating):
        return value
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(value / scale + zero), limits.min, limits.max)


ONNX_KINDS = {"float": "float32", "double": "float64"}


def open_onnx(path: Path, order: Sequence[str]) -> tuple[Artifact, Run]:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise CannotExamine(
            "An .onnx artifact needs onnxruntime: pip install onnxruntime."
        ) from error
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    artifact = Artifact(path.name)
    for one in inputs:
        dims = [d if isinstance(d, int) else None for d in one.shape]
        artifact.fixed += spec_remarks(one.name, dims, one.type)
    with contextlib.suppress(ImportError):
        graph = importlib.import_module("onnx").load(str(path)).graph
        kinds = {node.op_type for node in graph.node}
        artifact.drawn = sorted(
            kind for kind in kinds if kind.startswith("Random") or kind == "Multinomial"
        )

    def run(x: Any) -> list[np.ndarray]:
        names, shapes = [one.name for one in inputs], [one.shape for one in inputs]
        given = by_name(x, names, shapes, order)
        feed = {}
        for one in inputs:
            kind = one.type[7:-1]  # "tensor(float)"
            value = given[one.name].numpy()
            feed[one.name] = value.astype(ONNX_KINDS.get(kind, kind))
        return [np.asarray(v, dtype=np.float64) for v in session.run(None, feed)]

    return artifact, run
