"""A run that was killed goes on, step for step, as one that was not; and what the usual ways to save leave out."""

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import checkpoint_and_resume as recipe
import keras
import numpy as np
import pytest
import tensorflow as tf

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (40, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(epoch):
    order = np.random.default_rng(epoch).permutation(40)
    return [(X[rows], Y[rows]) for rows in order.reshape(5, 8)]


class Run:
    """A model, its optimizer and its step, made anew as a new process makes them."""

    def __init__(self, seed=0, rate=0.5, optimizer=None):
        keras.utils.set_random_seed(seed)
        self.model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu", name="hidden")])
        self.model.add(keras.layers.BatchNormalization(momentum=0.9))
        self.model.add(keras.layers.Dropout(rate))
        self.model.add(keras.layers.Dense(3, name="head"))
        self.optimizer = optimizer or keras.optimizers.Adam(0.01)
        self.model.compile(self.optimizer, LOSS)
        self.optimizer.build(self.model.trainable_variables)
        self.step = recipe.make_step(self.model, self.optimizer, LOSS)

    def state(self):
        kinds = {}
        for part in self.model, self.optimizer:
            for v in part.variables:
                kind = "seeds" if "seed" in v.path else "statistics" if "moving" in v.path else "weights"
                kinds.setdefault(kind if part is self.model else "optimizer", []).append(np.array(v.numpy()))
        return kinds


def train(folder, seed=0, stop=None, **options):
    """Two epochs of five steps, saved every two; return the losses by (epoch, batch)."""
    made = Run(seed, **options)
    run, losses = recipe.Resumable(folder, made.model, made.optimizer, every=2), {}
    for epoch in run.epochs(2):
        for batch in run.batches(data(epoch)):
            losses[epoch, int(run.step)] = float(made.step(*batch))
            if len(losses) == stop:
                return losses, made
    return losses, made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


# Within one process the same float32 sums may be taken in another order: 1e-5 of a loss near 1.
SAME = {"rel": 1e-5}


@pytest.mark.parametrize(("stop", "first"), [(4, (0, 2)), (7, (1, 0)), (10, (1, 4))])
def test_cure_a_run_that_ended_anywhere_repeats_the_losses_of_one_that_did_not(tmp_path, undisturbed, stop, first):
    """It ends in the midst of step `stop`, before that is counted, and goes on at the last checkpoint."""
    whole, model = undisturbed
    train(tmp_path, stop=stop)
    rest, resumed = train(tmp_path, seed=99)  # another seed: nothing comes from its initial values
    assert min(rest) == first and max(rest) == (1, 4)
    assert rest == pytest.approx({at: whole[at] for at in rest}, **SAME)
    for kind, values in model.state().items():
        for wanted, got in zip(values, resumed.state()[kind], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=kind)
    assert train(tmp_path, seed=98)[0] == {}  # all done


def test_metrics_and_what_else_is_named_come_back(tmp_path):
    def parts():
        made, metric, weight = Run(), keras.metrics.Mean(), tf.Variable(1.0)
        iterator = iter(tf.data.Dataset.range(100).shuffle(100, seed=3))
        return (
            metric,
            weight,
            iterator,
            recipe.Resumable(tmp_path, made.model, made.optimizer, [metric], weight=weight, iterator=iterator),
        )

    metric, weight, iterator, run = parts()
    metric.update_state(3.0)
    weight.assign(0.25)
    seen = [int(next(iterator)) for _ in range(5)]
    run.save()
    following = [int(next(iterator)) for _ in range(5)]
    metric, weight, iterator, _ = parts()
    assert float(metric.result()) == 3 and float(weight) == 0.25
    assert [int(next(iterator)) for _ in range(5)] == following != seen


@pytest.mark.slow
def test_cure_under_fit_one_epoch_a_call(tmp_path):
    def epochs(folder, count, seed):
        made = Run(seed)
        run = recipe.Resumable(folder, made.model, made.optimizer)
        return [
            made.model.fit(*map(np.concatenate, zip(*data(epoch), strict=True)), 8, shuffle=False, verbose=0).history
            for epoch in run.epochs(count)
        ]

    whole = epochs(tmp_path / "whole", 3, seed=0)
    assert epochs(tmp_path / "two", 1, seed=0)[0]["loss"] == pytest.approx(whole[0]["loss"], **SAME)
    rest = epochs(tmp_path / "two", 3, seed=99)
    assert [h["loss"][0] for h in rest] == pytest.approx([h["loss"][0] for h in whole[1:]], **SAME)


# ---------------------------------------------------------------- what the usual ways leave out


def by_checkpoint(one, other, folder):
    """On Keras 3.0 `tf.train.Checkpoint` refuses the optimizer itself, so it gets its variables."""

    def checkpoint(made):
        return tf.train.Checkpoint(model=made.model, optimizer=recipe.variables([made.optimizer]))

    status = checkpoint(other).restore(checkpoint(one).save(folder / "checkpoint"))
    status.assert_existing_objects_matched()  # and yet
    status.assert_consumed()
    return other


def by_weights_file(one, other, folder):
    one.model.save_weights(folder / "model.weights.h5")
    other.model.load_weights(folder / "model.weights.h5")
    return other


def by_keras_file(one, other, folder):
    one.model.save(folder / "model.keras")
    other.model = keras.models.load_model(folder / "model.keras")
    other.optimizer = other.model.optimizer
    return other


def by_trainable_variables(one, other, folder):
    for source, target in zip(one.model.trainable_variables, other.model.trainable_variables, strict=True):
        target.assign(source)
    return other


def by_resumable(one, other, folder):
    recipe.Resumable(folder, one.model, one.optimizer).save()
    recipe.Resumable(folder, other.model, other.optimizer)
    return other


LOST = {
    by_checkpoint: {"seeds"},
    by_weights_file: {"seeds"},
    by_keras_file: {"seeds"},
    by_trainable_variables: {"seeds", "statistics", "optimizer"},
    by_resumable: set(),
}


@pytest.mark.parametrize("way", LOST, ids=lambda way: way.__name__)
def test_pitfall_what_each_way_to_save_loses_and_cure_nothing(tmp_path, way):
    one = Run()
    for x, y in data(0)[:2]:
        one.model.train_on_batch(x, y)
    other = way(one, Run(seed=99), tmp_path)
    before, after = one.state(), other.state()
    lost = {
        kind
        for kind in before
        if not all(np.array_equal(*pair) for pair in zip(before[kind], after[kind], strict=True))
    }
    assert lost == LOST[way]


def test_pitfall_with_the_seeds_lost_the_first_loss_differs(tmp_path, undisturbed):
    whole, _ = undisturbed
    losses = {}
    for name, way in ("lost", by_checkpoint), ("kept", by_resumable):
        made = Run()
        for batch in data(0):
            made.step(*batch)
        (tmp_path / name).mkdir()
        losses[name] = float(way(made, Run(seed=99), tmp_path / name).step(*data(1)[0]))
    assert losses["kept"] == pytest.approx(whole[1, 0], **SAME)
    assert abs(losses["lost"] - whole[1, 0]) > 0.01


def test_pitfall_skip_mismatch_leaves_what_does_not_fit_and_only_warns(tmp_path):
    one = Run()
    one.model.save_weights(tmp_path / "model.weights.h5")
    keras.utils.set_random_seed(99)
    wider = keras.Sequential([keras.Input((6,)), keras.layers.Dense(9, name="hidden")])
    before = wider.layers[0].kernel.numpy()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        wider.load_weights(tmp_path / "model.weights.h5", skip_mismatch=True)
    assert np.array_equal(before, wider.layers[0].kernel.numpy())
    assert any("could not be loaded" in str(warning.message) for warning in told)


def test_pitfall_by_name_loads_nothing_into_layers_of_other_names(tmp_path):
    """Names that Keras gives count on in a process: dense, dense_1. Older releases refuse `by_name`."""

    def model():
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])

    one, other = model(), model()
    before = other.layers[0].kernel.numpy()
    one.save(tmp_path / "model.h5")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.load_weights(tmp_path / "model.h5", by_name=True)
    except ValueError as refused:
        assert "top-level weights" in str(refused)
    assert np.array_equal(before, other.layers[0].kernel.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("often", ["epoch", 3])
def test_pitfall_backup_and_restore_starts_the_epoch_anew_and_does_not_repeat_the_run(tmp_path, often):
    class Kill(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            self.seen += 1
            if self.seen == 9:  # of 5 batches an epoch
                raise KeyboardInterrupt

    def fit(seed, *callbacks):
        epochs = []
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append((epoch, logs["loss"])))
        with contextlib.suppress(KeyboardInterrupt):
            Run(seed).model.fit(X, Y, 8, epochs=3, shuffle=False, verbose=0, callbacks=[note, *callbacks])
        return epochs

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=often)

    whole = fit(0)
    fit(0, backup(), Kill())
    rest = fit(99, backup())
    assert rest[-1][0] == 2 and len(rest) >= 2  # it was in the second of three epochs, which is run whole
    assert abs(rest[-1][1] - whole[-1][1]) > 0.005  # other dropout, and with 3 some batches twice


