"""PD307: constant inference

**What it does.** Compares how much the output varies over the batch, with moving
statistics and with batch statistics.
It reports a variation below sampling noise where batch statistics give one far above
it. Where training draws at random, two training runs have to agree on which samples
differ.
<!-- tests/doctor/corpus_broken.py: stochastic_depth_that_drops_all_at_inference -->

**Why it is bad.** Every prediction is the same, whatever the input.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

small = (x - 3) * 0.001
norm = keras.layers.BatchNormalization(name="norm")
layers = [keras.Input((8,)), norm, keras.layers.Dense(3)]
model = keras.Sequential(layers, name="net")
norm.beta.assign(norm.beta + 0.1)  # a sign of training
norm.moving_variance.assign(norm.moving_variance * 100)
```

Printed:

```python
>>> print(diagnose(model, small))
net: 3 findings (TensorFlow ..., keras ...)
...
PD307  error    norm  (caused by PD202)
    Over the batch inference output varies by ..., with the batch's own
    statistics by ...: inference says the same for every sample.
    cure: Examine a batch of the training data, prepared as in training. If
    that is clean, this batch is other data: prepare it alike. If not, the
    weights have changed since: re-estimate the statistics over training
    batches. [recalibrate_batchnorm]
...
```

Cured, and silent:

```python
norm.moving_mean.assign(small.mean(axis=0))
norm.moving_variance.assign(small.var(axis=0))
```

```python
>>> diagnose(model, small).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import never_moved
from ..gap import constant, effect_of, gap
from ..reasons import CURES, reason
from ..report import Finding
from ..rule import Cure, Rule

REPAIR_LAYER = Cure(
    "repair-the-layer",
    "Make this layer do at inference what it does in training on average.",
    "subclass_training_arg",
)
RULE = Rule(
    "PD307",
    "inference output constant though training output is not",
    "error",
    Cure(
        "repair-the-statistics",
        "Repair the moving statistics: update them while training, or re-estimate "
        "them.",
        "functional_learning_phase",
    ),
    REPAIR_LAYER,
    *CURES,
)


def judge(seen: Evidence) -> Iterator[Finding]:
    found = gap(seen)
    if seen.phases is None or not constant(seen, found):
        return
    cure = None if seen.phases.behind else REPAIR_LAYER.id
    if found.far and not never_moved(seen, found.far[0][0]):
        cure = reason(seen, *found.far[0])[0]
    kind = "with the batch's own statistics" if effect_of(seen) else "in training"
    yield RULE.finding(
        found.far[0][0].layer.path if found.far else None,
        f"Over the batch inference output varies by {found.low:.2g}, {kind} by "
        f"{found.high:.2g}: inference says the same for every sample.",
        cure=cure,
        spread_inference=found.low,
        spread_training=found.high,
        noise=max(found.least, seen.noise),
    )
