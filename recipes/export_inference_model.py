"""Export a trained model, and prove in a fresh process that every artifact is inference-only.

Symptom: The model is right in memory and wrong once exported: answers that change with the rest of the
    batch, answers that change from call to call, accuracy near chance for single rows.

Cause: An export freezes one phase into a graph. `model.export()` traces a call that names no phase, and a
    preprocessing layer (Random*, on Keras 3.6 to 3.15 also Resizing and CenterCrop) answers `training=True`
    for itself and for every layer after it. The artifact then normalises with batch statistics and assigns
    to its variables.

Fix: Export a function that says `training=False`, then let a process that never saw the model compare every
    artifact with `model(x, training=False)`. Nothing is left on disk unless all of them pass.

Holds on: Keras 3.0 to 3.16.dev with TensorFlow 2.16 to 2.22. ONNX needs tf2onnx and onnxruntime.

More: docs/recipes/export_inference_model.md in Phasebook.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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

import keras
import numpy as np
import tensorflow as tf

#: One array, a list of arrays, or a dict of arrays: what the model takes as its first argument.
Samples = np.ndarray | Sequence[np.ndarray] | dict[str, np.ndarray]

#: Format name -> file or folder name inside the export.
FORMATS = {"keras": "model.keras", "saved_model": "saved_model", "litert": "model.tflite", "onnx": "model.onnx"}

# The largest difference allowed, as a share of the largest output. Other kernels add in another order, which costs a
# few roundings per layer. float32: 1e-4 is about 1,000 roundings (eps 1.2e-7). Half precision: four roundings.
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2}
FLOAT32_TOLERANCE = 1e-4
# Outputs must spread this many tolerances apart over the samples, or agreement means nothing.
FAR = 20
# Rows that are also asked alone. More tell nothing new and cost a call each.
ROWS_ALONE = 32
VERIFY_SECONDS = 900
# What a disk that cannot be written raises, in Python and in TensorFlow.
WRITE_ERRORS = (OSError, tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError)


class ExportError(Exception):
    """No artifact was written. The subclasses say why."""


class UnbuiltModelError(ExportError):
    """The model has no weights yet."""


class SampleError(ExportError):
    """The samples cannot drive the check."""


class NonFiniteError(ExportError):
    """A weight or an output is NaN or infinite."""


class PathExistsError(ExportError):
    """The target exists; nothing is ever overwritten."""


class NotWritableError(ExportError):
    """The target's folder cannot be written."""


class ConversionError(ExportError):
    """A format cannot hold this model."""


class ProvesNothingError(ExportError):
    """The outputs hardly differ between samples, so any artifact would agree."""


class ProofFailedError(ExportError):
    """An artifact is not the inference-phase model. `proofs` holds the figures."""

    def __init__(self, message: str, proofs: list[Proof]) -> None:
        super().__init__(message)
        self.proofs = proofs


# --8<-- [start:endpoint]
def inference_endpoint(model: keras.Model, signature: Any) -> Any:
    """Trace `model(inputs, training=False)` once, for any batch size.

    `signature`: a `tf.TensorSpec` shaped (None, ...), or a list or dict of them, as the model takes its first argument.
    Returns a `tf.function` of that one argument.
    """

    def serve(inputs: Any) -> Any:
        return model(inputs, training=False)  # said outright: no layer is left to choose for itself

    endpoint = tf.function(serve, input_signature=[signature])
    endpoint.get_concrete_function()
    return endpoint


def write_saved_model(model: keras.Model, endpoint: Any, path: str | Path) -> None:
    """Write a SavedModel with `endpoint` as its only endpoint: `serve`, also the serving default."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", endpoint)
    with contextlib.redirect_stdout(io.StringIO()):  # `verbose=False` came with Keras 3.6
        archive.write_out(str(path))


# --8<-- [end:endpoint]


# --8<-- [start:converters]
def write_litert(saved_model: str | Path, path: str | Path) -> None:
    """Convert that SavedModel to LiteRT, with built-in operations only, so that the small runtime can run it.

    Not through `from_concrete_functions([...], model)`: a Keras 3 model's weights can stay variables there that
    nothing fills.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serve"])
    Path(path).write_bytes(converter.convert())


