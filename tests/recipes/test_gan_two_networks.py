"""Each network of a GAN learns in its own step and moves its statistics there alone; the old way leaves one dead."""

import gan_two_networks as recipe
import keras
import numpy as np
import pytest
import releases
import tensorflow as tf

GENERATOR = np.random.default_rng(0)
REAL = GENERATOR.normal(2, 1, (32, 64)).astype("float32")
NOISE = GENERATOR.normal(size=(32, 16)).astype("float32")
SAME = {"rtol": 1e-4, "atol": 1e-6}  # float32, the same sums in another order


def pair():
    keras.utils.set_random_seed(0)
    return recipe.networks()


def gan(rate=0.0, penalty=0.0, optimizer=keras.optimizers.SGD):
    made = recipe.GAN(*pair(), (16,), penalty)
    made.noise = lambda images: tf.constant(NOISE)
    made.compile(optimizer(rate), optimizer(rate))
    return made


def moving(network):
    return [np.array(w.value) for w in network.non_trainable_weights if "moving" in w.path]


def by_hand():
    """Losses and statistics of one step at a learning rate of 0: every call in training, each statistic in its step."""
    generator, discriminator = pair()
    fake = generator(NOISE, training=True)
    on_real, on_fake = discriminator(REAL, training=True), discriminator(fake, training=True)
    statistics = moving(generator), moving(discriminator)
    judged = discriminator(fake, training=True)
    loss_d = np.mean(np.logaddexp(0, -on_real)) + np.mean(np.logaddexp(0, on_fake))
    return np.mean(np.logaddexp(0, -judged)), loss_d, *statistics


@pytest.mark.parametrize("eager", [False, True])
def test_cure_every_call_runs_in_training_and_statistics_move_in_their_own_step_alone(eager):
    made = gan()
    made.run_eagerly = eager
    told = made.train_on_batch(REAL, return_dict=True)
    loss_g, loss_d, of_generator, of_discriminator = by_hand()
    np.testing.assert_allclose(float(told["loss_g"]), loss_g, **SAME)
    np.testing.assert_allclose(float(told["loss_d"]), loss_d, **SAME)
    for network, wanted in (made.generator, of_generator), (made.discriminator, of_discriminator):
        for got, value in zip(moving(network), wanted, strict=True):
            np.testing.assert_allclose(got, value, **SAME)


def test_cure_each_optimizer_moves_its_own_network():
    for still in ("optimizer_g", "optimizer_d"):
        made = gan(0.1)
        getattr(made, still).learning_rate = 0.0
        before = [[np.array(w.value) for w in n.trainable_weights] for n in (made.generator, made.discriminator)]
        made.train_on_batch(REAL)
        after = [[np.array(w.value) for w in n.trainable_weights] for n in (made.generator, made.discriminator)]
        moved = [any(map(np.any, map(np.subtract, *pairs))) for pairs in zip(before, after, strict=True)]
        assert moved == [still != "optimizer_g", still != "optimizer_d"]


def test_called_it_maps_noise_to_images_in_the_phase_that_it_is_told():
    for training in (False, True):
        wanted = pair()[0](NOISE, training=training)
        np.testing.assert_allclose(gan()(NOISE, training=training), wanted, **SAME)
        np.testing.assert_allclose(gan().call(NOISE, training=training), wanted, **SAME)
    made = gan()
    np.testing.assert_allclose(made(NOISE), pair()[0](NOISE, training=False), **SAME)
    assert made.predict(NOISE, verbose=0).shape == (32, 64)


def test_a_loss_scaled_optimizer_takes_the_same_step():
    def weights(optimizer):
        made = gan(0.1, optimizer=optimizer)
        made.train_on_batch(REAL)
        return [np.array(w.value) for w in made.trainable_weights]

    scaled = weights(lambda rate: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate)))
    for one, other in zip(weights(keras.optimizers.SGD), scaled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)  # steps of 1e-2 and less


def test_the_gradient_penalty_is_each_images_own_and_moves_nothing():
    _, discriminator = pair()
    before = moving(discriminator)
    images = tf.constant(REAL)
    alone = [float(recipe.gradient_penalty(discriminator, images[n : n + 1])) for n in range(8)]
    together = float(recipe.gradient_penalty(discriminator, images[:8]))
    np.testing.assert_allclose(together, np.mean(alone), rtol=1e-4)
    assert together > 0
    assert all(map(np.array_equal, before, moving(discriminator)))

    class Outer(keras.layers.Layer):
        def call(self, images, training=None):
            return recipe.gradient_penalty(discriminator, images)

    np.testing.assert_allclose(float(Outer()(images[:8], training=True)), together, rtol=1e-4)
    made = gan(penalty=10.0)
    told = made.train_on_batch(REAL, return_dict=True)
    penalty = float(recipe.gradient_penalty(made.discriminator, images))  # with the statistics of the two calls before
    np.testing.assert_allclose(float(told["loss_d"]) - by_hand()[1], 10 * penalty, rtol=1e-3)


def test_pitfall_a_second_pass_moves_the_statistics_twice_and_cure_once():
    """Sharpness-aware minimisation takes its gradient at other weights: two passes a step."""

    def after(second):
        _, discriminator = pair()
        discriminator(REAL, training=True)
        second(discriminator)
        return moving(discriminator)

    def kept(discriminator):
        with recipe.statistics_kept(discriminator):
            discriminator(REAL, training=True)

    once = after(lambda discriminator: None)
    assert all(map(np.array_equal, once, after(kept)))
    twice = after(lambda discriminator: discriminator(REAL, training=True))
    assert np.abs(twice[0] - once[0]).max() > 0.5 * np.abs(once[0]).max()


@pytest.mark.parametrize("spoil", ["frozen", "not built"])
def test_a_network_with_nothing_to_train_is_refused(spoil):
    generator, discriminator = pair()
    if spoil == "frozen":
        discriminator.trainable = False
    else:
        discriminator = keras.Sequential([keras.layers.Dense(1)])
    made = recipe.GAN(generator, discriminator, (16,))
    with pytest.raises(ValueError, match="has no trainable weights"):
        made.compile(keras.optimizers.Adam(), keras.optimizers.Adam())
    assert not hasattr(made, "optimizer_g")


def test_pitfall_compiled_frozen_and_compiled_again_the_discriminator_is_dead():
    generator, discriminator = pair()
    before = [np.array(w.value) for w in discriminator.weights]
    recipe.frozen_and_compiled(generator, discriminator, REAL.repeat(4, 0))
    learned = any(map(np.any, map(np.subtract, before, (np.array(w.value) for w in discriminator.weights))))
    assert learned == releases.on_this_release("gan_discriminator_learns")


@pytest.mark.slow
def test_demo_with_two_lists_the_discriminator_learns_and_fakes_come_near(demo):
    dead, alive = demo.splitlines()
    assert "as it began" in dead and "learned" in alive
    off, near = (float(line.split()[-1]) for line in (dead, alive))
    assert off > 0.3 and near < 0.15  # pixels from 0 to 1
