"""Measure what the pages say about speed: ratios from interleaved runs, written to docs/reference/benchmarks.json.

    python tests/benchmarks/bench.py [--rounds N] [--dry-run]

Every round runs each contender once, in a new random order, so that a slow minute of the machine hits all alike.
A ratio is taken within a round; the table shows the median over the rounds. Less than 15 % apart is a tie.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

import export_inference_model  # noqa: E402
import export_litert_and_onnx  # noqa: E402
import fit_explicit_phase  # noqa: E402
import functional_learning_phase  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import recalibrate_batchnorm  # noqa: E402
import subclass_training_arg  # noqa: E402
import tensorflow as tf  # noqa: E402
from rich.progress import track  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

BATCH, STEPS = 64, 24
SEVERAL = 8  # steps per call, where several run in one call


def interleaved(contenders: dict[str, Callable[[], Any]], rounds: int, title: str) -> dict[str, list[float]]:
    """Time each contender once a round, in a random order; one untimed run each goes first."""
    for run in contenders.values():
        run()
    order, seconds = list(contenders), {name: [] for name in contenders}
    shuffle = random.Random(0)
    for _ in track(range(rounds), description=f"{title:28s}"):
        shuffle.shuffle(order)
        for name in order:
            started = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of time(base) / time(name): above 1 is faster than the base."""
    return statistics.median(b / n for b, n in zip(seconds[base], seconds[name], strict=True))


def batches() -> tuple[tf.data.Dataset, list[tuple[tf.Tensor, tf.Tensor]]]:
    digits = load_digits()
    x = (digits.images[..., None] / 16.0).astype("float32")[: BATCH * STEPS]
    y = digits.target.astype("int32")[: BATCH * STEPS]
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True).cache().prefetch(2)
    return data, list(data)


def tiny_net() -> keras.Model:
    hidden = [keras.layers.Flatten(), keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    return keras.Sequential([keras.Input((8, 8, 1)), *hidden, keras.layers.Dense(10)])


def small_cnn() -> keras.Model:
    stack: list[Any] = [keras.Input((8, 8, 1))]
    for filters in (32, 64, 64):
        stack += [keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)]
        stack += [keras.layers.BatchNormalization(), keras.layers.ReLU()]
    return keras.Sequential([*stack, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)])


def loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def official_step(model: keras.Model, optimizer: Any, metrics: list[Any], traced: bool) -> Callable:
    """The loop of TensorFlow's own guides: one tf.function a step, loss and accuracy metrics."""
    objective = loss()

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            value = objective(y, logits)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        metrics[0].update_state(value)
        metrics[1].update_state(y, logits)

    return tf.function(step) if traced else step


def step_contenders(build: Callable[[], keras.Model], data: tf.data.Dataset) -> dict[str, Callable[[], Any]]:
    def metrics() -> list[Any]:
        return [keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()]

    def fitting(steps_per_execution: int) -> Callable[[], Any]:
        model = build()
        model.compile(keras.optimizers.RMSprop(), loss(), metrics=["accuracy"], steps_per_execution=steps_per_execution)
        return lambda: model.fit(data, epochs=1, verbose=0)

    def official(traced: bool) -> Callable[[], Any]:
        model = build()
        step = official_step(model, keras.optimizers.RMSprop(), metrics(), traced)

        def epoch() -> None:
            for x, y in data:
                step(x, y)

        return epoch

    def official_several() -> Callable[[], Any]:
        model = build()
        step = official_step(model, keras.optimizers.RMSprop(), metrics(), True)

        @tf.function
        def many(xs: tf.Tensor, ys: tf.Tensor) -> None:
            for i in tf.range(SEVERAL):
                step(xs[i], ys[i])

        grouped = data.batch(SEVERAL, drop_remainder=True).cache().prefetch(2)

        def epoch() -> None:
            for xs, ys in grouped:
                many(xs, ys)

        return epoch

    def functional() -> Callable[[], Any]:
        model = build()
        train_step, _ = functional_learning_phase.make_steps(model, keras.optimizers.RMSprop(), loss())

        def epoch() -> None:
            for x, y in data:
                train_step(x, y)

        return epoch

    def subclass() -> Callable[[], Any]:
        model = build()
        train_step, _ = subclass_training_arg.make_steps(model, keras.optimizers.RMSprop(), loss())

        def epoch() -> None:
            for x, y in data:
                train_step(x, y)

        return epoch

    class Stated(fit_explicit_phase.ExplicitPhase, keras.Model):
        pass

    def stated_fit() -> Callable[[], Any]:
        core = build()
        model = Stated(core.inputs, core.outputs)
        model.compile(keras.optimizers.RMSprop(), loss(), metrics=["accuracy"])
        return lambda: model.fit(data, epochs=1, verbose=0)

    return {
        "`fit`": fitting(1),
        f"`fit`, steps_per_execution={SEVERAL}": fitting(SEVERAL),
        "recipe `fit_explicit_phase`": stated_fit(),
        "loop of the official guides": official(True),
        f"the same, {SEVERAL} steps a call": official_several(),
        "recipe `subclass_training_arg`": subclass(),
        "recipe `functional_learning_phase`": functional(),
        "loop without `tf.function`": official(False),
    }


