"""PD308: the phases disagree

**What it does.** Compares both phases on one batch. A difference counts beyond what
other rows in the batch and other dropout masks change anyway.
It reports both losses when it knows a loss, else how far the outputs lie apart.

**Why it is bad.** You validate another function than the one that you train.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")
y = np.arange(32) % 3


class Drop(keras.layers.Layer):
    def call(self, inputs, training=None):
        return inputs * 0.2 if training else inputs


def net(layer):
    return keras.Sequential([keras.Input((8,)), layer], name="net")


loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
```

Printed:

```python
>>> print(diagnose(net(Drop(name="drop")), x, y, loss=loss))
net: 1 finding (TensorFlow ..., keras ...)
PD308  warning  drop
    On one batch the two phases disagree far beyond noise: the loss is ...
    in training and ... in inference.
    cure: Make this layer do at inference what it does in training on
    average. [subclass_training_arg]
```

Cured, and silent:

```python
class Scaled(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 0.2
```

```python
>>> diagnose(net(Scaled()), x, y, loss=loss).codes
()
```
"""

from collections.abc import Iterator
from typing import Any

from ..evidence import INFERENCE, TRAINING, Evidence
from ..facts import never_moved
from ..gap import by_itself, gap, ratio
from ..reasons import CURES, reason
from ..report import Finding
from ..rule import Cure, Rule
from .pd307 import RULE as CONSTANT

RULE = Rule(
    "PD308",
    "the two phases disagree far beyond noise",
    "warning",
    CONSTANT.cures["repair-the-statistics"],
    CONSTANT.cures["repair-the-layer"],
    Cure(
        "update-it-in-every-step",
        "Call it with `training=True` in every train step: only those calls update "
        "its state.",
        "functional_learning_phase",
    ),
    *CURES,
)


def judge(seen: Evidence) -> Iterator[Finding]:
    found, phases = gap(seen), seen.phases
    if phases is None or not (found.harmful or found.direct):
        return
    if found.far:
        where = found.far[0][0].layer.path
    elif phases.behind and not by_itself(seen):
        where = max(phases.behind, key=lambda item: ratio(item[1]))[0].layer.path
    else:
        where = seen.measure.first_difference(INFERENCE, TRAINING)
    cure = cure_at(seen, where)
    losses: dict[str, Any] = seen.measure.losses()
    outputs: dict[str, Any] = phases.outputs or {}
    if losses:
        said = (
            f"the loss is {losses['loss_training']:.3g} in training "
            f"and {losses['loss_inference']:.3g} in inference"
        )
    else:
        moved = outputs.get("rms_between_phases")
        moved = (phases.effect or {}).get("rms_change", 0.0) if moved is None else moved
        said = f"outputs differ by {moved:.2g} (root mean square)"
    text = f"On one batch the two phases disagree far beyond noise: {said}."
    numbers = {**losses, **outputs, "effect_size": found.size}
    yield RULE.finding(where, text, cure=cure, **numbers)


def cure_at(seen: Evidence, where: str | None) -> str:
    """For statistics by the reason; for a layer by whether training updates it."""
    behind = seen.phases.behind if seen.phases else []
    for statistic, measured in behind:
        if statistic.layer.path == where and statistic.variance is not None:
            if never_moved(seen, statistic) or by_itself(seen):
                return "repair-the-statistics"
            return reason(seen, statistic, measured)[0]
    writes = seen.training.writes if seen.training else {}
    layer = next((one for one in seen.layers if one.path == where), None)
    own = seen.own(layer) if layer else []
    if any(v.key in writes and v.floating for v in own):
        return "update-it-in-every-step"
    return "repair-the-layer"
