"""PD201: untouched since initialisation

**What it does.** Reports statistics that are exactly at their initial values while
gamma or beta is not. For a layer without gamma and beta it asks whether the optimizer
has taken steps.

**Why it is bad.** Inference normalises with mean 0 and variance 1, which the weights
have never seen.
It happens in loops without `training=True`, and with checkpoints of
`trainable_variables` only.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


def net():
    norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
    layers = [keras.Input((8,)), keras.layers.Dense(6), norm, keras.layers.Dense(3)]
    return keras.Sequential(layers, name="net")


def trained(model):
    model.compile("sgd", "mse")
    model.fit(x, x[:, :3], epochs=40, verbose=0)
    return model


model, other = net(), trained(net())
for to, of in zip(model.trainable_variables, other.trainable_variables):
    to.assign(of)
```

Printed:

```python
>>> print(diagnose(model, x))
net: 2 findings (TensorFlow ..., keras ...)
PD201  error    norm
    The moving statistics of 'norm' are still the initial ones, but its
    weights were trained.
    cure: Call `model(x, training=True)` in the train step. Where the
    weights came from elsewhere (a checkpoint, a soft update of a target
    network): save, restore and copy all of `model.weights`, not the
    trainable ones alone. [functional_learning_phase]
...
```

Cured, and silent:

```python
model.set_weights(other.get_weights())
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import never_moved
from ..report import Finding
from ..rule import Cure, Rule
from ..told import runs_in_training
from .pd301 import RULE as UNMOVED

KEEP = UNMOVED.cures["keep-the-returned-state"]

RULE = Rule(
    "PD201",
    "statistics untouched since initialisation though weights were trained",
    "error",
    Cure(
        "train-in-the-training-phase",
        "Call `model(x, training=True)` in the train step. Where the weights came from "
        "elsewhere (a checkpoint, a soft update of a target network): save, restore "
        "and copy all of `model.weights`, not the trainable ones alone.",
        "functional_learning_phase",
    ),
    KEEP,
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for statistic in seen.statistics:
        if never_moved(seen, statistic):
            path = statistic.layer.path
            yield RULE.finding(
                path,
                f"The moving statistics of {path!r} are still the initial ones, "
                "but its weights were trained.",
                cure=KEEP.id if runs_in_training(seen, statistic.layer) else None,
                optimizer_steps=seen.steps,
                channels=int(statistic.now[0].size),
            )
