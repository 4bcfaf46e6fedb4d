"""A killed worker ends the run of all; started again together they go on where the checkpoint is."""

import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import survive_a_lost_worker as recipe
import tensorflow as tf

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


def worker(code):
    """A command that stands for a worker; it knows its index."""
    head = "import json, os, sys, time; index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
    return [sys.executable, "-c", head + code]


def test_workers_that_end_well_are_started_once():
    assert recipe.supervise(worker(""), 2) == 0


def test_cure_all_are_started_again_on_fresh_ports_when_one_is_lost(tmp_path):
    code = (
        "first = not os.path.exists('lost')\n"
        "open(f'{index}-{os.getpid()}', 'w').write(os.environ['TF_CONFIG'])\n"
        "time.sleep(0.5)\n"
        "if index == 1 and first: open('lost', 'w'); sys.exit(9)\n"
        "time.sleep(60 if first else 0)\n"  # the other would hang
    )
    began = time.monotonic()
    command = worker(f"os.chdir({str(tmp_path)!r})\n" + code)
    assert recipe.supervise(command, 2) == 1
    assert time.monotonic() - began < 30
    configs = {path.read_text() for path in tmp_path.glob("?-*")}
    assert len(configs) == 4  # two workers, two starts, new addresses each


def test_a_worker_that_is_lost_each_time_ends_it():
    with pytest.raises(RuntimeError, match="lost 2 times"):
        recipe.supervise(worker("sys.exit(3 * index)"), 2, restarts=1)


def alone():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    step = recipe.make_step(tf.distribute.get_strategy(), model, optimizer, LOSS, 16)
    return model, optimizer, step


def train(folder, stop=None):
    model, optimizer, train_step = alone()
    run = recipe.Run(str(folder), model.variables + optimizer.variables, chief=True, every=2)
    losses = {}
    for step in run.steps(6):
        if step == stop:
            break
        random = np.random.default_rng(step)
        x, y = random.normal(3, 2, (16, 6)).astype("float32"), random.integers(0, 3, 16)
        losses[step] = float(train_step(x, y))
    return losses, [np.array(v.value) for v in model.variables]


def test_cure_the_run_goes_on_at_the_checkpoint_with_the_losses_of_an_undisturbed_one(tmp_path):
    whole, weights = train(tmp_path / "whole")
    train(tmp_path / "lost", stop=3)
    rest, same = train(tmp_path / "lost")
    assert min(rest) == 2 and max(rest) == 5
    assert rest == pytest.approx({step: whole[step] for step in rest}, rel=1e-5)  # float32, one process
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert train(tmp_path / "lost")[0] == {}


def test_a_worker_that_is_not_the_chief_leaves_no_file(tmp_path):
    model, optimizer, _ = alone()
    run = recipe.Run(str(tmp_path / "run"), model.variables + optimizer.variables, chief=False, every=1)
    assert list(run.steps(2)) == [0, 1]
    assert not (tmp_path / "run").exists()


def test_the_step_is_that_of_train_on_batch_and_a_loss_scaled_optimizer_takes_it_too():
    x, y = np.random.default_rng(0).normal(3, 2, (16, 6)).astype("float32"), np.arange(16) % 3

    def after(optimizer, own=True):
        model, _, _ = alone()
        model.layers[2].rate = 0.0
        if own:
            recipe.make_step(tf.distribute.get_strategy(), model, optimizer, LOSS, 16)(x, y)
        else:
            model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            model.train_on_batch(x, y)
        return [np.array(w.value) for w in model.weights]

    plain = after(keras.optimizers.SGD(0.1), own=False)
    for optimizer in keras.optimizers.SGD(0.1), keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)):
        for one, other in zip(plain, after(optimizer), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_pitfall_the_survivor_raises_by_itself_and_does_not_go_on(tmp_path, capfd):
    """Its step ends with UnavailableError, which the recipe prints."""
    processes = recipe.start([sys.executable, str(Path(recipe.__file__)), str(tmp_path)], 2)
    try:
        assert processes[1].wait(120) != 0  # killed at step 4
        assert processes[0].wait(60) == 1
    except subprocess.TimeoutExpired:
        pytest.fail("the survivor hangs")
    finally:
        for process in processes:
            process.kill()
    assert "A worker was lost: UnavailableError." in capfd.readouterr().err
    assert max(int(line.split()[0]) for line in (tmp_path / "losses").read_text().splitlines()) < 7


@pytest.mark.slow
def test_demo_two_workers_one_killed_end_as_one_process_that_nobody_disturbed(demo):
    restarts, steps, gap = (line.split(":")[1].split() for line in demo.splitlines()[-3:])
    assert restarts == ["1"]
    assert sorted(set(steps)) == list("01234567") and steps[-1] == "7"
    assert float(gap[-1]) < 1e-4
