"""Exported files: how to run each kind, and what its graph says."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .batches import inputs_of
from .effects import FLOATS, effects_of
from .noise import ROUNDING_SIGMAS, rms, spread_of
from .report import CannotExamine
from .routes import numbers_of, traces_of
from .variables import same_bits

if TYPE_CHECKING:
    from .examination import Exam


@dataclasses.dataclass
class Artifact:
    """An exported model: how to run it, and what its graph says."""

    kind: str
    run: Callable[[Any], list[np.ndarray]]
    fixed: list[str]  # what fixes the batch size or asks for a phase
    writes: int
    seeds: int  # of the writes, those to integers: the states of seed generators
    drawn: list[str]
    unit: float = (
        2.0**-23
    )  # relative size of one rounding step in the artifact's numbers


PHASE_INPUT = re.compile(r"learning_phase|(^|[/_])(is_)?training(:|$|_)", re.IGNORECASE)


def spec_remarks(name: str, shape: Any, dtype: Any) -> list[str]:
    remarks = []
    dims = list(shape) if shape is not None else []
    if dims and isinstance(dims[0], int) and dims[0] > 0:
        remarks.append(f"input {name!r} takes batches of exactly {dims[0]}")
    if PHASE_INPUT.search(str(name)) or (not dims and "bool" in str(dtype)):
        remarks.append(f"input {name!r} asks for the phase")
    return remarks


def open_artifact(path: Path, exam: Exam) -> Artifact:
    """Loads an artifact by its kind, without writing anything."""
    if not path.exists():
        raise CannotExamine(f"There is no artifact at {path}.")
    if path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise CannotExamine(
                f"{path} is a folder without saved_model.pb: hand the doctor a SavedModel, or a file."
            )
        return open_saved_model(path)
    suffix = path.suffix.lower()
    if suffix in (".keras", ".h5", ".hdf5") and not path.name.endswith(".weights.h5"):
        return open_keras(path, exam)
    if suffix == ".tflite":
        return open_tflite(path)
    if suffix == ".onnx":
        return open_onnx(path)
    raise CannotExamine(
        f"{path.name} is no SavedModel folder, .keras, .h5, .tflite or .onnx file."
    )


def by_name(
    x: Any, names: Sequence[str], shapes: Sequence[Any], order: Sequence[str]
) -> dict[str, Any]:
    """Which leaf of `x` goes to which named input: by key, by the model's input names, else in order."""
    if isinstance(x, Mapping) and len(names) == len(x):
        found = {
            name: next(
                (x[k] for k in x if str(name).split(":")[0].endswith(str(k))), None
            )
            for name in names
        }
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


def fits_shape(leaf: Any, shape: Any) -> bool:
    dims = list(shape) if shape is not None else None
    if dims is None or len(dims) != len(leaf.shape):
        return False
    pairs = zip(dims[1:], leaf.shape[1:], strict=False)
    return all(d is None or not isinstance(d, int) or d < 0 or d == n for d, n in pairs)


def open_saved_model(path: Path) -> Artifact:
    loaded = tf.saved_model.load(str(path))
    if loaded.signatures:
        name = (
            "serving_default"
            if "serving_default" in loaded.signatures
            else sorted(loaded.signatures)[0]
        )
        concrete = loaded.signatures[name]
        specs = concrete.structured_input_signature[1]
    else:
        endpoint = getattr(loaded, "serve", None) or (
            loaded if callable(loaded) else None
        )
        traces = (
            traces_of(endpoint)
            or getattr(endpoint, "concrete_functions", [])
            or traces_of(inspect.getattr_static(type(loaded), "__call__", None))
        )
        if not traces:
            raise CannotExamine(f"{path} holds no signature and no callable endpoint.")
        concrete = traces[0]
        specs = concrete.structured_input_signature[1]
    effects = effects_of(concrete)
    fixed = []
    for key, spec in specs.items():
        fixed += spec_remarks(
            key, spec.shape if spec.shape.rank is not None else None, spec.dtype.name
        )

    def run(x: Any) -> list[np.ndarray]:
        # A SavedModel written by a signature names its inputs; the loaded object keeps them alive.
        names = list(specs)
        given = by_name(
            x, names, [specs[n].shape for n in names], getattr(run, "order", ())
        )
        out = concrete(
            **{
                n: tf.cast(v, specs[n].dtype) if v.dtype != specs[n].dtype else v
                for n, v in given.items()
            }
        )
        run.__dict__["keep"] = loaded
        return numbers_of(tf.nest.flatten(out))

    captured = [
        handle
        for handle in concrete.graph.external_captures
        if id(handle) in effects.writes
    ]
    seeds = sum(
        handle._handle_data.shape_and_type[0].dtype not in FLOATS for handle in captured
    )
    return Artifact(
        "SavedModel", run, fixed, len(effects.writes), seeds, sorted(effects.drawn)
    )


