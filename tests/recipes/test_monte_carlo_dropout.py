"""A recorded training=True is off in `predict` on Keras 3.0 to 3.15, and training=True moves BatchNormalization."""

import json
import re
from pathlib import Path
from typing import Any

import keras
import lane_mc_dropout as lane
import monte_carlo_dropout as recipe
import numpy as np
import pytest
import tensorflow as tf

PREDICT_OVERRIDES = tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 16)
layers = keras.layers


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return recipe.digits(seed=0)[2][:32]


@keras.saving.register_keras_serializable("phasebook_tests")
class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.flat, self.dense, self.bn = layers.Flatten(), layers.Dense(16), layers.BatchNormalization()
        self.parts = [layers.Dropout(0.5)]
        self.out = layers.Dense(3, activation="softmax")

    def call(self, x: Any, training: Any = None) -> Any:
        x = self.bn(self.dense(self.flat(x)), training=training)
        return self.out(self.parts[0](x, training=training))


def sequential(*before_head: Any) -> Any:
    head = layers.Dense(3, activation="softmax")
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(16), *before_head, head])


def functional() -> Any:
    """Nested models, a wrapper, a dropout inside attention, and a phase recorded in the graph."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((8, 8))(inputs)
    x = layers.MultiHeadAttention(2, 4, dropout=0.5, name="attention")(x, x)
    x = layers.TimeDistributed(layers.GaussianDropout(0.3))(x)
    x = keras.Sequential([keras.Input((8, 8)), layers.SpatialDropout1D(0.2), layers.BatchNormalization()])(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x), training=False)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def subclassed() -> Any:
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


MODELS = {
    "functional": (functional, ["MCDropout", "MCDropout", "MCGaussianDropout", "MCSpatialDropout1D"]),
    "sequential": (lambda: sequential(layers.BatchNormalization(), layers.Dropout(0.5)), ["MCDropout"]),
    "subclassed": (subclassed, ["MCDropout"]),
}
every_kind = pytest.mark.parametrize("kind", MODELS)


def kinds(model: Any) -> list[str]:
    return sorted(type(layer).__name__ for layer in recipe.dropout_layers(model))


def differs(call: Any, x: Any) -> bool:
    return not np.array_equal(np.array(call(x)), np.array(call(x)))


def norms(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]


def statistics(model: Any) -> list[Any]:
    return [value.numpy().tolist() for norm in norms(model) for value in (norm.moving_mean, norm.moving_variance)]


# The pitfalls


def test_recorded_training_true_is_off_in_predict_until_keras_3_16(x: np.ndarray) -> None:
    model = recipe.documented(sequential())
    assert differs(model, x), "a bare call honours it on every version"
    assert differs(lambda x: model.predict(x, verbose=0), x) is not PREDICT_OVERRIDES
    assert differs(lambda x: model(x, training=False), x) is not PREDICT_OVERRIDES


def test_training_true_on_the_whole_model_samples_but_moves_the_statistics(x: np.ndarray) -> None:
    # The first dropout comes before the BatchNormalization: a phase that it passed on would show.
    model = sequential(layers.Dropout(0.5), layers.BatchNormalization(), layers.Dropout(0.5))
    before = statistics(model)
    assert differs(lambda x: model(x, training=True), x)
    assert statistics(model) != before

    sampler = recipe.to_monte_carlo(model)
    before = statistics(sampler)
    assert differs(sampler, x) and differs(lambda x: sampler.predict(x, verbose=0), x)
    list(recipe.sample(sampler, x, 8))
    assert statistics(sampler) == before


def test_the_phase_that_the_layer_forces_on_itself_stays_inside_it(x: np.ndarray) -> None:
    model = sequential(recipe.MCDropout(0.5), layers.BatchNormalization())
    before = statistics(model)
    assert differs(model, x) and statistics(model) == before


# The cure


@every_kind
def test_copy_samples_everywhere_and_the_model_stays_as_it_is(kind: str, x: np.ndarray) -> None:
    build, expected = MODELS[kind]
    model = build()
    for norm in norms(model):
        norm.moving_mean.assign(norm.moving_mean + 0.5)
    original = kinds(model)
    sampler = recipe.to_monte_carlo(model)

    assert type(sampler) is type(model) and kinds(sampler) == expected
    assert differs(lambda x: sampler.predict(x, verbose=0), x)
    assert differs(tf.function(lambda x: sampler(x, training=False)), x)
    assert kinds(model) == original and not differs(lambda x: model.predict(x, verbose=0), x)

    numbers = [w for w in model.weights if "seed" not in w.name]
    copied = [w for w in sampler.weights if "seed" not in w.name]
    assert len(numbers) == len(copied) and all(np.array_equal(a, b) for a, b in zip(numbers, copied, strict=True))
    copied[0].assign(copied[0] + 1)
    assert not np.array_equal(numbers[0], copied[0]), "copied, not shared"


def test_the_dropout_inside_attention_samples_by_itself(x: np.ndarray) -> None:
    inputs = keras.Input((8, 8))
    sampler = recipe.to_monte_carlo(keras.Model(inputs, layers.MultiHeadAttention(2, 4, dropout=0.5)(inputs, inputs)))
    assert differs(lambda x: sampler(x[..., 0], training=False), x)


@pytest.mark.parametrize("base", recipe.TWINS, ids=lambda base: base.__name__)
def test_a_twin_in_inference_is_its_base_in_training(base: Any) -> None:
    twin = recipe.TWINS[base]
    assert twin.__name__ == f"MC{base.__name__}"
    shape = (4, *[3] * {"SpatialDropout1D": 1, "SpatialDropout2D": 2, "SpatialDropout3D": 3}.get(base.__name__, 0), 5)
    ones = np.ones(shape, "float32")
    wanted = np.array(base(0.5, seed=1)(ones, training=True))
    assert not np.array_equal(wanted, ones)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(twin(0.5, seed=1)))
    assert type(again) is twin and again.rate == 0.5
    for phase in (False, True, None):
        assert np.array_equal(np.array(twin(0.5, seed=1)(ones, training=phase)), wanted)


def test_a_functional_copy_reloads_as_it_is_and_a_subclassed_one_needs_converting_again(tmp_path: Path) -> None:
    recipe.to_monte_carlo(functional()).save(tmp_path / "functional.keras")
    again = keras.models.load_model(tmp_path / "functional.keras")
    # What a layer builds inside itself is built anew: the attention's dropout is plain again.
    assert kinds(again) == ["Dropout", "MCDropout", "MCGaussianDropout", "MCSpatialDropout1D"]
    recipe.to_monte_carlo(subclassed()).save(tmp_path / "subclassed.keras")
    again = keras.models.load_model(tmp_path / "subclassed.keras")
    assert kinds(again) == ["Dropout"]
    with pytest.raises(ValueError, match="is off at prediction: use to_monte_carlo"):
        next(recipe.sample(again, np.zeros((1, 8, 8, 1), "float32")))
    assert kinds(recipe.to_monte_carlo(again)) == ["MCDropout"]


def test_exported_artifact_draws_anew_in_each_call_and_starts_the_same(x: np.ndarray, tmp_path: Path) -> None:
    sampler = recipe.to_monte_carlo(sequential(layers.BatchNormalization(), layers.Dropout(0.5)))
    sampler.export(str(tmp_path / "artifact"))
    first, second = (tf.saved_model.load(str(tmp_path / "artifact")) for _ in range(2))
    assert differs(first.serve, x)
    # 512 samples on each side of a probability whose deviation is at most 0.5: 0.5*sqrt(2/512) = 0.03, times 5.
    mean = np.mean([first.serve(x) for _ in range(512)], axis=0)
    assert np.abs(mean - recipe.predict_with_uncertainty(sampler, x, 512).mean).max() < 0.15
    assert len({np.array(second.serve(x)).tobytes() for _ in range(3)}) == 3
    third = tf.saved_model.load(str(tmp_path / "artifact"))
    fourth = tf.saved_model.load(str(tmp_path / "artifact"))
    assert np.array_equal(np.array(third.serve(x)), np.array(fourth.serve(x))), "the seed travels along"


# Sampling


def test_a_seed_repeats_the_samples_and_none_goes_on(x: np.ndarray) -> None:
    sampler = recipe.to_monte_carlo(sequential(layers.Dropout(0.5), layers.Dropout(0.5)))
    one, same, other, more = (next(recipe.sample(sampler, x, 4, seed=seed)) for seed in (1, 1, 2, None))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other) and not np.array_equal(other, more)


def test_every_layer_and_every_row_draws_a_mask_of_its_own(x: np.ndarray) -> None:
    doubled = keras.Sequential([keras.Input((500,)), layers.Dropout(0.5), layers.Dropout(0.5)])
    sampler = recipe.to_monte_carlo(doubled)
    [p] = recipe.sample(sampler, np.ones((2, 500), "float32"), 4, seed=0)
    # Two independent halves keep a quarter; equal masks would keep half. 4000 draws: standard deviation 0.007.
    assert np.mean(p > 0) == pytest.approx(0.25, abs=0.035)
    assert len({row.tobytes() for row in p.reshape(8, 500)}) == 8


def test_parts_are_in_order_and_no_call_exceeds_max_rows(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dropping so rarely that it never happens here: each sample is the plain prediction of its input.
    sampler = recipe.to_monte_carlo(sequential(layers.Dropout(1e-9)))
    rows, call = [], recipe._call_repeated
    monkeypatch.setattr(recipe, "_call_repeated", lambda m, x, s: rows.append(len(x) * s) or call(m, x, s))
    parts = list(recipe.sample(sampler, x[:10], 5, max_rows=16))
    assert [part.shape for part in parts] == [(3, 5, 3)] * 3 + [(1, 5, 3)] and rows == [15, 15, 15, 5]
    plain = sampler.predict(x[:10], verbose=0)
    for number in range(5):
        assert np.allclose(np.concatenate(parts)[:, number], plain, atol=1e-6)  # float32 rounding
    found = recipe.predict_with_uncertainty(sampler, x[:10], 5, max_rows=16)
    assert np.allclose(found.mean, plain, atol=1e-6) and found.entropy.shape == found.mutual_information.shape == (10,)
    assert np.abs(found.mutual_information).max() < 1e-5, "samples that agree say nothing about the weights"


def test_a_preprocessing_layer_does_not_switch_batchnormalization_to_training(x: np.ndarray) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Resizing(4, 4), layers.BatchNormalization(), layers.Flatten(),
         layers.Dropout(0.5), layers.Dense(3, activation="softmax")]
    )  # fmt: skip
    sampler = recipe.to_monte_carlo(model)
    before = statistics(sampler)
    assert next(recipe.sample(sampler, x, 2)).shape == (32, 2, 3)
    assert statistics(sampler) == before


# What the samples say


def test_uncertainty_of_samples_that_disagree_and_of_samples_that_shrug() -> None:
    disagree, shrug = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]
    found = recipe.summarise(np.array([disagree, shrug, [[1.0, 0.0], [1.0, 0.0]]]))
    assert np.allclose(found.mean, [[0.5, 0.5], [0.5, 0.5], [1, 0]])
    assert np.allclose(found.entropy, [np.log(2), np.log(2), 0])
    assert np.allclose(found.mutual_information, [np.log(2), 0, 0])


def test_calibration_by_hand() -> None:
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.0, 1.0]])
    confidence, accuracy, count = recipe.reliability(p, np.array([0, 1, 1, 1]))
    assert np.allclose(confidence, [0.65, 2.9 / 3]) and np.allclose(accuracy, [1, 2 / 3]) and count.tolist() == [1, 3]
    assert recipe.expected_calibration_error(p, np.array([0, 1, 1, 1])) == pytest.approx((0.35 + 3 * 0.3) / 4)
    assert recipe.auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


# Refusals


class Mine(keras.layers.Dropout):
    pass


class Converted(recipe.AlwaysOn, keras.layers.Dropout):
    pass


@pytest.mark.parametrize(
    "parts, message",
    [
        ([], "has no dropout layer with a rate above 0"),
        ([layers.Dropout(0.0)], "has no dropout layer with a rate above 0"),
        ([layers.Dropout(0.5, noise_shape=(1, 16), name="mask")], "mask draws one mask for all rows"),
        ([Mine(0.5, name="mine")], "no dropout layer of Keras itself: Mine 'mine'. Derive its class from AlwaysOn"),
        ([layers.Reshape((4, 4)), layers.LSTM(2, dropout=0.5, name="lstm")], "dropout inside lstm"),
        ([layers.Reshape((4, 4)), layers.GRU(2, recurrent_dropout=0.5, name="gru")], "dropout inside gru"),
    ],
)
def test_what_cannot_be_sampled_is_named(parts: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.to_monte_carlo(sequential(*parts))


def test_an_unbuilt_model_and_wrong_numbers_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="is not built yet: call it once"):
        recipe.to_monte_carlo(Subclassed())
    model = sequential(layers.Dropout(0.5, name="drop"))
    with pytest.raises(ValueError, match="drop is off at prediction"):
        next(recipe.sample(model, x))
    sampler = recipe.to_monte_carlo(model)
    for samples in (0, 17):
        with pytest.raises(ValueError, match=f"between 1 and max_rows=16, but is {samples}"):
            next(recipe.sample(sampler, x, samples, max_rows=16))
    with pytest.raises(ValueError, match="x has no rows"):
        next(recipe.sample(sampler, x[:0]))
    with pytest.raises(ValueError, match="A model that ends in logits needs a softmax first"):
        recipe.summarise(np.array([[[2.0, -1.0]]]))
    own = sequential(layers.Reshape((4, 4)), layers.LSTM(2), Converted(0.5))
    assert [type(layer) for layer in recipe.dropout_layers(own)] == [Converted]


@keras.saving.register_keras_serializable("phasebook_tests")
class AlwaysTraining(Subclassed):
    def call(self, x: Any, training: Any = None) -> Any:
        return self.out(self.bn(self.parts[0](self.dense(self.flat(x)), training=training), training=True))


def test_batchnormalization_in_the_training_phase_behind_dropout_is_refused_and_put_back(x: np.ndarray) -> None:
    model = AlwaysTraining()
    model(x)
    sampler = recipe.to_monte_carlo(model)
    before = statistics(sampler)
    with pytest.raises(ValueError, match=r"batch_normalization\w* ran in the training phase"):
        next(recipe.sample(sampler, x, 4))
    assert statistics(sampler) == before


# The page's tables and figure


@pytest.mark.slow
def test_data_still_hold_today() -> None:
    known = json.loads(lane.DATA.read_text(encoding="utf-8"))
    assert len(known["runs"]) == len(known["seeds"]) == len(lane.SEEDS)
    model, (_, _, x, y, new) = lane.trained(0)
    sampler = recipe.to_monte_carlo(model)
    then, now = known["runs"][0]["turned"]["30"], lane.turned(model, sampler, x, y, 30, 0)
    for way in ("one_pass", "samples"):
        # Training is not bit-equal across machines and threads; a seed's neighbours differ by more than this.
        assert now[way]["accuracy"] == pytest.approx(then[way]["accuracy"], abs=0.08)
        assert now[way]["calibration_error"] == pytest.approx(then[way]["calibration_error"], abs=0.08)
    assert now["samples"]["calibration_error"] < now["one_pass"]["calibration_error"] - 0.05
    found = lane.unseen(model, sampler, x, new, 0)
    assert found == pytest.approx(known["runs"][0]["unseen"], abs=0.05)


def test_the_error_of_the_mean_halves_with_four_times_the_samples() -> None:
    for run in json.loads(lane.DATA.read_text(encoding="utf-8"))["runs"]:
        # The reference itself has 1,024 samples, so up to 64 its own error is below a hundredth of the square.
        for count in (1, 4, 16):
            ratio = run["enough"][str(count)]["error"] / run["enough"][str(4 * count)]["error"]
            assert ratio == pytest.approx(2, rel=0.15)


def test_samples_calibrate_what_is_far_from_the_training_data_and_cost_on_what_is_near() -> None:
    for run in json.loads(lane.DATA.read_text(encoding="utf-8"))["runs"]:
        for angle, both in run["turned"].items():
            better = both["samples"]["calibration_error"] < both["one_pass"]["calibration_error"]
            assert better is (int(angle) >= 30)
            # No seed gains or loses two points of accuracy by sampling.
            assert abs(both["samples"]["accuracy"] - both["one_pass"]["accuracy"]) < 0.02
        assert max(run["unseen"].values()) - min(run["unseen"].values()) < 0.02
        by_count = {int(count): row for count, row in run["enough"].items()}
        assert all(abs(by_count[n]["accuracy"] - by_count[256]["accuracy"]) < 0.02 for n in (32, 64, 128))
        assert all(
            abs(by_count[n]["calibration_error"] - by_count[256]["calibration_error"]) < 0.02 for n in (32, 64, 128)
        )
        assert by_count[8]["mutual_information"] < 0.9 * by_count[256]["mutual_information"]
        assert by_count[64]["mutual_information"] > 0.95 * by_count[256]["mutual_information"]


def test_the_page_shows_the_data_and_the_figure_is_drawn_from_them(tmp_path: Path) -> None:
    page = (lane.DATA.parents[3] / "docs/recipes/monte_carlo_dropout.md").read_text(encoding="utf-8")
    known = json.loads(lane.DATA.read_text(encoding="utf-8"))
    for text in lane.tables(known).values():
        assert text in page
    assert f"Keras {known['keras']}" in page
    assert f"sha256 {lane.digest()}" in lane.FIGURE.read_text(encoding="utf-8"), "draw it anew: lane with --figure"
    # The figure has one line a way and the diagonal.
    recipe.calibration_figure(lane.curves(known), str(tmp_path / "again.svg"))
    drawn, stored = ((tmp_path / "again.svg").read_text(encoding="utf-8"), lane.FIGURE.read_text(encoding="utf-8"))
    assert len(re.findall(r'id="line2d_\d+"', drawn)) == len(re.findall(r'id="line2d_\d+"', stored))
