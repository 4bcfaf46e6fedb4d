"""PD104: one BatchNormalization at several places

**What it does.** Looks at layers called several times in one pass.
It reports those fed by different layers, or whose inputs have different channel means.

**Why it is bad.** There is one moving mean for all places: a mixture that fits none.
A siamese encoder that sees the same kind of input twice is fine: it gets at most a
note.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

norm = keras.layers.BatchNormalization(name="norm")
inputs = keras.Input((8,))
hidden = norm(keras.layers.Dense(6)(inputs))
outputs = norm(keras.layers.Dense(6)(hidden))
model = keras.Model(inputs, outputs, name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD104  warning  norm
    'norm' normalises the outputs of 'dense...', 'dense...'; its moving
    statistics are a mixture that fits none.
    cure: Create one BatchNormalization for each place; weights of other
    layers may stay shared. [fit_explicit_phase]
...
```

Cured, and silent:

```python
hidden = keras.layers.BatchNormalization()(keras.layers.Dense(6)(inputs))
outputs = keras.layers.BatchNormalization()(keras.layers.Dense(6)(hidden))
model = keras.Model(inputs, outputs)
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator
from typing import Any

from ..evidence import Evidence, Layer, Trace
from ..facts import paths, quoted
from ..noise import apart
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD104",
    "one BatchNormalization serves several places",
    "warning",
    Cure(
        "one-norm-a-place",
        "Create one BatchNormalization for each place; weights of other layers may "
        "stay shared.",
        "fit_explicit_phase",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    told = seen.training or Trace("none")
    for layer, numbers in shared(told).items():
        inputs = seen.measure.shared_inputs()
        if not layer.trainable or inputs is None:
            continue
        values = [inputs[n] for n in numbers if n in inputs]
        distance, limit = apart(values, layer.axis)
        evidence: dict[str, Any] = {
            "calls": len(numbers),
            "largest_t": distance,
            "limit_t": limit,
        }
        sources = producers(told, numbers, layer)
        looped = any(told.calls[i].layer.wrapper for i in told.around(numbers[0])[1:])
        if len(sources) > 1:
            text = (
                f"{layer.path!r} normalises the outputs of {quoted(paths(sources))}; "
                "its moving statistics are a mixture that fits none."
            )
            yield RULE.finding(layer.path, text, **evidence)
        elif distance > limit and not looped:
            text = (
                f"{layer.path!r} is called {len(numbers)} times in one pass on inputs "
                f"whose means differ (t = {distance:.1f}, limit {limit:.1f}); "
                "inference normalises each with the mixture."
            )
            yield RULE.finding(layer.path, text, **evidence)


def shared(told: Trace) -> dict[Layer, list[int]]:
    """Normalisations called several times in one pass, with their calls."""
    calls: dict[Layer, list[int]] = {}
    for number, call in enumerate(told.calls):
        if call.layer.norm and call.inputs:
            calls.setdefault(call.layer, []).append(number)
    return {layer: numbers for layer, numbers in calls.items() if len(numbers) > 1}


def producers(told: Trace, numbers: list[int], layer: Layer) -> list[Layer]:
    """The layers whose outputs these calls get."""
    made: dict[int, Layer] = {}
    for call in told.calls:
        for tensor in call.outputs:
            made.setdefault(tensor, call.layer)
    before = [made.get(told.calls[n].inputs[0]) for n in numbers]
    return list(
        dict.fromkeys(
            one for one in before if one and one.kind != "InputLayer" and one != layer
        )
    )