def write_onnx(endpoint: Any, path: str | Path) -> None:
    """Convert the endpoint to ONNX, opset 17."""
    import tf2onnx

    proto, _ = tf2onnx.convert.from_function(endpoint, input_signature=list(endpoint.input_signature), opset=17)
    Path(path).write_bytes(proto.SerializeToString())


# --8<-- [end:converters]


def input_signature(samples: Samples) -> Any:
    """The samples' dtypes and trailing axes, the first axis open. Names: the dict keys, input_0 and up, or inputs."""
    named = {
        name: tf.TensorSpec((None, *array.shape[1:]), array.dtype, name=name) for name, array in _named(samples).items()
    }
    return _like(samples, named)


# --8<-- [start:load]
@dataclasses.dataclass
class Artifact:
    """A loaded artifact. Call it with samples; it returns its outputs as a list of arrays, (rows, ...) each."""

    format: str
    run: Callable[[Any], list[np.ndarray]]
    dynamic_batch: bool = True
    operations: list[str] | None = None
    variables: Sequence[Any] = ()

    def __call__(self, samples: Samples) -> list[np.ndarray]:
        return self.run(samples)


def in_memory(model: keras.Model) -> Artifact:
    """The model itself as a callable. A `.keras` file holds layers, not a graph: each call must name the phase."""
    return Artifact("keras", lambda samples: _arrays(model(samples, training=False)), variables=model.variables)


def load(path: str | Path, custom_objects: dict[str, Any] | None = None) -> Artifact:
    """Load a `.keras`, `.tflite` or `.onnx` file or a SavedModel folder as a callable.

    `custom_objects`: for `.keras` alone, name -> class. Raises ValueError for any other path.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return _load_saved_model(path)
    if path.is_file() and path.suffix == ".keras":
        model = keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
        return in_memory(model)
    if path.is_file() and path.suffix == ".tflite":
        return _load_litert(path)
    if path.is_file() and path.suffix == ".onnx":
        return _load_onnx(path)
    raise ValueError(f"{path} is no .keras, .tflite or .onnx file and no SavedModel folder.")


def _load_saved_model(path: Path) -> Artifact:
    restored = tf.saved_model.load(str(path))
    endpoint = restored.signatures["serving_default"]
    specs = endpoint.structured_input_signature[1]

    def run(samples: Samples) -> list[np.ndarray]:
        inputs = {name: tf.constant(array) for name, array in _feed(specs, samples).items()}
        outputs = restored.signatures["serving_default"](**inputs)  # through `restored`, which owns the variables
        return [outputs[name].numpy() for name in _in_order(outputs)]

    return Artifact(
        "saved_model",
        run,
        dynamic_batch=all(spec.shape[0] is None for spec in specs.values()),
        operations=graph_operations(endpoint),
        variables=endpoint.variables,
    )


def _load_litert(path: Path) -> Artifact:
    interpreter = _litert_interpreter(path)
    runner = interpreter.get_signature_runner()
    details = runner.get_input_details()

    def run(samples: Samples) -> list[np.ndarray]:
        outputs = runner(**_feed(details, samples))
        return [np.array(outputs[name]) for name in _in_order(outputs)]

    return Artifact(
        "litert",
        run,
        dynamic_batch=all(detail["shape_signature"][0] == -1 for detail in details.values()),
        operations=litert_operations(path),
    )


def _load_onnx(path: Path) -> Artifact:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {item.name: item for item in session.get_inputs()}
    return Artifact(
        "onnx",
        lambda samples: list(session.run(None, _feed(inputs, samples))),
        dynamic_batch=all(not isinstance(item.shape[0], int) for item in inputs.values()),
    )


# --8<-- [end:load]


def _litert_interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        # TensorFlow's own copy announces its move to ai_edge_litert; it is used only where that is not installed.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        return Interpreter(model_path=str(path))


# --8<-- [start:operations]
#: Operations that change state or draw at random, by TensorFlow's names and by LiteRT's.
FORBIDDEN = re.compile(
    r"Assign|^Scatter(?!Nd$)|^Resource(Scatter|Apply|Sparse|Accumulator|CountUpTo)|LookupTable(Insert|Import|Remove)"
    r"|Random|Rng|Multinomial|TruncatedNormal|^Stateful(?!PartitionedCall)|Shuffle|Distorted|CandidateSampler"
    r"|NonDeterministic|PyFunc|ASSIGN|RANDOM|MULTINOMIAL|_RNG_"
)


def graph_operations(function: Any) -> list[str]:
    """Every operation a concrete function runs, functions it calls included.

    A SavedModel file also holds the code that restores its variables. That always assigns, and no call reaches it.
    """
    graph = function.graph.as_graph_def()
    library = {item.signature.name: item.node_def for item in graph.library.function}
    found: list[str] = []
    reached: set[str] = set()
    queue = [graph.node]
    while queue:
        for node in queue.pop():
            found.append(node.op)
            called = {node.op}
            for attribute in node.attr.values():
                called |= {attribute.func.name, *(item.name for item in attribute.list.func)}
            for name in (called & library.keys()) - reached:
                reached.add(name)
                queue.append(library[name])
    return found


def litert_operations(path: str | Path) -> list[str]:
    """Every operation a `.tflite` file runs on a call; CALL_ONCE, which sets variables up, is not followed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        tf.lite.experimental.Analyzer.analyze(model_path=str(path))
    subgraphs: dict[str, list[tuple[str, str]]] = {}
    for line in text.getvalue().splitlines():
        if start := re.match(r"Subgraph#(\d+)", line):
            operations = subgraphs.setdefault(start[1], [])
        elif operation := re.match(r"\s+Op#\d+ (\w+)(.*)", line):
            operations.append((operation[1], operation[2]))
    found: list[str] = []
    reached, queue = {"0"}, ["0"]
    while queue:
        for name, arguments in subgraphs[queue.pop()]:
            found.append(name)
            called = set() if name == "CALL_ONCE" else set(re.findall(r"Subgraph#(\d+)", arguments))
            queue.extend(called - reached)
            reached |= called
    return found


