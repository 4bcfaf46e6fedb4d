"""PD309: `model(x)` differs from `predict`

**What it does.** Compares a bare call with `predict`.

**Why it is bad.** Notebooks call `model(x)`, servers call `predict`. Both should agree.
The usual reason is a `call` with `training=True` as its default.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.drop, self.head = keras.layers.Dropout(0.5), keras.layers.Dense(3)

    def call(self, inputs, training=True):
        return self.head(self.drop(inputs, training=training))
```

Printed:

```python
>>> print(diagnose(Net(), x))
net: 1 finding (TensorFlow ..., keras ...)
PD309  warning  net
    `model(x)` differs from `predict` by ... of the output.
    cure: Say the phase on every direct call: `model(x, training=False)`.
    [functional_learning_phase]
...
```

Cured, and silent:

```python
class Fixed(Net):
    def call(self, inputs, training=None):
        return self.head(self.drop(inputs, training=training))
```

```python
>>> diagnose(Fixed(), x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import BARE, Evidence
from ..facts import differs, share
from ..report import Finding
from ..rule import Cure, Rule
from .pd106 import leaking_call

RULE = Rule(
    "PD309",
    "`model(x)` differs from `predict`",
    "warning",
    Cure(
        "say-the-phase",
        "Say the phase on every direct call: `model(x, training=False)`.",
        "functional_learning_phase",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    bare, model = seen.bare, seen.model.path
    if bare is None or not seen.ways or bare in seen.ways:
        return
    way, base = seen.ways[-1], seen.base
    if seen.own_predict and not differs(seen, bare.outputs, base)[0]:
        # The phase is not what makes them differ.
        other = len(bare.outputs) != len(way.outputs)
        if other or differs(seen, bare.outputs, way.outputs)[0]:
            text = "`predict_step` returns something else than `model(x)`."
            yield RULE.finding(model, text, "note")
        return
    shapes = [[a.shape for a in outputs] for outputs in (bare.outputs, way.outputs)]
    if shapes[0] != shapes[1]:
        text = "`model(x)` and `predict` return different structures."
        yield RULE.finding(model, text)
        return
    apart, evidence = differs(seen, bare.outputs, way.outputs)
    if not apart:
        return
    leak = leaking_call(bare.trace)
    if leak is not None:
        where = bare.trace.calls[leak].layer.path
    else:
        where = seen.measure.first_difference(BARE, way.trace.name)
    text = f"`model(x)` differs from `predict` by {share(evidence):.1%} of the output."
    yield RULE.finding(where, text, **evidence)
