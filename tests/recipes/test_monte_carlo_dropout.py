"""A recorded training=True goes wrong on every Keras 3, one way or another; a layer that forces itself holds on all."""

import json
from pathlib import Path
from typing import Any

import keras
import lane_mc_dropout as lane
import monte_carlo_dropout as recipe
import numpy as np
import pytest
import tensorflow as tf
from releases import on_this_release

layers = keras.layers
# 3.16 obeys a recorded True, and hands it on.
OBEYED = on_this_release("built_training_true_dropout_predict_active")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return lane.digits(seed=0)[2][:16]


def probabilities() -> Any:
    return layers.Dense(3, activation="softmax")


def sequential(*before_head: Any) -> Any:
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(16), *before_head, probabilities()])


def recorded() -> Any:
    """As tutorials have it, with a BatchNormalization behind."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Dropout(0.5)(layers.Flatten()(inputs), training=True)
    return keras.Model(inputs, probabilities()(layers.BatchNormalization()(x)))


def functional() -> Any:
    """Nested models, a wrapper, a dropout inside attention, and a phase recorded in the graph."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((8, 8))(inputs)
    x = layers.MultiHeadAttention(2, 4, dropout=0.5, name="attention")(x, x)
    x = layers.TimeDistributed(layers.GaussianDropout(0.3))(x)
    x = keras.Sequential([keras.Input((8, 8)), layers.SpatialDropout1D(0.2), layers.BatchNormalization()])(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x), training=False)
    return keras.Model(inputs, probabilities()(x))


@keras.saving.register_keras_serializable("phasebook_tests")
class Subclassed(keras.Model):
    fixed: Any = None  # the phase that its BatchNormalization is told, whatever the model is

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.flat, self.dense, self.norm = layers.Flatten(), layers.Dense(16), layers.BatchNormalization()
        self.parts = [layers.Dropout(0.5)]
        self.out = probabilities()

    def call(self, x: Any, training: Any = None) -> Any:
        x = self.parts[0](self.dense(self.flat(x)), training=training)
        return self.out(self.norm(x, training=training if self.fixed is None else self.fixed))


@keras.saving.register_keras_serializable("phasebook_tests")
class AlwaysTraining(Subclassed):
    fixed = True


def built(model: Any) -> Any:
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


MODELS = {
    "functional": (functional, ["MCDropout", "MCDropout", "MCGaussianDropout", "MCSpatialDropout1D"]),
    "sequential": (lambda: sequential(layers.BatchNormalization(), layers.Dropout(0.5)), ["MCDropout"]),
    "subclassed": (lambda: built(Subclassed()), ["MCDropout"]),
}
every_kind = pytest.mark.parametrize("kind", MODELS)


def kinds(model: Any) -> list[str]:
    return sorted(type(layer).__name__ for layer in recipe.dropouts(model))


def differs(call: Any, x: Any) -> bool:
    return not np.array_equal(np.array(call(x)), np.array(call(x)))


def statistics(model: Any) -> list[Any]:
    norms = [part for part in model._flatten_layers() if isinstance(part, layers.BatchNormalization)]
    return [value.numpy().tolist() for norm in norms for value in (norm.moving_mean, norm.moving_variance)]


# Sampling by a phase


def test_pitfall_a_recorded_true_is_off_in_predict_or_moves_the_statistics_behind_it(x: np.ndarray) -> None:
    model = recorded()
    before = statistics(model)
    assert differs(model, x) and statistics(model) != before, "in a bare call, on every release"
    before = statistics(model)
    assert differs(model.predict_on_batch, x) is OBEYED
    assert differs(lambda x: model(x, training=False), x) is OBEYED
    assert (statistics(model) != before) is OBEYED, "what stands behind it is in the training phase as well"


