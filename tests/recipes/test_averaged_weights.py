"""Averaged weights validate with averaged statistics; a teacher that follows neither trains nor drifts."""

import averaged_weights as recipe
import keras
import numpy as np
import pytest
import tensorflow as tf

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (48, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 48)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SAME = {"rtol": 1e-4, "atol": 1e-5}  # float32, the same sums in another order


def small(rate=0.3):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(momentum=0.9), keras.layers.Dropout(rate)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])


def values(model):
    return [np.array(w.value) for w in model.weights]


def fit(model, *callbacks, **options):
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    return model.fit(X, Y, 8, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks), **options).history


class Watch(keras.callbacks.Callback):
    """The weights after each step, and those that validation sees."""

    def __init__(self):
        super().__init__()
        self.trained, self.tested = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.trained.append(values(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.tested = values(self.model)


def test_cure_all_weights_are_averaged_and_the_moving_statistics_too():
    model, watch = small(), Watch()
    average = values(model)
    fit(model, watch, recipe.AveragedWeights(0.8))
    for n, weights in enumerate(watch.trained, 1):
        decay = min(0.8, (1 + n) / (10 + n))
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    for got, wanted in zip(values(model), average, strict=True):
        np.testing.assert_allclose(got, wanted, **SAME)


def test_cure_training_is_the_same_and_validation_sees_the_average():
    plain, averaged, one, other = small(), small(), Watch(), Watch()
    history = fit(plain, one, validation_data=(X, Y))
    told = fit(averaged, other, recipe.AveragedWeights(0.8), validation_data=(X, Y))
    assert told["loss"] == history["loss"]
    for a, b in zip(one.trained, other.trained, strict=True):
        assert all(map(np.array_equal, a, b))
    assert all(map(np.array_equal, other.tested, values(averaged)))  # after the last step, and at the end


def test_a_model_without_weights_is_refused():
    lazy = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="no weights to average"):
        fit(lazy, recipe.AveragedWeights())


def test_pitfall_the_average_of_what_trains_leaves_the_statistics_behind():
    target, online = small(), small()
    online.set_weights([w + 1 for w in online.get_weights()])
    recipe.follow(target.trainable_weights, online.trainable_weights, 0.0)
    moving = [np.array(w.value) for w in target.non_trainable_weights]
    assert not moving[0].any() and (moving[1] == 1).all()
    recipe.follow(target.weights, online.weights, 0.0)
    assert all(map(np.array_equal, values(target), values(online)))


def test_counts_are_copied():
    mine, theirs = keras.layers.Normalization(), keras.layers.Normalization()
    mine.adapt(X), theirs.adapt(X[:8])
    recipe.follow(mine.weights, theirs.weights, 0.5)
    assert int(mine.weights[-1].value) == int(theirs.weights[-1].value)


def step(rate=0.1, dropout=0.0, decay=0.9, optimizer=keras.optimizers.SGD):
    student, teacher = small(dropout), small(dropout)
    teacher.set_weights([w * 1.1 + 0.1 for w in teacher.get_weights()])
    return student, teacher, recipe.make_student_step(student, teacher, optimizer(rate), LOSS, decay)


def test_cure_the_teacher_answers_in_inference_and_moves_by_following_alone():
    student, teacher, train_step = step()
    twin, soft, before = small(0.0), teacher(X[8:], training=False), values(teacher)
    value = LOSS(Y[:8], twin(X[:8], training=True)) + tf.reduce_mean((twin(X[8:], training=True) - soft) ** 2)
    np.testing.assert_allclose(float(train_step(X[:8], Y[:8], (X[8:], X[8:]))), float(value), **SAME)
    for got, wanted in zip(student.non_trainable_weights, twin.non_trainable_weights, strict=True):
        np.testing.assert_allclose(np.array(got.value), np.array(wanted.value), **SAME)
    for got, mine, theirs in zip(values(teacher), before, values(student), strict=True):
        np.testing.assert_allclose(got, 0.9 * mine + 0.1 * theirs, **SAME)


def test_cure_the_students_dropout_is_on_and_the_teachers_off():
    *_, train_step = step(
        rate=0.0, dropout=0.5, decay=1.0
    )  # nothing moves but statistics, which training does not read
    assert len({float(train_step(X[:8], Y[:8], (X[8:], X[8:]))) for _ in range(3)}) == 3
    _, teacher, _ = step(dropout=0.5)
    assert np.array_equal(teacher(X, training=False), teacher(X, training=False))


def test_no_gradient_reaches_the_teacher():
    student, teacher, train_step = step(decay=1.0)
    before = values(teacher)
    train_step(X[:8], Y[:8], (X[8:], X[8:]))
    assert all(map(np.array_equal, before, values(teacher)))
    assert any(map(np.any, map(np.subtract, values(student), values(small(0.0)))))


def test_a_loss_scaled_optimizer_takes_the_same_step():
    def after(optimizer):
        student, _, train_step = step(optimizer=optimizer)
        train_step(X[:8], Y[:8], (X[8:], X[8:]))
        return values(student)

    scaled = after(lambda rate: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate)))
    for one, other in zip(after(keras.optimizers.SGD), scaled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_cure_the_teachers_phase_is_stated_where_an_outer_call_would_decide():
    """Traced in the call of a layer that trains, a bare `teacher(x)` would train."""
    _, teacher, train_step = step(decay=1.0)
    before = values(teacher)

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            return x + train_step(X[:8], Y[:8], (X[8:], X[8:]))

    Outer()(tf.zeros(1), training=True)
    assert all(map(np.array_equal, before, values(teacher)))


@pytest.mark.slow
def test_demo_the_average_is_good_with_its_own_statistics(demo):
    ema, averaged = ([float(word) for word in line.split()[-4:]] for line in demo.splitlines()[1:])
    assert max(ema[:3]) < 0.5 and min(averaged) > 0.7 and averaged[-1] > ema[-1] + 0.1
