"""PD401: the artifact differs

**What it does.** Runs the artifact on the batch and compares it with `model(x,
training=False)`.
When the output hardly varies over the batch, agreement proves nothing, and it says so.

**Why it is bad.** What you serve is not what you tested.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.Input((8,)), keras.layers.Dense(6, name="body")]
model = keras.Sequential(layers, name="net")
model.save("net.keras")
model.get_layer("body").bias.assign(np.ones(6))  # trained on after saving
```

Printed:

```python
>>> print(diagnose(model, x, artifact="net.keras"))
net: 1 finding (TensorFlow ..., keras ...)
PD401  error    whole model
    net.keras differs from `model(x, training=False)` by ... of the output.
    cure: The phase is not the reason: the file holds other weights than the
    model of now, or fewer digits. Score both on validation data; export
    again where the model is better, else load the weights that the file was
    made from. [export_inference_model]
```

Cured, and silent:

```python
model.save("net.keras")
```

```python
>>> diagnose(model, x, artifact="net.keras").codes
()
```
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..evidence import Evidence
from ..facts import stochastic
from ..noise import ROUNDING_SIGMAS, differences, rms, spread_of
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD401",
    "the artifact differs from `model(x, training=False)`",
    "error",
    Cure(
        "export-with-training-false",
        "Export again through an endpoint that passes `training=False`.",
        "export_inference_model",
    ),
    Cure(
        "score-both",
        "The phase is not the reason: the file holds other weights than the model of "
        "now, or fewer digits. Score both on validation data; export again where the "
        "model is better, else load the weights that the file was made from.",
        "export_inference_model",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    artifact, pairs = seen.artifact, fitting(seen)
    if artifact is None or artifact.outputs is None or not seen.ways:
        return
    if pairs is None:
        shapes = [v.shape for v in artifact.outputs]
        expected = [b.shape for b in seen.base]
        text = f"{artifact.name} returns {shapes}, the model {expected}."
        yield RULE.finding(None, text, outputs=len(artifact.outputs))
        return
    numbers = compared(seen)
    if numbers is None or stochastic(seen) or within_noise(numbers):
        return
    share = numbers["rms_difference"] / max(rms(seen.base), 1e-30)
    amount = f"by {share:.1%} of the output"
    if not math.isfinite(share):
        amount = "and answers what is not finite"
    text = f"{artifact.name} differs from `model(x, training=False)` {amount}."
    cure = None if serves_training(seen) else "score-both"
    yield RULE.finding(None, text, cure=cure, **numbers)


def serves_training(seen: Evidence) -> bool:
    """Whether the file writes, draws, or answers as training does."""
    artifact = seen.artifact
    if artifact is None or artifact.outputs is None:
        return False
    if artifact.writes or artifact.drawn:
        return True
    told = seen.phases.training if seen.phases else []
    apart = rms(differences(artifact.outputs, told))
    shapes = [v.shape for v in artifact.outputs] == [v.shape for v in told]
    return shapes and apart < rms(differences(artifact.outputs, seen.base)) / 10


def fitting(seen: Evidence) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Each output of the model with the nearest of the artifact's of its shape.

    Exporters may reorder outputs. None where one has no counterpart.
    """
    values = (seen.artifact.outputs if seen.artifact else None) or []
    pairs = []
    for expected in seen.base:
        fits = [v for v in values if v.shape == expected.shape]
        if not fits:
            return None
        nearest = [rms([v - expected]) for v in fits]
        pairs.append((expected, fits[int(np.argmin(nearest))]))
    return pairs


def compared(seen: Evidence) -> dict[str, Any] | None:
    """The distance of the artifact from the model, and what rounding explains."""
    artifact, pairs = seen.artifact, fitting(seen)
    if artifact is None or artifact.outputs is None or not pairs:
        return None
    largest = max((float(np.max(np.abs(b))) for b in seen.base if b.size), default=0.0)
    return {
        "rms_difference": rms([v - b for b, v in pairs]),
        "rounding_noise": max(seen.noise, artifact.unit * largest),
        "spread": spread_of([b for b in seen.base if b.ndim]),
    }


def within_noise(numbers: dict[str, Any]) -> bool:
    distance, noise = numbers["rms_difference"], numbers["rounding_noise"]
    return math.isfinite(distance) and distance <= ROUNDING_SIGMAS * noise


def proves_nothing(numbers: dict[str, Any]) -> bool:
    """Whether an artifact agrees where hardly anything could differ."""
    still = numbers["spread"] <= ROUNDING_SIGMAS * numbers["rounding_noise"]
    return within_noise(numbers) and still
