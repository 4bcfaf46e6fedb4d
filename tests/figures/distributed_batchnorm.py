"""The moving means that remain after training on one device and on two, in parts of sorted batches."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS, SHOWN = 30, 24
# Logical devices are made before anything else in a process.
SCRIPT = f"""
import json, distributed_batchnorm as recipe, keras, numpy as np, tensorflow as tf
from sklearn.datasets import load_digits
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
batches = [rows[np.argsort(y[rows], kind="stable")] for rows in np.arange({STEPS} * 40).reshape({STEPS}, 40)]
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


def build():
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(momentum=0.9, synchronized=True)
    layers = keras.layers.Dense({SHOWN}), norm, keras.layers.ReLU(), keras.layers.Dense(10)
    return keras.Sequential([keras.Input((64,)), *layers]), keras.optimizers.SGD(0.05)


def remains(strategy, synchronized=True):
    model, _, train_step, _ = recipe.make_steps(strategy, build, loss, 40)
    model.layers[1].synchronized = synchronized
    for rows in batches:
        data = [values[rows] for values in (x, y)]
        if strategy is two:
            halves = [np.split(values, 2) for values in data]
            data = [two.experimental_distribute_values_from_function(
                lambda c: tf.constant(half[c.replica_id_in_sync_group])) for half in halves]
        train_step(*data)
    return model.layers[1].moving_mean.numpy().tolist()


print(json.dumps([remains(tf.distribute.get_strategy()), remains(two, False), remains(two)]))
"""


def measure() -> dict[str, Any]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=recipes, env=environment, capture_output=True, text=True, check=True)
    one, apart, together = json.loads(done.stdout.splitlines()[-1])
    off = [max(abs(a - b) for a, b in zip(one, other, strict=True)) for other in (apart, together)]
    panels = [
        {
            "title": title,
            "kind": "dots",
            "x": {"label": "channel"},
            "y": {"label": "moving mean, less that of one device", "range": [-0.25, 0.25]},
            "series": [
                {
                    "name": "two replicas",
                    "x": list(range(SHOWN)),
                    "y": [a - b for a, b in zip(two, one, strict=True)],
                    "role": role,
                }
            ],
        }
        for title, two, role in (("each its own", apart, "bad"), ("synchronized=True", together, "inference"))
    ]
    return {
        "says": f"What is saved after {STEPS} steps on batches of 40 scanned digits, sorted, dealt in two parts of 20. "
        f"Without synchronisation the means are up to {off[0]:.2f} away from those of one device, with it "
        f"{off[1]:.0e}.",
        "panels": panels,
    }