def test_pitfall_training_true_on_the_whole_model_moves_the_statistics(x: np.ndarray) -> None:
    model = sequential(layers.Dropout(0.5), layers.BatchNormalization())
    before = statistics(model)
    assert differs(lambda x: model(x, training=True), x)
    # Two calls at momentum 0.99: 2 % of the way from 1 to the variance of the batch.
    change = np.abs(np.array(statistics(model)[1]) - before[1]).max()
    assert 0.001 < change < 0.1


@pytest.mark.parametrize(
    "build",
    [recorded, lambda: built(AlwaysTraining()), lambda: sequential(layers.Dropout(0.5), layers.BatchNormalization())],
    ids=["recorded", "fixed in call", "sequential"],
)
def test_cure_the_copy_samples_by_every_route_and_no_statistic_moves(build: Any, x: np.ndarray) -> None:
    model = build()
    model.trainable = False  # and one layer thawed inside, which Keras would skip
    for part in model.layers:
        part.trainable = True
    sampler = recipe.to_monte_carlo(model)
    before = statistics(sampler)
    assert differs(sampler, x) and differs(sampler.predict_on_batch, x)
    assert differs(lambda x: sampler(x, training=False), x)
    list(recipe.sample(sampler, x, 4))
    assert statistics(sampler) == before


def test_cure_the_phase_that_the_layer_forces_on_itself_stays_inside_it(x: np.ndarray) -> None:
    for stated in ({}, {"training": True}, {"training": False}):
        inputs = keras.Input((8, 8, 1))
        behind = layers.GaussianNoise(1.0)(layers.BatchNormalization()(recipe.MCDropout(1e-9)(inputs, **stated)))
        model = keras.Model(inputs, behind)
        before = statistics(model)
        for call in (model, model.predict_on_batch):
            assert not differs(call, x) and statistics(model) == before


def test_cure_all_but_the_dropout_is_in_inference_while_sampling(x: np.ndarray) -> None:
    # In a call that states no phase a RandomFlip flips: its own default is True.
    noisy = keras.Sequential(
        [
            *(keras.Input((8, 8, 1)), layers.RandomFlip(), layers.GaussianNoise(1.0), layers.Flatten()),
            *(layers.Dropout(1e-9), probabilities()),
        ]
    )
    sampler = recipe.to_monte_carlo(noisy)
    [p] = recipe.sample(sampler, x, 2)
    # float32 rounding; a dropout this rare never happens here.
    assert np.allclose(p[:, 0], noisy.predict(x, verbose=0), atol=1e-6) and np.allclose(p[:, 0], p[:, 1], atol=1e-6)


# The copy


@every_kind
def test_cure_the_copy_has_the_weights_and_the_model_stays_as_it_is(kind: str, x: np.ndarray) -> None:
    build, expected = MODELS[kind]
    model = build()
    for part in model._flatten_layers():
        if isinstance(part, layers.BatchNormalization):
            part.moving_mean.assign(part.moving_mean + 0.5)
    original = kinds(model)
    sampler = recipe.to_monte_carlo(model)

    assert type(sampler) is type(model) and kinds(sampler) == expected
    assert differs(tf.function(lambda x: sampler(x, training=False)), x)
    assert kinds(model) == original and model.trainable and not differs(model.predict_on_batch, x)
    pairs = list(zip(model.get_weights(), sampler.get_weights(), strict=True))
    assert all(np.array_equal(a, b) for a, b in pairs)
    sampler.weights[0].assign(sampler.weights[0] + 1)
    assert not np.array_equal(model.get_weights()[0], sampler.get_weights()[0]), "copied, not shared"


def test_cure_the_dropout_inside_attention_samples_by_itself(x: np.ndarray) -> None:
    inputs = keras.Input((8, 8))
    sampler = recipe.to_monte_carlo(keras.Model(inputs, layers.MultiHeadAttention(2, 4, dropout=0.5)(inputs, inputs)))
    assert differs(lambda x: sampler(x[..., 0], training=False), x)


