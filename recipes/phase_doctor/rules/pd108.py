"""PD108: Keras 3.16 changes this model

**What it does.** From Keras 3.16 on [a phase that one layer
states](../keras-3.16.md) also reaches every layer that runs after it. The rule names
the layers that will run in another phase than today.
It is a note: nothing is wrong with the model today.
On 3.16 the rule is silent, and `PD101`, `PD305` or `PD306` reports the effect.
<!-- tests/doctor/corpus_broken.py: guides_model_with_a_frozen_base -->

**Why it is bad.** The day Keras is upgraded, the dropout behind
`base(x, training=False)` is off, and `predict` moves the statistics behind
`Dropout(0.5)(x, training=True)`.
Neither raises an error.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.layers.Dense(6), keras.layers.BatchNormalization()]
base = keras.Sequential([keras.Input((8,)), *layers], name="backbone")
base.trainable = False
inputs = keras.Input((8,))
hidden = keras.layers.Dropout(0.5, name="drop")(base(inputs, training=False))
model = keras.Model(inputs, keras.layers.Dense(3)(hidden), name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: healthy (TensorFlow ..., keras ...)
PD108  note     backbone
    On Keras ... the `training=False` written at 'backbone' will reach
    'drop' behind it, too: inference in `fit`. Freeze by `trainable`
    instead.
```

Cured, and silent:

```python
hidden = keras.layers.Dropout(0.5)(base(inputs))
model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
```

```python
>>> "PD108" in [f.code for f in diagnose(model, x).findings]
False
```
"""

from collections.abc import Iterator

from ..context import FORCE, FREEZE, reached
from ..evidence import Evidence, Layer
from ..facts import paths, quoted
from ..report import Finding
from ..rule import Rule

RULE = Rule("PD108", "Keras 3.16 changes this model", "note", FREEZE, FORCE)


def judge(seen: Evidence) -> Iterator[Finding]:
    for phase, trace in ((False, seen.training), (True, seen.inference)):
        coming: dict[Layer, list[Layer]] = {}
        for layer, (front, already) in reached(seen, trace, phase).items():
            if not already:
                coming.setdefault(front, []).append(layer)
        for front, layers in coming.items():
            others = " and others" if len(layers) > 3 else ""
            text = (
                f"On Keras 3.16 the `training={phase}` written at {front.path!r} will "
                f"reach {quoted(paths(layers[:3]))}{others} behind it, too: "
            )
            if phase:
                text += "training in `predict`. Force a dropout in a subclass instead."
            else:
                text += "inference in `fit`. Freeze by `trainable` instead."
            cure = FORCE.id if phase else FREEZE.id
            yield RULE.finding(front.path, text, cure=cure, layers=paths(layers))
