"""Give a subclassed model a `training` argument, and train it in your own loop.

Symptom: a subclassed keras.Model trains badly or stays at chance. Its BatchNormalization layers still hold
moving_mean 0 and moving_variance 1, or Dropout never drops, and nothing warns. `fit` is no help.

Cause: `call` has no argument named `training`, so Keras 3 cannot tell the model its phase, and every layer in it
runs in inference. `**kwargs` does not count, and a decorator without functools.wraps hides the argument. In your
own loop, a bare `model(x)` is inference as well.

Fix: write `def call(self, x, training=None)` in the model and in every block, pass `training=training` to every
layer that needs it, and say `training=True` in the train step and `training=False` in the test step.
`require_training_argument(model)` turns a forgotten argument into an error.

Holds on: Keras 3.0 to 3.15 and 3.16.0.dev, on TensorFlow 2.16 to 2.22.0rc0.

More: docs/recipes/subclass_training_arg.md in Phasebook
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

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

TracedFunction: TypeAlias = Any  # what @tf.function returns


# --8<-- [start:model]
class ConvBlock(keras.layers.Layer):
    """Convolution, BatchNormalization, ReLU: float (batch, height, width, channels) to (batch, ..., filters)."""

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)
        # 0.9 rather than Keras's 0.99: the statistics follow within some twenty steps.
        self.norm = keras.layers.BatchNormalization(momentum=0.9)

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training))


class DigitsNet(keras.Model):
    """Logits (batch, 10) of images, float (batch, height, width, channels)."""

    def __init__(self, filters: int = 16, depth: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [ConvBlock(filters, strides=2 if i == depth // 2 else 1) for i in range(depth)]
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.dropout = keras.layers.Dropout(0.1)
        self.head = keras.layers.Dense(10)

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.dropout(self.pool(x), training=training))


# --8<-- [end:model]


# --8<-- [start:walk]
def _parameters(call: Any) -> Any:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):  # something without a signature: Keras sees no argument either
        return {}


def _built_in(layer: Any) -> bool:
    return str(getattr(layer.call, "__module__", "")).startswith("keras.")


def _asks_in_vain(call: Any, seen: tuple[Any, ...] = ()) -> bool:
    """Whether a `call` without a named `training` still wants one: from `**kwargs`, or behind a decorator."""
    function = getattr(call, "__func__", call)
    takes_kwargs = any(p.kind is p.VAR_KEYWORD for p in _parameters(function).values())
    if takes_kwargs and "training" in getattr(getattr(function, "__code__", None), "co_consts", ()):
        return True  # kwargs.get("training") and the like
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell may be empty
            inner = cell.cell_contents  # what a decorator wraps is here
            if inspect.isfunction(inner) and inner not in seen:
                if inner.__name__ == "call" and "training" in _parameters(inner):
                    return True
                if _asks_in_vain(inner, (*seen, function)):
                    return True
    return False


def _depends_on_phase(layer: Any) -> bool:
    """Whether the layer itself, not one inside it, computes something else in training."""
    if isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable:
        return False  # frozen: inference in both phases
    if "training" not in _parameters(layer.call):
        return not _built_in(layer) and _asks_in_vain(layer.call)
    if not _built_in(layer):
        return True  # your own layer: it asks, so it depends
    # Keras's own. Many take `training` and ignore it (Dense), or heed it only with a rate above 0 (LSTM, Dropout).
    amounts = [
        getattr(layer, name) for name in ("rate", "stddev", "dropout", "recurrent_dropout") if hasattr(layer, name)
    ]
    if amounts:
        return any(amounts)
    return (
        isinstance(layer, (keras.layers.BatchNormalization, keras.layers.SpectralNormalization))
        or bool(layer._seed_generators)  # random preprocessing, attention with dropout
        or type(layer).__name__ == "Equalization"  # draws nothing, and still works in training alone
        or (isinstance(layer, keras.layers.Lambda) and "training" in _parameters(layer.function))
    )


def _layers_inside(layer: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every layer at any depth below `layer`, once, as (path, layer): nested models, wrappers, lists and dicts too."""
    seen = {id(layer)} if seen is None else seen
    # The only list of a plain Layer's children that Keras 3 has; `Model.layers` exists for models alone.
    for child in layer._flatten_layers(include_self=False, recursive=False):
        if id(child) not in seen:
            seen.add(id(child))
            path = f"{prefix}{child.name}"
            yield path, child
            yield from _layers_inside(child, f"{path}/", seen)