# --8<-- [end:operations]


@dataclasses.dataclass
class Proof:
    """What one artifact did. Differences are shares of the largest output, the worst output counting."""

    format: str
    path: str
    tolerance: float
    bytes: int = 0
    spread: float = float("nan")  # how far apart the model's own outputs lie over the samples
    error: float = float("nan")  # against model(x, training=False), at every batch size
    alone: float = float("nan")  # each row asked alone against the same row in the whole batch
    repeat: float = float("nan")  # the same call, twice more
    batch_sizes: tuple[int, ...] = ()
    dynamic_batch: bool = False
    operations: int | None = None  # scanned; None where the proof is numeric only
    forbidden: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # variables that calls changed
    crash: str = ""

    def failures(self) -> list[str]:
        """Why this is no proof; empty when it is one."""
        if self.crash:
            return [self.crash]
        found = []
        if not self.spread >= FAR * self.tolerance:  # `not >=`: a NaN must fail
            found.append(
                f"the comparison proves nothing: the outputs spread by {self.spread:.1e} over these samples, less than "
                f"{FAR} times the tolerance of {self.tolerance:.0e}"
            )
        if not self.error <= self.tolerance:
            allowed = f"{self.tolerance:.0e} is allowed"
            found.append(f"it differs from model(x, training=False) by {self.error:.1e}; {allowed}")
        if not self.alone <= self.tolerance:
            found.append(f"a row's answer depends on the rest of its batch, by {self.alone:.1e}")
        if not self.repeat <= self.tolerance:
            found.append(f"the same call again differs by {self.repeat:.1e}")
        if not self.dynamic_batch:
            found.append("its batch size is fixed")
        if self.forbidden:
            found.append(f"a call runs {', '.join(self.forbidden)}")
        if self.changed:
            found.append(f"calls changed {', '.join(self.changed)}")
        return found


