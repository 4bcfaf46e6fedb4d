"""Monte Carlo dropout that samples in `predict`, in a `tf.function` and in an exported model.

Symptom: the samples of a Monte Carlo dropout model are all identical, though `Dropout(0.5)(x,
training=True)` is in the model. Or they differ, and the moving statistics of BatchNormalization have
changed after predicting.

Cause: on Keras 3.0 to 3.15 `predict` overrides a `training=True` that a Functional graph has recorded.
`model(x, training=True)` does drop, but it puts every BatchNormalization in the training phase too.

Fix: a Dropout subclass that drops in every phase, and inference for everything around it.
`to_monte_carlo` makes such a copy of a trained model.

Holds on: every Keras 3 release from 3.0 to 3.16.dev; the export of AlphaDropout not on 3.0.

More: docs/recipes/monte_carlo_dropout.md in Phasebook
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

if __name__ == "__main__" and "PHASEBOOK_DEMO" not in os.environ:
    # Run the demo in a child process and drop TensorFlow's start-up lines, which no setting stops.
    noise = re.compile(
        r"WARNING: All log messages before absl|To enable the following instructions"
        r"|[IWE]\d{4} .*(port|cudart_stub|cpu_feature_guard|cuda_platform|cuda_executor|gpu_device"
        r"|mlir_graph_optimization_pass|tf_tfl_flatbuffer_helpers|reader|loader|function_optimizer"
        r"|flatbuffer_export|cuda_fft|cuda_dnn|cuda_blas|computation_placer|service|device_compiler"
        r"|xla_compilation_cache|devices|grappler|dump_mlir_util|single_machine)\.cc:"
        r"|INFO: Created TensorFlow Lite XNNPACK delegate"
    )
    with subprocess.Popen(
        [sys.executable, *sys.argv], env={**os.environ, "PHASEBOOK_DEMO": "1"}, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if not noise.match(line):
                sys.stderr.write(line)
    sys.exit(child.returncode)

import keras
import numpy as np
import tensorflow as tf


# --8<-- [start:layers]
class AlwaysOn:
    """Put before a dropout layer among the bases: it then drops in every phase it is called in."""

    # None by default: on Keras 3.0 to 3.15 a default of True would also reach the layers that follow.
    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(inputs, training=True)  # type: ignore[misc]


@keras.saving.register_keras_serializable("phasebook")
class MCDropout(AlwaysOn, keras.layers.Dropout):
    """Dropout that drops in every phase."""


@keras.saving.register_keras_serializable("phasebook")
class MCSpatialDropout1D(AlwaysOn, keras.layers.SpatialDropout1D):
    """SpatialDropout1D that drops in every phase."""


@keras.saving.register_keras_serializable("phasebook")
class MCSpatialDropout2D(AlwaysOn, keras.layers.SpatialDropout2D):
    """SpatialDropout2D that drops in every phase."""


@keras.saving.register_keras_serializable("phasebook")
class MCSpatialDropout3D(AlwaysOn, keras.layers.SpatialDropout3D):
    """SpatialDropout3D that drops in every phase."""


@keras.saving.register_keras_serializable("phasebook")
class MCAlphaDropout(AlwaysOn, keras.layers.AlphaDropout):
    """AlphaDropout that drops in every phase."""


@keras.saving.register_keras_serializable("phasebook")
class MCGaussianDropout(AlwaysOn, keras.layers.GaussianDropout):
    """GaussianDropout that multiplies by noise in every phase."""


TWINS: dict[Any, Any] = {
    twin.__mro__[2]: twin
    for twin in (
        MCDropout, MCSpatialDropout1D, MCSpatialDropout2D, MCSpatialDropout3D, MCAlphaDropout, MCGaussianDropout
    )
}  # fmt: skip
# --8<-- [end:layers]


# --8<-- [start:convert]
def to_monte_carlo(model: Any) -> Any:
    """Return a copy of `model` whose dropout layers drop in every phase; `model` stays as it is.

    Takes a Functional, a Sequential or a subclassed model, with its nested models and layers. The
    weights are copied, through a `.keras` file: what `keras.models.load_model` needs to rebuild the
    model, such as `keras.saving.custom_object_scope`, is needed here.

    Raises ValueError when the model has no dropout, or one that cannot be switched on by itself: a
    dropout class of yours, a mask that the rows of a batch share, a recurrent layer's own dropout.
    """
    if not model.built:
        raise ValueError(f"{model.name!r} is not built yet: call it once, or give it an Input")
    cells = [layer for layer in model._flatten_layers() if hasattr(layer, "recurrent_dropout")]
    recurrent = [cell.name for cell in cells if cell.dropout or cell.recurrent_dropout]
    if recurrent:
        raise ValueError(
            f"the dropout inside {', '.join(recurrent)} has no layer to switch on: put a Dropout before it"
        )
    own = [layer for layer in dropout_layers(model) if not isinstance(layer, AlwaysOn) and type(layer) not in TWINS]
    if own:
        names = ", ".join(f"{type(layer).__name__} {layer.name!r}" for layer in own)
        raise ValueError(f"no dropout layer of Keras itself: {names}. Derive its class from AlwaysOn, too")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        copy = keras.models.load_model(path, compile=False)
    for layer in copy._flatten_layers():
        # The layer keeps its rate, its seed and its place; only its call changes.
        object.__setattr__(layer, "__class__", TWINS.get(type(layer), type(layer)))
    return copy


def dropout_layers(model: Any) -> list[Any]:
    """Return the layers of `model` that drop at a rate above 0; ValueError when none, or when rows share a mask."""
    kinds: Any = tuple(TWINS)
    found = [layer for layer in model._flatten_layers() if isinstance(layer, kinds) and layer.rate > 0]
    if not found:
        raise ValueError(f"{model.name!r} has no dropout layer with a rate above 0: every sample would be the same")
    shared = [layer.name for layer in found if (getattr(layer, "noise_shape", None) or [None])[0] is not None]
    if shared:
        raise ValueError(f"{', '.join(shared)} draws one mask for all rows: leave the first entry of noise_shape None")
    return found


def reseed(model: Any, seed: int) -> None:
    """Start the random numbers of every dropout layer of `model` anew, each with a seed of its own."""
    layers = dropout_layers(model)
    for layer, own in zip(layers, np.random.SeedSequence(seed).generate_state(len(layers)), strict=True):
        layer.seed_generator.state.assign(np.array([own, 0], "uint32"))


# --8<-- [end:convert]
# --8<-- [start:sample]
def sample(
    model: Any, x: np.ndarray, samples: int = 64, *, seed: int | None = None, max_rows: int = 4096
) -> Iterator[np.ndarray]:
    """Yield predictions for `x` in parts of shape (inputs, samples, ...), in order.

    Each part is one vectorised call of at most `max_rows` rows, which bounds the memory: every input
    is repeated `samples` times, and every row draws a mask of its own. A `seed` makes the result
    repeatable on one device, for one `max_rows`; None goes on with the layers' random numbers.

    Raises ValueError when a dropout layer of `model` is off at prediction, when `samples` does not
    fit `max_rows`, and when a BatchNormalization runs in the training phase; its statistics are put back.
    """
    off = [layer.name for layer in dropout_layers(model) if not isinstance(layer, AlwaysOn)]
    if off:
        raise ValueError(f"{', '.join(off)} is off at prediction: use to_monte_carlo(model), or build it as MCDropout")
    if not 1 <= samples <= max_rows:
        raise ValueError(f"samples must be between 1 and max_rows={max_rows}, but is {samples}")
    if len(x) == 0:
        raise ValueError("x has no rows")
    if seed is not None:
        reseed(model, seed)
    step = max_rows // samples
    norms = [layer for layer in model._flatten_layers() if hasattr(layer, "moving_mean")]
    before = [(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in norms]
    for start in range(0, len(x), step):
        part = x[start : start + step]
        rows = _call_repeated(model, tf.convert_to_tensor(part), samples).numpy()
        if start == 0:
            _refuse_training_batchnorm(norms, before)
        yield rows.reshape(len(part), samples, *rows.shape[1:])


@tf.function(reduce_retracing=True)
def _call_repeated(model: Any, x: Any, samples: int) -> Any:
    # Inference for everything but dropout, which no longer listens.
    return model(tf.repeat(x, samples, axis=0), training=False)


def _refuse_training_batchnorm(norms: list[Any], before: list[tuple[np.ndarray, np.ndarray]]) -> None:
    moved = []
    for norm, (mean, variance) in zip(norms, before, strict=True):
        if not (np.array_equal(norm.moving_mean, mean) and np.array_equal(norm.moving_variance, variance)):
            moved.append(norm.name)
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
    if moved:
        raise ValueError(
            f"{', '.join(moved)} ran in the training phase, normalised with the statistics of the dropped-out samples "
            "and moved its own (put back now). Remove the training=True that it is called with."
        )


# --8<-- [end:sample]
# --8<-- [start:uncertainty]
class Uncertainty(NamedTuple):
    """What the samples of a classifier say; entropies are in nats."""

    mean: np.ndarray  # (inputs, classes), the predictive mean
    entropy: np.ndarray  # (inputs,), of the predictive mean: all uncertainty
    mutual_information: np.ndarray  # (inputs,), between class and weights: the part that more training data removes


def entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy of class probabilities (..., classes) in nats, as (...)."""
    return -np.sum(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny)), axis=-1)