@pytest.mark.parametrize("base", recipe.TWINS, ids=lambda base: base.__name__)
def test_cure_a_twin_in_inference_is_its_base_in_training(base: Any) -> None:
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
    recipe.to_monte_carlo(built(Subclassed())).save(tmp_path / "subclassed.keras")
    again = keras.models.load_model(tmp_path / "subclassed.keras")
    with pytest.raises(ValueError, match="is off at prediction: use to_monte_carlo"):
        next(recipe.sample(again, np.zeros((1, 8, 8, 1), "float32")))
    assert kinds(recipe.to_monte_carlo(again)) == ["MCDropout"]


@pytest.mark.slow
def test_cure_an_exported_artifact_draws_anew_in_each_call(x: np.ndarray, tmp_path: Path) -> None:
    sampler = recipe.to_monte_carlo(sequential(layers.BatchNormalization(), layers.Dropout(0.5)))
    sampler.export(str(tmp_path / "artifact"))
    first, second = (tf.saved_model.load(str(tmp_path / "artifact")) for _ in range(2))
    assert np.array_equal(np.array(first.serve(x)), np.array(second.serve(x))), "the seed travels along"
    assert differs(first.serve, x)
    # 512 samples on each side of a probability whose deviation is at most 0.5: 0.5*sqrt(2/512) = 0.03, times 5.
    mean = np.mean([first.serve(x) for _ in range(512)], axis=0)
    assert np.abs(mean - recipe.predict_with_uncertainty(sampler, x, 512).mean).max() < 0.15


# Many samples in one call


def test_cure_every_layer_and_every_row_draws_a_mask_of_its_own() -> None:
    doubled = keras.Sequential([keras.Input((500,)), layers.Dropout(0.5), layers.Dropout(0.5)])
    [p] = recipe.sample(recipe.to_monte_carlo(doubled), np.ones((2, 500), "float32"), 4)
    # Two independent halves keep a quarter; equal masks would keep half. 4000 draws: standard deviation 0.007.
    assert np.mean(p > 0) == pytest.approx(0.25, abs=0.035)
    assert len({row.tobytes() for row in p.reshape(8, 500)}) == 8


def test_a_seed_before_the_conversion_repeats_the_samples_and_one_copy_goes_on(x: np.ndarray) -> None:
    model = sequential(layers.Dropout(0.5))

    def seeded(seed: int) -> tuple[np.ndarray, np.ndarray]:
        keras.utils.set_random_seed(seed)
        sampler = recipe.to_monte_carlo(model)
        return next(recipe.sample(sampler, x, 4)), next(recipe.sample(sampler, x, 4))

    (one, more), (same, _), (other, _) = seeded(1), seeded(1), seeded(2)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, more) and not np.array_equal(one, other)


def test_parts_are_in_order_and_no_call_exceeds_max_rows(x: np.ndarray) -> None:
    # Dropping so rarely that it never happens here: each sample is the plain prediction of its input.
    sampler = recipe.to_monte_carlo(sequential(layers.Dropout(1e-9)))
    parts = list(recipe.sample(sampler, x[:10], 5, max_rows=16))
    assert [part.shape for part in parts] == [(3, 5, 3)] * 3 + [(1, 5, 3)]
    assert [part.shape for part in recipe.sample(sampler, x[:2], 5, max_rows=4)] == [(1, 5, 3)] * 2
    plain = sampler.predict_on_batch(x[:10])
    for number in range(5):
        assert np.allclose(np.concatenate(parts)[:, number], plain, atol=1e-6)  # float32 rounding
    found = recipe.predict_with_uncertainty(sampler, x[:10], 5, max_rows=16)
    assert np.allclose(found.mean, plain, atol=1e-6) and found.entropy.shape == found.mutual_information.shape == (10,)
    assert np.abs(found.mutual_information).max() < 1e-5, "samples that agree say nothing about the weights"