def open_keras(path: Path, exam: Exam) -> Artifact:
    from .examination import Exam

    model = exam.package.models.load_model(str(path), compile=False)
    inner = Exam(model, exam.batches, None, None, False, exam.clock)
    route = inner.trace(inner.phase(False), inner.x)
    inner.state.add_all(inner.everything())
    inner.index_variables()
    fixed = []
    for tensor in inputs_of(model):
        fixed += spec_remarks(tensor.name, tuple(tensor.shape), tensor.dtype)
    for handle in route.concrete.graph.external_captures:
        if handle.dtype == tf.resource:
            inner.state.add(handle)
    writes = [
        k
        for k in route.effects.writes
        if k in inner.state.saved and not inner.is_seed(k)
    ]

    def run(x: Any) -> list[np.ndarray]:
        try:
            return inner.outputs(route, x)
        except Exception:
            return inner.outputs(inner.trace(inner.phase(False), x), x)

    return Artifact(
        path.suffix, run, fixed, len(writes), 0, sorted(route.effects.drawn)
    )


def open_tflite(path: Path) -> Artifact:
    interpreter = tf.lite.Interpreter(model_path=str(path))
    details = interpreter.get_input_details()
    fixed = []
    for one in details:
        signature = one.get("shape_signature", one["shape"])
        fixed += spec_remarks(
            one["name"], [int(d) for d in signature], np.dtype(one["dtype"]).name
        )
    operations = [
        str(d.get("op_name", "")).upper() for d in interpreter._get_ops_details()
    ]
    drawn = sorted({o for o in operations if "RANDOM" in o or "MULTINOMIAL" in o})
    writes = sum("ASSIGN" in o for o in operations)
    kinds = {np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()}
    unit = (
        2.0**-8
        if kinds & {"int8", "uint8", "int16"}
        else 2.0**-11
        if "float16" in kinds
        else 2.0**-23
    )

    def run(x: Any) -> list[np.ndarray]:
        names = [one["name"] for one in details]
        given = by_name(
            x,
            names,
            [one.get("shape_signature", one["shape"]) for one in details],
            getattr(run, "order", ()),
        )
        for one in details:
            interpreter.resize_tensor_input(
                one["index"], list(given[one["name"]].shape)
            )
        interpreter.allocate_tensors()
        for one in details:
            value = given[one["name"]].numpy()
            scale, zero = one.get("quantization", (0.0, 0))
            if (
                scale
                and np.issubdtype(one["dtype"], np.integer)
                and np.issubdtype(value.dtype, np.floating)
            ):
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

    return Artifact("LiteRT", run, fixed, writes, 0, drawn, unit)


