"""Fine-tune a pretrained backbone in two stages, with its BatchNormalization frozen.

Symptom: the head trains well on a frozen backbone; after unfreezing, validation drops,
    or moving_mean changes in `fit` although the model has `base(x, training=False)`.
Cause: Keras 3.0 to 3.15 override that False in `fit`, so the statistics move; 3.16.dev
    obeys it, and so do the Dropout and BatchNormalization behind the base.
Fix: unfreeze the base, set `trainable = False` on each BatchNormalization, compile.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/fine_tune_frozen_batchnorm.md, Phasebook 0.2.0
"""

import keras
import numpy as np
import tensorflow as tf


def freeze(model, backbone):
    """Stage one: keep all of `backbone` as it is. Compile again, then train the head.

    `backbone` is a model, nested in `model` or with its layers laid out in it, or a
    list of layers of `model`. Raises ValueError as `unfreeze` does.
    """
    backbone_layers(model, backbone)
    for part in parts(backbone):
        part.trainable = False
    model.compiled = False


def unfreeze(model, backbone, start=None):
    """Stage two: train `backbone` from its layer `start` on, BatchNormalization frozen.

    A frozen BatchNormalization runs in inference whatever phase it is called in; its
    gamma and beta rest, too. A training step keeps the flags that it was traced with,
    so `fit` and `evaluate` refuse to run until you compile again.

    Raises ValueError, before anything changes, when `backbone` has no layer `start`, is
    no part of `model`, or is all of it, so that a new head cannot be told from it.
    """
    layers = backbone_layers(model, backbone)
    names = [layer.name for layer in layers]
    if start is not None and start not in names:
        raise ValueError(f"no layer {start!r} to start from among: {', '.join(names)}")
    first = 0 if start is None else names.index(start)
    for part in parts(backbone):
        part.trainable = True
    for part in parts(layers[:first]):
        part.trainable = False
    # Last: a line that sets `trainable` on a model sets it on every layer inside.
    for norm in batchnorms(backbone):
        norm.trainable = False
    model.compiled = False


def backbone_layers(model, backbone):
    """Return the layers of `backbone` in order; raise the ValueErrors of `unfreeze`."""
    layers = backbone.layers if isinstance(backbone, keras.Model) else backbone
    if not set(layers) <= set(parts(model)):
        raise ValueError("the backbone is not a part of the model")
    if set(model.layers) <= set(layers):
        raise ValueError(
            "the backbone is all of the model, so a BatchNormalization of the new head "
            "cannot be told from a pretrained one. Pass the backbone's own layers, as "
            "in model.layers[:-3], or the model that they came from."
        )
    return layers


def parts(backbone):
    """Return `backbone`, a model or a list of layers, and every layer inside it.

    Each has its flag set by itself, since Keras 3 skips `trainable = True` on a model
    whose own flag is True already, whatever its layers say.
    """
    layers = [backbone] if isinstance(backbone, keras.Model) else backbone
    # Private, since no public list holds the layers inside a layer or a wrapper.
    return [part for layer in layers for part in layer._flatten_layers()]


def batchnorms(backbone):
    """Return each BatchNormalization in `backbone`, nested ones too."""
    found = parts(backbone)
    return [part for part in found if isinstance(part, keras.layers.BatchNormalization)]


def make_train_step(model, optimizer, loss):
    """Return `step(x, y)` for a loop of your own; make a new one for each stage.

    The whole model is in the training phase: the head needs it, and each frozen
    BatchNormalization goes by its own flag.
    """

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) + sum(model.losses)
            scaled = optimizer.scale_loss(value)  # of use under mixed precision alone
        variables = model.trainable_variables
        gradients = tape.gradient(scaled, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return value

    return step


def small_backbone():
    """Three convolutions with BatchNormalization: (batch, 8, 8, 1) to (batch, 64)."""
    x = inputs = keras.Input((8, 8, 1))
    for filters, strides in [(16, 1), (32, 2), (64, 2)]:
        x = keras.layers.Conv2D(filters, 3, strides, "same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, x, name="backbone")


def with_head(backbone, classes=5, **phase):
    """Probabilities (batch, classes); `phase` is recorded at the call of `backbone`."""
    inputs = keras.Input(backbone.input_shape[1:])
    x = keras.layers.Dropout(0.2)(backbone(inputs, **phase))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def fit(model, rate, x, y, epochs, batch_size, **options):
    """Compile with a new optimizer, which each stage needs, and fit."""
    optimizer = keras.optimizers.Adam(rate)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, **options)


def main():
    """Pretrain on the digits 0 to 4; fine-tune on 100 of 5 to 9, two images a batch."""
    from sklearn.datasets import load_digits  # real scans that come with the package

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    old, new = labels < 5, labels >= 5
    x, y = images[new][:100], labels[new][:100] - 5
    x_test, y_test = images[new][100:], labels[new][100:] - 5
    keras.utils.set_random_seed(0)
    pretrained = small_backbone()
    fit(with_head(pretrained), 2e-3, images[old], labels[old], 10, 32)

    print(f"{'stage two':<24}{'statistics moved':<20}head only  fine-tuned")
    for way in ("base(x, training=False)", "unfreeze"):
        keras.utils.set_random_seed(0)
        backbone = small_backbone()
        backbone.set_weights(pretrained.get_weights())
        guide = way != "unfreeze"
        model = with_head(backbone, **({"training": False} if guide else {}))
        freeze(model, backbone)
        fit(model, 1e-2, x, y, 30, 32)
        _, head = model.evaluate(x_test, y_test, verbose=0)
        norms = batchnorms(backbone)
        before = [norm.moving_mean.numpy() for norm in norms]
        if guide:
            backbone.trainable = True
        else:
            unfreeze(model, backbone)
        fit(model, 1e-4, x, y, 5, 2)
        _, tuned = model.evaluate(x_test, y_test, verbose=0)
        after = [norm.moving_mean.numpy() for norm in norms]
        moved = sum(np.any(a != b) for a, b in zip(after, before, strict=True))
        count = f"{moved} of {len(norms)} layers"
        print(f"{way:<24}{count:<20}{head:<11.2f}{tuned:.2f}")


if __name__ == "__main__":
    main()
