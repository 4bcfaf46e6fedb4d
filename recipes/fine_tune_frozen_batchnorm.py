"""Fine-tune a pretrained backbone in two stages and keep the statistics of its BatchNormalization.

Symptom: the head trains well on a frozen backbone. After unfreezing, validation drops, or the
predictions change from one batch size to the next, although the guide's `base(x, training=False)`
is in place.

Cause: on Keras 3.0 to 3.15 `fit` overrides a `training=False` that a Functional graph has recorded.
Every BatchNormalization whose own `trainable` is True then normalises with the statistics of the
batch and moves its moving mean and moving variance.

Fix: unfreeze the backbone, then set `trainable = False` on every BatchNormalization inside it, then
`compile`. The layer's own flag means inference mode, whatever phase it is called in.

Holds on: every Keras 3 release from 3.0 to 3.16.dev. For `tf_keras` (Keras 2) change the import to
`import tf_keras as keras`.

More: docs/recipes/fine_tune_frozen_batchnorm.md in Phasebook
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection
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


# --8<-- [start:freeze]
def batchnorm_layers(model: Any) -> dict[str, Any]:
    """Return every BatchNormalization inside `model`, nested ones too, by path such as `backbone/bn_1`."""
    found: dict[str, Any] = {}

    def walk(parent: Any, prefix: str) -> None:
        for layer in parent._flatten_layers(recursive=False, include_self=False):
            path = prefix + layer.name
            # By class name, so that subclasses and SyncBatchNormalization count.
            is_batchnorm = any("BatchNormalization" in cls.__name__ for cls in type(layer).__mro__)
            if is_batchnorm and all(layer is not other for other in found.values()):
                found[path] = layer
            walk(layer, path + "/")

    walk(model, "")
    return found


def freeze_batchnorm(model: Any) -> list[str]:
    """Set every BatchNormalization inside `model` to inference mode and return their paths.

    Its moving mean and moving variance stop moving, and its gamma and beta stop learning. Call it
    before `compile`, and after the last line that sets `trainable` on a model around these layers.
    """
    layers = batchnorm_layers(model)
    for layer in layers.values():
        layer.trainable = False
    return list(layers)


def unfreeze(backbone: Any, start: str | None = None) -> None:
    """Make `backbone` trainable from its layer `start` on (all of it when None), except BatchNormalization.

    Raises ValueError, before anything is changed, when `backbone` has no layer named `start`.
    """
    names = [layer.name for layer in backbone.layers]
    if start is not None and start not in names:
        raise ValueError(f"{backbone.name!r} has no layer {start!r} to start from. Its layers are: {', '.join(names)}")
    # Keras 3 skips `trainable = True` on a model that is already True, though layers inside may be False.
    backbone.trainable = False
    backbone.trainable = True
    for layer in backbone.layers[: names.index(start) if start else 0]:
        layer.trainable = False
    # Last, because the line above that sets the backbone also set every layer inside it.
    freeze_batchnorm(backbone)


# --8<-- [end:freeze]
# --8<-- [start:check]
def _meant_to_train(model: Any, allow: Collection[str]) -> set[str]:
    paths = list(batchnorm_layers(model))
    meant = {path for path in paths if any(path == name or path.startswith(name + "/") for name in allow)}
    unknown = [n for n in allow if not any(path == n or path.startswith(n + "/") for path in paths)]
    if unknown:
        raise ValueError(f"allow names no BatchNormalization: {unknown}. The model has: {', '.join(paths) or 'none'}")
    return meant


def require_frozen_batchnorm(model: Any, allow: Collection[str] = ()) -> None:
    """Refuse to go on when a BatchNormalization of `model` has `trainable` True and would train in `fit`.

    `allow` holds the paths of those that are meant to train, such as a new head's; a path of a
    sub-model allows all inside it. Raises RuntimeError with the paths of the others, and ValueError
    for an entry of `allow` that matches nothing.
    """
    meant = _meant_to_train(model, allow)
    wrong = [path for path, layer in batchnorm_layers(model).items() if layer.trainable and path not in meant]
    if wrong:
        raise RuntimeError(
            f"{len(wrong)} BatchNormalization layers would train: {', '.join(wrong)}. "
            "Set trainable = False on each of them, then compile; or name those that are meant to train in allow."
        )


def statistics(model: Any) -> dict[str, np.ndarray]:
    """Return a copy of the moving mean and variance of every BatchNormalization, by path, as (2, channels).

    Raises ValueError when a layer is not built yet.
    """
    kept = {}
    for path, layer in batchnorm_layers(model).items():
        if not layer.built:
            raise ValueError(f"{path} is not built yet: call the model once, or give it an Input, and then ask again")
        kept[path] = np.stack([layer.moving_mean.numpy(), layer.moving_variance.numpy()])
    return kept


def drift(before: dict[str, np.ndarray], model: Any) -> dict[str, float]:
    """Return, by path, the largest absolute change of a moving statistic since `before = statistics(model)`."""
    return {path: float(np.max(np.abs(now - before[path]))) for path, now in statistics(model).items()}


class KeepStatistics(keras.callbacks.Callback):
    """Stop `fit` when statistics move, whatever the flags say, and put them back.

    Checks the flags before the first step, and the statistics after it and after every epoch. So it
    also sees a flag that was set after the training step was traced. Raises RuntimeError with the
    paths; one optimizer step has been taken by then. `allow` as in `require_frozen_batchnorm`.
    """

    def __init__(self, allow: Collection[str] = ()) -> None:
        super().__init__()
        self.allow = allow

    def on_train_begin(self, logs: Any = None) -> None:
        require_frozen_batchnorm(self.model, self.allow)
        self.meant = _meant_to_train(self.model, self.allow)
        self.before = statistics(self.model)
        self.first = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.first:
            self.first = False
            self.on_epoch_end(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Not `> 0`, which NaN is not.
        moved = [p for p, change in drift(self.before, self.model).items() if change != 0 and p not in self.meant]
        if moved:
            layers = batchnorm_layers(self.model)
            for path in moved:
                layers[path].moving_mean.assign(self.before[path][0])
                layers[path].moving_variance.assign(self.before[path][1])
            raise RuntimeError(
                f"the statistics of {', '.join(moved)} moved in fit and were put back. "
                "Was trainable set after compile? Compile again, so that the training step is traced anew."
            )


# --8<-- [end:check]
# --8<-- [start:stages]
def add_head(backbone: Any, classes: int) -> Any:
    """Return a classifier of `classes` probabilities on `backbone`, which gives (batch, features)."""
    inputs = keras.Input(backbone.input_shape[1:])
    features = keras.layers.Dropout(0.2)(backbone(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(features))


def compile_and_fit(model: Any, learning_rate: float, *data: np.ndarray, **options: Any) -> Any:
    """Compile with a new optimizer, which the new set of trainable variables needs, and fit."""
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model.fit(*data, verbose=0, **options)


def train_head(model: Any, backbone: Any, *data: np.ndarray, learning_rate: float = 1e-2, **options: Any) -> Any:
    """Stage one: train what is around `backbone`, and leave all of it as it is."""
    backbone.trainable = False
    return compile_and_fit(model, learning_rate, *data, **options)


def fine_tune(
    model: Any, backbone: Any, *data: np.ndarray, start: str | None = None, learning_rate: float = 1e-4, **options: Any
) -> Any:
    """Stage two: train `backbone` too, from its layer `start` on, with every statistic kept."""
    unfreeze(backbone, start)
    callbacks = [*options.pop("callbacks", []), KeepStatistics(allow=_outside(model, backbone))]
    return compile_and_fit(model, learning_rate, *data, callbacks=callbacks, **options)


def _outside(model: Any, backbone: Any) -> list[str]:
    inside = batchnorm_layers(backbone).values()
    return [path for path, layer in batchnorm_layers(model).items() if all(layer is not kept for kept in inside)]


# --8<-- [end:stages]
# --8<-- [start:loop]
def make_train_step(model: Any, optimizer: Any, loss: Any) -> Callable[[Any, Any], Any]:
    """Return one training step as a `tf.function`; make a new one, with a new optimizer, for each stage.

    It is traced at its first call and keeps the `trainable` flags of that moment.
    """

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            # The training phase for dropout and the head; a frozen BatchNormalization stays in inference mode.
            value = loss(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    return step


def two_stages_in_a_loop(
    model: Any, backbone: Any, batches: tf.data.Dataset, epochs: tuple[int, int], learning_rates: tuple[float, float]
) -> None:
    """Do both stages over `batches` of (images, labels), without `compile` and `fit`.

    Raises RuntimeError when a statistic of `backbone` has moved by the end of a stage.
    """
    before = statistics(backbone)
    loss = keras.losses.SparseCategoricalCrossentropy()
    for stage in range(2):
        if stage == 0:
            backbone.trainable = False
        else:
            unfreeze(backbone)
        require_frozen_batchnorm(backbone)
        step = make_train_step(model, keras.optimizers.Adam(learning_rates[stage]), loss)
        for _ in range(epochs[stage]):
            for x, y in batches:
                step(x, y)
        moved = [path for path, change in drift(before, backbone).items() if change != 0]
        if moved:
            raise RuntimeError(f"the statistics of {', '.join(moved)} moved in stage {stage + 1}")


# --8<-- [end:loop]
# --8<-- [start:documented]
def documented_model(backbone: Any, classes: int) -> Any:
    """Return the classifier as the official guide builds it, with `training=False` recorded in the graph."""
    inputs = keras.Input(backbone.input_shape[1:])
    features = keras.layers.Dropout(0.2)(backbone(inputs, training=False))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(features))


# --8<-- [end:documented]
# --8<-- [start:backbones]
def small_backbone(momentum: float = 0.99) -> Any:
    """Return three convolutions with BatchNormalization for (8, 8, 1) images; gives 64 features."""
    inputs = x = keras.Input((8, 8, 1))
    for number, (filters, strides) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, name=f"conv_{number}")(x)
        x = keras.layers.BatchNormalization(momentum=momentum, name=f"bn_{number}")(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="backbone")


def imagenet_backbone(weights: str | None = "imagenet") -> Any:
    """Return MobileNetV2 for (96, 96, 3) images in [-1, 1]; gives 1,280 features. Downloads its weights."""
    return keras.applications.MobileNetV2((96, 96, 3), 0.35, include_top=False, pooling="avg", weights=weights)


# --8<-- [end:backbones]


# --8<-- [start:demo]
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 scans as (1797, 8, 8, 1) float32 in [0, 1], and their labels 0 to 9."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo's images come with scikit-learn: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32").reshape(-1, 8, 8, 1), labels


def pretrain(backbone: Any, epochs: int = 10) -> None:
    """Train `backbone` on the digits 0 to 4, a task that shares no image with the one it is fine-tuned for."""
    x, y = digits()
    model = add_head(backbone, 5)
    compile_and_fit(model, 2e-3, x[y < 5], y[y < 5], epochs=epochs, batch_size=32)


def new_task(labelled: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the digits 5 to 9 as x, y with `labelled` images to train on, and the rest as x, y to test on."""
    x, y = digits()
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(y >= 5))
    train, test = chosen[:labelled], chosen[labelled:]
    return x[train], y[train] - 5, x[test], y[test] - 5


