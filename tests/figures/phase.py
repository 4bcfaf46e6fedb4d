"""What a phase is: the same numbers through the same layer, once told to train and once told to infer."""

import keras
import numpy as np

INPUTS = np.random.default_rng(0).normal(5, 1, (12, 1)).astype("float32")


def panel(title, layer, reach):
    def outputs(training):
        return np.asarray(layer(INPUTS, training=training))[:, 0].astype(float).tolist()

    inference = outputs(False)  # first: the other call moves the statistics
    samples = list(range(1, len(INPUTS) + 1))
    series = [
        {"name": "training", "x": samples, "y": outputs(True), "role": "training"},
        {"name": "inference", "x": samples, "y": inference, "role": "inference"},
    ]
    return {
        "title": title,
        "kind": "dots",
        "x": {"label": "sample of the batch"},
        "y": {"label": "output", "range": reach},
        "series": series,
    }


def measure():
    panels = [
        panel("BatchNormalization", keras.layers.BatchNormalization(), [-3, 13]),
        panel("Dropout(0.5)", keras.layers.Dropout(0.5, seed=0), [-3, 13]),
    ]
    normed, dropped = (panel["series"] for panel in panels)
    away = np.mean(normed[1]["y"]) - np.mean(normed[0]["y"])
    zeros = dropped[0]["y"].count(0.0)
    says = (
        f"The same {len(INPUTS)} numbers through the same two layers. A fresh BatchNormalization centres them in "
        f"training and leaves them {away:.1f} higher in inference; Dropout sets {zeros} of them to 0 in training and "
        "none in inference."
    )
    return {"says": says, "panels": panels}
