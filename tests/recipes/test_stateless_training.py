"""`stateless_call` returns the new statistics and seeds: kept, the step is that of `fit`; dropped, nothing moves."""

import keras
import numpy as np
import pytest
import stateless_training as recipe
import tensorflow as tf

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (16, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 16)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small(rate=0.0):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1))]
    layers += [keras.layers.BatchNormalization(momentum=0.9), keras.layers.Dropout(rate)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])


def values(model):
    return [np.array(v.value) for v in model.variables]


def close(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_cure_the_step_is_that_of_train_on_batch_statistics_and_seeds_included(optimizer):
    functional, plain = small(0.3), small(0.3)
    plain.compile(optimizer, LOSS)
    step = recipe.make_step(functional, keras.optimizers.get(optimizer), LOSS)
    for _ in range(3):
        plain.reset_metrics()  # older releases give the mean of all calls so far
        assert float(step(X, Y)) == pytest.approx(float(plain.train_on_batch(X, Y)), rel=1e-4)
    close(values(functional), values(plain))


def test_pitfall_dropped_the_statistics_stay_and_dropout_draws_one_mask_for_ever():
    model = small(0.5)
    step = recipe.make_forgetful_step(model, keras.optimizers.SGD(0.0), LOSS)
    assert len({float(step(X, Y)) for _ in range(3)}) == 1
    assert not model.layers[1].moving_mean.numpy().any()
    kept = recipe.make_step(small(0.5), keras.optimizers.SGD(0.0), LOSS)
    assert len({float(kept(X, Y)) for _ in range(3)}) == 3


def test_pitfall_without_the_phase_what_is_returned_has_not_moved():
    model = small()
    trainable, other = recipe.values(model)
    _, told = model.stateless_call(trainable, other, X, training=True)
    _, bare = model.stateless_call(trainable, other, X)
    moved = [
        [bool(np.any(np.asarray(n) != np.asarray(o))) for n, o in zip(new, other, strict=True)] for new in (told, bare)
    ]
    assert sum(moved[0]) >= 2 and not any(moved[1])


@pytest.mark.parametrize("training", [True, False])
def test_the_objective_is_pure_and_its_phase_is_its_own(training):
    model = small()
    objective = recipe.make_loss(model, LOSS)
    before, (trainable, other) = values(model), recipe.values(model)
    value, new = objective(trainable, other, X, Y, training)
    again, _ = objective(trainable, other, X, Y, training)
    assert float(value) == float(again) and all(map(np.array_equal, before, values(model)))
    twin = small()
    assert float(value) == pytest.approx(float(LOSS(Y, twin(X, training=training)) + sum(twin.losses)), rel=1e-5)
    close(new, [v.value for v in twin.non_trainable_variables])


def test_the_test_step_takes_any_values_and_is_inference_where_an_outer_call_trains():
    model = small(0.5)
    test_step = recipe.make_test_step(model, LOSS)
    trainable, other = recipe.values(model)
    zeros = [tf.zeros_like(v) for v in trainable]
    assert float(test_step(zeros, other, X, Y)) == pytest.approx(np.log(3), rel=1e-5)

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            return recipe.make_test_step(model, LOSS)(trainable, other, x, Y)

    wanted = float(LOSS(Y, model(X, training=False)) + sum(model.losses))
    assert float(test_step(trainable, other, X, Y)) == pytest.approx(wanted, rel=1e-5)
    assert float(Outer()(X, training=True)) == pytest.approx(wanted, rel=1e-5)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="is not built"):
        recipe.make_step(keras.Sequential([keras.layers.Dense(1)]), keras.optimizers.SGD(), LOSS)


def test_a_loss_scaled_optimizer_takes_the_same_step():
    def after(optimizer):
        model = small()
        recipe.make_step(model, optimizer, LOSS)(X, Y)
        return [np.array(w.value) for w in model.weights]

    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    close(after(keras.optimizers.SGD(0.1)), after(scaled), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_demo_both_learn_and_only_the_whole_state_validates(demo):
    (loss, chance), (same, right) = ([float(word) for word in line.split()[1:]] for line in demo.splitlines()[1:])
    assert loss < 0.6 and same < 0.6
    assert chance < 0.2 and right > 0.75
