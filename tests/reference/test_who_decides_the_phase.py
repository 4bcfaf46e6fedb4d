"""Every cell of the table in docs/reference/who-decides-the-phase.md, run on the installed release."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/who-decides-the-phase.md"
# Far from the initial moving statistics (0, 1): normalised by the batch it has mean 0, by the moving statistics mean 3.
X = np.random.default_rng(0).normal(3.0, 2.0, (16, 4)).astype("float32")
Y = np.zeros((16, 4), "float32")


def functional() -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.BatchNormalization()(inputs))


def functional_with(middle: Callable) -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, middle(inputs))


class HandedOn(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        return self.norm(x, training=training)


class NotHandedOn(HandedOn):
    def call(self, x, training=None):
        return self.norm(x)


class DefaultFalse(HandedOn):
    def call(self, x, training=False):
        return self.norm(x, training=training)


class DefaultTrue(HandedOn):
    def call(self, x, training=True):
        return self.norm(x, training=training)


class WrittenInside(HandedOn):
    def call(self, x, training=None):
        return self.norm(x, training=False)


class NoArgument(HandedOn):
    def call(self, x):
        return self.norm(x)


class Kwargs(HandedOn):
    def call(self, x, **kwargs):
        return self.norm(x, **kwargs)


class BlockWithoutArgument(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x)


def after_resizing() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Reshape((2, 2, 1)),
            layers.Resizing(2, 2),
            layers.Reshape((4,)),
            layers.BatchNormalization(),
        ]
    )


def frozen() -> keras.Model:
    model = functional()
    model.layers[-1].trainable = False
    return model


def frozen_model() -> keras.Model:
    model = functional()
    model.trainable = False
    return model


def unfrozen_inside() -> keras.Model:
    model = frozen_model()
    model.layers[-1].trainable = True
    return model


STYLES: dict[str, Callable[[], keras.Model]] = {
    "Functional": functional,
    "Sequential": lambda: keras.Sequential([keras.Input((4,)), layers.BatchNormalization()]),
    "Functional inside Functional": lambda: functional_with(functional()),
    "subclass, `call(self, x, training=None)`, handed on": HandedOn,
    "subclass, `call(self, x, training=None)`, not handed on": NotHandedOn,
    "subclass, `call(self, x, training=False)`": DefaultFalse,
    "subclass, `call(self, x, training=True)`": DefaultTrue,
    "subclass, `self.norm(x, training=False)` inside `call`": WrittenInside,
    "subclass, `call(self, x)`": NoArgument,
    "subclass, `call(self, x, **kwargs)`": Kwargs,
    "Functional with a layer whose `call(self, x)` holds BatchNormalization": lambda: functional_with(
        BlockWithoutArgument()
    ),
    "Sequential of a subclass with `call(self, x)`": lambda: keras.Sequential([keras.Input((4,)), NoArgument()]),
    "Functional, `base(x, training=False)` recorded": lambda: functional_with(
        lambda x: functional()(x, training=False)
    ),
    "Functional, `base(x, training=True)` recorded": lambda: functional_with(lambda x: functional()(x, training=True)),
    "Sequential with `Resizing` before BatchNormalization": after_resizing,
    "BatchNormalization with `trainable=False`": frozen,
    "a model with `trainable=False` that holds it": frozen_model,
    "BatchNormalization unfrozen inside a model with `trainable=False`": unfrozen_inside,
}


def exported(model: keras.Model) -> tf.Tensor:
    model.export("exported", verbose=False)
    artifact = tf.saved_model.load("exported")  # named, so that its variables outlive the call
    return artifact.serve(X)


ROUTES: dict[str, Callable[[keras.Model], object]] = {
    "`fit`": lambda m: m.fit(X, Y, verbose=0),
    "`train_on_batch`": lambda m: m.train_on_batch(X, Y),
    "`evaluate`": lambda m: m.evaluate(X, Y, verbose=0),
    "`predict`": lambda m: m.predict(X, verbose=0),
    "`m(x)`": lambda m: m(X),
    "`m(x)` in `tf.function`": lambda m: tf.function(lambda x: m(x))(X),
    "`m(x, training=True)`": lambda m: m(X, training=True),
    "`m(x, training=False)`": lambda m: m(X, training=False),
    "`m.export`": exported,
}


def cells() -> dict[tuple[str, str], str]:
    """Read the page's table: (style, route) -> its word, without the bold that marks a surprise."""
    text = PAGE.read_text(encoding="utf-8")
    table = re.search(r"^\| how the model.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    assert table, f"no table in {PAGE.name}"
    head, _, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in table[0].splitlines()]
    return {(row[0], route): word.strip("*") for row in rows for route, word in zip(head[1:], row[1:], strict=True)}


CELLS = cells()


def test_the_table_has_every_style_and_every_route() -> None:
    assert set(CELLS) == {(style, route) for style in STYLES for route in ROUTES}


# The same routes compiled by XLA; `observed` compiles the model with `jit`.
XLA = {route: ROUTES[route] for route in ("`fit`", "`evaluate`", "`predict`")}
XLA["`m(x)` in `tf.function`"] = lambda m: tf.function(lambda x: m(x), jit_compile=True)(X)


def observed(style: str, route: str, jit: bool = False) -> str:
    keras.utils.set_random_seed(0)
    model = STYLES[style]()
    model(X, training=False)
    # A learning rate of 0: beta must not move, or it would shift the output as statistics do.
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    (norm,) = (layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization))
    before = norm.moving_mean.numpy()
    try:
        result = (XLA if jit else ROUTES)[route](model)
    except ValueError as error:
        return f"raises {type(error).__name__}"
    moved = not np.array_equal(before, norm.moving_mean.numpy())
    if isinstance(result, tf.Tensor | np.ndarray):
        by_batch = abs(float(np.mean(result))) < 0.5
        # An export's own copy of the statistics moves, not the model's.
        assert route == "`m.export`" or moved == by_batch
        return "train" if by_batch else "infer"
    return "train" if moved else "infer"


@pytest.mark.parametrize("style", STYLES)
def test_the_table_says_what_happens(style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {route: CELLS[style, route] for route in ROUTES}
    assert {route: observed(style, route) for route in ROUTES} == expected


@pytest.mark.parametrize("style", STYLES)
def test_xla_changes_no_phase(style: str) -> None:
    assert {route: observed(style, route, jit=True) for route in XLA} == {route: CELLS[style, route] for route in XLA}
