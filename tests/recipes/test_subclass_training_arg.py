"""Without a named `training` the phase does not arrive; with it, it does; and the guard knows which is which."""

import functools
import re
import sys

import keras
import numpy as np
import pytest
import subclass_training_arg as recipe
import tensorflow as tf

layers = keras.layers
KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2])


def bare_decorator(call):
    def wrapper(self, *args, **kwargs):
        return call(self, *args, **kwargs)

    return wrapper


def wrapping_decorator(call):
    @functools.wraps(call)
    def wrapper(self, *args, **kwargs):
        return call(self, *args, **kwargs)

    return wrapper


# Keras warns of "unbuilt state" where a decorator keeps it from looking into `call`; of the phase it says nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*(unbuilt state|built automatically):UserWarning")


class Told(keras.Model):
    """BatchNormalization and a Dense; how `call` takes the phase is what the classes below vary."""

    def __init__(self, **dense):
        super().__init__()
        self.norm = layers.BatchNormalization(momentum=0.9)
        self.out = layers.Dense(2, **dense)

    def call(self, x, training=None):
        return self.out(self.norm(x, training=training))


class Untold(Told):
    def call(self, x):
        return self.out(self.norm(x))


class TakesKwargs(Told):
    def call(self, x, **kwargs):
        return self.out(self.norm(x))


class ReadsKwargs(Told):
    def call(self, x, **kwargs):
        return self.out(self.norm(x, training=kwargs.get("training", False)))


class Hidden(Told):
    @bare_decorator
    def call(self, x, training=False):
        return self.out(self.norm(x, training=training))


class HiddenTwice(Told):
    @bare_decorator
    @bare_decorator
    def call(self, x, training=False):
        return self.out(self.norm(x, training=training))


class Wrapped(Told):
    @wrapping_decorator
    def call(self, x, training=None):
        return self.out(self.norm(x, training=training))


class DefaultFalse(Told):
    def call(self, x, training=False):
        return self.out(self.norm(x, training=training))


class TfFunction(Told):
    @tf.function
    def call(self, x, training=None):
        return self.out(self.norm(x, training=training))


DEAF = [Untold, TakesKwargs, ReadsKwargs, Hidden, HiddenTwice]
HEARING = [Told, Wrapped, DefaultFalse]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, (12, 3)).astype("float32"), rng.normal(0, 1, (12, 2)).astype("float32")


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.random((6, 4, 4, 1), dtype="float32"), rng.integers(0, 10, 6)


def norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]


def moved(model, action):
    """Which BatchNormalization layers' statistics an action moves."""
    before = [np.array(norm.moving_variance) for norm in norms(model)]
    action()
    return [not np.array_equal(old, norm.moving_variance) for old, norm in zip(before, norms(model), strict=True)]


def built(cls, x):
    model = cls()
    model(x)
    return model


def values(model):
    return [np.array(variable) for variable in model.variables]


# The pitfall and the cure


@pytest.mark.parametrize("cls", DEAF)
def test_pitfall_fit_trains_an_untold_model_in_inference_without_a_word(cls, batch, recwarn):
    model = built(cls, batch[0])
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=True)
    kernel = np.array(model.out.kernel)
    assert moved(model, lambda: model.fit(*batch, verbose=0)) == [False]
    assert not np.array_equal(kernel, model.out.kernel), "it does train"
    assert not [w for w in recwarn if "training" in str(w.message)]


@pytest.mark.parametrize("cls", HEARING)
def test_cure_fit_tells_a_model_with_the_named_argument(cls, batch):
    model = built(cls, batch[0])
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=True)
    assert moved(model, lambda: model.fit(*batch, verbose=0)) == [True]
    assert moved(model, lambda: model.evaluate(*batch, verbose=0)) == [False]


@pytest.mark.parametrize("cls", [Told, *DEAF])
def test_pitfall_a_bare_call_in_a_loop_is_inference_even_for_a_model_with_the_argument(cls, batch):
    model = built(cls, batch[0])

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    assert moved(model, lambda: step(*batch)) == [False]


