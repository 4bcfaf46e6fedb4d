"""Train on several devices or hosts with the statistics and steps of a single one.

Symptom: more than one GPU gives another result: validation is worse, a saved model
    scores differently, Adam hides gradients of the wrong size.
Cause: each replica normalises with its own part of the batch, the statistics of the
    first are saved, and a loss that is a mean over a part counts small parts double.
Fix: `BatchNormalization(synchronized=True)` in a loop from `make_steps(strategy, …)`.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/distributed_batchnorm.md, Phasebook 0.2.0
"""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

# From Keras 3.5 on, `apply_gradients` adds gradients up over the replicas.
ADDS_UP = [int(part) for part in keras.__version__.split(".")[:2]] >= [3, 5]


def make_steps(strategy, build, loss, batch_size):
    """Return the model, its optimizer, `train_step(x, y)` and `test_step(x, y)`.

    `build()` returns a built model and an optimizer; it is called in the strategy's
    scope. `loss(y, outputs)` gives one value an example: `reduction="none"`.
    `batch_size` is that of the whole batch, of all replicas together, whose parts
    `x` and `y` are: of any sizes, as `experimental_distribute_dataset` deals them
    under `MirroredStrategy`; each worker's own under `MultiWorkerMirroredStrategy`.
    The train step returns the loss of the whole batch, the test step each replica's
    outputs. Raises ValueError, before a step, when replicas would keep statistics of
    their own.
    """
    with strategy.scope():
        model, optimizer = build()
        optimizer.build(model.trainable_variables)  # inside a trace it may fail
    require_synchronized(strategy, model)
    replicas = strategy.num_replicas_in_sync

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            # A part of the whole batch's mean, so that parts add up to it.
            value = tf.reduce_sum(loss(y, model(x, training=True))) / batch_size
            value += sum(model.losses) / replicas
            scaled = optimizer.scale_loss(value)
        weights = model.trainable_variables
        gradients = tape.gradient(scaled, weights)
        if not ADDS_UP:  # where it does, once more is wrong, and Adam hides it
            everywhere = tf.distribute.get_replica_context()
            gradients = everywhere.all_reduce("SUM", gradients)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    @tf.function
    def train_step(x, y):
        values = strategy.run(replica_step, args=(x, y))
        return strategy.reduce("SUM", values, axis=None)

    @tf.function
    def test_step(x):
        return strategy.run(lambda part: model(part, training=False), args=(x,))

    return model, optimizer, train_step, test_step


def require_synchronized(strategy, model):
    """Raise ValueError unless one replica's statistics are those of all."""
    if strategy.num_replicas_in_sync == 1:
        return
    apart = [
        layer.name
        for layer in model._flatten_layers()  # nothing public goes into layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and not layer.synchronized
    ]
    if apart:
        raise ValueError(
            f"{', '.join(apart)}: each replica would keep the statistics of its part, "
            "and only the first one's are saved. Make the layers with "
            "`synchronized=True`, or freeze them."
        )


def start_worker(script):
    """Run `script` as worker 1 of two on this machine; this process is worker 0."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # each would take the whole GPU
    with socket.socket() as one, socket.socket() as two:
        for free in one, two:
            free.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, two)]
    for index in 1, 0:
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": workers}, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(config)  # before the strategy is made
        if index == 1:
            process = subprocess.Popen([sys.executable, script])
    return process


def main():
    """Take three steps on one device, and in two processes, each with its own part."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    chief = "TF_CONFIG" not in os.environ
    other = start_worker(__file__) if chief else None
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # one a process, and first
    batches = np.argsort(y[:180]).reshape(60, 3).T  # sorted: the parts are unlike
    part = slice(0, 40) if chief else slice(40, 60)

    def build():
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization(momentum=0.9, synchronized=True)
        model = keras.Sequential([keras.Input((64,)), norm, keras.layers.Dense(10)])
        return model, keras.optimizers.SGD(0.1)

    def train(strategy, part, synchronized=True):
        loss = keras.losses.SparseCategoricalCrossentropy(True, reduction="none")
        model, _, train_step, _ = make_steps(strategy, build, loss, batch_size=60)
        model.layers[0].synchronized = synchronized
        value = [train_step(x[rows][part], y[rows][part]) for rows in batches][-1]
        return value.numpy(), *model.get_weights()[2:5:2]  # moving mean and kernel

    try:
        alone = train(tf.distribute.get_strategy(), slice(60))
        tell = print if chief else str
        tell("differences to one device   loss  moving mean  weights")
        for name, synchronized in ("each its own", False), ("synchronized", True):
            pairs = zip(train(strategy, part, synchronized), alone, strict=True)
            gaps = [f"{np.abs(a - b).max():10.0e}" for a, b in pairs]
            tell(f"{name:<22}" + "".join(gaps))
    finally:
        if chief:
            other.kill()


if __name__ == "__main__":
    main()