def run(
    way: str,
    build: Callable[[], Any],
    weights: list[np.ndarray],
    data: tuple[np.ndarray, ...],
    seed: int,
    head_epochs: int = 30,
    **options: Any,
) -> dict[str, Any]:
    """Do both stages in one `way`, "documented" or "frozen", on a new backbone with `weights`.

    `data` is x, y to train on and x, y to test on; `options` go to stage two. Returns test accuracy
    after the head ("head") and after each epoch of stage two ("accuracy"), and "drift" in stage two.
    """
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(seed)
    backbone = build()
    backbone.set_weights(weights)
    model = documented_model(backbone, 5) if way == "documented" else add_head(backbone, 5)
    train_head(model, backbone, x, y, epochs=head_epochs, batch_size=32)
    head = model.evaluate(x_test, y_test, verbose=0)[1]
    before = statistics(backbone)
    if way == "documented":
        backbone.trainable = True
        history = compile_and_fit(model, options.pop("learning_rate"), x, y, validation_data=data[2:], **options)
    else:
        history = fine_tune(model, backbone, x, y, validation_data=data[2:], **options)
    return {"head": head, "accuracy": history.history["val_accuracy"], "drift": drift(before, backbone)}


# --8<-- [end:demo]


def main(argv: list[str] | None = None) -> None:
    """Pretrain on five digits, fine-tune on the other five, by the guide and by this recipe."""
    parser = argparse.ArgumentParser(description="Two-stage fine-tuning that keeps BatchNormalization's statistics.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labelled", type=int, default=100, help="images of the new task to train on")
    parser.add_argument("--batch-size", type=int, default=2, help="of stage two")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of stage two")
    parser.add_argument(
        "--imagenet", action="store_true", help="fine-tune MobileNetV2 with its ImageNet weights (a download; slower)"
    )
    options = parser.parse_args(argv)
    if not 0 < options.labelled < 800:
        parser.error("--labelled must be between 1 and 799, so that some of the 896 images are left to test on")
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError("the demo shows its progress with rich: pip install rich") from error

    keras.utils.set_random_seed(options.seed)
    x, y, x_test, y_test = new_task(options.labelled, options.seed)
    stage_two = {"epochs": 5, "batch_size": options.batch_size, "learning_rate": options.learning_rate}
    results = {}
    with Progress() as progress:
        task = progress.add_task("pretraining", total=3)
        if options.imagenet:
            weights = imagenet_backbone().get_weights()
            x, x_test = (np.asarray(tf.image.resize(np.repeat(i, 3, -1), (96, 96))) * 2 - 1 for i in (x, x_test))
        else:
            pretrained = small_backbone()
            pretrain(pretrained)
            weights = pretrained.get_weights()
        for way in ("documented", "frozen"):
            progress.update(task, advance=1, description=way)
            build = (lambda: imagenet_backbone(None)) if options.imagenet else small_backbone
            results[way] = run(way, build, weights, (x, y, x_test, y_test), options.seed, **stage_two)
        progress.update(task, advance=1)
    print(f"{'':12}{'head only':>10}{'fine-tuned':>12}   statistics that moved in stage two")
    for way, found in results.items():
        moved = [change for change in found["drift"].values() if change != 0]
        largest = f", by up to {max(moved):.2f}" if moved else ""
        print(
            f"{way:12}{found['head']:10.3f}{found['accuracy'][-1]:12.3f}   "
            f"{len(moved)} of {len(found['drift'])} layers{largest}"
        )


if __name__ == "__main__":
    main()