@pytest.mark.parametrize("cls", DEAF)
def test_what_an_explicit_true_does_to_an_untold_model(cls, batch):
    """Dropped before Keras 3.10; from then on layers called without a word of their own inherit it."""
    model = built(cls, batch[0])
    inherits = KERAS >= (3, 10) and cls in (Untold, TakesKwargs)
    assert moved(model, lambda: model(batch[0], training=True)) == [inherits]


def test_on_keras_2_fit_reaches_an_untold_model(batch):
    import tf_keras

    class UntoldInKeras2(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = tf_keras.layers.BatchNormalization()

        def call(self, x):
            return self.norm(x)

    model = UntoldInKeras2()
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(batch[0], batch[0], verbose=0)
    assert np.all(model.norm.moving_mean.numpy() > 0)


def test_dropout_of_an_untold_model_never_drops_in_fit(batch):
    class Dropping(keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.5)
            self.out = layers.Dense(2)

        def call(self, x):
            self.last = self.drop(x)
            return self.out(self.last)

    class Telling(Dropping):
        def call(self, x, training=None):
            self.last = self.drop(x, training=training)
            return self.out(self.last)

    zeros = {}
    for cls in (Dropping, Telling):
        model = cls()
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(*batch, verbose=0)
        zeros[cls] = float(np.mean(np.array(model.last) == 0))
    assert zeros[Dropping] == 0
    assert 0.2 < zeros[Telling] < 0.8  # half of 36 values


def test_the_recipes_layers_state_the_phase_instead_of_inheriting_it(images):
    """`call` itself, without Keras's `__call__` around it, has no context to inherit from."""
    x = images[0]
    model = built(lambda: recipe.DigitsNet(filters=4, depth=2), x)
    x = tf.constant(x)
    assert moved(model, lambda: model.call(x, training=True)) == [True, True]
    assert moved(model, lambda: model.call(x, training=False)) == [False, False]
    assert moved(model, lambda: model.call(x)) == [False, False]
    block = model.blocks[0]
    assert moved(block, lambda: block.call(x, training=True)) == [True]
    assert moved(block, lambda: block.call(x)) == [False]


def test_the_recipes_dropout_states_the_phase_too():
    model, ones = recipe.DigitsNet(filters=4, depth=0), tf.ones((1, 4, 4, 4))
    model(ones)
    drawn = {
        phase: {np.array(model.call(ones, training=phase)).tobytes() for _ in range(30)} for phase in (True, False)
    }
    # Dropout at 0.1 leaves four features alone two times in three: 30 calls all alike has odds of 1e-5.
    assert len(drawn[True]) > 1 and len(drawn[False]) == 1


def test_the_recipes_net_is_in_inference_when_nobody_says_otherwise(images):
    x, _ = images
    model = built(lambda: recipe.DigitsNet(filters=4, depth=2), x)
    assert moved(model, lambda: model(x)) == [False, False]
    assert moved(model, lambda: model(x, training=True)) == [True, True]
    untold = built(lambda: recipe.UntoldDigitsNet(filters=4, depth=2), x)
    assert moved(untold, lambda: untold(x)) == [False, False]
    np.testing.assert_allclose(untold(x), model_like(untold, x), rtol=1e-5)


def model_like(model, x):
    twin = built(lambda: recipe.DigitsNet(filters=4, depth=2), x)
    twin.set_weights(model.get_weights())
    return twin(x, training=False)


# Blocks: inherited, or the sibling's


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(3 * x + 5)


class TellingBlock(Block):
    def call(self, x, training=None):
        return self.norm(3 * x + 5, training=training)


class Net(keras.Model):
    """A first layer called with a phase of its own, then a block."""

    def __init__(self, block, first, tell):
        super().__init__()
        self.first = layers.BatchNormalization()
        self.block = block()
        self.phase_of_first, self.tell = first, tell

    def call(self, x, training=None):
        phase = training if self.phase_of_first == "mine" else self.phase_of_first
        return self.block(self.first(x, training=phase), **({"training": training} if self.tell else {}))


@pytest.mark.parametrize("tell", [True, False])
def test_a_block_without_the_argument_inherits_the_phase_of_its_model(tell, batch):
    model = built(lambda: Net(Block, "mine", tell), batch[0])
    assert moved(model, lambda: model(batch[0], training=True)) == [True, True]
    assert moved(model, lambda: model(batch[0], training=False)) == [False, False]
    recipe.require_training_argument(model)  # no false alarm


def test_pitfall_a_block_without_the_argument_takes_the_phase_of_the_layer_before_it(batch):
    x = batch[0]
    frozen = built(lambda: Net(Block, False, False), x)
    assert moved(frozen, lambda: frozen(x, training=True)) == [False, False], "the block should have trained"
    live = built(lambda: Net(Block, True, False), x)
    assert moved(live, lambda: live(x, training=False)) == [True, True], "the block should have stood still"
    with pytest.raises(ValueError, match=r"Block\.call\(x\) of 'block.*' has no argument named `training`"):
        recipe.require_training_argument(frozen, every_block=True)


def test_cure_the_argument_in_the_block_and_told(batch):
    x = batch[0]
    frozen = built(lambda: Net(TellingBlock, False, True), x)
    assert moved(frozen, lambda: frozen(x, training=True)) == [False, True]
    live = built(lambda: Net(TellingBlock, True, True), x)
    assert moved(live, lambda: live(x, training=False)) == [True, False]
    recipe.require_training_argument(frozen, every_block=True)


# The guard


@pytest.mark.parametrize("cls", [*HEARING, TfFunction])
def test_guard_lets_a_model_with_the_named_argument_pass(cls):
    recipe.require_training_argument(cls())


@pytest.mark.parametrize("cls", DEAF)
def test_guard_names_the_call_and_the_layers(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__}\.call\(.*BatchNormalization") as error:
        recipe.require_training_argument(cls())
    assert ("functools.wraps hides it" in str(error.value)) == (cls not in (Untold, TakesKwargs))


def test_guard_works_in_a_constructor():
    class Strict(Untold):
        def __init__(self):
            super().__init__()
            recipe.require_training_argument(self)

    with pytest.raises(ValueError, match=r"Strict\.call\(x\)"):
        Strict()


def holding(*parts):
    """An untold model around the given layers."""

    class Holder(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = list(parts)

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    return Holder()


class AsksForPhase(layers.Layer):
    def call(self, x, training=None):
        return x * 2 if training else x


def lambda_with_phase(x, training=None):
    return x + 1 if training else x


SEQUENCE = (2, 6, 5)
IMAGE = (2, 8, 8, 3)
BUILT_IN = [
    (SEQUENCE, lambda: layers.BatchNormalization()),
    (SEQUENCE, lambda: layers.BatchNormalization(trainable=False)),
    (SEQUENCE, lambda: layers.LayerNormalization()),
    (SEQUENCE, lambda: layers.Dropout(0.5)),
    (SEQUENCE, lambda: layers.Dropout(0.0)),
    (SEQUENCE, lambda: layers.SpatialDropout1D(0.5)),
    (SEQUENCE, lambda: layers.AlphaDropout(0.5)),
    (SEQUENCE, lambda: layers.GaussianDropout(0.5)),
    (SEQUENCE, lambda: layers.GaussianNoise(1.0)),
    (SEQUENCE, lambda: layers.GaussianNoise(0.0)),
    (SEQUENCE, lambda: layers.Dense(3)),
    (SEQUENCE, lambda: layers.LSTM(3)),
    (SEQUENCE, lambda: layers.LSTM(3, dropout=0.5)),
    (SEQUENCE, lambda: layers.GRU(3, recurrent_dropout=0.5)),
    (SEQUENCE, lambda: layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(3)])),
    (SEQUENCE, lambda: layers.RNN([layers.SimpleRNNCell(3, dropout=0.5)])),
    (SEQUENCE, lambda: layers.Bidirectional(layers.SimpleRNN(3, dropout=0.5))),
    (SEQUENCE, lambda: layers.TimeDistributed(layers.Dropout(0.5))),
    (SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(3))),
    (SEQUENCE, lambda: layers.Lambda(lambda x: x + 1)),
    (SEQUENCE, lambda: layers.Lambda(lambda_with_phase)),
    (SEQUENCE, lambda: keras.Sequential([keras.Input((6, 5)), keras.Sequential([layers.Dropout(0.5)])])),
    (SEQUENCE, lambda: keras.Sequential([layers.Dense(3)])),
    (IMAGE, lambda: layers.Conv2D(2, 2)),
    (IMAGE, lambda: layers.Resizing(4, 4)),
    (IMAGE, lambda: layers.CenterCrop(4, 4)),
    (IMAGE, lambda: layers.RandomFlip()),
    (IMAGE, lambda: layers.RandomRotation(0.4)),
    (IMAGE, lambda: layers.RandomBrightness(0.5, value_range=(0, 1))),
    (IMAGE, lambda: layers.RandomCrop(4, 4)),
]
if KERAS >= (3, 9):  # new then
    BUILT_IN += [
        (IMAGE, lambda: layers.Equalization(value_range=(0, 1))),
        (IMAGE, lambda: layers.Solarization(value_range=(0, 1), addition_factor=0.4)),
        (IMAGE, lambda: layers.AutoContrast(value_range=(0, 1))),
    ]