def open_onnx(path: Path) -> Artifact:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise CannotExamine(
            "An .onnx artifact needs onnxruntime: pip install onnxruntime."
        ) from error
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    fixed = []
    for one in inputs:
        fixed += spec_remarks(
            one.name, [d if isinstance(d, int) else None for d in one.shape], one.type
        )
    drawn: list[str] = []
    try:
        graph = importlib.import_module("onnx").load(str(path)).graph
        drawn = sorted(
            {
                n.op_type
                for n in graph.node
                if n.op_type.startswith("Random") or n.op_type == "Multinomial"
            }
        )
    except ImportError:
        pass

    def run(x: Any) -> list[np.ndarray]:
        given = by_name(
            x,
            [one.name for one in inputs],
            [one.shape for one in inputs],
            getattr(run, "order", ()),
        )
        feed = {}
        for one in inputs:
            kind = {"float": "float32", "double": "float64", "float16": "float16"}.get(
                one.type[7:-1], one.type[7:-1]
            )
            feed[one.name] = given[one.name].numpy().astype(kind)
        return [np.asarray(v, dtype=np.float64) for v in session.run(None, feed)]

    return Artifact("ONNX", run, fixed, 0, 0, drawn)


def repeats(artifact: Artifact, exam: Exam) -> bool:
    """Whether two runs of an artifact give the same numbers bit for bit."""
    try:
        first, second = artifact.run(exam.x), artifact.run(exam.x)
    except Exception:
        return False
    return len(first) == len(second) and all(
        same_bits(a, b) for a, b in zip(first, second, strict=True)
    )


def look_at_artifact(exam: Exam, path: Path) -> None:
    """PD401, PD402 and PD403."""
    exam.clock.stage(f"examining {path.name}")
    try:
        began = time.perf_counter()
        artifact = open_artifact(path, exam)
        exam.clock.tracing += time.perf_counter() - began
    except CannotExamine:
        raise
    except Exception as error:
        exam.failed(f"loading {path.name}", error)
        return
    artifact.run.__dict__["order"] = [t.name for t in inputs_of(exam.model)]
    if artifact.writes or artifact.drawn:
        what = [f"{artifact.writes} assignments to variables"] * bool(
            artifact.writes
        ) + artifact.drawn
        # Keras draws the masks of an RNN in every phase and uses them in one: that is no fault of the export.
        idle = (
            bool(artifact.drawn)
            and artifact.writes == artifact.seeds
            and repeats(artifact, exam)
        )
        exam.report(
            "PD402", None,
            f"The endpoint of {path.name} holds {', '.join(what)}" + (", which no output depends on." if idle else "."),
            "note" if idle else None,
            assignments=artifact.writes, random_operations=artifact.drawn,
        )  # fmt: skip
    if artifact.fixed:
        exam.report(
            "PD403",
            None,
            f"{path.name}: {'; '.join(artifact.fixed)}.",
            inputs=artifact.fixed,
        )
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
            pairs.append((expected, min(fits, key=lambda v: rms([v - expected]))))
    if len(pairs) < len(base):
        shapes = [v.shape for v in values]
        exam.report(
            "PD401",
            None,
            f"{path.name} returns {shapes}, the model {[b.shape for b in base]}.",
            outputs=len(values),
        )
        return
    biggest = max((float(np.max(np.abs(b))) for b in base if b.size), default=0.0)
    noise = max(exam.noise, artifact.unit * biggest)
    distance, spread = (
        rms([v - b for b, v in pairs]),
        spread_of([b for b in base if b.ndim]),
    )
    evidence: dict[str, Any] = {
        "rms_difference": distance,
        "rounding_noise": noise,
        "spread": spread,
    }
    if exam.stochastic:
        exam.report(
            "PD002",
            None,
            f"{path.name} was not compared in numbers: the model's inference is stochastic.",
        )
    elif not math.isfinite(distance) or distance > ROUNDING_SIGMAS * noise:
        share = distance / max(rms(base), 1e-30)
        amount = (
            f"by {share:.1%} of the output"
            if math.isfinite(share)
            else "and answers what is not finite"
        )
        exam.report(
            "PD401",
            None,
            f"{path.name} differs from `model(x, training=False)` {amount}.",
            **evidence,
        )
    elif spread <= ROUNDING_SIGMAS * noise:
        exam.report(
            "PD002", None, f"{path.name} agrees, but the output hardly varies over the batch: that proves nothing.",
            **evidence,
        )  # fmt: skip
