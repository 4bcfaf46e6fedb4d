"""PD201: untouched since initialisation

**What it does.** Reports statistics exactly at their initial values where gamma or beta
is not; for a layer without either, where the optimizer has taken steps.

**Why it is bad.** Inference normalises with mean 0 and variance 1, which the weights
have never seen.
It happens in loops without `training=True`, and with checkpoints of
`trainable_variables` only.

```python
>>> diagnose(train(0.9, 10, training=False), x, y).codes[0]
'PD201'
>>> diagnose(train(0.5, 40), x, y).codes
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