def test_lists_and_dicts_of_inputs_and_outputs_are_taken_as_the_model_takes_them() -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    dropped = layers.Dropout(0.5)(layers.Concatenate()([a, b]))
    one, two = layers.Dense(2, activation="softmax")(dropped), layers.Dense(5, activation="softmax")(dropped)
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(6, 4)).astype("float32"), rng.normal(size=(6, 3)).astype("float32")

    named = recipe.to_monte_carlo(keras.Model({"a": a, "b": b}, {"one": one, "two": two}))
    x = {"b": right, "a": left}
    parts = list(recipe.sample(named, x, 4, max_rows=16))
    assert [{k: v.shape for k, v in part.items()} for part in parts] == [
        {"one": (4, 4, 2), "two": (4, 4, 5)},
        {"one": (2, 4, 2), "two": (2, 4, 5)},
    ]
    found = recipe.predict_with_uncertainty(named, x, 4, max_rows=16)
    assert found["one"].mean.shape == (6, 2) and found["two"].mutual_information.shape == (6,)

    listed = recipe.to_monte_carlo(keras.Model([a, b], [one, two]))
    first, second = recipe.predict_with_uncertainty(listed, [left, right], 512)
    assert first.mean.shape == (6, 2)
    # The named copy has the same weights: means of 512 samples each, as in the artifact's test.
    assert np.abs(second.mean - recipe.predict_with_uncertainty(named, x, 512)["two"].mean).max() < 0.15


# What the samples say


def test_uncertainty_of_samples_that_disagree_and_of_samples_that_shrug() -> None:
    disagree, shrug = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]
    found = recipe.summarise(np.array([disagree, shrug, [[1.0, 0.0], [1.0, 0.0]]]))
    assert np.allclose(found.mean, [[0.5, 0.5], [0.5, 0.5], [1, 0]])
    assert np.allclose(found.entropy, [np.log(2), np.log(2), 0])
    assert np.allclose(found.mutual_information, [np.log(2), 0, 0])
    with pytest.raises(ValueError, match="a model of logits needs a softmax"):
        recipe.summarise(np.array([[[2.0, -1.5]]]))


# Refusals


class Mine(keras.layers.Dropout):
    pass


class Converted(recipe.AlwaysOn, keras.layers.Dropout):
    pass


@pytest.mark.parametrize(
    "parts, message",
    [
        ([], "has no dropout with a rate above 0"),
        ([layers.Dropout(0.0)], "has no dropout with a rate above 0"),
        ([layers.Dropout(0.5, noise_shape=(1, 16), name="mask")], "mask draws one mask for all rows"),
        ([Mine(0.5)], "derive Mine from AlwaysOn, too"),
        ([layers.Reshape((4, 4)), layers.LSTM(2, dropout=0.5, name="lstm")], "dropout inside lstm"),
        ([layers.Reshape((4, 4)), layers.GRU(2, recurrent_dropout=0.5, name="gru")], "dropout inside gru"),
    ],
)
def test_what_cannot_be_sampled_is_named(parts: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.to_monte_carlo(sequential(*parts))


def test_an_unbuilt_model_and_a_plain_one_are_refused_and_a_derived_class_is_taken(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="is not built yet: call it once"):
        recipe.to_monte_carlo(Subclassed())
    with pytest.raises(ValueError, match="drop is off at prediction"):
        next(recipe.sample(sequential(layers.Dropout(0.5, name="drop")), x))
    own = sequential(layers.Reshape((4, 4)), layers.LSTM(2), Converted(0.5))
    assert [type(layer) for layer in recipe.dropouts(own)] == [Converted]


@pytest.mark.slow
def test_the_demo_shows_three_ways_and_what_the_samples_know(demo: str) -> None:
    *ways, known, unseen = demo.splitlines()[1:]
    bare, by_predict, by_recipe = ((float(line.split()[-2]), line.split()[-1]) for line in ways)
    assert by_predict[0] > 0 if OBEYED else by_predict == (0.0, "no")
    assert bare[1] == "yes" and (by_predict[1] == "yes") is OBEYED and by_recipe[1] == "no"
    # The same rate; but the bare call normalises with the statistics of the batch.
    assert bare[0] == pytest.approx(by_recipe[0], rel=0.3)
    numbers = [float(line.split()[-2]) for line in (known, unseen)]
    assert numbers[1] > 1.5 * numbers[0]


# The page's table and figure


@pytest.mark.slow
def test_data_still_hold_today() -> None:
    known = json.loads(lane.DATA.read_text(encoding="utf-8"))
    assert len(known["runs"]) == len(known["seeds"]) == len(lane.SEEDS)
    model, (_, _, x, y, new) = lane.trained(0)
    sampler = recipe.to_monte_carlo(model)
    then, now = known["runs"][0]["turned"]["30"], lane.turned(model, sampler, x, y, 30)
    for way in ("one_pass", "samples"):
        # Training is not bit-equal across machines and threads; a seed's neighbours differ by more than this.
        assert now[way]["accuracy"] == pytest.approx(then[way]["accuracy"], abs=0.08)
        assert now[way]["calibration_error"] == pytest.approx(then[way]["calibration_error"], abs=0.08)
    assert now["samples"]["calibration_error"] < now["one_pass"]["calibration_error"] - 0.05
    assert lane.unseen(model, sampler, x, new) == pytest.approx(known["runs"][0]["unseen"], abs=0.05)


def test_calibration_by_hand() -> None:
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.0, 1.0]])
    confidence, accuracy, count = lane.reliability(p, np.array([0, 1, 1, 1]))
    assert np.allclose(confidence, [0.65, 2.9 / 3]) and np.allclose(accuracy, [1, 2 / 3]) and count.tolist() == [1, 3]
    assert lane.expected_calibration_error(p, np.array([0, 1, 1, 1])) == pytest.approx((0.35 + 3 * 0.3) / 4)
    assert lane.auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