@pytest.mark.parametrize(("shape", "make"), BUILT_IN)
def test_guard_alarms_exactly_when_a_built_in_layer_behaves_differently_in_training(shape, make):
    layer, x = make(), tf.constant(np.random.default_rng(0).random(shape, dtype="float32"))
    layer(x)
    inference, state = np.array(layer(x, training=False)), [np.array(v) for v in layer.non_trainable_variables]
    depends = False
    for _ in range(5):
        output = np.array(layer(x, training=True))
        depends |= output.shape != inference.shape or not np.allclose(output, inference, atol=1e-5)
        depends |= any(not np.array_equal(a, b) for a, b in zip(state, layer.non_trainable_variables, strict=True))
    if depends:
        with pytest.raises(ValueError, match="has no argument named `training`; it holds"):
            recipe.require_training_argument(holding(make()))
    else:
        recipe.require_training_argument(holding(make()))


def test_guard_sees_attention_dropout_and_spectral_normalization():
    recipe.require_training_argument(holding(layers.MultiHeadAttention(1, 2)))
    with pytest.raises(ValueError, match="multi_head_attention"):
        recipe.require_training_argument(holding(layers.MultiHeadAttention(1, 2, dropout=0.5)))
    with pytest.raises(ValueError, match="spectral_normalization"):
        recipe.require_training_argument(holding(layers.SpectralNormalization(layers.Dense(3))))