# --8<-- [end:walk]


# --8<-- [start:guard]
def require_training_argument(model: keras.layers.Layer, *, every_block: bool = False) -> None:
    """Raise unless every phase-dependent layer of `model` can be told the phase.

    Call it last in your model's `__init__`, or in a test. It reads signatures, as Keras does: it runs no layer and
    changes nothing. Layers created later, in `build` or `call`, are seen only by a call of this made later.

    Phase-dependent are BatchNormalization unless frozen, SpectralNormalization, dropout and noise of every kind with
    a rate above 0 (in recurrent and attention layers too), random preprocessing, a Lambda whose function takes
    `training`, and every layer of your own whose `call` takes it. A model without a `call` of its own, as GANs often
    are, is judged by each layer it holds.

    Args:
        model: a keras.Model or any other layer, built or not.
        every_block: also require the argument of each layer of yours that holds phase-dependent layers. Without the
            argument such a block gets the phase that the layer called before it was given last, which is the
            model's own phase unless one of them was called with another, say a frozen backbone with False.

    Raises:
        TypeError: `model` is not a Keras layer.
        ValueError: the outermost `call` has no named `training` and there are phase-dependent layers within; or a
            layer at any depth wants `training` where Keras cannot see it (`**kwargs`, or a decorator without
            functools.wraps). Each culprit is named with its signature.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"require_training_argument needs a Keras model or layer, not {type(model).__name__}")
    bare = type(model).call in (keras.Model.call, keras.layers.Layer.call)
    outermost = {id(part) for part in (model._flatten_layers(False, False) if bare else [model])}
    problems = []
    for path, layer in [(model.name, model), *_layers_inside(model)]:
        if (bare and layer is model) or _built_in(layer) or "training" in _parameters(layer.call):
            continue
        inside = {p: type(part).__name__ for p, part in _layers_inside(layer) if _depends_on_phase(part)}
        # Of a block and the layers in it, name the layers.
        held = [f"{p} ({kind})" for p, kind in inside.items() if not any(q.startswith(p + "/") for q in inside)]
        in_vain = _asks_in_vain(layer.call)
        if not in_vain and not (held and (every_block or id(layer) in outermost)):
            continue
        problem = f"{type(layer).__name__}.call({', '.join(map(str, _parameters(layer.call).values()))}) of {path!r}"
        problem += " has no argument named `training`"
        if in_vain:
            problem += " that Keras can see: `**kwargs` or a decorator without functools.wraps hides it"
        if held:
            problem += f"; it holds {', '.join(held[:5])}" + (f" and {len(held) - 5} more" if len(held) > 5 else "")
        problems.append(problem)
    if problems:
        raise ValueError(
            "The phase cannot reach every layer, so some would run in inference while the model trains:\n  "
            + "\n  ".join(problems)
            + "\nWrite `def call(self, x, training=None)` and pass `training=training` on to the layers inside."
        )


# --8<-- [end:guard]


# --8<-- [start:statistics]
def moving_statistics(model: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Copies of every built BatchNormalization's moving mean and variance, float (channels,), by path."""
    return {
        f"{path}/{kind}": np.array(keras.ops.convert_to_numpy(getattr(layer, kind)))
        for path, layer in [(model.name, model), *_layers_inside(model)]
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built
        for kind in ("moving_mean", "moving_variance")
    }


# --8<-- [end:statistics]