# ---------------------------------------------------------------- what is refused


def test_a_model_that_makes_its_variables_later_is_refused(tmp_path):
    lazy = keras.Sequential([keras.layers.Dense(2, name="late")])
    with pytest.raises(ValueError, match="is not built"):
        recipe.Resumable(tmp_path / "run", lazy, keras.optimizers.Adam())
    assert not (tmp_path / "run").exists()

    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)

        def build(self, shape):
            self.first.build(shape)

        def call(self, x, training=None):
            return self.second(self.first(x)) if training else self.first(x)

    model = Late()
    model(X, training=False)
    run = recipe.Resumable(tmp_path / "run", model, keras.optimizers.SGD())
    run.save()
    model(X, training=True)
    with pytest.raises(ValueError, match="has made variables since"):
        run.save()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    made = Run()
    recipe.Resumable(tmp_path, made.model, made.optimizer).save()
    deeper = keras.Sequential([keras.Input((6,)), *made.model.layers, keras.layers.Dropout(0.5)])
    with pytest.raises(ValueError, match="Another model, optimizer or metric wrote"):
        recipe.Resumable(tmp_path, deeper, keras.optimizers.Adam())


def test_prove_finds_state_that_is_not_saved_and_leaves_the_run_where_it_was(tmp_path):
    made = Run()
    run = recipe.Resumable(tmp_path, made.model, made.optimizer)
    before = made.state()
    run.prove(lambda: made.step(*data(0)[0]))
    for kind, values in made.state().items():
        for old, new in zip(before[kind], values, strict=True):
            np.testing.assert_array_equal(new, old)

    def with_noise_of_the_global_generator():
        return made.step(X[:8] + keras.random.normal((8, 6)), Y[:8])

    with pytest.raises(ValueError, match="not in the checkpoint"):
        run.prove(with_noise_of_the_global_generator)


