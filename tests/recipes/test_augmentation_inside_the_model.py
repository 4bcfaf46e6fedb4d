"""Random layers act in training alone and are in no artifact; their default acts on a bare call and leaks."""

import augmentation_inside_the_model as recipe
import keras
import numpy as np
import pytest
import releases
import tensorflow as tf

X = np.random.default_rng(0).uniform(1, 2, (8, 8, 8, 1)).astype("float32")


class Always(keras.layers.Layer):
    """Stands for random layers: ten times the input in training, the input otherwise; active by default as they are."""

    def call(self, x, training=True):
        return 10 * x if training else x


def small(augment=None):
    keras.utils.set_random_seed(0)
    return recipe.Augmented(augment or Always(), recipe.network())


def shifting():
    return keras.layers.RandomTranslation(0.4, 0.4, fill_mode="constant", seed=0)


def moving_mean(model):
    return float(np.mean(model.network.layers[0].moving_mean))


def test_cure_augmentation_acts_in_training_alone():
    model = small()
    plain = model.network
    np.testing.assert_allclose(model(X), plain(X, training=False))
    np.testing.assert_allclose(model(X, training=False), plain(X, training=False))
    assert moving_mean(model) == 0
    model(X, training=True)
    assert moving_mean(model) == pytest.approx(0.1 * 10 * X.mean(), rel=1e-3)


def test_the_phases_are_those_that_the_call_was_told_also_inside_another():
    model = small()

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            return model.call(x, training=not training)

    inference = np.array(model(X, training=False))
    np.testing.assert_allclose(Outer()(X, training=True), inference)
    Outer()(X, training=False)
    assert moving_mean(model) == pytest.approx(0.1 * 10 * X.mean(), rel=1e-3)


def test_fit_augments_and_validation_does_not():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x, training=True):
            seen.append(training)
            return x

    model = small(Spy())
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((8, 10)), verbose=0, validation_data=(X, np.zeros((8, 10))))
    model.predict(X, verbose=0)
    assert seen and all(training is True for training in seen)
    model = keras.Sequential([keras.Input((8, 8, 1)), Always(), recipe.network()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    losses = [
        model.fit(X, np.zeros((8, 10)), verbose=0).history["loss"][0],
        model.evaluate(X, np.zeros((8, 10)), verbose=0),
    ]
    assert losses[0] != pytest.approx(losses[1], rel=0.1)


def test_cure_the_pipeline_augments_the_training_data():
    data = tf.data.Dataset.from_tensor_slices((X, np.arange(8))).batch(8)
    ((images, labels),) = recipe.augmented(data, Always())
    np.testing.assert_allclose(images, 10 * X)
    assert labels.numpy().tolist() == list(range(8))

    class Told(keras.layers.Layer):
        def call(self, x, training=False):
            return 10 * x if training else x

    ((images, _),) = recipe.augmented(data, Told())
    np.testing.assert_allclose(images, 10 * X)
    ((shifted, _),) = recipe.augmented(data, shifting())
    assert not np.array_equal(shifted, X)


def test_pitfall_a_bare_call_augments_and_leaks_where_the_matrix_says_so():
    layer = keras.layers.RandomFlip("horizontal", seed=0)
    flips = any(not np.array_equal(layer(X), X) for _ in range(5))
    assert flips == releases.on_this_release("random_flip_default_active")
    model = keras.Sequential([keras.Input((8, 8, 1)), layer, recipe.network()])
    model(X)
    moved = bool(np.any(model.layers[1].layers[0].moving_mean))
    assert moved == releases.on_this_release("random_flip_leaks_training")


def test_cure_what_is_served_is_inference_and_holds_no_random_operation(tmp_path):
    model = small(shifting())
    recipe.serve(model, str(tmp_path / "file"), (8, 8, 1))
    assert recipe.acts(str(tmp_path / "file")) == []
    file = tf.saved_model.load(str(tmp_path / "file"))
    for rows in (1, 8):
        np.testing.assert_allclose(file.serve(X[:rows]), model.predict(X[:rows], verbose=0), rtol=1e-4, atol=1e-5)


def test_cure_a_random_layer_that_is_on_by_default_is_served_off(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), shifting(), recipe.network()])
    recipe.serve(model, str(tmp_path / "file"), (8, 8, 1))


def test_what_ignores_the_phase_is_refused_and_nothing_is_left(tmp_path):
    class Stubborn(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = keras.Sequential([keras.Input((8, 8, 1)), Stubborn(), recipe.network()])
    with pytest.raises(ValueError, match=r"holds \['Random.*ignores"):
        recipe.serve(model, str(tmp_path / "file"), (8, 8, 1))
    assert not (tmp_path / "file").exists()
    norm = recipe.network()

    class Trains(keras.Model):
        def call(self, x):
            return norm(x, training=True)

    stubborn = Trains()
    stubborn(X)
    with pytest.raises(ValueError, match="Assign"):
        recipe.serve(stubborn, str(tmp_path / "file"), (8, 8, 1))


def test_an_outer_model_builds_it():
    model = recipe.Augmented(Always(), keras.Sequential([keras.layers.Dense(3)]))
    assert not model.built
    model(np.zeros((2, 4), "float32"))
    assert len(model.weights) == 2


@pytest.mark.slow
def test_demo_the_file_of_augmented_answers_as_predict(demo):
    inside, cured = ([float(word) for word in line.split()[-3:]] for line in demo.splitlines()[1:])
    assert len(set(cured)) == 1 and cured[0] > 0.85
    assert inside[0] > max(inside[1:]) + 0.05
