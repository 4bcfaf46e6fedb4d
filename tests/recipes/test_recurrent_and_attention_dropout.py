"""Dropout inside recurrent layers and blocks is on where the step says so, off elsewhere, and the checks see it."""

import keras
import numpy as np
import pytest
import recurrent_and_attention_dropout as recipe
import releases

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 8, 8)).astype("float32")
Y = GENERATOR.integers(0, 10, 8)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def alone(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8)), layer])


def block(which=None):
    """A block in which one of its three dropouts alone has a rate."""
    model = alone(recipe.Block(2, 8, 0.5))
    layers = {"attention": model.layers[0].attention._dropout_layer}
    layers.update(zip(("first", "second"), model.layers[0].drops, strict=True))
    for name, layer in layers.items():
        layer.rate = 0.5 * (name == which)
    return model


@pytest.mark.parametrize("which", ["attention", "first", "second"])
def test_cure_each_dropout_of_the_block_gets_the_phase(which):
    """In an outer call of the other phase too: what the block does not hand on, the context would decide."""
    model = block(which)
    assert recipe.drops(model, X) == (True, False)
    # A sublayer that is told the phase hands it to its later siblings; none in front of this one does.
    if which != "attention":
        model.layers[0].attention = lambda query, value, training: query
    if which == "second":
        model.layers[0].drops = [lambda x, training: x, model.layers[0].drops[1]]

    class Inner(keras.layers.Layer):
        def call(self, x, training=None):
            return model.layers[0].call(x, training=not training)

    other = alone(Inner())
    assert recipe.drops(other, X) == (False, True)


def test_without_a_rate_nothing_drops():
    assert recipe.drops(block(), X) == (False, False)


def test_the_block_is_built_and_saved_whole(tmp_path):
    model = alone(recipe.Block(2, 8, 0.2))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Block": recipe.Block})
    np.testing.assert_allclose(again(X), model(X), rtol=1e-5, atol=1e-6)
    assert again.layers[0].get_config() == model.layers[0].get_config()
    assert len(model.weights) == 16


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("which", ["dropout", "recurrent_dropout"])
def test_pitfall_a_bare_call_drops_nothing_and_cure_the_phase_does(kind, which):
    model = alone(getattr(keras.layers, kind)(8, **{which: 0.5}))
    assert np.array_equal(model(X), model(X))
    assert recipe.drops(model, X) == (releases.on_this_release(f"{kind.lower()}_{which}_drops"), False)


def test_pitfall_the_step_that_forgets_drops_nothing_and_no_variable_tells():
    for told in (False, True):
        model = recipe.net(0.3)
        step, _ = recipe.make_steps(model if told else recipe.Untold(model), keras.optimizers.SGD(0.0), LOSS)
        before = [np.array(w.value) for w in model.weights]
        assert recipe.step_drops(step, X, Y) == told
        assert all(map(np.array_equal, before, (np.array(w.value) for w in model.weights)))


def test_the_test_step_drops_nothing_where_an_outer_call_trains():
    _, test_step = recipe.make_steps(recipe.net(0.3), keras.optimizers.SGD(0.0), LOSS)

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            return test_step(x, Y)

    outer = Outer()
    assert float(outer(X, training=True)) == float(outer(X, training=True)) == float(test_step(X, Y))


def test_a_loss_scaled_optimizer_takes_the_same_step():
    def after(optimizer):
        model = recipe.net(0.0)
        recipe.make_steps(model, optimizer, LOSS)[0](X, Y)
        return [np.array(w.value) for w in model.trainable_weights]

    plain = after(keras.optimizers.SGD(0.1))
    for one, other in zip(plain, after(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_demo_the_told_step_drops_and_overfits_less(demo):
    first, _, bare, told = demo.splitlines()
    assert first.endswith("True False")
    (seen, new), (kept, better) = ([float(word) for word in line.split()[-2:]] for line in (bare, told))
    assert seen < 0.01 < kept and better < new - 0.5
