"""Go on after a worker of a distributed run was killed: start all of them again.

Symptom: one of several workers is killed, and soon the others end as well, with
    "UnavailableError … Collective ops is aborted".
Cause: the workers of a `MultiWorkerMirroredStrategy` are one run. Each step reduces
    over all of them, so the loss of one is the end of the step, and of the run.
Fix: `supervise(command, workers)`, and a loop from `Run`, which starts at the last
    checkpoint and gives the losses of a run that nobody disturbed.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/survive_a_lost_worker.md, Phasebook 0.2.0
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

# From Keras 3.5 on, `apply_gradients` adds gradients up over the replicas.
ADDS_UP = [int(part) for part in keras.__version__.split(".")[:2]] >= [3, 5]


def supervise(command, workers, restarts=3):
    """Run `command`, a list of words, once for each of `workers` on this machine.

    When one ends with a status other than 0, the others are killed and all are started
    again, on fresh ports. Returns how often that was. Raises RuntimeError after
    `restarts` times. On several machines a cluster manager does the same; its restart
    policy has to be "all or none".
    """
    for count in range(restarts + 1):
        processes = start(command, workers)
        try:
            while True:
                codes = [process.poll() for process in processes]
                if all(code == 0 for code in codes):
                    return count
                if any(codes):  # None runs, 0 is well
                    break
                time.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    raise RuntimeError(f"A worker was lost {restarts + 1} times: {codes}.")


def start(command, workers):
    """Start all workers of one cluster, each with its own `TF_CONFIG`."""
    sockets = [socket.socket() for _ in range(workers)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    processes = []
    for index in range(workers):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        environment = {**os.environ, "TF_CONFIG": config}
        processes.append(subprocess.Popen(command, env=environment))
    return processes


class Run:
    """The steps of a run that are left, with a checkpoint after each `every`.

    `variables` are all that a step depends on: `model.variables + optimizer.variables`,
    seeds and moving statistics too. `folder` is seen by all workers. The chief writes
    there; the others take part in the writing, since a save reads all replicas, and
    throw their copy away. With `resolver=strategy.cluster_resolver` a SIGTERM to one
    worker is heeded, too: all save after the same step and end with status 42.
    """

    def __init__(self, folder, variables, chief, every=10, resolver=None):
        self.step, self.every = tf.Variable(0, dtype="int64"), every
        state = [v.value for v in variables]
        checkpoint = tf.train.Checkpoint(state=state, step=self.step)
        self.scratch = None if chief else tempfile.TemporaryDirectory()
        place = folder if chief else self.scratch.name
        self.manager = tf.train.CheckpointManager(checkpoint, place, max_to_keep=2)
        latest = tf.train.latest_checkpoint(folder)
        if latest:
            checkpoint.restore(latest).assert_existing_objects_matched()
        handler = tf.distribute.experimental.PreemptionCheckpointHandler
        self.preempted = handler(resolver, self.manager) if resolver else None

    def steps(self, count):
        """Yield the numbers of the steps up to `count` that are not yet done."""
        while int(self.step) < count:
            yield int(self.step)
            self.step.assign_add(1)
            if int(self.step) % self.every == 0:
                self.manager.save()
            if self.preempted:
                self.preempted.save_checkpoint_if_preempted()


def make_step(strategy, model, optimizer, loss, batch_size):
    """Return `train_step(x, y)` on this worker's part; the loss of the whole batch."""

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(y, model(x, training=True))) / batch_size
            scaled = optimizer.scale_loss(value)
        weights = model.trainable_variables
        gradients = tape.gradient(scaled, weights)
        if not ADDS_UP:
            everywhere = tf.distribute.get_replica_context()
            gradients = everywhere.all_reduce("SUM", gradients)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    @tf.function
    def train_step(x, y):
        values = strategy.run(replica_step, args=(x, y))
        return strategy.reduce("SUM", values, axis=None)

    return train_step


def work(folder, strategy, part, chief, killed_at=None):
    """Train 8 steps on scanned digits; the chief logs each loss in `folder`."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization(momentum=0.9, synchronized=True)
        model = keras.Sequential([keras.Input((64,)), norm, keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(True, reduction="none")
    train_step = make_step(strategy, model, optimizer, loss, batch_size=64)
    state, resolver = model.variables + optimizer.variables, strategy.cluster_resolver
    run = Run(folder, state, chief, every=2, resolver=resolver)
    for step in run.steps(8):
        rows = np.random.default_rng(step).permutation(len(x))[:64][part]
        value = float(train_step(x[rows] / 16, y[rows]))
        if step == killed_at:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if chief:
            with open(os.path.join(folder, "losses"), "a") as file:
                file.write(f"{step} {value:.6f}\n")


def main():
    """Kill one of two workers in the midst, start both again, compare the losses."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # each worker would take the whole GPU
    if "TF_CONFIG" in os.environ:
        chief = json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0
        first = not os.path.exists(os.path.join(sys.argv[1], "losses"))
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        part = slice(0, 40) if chief else slice(40, 64)
        killed_at = 4 if first and not chief else None
        try:
            return work(sys.argv[1], strategy, part, chief, killed_at)
        except tf.errors.OpError as error:
            sys.exit(f"A worker was lost: {type(error).__name__}.")
    losses, states = [], []
    with tempfile.TemporaryDirectory() as lost, tempfile.TemporaryDirectory() as whole:
        count = supervise([sys.executable, __file__, lost], workers=2)
        work(whole, tf.distribute.get_strategy(), slice(64), chief=True)
        for folder in lost, whole:
            with open(os.path.join(folder, "losses")) as file:
                losses.append(dict(line.split() for line in file))
            reader = tf.train.load_checkpoint(folder)
            names = sorted(reader.get_variable_to_shape_map())
            state = [reader.get_tensor(name) for name in names if "state" in name]
            states.append(np.concatenate([value.ravel() for value in state]))
    print(f"workers started again: {count}")
    print("largest differences to one process that nobody disturbed")
    gaps = [abs(float(loss) - float(losses[1][n])) for n, loss in losses[0].items()]
    print(f"  losses: {max(gaps):.0e}")
    print(f"  weights and statistics: {np.abs(states[0] - states[1]).max():.0e}")


if __name__ == "__main__":
    main()