def summarise(p: np.ndarray) -> Uncertainty:
    """Summarise class probabilities of shape (inputs, samples, classes).

    Predictive mean: Gal & Ghahramani 2016 (arXiv:1506.02142). Mutual information H[E p] - E H[p]:
    Houlsby et al. 2011 (arXiv:1112.5745); as a measure for dropout: Smith & Gal 2018
    (arXiv:1803.08533). Raises ValueError when rows are no probabilities.
    """
    if p.ndim != 3 or p.min() < 0 or not np.allclose(p.sum(-1), 1, atol=1e-3):
        raise ValueError(
            f"expected class probabilities (inputs, samples, classes) that sum to 1, got shape {p.shape}. "
            "A model that ends in logits needs a softmax first."
        )
    mean = p.mean(axis=1)
    total = entropy(mean)
    return Uncertainty(mean, total, total - entropy(p).mean(axis=1))


def predict_with_uncertainty(model: Any, x: np.ndarray, samples: int = 64, **options: Any) -> Uncertainty:
    """Return predictive mean, entropy and mutual information for `x`; `options` go to `sample`.

    Keeps one part of the samples at a time in memory, whatever the length of `x`.
    """
    parts = [summarise(p) for p in sample(model, x, samples, **options)]
    return Uncertainty(*(np.concatenate(values) for values in zip(*parts, strict=True)))


