"""PD202: far behind the data

**What it does.** Lets the layer tell its batch statistics by one training-phase pass,
and compares the moving ones with them in units of sampling noise.
It then runs inference with the batch's own statistics to see whether the difference
matters.
The message says how much of the initial value is left, how many steps that stands for
at this momentum, and how many bring it below 5 %.

**Why it is bad.** Training accuracy rises and validation stays at chance.

**When it is a note.** Every fresh network is behind its data.
Without any sign of training (gamma or beta moved, optimizer steps, a step that leaves
statistics unmoved) PD202, PD307 and PD308 are notes.
So are PD202 and PD308 where the statistics are right and the batch is not: hand in
targets and a loss, and the doctor compares the loss of each sample under the moving
statistics with that under the batch's own (paired t test, one-sided, error rate 0.01).
The first batch of a folder sorted by class is such a batch.
A batch of one sample repeated says nothing either way and is not judged at all.
<!-- tests/doctor/corpus_healthy.py: first_folder_of_a_sorted_data_set -->
<!-- tests/doctor/corpus_healthy.py: dummy_batch_of_zeros -->

```python
>>> diagnosis = diagnose(train(0.99, 20), x, y)
>>> diagnosis.codes[0]
'PD202'
>>> evidence = diagnosis.findings[0].evidence
>>> evidence["steps_seen"], evidence["steps_for_95_percent"]
(20, 299)
>>> diagnose(train(0.5, 40), x, y).codes
()
```
"""

import math
from collections.abc import Iterator
from typing import Any

from ..evidence import Evidence, Statistic
from ..gap import gap, ratio
from ..noise import F_LIMIT
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD202",
    "statistics far behind the data",
    "warning",
    Cure(
        "train-longer-or-re-estimate",
        "Train for more steps, lower the momentum, or re-estimate the statistics over "
        "training batches.",
        "recalibrate_batchnorm",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    found = gap(seen)
    for statistic, measured in found.far if found.harmful else ():
        path = statistic.layer.path
        evidence: dict[str, Any] = {
            "distance_in_noise": ratio(measured),
            "limit": F_LIMIT,
            "effect_size": found.size,
            "momentum": statistic.momentum or 0.0,
        }
        steps = steps_behind(seen, statistic, measured["left"])
        if steps:
            text = (
                f"{measured['left']:.0%} of the initial moving statistics of {path!r} "
                f"is left, as after {steps['steps_seen']} steps at momentum "
                f"{statistic.momentum:g}; below 5% takes "
                f"{steps['steps_for_95_percent']}."
            )
        else:
            text = (
                f"The moving statistics of {path!r} lie {ratio(measured):.0f} times "
                "sampling noise from this batch's, and what is left of the initial "
                "values does not explain it: the weights have changed since, "
                "or the batch is unlike the training data."
            )
        yield RULE.finding(path, text, **evidence, **steps)


def steps_behind(seen: Evidence, statistic: Statistic, left: float) -> dict[str, Any]:
    """The steps that what is left stands for; empty where it explains nothing."""
    momentum = statistic.momentum or 0.0
    if not 0 < momentum < 1 or not 0.05 < left <= 1:
        return {}
    # More steps than would leave a tenth of that: something else keeps them away.
    if momentum**seen.steps <= left / 10:
        return {}
    return {
        "initial_value_left": left,
        "steps_seen": 0 if left >= 1 else round(math.log(left) / math.log(momentum)),
        "steps_for_95_percent": math.ceil(math.log(0.05) / math.log(momentum)),
    }
