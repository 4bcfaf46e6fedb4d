"""Plain exports write a training-phase graph, and the check says so; the recipe's pass it, or nothing is kept."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import tempfile
from pathlib import Path

import export_inference_model as recipe
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

DIGITS = load_digits().images[:, :, :, None].astype("float32")
SAMPLES = DIGITS[:8]


def digits_model(*preprocessing: keras.layers.Layer) -> keras.Model:
    """A net whose BatchNormalization has statistics of its own: with fresh ones, both phases could look alike."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 16),
            *preprocessing,
            keras.layers.Flatten(),
            keras.layers.Dense(16),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    for start in (0, 200, 400, 600):
        model(DIGITS[start : start + 200], training=True)
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return digits_model()


@pytest.fixture(scope="module")
def norm_model() -> keras.Model:
    """Without Dropout, whose random numbers tf2onnx refuses: BatchNormalization alone is the quiet case."""
    model = digits_model()
    return keras.Sequential([layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)])


def training_endpoint(model: keras.Model, signature: object = None) -> object:
    """What a plain export amounts to when something switches the training phase on."""
    signature = signature or tf.TensorSpec((None, 8, 8, 1), name="inputs")
    endpoint = tf.function(lambda inputs: model(inputs, training=True), input_signature=[signature])
    endpoint.get_concrete_function()
    return endpoint


def functional(inputs: object, outputs: object) -> keras.Model:
    return keras.Model(inputs, outputs)