def bench_steps(rounds: int, data: tf.data.Dataset) -> dict[str, Any]:
    columns: dict[str, dict[str, float]] = {}
    for title, build in (("tiny net", tiny_net), ("small CNN", small_cnn)):
        keras.utils.set_random_seed(0)
        seconds = interleaved(step_contenders(build, data), rounds, f"train step, {title}")
        columns[title] = {name: ratio(seconds, name, "`fit`") for name in seconds}
    names = list(next(iter(columns.values())))
    return {
        "columns": ["steps a second, `fit` = 1", *columns],
        "rows": [[name, *(round(column[name], 2) for column in columns.values())] for name in names],
        "repeats": rounds,
    }


def bench_recalibration(rounds: int, batches_: list[tuple[tf.Tensor, tf.Tensor]]) -> dict[str, Any]:
    rows = []
    images = tf.constant(np.random.default_rng(0).normal(size=(32, 32, 32, 3)).astype("float32"))
    for title, build, inputs in (
        ("small CNN, 8×8, batch 64", small_cnn, [x for x, _ in batches_]),
        (
            "MobileNetV2 alpha 0.35, 32×32, batch 32",
            lambda: keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=2),
            [images] * 45,  # an epoch of digits: a pass has a fixed cost of its own
        ),
    ):
        model = build()
        forward = tf.function(lambda x, model=model: model(x, training=True))
        recalibrator = recalibrate_batchnorm.Recalibrator(model)
        seconds = interleaved(
            {
                "forward": lambda forward=forward, inputs=inputs: [forward(x) for x in inputs],
                "recalibration": lambda recalibrator=recalibrator, inputs=inputs: recalibrator(inputs),
            },
            rounds,
            "recalibration",
        )
        rows.append([title, round(1 / ratio(seconds, "recalibration", "forward"), 2)])
    return {
        "columns": ["model", "recalibration, in training-phase forward passes a batch"],
        "rows": rows,
        "repeats": rounds,
    }


def bench_export(rounds: int) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)
    samples = np.random.default_rng(0).normal(size=(32, 96, 96, 3)).astype("float32")
    # Fresh statistics flatten every output, and a flat output proves nothing: give them the data's own.
    recalibrate_batchnorm.recalibrate(model, [samples])
    one = samples[:1]
    call = tf.function(lambda x: model(x, training=False))
    tensor = tf.constant(one)
    with tempfile.TemporaryDirectory() as folder:
        export_inference_model.export_inference_model(model, samples, f"{folder}/proved", ["saved_model"])
        loaded = tf.saved_model.load(f"{folder}/proved/saved_model")
        serve = loaded.signatures["serving_default"]
        converted = {
            "LiteRT": export_litert_and_onnx.write_litert(f"{folder}/proved/saved_model", Path(folder, "model.tflite")),
            "ONNX Runtime": export_litert_and_onnx.write_onnx(serve, Path(folder, "model.onnx")),
        }
        contenders: dict[str, Callable[[], Any]] = {
            "`predict`": lambda: model.predict(one, verbose=0),
            "`predict_on_batch`": lambda: model.predict_on_batch(one),
            "`tf.function` of `model(x, training=False)`": lambda: call(tensor),
        }
        contenders["SavedModel"] = lambda: loaded.serve(one)
        contenders |= {title: lambda call=call: call({"inputs": one}) for title, call in converted.items()}
        repeated = {name: (lambda run=run: [run() for _ in range(5)]) for name, run in contenders.items()}
        seconds = interleaved(repeated, rounds, "export, batch of one")
    return {
        "columns": ["one image, MobileNetV2 alpha 0.35 at 96×96", "milliseconds", "times faster than `predict`"],
        "rows": [
            [name, round(1000 * statistics.median(seconds[name]) / 5, 2), round(ratio(seconds, name, "`predict`"), 1)]
            for name in seconds
        ],
        "repeats": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="interleaved runs of each contender, at least 15")
    parser.add_argument("--dry-run", action="store_true", help="print, and leave benchmarks.json as it is")
    options = parser.parse_args(argv)
    if options.rounds < 15:
        parser.error(f"--rounds {options.rounds}: a median of fewer than 15 runs says too little")
    data, listed = batches()
    groups = {
        "train_step": bench_steps(options.rounds, data),
        "recalibration": bench_recalibration(options.rounds, listed),
        "export_latency": bench_export(options.rounds),
    }
    for name, group in groups.items():
        print(f"\n{name}: {' | '.join(group['columns'])}")
        for row in group["rows"]:
            print("  " + " | ".join(map(str, row)))
    if options.dry_run:
        return
    measured = {
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "machine": f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}",
    }
    target = ROOT / "docs/reference/benchmarks.json"
    draft = target.with_suffix(".tmp")
    draft.write_text(
        json.dumps({"measured": measured, "groups": groups}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    draft.replace(target)
    print(f"\nwrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
