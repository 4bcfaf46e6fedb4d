"""Put keras.applications, or the corpus, before the doctor on the Keras installed, and write what it said.

    python tests/doctor/examine.py corpus OUT.json [--only NAME ...]
    python tests/doctor/examine.py applications OUT.json [--only NAME ...] [--library keras|tf_keras] [--all]

lane_doctor.py runs it on the releases it names. It prints one line an examination and writes OUT.json after each.
A verdict is "ok", "absent: why this release cannot have the fault", or what the doctor got wrong.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import inspect
import json
import os
import re
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


def examine_applications(options: argparse.Namespace, record: Record) -> None:
    """Every architecture fresh, and after recalibrated training where it has BatchNormalization."""
    library = importlib.import_module(options.library)
    for name in options.only or architectures(library):
        if name in HUGE and not (options.all or options.only):
            print(f"{name} left out for its size; --all includes it", flush=True)
            continue
        for state in ("fresh", "trained"):
            library.backend.clear_session()
            gc.collect()  # Keras 2 keeps the graphs of earlier models alive
            began = time.process_time()
            try:
                verdict = examine_application(library, name, state)
            except Exception as error:
                verdict = raised(error)
            if verdict:
                record.add(f"{name}, {state}", verdict, time.process_time() - began)


def examine_application(library: Any, name: str, state: str, samples: int = 48) -> str:
    """The verdict on one architecture; empty when it has no statistics that training could change."""
    from phase_doctor import diagnose

    model, x, y = build(library, name, samples)
    if state == "trained":
        if not norms_of(library, model):
            return ""
        train_and_recalibrate(library, model, x, y, 16)
    found = diagnose(model, x[:16], y[:16], progress=False)
    if not found.ok:
        print(found)
    return "ok" if found.ok else f"flagged: {', '.join(found.codes)}"


def absent(name: str) -> str:
    """Why this Keras release does not have the fault of a case, or keeps no trace of it. Empty when it does."""
    import keras

    if name == "discriminator_of_the_classic_gan_recipe":
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return "" if hasattr(model, "_compiled_trainable_state") else "`compile` records no flags"
    if name in RECORDED and recorded_phase_holds():
        return "a recorded phase holds"
    if name in SPECTRAL and not spectral_normalisation_trains():
        return "SpectralNormalization raises in a graph when it is told to train"
    if name in LEAKING and not leaks(getattr(keras.layers, LEAKING[name])):
        return f"{LEAKING[name]} leaks no phase"
    return ""


RECORDED = (
    "fine_tuning_with_recorded_false",
    "monte_carlo_dropout_recorded_true",
    "norms_recorded_true_in_a_residual_net",
    "recorded_false_two_models_deep",
    "spatial_dropout_meant_to_stay_on",
)
SPECTRAL = ("critic_whose_spectral_norm_never_runs", "spectral_norm_whose_vector_is_old")
LEAKING = {
    "resizing_before_batchnorm": "Resizing",
    "export_of_a_model_with_resizing": "Resizing",
    "cropping_inside_a_preprocessing_model": "CenterCrop",
    "augmentation_inside_a_subclass": "RandomFlip",
}


def recorded_phase_holds() -> bool:
    """Whether a layer recorded with training=False stays in the inference phase when its model is told otherwise."""
    import keras

    norm, inputs = keras.layers.BatchNormalization(), keras.Input((3,))
    keras.Model(inputs, norm(inputs, training=False))(np.ones((4, 3)), training=True)
    return not np.any(norm.moving_mean)


def spectral_normalisation_trains() -> bool:
    """Whether SpectralNormalization can be called with training=True inside a tf.function."""
    import keras

    layer = keras.layers.SpectralNormalization(keras.layers.Dense(2))
    layer.build((None, 3))
    try:
        tf.function(lambda x: layer(x, training=True))(np.ones((4, 3), "float32"))
    except tf.errors.OperatorNotAllowedInGraphError:
        return False
    return True


def leaks(layer: Any) -> bool:
    """Whether a bare call moves the statistics of the layer behind this one."""
    import keras

    norm = keras.layers.BatchNormalization()
    first = layer() if "Random" in layer.__name__ else layer(8, 8)
    keras.Sequential([keras.Input((8, 8, 1)), first, norm])(np.ones((4, 8, 8, 1)))
    return bool(np.any(norm.moving_mean))


def examine_corpus(options: argparse.Namespace, record: Record) -> None:
    """Every broken case is found with code and layer, no healthy one is flagged."""
    import keras

    for half in ("broken", "healthy"):
        for name, make in importlib.import_module(f"corpus_{half}").CASES.items():
            if options.only and name not in options.only:
                continue
            keras.utils.set_random_seed(0)
            began = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                complaint = examine_case(name, make, Path(folder), half == "healthy")
            record.add(f"{half}: {name}", complaint or "ok", time.process_time() - began)
            if hasattr(keras.config, "set_dtype_policy"):
                keras.config.set_dtype_policy("float32")


def examine_case(name: str, make: Any, folder: Path, healthy: bool) -> str:
    from cases import build, judge

    try:
        case = build(make, folder)
    except Exception as error:
        # Today's release builds every case, or the corpus tests fail.
        return f"absent: this Keras cannot build it, {raised(error)}"
    try:
        complaint = judge(case, healthy)
    except Exception as error:
        complaint = raised(error)
    return f"absent: {absent(name)}" if complaint and absent(name) else complaint


def raised(error: Exception) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras writes in bold
    lines = [line for line in plain.splitlines() if line.strip() and "encountered when calling" not in line]
    return f"raised {type(error).__name__}: {(lines or [''])[0][:200]}"


class Record:
    """Verdicts, written after each."""

    def __init__(self, path: Path, library: str) -> None:
        self.path = path
        version = importlib.import_module(library).__version__
        self.data: dict[str, Any] = {
            "tensorflow": tf.__version__,
            "keras": version,
            "date": datetime.date.today().isoformat(),
            "verdicts": {},
        }

    def add(self, name: str, verdict: str, seconds: float) -> None:
        # A first line names the fault; what the doctor printed is for the terminal.
        self.data["verdicts"][name] = verdict.splitlines()[0]
        print(f"{name:64} {verdict}  ({seconds:.0f} s of CPU)", flush=True)
        draft = self.path.with_name(self.path.name + ".part")
        draft.write_text(json.dumps(self.data), encoding="utf-8")
        os.replace(draft, self.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["applications", "corpus"])
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--only", nargs="+", help="names of architectures or cases")
    parser.add_argument("--library", default="keras", choices=["keras", "tf_keras"])
    parser.add_argument("--all", action="store_true", help="the largest architectures too")
    options = parser.parse_args()
    record = Record(options.out, options.library)
    examine = {"applications": examine_applications, "corpus": examine_corpus}[options.what]
    examine(options, record)
    wrong = [name for name, verdict in record.data["verdicts"].items() if verdict.split(":")[0] not in ("ok", "absent")]
    print(f"{len(wrong)} wrong: {', '.join(wrong) or 'none'}")


if __name__ == "__main__":
    main()