def _check_labels(loss: Any, y: Any, y_pred: Any) -> None:
    """Raise where Keras would broadcast in silence. Runs while the step is traced, so it costs no step anything."""
    if not (tf.is_tensor(y) and tf.is_tensor(y_pred)) or None in (y.shape.rank, y_pred.shape.rank):
        return  # several outputs, or nothing known: the loss decides
    wanted = y_pred.shape
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        wanted = wanted[:-1].concatenate(1)
    fits = y.shape[:1].is_compatible_with(y_pred.shape[:1])
    built_in = isinstance(loss, keras.losses.Loss) and type(loss).__module__.startswith("keras.")
    if built_in and type(loss).__name__ not in ("CTC", "Circle"):  # these two mean labels of another shape
        # Keras adds or drops a last axis of length one.
        fits = y.shape.is_compatible_with(wanted) or any(
            long[-1:] == [1] and long[:-1].is_compatible_with(short)
            for long, short in ((wanted, y.shape), (y.shape, wanted))
        )
    if not fits:
        raise ValueError(
            f"labels of shape {y.shape} do not fit predictions of shape {y_pred.shape} under "
            f"{getattr(loss, 'name', loss)}: it needs labels of shape {wanted}"
        )


# --8<-- [start:steps]
def make_steps(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Callable[[Any, Any], Any],
    metrics: Sequence[keras.metrics.Metric] = (),
) -> tuple[TracedFunction, TracedFunction]:
    """Return `train_step(x, y)` and `test_step(x, y)`, each a tf.function with its phase written out.

    Both return the batch's loss, a float32 scalar with the model's own regularisation in it, and update `metrics`:
    a plain `keras.metrics.Mean` collects the loss, weighted by batch size, and any other gets `(y, y_pred)`. The
    model may be unbuilt: the first trace builds it.

    Args:
        loss: a keras.losses.Loss, or a function of (y, y_pred) that returns one number or one an example.

    Raises:
        TypeError: no loss, or an optimizer or metric that is a name or None instead of an object.
        ValueError: `require_training_argument` refuses the model; and, when a step is traced and before it changes
            any weight, labels that do not fit the predictions or a model with nothing to train.
    """
    if not callable(loss):
        raise TypeError(f"no loss: pass an object such as keras.losses.MeanSquaredError(), not {loss!r}")
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(f"no optimizer: pass an object such as keras.optimizers.Adam(), not {optimizer!r}")
    for metric in metrics:
        if not isinstance(metric, keras.metrics.Metric):
            raise TypeError(f"not a metric: pass objects such as keras.metrics.Mean(name='loss'), not {metric!r}")
    require_training_argument(model)

    def batch_loss(y, y_pred):
        require_training_argument(model)  # again, while tracing: layers made in `build` exist only now
        _check_labels(loss, y, y_pred)
        value = tf.cast(tf.reduce_mean(loss(y, y_pred)), tf.float32)
        return tf.add_n([value, *(tf.cast(penalty, tf.float32) for penalty in model.losses)])

    def update(value, y, y_pred):
        for metric in metrics:
            if type(metric) is keras.metrics.Mean:
                metric.update_state(value, sample_weight=tf.shape(tf.nest.flatten(y)[0])[0])
            else:
                metric.update_state(y, y_pred)

    @tf.function(reduce_retracing=True)
    def train_step(x, y):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            value = batch_loss(y, y_pred)
            scaled = optimizer.scale_loss(value)  # of use under mixed precision alone
        if not model.trainable_variables:
            raise ValueError(f"{model.name!r} has no trainable variables: every layer is frozen or has no weights")
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        update(value, y, y_pred)
        return value

    @tf.function(reduce_retracing=True)
    def test_step(x, y):
        y_pred = model(x, training=False)
        value = batch_loss(y, y_pred)
        update(value, y, y_pred)
        return value

    return train_step, test_step


# --8<-- [end:steps]