def test_guard_sees_a_layer_of_your_own_that_asks_for_the_phase():
    with pytest.raises(ValueError, match="AsksForPhase"):
        recipe.require_training_argument(holding(AsksForPhase()))


def test_guard_sees_through_lists_dicts_and_nested_models():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dropout(0.5, name="deep")])
    model = holding(keras.Sequential([inner]))
    model.parts.append({"also": layers.Dropout(0.1, name="in_a_dict")})
    with pytest.raises(ValueError, match=r"sequential\w*/sequential\w*/deep \(Dropout\), in_a_dict \(Dropout\)"):
        recipe.require_training_argument(model)


def test_guard_says_how_many_more_and_names_the_layers_of_a_block_but_not_the_block():
    with pytest.raises(
        ValueError, match=r"block\w*/batch_normalization\w* \(BatchNormalization\).* and 2 more"
    ) as error:
        recipe.require_training_argument(holding(*[TellingBlock() for _ in range(7)]))
    assert "(TellingBlock)" not in str(error.value)


@pytest.mark.parametrize("hidden", ["kwargs", "decorator"])
def test_guard_sees_a_block_that_wants_the_phase_in_vain_inside_a_model_that_has_it(hidden, batch):
    class Kwargs(Block):
        def call(self, x, **kwargs):
            return self.norm(x, training=kwargs.get("training", False))

    class Decorated(Block):
        @bare_decorator
        def call(self, x, training=False):
            return self.norm(x, training=training)

    block = {"kwargs": Kwargs, "decorator": Decorated}[hidden]
    model = built(lambda: Net(block, "mine", True), batch[0])
    assert moved(model, lambda: model(batch[0], training=True)) == [True, False], "it is no false alarm"
    with pytest.raises(ValueError, match=rf"{block.__name__}\.call.*hides it; it holds"):
        recipe.require_training_argument(model)


