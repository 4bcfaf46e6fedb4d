"""The probability of one class in twenty calls of `predict`: a dropout with a recorded True, and the recipe's copy."""

from typing import Any

import keras
import monte_carlo_dropout as recipe
import numpy as np
from sklearn.datasets import load_digits

CALLS = 20


def measure() -> dict[str, Any]:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    known = labels < 8
    recorded = recipe.network()
    recorded.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    recorded.fit(images[known][:1000], labels[known][:1000], epochs=10, batch_size=32, verbose=0)
    # Of the digits that it was not trained on, the one that it is least sure of.
    unseen = images[~known]
    p = recorded.predict_on_batch(unseen)
    row = int(np.argmax(recipe.entropy(p)))
    x, winner = unseen[row : row + 1], int(np.argmax(p[row]))
    panels, spreads = [], []
    for title, model, role in (
        ("Dropout(0.5)(x, training=True)", recorded, "bad"),
        ("to_monte_carlo(model)", recipe.to_monte_carlo(recorded), "good"),
    ):
        values = [float(model.predict_on_batch(x)[0, winner]) for _ in range(CALLS)]
        spreads.append(float(np.std(values)))
        panels.append(
            {
                "title": title,
                "kind": "dots",
                "x": {"label": "call of predict"},
                "y": {"label": f"probability of class {winner}", "range": [0.0, 1.0]},
                "series": [{"name": "one sample", "x": list(range(1, CALLS + 1)), "y": values, "role": role}],
            }
        )
    says = (
        f"One digit, {CALLS} calls of predict. With a recorded training=True the standard deviation of the samples is "
        f"{spreads[0]:.2g}, with the recipe's copy of the same model {spreads[1]:.2g}."
    )
    return {"says": says, "panels": panels}