@dataclasses.dataclass
class ExportReport:
    """The folder written, and one proof an artifact. Prints as a table."""

    directory: Path
    proofs: list[Proof]
    versions: str

    def __getitem__(self, format: str) -> Path:
        """The path of one format's artifact."""
        return self.directory / FORMATS[format]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("artifact", "KB", "error", "alone", "repeat", "operations scanned")]
        for proof in self.proofs:
            scanned = "numeric proof only" if proof.operations is None else f"{proof.operations}, none forbidden"
            figures = (f"{figure:.0e}" for figure in (proof.error, proof.alone, proof.repeat))
            rows.append((Path(proof.path).name, f"{proof.bytes / 1024:.0f}", *figures, scanned))
        first = self.proofs[0]
        sizes = ", ".join(map(str, first.batch_sizes))
        return "\n".join(
            [
                f"Inference-only, proved in a fresh process ({self.versions}): {self.directory}",
                *_table(rows),
                f"Shares of the largest output, at batch sizes {sizes}. Allowed: {first.tolerance:.0e}. "
                f"The outputs themselves spread by {first.spread:.2f}.",
            ]
        )


# --8<-- [start:verify]
def verify(
    artifact: Artifact,
    samples: Samples,
    expected: dict[int, list[np.ndarray]],
    tolerance: float = FLOAT32_TOLERANCE,
    path: str | Path = "",
) -> Proof:
    """Compare a loaded artifact with `expected`: batch size -> outputs of `model(samples[:size], training=False)`.

    The largest size must be all rows; `reference(model, samples)` makes such a dict. Returns the figures and
    raises nothing about them: read `Proof.failures()`.
    """
    rows = max(expected)
    scales = [_scale(output) for output in expected[rows]]

    def difference(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
        if len(got) != len(scales) or [output.shape for output in got] != [output.shape for output in wanted]:
            return float("inf")  # NumPy would broadcast some of these
        triples = zip(got, wanted, scales, strict=True)
        # np.max, not max: a NaN must survive.
        return float(np.max([np.max(np.abs(_float(a) - _float(b)), initial=0.0) / scale for a, b, scale in triples]))

    before = [np.array(variable) for variable in artifact.variables]
    whole = artifact(samples)
    repeat = np.max([difference(artifact(samples), whole) for _ in range(2)])  # twice: two coins can fall alike
    error = np.max([difference(artifact(_rows(samples, slice(size))), expected[size]) for size in expected])
    alone = [
        difference(artifact(_rows(samples, slice(row, row + 1))), [output[row : row + 1] for output in whole])
        for row in range(min(rows, ROWS_ALONE))
    ]
    return Proof(
        format=artifact.format,
        path=str(path),
        tolerance=tolerance,
        spread=spread(expected[rows]),
        error=float(error),
        alone=float(np.max(alone)),
        repeat=float(repeat),
        batch_sizes=tuple(sorted(expected)),
        dynamic_batch=artifact.dynamic_batch,
        operations=None if artifact.operations is None else len(artifact.operations),
        forbidden=tuple(sorted({name for name in artifact.operations or () if FORBIDDEN.search(name)})),
        changed=tuple(
            getattr(variable, "path", variable.name)
            for variable, value in zip(artifact.variables, before, strict=True)
            if not np.array_equal(np.array(variable), value)
        ),
    )


def spread(outputs: Sequence[np.ndarray]) -> float:
    """How far an output's values lie apart over the rows, as a share of its largest; the least of all outputs."""
    return float(np.min([np.max(np.ptp(_float(output), axis=0), initial=0.0) / _scale(output) for output in outputs]))


def reference(model: keras.Model, samples: Samples) -> dict[int, list[np.ndarray]]:
    """`model(samples[:size], training=False)` for a batch of 1, of 3 and of all rows (at least 4)."""
    rows = len(next(iter(_named(samples).values())))
    # On the CPU, as in the verifying process: a GPU may multiply in TensorFloat-32, good to three digits only.
    with tf.device("CPU:0"):
        return {size: in_memory(model)(_rows(samples, slice(size))) for size in (rows, 1, 3)}


# --8<-- [end:verify]


# --8<-- [start:fresh]
_CHILD = (
    "import importlib.util as u, sys; s = u.spec_from_file_location('export_verifier', sys.argv[1]); "
    "m = u.module_from_spec(s); sys.modules[s.name] = m; s.loader.exec_module(m); m._verify_folder(sys.argv[2])"
)


def verify_in_fresh_process(
    paths: Iterable[str | Path],
    samples: Samples,
    expected: dict[int, list[np.ndarray]],
    tolerance: float = FLOAT32_TOLERANCE,
    custom_objects: Sequence[Any] = (),
) -> tuple[list[Proof], str]:
    """Run `verify` on artifacts in one new Python process that imports this file and nothing of the model.

    `custom_objects`: classes and functions a `.keras` file needs. Only then, and only for that file, the modules
    that define them are imported. Returns the proofs, in order, and the versions that made them. Raises ExportError
    when a class has no source file to import, or when the process itself fails.
    """
    sources = [_source(item) for item in custom_objects]
    arrays = {f"sample/{name}": array for name, array in _named(samples).items()}
    arrays |= {f"expected/{size}/{i}": _float(array) for size, item in expected.items() for i, array in enumerate(item)}
    kind = "dict" if isinstance(samples, dict) else "list" if isinstance(samples, (list, tuple)) else "array"
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "arrays.npz"), **arrays)
        # .keras comes last, so that no class of the model's is imported before the other formats are done.
        plan = {"paths": [str(Path(path).resolve()) for path in paths], "kind": kind, "tolerance": tolerance}
        Path(folder, "plan.json").write_text(json.dumps({**plan, "sources": sources}))
        # On the CPU: this process may hold all of the GPU's memory.
        environment = {**os.environ, "PHASEBOOK_VERIFY": "1", "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-c", _CHILD, str(Path(__file__).resolve()), folder]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=VERIFY_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"The verifying process did not end within {VERIFY_SECONDS} s.") from error
        answer = Path(folder, "answer.json")
        if done.returncode or not answer.exists():
            raise ExportError(f"The verifying process failed with status {done.returncode}:\n{done.stderr[-2000:]}")
        found = json.loads(answer.read_text())
    return [_proof(item) for item in found["proofs"]], found["versions"]


