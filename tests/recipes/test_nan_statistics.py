"""One bad batch spoils the moving statistics for good; a guarded step leaves it out, and a repair needs no training."""

import keras
import nan_statistics as recipe
import numpy as np
import pytest

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (32, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 32)
BAD = X.copy()
BAD[3, 2] = np.inf
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(momentum=0.9, name="norm")])
    head = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), inner, keras.layers.Dropout(0.3), head])


def scaled(rate=0.1):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate))


def values(model):
    return [np.array(w.value) for w in model.weights]


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def spoil(model):
    model(BAD, training=True)
    return model


@pytest.mark.parametrize("optimizer", [scaled, lambda: keras.optimizers.Adam(0.01)])
@pytest.mark.parametrize("bad", [BAD, X[:0], X * np.nan])
def test_cure_a_bad_batch_changes_nothing(optimizer, bad):
    model, optimizer = small(), optimizer()
    step = recipe.make_guarded_step(model, optimizer, LOSS)
    _, counted = step(X, Y)
    before, state = values(model), [np.array(v.value) for v in optimizer.variables]
    assert counted and recipe.spoiled(model) == []
    _, counted = step(bad, Y[: len(bad)])
    assert not counted and same(before, values(model))
    assert same(state, [np.array(v.value) for v in optimizer.variables])


def test_cure_a_good_batch_is_the_step_of_train_on_batch():
    guarded, plain = small(), small()
    guarded.layers[2].rate = plain.layers[2].rate = 0.0
    value, _ = recipe.make_guarded_step(guarded, scaled(), LOSS)(X, Y)
    plain.compile(scaled(), LOSS)
    np.testing.assert_allclose(float(value), plain.train_on_batch(X, Y), rtol=1e-5)
    for one, other in zip(values(guarded), values(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_guarded_step_trains_with_dropout():
    step = recipe.make_guarded_step(small(), keras.optimizers.SGD(0.0), LOSS)
    assert len({float(step(X, Y)[0]) for _ in range(3)}) == 3


def test_pitfall_the_optimizer_skips_the_step_and_the_statistics_are_spoiled():
    model = small()
    model.compile(scaled(), LOSS)
    before = model.layers[0].kernel.numpy()
    model.train_on_batch(BAD, Y)
    assert np.array_equal(before, model.layers[0].kernel.numpy())
    norm = model.layers[1].layers[0]
    assert recipe.spoiled(model) == [norm.moving_mean.path, norm.moving_variance.path]
    model.train_on_batch(X, Y)
    assert len(recipe.spoiled(model)) == 2  # a good batch does not help
    assert np.isnan(model.predict(X, verbose=0)).any()


def test_pitfall_float16_overflows_where_float32_does_not():
    for dtype, count in (("float32", 0), ("mixed_float16", 2)):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(8, dtype=dtype), keras.layers.BatchNormalization(dtype=dtype)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        model(X * 20_000, training=True)
        assert len(recipe.spoiled(model)) == count


def test_cure_repaired_statistics_are_the_means_over_the_batches_and_nothing_else_changes():
    model = spoil(small())
    before = values(model)
    recipe.repair(model, [X[:16], X[16:]])
    norm = model.layers[1].layers[0]
    hidden = [model.layers[0](x).numpy() for x in (X[:16], X[16:])]
    np.testing.assert_allclose(norm.moving_mean, np.mean([h.mean(0) for h in hidden], 0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, np.mean([h.var(0) for h in hidden], 0), rtol=1e-4)
    assert norm.momentum == 0.9
    moving = [i for i, w in enumerate(model.weights) if "moving" in w.path]
    kept = [(a, b) for i, (a, b) in enumerate(zip(before, values(model), strict=True)) if i not in moving]
    assert len(kept) == 6 and all(np.array_equal(a, b) for a, b in kept)


@pytest.mark.parametrize("batches", [[X, BAD], []])
def test_a_nan_in_the_batches_leaves_all_as_it_was(batches):
    model = spoil(small())
    before = values(model)
    with pytest.raises(ValueError, match="Give finite batches"):
        recipe.repair(model, batches)
    assert same(before, values(model)) and recipe.batch_norms(model)[0].momentum == 0.9


def test_a_frozen_layer_is_refused():
    model = spoil(small())
    model.layers[1].trainable = False
    before = values(model)
    with pytest.raises(ValueError, match="frozen layer"):
        recipe.repair(model, [X])
    assert same(before, values(model))


def test_a_spoiled_kernel_is_refused():
    model = spoil(small())
    model.layers[0].kernel.assign(model.layers[0].kernel * np.nan)
    before = values(model)
    with pytest.raises(ValueError, match="go back to a checkpoint"):
        recipe.repair(model, [X])
    assert same(before, values(model))


def test_an_interrupted_repair_leaves_all_as_it_was():
    model = spoil(small())
    before = values(model)

    class Interrupted(list):
        def __iter__(self):
            yield X
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe.repair(model, Interrupted([X]))
    assert same(before, values(model)) and recipe.batch_norms(model)[0].momentum == 0.9


@pytest.mark.slow
def test_demo_one_pixel_spoils_all_and_both_ways_out_work(demo):
    rows = {line[:14].strip(): line.split() for line in demo.splitlines()}
    spoiled, accuracy = ({name: float(row[at]) for name, row in rows.items() if "accuracy" in row} for at in (-5, -1))
    assert spoiled == {"plain step": 4, "repaired": 0, "guarded step": 0}
    assert accuracy["plain step"] < 0.2 and min(accuracy["repaired"], accuracy["guarded step"]) > 0.8
    assert "1 of 45 batches left out" in demo
