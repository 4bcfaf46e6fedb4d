"""A plain export can serve the training phase; the recipe's cannot, or nothing is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import export_inference_model as recipe
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
DIGITS = load_digits().images[:, :, :, None].astype("float32")
X = DIGITS[:8]
layers = keras.layers


def digits_model(*preprocessing: keras.layers.Layer) -> keras.Model:
    """BatchNormalization with statistics of its own: with fresh ones, both phases could look alike."""
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 16), *preprocessing, layers.Flatten()])
    for layer in (layers.Dense(16), layers.BatchNormalization(momentum=0.5), layers.Dropout(0.5), layers.Dense(10)):
        model.add(layer)
    for start in (0, 200, 400, 600):
        model(DIGITS[start : start + 200], training=True)
    return model


def plain_export(model: keras.Model, path: Path):
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(str(path))
    return tf.saved_model.load(str(path))


def leaks(fact: str) -> bool:
    """What the version matrix says of the newest release it knows that is not newer than this Keras."""

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:3])

    data = json.loads((ROOT / "docs/reference/version-matrix.json").read_text(encoding="utf-8"))
    known = [(number(c["keras"]), data["cells"][fact][c["id"]]) for c in data["columns"] if c["keras"].startswith("3.")]
    return max(pair for pair in known if pair[0] <= number(keras.__version__))[1]


# --- The pitfall still bites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Resizing", "RandomTranslation"])
def test_pitfall_a_plain_export_serves_batch_statistics_where_the_matrix_says_so(tmp_path, kind) -> None:
    layer = layers.Resizing(8, 8) if kind == "Resizing" else layers.RandomTranslation(0.1, 0.1)
    fact = "resizing_serving_uses_batch_stats" if kind == "Resizing" else "random_flip_leaks_training"
    model = digits_model(layer)
    plain = plain_export(model, tmp_path / "plain")
    right = model(X, training=False).numpy()
    assert np.abs(right[0] - right[1]).max() > 1  # a nought and a one
    # Alone, each row is its own mean: only biases are left.
    assert np.allclose(plain.serve(X[:1]), plain.serve(X[1:2]), atol=1e-5) is leaks(fact)
    if leaks(fact):
        assert np.abs(plain.serve(X) - right).max() > 0.2 * np.abs(right).max()
        with pytest.raises(ValueError, match=r"plain differs from model\(x, training=False\), by"):
            recipe.prove(plain.serve, model, X, "plain")
        with pytest.raises(ValueError, match="AssignVariableOp"):
            recipe.refuse_operations(plain.signatures["serving_default"].graph)


@pytest.mark.slow
def test_pitfall_a_plain_export_still_augments_on_every_keras_3(tmp_path) -> None:
    model = digits_model(layers.RandomTranslation(0.3, 0.3))
    plain = plain_export(model, tmp_path / "plain")
    assert np.abs(plain.serve(X) - plain.serve(X)).max() > 0.1
    with pytest.raises(ValueError, match="plain differs from model"):
        recipe.prove(plain.serve, model, X, "plain")


@pytest.mark.slow
def test_pitfall_is_none_without_a_layer_that_asks_for_training(tmp_path) -> None:
    model = digits_model()
    plain = plain_export(model, tmp_path / "plain")
    assert recipe.prove(plain.serve, model, X)["error"] <= 1e-5


# --- The cure cures ---------------------------------------------------------------------------------------------------


def test_cure_both_files_are_the_inference_phase_at_any_batch_size(tmp_path) -> None:
    model = digits_model(layers.Resizing(8, 8), layers.RandomTranslation(0.3, 0.3))
    before = [np.array(variable) for variable in model.variables]
    figures = recipe.export_inference_model(model, X, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (
        sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(figures) == ["model.keras", "saved_model"]
    )
    for found in figures.values():
        assert found["error"] <= 1e-5 and found["alone"] <= 1e-5  # ten times below what is allowed
        assert found["repeat"] == 0 and found["spread"] > 0.5
    loaded = tf.saved_model.load(str(tmp_path / "out/saved_model"))
    assert loaded.signatures["serving_default"].structured_input_signature[1]["inputs"].shape[0] is None
    for rows in (slice(20, 25), slice(20, 21)):
        right = model(DIGITS[rows], training=False)
        np.testing.assert_allclose(loaded.serve(DIGITS[rows]), right, atol=1e-4)
        again = keras.saving.load_model(tmp_path / "out/model.keras")
        np.testing.assert_allclose(again(DIGITS[rows], training=False), right, atol=1e-4)
    assert all(np.array_equal(np.array(v), old) for v, old in zip(model.variables, before, strict=True))


def test_cure_a_file_holds_assignments_that_no_call_reaches(tmp_path) -> None:
    recipe.write_saved_model(digits_model(), X, tmp_path / "good")
    assert b"AssignVariableOp" in (tmp_path / "good/saved_model.pb").read_bytes()
    recipe.refuse_operations(tf.saved_model.load(str(tmp_path / "good")).signatures["serving_default"].graph)


@pytest.mark.slow
def test_cure_takes_dicts_lists_integers_and_several_outputs(tmp_path) -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    joined = layers.Concatenate()([a, layers.Flatten()(layers.Embedding(9, 2)(b))])
    outputs = {"z": layers.Dense(2)(joined), "c": layers.Dense(3)(joined)}
    rng = np.random.default_rng(0)
    x = {"b": rng.integers(0, 9, (6, 3), "int32"), "a": rng.normal(size=(6, 4)).astype("float32")}
    recipe.export_inference_model(keras.Model({"a": a, "b": b}, outputs), x, tmp_path / "dict")
    signature = tf.saved_model.load(str(tmp_path / "dict/saved_model")).signatures["serving_default"]
    assert sorted(signature.structured_input_signature[1]) == ["a", "b"]  # the names that a client sends
    model = keras.Model([a, b], [outputs["z"], outputs["c"]])
    recipe.export_inference_model(model, [x["a"], x["b"]], tmp_path / "list")


@pytest.mark.slow
def test_cure_half_precision_is_proved_to_its_own_tolerance(tmp_path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = digits_model()
    found = recipe.export_inference_model(model, X, tmp_path / "out")["saved_model"]
    assert found["error"] <= 4e-3


@pytest.mark.slow
def test_cure_a_recurrent_layer_with_dropout_is_refused_until_its_dropout_is_0(tmp_path) -> None:
    model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(4, dropout=0.3)])
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"StatelessRandom.*layer\.cell\.dropout = 0"):
        recipe.export_inference_model(model, x, tmp_path / "out")
    model.layers[0].cell.dropout = 0
    assert recipe.export_inference_model(model, x, tmp_path / "out")["saved_model"]["error"] <= 1e-5


# --- Each way to fail, and nothing left on disk -----------------------------------------------------------------------


class Identity(keras.Model):
    def call(self, x, training=None):
        return x


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x + 1e-2, "differs from model"),
        (lambda x: x * np.nan, "differs from model"),
        (lambda x: x + 1e-2 * (len(x) == 3), "rest of the batch"),
        (lambda x: x + 1e-2 * (len(x) == 1), "rest of the batch"),
    ],
)
def test_prove_says_which_way_it_failed(call, words) -> None:
    x = tf.random.normal((6, 3), seed=0)
    with pytest.raises(ValueError, match=f"it .*{words}.*by .* of the largest output; 1e-04 is allowed"):
        recipe.prove(call, Identity(), x)
    assert recipe.prove(lambda x: x, Identity(), x)["error"] == 0


def test_prove_notices_an_answer_that_changes_at_the_third_call_of_the_batch() -> None:
    calls = []

    def call(x):
        calls.append(len(x))
        return x + 1e-2 * (calls.count(6) == 2)

    with pytest.raises(ValueError, match="answers differently when asked again"):
        recipe.prove(call, Identity(), tf.random.normal((6, 3), seed=0))


def test_prove_refuses_answers_that_any_file_would_agree_with() -> None:
    x = tf.constant([[1.0], [1.0001], [1.0002], [1.0003]])
    with pytest.raises(ValueError, match=r"lie 3\.0e-04 of the largest apart"):
        recipe.prove(lambda x: x, Identity(), x)


def test_operations_are_followed_into_functions_and_loops() -> None:
    @tf.function
    def inner(x):
        return x + tf.random.uniform(())

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def outer(x):
        return tf.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, inner(y)), [0, x])[1]

    with pytest.raises(ValueError, match="RandomUniform"):
        recipe.refuse_operations(outer.get_concrete_function().graph)


def test_forbidden_names_cover_what_tensorflow_registers() -> None:
    from tensorflow.python.framework import op_def_registry

    forbidden = """
        AssignVariableOp AssignAddVariableOp ResourceScatterAdd ResourceApplyAdam ScatterUpdate LookupTableInsertV2
        RandomUniform RandomStandardNormal StatelessRandomUniformV2 StatelessTruncatedNormalV2 StatefulUniform
        StatelessMultinomial RngReadAndSkip StatelessShuffle SampleDistortedBoundingBoxV2 EagerPyFunc
    """
    harmless = """
        ReadVariableOp StatefulPartitionedCall VarHandleOp ScatterNd TensorScatterUpdate ResourceGather
        LookupTableFindV2 FusedBatchNormV3
    """
    for names, wanted in ((forbidden, True), (harmless, False)):
        for name in names.split():
            assert op_def_registry.get(name) is not None, f"{name} is no operation of this TensorFlow"
            assert bool(recipe.FORBIDDEN.search(name)) is wanted, name


@dataclasses.dataclass(frozen=True)
class Answer:
    value: object


class Dataclass(keras.Model):
    def call(self, x, training=None):
        return Answer(x)


def test_a_dataclass_output_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(TypeError, match="Dataclass returns Answer, files return tensors"):
        recipe.export_inference_model(Dataclass(), X, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_keras_file_of_a_foreign_layer_needs_custom_objects_and_says_so(tmp_path) -> None:
    class Foreign(layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((8, 8, 1)), Foreign(), layers.BatchNormalization()])
    with pytest.raises(TypeError, match=r"(?s)cannot be opened again.*custom_objects.*Foreign"):
        recipe.export_inference_model(model, X, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    recipe.export_inference_model(model, X, tmp_path / "out", custom_objects={"Foreign": Foreign})
    recipe.export_inference_model(model, X, tmp_path / "alone", formats=["saved_model"])
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["saved_model"]


def test_a_folder_that_exists_is_left_as_it_is(tmp_path) -> None:
    with pytest.raises(FileExistsError, match="exists, and nothing is overwritten"):
        recipe.export_inference_model(digits_model(), X, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_random_in_inference_leaves_nothing(tmp_path) -> None:
    class AlwaysDropped(layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), AlwaysDropped(0.5), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"saved_model .* by .* of the largest output"):
        recipe.export_inference_model(model, X, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("raised", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_error_after_the_first_file_leaves_nothing(tmp_path, monkeypatch, raised) -> None:
    def fail(*args):
        assert next(tmp_path.glob("*/out/saved_model/saved_model.pb")).is_file()
        raise raised

    monkeypatch.setattr(recipe, "saved_and_loaded", fail)
    with pytest.raises(type(raised)):
        recipe.export_inference_model(digits_model(), X, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo_the_recipe_is_as_good_one_at_a_time(demo) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in demo.splitlines()}
    together, alone = map(float, rows["after/saved_model"])
    assert together == alone > 0.8
    assert (float(rows["before"][1]) < 0.3) is leaks("random_flip_leaks_training")
