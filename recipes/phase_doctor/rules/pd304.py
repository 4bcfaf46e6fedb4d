"""PD304: inference depends on batch mates

**What it does.** Runs each half of the batch alone, then both together, and compares.
It takes both halves, because a maximum over the batch, or its first row, does not
change for the half that holds it.

**Why it is bad.** A prediction depends on the other rows of its batch. A batch of one
gives the same answer for everything.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


def centred(inputs):
    return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


layers = [keras.layers.Lambda(centred, name="centre"), keras.layers.Dense(3)]
model = keras.Sequential([keras.Input((8,)), *layers], name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD304  error    centre
    With other batch mates the output of model(x, training=False) changes by
    ...; it starts at 'centre'.
    cure: Compute over the features, not over the batch (axis 0). If batch
    mates are meant to mix (candidates that compete, in-batch negatives),
    pass `allow=('PD304',)` and serve the batches that belong together.
```

Cured, and silent:

```python
def centred(inputs):
    return inputs - keras.ops.mean(inputs, axis=1, keepdims=True)


layers[0] = keras.layers.Lambda(centred)
model = keras.Sequential([keras.Input((8,)), *layers])
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence, Trace
from ..facts import differs, said, share, stochastic
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD304",
    "inference depends on batch mates",
    "error",
    Cure(
        "pass-training-false-down",
        "Pass `training=False` down to the layer at inference; never fix "
        "`training=True` in `call`.",
        "subclass_training_arg",
    ),
    Cure(
        "compute-by-sample",
        "Compute over the features, not over the batch (axis 0). If batch mates are "
        "meant to mix (candidates that compete, in-batch negatives), pass "
        "`allow=('PD304',)` and serve the batches that belong together.",
        None,
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for way in () if stochastic(seen) else seen.ways:
        for rows, alone in way.halves:
            pairs = [
                (w[rows], a)
                for w, a in zip(way.outputs, alone, strict=False)
                if w.shape[:1] == (seen.samples,) and w[rows].shape == a.shape
            ]
            apart, evidence = differs(
                seen, [w for w, _ in pairs], [a for _, a in pairs]
            )
            if not apart:
                continue
            name, part = way.trace.name, (int(rows[0]), int(rows[-1]) + 1)
            where = seen.measure.first_difference(name, name, part)
            starts = f"; it starts at {where!r}." if where else "."
            text = (
                f"With other batch mates the output of {said(seen, way)} "
                f"changes by {share(evidence):.1%}{starts}"
            )
            cure = None if trains(way.trace, where) else "compute-by-sample"
            yield RULE.finding(where, text, cure=cure, **evidence)
            break


def trains(trace: Trace, where: str | None) -> bool:
    """Whether the layer, or where none is known any, runs in the training phase."""
    return any(
        call.training and call.layer.heeds
        for call in trace.calls
        if where in (None, call.layer.path)
    )
