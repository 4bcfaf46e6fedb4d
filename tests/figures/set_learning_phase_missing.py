"""Releases that have `keras.backend.set_learning_phase`, and where the argument trains: cells of the version matrix."""

import json
from pathlib import Path
from typing import Any

MATRIX = Path(__file__).resolve().parents[2] / "docs/reference/version-matrix.json"
RELEASES = ("1.14.0", "2.0.0", "2.8.4", "2.15.1", "2.16.2", "2.18.1", "2.21.0")
FACTS = {
    "has_set_learning_phase": "keras.backend.set_learning_phase exists",
    "functional/tffunction_training_true": "model(x, training=True) moves the statistics",
}


def measure() -> dict[str, Any]:
    matrix = json.loads(MATRIX.read_text(encoding="utf-8"))
    tensorflow = {column["id"]: column["tensorflow"] for column in matrix["columns"]}
    panels, held = [], []
    for fact, title in FACTS.items():
        row = {release: matrix["cells"][fact][release] for release in RELEASES}
        held.append([tensorflow[release] for release, holds in row.items() if holds])
        cells = [
            {"text": tensorflow[release].rpartition(".")[0], "role": "good" if holds else "bad"}
            for release, holds in row.items()
        ]
        panels.append({"title": title, "kind": "strip", "cells": cells})
    return {
        "says": f"Seven TensorFlow releases. The setter is there up to {held[0][-1]}, the last with Keras 2; "
        f"the argument works on {'all seven' if len(held[1]) == len(RELEASES) else len(held[1])}.",
        "panels": panels,
    }