def _verify_folder(folder: str) -> None:
    """What the fresh process runs."""
    plan = json.loads(Path(folder, "plan.json").read_text())
    samples: Any = {}
    expected: dict[int, list[np.ndarray]] = {}
    with np.load(Path(folder, "arrays.npz")) as arrays:
        for key in arrays.files:
            where, name, *_ = key.split("/", 1) if key.startswith("sample/") else key.split("/")
            if where == "sample":
                samples[name] = arrays[key]
            else:
                expected.setdefault(int(name), []).append(arrays[key])
    if plan["kind"] != "dict":
        samples = list(samples.values()) if plan["kind"] == "list" else samples["inputs"]
    proofs = {}
    for path in sorted(plan["paths"], key=lambda path: path.endswith(".keras")):
        try:
            custom = dict(map(_import, plan["sources"])) if path.endswith(".keras") else {}
            proof = verify(load(path, custom), samples, expected, plan["tolerance"], path)
        except Exception as error:  # any: the report must say what this artifact did
            kind = next((format for format, name in FORMATS.items() if path.endswith(Path(name).suffix or name)), "")
            proof = Proof(kind, path, plan["tolerance"], crash=_first_lines(error))
        proof.bytes = sum(item.stat().st_size for item in [Path(path), *Path(path).rglob("*")] if item.is_file())
        proofs[path] = dataclasses.asdict(proof)
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    answer = {"proofs": [proofs[path] for path in plan["paths"]], "versions": versions}
    Path(folder, "answer.json").write_text(json.dumps(answer))


def _proof(fields: dict[str, Any]) -> Proof:
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Proof(**plain)


