"""Four small nets to ONNX, by tf2onnx alone and by the recipe: which files answer as the net does."""

import contextlib
import io
import tempfile
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx
from export_litert_and_onnx import export_litert_and_onnx


def by_tf2onnx(model: keras.Model, x: np.ndarray) -> bool:
    spec = tf.TensorSpec((None, *x.shape[1:]), name="x")
    serve = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    proto, _ = tf2onnx.convert.from_function(serve, [spec], opset=17)
    try:
        (got,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    except Exception:
        return False
    return np.allclose(got, model(x, training=False), atol=1e-4)


def by_the_recipe(model: keras.Model, x: np.ndarray) -> bool:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model.export(f"{folder}/saved_model")  # right: none of these layers asks for training
        try:
            export_litert_and_onnx(f"{folder}/saved_model", x, f"{folder}/out", ["model.onnx"])
        except ValueError:
            return False
        return Path(folder, "out/model.onnx").is_file()


def measure() -> dict:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = np.random.default_rng(0).normal(3, 2, (16, 8, 8, 4)).astype("float32")
    scale = layers.Normalization()
    scale.adapt(x)
    first = {
        "ReLU": layers.Conv2D(8, 3, activation="relu"),
        "Normalization": scale,
        "GELU": layers.Conv2D(8, 3, activation="gelu"),
        "groups=2": layers.Conv2D(8, 3, groups=2),
    }
    nets = {
        name: keras.Sequential([keras.Input((8, 8, 4)), layer, layers.Flatten(), layers.Dense(3)])
        for name, layer in first.items()
    }
    panels, counts = [], []
    for title, way in (("tf2onnx alone", by_tf2onnx), ("the recipe", by_the_recipe)):
        right = {name: way(net, x) for name, net in nets.items()}
        counts.append(sum(right.values()))
        cells = [{"text": name, "role": "good" if ok else "bad"} for name, ok in right.items()]
        panels.append({"title": title, "kind": "strip", "cells": cells})
    return {
        "says": f"Four small nets, each with one such layer: tf2onnx alone makes {counts[0]} ONNX file that answers as "
        f"its net does, the recipe makes {counts[1]}.",
        "panels": panels,
    }
