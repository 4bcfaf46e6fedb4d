"""Accumulated gradients are those of the whole batch; BatchNormalization sees micro-batches all the same."""

import keras
import numpy as np
import pytest
import small_batch_and_accumulation as recipe

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (16, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 16)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small(*layers):
    keras.utils.set_random_seed(0)
    head = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), *layers, head])


def norm():
    return keras.layers.BatchNormalization(momentum=0.9)


def after(model, parts, optimizer=keras.optimizers.SGD, x=X, y=Y):
    value = float(recipe.make_accumulating_step(model, optimizer(0.1), LOSS, parts)(x, y))
    return value, [np.array(w.value) for w in model.weights]


def differ(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def test_cure_without_batchnorm_parts_are_the_whole_with_regularisation_counted_once():
    (loss, weights), (value, accumulated) = (after(small(), parts) for parts in (1, 8))
    assert value == pytest.approx(loss, rel=1e-5)
    assert differ(weights, accumulated) < 1e-6


def test_cure_group_normalization_makes_no_difference_of_parts():
    def made():
        return recipe.with_group_normalization(small(norm()))

    assert differ(after(made(), 1)[1], after(made(), 8)[1]) < 1e-6


def test_pitfall_batchnorm_is_another_net_in_parts():
    (loss, weights), (value, accumulated) = (after(small(norm()), parts) for parts in (1, 8))
    assert abs(value - loss) > 0.02 and differ(weights, accumulated) > 0.01


def test_pitfall_each_micro_batch_moves_the_statistics_and_cure_momentum_to_the_power():
    """Eight equal micro-batches: what the whole batch moves them by, with the momentum's eighth root."""
    x, y = np.tile(X[:2], (8, 1)), np.tile(Y[:2], 8)

    def moving_mean(parts, keep):
        model = small(norm())
        if keep:
            assert recipe.keep_time(model, parts) == [model.layers[1].name]
        after(model, parts, x=x, y=y)
        return model.layers[1].moving_mean.numpy()

    whole = moving_mean(1, False)
    np.testing.assert_allclose(moving_mean(8, True), whole, rtol=1e-4)
    np.testing.assert_allclose(moving_mean(8, False) / whole, (1 - 0.9**8) / 0.1, rtol=1e-4)


def test_dropout_is_on():
    step = recipe.make_accumulating_step(small(keras.layers.Dropout(0.5)), keras.optimizers.SGD(0.0), LOSS, 2)
    assert len({float(step(X, Y)) for _ in range(3)}) == 3


def test_a_loss_scaled_optimizer_takes_the_same_step():
    plain = after(small(), 4)[1]
    scaled = after(small(), 4, lambda rate: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate)))[1]
    assert differ(plain, scaled) < 1e-4


def test_group_normalization_takes_the_place_and_all_else_stays():
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(12, 3), keras.layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((4, 4, 3)), inner, keras.layers.BatchNormalization(name="norm")])
    copy = recipe.with_group_normalization(model)
    assert isinstance(copy.get_layer("norm"), keras.layers.GroupNormalization)
    assert copy.get_layer("norm").groups == 4  # 12 channels do not part into 8 groups
    assert not recipe.batch_norms(copy)
    assert differ(copy.layers[0].layers[0].get_weights(), inner.layers[0].get_weights()) == 0
    assert copy(np.zeros((1, 4, 4, 3)), training=True).shape == (1, 2, 2, 12)


def test_nothing_to_keep_is_refused():
    with pytest.raises(ValueError, match="has no BatchNormalization"):
        recipe.keep_time(small(), 4)


def test_a_nested_batchnorm_is_found():
    inner = small(norm())
    outer = keras.Sequential([keras.Input((6,)), inner])
    assert recipe.keep_time(outer, 2) == [inner.layers[1].name]
    assert inner.layers[1].momentum == pytest.approx(0.9**0.5)


@pytest.mark.slow
def test_demo_micro_batches_cost_batchnorm_and_not_groupnorm(demo):
    batch, tiny, group, tiny_group = (float(line.split()[-1]) for line in demo.splitlines()[1:])
    assert batch > tiny + 0.15
    assert abs(group - tiny_group) < 0.05