def test_guard_is_not_misled_by_helpers_and_recursion_in_a_closure():
    def helper(x, training=False):
        return x if training else again(x, True)

    def again(x, training):
        return helper(x, training)

    class UsesHelper(keras.Model):
        def call(self, x):
            return helper(x)

    recipe.require_training_argument(UsesHelper())


@pytest.mark.parametrize("wrap", [lambda part: keras.Sequential([part]), lambda part: functional(part)])
def test_functional_and_sequential_hand_the_phase_to_an_untold_model_inside(wrap, batch):
    model = wrap(Untold())
    model(batch[0])
    assert moved(model, lambda: model(batch[0], training=True)) == [True]
    recipe.require_training_argument(model)


def functional(part):
    x = keras.Input((3,))
    return keras.Model(x, part(x))


def test_guard_judges_a_model_without_a_call_by_its_parts():
    class Gan(keras.Model):
        def __init__(self, generator):
            super().__init__()
            self.generator = generator
            self.discriminator = keras.Sequential([layers.Dropout(0.5)])

    recipe.require_training_argument(Gan(Told()))
    with pytest.raises(ValueError, match=r"Untold\.call\(x\) of 'untold"):
        recipe.require_training_argument(Gan(Untold()))


def test_guard_changes_nothing_and_takes_layers_only():
    model = Told()
    recipe.require_training_argument(model)
    assert not model.built
    with pytest.raises(TypeError, match="not int"):
        recipe.require_training_argument(3)


# The steps


