"""PD203: not finite, or a variance not positive

**What it does.** Reads every weight and statistic.
A variance of exactly zero is right for a channel that is constant in the data.
It is a finding where the batch varies in that channel, and where all channels of a
layer have it.

A weight that is not finite is lost: no re-estimation brings it back.
<!-- tests/doctor/corpus_broken.py: kernel_with_nan -->

**Why it is bad.** One batch with NaN makes the statistics NaN for good. Evaluation is
NaN while training goes on.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
layers = [keras.Input((8,)), norm, keras.layers.Dense(3)]
model = keras.Sequential(layers, name="net")
weights = model.get_weights()
spoiled = x.copy()
spoiled[0, 0] = np.nan
outputs = model(spoiled, training=True)
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD203  error    norm
    2 moving statistics of 'norm' are not finite. Training does not show it:
    it takes the batch's own.
    cure: Find the batch that was empty, not finite or beyond the range of
    float16, then re-estimate the statistics. [recalibrate_batchnorm]
```

Cured, and silent:

```python
model.set_weights(weights)
for _ in range(40):
    model(x, training=True)
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

import numpy as np

from ..evidence import Evidence, Statistic
from ..facts import ailment, weights_broken, zero_may_be_meant
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD203",
    "statistics not finite, or a variance not positive",
    "error",
    Cure(
        "re-estimate-after-the-bad-batch",
        "Find the batch that was empty, not finite or beyond the range of float16, "
        "then re-estimate the statistics.",
        "recalibrate_batchnorm",
    ),
    Cure(
        "restore-the-weights",
        "Restore the weights from a checkpoint before the step that was not finite "
        "(`keras.callbacks.TerminateOnNaN` finds it). Re-estimated statistics would "
        "not be finite either.",
        None,
    ),
)

LOST = "restore-the-weights"


def judge(seen: Evidence) -> Iterator[Finding]:
    statistical = {key for s in seen.statistics for key in s.keys}
    for variable in seen.variables.values():
        if variable.not_finite and variable.owner and variable.key not in statistical:
            path, wrong = variable.owner.path, variable.not_finite
            text = f"A weight of {path!r} holds {wrong} values that are not finite."
            yield RULE.finding(path, text, cure=LOST, values=wrong)
    for statistic in seen.statistics:
        yield from ill(seen, statistic)


def ill(seen: Evidence, statistic: Statistic) -> Iterator[Finding]:
    path, variance = statistic.layer.path, statistic.now[1]
    kind, number = ailment(statistic) or (None, 0)
    meant = kind == "zero" and zero_may_be_meant(seen, statistic)
    vanished = seen.phases.vanished.get(statistic.mean) if seen.phases else None
    if kind == "not finite":
        text = (
            f"{number} moving statistics of {path!r} are not finite. "
            "Training does not show it: it takes the batch's own."
        )
        cure = LOST if weights_broken(seen) else None
        yield RULE.finding(path, text, cure=cure, values=number)
    elif kind == "negative" and variance is not None:
        text = f"{number} moving variances of {path!r} are negative."
        least = float(np.min(variance))
        yield RULE.finding(path, text, channels=number, smallest=least)
    elif kind == "zero":
        text = (
            f"Every moving variance of {path!r} is 0: "
            "inference divides by the square root of epsilon alone."
        )
        yield RULE.finding(path, text, "note" if meant else None, channels=number)
    if vanished and (kind is None or meant):
        text = (
            f"{vanished} moving variances of {path!r} are 0, "
            "and the data vary in these channels."
        )
        yield RULE.finding(path, text, channels=vanished)