# --8<-- [start:several]
def make_run(train_step: TracedFunction) -> TracedFunction:
    """Return `run(iterator, steps)`: up to `steps` train steps in one call, fewer when the data ends first.

    `iterator` is `iter(dataset)` of a tf.data.Dataset of (x, y), `steps` an int tensor. Returns the number of steps
    done, int32. Pays where a step is short: what is saved is Python's part between two steps.
    """

    @tf.function(reduce_retracing=True)
    def run(iterator, steps):
        done = 0
        for _ in tf.range(steps):
            batch = iterator.get_next_as_optional()
            if batch.has_value():
                x, y = batch.get_value()
                train_step(x, y)
                done += 1
        return done

    return run


# --8<-- [end:several]


def _first_batch(data: Any, name: str) -> tuple[Any, Any]:
    """The first (x, y) of `data`, or an error that says why it cannot be trained on."""
    if iter(data) is data:
        raise TypeError(f"{name} is an iterator, used up after one epoch: pass a tf.data.Dataset or a list of batches")
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} never ends: drop .repeat(), or cut an epoch off with .take(steps)")
    batch = next(iter(data), None)
    if batch is None:
        raise ValueError(f"{name} is empty: it gave not one batch (was drop_remainder=True used on too few rows?)")
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"{name} must give (x, y) batches; the first one is {what}")
    return batch[0], batch[1]


def _number_of_batches(data: Any) -> int | None:
    if isinstance(data, tf.data.Dataset):
        return max(int(data.cardinality()), 0) or None  # negative: unknown
    return len(data) if hasattr(data, "__len__") else None


def _progress(enabled: bool) -> Any:
    if not enabled:
        return contextlib.nullcontext()
    try:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError as error:
        raise ImportError("the progress bar needs rich: `pip install rich`, or pass progress=False") from error
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


# --8<-- [start:loop]
def fit_loop(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Callable[[Any, Any], Any],
    train_data: Iterable[tuple[Any, Any]],
    val_data: Iterable[tuple[Any, Any]] | None = None,
    *,
    epochs: int = 1,
    metrics: Sequence[keras.metrics.Metric] = (),
    steps_per_call: int = 1,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Train in the training phase and validate in the inference phase, epoch by epoch.

    Returns the history as `fit` does: {"loss": [...], metric names, "val_loss": [...], ...}, one float an epoch.
    When interrupted, the weights keep what the steps done so far have learned.

    Args:
        train_data, val_data: a tf.data.Dataset of (x, y) batches, or a list of them, that can be read every epoch.
        steps_per_call: train steps in each call of TensorFlow; above 1 `train_data` must be a tf.data.Dataset.
        progress: show a bar (needs rich).

    Raises:
        TypeError, ValueError: as `make_steps`; also an iterator for data, data that is empty, endless or not (x, y),
            and `epochs` or `steps_per_call` below 1. All before a weight changes.
    """
    if epochs < 1 or steps_per_call < 1:
        raise ValueError(f"epochs and steps_per_call must be at least 1, not {epochs} and {steps_per_call}")
    if steps_per_call > 1 and not isinstance(train_data, tf.data.Dataset):
        raise TypeError(f"steps_per_call={steps_per_call} needs a tf.data.Dataset, not {type(train_data).__name__}")
    trackers = [keras.metrics.Mean(name="loss"), *metrics]
    train_step, test_step = make_steps(model, optimizer, loss, trackers)
    run = make_run(train_step)
    # Tracing runs nothing: it builds the model and finds wrong shapes in either data set before the first update.
    train_step.get_concrete_function(*_first_batch(train_data, "train_data"))
    if val_data is not None:
        test_step.get_concrete_function(*_first_batch(val_data, "val_data"))
    history: dict[str, list[float]] = {}

    def reset() -> None:
        for tracker in trackers:
            tracker.reset_state()

    def record(prefix: str) -> None:
        for tracker in trackers:
            history.setdefault(prefix + tracker.name, []).append(float(tracker.result()))

    def train_epoch() -> Iterator[int]:
        # Yields the number of steps that each call of TensorFlow did.
        if steps_per_call == 1:
            for x, y in train_data:
                train_step(x, y)
                yield 1
        else:
            batches, steps = iter(train_data), tf.constant(steps_per_call)
            while done := int(run(batches, steps)):
                yield done

    with _progress(progress) as bar:
        for epoch in range(1, epochs + 1):
            task = bar and bar.add_task(f"epoch {epoch}/{epochs}", total=_number_of_batches(train_data))
            reset()
            for done in train_epoch():
                if bar:
                    bar.advance(task, done)
            record("")
            if val_data is not None:
                reset()
                for x, y in val_data:
                    test_step(x, y)
                record("val_")
            if bar:
                results = "  ".join(f"{name} {values[-1]:.3f}" for name, values in history.items())
                bar.update(task, description=f"epoch {epoch}/{epochs}  {results}")
    return history


# --8<-- [end:loop]


class UntoldDigitsNet(DigitsNet):
    """The same layers, but a `call` that cannot be told the phase: the demo's "before"."""

    def call(self, x):  # type: ignore[override]
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(self.pool(x)))


