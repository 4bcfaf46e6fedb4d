"""PD305: inference is stochastic

**What it does.** Runs inference twice when its graph draws random numbers, and
compares.

**Why it is bad.** The same request gets two answers.
Monte Carlo dropout and variational autoencoders do so on purpose: pass
`allow=("PD305",)`.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


class Noise(keras.layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


layers = [Noise(name="noise"), keras.layers.Dense(3)]
model = keras.Sequential([keras.Input((8,)), *layers], name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD305  error    noise
    Two runs of model(x, training=False) on one batch differ by ... of the
    output; 'noise' draws at random.
    cure: Make the random layer obey `training`. If you mean it, pass
    `allow=('PD305',)`. [monte_carlo_dropout]
```

Cured, and silent:

```python
layers[0] = keras.layers.GaussianNoise(1.0)  # heeds the phase
model = keras.Sequential([keras.Input((8,)), *layers])
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import said
from ..noise import differences, draws, rms
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD305",
    "inference is stochastic",
    "error",
    Cure(
        "obey-training",
        "Make the random layer obey `training`. If you mean it, pass "
        "`allow=('PD305',)`.",
        "monte_carlo_dropout",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for way in seen.ways:
        if way.again is None or not draws(way.outputs, way.again):
            continue
        distance = rms(differences(way.outputs, way.again))
        size, name = rms(way.outputs), way.trace.name
        where = seen.measure.first_difference(name, name)
        yield RULE.finding(
            where,
            f"Two runs of {said(seen, way)} on one batch differ by "
            f"{distance / max(size, 1e-30):.1%} of the output"
            + (f"; {where!r} draws at random." if where else "."),
            rms_difference=distance,
            rms_output=size,
            operations=sorted(way.trace.random),
        )