def test_the_error_of_the_mean_halves_with_four_times_the_samples() -> None:
    for run in json.loads(lane.DATA.read_text(encoding="utf-8"))["runs"]:
        # The reference itself has 1,024 samples, so up to 64 its own error is below a hundredth of the square.
        for count in (1, 4, 16):
            ratio = run["enough"][str(count)]["error"] / run["enough"][str(4 * count)]["error"]
            assert ratio == pytest.approx(2, rel=0.15)


def test_samples_calibrate_what_is_far_from_the_training_data_and_cost_on_what_is_near() -> None:
    runs = json.loads(lane.DATA.read_text(encoding="utf-8"))["runs"]
    for measure in ("one_pass_entropy", "entropy"):
        assert f"{np.mean([run['unseen'][measure] for run in runs]):.2f}" == "0.96"
    for run in runs:
        for angle, both in run["turned"].items():
            better = both["samples"]["calibration_error"] < both["one_pass"]["calibration_error"]
            assert better is (int(angle) >= 30)
            # No seed gains or loses two points of accuracy by sampling.
            assert abs(both["samples"]["accuracy"] - both["one_pass"]["accuracy"]) < 0.02
        assert abs(run["unseen"]["entropy"] - run["unseen"]["one_pass_entropy"]) < 0.02
        by_count = {int(count): row for count, row in run["enough"].items()}
        for number in (32, 64, 128):
            for what in ("accuracy", "calibration_error"):
                assert abs(by_count[number][what] - by_count[256][what]) < 0.02
        assert by_count[8]["mutual_information"] < 0.9 * by_count[256]["mutual_information"]
        assert by_count[64]["mutual_information"] > 0.95 * by_count[256]["mutual_information"]


def test_the_page_shows_the_data_and_the_figure_is_drawn_from_them(tmp_path: Path) -> None:
    page = (lane.DATA.parents[3] / "docs/recipes/monte_carlo_dropout.md").read_text(encoding="utf-8")
    known = json.loads(lane.DATA.read_text(encoding="utf-8"))
    assert lane.table(known) in page
    assert f"Keras {known['keras']}" in page
    assert f"sha256 {lane.digest()}" in lane.FIGURE.read_text(encoding="utf-8"), "draw it anew: lane with --figure"
