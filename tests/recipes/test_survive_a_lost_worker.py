"""A killed worker ends the run of all; started again together they go on where the checkpoint is."""

import json
import os
import signal
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


# Two workers that step until something happens to worker 1 at its fourth step.
WORKER = """
import json, os, pathlib, signal, sys, time, keras, numpy as np, survive_a_lost_worker as recipe, tensorflow as tf
index, folder = json.loads(os.environ["TF_CONFIG"])["task"]["index"], pathlib.Path(sys.argv[2])
if (folder / "killed").exists():
    (folder / "back").touch()
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model, optimizer = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
step = recipe.make_step(strategy, model, optimizer, loss, 16)
x, y = np.ones((8, 4), "float32"), np.arange(8) % 3
state = model.variables + optimizer.variables
run = recipe.Run(str(folder / "run"), state, index == 0, every=1000, resolver=strategy.cluster_resolver)
raised = []


def attempt():
    began = time.time()
    try:
        step(x, y)
    except tf.errors.OpError as error:
        raised.append({"kind": type(error).__name__, "seconds": time.time() - began, "text": str(error)})
    return not raised


for number in run.steps(1000):
    if not attempt():
        break
    if index == 1 and number == 3 and sys.argv[1] == "SIGKILL":
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if index == 1 and number == 3:
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.1)
(folder / "raised").touch()
while not (folder / "back").exists():
    time.sleep(0.1)
time.sleep(3)
attempt()
(folder / "told.json").write_text(json.dumps(raised))
"""


def start_two(tmp_path, monkeypatch, name):
    """Two workers to which this signal comes, and a function that starts the second alone, as it was."""
    started, popen = [], subprocess.Popen
    monkeypatch.setenv("PYTHONPATH", str(Path(recipe.__file__).parent))

    def remember(command, env):
        started.append(lambda: popen(command, env=env))
        return started[-1]()

    monkeypatch.setattr(recipe.subprocess, "Popen", remember)
    processes = recipe.start([sys.executable, "-c", WORKER, name, str(tmp_path)], 2)
    return processes, started[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_pitfall_the_survivor_raises_by_itself_and_a_worker_started_again_alone_does_not_rejoin(tmp_path, monkeypatch):
    processes, second = start_two(tmp_path, monkeypatch, "SIGKILL")
    try:
        assert processes[1].wait(120) == -signal.SIGKILL
        while not (tmp_path / "raised").exists():
            assert processes[0].poll() is None
            time.sleep(0.1)
        processes.append(second())
        assert processes[0].wait(120) == 0
        assert processes[2].poll() is None  # it waits for a cluster that does not take it
    finally:
        for process in processes:
            process.kill()
    first, again = json.loads((tmp_path / "told.json").read_text())
    assert first["seconds"] < 30  # 0.1 s were seen where the connection broke; a heart beats for 10 s
    assert {first["kind"], again["kind"]} <= {"UnavailableError", "AbortedError"}
    assert "Restart your program to reset" in first["text"]
    assert again["seconds"] < 5


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at SIGTERM without asking it")
def test_cure_after_sigterm_to_one_all_save_the_same_step_and_end(tmp_path, monkeypatch):
    processes, _ = start_two(tmp_path, monkeypatch, "SIGTERM")
    try:
        assert [process.wait(120) for process in processes] == [42, 42]
    finally:
        for process in processes:
            process.kill()
    reader = tf.train.load_checkpoint(str(tmp_path / "run"))
    assert reader.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") >= 4


@pytest.mark.slow
def test_demo_two_workers_one_killed_end_as_one_process_that_nobody_disturbed(demo):
    restarts, _, *gaps = (line.split(":")[-1].strip() for line in demo.splitlines()[-4:])
    assert restarts == "1"
    assert max(map(float, gaps)) < 1e-5
