"""Measure what an examination costs against the depth of the model; writes docs/reference/doctor/cost.json.

    python tests/benchmarks/doctor_cost.py [convolutions | transformer]     # both, about ten minutes of CPU

The measure is the step itself: what TensorFlow takes to trace it and to run it once, when it optimises the graph.
Both are CPU time. The step is measured before and after the examination, so that a slow minute hits both.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from phase_doctor import diagnose  # noqa: E402

COST = ROOT / "docs/reference/doctor/cost.json"
LAYERS, BATCHES = {"convolutions": (10, 30, 100, 300), "transformer": (10, 30, 100)}, (1, 32)
L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def convolutions(layers: int) -> keras.Model:
    inputs = h = keras.Input((16, 16, 3))
    for number in range((layers - 3) // 3):
        h = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(h))
        h = L.Dropout(0.1)(h) if number % 5 == 4 else L.ReLU()(h)
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(h)))


def transformer(layers: int) -> keras.Model:
    inputs = h = keras.Input((16, 16))
    for _ in range(max(1, (layers - 3) // 8)):
        h = L.LayerNormalization()(L.Add()([h, L.MultiHeadAttention(2, 8, dropout=0.1)(h, h)]))
        mixed = L.Dropout(0.1)(L.Dense(16)(L.Dense(32, "gelu")(h)))
        h = L.LayerNormalization()(L.Add()([h, mixed]))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling1D()(h)))


def step_of(model: keras.Model) -> Callable[..., Any]:
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = LOSS(y, model(x, training=True))
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    return step


def seconds(run: Callable[[], Any]) -> float:
    gc.collect()
    began = time.process_time()
    run()
    return time.process_time() - began


def cost(make: Callable[[int], keras.Model], layers: int, batch: int) -> list[float]:
    """CPU seconds of the step's trace and first run, and of a whole examination."""
    keras.utils.set_random_seed(0)
    model = make(layers)
    x = np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])).astype("float32")
    y = np.arange(batch) % 4
    before = seconds(lambda: step_of(model)(x, y))
    examined = seconds(lambda: diagnose(model, x, y, train_step=step_of(model), progress=False))
    after = seconds(lambda: step_of(model)(x, y))
    return [(before + after) / 2, examined]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(LAYERS), help="the others keep their rows")
    options = parser.parse_args()
    cost(convolutions, 10, 4)  # what TensorFlow and Keras set up once
    known = json.loads(COST.read_text(encoding="utf-8"))["rows"] if COST.is_file() else []
    rows = [row for row in known if row["model"] not in options.models]
    for make in (convolutions, transformer):
        for batch in BATCHES:
            for layers in LAYERS[make.__name__] if make.__name__ in options.models else ():
                # What takes little is measured three times.
                spent = np.median([cost(make, layers, batch) for _ in range(1 if layers > 20 else 3)], axis=0)
                step, examined = (float(f"{value:.3g}") for value in spent)
                row = {"model": make.__name__, "batch": batch, "layers": layers, "step": step, "doctor": examined}
                print(row, f"{examined / step:.1f}", flush=True)
                rows.append(row)
    measured = {
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "machine": f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}",
    }
    COST.write_text(json.dumps({"measured": measured, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
