"""PD308: the phases disagree

**What it does.** Compares both phases on one batch with what other batch mates and
dropout masks change anyway.
It reports both losses when it knows a loss, else how far the outputs lie apart.

**Why it is bad.** What you validate is another function than the one you train.

```python
class Drop(keras.layers.Layer):
    # Keeps a fifth of the signal in training; the fixed one scales inference alike.

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs, training=None):
        return inputs * (0.2 if training else self.scale)
```

```python
>>> finding = diagnose(net(Drop(1.0, name="drop")), x, y, loss=loss).findings[0]
>>> finding.code, finding.where, sorted(finding.evidence)[-4:-2]
('PD308', 'drop', ['rms_noise', 'spread_inference'])
>>> finding.evidence["loss_inference"] != finding.evidence["loss_training"]
True
>>> diagnose(net(Drop(0.2)), x, y, loss=loss).codes
()
```
"""

from collections.abc import Iterator
from typing import Any

from ..evidence import INFERENCE, TRAINING, Evidence
from ..gap import by_itself, gap, ratio
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD308",
    "the two phases disagree far beyond noise",
    "warning",
    Cure(
        "repair-statistics-or-layer",
        "Repair the moving statistics, or the layer that behaves differently in the "
        "two phases.",
        "recalibrate_batchnorm",
    ),
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
    yield RULE.finding(where, text, **losses, **outputs, effect_size=found.size)