# --8<-- [start:phaseless]
def phaseless_loop(
    model: keras.Model, optimizer: Any, loss: Any, train_data: tf.data.Dataset, *, epochs: int = 1
) -> None:
    """The loop as it is often written, `model(x)` with no word of the phase: the demo's "before"."""

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    for epoch in range(1, epochs + 1):
        for x, y in train_data:
            value = step(x, y)
        print(f"epoch {epoch}/{epochs}  last loss {float(value):.3f}")


# --8<-- [end:phaseless]


def load_digits(seed: int = 0, batch_size: int = 32) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """scikit-learn's 1,797 scans as (train, validation): float32 (batch, 8, 8, 1) in [0, 1] and int32 (batch,)."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("the demo's scans come with scikit-learn: `pip install scikit-learn`") from error
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order] / 16).astype("float32").reshape(-1, 8, 8, 1), y[order].astype("int32")
    train = tf.data.Dataset.from_tensor_slices((x[:1440], y[:1440]))
    val = tf.data.Dataset.from_tensor_slices((x[1440:], y[1440:]))
    return train.shuffle(1440, seed=seed).batch(batch_size).prefetch(2), val.batch(357)


def compare(seed: int = 0, epochs: int = 4, progress: bool = True) -> list[tuple[str, str, int, int, float]]:
    """Train one net three ways. Rows: model, route, statistics that moved, statistics, validation accuracy."""
    train_data, val_data = load_digits(seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rows = []
    for argument, route in (("without", "fit"), ("without", "model(x)"), ("with", "fit_loop")):
        keras.utils.set_random_seed(seed)
        model = DigitsNet() if argument == "with" else UntoldDigitsNet()
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model(next(iter(train_data))[0])  # builds it
        before = moving_statistics(model)
        print(f"{argument} the argument, {route}")
        if route == "fit":
            model.compile(optimizer, loss)
            model.fit(train_data, epochs=epochs, shuffle=False, verbose=2)  # the Dataset shuffles
        elif route == "model(x)":
            phaseless_loop(model, optimizer, loss, train_data, epochs=epochs)
        else:
            fit_loop(model, optimizer, loss, train_data, val_data, epochs=epochs, progress=progress)
        after = moving_statistics(model)
        moved = sum(not np.array_equal(after[path], before[path]) for path in before)
        x, y = next(iter(val_data))
        accuracy = float(np.mean(np.argmax(model(x), axis=-1) == y.numpy()))
        rows.append((argument, route, moved, len(before), accuracy))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Train the same net on digits without and with the argument, and print what became of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, split and order (default: 0)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs for each of the three runs (default: 4)")
    options = parser.parse_args(argv)
    rows = compare(options.seed, options.epochs)
    print(f"\n{'`training` in call':<20}{'trained by':<12}{'statistics moved':<18}validation accuracy")
    for argument, route, moved, count, accuracy in rows:
        print(f"{argument:<20}{route:<12}{f'{moved} of {count}':<18}{accuracy:.2f}")
    try:
        require_training_argument(UntoldDigitsNet())
    except ValueError as error:
        print(f"\nrequire_training_argument says of the first model:\n{error}")


if __name__ == "__main__":
    main()
