"""keras.applications before the doctor, fresh and after recalibrated training: none may be flagged.

Run by the nox lane `doctor`:  python tests/doctor/lane_applications.py [--only NAME ...] [--library keras|tf_keras]
With `--corpus` it scores the corpus instead, which is how other Keras releases are covered.
It prints one line a model and exits 1 when any is flagged, misread or raises.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "recipes")]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

# Smallest sizes that every block of these families accepts; 32 elsewhere.
SIZES = {
    "Inception": 75,
    "Xception": 71,
    "NASNet": 64,
    "VGG": 32,
    "MobileNetV3": 64,
    "EfficientNet": 64,
    "ConvNeXt": 64,
}
# Left out of the default run for their size alone; --all brings them in.
HUGE = (
    "NASNetLarge",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetV2L",
    "ConvNeXtXLarge",
    "ConvNeXtLarge",
    "ConvNeXtBase",
)


def architectures(library: Any) -> list[str]:
    found = vars(library.applications).items()
    return sorted(
        n for n, v in found if callable(v) and n[0].isupper() and "weights" in inspect.signature(v).parameters
    )


def build(library: Any, name: str, samples: int) -> tuple[Any, np.ndarray, np.ndarray]:
    library.utils.set_random_seed(0)
    size = next((s for prefix, s in SIZES.items() if name.startswith(prefix)), 32)
    maker = getattr(library.applications, name)
    base = maker(weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg")
    inputs = library.Input((size, size, 3))
    model = library.Model(inputs, library.layers.Dense(4)(base(inputs)))
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, samples)
    # Four textures that can be told apart, in the 0..255 range of images.
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    waves = np.sin(grid[None, :, :, :1] * (0.2 + 0.3 * y[:, None, None, None])) * 60 + 120
    x = (waves + generator.normal(0, 25, (samples, size, size, 3))).astype("float32")
    return model, x, y


def norms_of(library: Any, model: Any) -> list[Any]:
    return [n for n in model._flatten_layers() if isinstance(n, library.layers.BatchNormalization)]


def train_and_recalibrate(library: Any, model: Any, x: np.ndarray, y: np.ndarray, batch: int) -> None:
    """A few real steps, then the exact mean and variance of every normalised input over all batches."""
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = library.optimizers.SGD(1e-3)

    @tf.function
    def step(xb: Any, yb: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(yb, model(xb, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=False))
        return value

    parts = [slice(i, i + batch) for i in range(0, len(x), batch)]
    for part in parts:
        step(tf.constant(x[part]), tf.constant(y[part]))
    norms = norms_of(library, model)
    momenta = [n.momentum for n in norms]
    means: list[list[np.ndarray]] = [[] for _ in norms]
    variances: list[list[np.ndarray]] = [[] for _ in norms]
    for norm in norms:
        norm.momentum = 0.0
    forward = tf.function(lambda xb: model(xb, training=True))
    for part in parts:
        forward(tf.constant(x[part]))
        for i, norm in enumerate(norms):
            means[i].append(np.array(norm.moving_mean))
            variances[i].append(np.array(norm.moving_variance))
    for i, norm in enumerate(norms):
        mean = np.mean(means[i], 0)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(np.mean(variances[i], 0) + np.mean((np.array(means[i]) - mean) ** 2, 0))
        norm.momentum = momenta[i]


def examine_applications(options: argparse.Namespace) -> int:
    library = importlib.import_module(options.library)
    from phase_doctor import diagnose

    flagged = 0
    for name in options.only or architectures(library):
        if name in HUGE and not (options.all or options.only):
            print(f"{name:24} left out for its size; --all includes it", flush=True)
            continue
        for state in ("fresh", "trained"):
            library.backend.clear_session()
            began = time.process_time()
            model, x, y = build(library, name, 48)
            if state == "trained":
                if not norms_of(library, model):
                    continue
                train_and_recalibrate(library, model, x, y, 16)
            try:
                found = diagnose(model, x[:16], y[:16], progress=False)
            except Exception as error:
                print(f"{name:24} {state:8} RAISED {type(error).__name__}: {error}", flush=True)
                flagged += 1
                continue
            flagged += not found.ok
            verdict = "healthy" if found.ok else f"FLAGGED {found.codes}"
            print(f"{name:24} {state:8} {verdict}  {time.process_time() - began:.0f} s CPU", flush=True)
            if not found.ok:
                print(found)
    return flagged


def absent(name: str) -> str:
    """Why this Keras release does not have the fault of a case, or keeps no trace of it. Empty when it does."""
    import keras

    if name == "discriminator_of_the_classic_gan_recipe":
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return "" if hasattr(model, "_compiled_trainable_state") else "`compile` records no flags"
    if name in (
        "resizing_before_batchnorm",
        "cropping_inside_a_preprocessing_model",
        "export_of_a_model_with_resizing",
    ):
        default = inspect.signature(keras.layers.Resizing(1, 1).call).parameters.get("training")
        return "" if default is not None and default.default is True else "Resizing has no leaking default"
    return ""


def examine_corpus(options: argparse.Namespace) -> int:
    import keras
    from cases import judge

    wrong = 0
    for half in ("broken", "healthy"):
        for name, make in importlib.import_module(f"corpus_{half}").CASES.items():
            if options.only and name not in options.only:
                continue
            keras.utils.set_random_seed(0)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    complaint = judge(make, Path(folder), half == "healthy")
                except Exception as error:
                    complaint = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if complaint and absent(name):
                print(f"{half:8} {name:56} not in this release: {absent(name)}", flush=True)
                continue
            wrong += bool(complaint)
            print(f"{half:8} {name:56} {complaint or 'ok'}", flush=True)
            keras.config.set_dtype_policy("float32") if hasattr(keras.config, "set_dtype_policy") else None
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of architectures or cases")
    parser.add_argument("--library", default="keras", choices=["keras", "tf_keras"])
    parser.add_argument("--corpus", action="store_true", help="score the corpus instead of keras.applications")
    parser.add_argument("--all", action="store_true", help="the largest architectures too")
    options = parser.parse_args()
    count = examine_corpus(options) if options.corpus else examine_applications(options)
    print(f"{count} wrong")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