def _source(item: Any) -> tuple[str, str, str]:
    """Where a fresh process finds a class or function: the folder to put on its path, the module, the name."""
    try:
        file = Path(inspect.getsourcefile(item) or "").resolve()
    except (TypeError, OSError):
        file = Path()
    if not file.is_file() or "<" in item.__qualname__:
        raise ExportError(
            f"{item.__qualname__} is defined in a notebook, a console or a function, where no other process can import "
            "it. Move it to a .py file at module level, or leave the keras format out."
        )
    module = file.stem if item.__module__ == "__main__" else item.__module__
    depth = module.count(".") + (file.name == "__init__.py")
    return str(file.parents[depth]), module, item.__qualname__


def _import(source: Sequence[str]) -> tuple[str, Any]:
    folder, module, name = source
    sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    finally:
        sys.path.remove(folder)
    for part in name.split("."):
        found = getattr(found, part)
    return name.split(".")[-1], found


# --8<-- [end:fresh]


# --8<-- [start:export]
def export_inference_model(
    model: keras.Model,
    samples: Samples,
    directory: str | Path,
    formats: Sequence[str] = tuple(FORMATS),
    custom_objects: Sequence[Any] = (),
    tolerance: float | None = None,
) -> ExportReport:
    """Write `model` for inference in each format, prove every artifact in one fresh process, and only then keep them.

    `samples`: at least 4 rows of real input, 16 to 64 is a good number: one array, a list or a dict, as the model takes
    it. Numbers only; float64 becomes float32. Their dtypes and all axes but the first become the artifacts' signature.
    `directory`: must not exist; its parent must. Gets `model.keras`, `saved_model/`, `model.tflite`, `model.onnx`.
    `custom_objects`: the classes a `.keras` file of a custom model needs, e.g. `[MyModel]`.
    `tolerance`: largest difference allowed, as a share of the largest output; by default 1e-4 (half precision: 4e-3
    for float16, 3e-2 for bfloat16).

    Raises UnbuiltModelError, SampleError, NonFiniteError, PathExistsError, NotWritableError, ConversionError,
    ProvesNothingError or ProofFailedError (all ExportError), ValueError for an unknown format, TypeError for what is
    no keras.Model, ImportError when a format's package is missing. Whatever is raised, nothing is left on disk.
    """
    directory = Path(directory)
    samples = _checked(model, samples, directory, formats, tolerance)
    precision = _precision(model)
    tolerance = TOLERANCE.get(precision, FLOAT32_TOLERANCE) if tolerance is None else tolerance
    if precision in TOLERANCE and "litert" in formats:
        raise ConversionError(
            f"LiteRT's built-in operations do not compute in {precision}, which this model does. Export the other "
            "formats, or build the model again under the float32 policy and give it these weights."
        )
    expected = _checked_reference(model, samples, tolerance)
    with _all_or_nothing(directory) as (work, out):
        try:
            endpoint = inference_endpoint(model, input_signature(samples))
        except Exception as error:
            raise ConversionError(f"The model cannot be traced into a graph: {_first_lines(error)}") from error
        saved_model = (out if "saved_model" in formats else work) / FORMATS["saved_model"]
        writers: dict[str, Callable[[], None]] = {
            "saved_model": lambda: write_saved_model(model, endpoint, saved_model),
            "keras": lambda: model.save(out / FORMATS["keras"]),
            "litert": lambda: write_litert(saved_model, out / FORMATS["litert"]),
            "onnx": lambda: write_onnx(endpoint, out / FORMATS["onnx"]),
        }
        for format, write in writers.items():
            if format in formats or (format == "saved_model" and "litert" in formats):
                try:
                    write()
                except WRITE_ERRORS:
                    raise
                except Exception as error:  # converters raise whatever they like
                    raise ConversionError(f"{format} cannot hold this model: {_first_lines(error)}") from error
        paths = [out / FORMATS[format] for format in formats]
        proofs, versions = verify_in_fresh_process(paths, samples, expected, tolerance, custom_objects)
        failed = [f"{Path(p.path).name}: {why}" for p in proofs for why in p.failures()]
        if failed:
            raise ProofFailedError("Nothing was written: " + "; ".join(failed) + ".", proofs)
    for proof in proofs:
        proof.path = str(directory / Path(proof.path).name)
    return ExportReport(directory, proofs, versions)