def plain_export(model: keras.Model, path: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(str(path))
    return path


def proof_of(path: Path, model: keras.Model, samples: recipe.Samples = SAMPLES) -> recipe.Proof:
    return recipe.verify(recipe.load(path), samples, recipe.reference(model, samples))


@pytest.fixture
def same_process(monkeypatch):
    """Verify here: a process of its own costs 6 s. The slow tests below start real ones."""

    def here(paths, samples, expected, tolerance=recipe.FLOAT32_TOLERANCE, custom_objects=()):
        custom = {item.__name__: item for item in custom_objects}
        proofs = [
            recipe.verify(recipe.load(path, custom), samples, expected, tolerance, path) for path in map(Path, paths)
        ]
        return proofs, "this process"

    monkeypatch.setattr(recipe, "verify_in_fresh_process", here)


# --- The pitfall still bites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Resizing", "RandomTranslation"])
def test_plain_export_of_a_preprocessing_layer_is_a_training_graph_and_the_check_says_how(tmp_path, kind) -> None:
    layer = keras.layers.Resizing(8, 8) if kind == "Resizing" else keras.layers.RandomTranslation(0.1, 0.1)
    model = digits_model(layer)
    proof = proof_of(plain_export(model, tmp_path / "plain"), model)
    release = tuple(int(part) for part in keras.__version__.split(".")[:2])
    if kind == "Resizing" and not (3, 6) <= release < (3, 16):
        assert proof.failures() == []
        return
    assert proof.error > 0.2  # a fifth of the largest probability, at a tolerance of 1e-4
    assert proof.alone > 0.2
    assert "AssignVariableOp" in proof.forbidden
    assert any("depends on the rest of its batch" in failure for failure in proof.failures())
    if kind == "RandomTranslation":
        assert any("Random" in name for name in proof.forbidden)
        assert proof.repeat > 0.01


def test_plain_export_without_a_preprocessing_layer_is_inference_only(tmp_path, model) -> None:
    assert proof_of(plain_export(model, tmp_path / "plain"), model).failures() == []


def test_onnx_of_a_training_graph_shows_no_assignment_and_only_the_numbers_tell(tmp_path, norm_model) -> None:
    import onnx

    recipe.write_onnx(training_endpoint(norm_model), tmp_path / "lying.onnx")
    operations = {node.op_type for node in onnx.load(tmp_path / "lying.onnx").graph.node}
    assert "ReduceMean" in operations  # the batch's own mean
    assert not any(recipe.FORBIDDEN.search(name) for name in operations)  # the assignments were dropped in silence
    proof = proof_of(tmp_path / "lying.onnx", norm_model)
    assert proof.operations is None and proof.forbidden == ()
    assert proof.error > 0.2 and proof.alone > 0.2


@pytest.mark.skipif(tf.__version__.startswith("2.16."), reason="this conversion aborts the process on TensorFlow 2.16")
def test_litert_converted_with_the_keras_model_as_trackable_reads_variables_that_nothing_fills(tmp_path, model) -> None:
    endpoint = recipe.inference_endpoint(model, recipe.input_signature(SAMPLES))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([endpoint.get_concrete_function()], model)
    (tmp_path / "empty.tflite").write_bytes(converter.convert())
    operations = recipe.litert_operations(tmp_path / "empty.tflite")
    # Not run: what a call reads there is arbitrary.
    assert "READ_VARIABLE" in operations
    assert not {"CALL_ONCE", "ASSIGN_VARIABLE"} & set(operations)


# --- The cure cures ---------------------------------------------------------------------------------------------------


def test_every_format_of_a_model_with_preprocessing_layers_passes(tmp_path, same_process) -> None:
    model = digits_model(keras.layers.Resizing(8, 8), keras.layers.RandomFlip())
    before = [np.array(variable) for variable in model.variables]
    report = recipe.export_inference_model(model, SAMPLES, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(recipe.FORMATS.values())
    assert [proof.format for proof in report.proofs] == list(recipe.FORMATS)
    for proof in report.proofs:
        assert proof.failures() == []
        assert Path(proof.path).exists()
        assert proof.error <= 1e-5 and proof.alone <= 1e-5  # ten times below the tolerance
        assert proof.repeat == 0
        assert proof.spread > 0.5
        assert proof.batch_sizes == (1, 3, 8)
    assert [proof.operations is None for proof in report.proofs] == [True, False, False, True]
    assert all(np.array_equal(np.array(v), old) for v, old in zip(model.variables, before, strict=True))
    text = str(report)
    assert all(name in text for name in recipe.FORMATS.values())
    assert "Allowed: 1e-04" in text and "batch sizes 1, 3, 8" in text
    for format in recipe.FORMATS:
        artifact = recipe.load(report[format])
        np.testing.assert_allclose(artifact(DIGITS[20:25])[0], model(DIGITS[20:25], training=False), atol=1e-5)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~_umask()  # not mkdtemp's private 0o700


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_saved_model_file_does_hold_assignments_that_no_call_reaches(tmp_path, model) -> None:
    endpoint = recipe.inference_endpoint(model, recipe.input_signature(SAMPLES))
    recipe.write_saved_model(model, endpoint, tmp_path / "good")
    assert b"AssignVariableOp" in (tmp_path / "good" / "saved_model.pb").read_bytes()
    artifact = recipe.load(tmp_path / "good")
    assert not any(recipe.FORBIDDEN.search(name) for name in artifact.operations)
    assert {"MatMul", "Softmax"} <= set(artifact.operations)  # inside the function that the signature calls
    assert len(artifact.variables) == 8  # two Dense layers and four variables of BatchNormalization


def test_named_inputs_integer_inputs_and_several_outputs(tmp_path, same_process) -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    joined = keras.layers.Concatenate()([a, keras.layers.Flatten()(keras.layers.Embedding(9, 2)(b))])
    z, c = keras.layers.Dense(2, name="z")(joined), keras.layers.Dense(3, name="c")(joined)
    rng = np.random.default_rng(0)
    x = {"b": rng.integers(0, 9, (6, 3), "int32"), "a": rng.normal(size=(6, 4)).astype("float32")}
    named = recipe.export_inference_model(functional({"a": a, "b": b}, {"z": z, "c": c}), x, tmp_path / "dict")
    listed = recipe.export_inference_model(
        functional([a, b], [z, c]), [x["a"], x["b"]], tmp_path / "list", ["saved_model", "onnx"]
    )
    assert [proof.failures() for proof in named.proofs + listed.proofs] == [[]] * 6
    assert [output.shape for output in recipe.load(named["litert"])(x)] == [(6, 3), (6, 2)]  # c before z: sorted
    assert [output.shape for output in recipe.load(listed["onnx"])([x["a"], x["b"]])] == [(6, 2), (6, 3)]
    with pytest.raises(ValueError, match=r"takes \['a', 'b'\], the samples are named \['a', 'x'\]"):
        recipe.load(named["saved_model"])({"a": x["a"], "x": x["b"]})


def test_eleven_outputs_keep_their_order_and_float64_samples_become_float32(tmp_path, same_process) -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [keras.layers.Rescaling(i + 1.0)(inputs) for i in range(11)])
    report = recipe.export_inference_model(model, np.eye(4, 3), tmp_path / "out", ["saved_model", "litert"])
    assert [proof.failures() for proof in report.proofs] == [[]] * 2
    outputs = recipe.load(report["litert"])(np.eye(4, 3, dtype="float32"))
    assert [output.max() for output in outputs] == list(range(1, 12))


def test_recurrent_layers_reach_litert_unrolled(tmp_path, same_process) -> None:
    def recurrent(unroll: bool) -> keras.Model:
        return keras.Sequential([keras.Input((2, 3)), keras.layers.GRU(2, unroll=unroll)])

    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")
    with pytest.raises(recipe.ConversionError, match=r"litert cannot hold this model.*TensorListReserve"):
        recipe.export_inference_model(recurrent(False), x, tmp_path / "rolled", ["litert"])
    report = recipe.export_inference_model(recurrent(True), x, tmp_path / "unrolled", ["litert"])
    assert report.proofs[0].failures() == []


def test_mixed_float16_is_proved_to_its_own_tolerance_and_refused_for_litert(tmp_path, same_process) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = digits_model()
    keras.config.set_dtype_policy("float32")
    report = recipe.export_inference_model(model, SAMPLES, tmp_path / "out", ["keras", "saved_model", "onnx"])
    assert {proof.tolerance for proof in report.proofs} == {4e-3}
    with pytest.raises(recipe.ConversionError, match="do not compute in float16"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


# --- The check itself -------------------------------------------------------------------------------------------------


def stand_in(run, **fields) -> recipe.Proof:
    """Verify a function in place of an artifact, against y = x."""
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    expected = {size: [x[:size]] for size in (6, 1, 3)}
    return recipe.verify(recipe.Artifact("onnx", run, **fields), x, expected)


def test_a_perfect_artifact_has_no_failures() -> None:
    proof = stand_in(lambda x: [x])
    assert proof.failures() == []
    assert (proof.error, proof.alone, proof.repeat) == (0, 0, 0)


@pytest.mark.parametrize(
    ("run", "fields", "why"),
    [
        (lambda x: [x + 1e-2], {}, "differs from model"),
        (lambda x: [x + (1e-2 if len(x) == 3 else 0)], {}, "differs from model"),
        (lambda x: [x * np.nan], {}, "differs from model"),
        (lambda x: [x[:1] * 0 + x.mean(0, keepdims=True)], {}, "differs from model"),  # must not broadcast
        (lambda x: [x, x], {}, "differs from model"),
        (lambda x: [x + 1e-2 * (len(x) == 6)], {}, "depends on the rest of its batch"),
        (lambda x: [x + np.random.normal(0, 1e-2)], {}, "the same call again"),
        (lambda x: [x], {"dynamic_batch": False}, "batch size is fixed"),
        (lambda x: [x], {"operations": ["MatMul", "AssignVariableOp"]}, "a call runs AssignVariableOp"),
    ],
)
def test_each_way_to_fail_has_its_own_sentence(run, fields, why) -> None:
    assert any(why in failure for failure in stand_in(run, **fields).failures())


def test_an_artifact_whose_calls_change_its_variables_fails() -> None:
    counter = tf.Variable(0.0, name="counter")

    def run(x):
        counter.assign_add(1.0)
        return [x]

    assert any("calls changed counter" in failure for failure in stand_in(run, variables=[counter]).failures())


def test_a_near_constant_output_proves_nothing_whatever_the_artifact() -> None:
    x = np.zeros((6, 3), "float32")
    outputs = {size: [1 + 1e-4 * np.arange(size)[:, None]] for size in (6, 1, 3)}
    proof = recipe.verify(recipe.Artifact("onnx", lambda x: [outputs[6][0][: len(x)]]), x, outputs)
    assert proof.error == 0
    assert any("proves nothing" in failure for failure in proof.failures())


def test_a_fixed_batch_size_is_seen_in_every_graph_format(tmp_path, model) -> None:
    fixed = tf.function(
        lambda inputs: model(inputs, training=False),
        input_signature=[tf.TensorSpec((8, 8, 8, 1), name="inputs")],
    )
    fixed.get_concrete_function()
    recipe.write_saved_model(model, fixed, tmp_path / "fixed")
    recipe.write_litert(tmp_path / "fixed", tmp_path / "fixed.tflite")
    recipe.write_onnx(fixed, tmp_path / "fixed.onnx")
    for name in ("fixed", "fixed.tflite", "fixed.onnx"):
        assert recipe.load(tmp_path / name).dynamic_batch is False


def test_operations_are_followed_into_the_functions_a_call_runs(tmp_path) -> None:
    @tf.function
    def inner(x):
        return x + tf.random.uniform(())

    @tf.function(input_signature=[tf.TensorSpec((None, 3), name="inputs")])
    def outer(x):
        return tf.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, inner(y)), [0, x])[1]

    found = recipe.graph_operations(outer.get_concrete_function())
    assert "RandomUniform" in found and "RandomUniform" not in {
        operation.type for operation in outer.get_concrete_function().graph.get_operations()
    }
    module = tf.Module()
    module.serve = outer
    tf.saved_model.save(module, str(tmp_path / "loop"), signatures={"serve": outer})
    recipe.write_litert(tmp_path / "loop", tmp_path / "loop.tflite")
    assert "RANDOM_UNIFORM" in recipe.litert_operations(tmp_path / "loop.tflite")