# --8<-- [end:uncertainty]
# --8<-- [start:calibration]
def reliability(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean confidence, accuracy and count of each bin of confidence that is not empty.

    `p` is (inputs, classes), `labels` (inputs,). Confidence is the probability of the predicted class.
    """
    confidence, right = p.max(axis=-1), p.argmax(axis=-1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    full = count > 0
    mean, accuracy = (np.bincount(index, value, bins)[full] / count[full] for value in (confidence, right))
    return mean, accuracy, count[full]


def expected_calibration_error(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Return the mean gap between confidence and accuracy over bins (Guo et al. 2017, arXiv:1706.04599)."""
    confidence, accuracy, count = reliability(p, labels, bins)
    return float(np.average(np.abs(confidence - accuracy), weights=count))


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return the chance that a value of `higher` is above one of `lower`; ties count half (Mann & Whitney 1947)."""
    gaps = higher[:, None] - lower[None, :]
    return float(np.mean(gaps > 0) + np.mean(gaps == 0) / 2)


def calibration_figure(curves: dict[str, Any], path: str, **metadata: str | None) -> None:
    """Draw `curves`, name -> (confidence, accuracy, ...) as `reliability` gives them, to the image file `path`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the figure is drawn with matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#767676", linestyle=":", label="calibrated")
    for (name, (confidence, accuracy, *_)), style in zip(curves.items(), ("o--", "s-", "^-."), strict=False):
        axes.plot(confidence, accuracy, style, label=name)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.legend(loc="upper left")
    figure.savefig(path, metadata=metadata or None)


# --8<-- [end:calibration]
# --8<-- [start:demo]
def documented(model: Any) -> Any:
    """Return `model` with one more dropout, as tutorials have it: `training=True` recorded in the graph."""
    return keras.Model(model.inputs, keras.layers.Dropout(0.5)(model.outputs[0], training=True))


SEEN, TRAINED_ON = 8, 400


def classifier() -> Any:
    """Return an untrained network for (8, 8, 1) images of the digits 0 to 7, with dropout and BatchNormalization."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.SpatialDropout2D(0.1),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(SEEN, activation="softmax"),
        ],
        name="classifier",
    )


def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y to train on and x, y to test on, of scikit-learn's digits 0 to 7; and the unseen 8 and 9 as x.

    Images are (n, 8, 8, 1) float32 in [0, 1].
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo's images come with scikit-learn: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(labels < SEEN))
    train, test = order[:TRAINED_ON], order[TRAINED_ON:]
    return images[train], labels[train], images[test], labels[test], images[labels >= SEEN]


def rotate(images: np.ndarray, degrees: float) -> np.ndarray:
    """Return `images` (n, 8, 8, 1) turned by `degrees`, with black corners."""
    from scipy.ndimage import rotate as turn  # comes with scikit-learn

    return np.clip(turn(images, degrees, axes=(2, 1), reshape=False, order=1), 0, 1)


# --8<-- [end:demo]


def main(argv: list[str] | None = None) -> None:
    """Train on digits, and compare one pass in inference with the mean of many samples."""
    parser = argparse.ArgumentParser(description="Monte Carlo dropout: sampled uncertainty from a trained model.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--figure", metavar="FILE", help="draw the calibration on rotated digits to FILE, e.g. a.svg")
    options = parser.parse_args(argv)
    if not 1 <= options.samples <= 4096:
        parser.error("--samples must be between 1 and 4096")
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError("the demo shows its progress with rich: pip install rich") from error

    keras.utils.set_random_seed(options.seed)
    x, y, x_test, y_test, unseen = digits(options.seed)
    model = classifier()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    with Progress() as progress:
        task = progress.add_task("training", total=25)
        advance = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: progress.advance(task))
        model.fit(x, y, epochs=25, batch_size=32, verbose=0, callbacks=[advance])
    sampler = to_monte_carlo(model)

    for name, candidate in [("Dropout(...)(x, training=True)", documented(model)), ("to_monte_carlo(model)", sampler)]:
        same = np.array_equal(candidate.predict(x_test, verbose=0), candidate.predict(x_test, verbose=0))
        print(f"{name:32}two calls of predict are {'identical' if same else 'different'}")

    print(f"\n{'':16}{'accuracy':>18}{'calibration error':>22}{'mean entropy':>20}")
    print(f"{'':16}" + f"{'one pass':>10}{'samples':>10}" * 3)
    curves = {}
    for name, images in [("test digits", x_test), *((f"turned {d}°", rotate(x_test, d)) for d in (30, 60, 90))]:
        single = model.predict(images, verbose=0)
        mean = predict_with_uncertainty(sampler, images, options.samples, seed=options.seed).mean
        figures = [f(p, y_test) for f in (_accuracy, expected_calibration_error) for p in (single, mean)]
        figures += [entropy(single).mean(), entropy(mean).mean()]
        print(f"{name:16}" + "".join(f"{value:10.3f}" for value in figures))
        if name == "turned 30°":
            curves = {"one pass": reliability(single, y_test), "samples": reliability(mean, y_test)}
    known, new = (predict_with_uncertainty(sampler, i, options.samples, seed=options.seed) for i in (x_test, unseen))
    print("\nchance that an unseen digit (8, 9) looks less certain than a test digit:")
    one = auroc(entropy(model.predict(unseen, verbose=0)), entropy(model.predict(x_test, verbose=0)))
    print(f"  entropy of one pass {one:.3f}, of the samples {auroc(new.entropy, known.entropy):.3f}", end="")
    print(f", mutual information {auroc(new.mutual_information, known.mutual_information):.3f}")
    if options.figure:
        calibration_figure(curves, options.figure)


def _accuracy(p: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(p.argmax(axis=-1) == labels))


if __name__ == "__main__":
    main()