@contextlib.contextmanager
def _all_or_nothing(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a work folder and the folder that becomes `directory` if the body ends well; remove both otherwise."""
    work = None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        out = work / "out"
        out.mkdir()
        yield work, out
        os.rename(out, directory)  # one step, on one file system: all of it or nothing
    except WRITE_ERRORS as error:
        raise NotWritableError(f"Cannot write beside {directory}: {_first_lines(error)}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


# --8<-- [end:export]


def _checked(
    model: keras.Model, samples: Any, directory: Path, formats: Sequence[str], tolerance: float | None
) -> Samples:
    """Everything that can be refused before any work; returns the samples as arrays."""
    if "PHASEBOOK_VERIFY" in os.environ:
        raise ExportError(
            "A module named in custom_objects starts an export when it is imported. "
            'Put the export under `if __name__ == "__main__":`.'
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}.")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ValueError(f"formats must name some of {', '.join(FORMATS)}; got {unknown or 'none'}.")
    missing = [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise ImportError(f"The onnx format needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a share of the largest output, between 0 and 1; got {tolerance}.")
    if os.path.lexists(directory):
        raise PathExistsError(f"{directory} exists. Remove it or choose another folder: nothing is overwritten.")
    if not directory.parent.is_dir():
        raise NotWritableError(f"The folder {directory.parent} does not exist. Create it first.")
    if not model.built:
        raise UnbuiltModelError(
            f"{model.name} has no weights yet. Train it, or call it once on a batch and load its weights."
        )
    bad = [w.path for w in model.weights if not np.all(np.isfinite(_float(keras.ops.convert_to_numpy(w))))]
    if bad:
        raise NonFiniteError(
            f"NaN or infinity in {', '.join(bad)}. Statistics stay NaN for good after one bad batch: find it, then "
            "train or re-estimate them again."
        )
    kinds = (np.ndarray, tf.Tensor)
    flat = list(_named(samples).values())
    if not flat or not all(isinstance(array, kinds) and len(array.shape) for array in flat):
        raise SampleError("samples must be an array, a list or a dict of arrays, with rows along the first axis.")
    arrays = {name: np.asarray(array) for name, array in _named(samples).items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and not np.all(np.isfinite(array))):
            raise SampleError(f"{name} must hold finite numbers; got {array.dtype} with other values.")
        if array.dtype == np.float64:
            arrays[name] = array.astype("float32")  # what Keras makes of it
    rows = {len(array) for array in arrays.values()}
    if len(rows) > 1 or min(rows) < 4:
        raise SampleError(f"samples need the same number of rows everywhere, at least 4; got {sorted(rows)}.")
    return _like(samples, arrays)


def _checked_reference(model: keras.Model, samples: Samples, tolerance: float) -> dict[int, list[np.ndarray]]:
    try:
        expected = reference(model, samples)
    except Exception as error:
        raise SampleError(f"model(samples, training=False) fails: {_first_lines(error)}") from error
    if not all(np.all(np.isfinite(_float(output))) for item in expected.values() for output in item):
        raise NonFiniteError("model(samples, training=False) returns NaN or infinity, though every weight is finite.")
    apart = spread(expected[max(expected)])
    if not apart >= FAR * tolerance:
        raise ProvesNothingError(
            f"The model's outputs spread by {apart:.1e} of the largest over these samples; {FAR * tolerance:.0e} is "
            "needed. An artifact that ignored its input would agree as well. Give samples that the model tells apart; "
            "if there are none, it has not learned."
        )
    return expected


def _precision(model: keras.Model) -> str:
    """The coarsest dtype that any layer computes in."""
    dtypes = {str(layer.compute_dtype) for layer in model._flatten_layers()}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in dtypes), "float32")


def _named(samples: Any) -> dict[str, Any]:
    if isinstance(samples, dict):
        return dict(samples)
    if isinstance(samples, (list, tuple)):
        return {f"input_{i}": array for i, array in enumerate(samples)}
    return {"inputs": samples}


def _like(samples: Any, named: dict[str, Any]) -> Any:
    if isinstance(samples, dict):
        return named
    return list(named.values()) if isinstance(samples, (list, tuple)) else named["inputs"]


def _rows(samples: Samples, rows: slice) -> Samples:
    return _like(samples, {name: array[rows] for name, array in _named(samples).items()})


def _feed(names: Iterable[str], samples: Samples) -> dict[str, np.ndarray]:
    """Samples under the artifact's own input names."""
    names, named = list(names), _named(samples)
    if len(names) == 1 == len(named):
        return {names[0]: next(iter(named.values()))}
    if set(names) != set(named):
        raise ValueError(f"The artifact takes {sorted(names)}, the samples are named {sorted(named)}.")
    return named


def _in_order(names: Iterable[str]) -> list[str]:
    """tf.nest's order: sorted keys for a dict; output_0, output_1, ... by number for a list."""
    return sorted(names, key=lambda name: (len(name) if re.fullmatch(r"output_\d+", name) else 0, name))


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(output) for output in tf.nest.flatten(outputs)]


