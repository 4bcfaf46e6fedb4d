"""Say the phase in `fit`, and make validation mean something while BatchNormalization catches up.

Symptom: training accuracy climbs while validation accuracy sits at chance, and `evaluate` on the
training data itself disagrees with what `fit` printed.

Cause: validation runs in the inference phase, which uses BatchNormalization's moving statistics. After n
training steps they still hold momentum**n of the initial (0, 1): 76 % after 270 steps at momentum 0.999.

Fix: re-estimate the statistics from training batches before each validation
(`RecalibrateBatchNormalization`, `recalibrate`), or lower the momentum (`set_momentum`,
`steps_until_meaningful`). State the phase in your own `train_step` and `test_step` (`ExplicitPhase`).

Holds on: Keras 3.0 to 3.16.dev with TensorFlow 2.16 to 2.22.0rc0.

More: docs/recipes/fit_explicit_phase.md in Phasebook
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import math
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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


# --8<-- [start:explicit]
class ExplicitPhase:
    """Mixin for any `keras.Model`: each step states its phase instead of leaving it to Keras.

    Put it first: `class Net(ExplicitPhase, keras.Model)`. Works for a subclassed model, for
    `Net(inputs, outputs)` and for `class Net(ExplicitPhase, keras.Sequential)`. `fit` and `train_on_batch` use
    `train_step`; `evaluate`, `test_on_batch` and `fit`'s validation use `test_step`; `predict` and
    `predict_on_batch` use `predict_step`. Losses, metrics, sample weights and loss scaling are Keras's own. (Under a
    strategy with k replicas, later Keras 3 releases divide the loss by k; so does the loss reported here.)

    Raises TypeError, before any weight changes, when the model's `call` has no argument named `training`:
    Keras passes nothing to such a model and trains it in the inference phase, silently.
    """

    def train_step(self: Any, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        require_training_argument(self)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)  # batch statistics, dropout on
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
            scaled = self.optimizer.scale_loss(loss)  # mixed_float16 needs it; the loss itself otherwise
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        return self._report(x, y, y_pred, sample_weight, loss)

    def test_step(self: Any, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        require_training_argument(self)
        y_pred = self(x, training=False)  # moving statistics, dropout off
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        return self._report(x, y, y_pred, sample_weight, loss)

    def predict_step(self: Any, data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        require_training_argument(self)
        return self(x, training=False)

    def _report(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any, loss: Any) -> dict[str, Any]:
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=rows)  # a short last batch counts less
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def require_training_argument(model: keras.Model) -> None:
    """Raise TypeError when `model.call` has no argument named `training` (`**kwargs` does not count)."""
    if "training" not in inspect.signature(model.call).parameters:
        raise TypeError(
            f"{type(model).__name__}.call has no argument named 'training', so it cannot be told the phase. "
            "Write `def call(self, x, training=None)` and pass `training` on to the layers."
        )


# --8<-- [end:explicit]


# --8<-- [start:steps]
def steps_until_meaningful(momentum: float, remaining: float = 0.05) -> int:
    """Training steps until at most the share `remaining` of the initial moving statistics is left.

    Keras updates `moving = momentum * moving + (1 - momentum) * batch`, so the initial value (mean 0,
    variance 1) keeps the weight momentum**n after n steps. The answer is the smallest n with
    momentum**n <= remaining, that is ceil(log(remaining) / log(momentum)). A layer called k times a step
    is updated k times: divide by k.

    Args: momentum, 0 <= momentum < 1 (Keras's default is 0.99, MobileNetV2's 0.999); remaining, 0 < remaining < 1.
    Raises ValueError for anything else; with momentum 1 the statistics never move.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}: at 1 the moving statistics never move.")
    if not 0 < remaining < 1:
        raise ValueError(f"remaining must be strictly between 0 and 1, got {remaining}.")
    steps = 1 if momentum == 0 else max(1, math.floor(math.log(remaining) / math.log(momentum)) - 1)
    while momentum**steps > remaining * (1 + 1e-9):  # so that 0.05 ** (1 / n) takes n steps, not n + 1 by rounding
        steps += 1
    return steps


