"""PD306: inference changes state

**What it does.** Compares every variable before and after inference.
Seed generators, metrics and the state of a stateful RNN may change.
Where a layer trains because an earlier one was called with `training=True`, the finding
names the earlier one. That happens in a subclass on every Keras 3, and in a Functional
or Sequential model [from 3.16 on](../keras-3.16.md); before that, `PD108` says that it
will.
<!-- tests/doctor/corpus_broken.py: monte_carlo_in_front_of_batchnorm -->

**Why it is bad.** Serving changes the model, and the order of requests matters.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


class Count(keras.layers.Layer):
    def build(self, shape):
        options = {"initializer": "zeros", "trainable": False}
        self.seen = self.add_weight(shape=(), name="seen", **options)

    def call(self, inputs):
        self.seen.assign_add(1.0)
        return inputs


def net(layer):
    return keras.Sequential([keras.Input((8,)), layer], name="net")
```

Printed:

```python
>>> print(diagnose(net(Count(name="count")), x))
net: 1 finding (TensorFlow ..., keras ...)
PD306  error    count
    A run of model(x, training=False) changes 1 variables of 'count'.
    cure: Update state only when `training` is true. [subclass_training_arg]
```

Cured, and silent:

```python
class Heeds(Count):
    def call(self, inputs, training=None):
        if training:
            self.seen.assign_add(1.0)
        return inputs
```

```python
>>> diagnose(net(Heeds()), x).codes
()
```
"""

from collections.abc import Iterator

from ..context import FORCE, reached
from ..evidence import Evidence
from ..facts import said
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD306",
    "inference changes state",
    "error",
    Cure(
        "write-in-training-only",
        "Update state only when `training` is true.",
        "subclass_training_arg",
    ),
    FORCE,
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for way in seen.ways:
        reach = reached(seen, way.trace, True)
        fronts = {layer.path: front for layer, (front, _) in reach.items()}
        places: dict[str, int] = {}
        for key in way.trace.writes:
            variable = seen.variables.get(key)
            if variable is None or key not in way.changed:
                continue
            # Metrics count, and a stateful RNN carries its state over, on purpose.
            if not variable.metric and not variable.memory:
                owner = variable.owner
                where = owner.path if owner else variable.name or "a variable"
                places[where] = places.get(where, 0) + 1
        for where, number in places.items():
            name = said(seen, way)
            text = f"A run of {name} changes {number} variables of {where!r}"
            cure = FORCE.id if where in fronts else None
            if where in fronts:
                text += f": the `training=True` of {fronts[where].path!r} reaches it"
            yield RULE.finding(
                where, f"{text}.", cure=cure, variables=number, route=name
            )