def test_train_step_moves_each_statistic_by_exactly_one_update(batch):
    x, y = batch
    model = Told()
    train_step, _ = recipe.make_steps(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    train_step(x, y)
    # momentum 0.9 over the initial (0, 1); Keras 3's variance is the biased one.
    np.testing.assert_allclose(model.norm.moving_mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.norm.moving_variance, 0.9 + 0.1 * x.var(0), rtol=1e-5)


def test_test_step_returns_the_inference_loss_and_changes_nothing(batch):
    x, y = batch
    model = built(Told, x)
    model.norm.moving_mean.assign([1.0, 2.0, 3.0])
    _, test_step = recipe.make_steps(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    before = values(model)
    loss = test_step(x, y)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model), strict=True))
    expected = np.mean((np.array(model(x, training=False)) - y) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert abs(float(loss) - np.mean((np.array(model(x, training=True)) - y) ** 2)) > 1e-3, "the phases differ"


def test_test_step_is_inference_even_where_the_default_is_training(batch):
    class DefaultTrue(Told):
        def call(self, x, training=True):
            return self.out(self.norm(x, training=training))

    model = built(DefaultTrue, batch[0])
    _, test_step = recipe.make_steps(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    assert moved(model, lambda: test_step(*batch)) == [False]
    assert moved(model, lambda: model(batch[0])) == [True], "or the line above proves nothing"


def regularised():
    return Told(kernel_regularizer="l2", activity_regularizer="l2")


@pytest.fixture
def datasets(batch):
    data = tf.data.Dataset.from_tensor_slices(batch)
    return data.batch(5), data.batch(4).take(2)  # the last training batch has two rows


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_fit_loop_learns_and_reports_what_fit_does(steps_per_call, batch, datasets):
    """Same start, same order, no random layer: the loop's history and weights are fit's."""
    ours, theirs = regularised(), built(regularised, batch[0])
    ours(batch[0])
    ours.set_weights(theirs.get_weights())
    theirs.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse", metrics=["mae"], run_eagerly=True)
    expected = theirs.fit(datasets[0], validation_data=datasets[1], epochs=3, verbose=0, shuffle=False).history
    history = recipe.fit_loop(
        ours,
        keras.optimizers.SGD(0.02, momentum=0.9),
        keras.losses.MeanSquaredError(),
        *datasets,
        epochs=3,
        metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        steps_per_call=steps_per_call,
        progress=False,
    )
    assert set(history) == set(expected) == {"loss", "mae", "val_loss", "val_mae"}
    if KERAS < (3, 3):  # its `fit` averages the loss over batches, not rows
        expected |= {name: history[name] for name in ("loss", "val_loss")}
    for name in history:
        # float32 through nine steps; a wrong phase or weighting shows in the second digit.
        np.testing.assert_allclose(history[name], expected[name], rtol=2e-4, err_msg=name)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_run_does_what_is_left_and_says_how_many(batch, datasets):
    model = Told()
    train_step, _ = recipe.make_steps(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    train_step.get_concrete_function(*batch)
    run, iterator = recipe.make_run(train_step), iter(datasets[0])
    assert [int(run(iterator, tf.constant(2))) for _ in range(3)] == [2, 1, 0]
    kept = 0.9**3  # three updates
    assert np.all(np.array(model.norm.moving_mean) > (1 - kept) * 1.5), "three updates towards a mean near 3"


def test_fit_loop_builds_a_model_and_shows_a_bar(datasets, capsys):
    model = Told()
    recipe.fit_loop(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(), list(datasets[0]), epochs=2)
    assert re.search(r"epoch 2/2 .*loss \d\.\d+.* 3/3", capsys.readouterr().out.replace("\n", " "))


def test_a_loss_per_example_is_averaged(batch):
    _, one = recipe.make_steps(model := built(Told, batch[0]), keras.optimizers.SGD(), keras.losses.MeanSquaredError())
    _, each = recipe.make_steps(model, keras.optimizers.SGD(), keras.losses.mean_squared_error)
    np.testing.assert_allclose(one(*batch), each(*batch), rtol=1e-6)


def test_loss_scaling_is_honoured(batch):
    """A scaled loss without scaled gradients, or the reverse, would be off by the factor 2**15."""
    plain, scaled = built(Told, batch[0]), built(Told, batch[0])
    scaled.set_weights(plain.get_weights())
    for model, optimizer in (
        (plain, keras.optimizers.SGD(0.1)),
        (scaled, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))),
    ):
        recipe.make_steps(model, optimizer, keras.losses.MeanSquaredError())[0](*batch)
    np.testing.assert_allclose(scaled.out.kernel, plain.out.kernel, rtol=1e-4, atol=1e-6)


def test_the_step_is_traced_once_for_each_of_two_batch_sizes_and_no_more(batch):
    x, y = batch
    train_step, _ = recipe.make_steps(Told(), keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    counts = []
    for rows in (5, 5, 2, 5, 3, 4):
        train_step(x[:rows], y[:rows])
        counts.append(train_step.experimental_get_tracing_count())
    # The first trace counts twice: it creates the variables, and TensorFlow traces again without that.
    assert counts == [2, 2, 3, 3, 3, 3]


def test_moving_statistics_are_copies_by_path(images):
    model = built(lambda: recipe.DigitsNet(filters=4, depth=1, name="net"), images[0])
    before = recipe.moving_statistics(model)
    assert len(before) == 2
    assert all(re.fullmatch(r"conv_block\w*/batch_normalization\w*/moving_(mean|variance)", path) for path in before)
    model(images[0], training=True)
    assert all(not np.array_equal(old, recipe.moving_statistics(model)[path]) for path, old in before.items())


# Bad input


MSE = keras.losses.MeanSquaredError()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loss": None}, TypeError, "no loss: pass an object such as"),
        ({"loss": "mse"}, TypeError, "not 'mse'"),
        ({"optimizer": "adam"}, TypeError, "no optimizer: pass an object"),
        ({"metrics": ["accuracy"]}, TypeError, "not a metric: .*'accuracy'"),
        ({"model": Untold}, ValueError, r"Untold\.call\(x\)"),
        ({"train_data": []}, ValueError, "train_data is empty"),
        ({"val_data": []}, ValueError, "val_data is empty"),
        ({"train_data": "iterator"}, TypeError, "train_data is an iterator, used up after one epoch"),
        ({"train_data": "endless"}, ValueError, r"train_data never ends: drop \.repeat\(\)"),
        ({"train_data": "triples"}, ValueError, r"\(x, y\) batches; the first one is 3 parts"),
        ({"train_data": "arrays"}, ValueError, "the first one is ndarray"),
        ({"val_data": "wrong"}, ValueError, r"labels of shape \(12, 3\) do not fit predictions of shape \(12, 2\)"),
        ({"epochs": 0}, ValueError, "at least 1, not 0 and 1"),
        ({"steps_per_call": 0}, ValueError, "at least 1, not 1 and 0"),
        ({"steps_per_call": 2}, TypeError, "needs a tf.data.Dataset, not list"),
    ],
)
def test_bad_input_is_named_before_a_weight_changes(change, error, message, batch):
    x, y = batch
    data = {
        "iterator": iter([batch]),
        "endless": tf.data.Dataset.from_tensors(batch).repeat(),
        "triples": [(x, y, y)],
        "arrays": (x, y),
        "wrong": [(x, x)],
    }
    arguments = {"model": Told, "optimizer": keras.optimizers.SGD(0.1), "loss": MSE, "train_data": [batch], **change}
    for name in ("train_data", "val_data"):
        if isinstance(arguments.get(name), str):
            arguments[name] = data[arguments[name]]
    model = arguments["model"] = built(arguments["model"], x)
    before = values(model)
    with pytest.raises(error, match=message):
        recipe.fit_loop(**arguments, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model), strict=True))


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("loss", "shape", "fits"),
    [
        (SPARSE, (4,), True),
        (SPARSE, (4, 1), True),
        (SPARSE, (4, 2), False),
        (SPARSE, (3,), False),
        (MSE, (4, 2), True),
        (MSE, (4,), False),
        (MSE, (4, 1), False),
        (MSE, (1, 2), False),
        (lambda y, p: tf.reduce_mean(p), (4, 7), True),
        (lambda y, p: tf.reduce_mean(p), (3, 7), False),
    ],
)
def test_labels_that_would_be_broadcast_are_refused(loss, shape, fits):
    model = built(Told, np.ones((4, 3), "float32"))
    _, test_step = recipe.make_steps(model, keras.optimizers.SGD(), loss)
    labels = np.zeros(shape, "int32" if loss is SPARSE else "float32")
    if fits:
        test_step(np.ones((4, 3), "float32"), labels)
    else:
        with pytest.raises(ValueError, match="do not fit predictions"):
            test_step(np.ones((4, 3), "float32"), labels)


