"""Measure what `synchronized=True` adds to a step, by the number of workers;
writes docs/reference/distributed-cost.json.

    python tests/benchmarks/distributed_cost.py     # about two minutes, on a quiet machine

One to four processes of a `MultiWorkerMirroredStrategy` over loopback. In each round every worker takes one step with
synchronised statistics and one without, so that a slow minute hits both; a ratio is the median over the rounds. The
workers share the cores of one machine: their seconds say nothing, the ratio says what more there is to wait for.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COST = ROOT / "docs/reference/distributed-cost.json"
WORKERS, LAYERS, ROUNDS, ROWS = (1, 2, 3, 4), (1, 10, 30), 60, 32


def ratios(workers: int) -> list[dict[str, float]]:
    """What the chief of so many workers saw, by the number of layers."""
    sockets = [socket.socket() for _ in range(workers)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    processes = []
    for index in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PYTHONPATH"] = str(ROOT / "recipes")
        command = [sys.executable, __file__]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=600)[0] for process in processes]
    return json.loads(told[0].splitlines()[-1])


def work() -> None:
    import distributed_batchnorm as recipe
    import keras
    import numpy as np
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    x, y = np.random.default_rng(0).normal(size=(ROWS, 64)).astype("float32"), np.arange(ROWS) % 10

    def step_of(layers: int, synchronized: bool):
        def build():
            body = []
            for _ in range(layers):
                body += [keras.layers.Dense(64), keras.layers.BatchNormalization(synchronized=True)]
            return keras.Sequential([keras.Input((64,)), *body, keras.layers.Dense(10)]), keras.optimizers.SGD(0.01)

        model, _, step, _ = recipe.make_steps(strategy, build, loss, ROWS * strategy.num_replicas_in_sync)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = synchronized
        step(x, y)
        return step

    found = []
    for layers in LAYERS:
        together, apart = step_of(layers, True), step_of(layers, False)
        spent = []
        for _ in range(ROUNDS):
            pair = []
            for step in together, apart:
                began = time.perf_counter()
                float(step(x, y))
                pair.append(time.perf_counter() - began)
            spent.append(pair[0] / pair[1])
        found.append({"layers": layers, "ratio": round(statistics.median(spent), 2)})
    print(json.dumps(found), flush=True)


def main() -> None:
    import keras
    import tensorflow as tf

    rows = []
    for workers in WORKERS:
        rows += [{"workers": workers, **row} for row in ratios(workers)]
        print(rows[-len(LAYERS) :], flush=True)
    measured = {
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "machine": f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}",
    }
    COST.write_text(json.dumps({"measured": measured, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    work() if "TF_CONFIG" in os.environ else main()