def batch_normalization_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Every BatchNormalization layer inside `model`, at any depth, each once."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def set_momentum(model: keras.Model, momentum: float) -> int:
    """Give every BatchNormalization layer in `model`, nested ones included, this momentum; return how many.

    The momentum is compiled into a traced step. The model's own `fit` is traced afresh here; a `tf.function`
    of your own, or an outer model that contains this one, keeps the old value until you trace or compile it again.

    Raises ValueError, before any layer is changed, when momentum is not in [0, 1) or there is no such layer.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}: at 1 the moving statistics never move.")
    layers = batch_normalization_layers(model)
    if not layers:
        raise ValueError(f"{model.name!r} holds no BatchNormalization layer: there is no momentum to set.")
    for layer in layers:
        layer.momentum = float(momentum)
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
    return len(layers)


# --8<-- [end:steps]


# --8<-- [start:recalibrate]
class SynchronizedMaskError(ValueError):
    """A BatchNormalization layer with `synchronized=True` met a mask: Keras then normalises per replica, silently."""


class Recalibrator:
    """Re-estimates a model's BatchNormalization statistics. Traced once, for use after every epoch.

    Calling it runs the batches through the model in the training phase and sets `moving_mean` and
    `moving_variance` of each layer to the population mean and variance (divisor n) of all the values that
    layer received: one pool over batches of any sizes, over several calls in a step and over unmasked positions.
    Batches are joined by the law of total variance, in float64: what that rounds away, about 1e-16 of the squared mean,
    float32 inputs cannot resolve.
    Earlier layers normalise with their batch's own statistics during the pass, exactly as in training.

    A layer is re-estimated when `fit` would update it: frozen layers and layers called with `training=False`
    keep their statistics. Every other variable that the pass touches, and Python's and NumPy's global random
    state, are put back, also after an exception or Ctrl-C; after those the old statistics are put back too.

    Args:
        model: a built `keras.Model`.
        forward: called with a whole batch; runs the training-phase forward pass. Default: `model(x, training=True)`
            with the batch's x, as `fit` unpacks it.

    Raises ValueError when the model is not built or holds no BatchNormalization layer.
    """

    def __init__(self, model: keras.Model, forward: Callable[[Any], Any] | None = None) -> None:
        if not model.built:
            raise ValueError(f"{model.name!r} is not built, so it has no statistics yet. Call it on one batch first.")
        self.model, self._forward = model, forward
        self._layers = batch_normalization_layers(model)
        if not self._layers:
            raise ValueError(f"{model.name!r} holds no BatchNormalization layer: there is nothing to re-estimate.")
        self._flags: list[bool] | None = None

    def __call__(self, batches: Iterable[Any], steps: int | None = None) -> list[str]:
        """Re-estimate from `batches` and return the names of the layers that were set.

        Args:
            batches: what `fit` takes as batched data: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a list,
                of x, (x, y) or (x, y, sample_weight).
            steps: use at most so many batches.

        Raises TypeError for data that is not a re-iterable of batches; ValueError for no batches, an endless dataset
        without `steps`, NaN or infinity reaching a layer, a layer that saw only masked values, or no layer reached in
        the training phase; SynchronizedMaskError. The model is then as it was.
        """
        check_batches(batches, steps)
        if not any(layer.trainable for layer in self._layers):
            return []  # all frozen: nothing would move in training either
        step = self._traced_step()
        graph: Any = None
        spec: Any = None
        saved: dict[Any, tuple[tf.Variable, tf.Tensor]] = {}
        python_state, numpy_state = random.getstate(), np.random.get_state()

        def restore() -> None:
            for variable, value in saved.values():
                variable.assign(value)

        try:
            for batch in itertools.islice(_one_pass(batches), steps):
                data = keras.utils.unpack_x_y_sample_weight(batch)[0] if self._forward is None else batch
                data = tf.nest.map_structure(tf.convert_to_tensor, data)
                if 0 in tf.nest.flatten(data)[0].shape[:1]:
                    continue  # no rows, no statistics
                if (new_spec := tf.nest.map_structure(_any_batch_size, data)) != spec:
                    graph, spec = step.get_concrete_function(new_spec), new_spec
                    for variable in graph.variables:  # all that the pass can change, tracked by Keras or not
                        saved.setdefault(variable.ref(), (variable, variable.read_value()))
                graph(data)
            if graph is None:
                raise ValueError("The dataset gave no rows, so there is nothing to estimate from. Is it exhausted?")
            names, estimates = self._estimates()
            restore()
            for variable, value in estimates:
                variable.assign(value)
        except BaseException:  # Ctrl-C too
            restore()
            raise
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
        return names

    def _traced_step(self) -> Any:
        """The observed forward pass; made anew when a layer was frozen or unfrozen since the last time."""
        flags = [layer.trainable for layer in self._layers]
        if flags != self._flags:
            self._sums = {
                layer: tf.Variable(tf.zeros([3, layer.moving_mean.shape[0]], tf.float64))
                for layer in self._layers
                if layer.trainable and layer.built
            }
            self._seen: set[Any] = set()
            forward = self._forward or (lambda x: self.model(x, training=True))

            def observed(data: Any) -> None:
                with _observing(self._sums, self._seen):  # Python runs this while tracing only
                    forward(data)

            self._step, self._flags = tf.function(observed, autograph=False), flags
        return self._step

    def _estimates(self) -> tuple[list[str], list[tuple[tf.Variable, np.ndarray]]]:
        """Names of the observed layers, and what to write: checked here, before anything is written."""
        if not self._seen:
            raise ValueError(
                f"No BatchNormalization layer of {self.model.name!r} ran in the training phase. "
                "Does its `call` take `training` and pass it on?"
            )
        for layer in self._sums:
            if layer not in self._seen:
                warnings.warn(f"{layer.name!r} never ran in the training phase: its statistics stay.", stacklevel=3)
        names, estimates = [], []
        for layer in [layer for layer in self._sums if layer in self._seen]:
            count, total, squares = self._sums[layer].numpy()
            if not count.all():
                raise ValueError(f"{layer.name!r} saw only masked values in these batches: nothing to estimate from.")
            mean = total / count
            variance = np.maximum(squares / count - mean**2, 0)  # a constant may round to just below 0
            new = [(layer.moving_mean, mean), (layer.moving_variance, variance)]
            if getattr(layer, "renorm", False):  # Keras derives the next moving variance from this one
                new.append((layer.moving_stddev, np.sqrt(variance + layer.epsilon)))
            for variable, value in new:
                value = value.astype(variable.dtype)
                if not np.isfinite(value).all():
                    raise ValueError(
                        f"NaN or infinity reached {layer.name!r}: check these batches and the model's weights "
                        "with np.isfinite. The statistics are as they were."
                    )
                estimates.append((variable.value, value))
            names.append(layer.name)
        return names, estimates


@contextmanager
def _observing(sums: dict[Any, tf.Variable], seen: set[Any]) -> Iterator[None]:
    """While tracing: whenever a layer computes a batch's mean and variance, have the graph add them to its sums.

    Keras calls `_moments(inputs, mask)` exactly when a layer normalises with batch statistics, with inputs in
    float32 or wider. Using its answer costs no second look at the activations.
    """
    outer, calls = tf.compat.v1.get_default_graph(), []

    def observe(layer: Any, moments: Callable[..., Any]) -> Callable[..., Any]:
        def observed_moments(inputs: tf.Tensor, mask: tf.Tensor | None) -> Any:
            if mask is not None and layer.synchronized:
                raise SynchronizedMaskError(
                    f"{layer.name!r} has synchronized=True and receives a mask. Keras then takes each replica's own "
                    "statistics. Use synchronized=False, or drop the mask before this layer."
                )
            channels, rank = layer.moving_mean.shape[0], len(inputs.shape)
            axes = [axis for axis in range(rank) if axis != layer.axis % rank]
            if mask is None:
                count = tf.cast(tf.size(inputs, tf.int64) // channels, tf.float64)
            else:
                weights = tf.broadcast_to(tf.cast(mask, tf.bool)[..., None], tf.shape(inputs))
                count = tf.reduce_sum(tf.cast(weights, tf.float64), axes)
            result = moments(inputs, mask)
            # Synchronised layers subtract E[x]**2 from E[x**2] in float32, which cancels: take the two-pass formula.
            mean, variance = tf.nn.moments(inputs, axes) if layer.synchronized else result
            call = (sums[layer], tf.broadcast_to(count, [channels]), mean, variance)
            if tf.compat.v1.get_default_graph() is outer:
                calls.append(call)
            else:
                _add_to_sums([call])  # inside a loop or branch: its tensors cannot leave it
            seen.add(layer)
            return result

        return observed_moments

    try:
        for layer in sums:
            layer.__dict__["_moments"] = observe(layer, layer._moments)  # on this instance, around Keras's tracking
        yield
        if calls:
            _add_to_sums(calls)
    finally:
        for layer in sums:
            layer.__dict__.pop("_moments", None)


def _add_to_sums(calls: list[tuple[tf.Variable, tf.Tensor, tf.Tensor, tf.Tensor]]) -> None:
    """Add count, count * mean and count * (variance + mean**2) to each variable, in one go for all calls.

    The last is the sum of squares: the total variance is the variance within batches plus that between their means.
    """
    count = tf.concat([count for _, count, _, _ in calls], 0)
    mean, variance = (tf.cast(tf.concat([tf.reshape(c[i], [-1]) for c in calls], 0), tf.float64) for i in (2, 3))
    parts = tf.split(tf.stack([count, count * mean, count * (variance + mean**2)]), [c[1].shape[0] for c in calls], 1)
    for (sums, _, _, _), part in zip(calls, parts, strict=True):
        sums.assign_add(part)


def _one_pass(batches: Any) -> Iterable[Any]:
    if isinstance(batches, keras.utils.PyDataset):  # only some Keras releases make it iterable
        return (batches[index] for index in range(len(batches)))
    return batches


def _any_batch_size(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype)


def check_batches(batches: Any, steps: int | None = None) -> None:
    """Raise TypeError or ValueError when `batches` cannot be passed over again and again, batch by batch."""
    if isinstance(batches, (np.ndarray, tf.Tensor, tuple, dict, str)) or not (
        hasattr(batches, "__iter__") or isinstance(batches, keras.utils.PyDataset)
    ):
        raise TypeError(
            f"Expected training batches, got {type(batches).__name__}. From arrays, make them with "
            "`tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=0).batch(32)`."
        )
    if hasattr(batches, "__next__"):
        raise TypeError(
            f"Got a one-shot iterator ({type(batches).__name__}): it is used up after one pass, and its batches would "
            "be missing from training. Pass a tf.data.Dataset, a keras.utils.PyDataset or a list of batches."
        )
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps must be a whole number of batches, at least 1, or None for all; got {steps!r}.")
    if steps is None and isinstance(batches, tf.data.Dataset) and batches.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset is endless (`repeat()`): say how many batches to use with `steps`.")


def recalibrate(
    model: keras.Model,
    batches: Iterable[Any],
    steps: int | None = None,
    forward: Callable[[Any], Any] | None = None,
) -> list[str]:
    """Re-estimate the BatchNormalization statistics of `model` once; return the names of the layers set.

    Same arguments, guarantees and errors as `Recalibrator`, which is cheaper when used every epoch.
    """
    return Recalibrator(model, forward)(batches, steps)


# --8<-- [end:recalibrate]


# --8<-- [start:callback]
class RecalibrateBatchNormalization(keras.callbacks.Callback):
    """Re-estimate the BatchNormalization statistics in `fit`, before each validation and at the end of training.

    Training itself is untouched: weights, optimizer, dropout seeds and training metrics are the same, bit for bit, with
    or without it; moving statistics and validation results differ. In an epoch without validation it does nothing
    until the end of training.

    Args:
        batches: training batches, as for `Recalibrator`. Give it a dataset of its own: `tf.data`'s `shuffle` and
            stateful augmentation count every pass over the same object, so sharing `fit`'s would change its next order.
        steps: use at most so many batches.
        forward: as for `Recalibrator`.

    Raises what `Recalibrator` raises; for unusable `batches` already here, before training.
    """

    def __init__(
        self, batches: Iterable[Any], steps: int | None = None, forward: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__()
        check_batches(batches, steps)
        self.batches, self.steps, self.forward = batches, steps, forward
        self._due = False

    def on_train_begin(self, logs: Any = None) -> None:
        # A new one each time: the model may be new. One that `fit` builds later is checked at the first pass.
        self._recalibrator = Recalibrator(self.model, self.forward) if self.model.built else None
        self._due = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._due = True

    def on_test_begin(self, logs: Any = None) -> None:  # on_epoch_end would come after validation
        self._run()

    def on_train_end(self, logs: Any = None) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
        self._due = self._due or getattr(optimizer, "use_ema", False)  # `fit` has just swapped the weights
        self._run()

    def _run(self) -> None:
        if self._due:
            self._recalibrator = self._recalibrator or Recalibrator(self.model, self.forward)
            self._recalibrator(self.batches, self.steps)
            self._due = False


# --8<-- [end:callback]


def digits(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's 1,797 scans of handwritten digits as (x, y) for training and (x, y) for validation, 4 to 1.

    x is float32 (n, 8, 8, 1) in [0, 1]; y is int32 (n,): 1 for an odd digit, 0 for an even one.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The demo needs scikit-learn's digits: pip install scikit-learn") from error
    images, numbers = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = (images[order].reshape(-1, 8, 8, 1) / 16).astype("float32")
    y = (numbers[order] % 2).astype("int32")
    cut = len(x) // 5
    return (x[cut:], y[cut:]), (x[:cut], y[:cut])


# --8<-- [start:net]
class Net(ExplicitPhase, keras.Model):
    """A Functional model whose steps state their phase: `Net(inputs, outputs)`."""


def small_cnn(momentum: float = 0.999) -> Net:
    """Three convolutions with BatchNormalization for (8, 8, 1) images; two classes, as probabilities."""
    inputs = x = keras.Input((8, 8, 1))
    for filters in (16, 32, 32):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=momentum)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling2D()(x))
    return Net(inputs, keras.layers.Dense(2, activation="softmax")(x))


# --8<-- [end:net]


def main(argv: list[str] | None = None) -> None:
    """Train the same net with and without the callback and print what validation saw after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="seed for weights, shuffling and dropout (default 0)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of 45 steps (default 4)")
    parser.add_argument("--momentum", type=float, default=0.999, help="of the moving statistics (default 0.999)")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    try:
        needed = steps_until_meaningful(arguments.momentum)
    except ValueError as error:
        parser.error(str(error))
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError("The demo draws its progress with rich: pip install rich") from error

    train, validation = digits(arguments.seed)
    batches = tf.data.Dataset.from_tensor_slices(train[0]).shuffle(len(train[0]), seed=arguments.seed).batch(32)
    runs: dict[str, dict[str, list[float]]] = {}
    with Progress() as progress:
        bar = progress.add_task("training twice", total=2 * arguments.epochs)
        for name, extra in (("before", []), ("after", [RecalibrateBatchNormalization(batches)])):
            keras.utils.set_random_seed(arguments.seed)
            model = small_cnn(arguments.momentum)
            model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
            advance = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: progress.advance(bar))
            fitted = model.fit(
                *train,
                batch_size=32,
                epochs=arguments.epochs,
                validation_data=validation,
                callbacks=[*extra, advance],
                verbose=0,
            )
            runs[name] = fitted.history

    done = arguments.epochs * math.ceil(len(train[0]) / 32)
    print(
        f"\nMomentum {arguments.momentum}: after {done} steps {arguments.momentum**done:.0%} of the initial statistics "
        f"is left; 5 % would take {needed} steps."
    )
    print("\nepoch   training accuracy   validation accuracy: fit alone   with RecalibrateBatchNormalization")
    for epoch in range(arguments.epochs):
        same, plain = runs["before"]["accuracy"][epoch], runs["before"]["val_accuracy"][epoch]
        cured = runs["after"]["val_accuracy"][epoch]
        print(f"{epoch + 1:5d} {same:19.3f} {plain:32.3f} {cured:36.3f}")
    if runs["before"]["accuracy"] == runs["after"]["accuracy"]:
        print("\nThe training accuracies of both runs are equal to the last bit: the callback trains nothing.")


if __name__ == "__main__":
    main()
