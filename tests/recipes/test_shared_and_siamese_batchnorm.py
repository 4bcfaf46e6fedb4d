"""A shared BatchNormalization is one thing in training and another in inference, unless its inputs come together."""

import keras
import numpy as np
import pytest
import releases
import shared_and_siamese_batchnorm as recipe

GENERATOR = np.random.default_rng(0)
A = GENERATOR.normal(0, 1, (32, 4)).astype("float32")
B = GENERATOR.normal(6, 2, (16, 4)).astype("float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def settled(call, layer=None):
    """A BatchNormalization that `call` has shown A and B many times."""
    norm = layer or keras.layers.BatchNormalization(momentum=0.5)
    norm.build((None, 4))
    for _ in range(40):
        answers = call(norm, [A, B], training=True)
    return norm, answers


def differ(call, norm, answers):
    """How far inference is from the last call in training."""
    pairs = zip(call(norm, [A, B], training=False), answers, strict=True)
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def test_pitfall_apart_inference_is_another_net_and_its_variance_lacks_the_difference_of_the_means():
    norm, answers = settled(recipe.apart)
    assert differ(recipe.apart, norm, answers) > 1
    variances = sorted((A.var(0).mean(), B.var(0).mean()))
    assert variances[0] < float(np.mean(norm.moving_variance)) < variances[1] < np.concatenate([A, B]).var(0).mean() / 2


def test_cure_together_inference_is_what_was_trained():
    norm, answers = settled(recipe.together)
    assert differ(recipe.together, norm, answers) < 1e-3
    both = np.concatenate([A, B])
    np.testing.assert_allclose(norm.moving_mean, both.mean(0), rtol=1e-3)
    np.testing.assert_allclose(norm.moving_variance, both.var(0), rtol=1e-3)
    assert [len(answer) for answer in answers] == [32, 16]


def test_cure_by_domain_each_has_its_statistics_and_inference_is_what_was_trained():
    norm, answers = settled(recipe.by_domain, recipe.DomainNormalization(2, {"momentum": 0.5}))
    assert differ(recipe.by_domain, norm, answers) < 1e-3
    for one, x in zip(norm.norms, (A, B), strict=True):
        np.testing.assert_allclose(one.moving_mean, x.mean(0), rtol=1e-3)


@pytest.mark.parametrize("of", ["layer", "net"])
@pytest.mark.parametrize("phase", [True, False])
def test_the_domains_phase_is_the_calls_own_also_inside_another(of, phase):
    called = recipe.DomainNormalization(1, {"momentum": 0.5}) if of == "layer" else recipe.Net()
    called.build((None, 4))
    norm = (called if of == "layer" else called.norm).norms[0]

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            return called.call(x, training=phase)

    Outer()(A, training=not phase)
    assert bool(np.any(norm.moving_mean)) == phase
    before = np.array(norm.moving_mean)
    called(A)
    assert np.array_equal(before, norm.moving_mean)  # a bare call is inference


@pytest.mark.parametrize("domain", [2, -1, None])
def test_a_domain_that_is_not_there_is_refused(domain):
    norm = recipe.DomainNormalization(2)
    norm.build((None, 4))
    with pytest.raises(ValueError, match="There is no domain"):
        norm(A, domain=domain)


def test_the_layer_is_saved_whole(tmp_path):
    inputs = keras.Input((4,))
    norm = recipe.DomainNormalization(2, {"momentum": 0.5})
    model = keras.Model(inputs, [norm(inputs, domain=0), norm(inputs, domain=1)])
    norm.norms[1].moving_mean.assign([1, 2, 3, 4])
    model.save(tmp_path / "model.keras")
    objects = {"DomainNormalization": recipe.DomainNormalization}
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects=objects)
    for one, other in zip(again(A), model(A), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert again.layers[-1].norms[0].momentum == 0.5


def net(call):
    keras.utils.set_random_seed(0)
    model = recipe.Net(2 if call is recipe.by_domain else 1)
    model.build((None, 4))
    return model


@pytest.mark.parametrize("call", [recipe.together, recipe.by_domain])
def test_the_step_trains_in_the_training_phase_with_a_scaled_loss_too(call):
    parts, targets = [A, B], [np.arange(32) % 10, np.arange(16) % 10]

    def after(optimizer):
        model = net(call)
        return model, float(recipe.make_step(model, optimizer, LOSS, call)(parts, targets))

    twin = net(call)
    answers = call(twin, parts, training=True)
    model, value = after(keras.optimizers.SGD(0.1))
    assert value == pytest.approx(sum(float(LOSS(y, a)) for y, a in zip(targets, answers, strict=True)), rel=1e-5)
    for one, other in zip(model.non_trainable_weights, twin.non_trainable_weights, strict=True):
        np.testing.assert_allclose(np.array(one.value), np.array(other.value), rtol=1e-4, atol=1e-6)
    scaled, _ = after(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    for one, other in zip(model.weights, scaled.weights, strict=True):
        np.testing.assert_allclose(np.array(one.value), np.array(other.value), rtol=1e-3, atol=1e-5)
    assert any(map(np.any, map(np.subtract, model.get_weights(), net(call).get_weights())))


def test_pitfall_a_call_moves_the_statistics_each_time():
    """Of a layer on two branches, and of TimeDistributed on three time steps, under `fit` too, by the matrix."""
    x = GENERATOR.normal(5, 1, (8, 3, 4)).astype("float32")
    timed = keras.layers.TimeDistributed(keras.layers.BatchNormalization(momentum=0.5))
    timed(x, training=True)
    plain = keras.layers.BatchNormalization(momentum=0.5)
    plain(x, training=True)
    shares = [float(np.mean(norm.moving_mean) / 5) for norm in (timed.layer, plain)]
    assert shares == pytest.approx([1 - 0.5**3, 0.5], abs=0.05)
    data = releases.json.loads(releases.MATRIX.read_text(encoding="utf-8"))["cells"]
    assert {data["shared_bn_fit_update_count"]["2.21.0"], data["time_distributed_call_update_count"]["2.21.0"]} == {
        2,
        3,
    }


@pytest.mark.slow
def test_demo_apart_is_poor_and_both_cures_are_better(demo):
    right = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in demo.splitlines()[1:]}
    assert right["apart"][0] < 0.7 and right["apart"][1] < 0.4
    assert right["together"][0] > 0.8 and sum(right["together"]) > sum(right["apart"]) + 0.3
    assert min(right["by_domain"]) > 0.7