def test_forbidden_names_cover_what_tensorflow_registers() -> None:
    from tensorflow.lite.python import schema_py_generated as litert
    from tensorflow.python.framework import op_def_registry

    changing_or_random = """
        AssignVariableOp AssignAddVariableOp AssignSubVariableOp ResourceScatterAdd ResourceApplyAdam ScatterUpdate
        LookupTableInsertV2 RandomUniform RandomStandardNormal StatelessRandomUniformV2 StatelessTruncatedNormalV2
        StatefulUniform StatelessMultinomial RngReadAndSkip StatelessShuffle SampleDistortedBoundingBoxV2 EagerPyFunc
    """
    harmless = """
        ReadVariableOp StatefulPartitionedCall VarHandleOp ScatterNd TensorScatterUpdate ResourceGather LRNGrad
        LookupTableFindV2 FusedBatchNormV3 QuantizedConv2DWithBiasSignedSumAndReluAndRequantize
    """
    for names, wanted in ((changing_or_random, True), (harmless, False)):
        for name in names.split():
            assert op_def_registry.get(name) is not None, f"{name} is no operation of this TensorFlow"
            assert bool(recipe.FORBIDDEN.search(name)) is wanted, name
    for name in (
        "ASSIGN_VARIABLE",
        "RANDOM_UNIFORM",
        "RANDOM_STANDARD_NORMAL",
        "MULTINOMIAL",
        "STABLEHLO_RNG_BIT_GENERATOR",
    ):
        assert hasattr(litert.BuiltinOperator, name) and recipe.FORBIDDEN.search(name), name