def _float(array: Any) -> np.ndarray:
    return np.asarray(array).astype("float64")


def _scale(output: np.ndarray) -> float:
    return float(np.max(np.abs(_float(output)), initial=0.0)) or 1.0


def _first_lines(error: BaseException) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:500]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in lines]


def main(argv: Sequence[str] | None = None) -> None:
    """Train a small CNN on digits, export it the plain way and the proved way, and compare both with the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="seed for data split, weights and training (default: 0)")
    parser.add_argument("--epochs", type=int, default=4, help="training epochs (default: 4)")
    parser.add_argument("--out", type=Path, help="keep the export in this new folder (default: a temporary one)")
    options = parser.parse_args(argv)
    try:
        from rich.progress import BarColumn, Progress, TextColumn
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit(f"The demo needs scikit-learn and rich: pip install scikit-learn rich ({error})") from error

    began = time.monotonic()
    keras.utils.set_random_seed(options.seed)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(options.seed).permutation(len(images))
    images = images[order].reshape(-1, 8, 8, 1).astype("float32")
    labels = labels[order]
    x, y, x_test, y_test = images[:1437], labels[:1437], images[1437:], labels[1437:]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.RandomTranslation(0.1, 0.1),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    with tempfile.TemporaryDirectory() as folder:
        columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns) as bar:
            task = bar.add_task("training", total=options.epochs + 2)
            for _ in range(options.epochs):
                model.fit(x, y, batch_size=32, verbose=0)
                bar.advance(task)
            bar.update(task, description="plain model.export()")
            plain = Path(folder, "plain")
            with contextlib.redirect_stdout(io.StringIO()):
                model.export(str(plain))
            bar.update(task, advance=1, description="four formats and a fresh process")
            report = export_inference_model(model, x_test[:32], options.out or Path(folder, "export"))
            bar.update(task, advance=1, description="done")

        def accuracy(artifact: Callable[[np.ndarray], list[np.ndarray]], batch: int) -> str:
            batches = [artifact(x_test[i : i + batch])[0] for i in range(0, 120, batch)]
            return f"{np.mean(np.argmax(np.concatenate(batches), -1) == y_test[:120]):.2f}"

        rows = [("120 test digits", "in batches of 30", "one at a time", "a call assigns or draws")]
        contenders = {"model(x, training=False)": in_memory(model), "before: model.export()": load(plain)}
        contenders |= {f"after: {FORMATS[format]}": load(report[format]) for format in FORMATS}
        for name, artifact in contenders.items():
            found = sorted({op for op in artifact.operations or () if FORBIDDEN.search(op)})
            scan = "not scanned" if artifact.operations is None else ", ".join(found) or "no"
            rows.append((name, accuracy(artifact, 30), accuracy(artifact, 1), scan))
        print("\n".join(_table(rows)))
        print(f"\n{report}\nIn {time.monotonic() - began:.0f} s after the imports.")


if __name__ == "__main__":
    main()
