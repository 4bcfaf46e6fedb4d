"""The moving variance of a layer's channels, before and after `fit` fine-tunes their backbone, in two ways."""

from typing import Any

import fine_tune_frozen_batchnorm as recipe
import keras
import numpy as np
from sklearn.datasets import load_digits


def variances(backbone: Any) -> np.ndarray:
    return np.concatenate([norm.moving_variance.numpy() for norm in recipe.batchnorms(backbone)[1:2]])


def measure() -> dict[str, Any]:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    old, new = labels < 5, np.flatnonzero(labels >= 5)[:100]
    pretrained = recipe.small_backbone()
    recipe.fit(recipe.with_head(pretrained), 2e-3, images[old], labels[old], 5, 32)
    panels, moved = [], []
    for title, role in (("base(x, training=False)", "bad"), ("unfreeze(model, base)", "good")):
        keras.utils.set_random_seed(0)
        backbone = recipe.small_backbone()
        backbone.set_weights(pretrained.get_weights())
        model = recipe.with_head(backbone, **({"training": False} if role == "bad" else {}))
        before = variances(backbone)
        if role == "good":
            recipe.unfreeze(model, backbone)
        recipe.fit(model, 1e-4, images[new], labels[new] - 5, 5, 2)
        after = variances(backbone)
        moved.append(int(np.sum(before != after)))
        panels.append(
            {
                "title": title,
                "kind": "dots",
                "x": {"label": "variance before fit"},
                "y": {"label": "variance after fit", "range": [0.0, 0.8]},
                "series": [{"name": "one channel", "x": before.tolist(), "y": after.tolist(), "role": role}],
            }
        )
    says = (
        f"The moving variance of the {len(before)} channels of a backbone's second BatchNormalization, before and "
        f"after five epochs of fine-tuning on 100 images, two a batch. With a recorded training=False {moved[0]} of "
        f"them moved, with the recipe {moved[1]}."
    )
    return {"says": says, "panels": panels}