# --- Refusals: each its own error, and nothing left on disk -----------------------------------------------------------


class Normal(keras.Model):
    """A model of a custom class, importable from this file."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(momentum=0.5)
        self.dense = keras.layers.Dense(3)

    def call(self, x, training=None):
        return self.dense(self.norm(x, training=training))


def subclassed() -> keras.Model:
    model = Normal()
    for seed in range(4):
        model(np.random.default_rng(seed).normal(3, 2, (32, 5)).astype("float32"), training=True)
    return model


def with_nan_statistics() -> keras.Model:
    model = digits_model()
    norm = next(layer for layer in model.layers if "normalization" in layer.name)
    norm.moving_variance.assign(np.full(16, np.nan))
    return model


def constant_model() -> keras.Model:
    model = digits_model()
    model.layers[-1].kernel.assign(1e-9 * model.layers[-1].kernel)
    return model


def nan_model() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Rescaling(float("nan"))(inputs))


@pytest.mark.parametrize(
    ("error", "words", "make", "samples"),
    [
        (recipe.UnbuiltModelError, "no weights yet", Normal, SAMPLES),
        (recipe.NonFiniteError, "moving_variance", with_nan_statistics, SAMPLES),
        (recipe.NonFiniteError, "returns NaN", nan_model, SAMPLES),
        (recipe.ProvesNothingError, "proves|agree as well", constant_model, SAMPLES),
        (recipe.SampleError, "fails", digits_model, SAMPLES[:, :4]),
        (recipe.SampleError, "at least 4", digits_model, SAMPLES[:3]),
        (recipe.SampleError, "same number of rows", digits_model, [SAMPLES, SAMPLES[:5]]),
        (recipe.SampleError, "finite numbers", digits_model, SAMPLES * np.nan),
        (recipe.SampleError, "finite numbers", digits_model, np.full((4, 8, 8, 1), "a")),
        (recipe.SampleError, "must be an array", digits_model, SAMPLES.tolist()),
        (TypeError, "must be a keras.Model, not Dense", lambda: keras.layers.Dense(1), SAMPLES),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, error, words, make, samples
) -> None:
    model = make()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("started to write"))
    with pytest.raises(error, match=words):
        recipe.export_inference_model(model, samples, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_path_missing_folder_unknown_format_and_missing_package(tmp_path, monkeypatch, model) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(recipe.PathExistsError, match="there exists"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "there")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(recipe.PathExistsError, match="dangling exists"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "dangling")
    with pytest.raises(recipe.NotWritableError, match="does not exist"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "no" / "out")
    with pytest.raises(ValueError, match=r"\['h5'\]"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "out", ["h5"])
    with pytest.raises(ValueError, match="none"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "out", [])
    with pytest.raises(ValueError, match="between 0 and 1"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "out", tolerance=0)
    with pytest.raises(ValueError, match=r"no \.keras"):
        recipe.load(tmp_path / "there")
    monkeypatch.setattr(recipe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tf2onnx onnxruntime"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "out", ["onnx"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "there"]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("where", "raised", "wanted"),
    [
        ("mkdtemp", PermissionError(errno.EACCES, "Permission denied"), recipe.NotWritableError),
        ("write_saved_model", tf.errors.PermissionDeniedError(None, None, "read-only"), recipe.NotWritableError),
        ("write_onnx", OSError(errno.ENOSPC, "No space left on device"), recipe.NotWritableError),
        ("rename", OSError(errno.EACCES, "Permission denied"), recipe.NotWritableError),
        ("write_litert", ValueError("no such operation"), recipe.ConversionError),
        ("inference_endpoint", TypeError("not traceable"), recipe.ConversionError),
        ("write_onnx", KeyboardInterrupt(), KeyboardInterrupt),
        ("verify_in_fresh_process", recipe.ExportError("it crashed"), recipe.ExportError),
    ],
)
def test_an_error_at_any_step_leaves_nothing(tmp_path, monkeypatch, same_process, where, raised, wanted) -> None:
    def fail(*args, **kwargs):
        raise raised

    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    owner = {"mkdtemp": recipe.tempfile, "rename": recipe.os}.get(where, recipe)
    with monkeypatch.context() as patch, pytest.raises(wanted) as caught:
        patch.setattr(owner, where, fail)
        formats = [name for name in ("litert", "onnx") if where == f"write_{name}"] or ["keras", "saved_model"]
        recipe.export_inference_model(model, np.eye(4, 3, dtype="float32"), tmp_path / "out", formats)
    assert type(caught.value) is wanted
    assert list(tmp_path.iterdir()) == []


def test_a_failing_check_keeps_nothing_and_says_which_artifact_and_why(
    tmp_path, monkeypatch, same_process, norm_model
) -> None:
    monkeypatch.setattr(recipe, "inference_endpoint", training_endpoint)
    with pytest.raises(recipe.ProofFailedError) as caught:
        recipe.export_inference_model(norm_model, SAMPLES, tmp_path / "out")
    text = str(caught.value)
    for name in ("saved_model", "model.tflite", "model.onnx"):
        assert f"{name}: it differs from model(x, training=False)" in text
        assert f"{name}: a row's answer depends on the rest of its batch" in text
    assert "saved_model: a call runs AssignVariableOp" in text
    assert "model.tflite: a call runs ASSIGN_VARIABLE" in text
    assert "model.keras" not in text  # its layers are in order; only the graph was traced wrongly
    assert [bool(proof.failures()) for proof in caught.value.proofs] == [False, True, True, True]
    assert all(proof.error > 0.2 and proof.alone > 0.2 for proof in caught.value.proofs[1:])
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_random_in_inference_is_refused(tmp_path, same_process) -> None:
    class AlwaysDropped(keras.layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), AlwaysDropped(0.5), keras.layers.Dense(3)]
    )
    with pytest.raises(recipe.ProofFailedError, match="the same call again differs"):
        recipe.export_inference_model(model, SAMPLES, tmp_path / "out", ["saved_model"])
    assert list(tmp_path.iterdir()) == []


def test_classes_no_other_process_can_import_and_exports_on_import_are_refused(tmp_path, monkeypatch) -> None:
    class Local(Normal):
        pass

    for item in (Local, eval("lambda: None")):
        with pytest.raises(recipe.ExportError, match="defined in a notebook, a console or a function"):
            recipe.verify_in_fresh_process([], SAMPLES, {1: [SAMPLES]}, custom_objects=[item])
    assert recipe._source(Normal)[1:] == (__name__, "Normal")
    assert recipe._import(recipe._source(keras.layers.Dense)) == ("Dense", keras.layers.Dense)
    monkeypatch.setenv("PHASEBOOK_VERIFY", "1")
    with pytest.raises(recipe.ExportError, match="__main__"):
        recipe.export_inference_model(digits_model(), SAMPLES, tmp_path / "out")


# --- Fresh processes --------------------------------------------------------------------------------------------------

CUSTOM = """
import os
from pathlib import Path