def test_a_loss_scaled_optimizer_is_saved_whole(tmp_path):
    scaled = keras.mixed_precision.LossScaleOptimizer
    one, other = (Run(seed, optimizer=scaled(keras.optimizers.Adam(0.01))) for seed in (0, 99))
    one.step(*data(0)[0])
    by_resumable(one, other, tmp_path)
    for old, new in zip(one.state()["optimizer"], other.state()["optimizer"], strict=True):
        np.testing.assert_array_equal(new, old)
    assert float(one.step(*data(0)[1])) == pytest.approx(float(other.step(*data(0)[1])), **SAME)


# ---------------------------------------------------------------- a real kill

SCRIPT = """
import os, signal, sys
import checkpoint_and_resume as recipe, keras, numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.experimental.enable_op_determinism()
folder, seed, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
keras.utils.set_random_seed(seed)
x = np.random.default_rng(0).normal(3, 2, (40, 8, 8, 1)).astype("float32")
y = np.arange(40) % 3
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
for layer in keras.layers.Dropout(0.5), keras.layers.Flatten(), keras.layers.Dense(3):
    model.add(layer)
optimizer = keras.optimizers.Adam(0.01)
run = recipe.Resumable(folder, model, optimizer, every=3)
step = recipe.make_step(model, optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
for epoch in run.epochs(3):
    for rows in run.batches(np.random.default_rng(epoch).permutation(40).reshape(5, 8)):
        print(epoch, int(run.step), float(step(x[rows], y[rows])).hex(), flush=True)
        if 5 * epoch + int(run.step) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
print("weights", *(np.asarray(v.numpy()).tobytes().hex() for v in model.weights))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_cure_after_sigkill_every_loss_and_weight_is_equal_to_the_last_bit(tmp_path):
    def run(folder, seed, kill_at):
        arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / folder), str(seed), str(kill_at)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        where = Path(recipe.__file__).parent
        done = subprocess.run(arguments, cwd=where, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == (0 if kill_at < 0 else -signal.SIGKILL), done.stderr
        return done.stdout.splitlines()

    whole, killed, rest = run("one", 0, -1), run("two", 0, 8), run("two", 99, -1)
    assert killed == whole[:9]  # up to epoch 1, batch 3; its last checkpoint is of epoch 1, batch 3
    assert rest == whole[8:]
    assert len(whole) == 16 and whole[-1].startswith("weights")


@pytest.mark.slow
def test_demo_only_the_last_row_repeats_the_first(demo):
    rows = [line.split() for line in demo.splitlines()]
    whole, usual, all_of_it = ([float(word) for word in row if word[0].isdigit()] for row in rows)
    assert len(whole) == 8
    assert all_of_it == pytest.approx(whole, abs=0.002)  # printed with three digits
    assert max(abs(a - b) for a, b in zip(usual, whole, strict=True)) > 0.05  # one loss may be close by chance
