"""PD107: a layer unfrozen inside a frozen model

**What it does.** Looks for layers whose `trainable` is true inside a layer whose
`trainable` is false, so that none of their weights is in `model.trainable_weights`.
It is an error where their statistics move in the training phase, and where a compiled
model has nothing to train at all.
<!-- tests/doctor/corpus_healthy.py: last_layers_thawed_after_the_model_around -->

**Why it is bad.** While the flag of the model that you train is false, it has no
trainable weights. The phase of BatchNormalization depends on its own flag alone.
So no weight learns, and the statistics drift away from the pretrained weights.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(name="norm")]
layers += [keras.layers.Dense(3, name="head")]
model = keras.Sequential([keras.Input((8,)), *layers], name="net")
model.trainable = False
for layer in layers[1:]:
    layer.trainable = True
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD107  error    net
    'net' is frozen and 'norm', 'head' inside it trainable: none of their
    weights is trained, but the statistics of 'norm' move.
    cure: Set `trainable = True` on the model around, then `False` on the
    layers that stay frozen, then compile. [fine_tune_frozen_batchnorm]
...
```

Cured, and silent:

```python
model.trainable = True
layers[0].trainable = False
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence, Layer
from ..facts import paths, quoted
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD107",
    "a layer unfrozen inside a frozen model",
    "error",
    Cure(
        "thaw-the-model-first",
        "Set `trainable = True` on the model around, then `False` on the layers that "
        "stay frozen, then compile.",
        "fine_tune_frozen_batchnorm",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    learns = any(v.trainable for v in seen.variables.values())
    writes = seen.training.writes if seen.training else {}
    moving = {s.layer for s in seen.statistics if s.mean in writes}
    for around, layers in thawed_in_vain(seen).items():
        moved = [layer for layer in layers if layer in moving]
        by_hand = [one for one in layers if one.parents[-1].graph]
        if not moved and (learns or not seen.compiled or not by_hand):
            continue
        others = " and others" if len(layers) > 3 else ""
        text = (
            f"{around.path!r} is frozen and {quoted(paths(layers[:3]))}{others} inside "
            "it trainable: none of their weights is trained"
        )
        if moved:
            text += f", but the statistics of {quoted(paths(moved[:3]))} move"
        yield RULE.finding(
            around.path,
            f"{text}.",
            layers=paths(layers),
            statistics_move=len(moved),
        )


def thawed_in_vain(seen: Evidence) -> dict[Layer, list[Layer]]:
    """Trainable layers with weights that do not train, by the outermost frozen one."""
    found: dict[Layer, list[Layer]] = {}
    for layer in seen.layers:
        frozen = next((one for one in layer.parents if not one.trainable), None)
        if frozen is None or not layer.trainable:
            continue
        own = [v for v in seen.own(layer) if v.floating]
        weights = [v for v in own if not (v.statistic or v.metric or v.memory)]
        if weights and not any(v.trainable for v in weights):
            found.setdefault(frozen, []).append(layer)
    return found