import keras

with Path(__file__).with_name("imported.txt").open("a") as log:
    log.write(f"{os.getpid()}\\n")


class Custom(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(momentum=0.5)
        self.dense = keras.layers.Dense(3)

    def call(self, x, training=None):
        return self.dense(self.norm(x, training=training))
"""


@pytest.fixture
def custom_module(tmp_path, monkeypatch):
    """A module with a model class that writes down each process that imports it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "phasebook_custom.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path / "source")
    import phasebook_custom

    yield phasebook_custom, tmp_path / "source" / "imported.txt"
    del sys.modules["phasebook_custom"]


def custom_model(module) -> tuple[keras.Model, np.ndarray]:
    model = module.Custom()
    x = np.random.default_rng(0).normal(3, 2, (16, 5)).astype("float32")
    for _ in range(4):
        model(x, training=True)
    return model, x


@pytest.mark.slow
def test_a_fresh_process_imports_a_custom_class_for_its_keras_file_alone(tmp_path, custom_module) -> None:
    module, log = custom_module
    model, x = custom_model(module)
    report = recipe.export_inference_model(model, x, tmp_path / "out", custom_objects=[module.Custom])
    assert [proof.failures() for proof in report.proofs] == [[]] * 4
    assert all(proof.bytes > 100 for proof in report.proofs)
    assert f"TensorFlow {tf.__version__}, Keras {keras.__version__}" in str(report)
    processes = log.read_text().split()
    assert len(processes) == 2 and processes[0] == str(os.getpid()) != processes[1]


@pytest.mark.slow
def test_a_fresh_process_proves_graphs_without_any_source_and_cannot_load_the_class_without_it(
    tmp_path, custom_module
) -> None:
    module, log = custom_module
    model, x = custom_model(module)
    with pytest.raises(recipe.ProofFailedError, match=r"model\.keras: .*Custom") as caught:
        recipe.export_inference_model(model, x, tmp_path / "out")
    assert [bool(proof.failures()) for proof in caught.value.proofs] == [True, False, False, False]
    assert caught.value.proofs[0].crash and caught.value.proofs[0].format == "keras"
    assert log.read_text().split() == [str(os.getpid())]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_verifying_process_that_dies_is_an_error_that_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "_CHILD", "import sys; sys.exit('out of luck')")
    with pytest.raises(recipe.ExportError, match="status 1:\nout of luck"):
        recipe.export_inference_model(digits_model(), SAMPLES, tmp_path / "out", ["saved_model"])
    monkeypatch.setattr(recipe, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(recipe, "VERIFY_SECONDS", 0.5)
    with pytest.raises(recipe.ExportError, match="did not end within"):
        recipe.export_inference_model(digits_model(), SAMPLES, tmp_path / "out", ["saved_model"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demo_shows_the_plain_export_failing_and_the_others_equal_to_the_model(tmp_path, capsys) -> None:
    recipe.main(["--epochs", "2", "--out", str(tmp_path / "kept")])
    lines = capsys.readouterr().out.splitlines()
    rows = {
        key: next(line for line in lines if key in line) for key in ("model(x", "before:", *recipe.FORMATS.values())
    }

    def figures(key: str) -> list[float]:
        return [float(word) for word in rows[key].split() if word.startswith(("0.", "1."))][:2]

    assert min(figures("model(x")) > 0.7
    assert figures("before:")[1] < 0.3  # alone, BatchNormalization sees one row and answers with its bias
    assert "AssignVariableOp" in rows["before:"]
    for name in recipe.FORMATS.values():
        assert figures(name) == figures("model(x")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted(recipe.FORMATS.values())
