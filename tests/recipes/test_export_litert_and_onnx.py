"""A converter can lose weights, constants and operations; the recipe's files are the SavedModel, or not kept."""

from __future__ import annotations

import importlib.util

import export_litert_and_onnx as recipe
import keras
import numpy as np
import pytest
import tensorflow as tf

layers = keras.layers
X = np.random.default_rng(0).normal(3, 2, (16, 8)).astype("float32")
IMAGES = np.random.default_rng(0).normal(3, 2, (16, 8, 8, 4)).astype("float32")

missing = [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
ONNX, LITERT = ["model.onnx"], ["model.tflite"]


def sequential(x: np.ndarray, *stack: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input(x.shape[1:]), *stack])


def norm_model() -> keras.Model:
    """BatchNormalization with statistics of its own."""
    model = sequential(X, layers.Dense(6), layers.BatchNormalization(momentum=0.5), layers.Dense(3))
    model(X, training=True)
    return model


def saved(model: keras.Model, folder, samples, training: bool = False) -> str:
    """A SavedModel of one phase, its inputs named as the model's."""

    def spec(array, name=None):
        return tf.TensorSpec((None, *array.shape[1:]), array.dtype, name)

    named = isinstance(samples, dict)
    signature = {name: spec(array, name) for name, array in samples.items()} if named else spec(samples)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=training), input_signature=[signature])
    archive.write_out(str(folder))
    return str(folder)


def export(model: keras.Model, tmp_path, samples, formats) -> dict[str, float]:
    path = saved(model, tmp_path / "saved_model", samples)
    return recipe.export_litert_and_onnx(path, samples, tmp_path / "out", formats)


# --- The pitfall still bites ------------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.slow
def test_pitfall_onnx_of_a_training_graph_shows_no_assignment_and_only_the_numbers_tell(tmp_path) -> None:
    import onnxruntime
    import tf2onnx

    model = norm_model()
    spec = tf.TensorSpec((None, 8), name="x")
    lying = tf.function(lambda x: model(x, training=True), input_signature=[spec])
    proto, _ = tf2onnx.convert.from_function(lying, [spec], opset=17)
    operations = {node.op_type for node in proto.graph.node}
    assert "ReduceMean" in operations  # the batch's own mean
    assert not any("ssign" in name for name in operations)
    (got,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": X})
    right = model(X, training=False).numpy()
    assert np.abs(got - right).max() > 0.2 * np.abs(right).max()
    saved(model, tmp_path / "lying", X, training=True)
    with pytest.raises(ValueError, match=r"off by .* of the spread.*lying mixes rows; see export_inference_model"):
        recipe.export_litert_and_onnx(tmp_path / "lying", X, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(tf.__version__.startswith("2.16."), reason="this conversion aborts the process on TensorFlow 2.16")
def test_pitfall_litert_from_a_function_and_its_keras_model_reads_variables_that_nothing_fills(capfd) -> None:
    model = norm_model()
    serve = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((None, 8))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], model)
    tf.lite.experimental.Analyzer.analyze(model_content=converter.convert())
    # Not run: what a call reads there is arbitrary.
    text = capfd.readouterr().out
    assert "READ_VARIABLE" in text and "ASSIGN_VARIABLE" not in text


def everyday(name: str) -> tuple[keras.Model, np.ndarray]:
    scale = layers.Normalization()
    stacks = {
        "normalization": (X, scale, layers.Dense(3)),
        "normalization_given": (X, layers.Normalization(mean=[3.0] * 8, variance=[4.0] * 8), layers.Dense(3)),
        "gelu": (X, layers.Dense(8, activation="gelu"), layers.Dense(3)),
        "grouped_convolution": (IMAGES, layers.Conv2D(8, 3, groups=2), layers.Flatten(), layers.Dense(3)),
    }
    x, *stack = stacks[name]
    if scale in stack:
        scale.adapt(x)
    return sequential(x, *stack), x


RAW = {
    "normalization": "Required inputs .* are missing from input feed",
    "normalization_given": "Required inputs .* are missing from input feed",
    "gelu": "No Op registered for Erfc",
    "grouped_convolution": "No Op registered for StatefulPartitionedCall",
}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_pitfall_tf2onnx_alone_fails_on_everyday_layers_with_the_runtimes_words(name) -> None:
    import onnxruntime
    import tf2onnx

    if name == "gelu" and tf.__version__.startswith(("2.16.", "2.17.", "2.18.", "2.19.")):
        pytest.skip(f"TensorFlow {tf.__version__} makes GELU of Erf")
    model, x = everyday(name)
    spec = tf.TensorSpec((None, *x.shape[1:]), name="x")
    plain = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    proto, _ = tf2onnx.convert.from_function(plain, [spec], opset=17)
    with pytest.raises(Exception, match=RAW[name]):
        onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})


