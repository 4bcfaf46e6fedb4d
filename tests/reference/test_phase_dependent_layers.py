"""The table in docs/reference/phase-dependent-layers.md, held against the installed Keras."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/phase-dependent-layers.md"


def rows() -> dict[str, list[str]]:
    """Layer name -> the cells of its row."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for name in re.findall(r"`(\w+)`", cells[0]):
                found[name] = cells
    return found


ROWS = rows()


def phase_default(kind: type) -> object:
    return inspect.signature(kind.call).parameters["training"].default


def layers_that_name_training() -> dict[str, type]:
    named = {}
    for name in dir(layers):
        kind = getattr(layers, name)
        if (
            inspect.isclass(kind)
            and issubclass(kind, keras.Layer)
            and "training" in inspect.signature(kind.call).parameters
        ):
            named[name] = kind
    return named


def test_the_list_is_complete() -> None:
    assert set(ROWS) == set(layers_that_name_training())


@pytest.mark.parametrize("name", sorted(ROWS))
def test_what_a_bare_call_means(name: str) -> None:
    says = ROWS[name][3].strip("*")
    default = phase_default(layers_that_name_training()[name])
    if says == "of what it wraps":
        assert default in (None, False) or name == "Pipeline"
    else:
        assert says == ("training" if default is True else "inference")


IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
SERIES = np.random.default_rng(1).normal(3.0, 2.0, (4, 6, 8)).astype("float32")
VOLUMES = np.random.default_rng(2).normal(size=(2, 3, 6, 6, 6, 2)).astype("float32")

# Layer -> (how to make it so that its phases can differ, an input).
DIFFERING = {
    "BatchNormalization": (lambda: layers.BatchNormalization(), SERIES),
    "Dropout": (lambda: layers.Dropout(0.5, seed=1), SERIES),
    "SpatialDropout1D": (lambda: layers.SpatialDropout1D(0.5, seed=1), SERIES),
    "SpatialDropout2D": (lambda: layers.SpatialDropout2D(0.5, seed=1), IMAGES),
    "SpatialDropout3D": (lambda: layers.SpatialDropout3D(0.5, seed=1), VOLUMES[:, 0]),
    "AlphaDropout": (lambda: layers.AlphaDropout(0.5, seed=1), SERIES),
    "GaussianDropout": (lambda: layers.GaussianDropout(0.5, seed=1), SERIES),
    "GaussianNoise": (lambda: layers.GaussianNoise(0.5, seed=1), SERIES),
    "SpectralNormalization": (lambda: layers.SpectralNormalization(layers.Dense(3)), SERIES),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, dropout=0.5, seed=1), SERIES),
    "GRU": (lambda: layers.GRU(3, dropout=0.5, seed=1), SERIES),
    "LSTM": (lambda: layers.LSTM(3, dropout=0.5, seed=1), SERIES),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 2, dropout=0.5, seed=1), VOLUMES[:, :, :, 0, 0]),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 2, dropout=0.5, seed=1), VOLUMES[:, :, :, :, 0]),
    "ConvLSTM3D": (lambda: layers.ConvLSTM3D(2, 2, dropout=0.5, seed=1), VOLUMES),
    "Equalization": (lambda: layers.Equalization(), IMAGES),
    "Solarization": (lambda: layers.Solarization(), IMAGES),
    "RandomBrightness": (lambda: layers.RandomBrightness(0.5, seed=1), IMAGES),
    "RandomContrast": (lambda: layers.RandomContrast(0.9, seed=1), IMAGES),
    "RandomRotation": (lambda: layers.RandomRotation(0.4, seed=1), IMAGES),
    "RandomTranslation": (lambda: layers.RandomTranslation(0.4, 0.4, seed=1), IMAGES),
    "RandomZoom": (lambda: layers.RandomZoom(0.4, seed=1), IMAGES),
    "RandomErasing": (lambda: layers.RandomErasing(factor=1.0, scale=(0.2, 0.3), seed=1), IMAGES),
    "RandomInvert": (lambda: layers.RandomInvert(factor=1.0, seed=1), IMAGES),
    "RandomGrayscale": (lambda: layers.RandomGrayscale(factor=1.0, seed=1), IMAGES),
}


@pytest.mark.parametrize("name", sorted(DIFFERING))
def test_the_two_phases_differ(name: str) -> None:
    make, x = DIFFERING[name]
    layer = make()
    inference = np.asarray(layer(x, training=False))
    assert np.array_equal(inference, np.asarray(layer(x, training=False)))
    training = np.asarray(layer(x, training=True))
    assert ROWS[name][1].startswith("differs")
    # Far above float32 noise, which is about 1e-6 of the values' size.
    assert np.abs(training - inference).max() > 1e-3 * np.abs(x).max()


@pytest.mark.parametrize("kind", ["Attention", "AdditiveAttention", "MultiHeadAttention", "GroupQueryAttention"])
def test_attention_differs_only_with_dropout(kind: str) -> None:
    def make(dropout: float) -> keras.Layer:
        keras.utils.set_random_seed(3)
        sizes = {
            "MultiHeadAttention": {"num_heads": 2, "key_dim": 4},
            "GroupQueryAttention": {"head_dim": 4, "num_query_heads": 2, "num_key_value_heads": 1},
        }.get(kind, {})
        return getattr(layers, kind)(dropout=dropout, seed=1, **sizes)

    for dropout, differs in ((0.5, True), (0.0, False)):
        layer = make(dropout)
        args = ([SERIES, SERIES],) if kind in ("Attention", "AdditiveAttention") else (SERIES, SERIES)
        gap = np.abs(np.asarray(layer(*args, training=True)) - np.asarray(layer(*args, training=False))).max()
        assert (gap > 1e-3) == differs


@pytest.mark.parametrize("name", ["Resizing", "CenterCrop", "AutoContrast"])
def test_the_work_of_these_is_the_same_in_both_phases(name: str) -> None:
    sizes = () if name == "AutoContrast" else (8, 8)
    layer = getattr(layers, name)(*sizes)
    assert ROWS[name][1].startswith("its work is the same")
    assert np.array_equal(layer(IMAGES, training=True), layer(IMAGES, training=False))


@pytest.mark.parametrize("kind", [layers.Resizing, layers.CenterCrop])
def test_a_bare_call_of_a_preprocessing_layer_puts_later_layers_into_training(kind: type) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), kind(8, 8), layers.BatchNormalization()])
    model(IMAGES)
    assert np.any(model.layers[-1].moving_mean.numpy() != 0)


@pytest.mark.parametrize("kind", [layers.LayerNormalization, layers.UnitNormalization, layers.Flatten, layers.ReLU])
def test_layers_not_listed_are_the_same_in_both_phases(kind: type) -> None:
    assert kind.__name__ not in ROWS
    model = keras.Sequential([keras.Input((6, 8)), kind()])
    assert np.array_equal(model(SERIES, training=True), model(SERIES, training=False))
