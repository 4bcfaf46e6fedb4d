"""PD204: momentum at 0.1 or below

**What it does.** Reads the momentum of each BatchNormalization that is not frozen.

**Why it is bad.** Keras's momentum is the share that is kept; PyTorch's is the share
that is new, so its 0.1 is 0.9 here.
At 0.1 the moving statistics are nine tenths those of the last batch, and inference
changes with whatever batch came last.
A value of 0.01 or less is often epsilon, handed in by mistake.

```python
>>> finding = diagnose(train(0.1, 40), x, y).findings[0]
>>> finding.code, finding.where
('PD204', 'norm')
>>> diagnose(train(0.9, 40), x, y).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD204",
    "momentum at 0.1 or below",
    "warning",
    Cure(
        "keep-nine-tenths",
        "Set `momentum` to the share that is kept, 0.9 to 0.99 (PyTorch's 0.1 is 0.9 "
        "here); re-estimate the statistics of a trained model.",
        "recalibrate_batchnorm",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for statistic in seen.statistics:
        layer, momentum = statistic.layer, statistic.momentum
        if not layer.norm or not layer.trainable or momentum is None or momentum > 0.1:
            continue
        text = (
            f"{layer.path!r} has momentum {momentum:g}: after each step "
            f"{1 - momentum:.0%} of its statistics are the last batch's."
        )
        if 0 < momentum <= 0.01:
            text += " Was epsilon handed in as momentum?"
        yield RULE.finding(layer.path, text, momentum=momentum)