# --- The cure cures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [LITERT, pytest.param(ONNX, marks=needs_onnx)], ids=["litert", "onnx"])
def test_cure_batchnorm_is_the_saved_model_at_any_batch_size(tmp_path, formats) -> None:
    model = norm_model()
    differences = export(model, tmp_path, X, formats)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "saved_model"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == formats == list(differences)
    assert 0 <= differences[formats[0]] < 1e-5  # a hundred times below what is allowed


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_cure_everyday_layers_reach_both_formats(tmp_path, name) -> None:
    model, x = everyday(name)
    differences = export(model, tmp_path, x, LITERT + ONNX)
    assert max(differences.values()) < 1e-5


@needs_onnx
@pytest.mark.slow
def test_cure_names_and_order_of_inputs_and_outputs_survive(tmp_path) -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    joined = layers.Concatenate()([a, layers.Flatten()(layers.Embedding(9, 2)(b))])
    outputs = {f"o{i}": layers.Rescaling(i + 1.0)(joined) for i in range(11)}
    rng = np.random.default_rng(0)
    x = {"b": rng.integers(0, 9, (6, 3), "int32"), "a": rng.normal(size=(6, 4)).astype("float32")}
    assert max(export(keras.Model({"a": a, "b": b}, outputs), tmp_path, x, LITERT + ONNX).values()) < 1e-5


@needs_onnx
@pytest.mark.slow
def test_cure_a_transformer_block_and_a_recurrent_layer_reach_onnx(tmp_path) -> None:
    inputs = keras.Input((8, 4))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(2, 4)(inputs, inputs))
    x = layers.GRU(4)(layers.Dense(8, activation="gelu")(x))
    assert export(keras.Model(inputs, x), tmp_path, IMAGES[:, 0], ONNX)["model.onnx"] < 1e-5


@needs_onnx
@pytest.mark.slow
def test_cure_half_precision_reaches_onnx_and_litert_says_why_not(tmp_path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    path = saved(norm_model(), tmp_path / "saved_model", X)
    off = recipe.export_litert_and_onnx(path, X, tmp_path / "out", ONNX, tolerance=1e-2)
    assert off["model.onnx"] < 4e-3  # four roundings of float16
    with pytest.raises(ValueError, match=r"LiteRT cannot hold .*(MatMul|BiasAdd).*half precision a model"):
        recipe.export_litert_and_onnx(path, X, tmp_path / "refused", LITERT)
    assert not (tmp_path / "refused").exists()


# --- Refused by name, and nothing left --------------------------------------------------------------------------------


@pytest.mark.slow
def test_litert_names_the_operation_that_it_lacks_and_unrolled_is_the_way_out(tmp_path) -> None:
    def recurrent(unroll: bool) -> keras.Model:
        return sequential(IMAGES[:, 0], layers.GRU(2, unroll=unroll))

    with pytest.raises(ValueError, match=r"LiteRT cannot hold TensorListReserve.*unroll=True"):
        export(recurrent(False), tmp_path, IMAGES[:, 0], LITERT)
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model"]
    assert export(recurrent(True), tmp_path, IMAGES[:, 0], LITERT)["model.tflite"] < 1e-5


@needs_onnx
@pytest.mark.slow
def test_onnx_names_the_operation_that_it_lacks(tmp_path) -> None:
    class Digamma(layers.Layer):
        def call(self, x):
            return tf.math.digamma(x)

    with pytest.raises(ValueError, match=r"ONNX has no Digamma\."):
        export(sequential(X, Digamma()), tmp_path, X, ONNX)
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model"]


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch) -> None:
    model = norm_model()
    path = saved(model, tmp_path / "saved_model", X)
    right = recipe.write_litert

    def slightly_off(saved_model, path):
        call = right(saved_model, path)
        return lambda samples: {name: output + 0.1 for name, output in call(samples).items()}

    def not_a_number(saved_model, path):
        call = right(saved_model, path)
        return lambda samples: {name: output * np.nan for name, output in call(samples).items()}

    for wrong in (slightly_off, not_a_number):
        monkeypatch.setattr(recipe, "write_litert", wrong)
        with pytest.raises(ValueError, match=r"of the spread, 1e-03 is allowed: model\.tflite is not"):
            recipe.export_litert_and_onnx(path, X, tmp_path / "out", LITERT)
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        recipe.export_litert_and_onnx(path, X, tmp_path, LITERT)
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model"]


def test_answers_that_do_not_differ_are_refused(tmp_path) -> None:
    path = saved(norm_model(), tmp_path / "saved_model", X)
    with pytest.raises(ValueError, match=r"does not tell `samples` apart.* Hand in rows whose answers differ"):
        recipe.export_litert_and_onnx(path, np.repeat(X[:1], 8, 0), tmp_path / "out", LITERT)


@needs_onnx
@pytest.mark.slow
def test_demo_the_recipe_converts_what_tf2onnx_alone_does_not(demo) -> None:
    lines = demo.splitlines()
    found = eval(next(line for line in lines if line.startswith("the recipe")).split(": ", 1)[1])
    assert sorted(found) == ["model.onnx", "model.tflite"] and max(found.values()) < 1e-5