def test_the_message_on_labels_says_which_shape_is_needed():
    model = built(Told, np.ones((4, 3), "float32"))
    _, test_step = recipe.make_steps(model, keras.optimizers.SGD(), SPARSE)
    with pytest.raises(ValueError, match=r"sparse_categorical_crossentropy: it needs labels of shape \(4, 1\)"):
        test_step(np.ones((4, 3), "float32"), np.zeros((4, 2), "int32"))


def test_a_model_with_nothing_to_train_is_named(batch):
    model = built(Told, batch[0])
    model.trainable = False
    train_step, _ = recipe.make_steps(model, keras.optimizers.SGD(), MSE)
    with pytest.raises(ValueError, match="no trainable variables"):
        train_step(*batch)


def test_layers_made_in_build_are_judged_when_the_step_is_traced(batch):
    class Late(keras.Model):
        def build(self, shape):
            self.drop, self.out = layers.Dropout(0.5), layers.Dense(2)
            self.out.build(shape)

        def call(self, x):
            return self.out(self.drop(x))

    train_step, _ = recipe.make_steps(Late(), keras.optimizers.SGD(), MSE)
    with pytest.raises(ValueError, match=r"Late\.call\(x\).*Dropout"):
        train_step(*batch)


def test_without_rich_the_bar_is_refused_by_name(monkeypatch, batch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match="pip install rich"):
        recipe.fit_loop(Told(), keras.optimizers.SGD(0.1), MSE, [batch])
    recipe.fit_loop(Told(), keras.optimizers.SGD(0.1), MSE, [batch], progress=False)


def test_without_scikit_learn_the_demo_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        recipe.load_digits()


# The demo


@pytest.mark.slow
def test_on_digits_the_untold_net_stays_at_chance_and_the_told_one_learns():
    rows = recipe.compare(progress=False)
    assert [row[:4] for row in rows] == [
        ("without", "fit", 0, 20),
        ("without", "model(x)", 0, 20),
        ("with", "fit_loop", 20, 20),
    ]
    # Ten classes: chance is 0.1, and 357 scans at chance stay below 0.15 in all but one case in 500.
    assert rows[0][4] < 0.15 and rows[1][4] < 0.15
    assert rows[2][4] > 0.7  # runs with seeds 0 to 2 gave 0.89 to 0.96
