"""Validation accuracy before and while `fit` fine-tunes an unfrozen backbone, in two ways."""

from typing import Any

import fine_tune_frozen_batchnorm as recipe
import keras
from sklearn.datasets import load_digits

EPOCHS = 4


def measure() -> dict[str, Any]:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    old, new = labels < 5, labels >= 5
    x, y = images[new][:100], labels[new][:100] - 5
    validation = images[new][100:], labels[new][100:] - 5
    keras.utils.set_random_seed(0)
    pretrained = recipe.small_backbone()
    recipe.fit(recipe.with_head(pretrained), 2e-3, images[old], labels[old], 6, 32)
    panels, last = [], []
    for title, cured in (("base(x, training=False)", False), ("unfreeze(model, base)", True)):
        keras.utils.set_random_seed(0)
        backbone = recipe.small_backbone()
        backbone.set_weights(pretrained.get_weights())
        model = recipe.with_head(backbone, **({} if cured else {"training": False}))
        recipe.freeze(model, backbone)
        recipe.fit(model, 1e-2, x, y, 20, 32)
        seen = [model.evaluate(*validation, verbose=0)[1]]
        if cured:
            recipe.unfreeze(model, backbone)
        else:
            backbone.trainable = True
        recipe.fit(model, 1e-4, x, y, EPOCHS, 2, validation_data=validation)
        seen += model.history.history["val_accuracy"]
        last.append(f"from {seen[0]:.2f} to {seen[-1]:.2f}")
        role = "good" if cured else "bad"
        panels.append(
            {
                "title": title,
                "kind": "lines",
                "x": {"label": "epoch after unfreezing", "values": list(range(EPOCHS + 1))},
                "y": {"label": "validation accuracy", "range": [0.5, 1]},
                "series": [{"name": "validation", "values": seen, "role": role}],
            }
        )
    return {
        "says": f"A small backbone and 100 images of new digits, two a batch. After unfreezing, validation goes "
        f"{last[0]} with a recorded training=False, and {last[1]} with the recipe.",
        "panels": panels,
    }
