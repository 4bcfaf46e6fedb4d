"""MobileNetV2 in your own loop: name the phase, or hand out a view that has one.

Symptom: in a `tf.function` loop the loss sits at 0.693 and every row of a batch gets the same
prediction. The same model trains under `fit`, and with pretrained weights.

Cause: outside `fit`, `model(x)` runs a Functional or Sequential model in inference. Every
BatchNormalization layer normalises with its initial moving mean 0 and moving variance 1, and never
updates them. Keras 3 has no learning phase that could say otherwise.

Fix: `model(x, training=True)` in the train step, `model(x, training=False)` in the test step:
Functional and Sequential hand it to every layer. For code that calls `model(x)` and cannot be
changed, give it one of two `PhaseView` objects over the one set of weights.

Holds on: every Keras 3 release from 3.0 to 3.16.dev. `learning_phase_scope` is for `tf_keras`
(Keras 2), which runs beside them.

More: docs/recipes/functional_learning_phase.md in Phasebook
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

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

# --8<-- [start:types]
Step = Callable[[Any, Any], tuple[Any, Any]]


@runtime_checkable
class Trainable(Protocol):
    """What a training loop asks of the thing it calls: a `keras.Model` has it, and so has a `PhaseView`."""

    @property
    def trainable_variables(self) -> list[Any]: ...

    @property
    def variables(self) -> list[Any]: ...

    @property
    def losses(self) -> list[Any]: ...

    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...


# --8<-- [end:types]


# --8<-- [start:steps]
def make_train_step(model: Any, optimizer: Any, loss: Any) -> Step:
    """Return a `tf.function` that trains `model` on one batch, in the training phase.

    `step(x, y)` returns the loss as a scalar tensor (regularisation included) and the predictions,
    one row an example. Moving statistics are updated by the call itself: there is nothing to run beside it.
    """

    @tf.function
    def step(x: Any, y: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            value = loss(y, predictions) + sum(model.losses)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value, predictions

    return step


def make_test_step(model: Any, loss: Any) -> Step:
    """Return a `tf.function` with the same signature that computes in the inference phase and changes nothing."""

    @tf.function
    def step(x: Any, y: Any) -> tuple[Any, Any]:
        predictions = model(x, training=False)
        return loss(y, predictions) + sum(model.losses), predictions

    return step


# --8<-- [end:steps]


# --8<-- [start:plain]
def make_plain_step(model: Trainable, optimizer: Any, loss: Any) -> Step:
    """The step of somebody else's library: it calls `model(x)`, and you cannot change it."""

    @tf.function
    def step(x: Any, y: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            predictions = model(x)
            value = loss(y, predictions) + sum(model.losses)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value, predictions

    return step


# --8<-- [end:plain]


# --8<-- [start:view]
def python_phase(training: Any) -> bool:
    """Return `training` as a Python bool; `TypeError` for anything but True, False, 0 or 1, tensors included."""
    if isinstance(training, (bool, int, np.bool_)) and training in (0, 1):
        return bool(training)
    raise TypeError(
        f"the phase must be a Python True or False, not {type(training).__name__}: {training!r}. "
        "Inside tf.function Keras 3 cannot branch on a tensor: make one trace for each phase."
    )


class PhaseView(tf.Module):
    """`model`, callable in one fixed phase. It owns no variables and no state: the model stays the model.

    A `tf.Module`, so `tf.train.Checkpoint` and `tf.saved_model.save` find the weights through it. Not a
    `keras.Model`: `fit`, `predict` and `save` would each pick a phase of their own.

    Raises `TypeError` if `model` is not a Keras layer or `training` not a Python bool, and `ValueError` if the
    model is not built yet or its `call` has no argument `training`.
    """

    def __init__(self, model: Any, training: bool) -> None:
        if not isinstance(model, keras.layers.Layer):
            raise TypeError(
                f"a phase view needs a Keras 3 model or layer, not {type(model).__module__}.{type(model).__name__}"
            )
        if "training" not in inspect.signature(model.call).parameters:
            raise ValueError(
                f"{type(model).__name__}.call has no argument `training`, so no phase can be passed to it: add one"
            )
        if not model.built:
            raise ValueError(
                f"{model.name!r} has no weights yet: call it on a batch, or build it, before making views of it"
            )
        super().__init__()
        self.model = model
        self._training = python_phase(training)

    def __call__(self, inputs: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Call the model in this view's phase; `ValueError` if `training` says otherwise, `TypeError` for a tensor."""
        if training is not None and python_phase(training) != self._training:
            raise ValueError(
                f"this view runs with training={self._training}, but was called with training={training}: "
                "use the other view"
            )
        return self.model(inputs, training=self._training, **kwargs)

    @property
    def training(self) -> bool:
        return self._training

    @property
    def variables(self) -> list[Any]:
        return self.model.variables

    @property
    def trainable_variables(self) -> list[Any]:
        return self.model.trainable_variables

    @property
    def non_trainable_variables(self) -> list[Any]:
        return self.model.non_trainable_variables

    @property
    def losses(self) -> list[Any]:
        return self.model.losses

    @property
    def trainable(self) -> bool:
        return self.model.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        raise AttributeError(
            "a view cannot be frozen on its own, both views share the weights: set `view.model.trainable`"
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a PhaseView only calls its model and lists variables; for {name!r} use `view.model.{name}`"
        )


class PhaseViews(NamedTuple):
    """Two views of one model: `train` calls it with `training=True`, `infer` with `training=False`."""

    train: PhaseView
    infer: PhaseView


def phase_views(model: Any) -> PhaseViews:
    """Return the two views of a built model. Make them once: `tf.function` traces each new view object again."""
    return PhaseViews(train=PhaseView(model, training=True), infer=PhaseView(model, training=False))


# --8<-- [end:view]


# --8<-- [start:scope]
def import_tf_keras() -> Any:
    """Return `tf_keras`, which is Keras 2 and still has the learning phase; `ImportError` says how to get it."""
    try:
        import tf_keras
    except ImportError as error:
        minor = ".".join(tf.__version__.split(".")[:2])
        raise ImportError(f'the learning phase lives on in tf_keras only: pip install "tf_keras=={minor}.*"') from error
    return tf_keras


@contextlib.contextmanager
def learning_phase_scope(value: bool) -> Iterator[None]:
    """Set the learning phase of `tf_keras` for a block, and put back what was there (or nothing) whatever happens.

    Without the warning of tf_keras that the phase will be removed after 2020-10-11. It does nothing to Keras 3.
    A `tf.function` traced inside the block keeps the phase after it. `TypeError` for a tensor, as above.
    """
    phase = int(python_phase(value))
    backend = import_tf_keras().backend
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stack.enter_context(backend.learning_phase_scope(phase))
        yield


# --8<-- [end:scope]


# --8<-- [start:model]
def build_model(momentum: float = 0.999) -> Any:
    """Return an untrained MobileNetV2 (alpha 0.35) for (batch, 32, 32, 3) float32 in [-1, 1]; two probabilities a row.

    `momentum` goes to each of its 52 BatchNormalization layers. Keras builds them with 0.999, which keeps
    0.999**n of the initial statistics after n steps: too slow for a short demo.
    """
    base = keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax")]
    return keras.Sequential([keras.Input((32, 32, 3)), base, *head])


# --8<-- [end:model]


def load_odd_even() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return 1,440 training and 357 validation scans as (n, 32, 32, 3) float32 in [-1, 1], labels 1 for odd digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo's scans come with scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    scans = digits.images[order, :, :, None].astype("float32") / 8 - 1
    x = scans.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    y = (digits.target[order] % 2).astype("int32")
    return x[:1440], y[:1440], x[1440:], y[1440:]


class Result(NamedTuple):
    """One run: means over its last 20 training batches, then the validation accuracy in inference."""

    loss: float
    accuracy: float
    spread: float
    val_accuracy: float


def train(make_step: Callable[..., Step], steps: int, seed: int, tick: Callable[[], None] = lambda: None) -> Result:
    """Train a fresh model for `steps` batches of 64 with SGD 0.1, calling `tick` after each.

    `spread` is the largest difference, between two rows of one batch, in the probability of "odd".
    """
    keras.utils.set_random_seed(seed)
    x, y, x_val, y_val = load_odd_even()
    model = build_model(momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy()
    step = make_step(model, keras.optimizers.SGD(0.1), loss)
    rng, rows = np.random.default_rng(seed), []
    for _ in range(steps):
        batch = rng.choice(len(x), 64, replace=False)
        value, p = (np.asarray(out) for out in step(x[batch], y[batch]))
        rows.append((value, np.mean(p.argmax(axis=1) == y[batch]), np.ptp(p[:, 1])))
        tick()
    p_val = phase_views(model).infer(x_val)
    last = [float(mean) for mean in np.mean(rows[-20:], axis=0)]
    return Result(last[0], last[1], last[2], float(np.mean(np.argmax(p_val, axis=1) == y_val)))


def main(argv: list[str] | None = None) -> None:
    """Train the article's MobileNetV2 twice, without and with the phase, and print what happened."""
    parser = argparse.ArgumentParser(description=inspect.cleandoc(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="batches of 64 for each run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1, not {args.steps}")
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError("the demo's progress bar comes with rich: pip install rich") from error

    results = {}
    with Progress() as progress:
        for call, make_step in {"model(x)": make_plain_step, "model(x, training=True)": make_train_step}.items():
            task = progress.add_task(f"{call:24}", total=args.steps)
            results[call] = train(make_step, args.steps, args.seed, lambda task=task: progress.advance(task))  # type: ignore[misc]

    print(f"\nMobileNetV2, weights=None, odd or even digit, {args.steps} steps of 64")
    print(f"{'call in the train step':24}    loss  accuracy  spread in a batch  val accuracy")
    for call, r in results.items():
        print(f"{call:24}  {r.loss:6.3f}  {r.accuracy:8.2f}  {r.spread:17.6f}  {r.val_accuracy:12.2f}")


if __name__ == "__main__":
    main()
