"""PD103: untracked variables

**What it does.** Compares the variables in the traced graph with the model's lists, and
names the layer that uses a variable in none of them.
In Keras 3 a bare `tf.Variable` in a layer is such a variable: it is not saved. It
counts when training writes it and inference reads it.
<!-- tests/doctor/corpus_broken.py: statistics_in_bare_variables -->

**Why it is bad.** Such a layer runs, but it is not trained, not frozen and not saved.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

norm = keras.layers.BatchNormalization(name="norm")
layers = [keras.layers.Lambda(lambda t: norm(t)), keras.layers.Dense(3)]
model = keras.Sequential([keras.Input((8,)), *layers], name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD103  error    norm
    'norm' runs inside the model, but its 4 variables are in no list of the
    model: they are not trained, not frozen and not saved.
    cure: Assign the layer to an attribute of the model, not to a closure, a
    global or a hidden container. [subclass_training_arg]
...
```

Cured, and silent:

```python
norm = keras.layers.BatchNormalization()
model = keras.Sequential([keras.Input((8,)), norm, keras.layers.Dense(3)])
```

```python
>>> diagnose(model, x).codes
()
```
"""

import math
from collections.abc import Iterator
from typing import Any

from ..evidence import Evidence, Layer, Variable
from ..facts import (
    counts_untracked,
    lost_statistics,
    quoted,
    strangers,
    untracked_layers,
)
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD103",
    "a phase-dependent layer whose variables the model does not track",
    "error",
    Cure(
        "assign-to-an-attribute",
        "Assign the layer to an attribute of the model, not to a closure, a global or "
        "a hidden container.",
        "subclass_training_arg",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    lost: dict[Layer | None, list[Variable]] = {}
    for variable in lost_statistics(seen):
        holders = [layer for layer in seen.layers if variable.key in layer.bare]
        lost.setdefault(holders[-1] if holders else None, []).append(variable)
    for holder, variables in lost.items():
        yield RULE.finding(
            holder.path if holder else None,
            f"Training writes and inference reads {quoted(v.name for v in variables)}, "
            "which is in no list of the model: it is not saved.",
            **sizes(variables),
        )
    for layer in untracked_layers(seen):
        mine = [v for v in strangers(seen) if v.key in layer.variables]
        yield RULE.finding(
            layer.path,
            f"{layer.path!r} runs inside the model, but its {len(mine)} variables are "
            "in no list of the model: they are not trained, not frozen and not saved.",
            None if counts_untracked(seen, layer) else "note",
            **sizes(mine),
        )


def sizes(variables: list[Variable]) -> dict[str, Any]:
    parameters = sum(math.prod(v.shape) for v in variables)
    return {"variables": len(variables), "parameters": parameters}
