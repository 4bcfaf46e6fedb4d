"""PD002: not examined, or not put back

Always a note.
It says what was left out and why: a step with side effects that was not run, a batch of
one sample, a model that came unbuilt and is built now.
Outputs that are no tensors, such as a distribution, are not compared, and the table
does not say "healthy". Dataclasses of tensors are read.
<!-- tests/doctor/corpus_broken.py: dataclass_whose_batch_mates_matter -->

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.Input((8,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
model = keras.Sequential(layers, name="net")
```

Printed:

```python
>>> print(diagnose(model, x[:1]))
net: healthy (TensorFlow ..., keras ...)
PD002  note     whole model
    Whether inference depends on batch mates needs a batch of at least two
    samples.
```

Cured, and silent:

```python
>>> diagnose(model, x).findings
[]
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import meant_for_another, quoted, stochastic
from ..report import Finding
from ..rule import Cure, Rule
from .pd401 import compared, proves_nothing

RULE = Rule(
    "PD002",
    "not examined, or not put back",
    "note",
    Cure(
        "read-the-message",
        "Read the message; `insist=True` runs the step all the same.",
        None,
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for remark in seen.remarks:
        yield RULE.finding(None, remark)
    for failure in seen.failures:
        advice = meant_for_another(seen, failure)
        if advice is not None:
            text = f"{failure.what} raised {failure.error}: {failure.text}. {advice}"
            yield RULE.finding(None, text, exception=failure.error)
    if seen.ways and (seen.unread or not seen.base):
        what = f"holds {quoted(seen.unread)}" if seen.unread else "holds no tensor"
        text = (
            f"What the model returns {what}, which cannot be read: "
            "the outputs of the phases were not compared there. "
            "Return tensors, or dicts or dataclasses of them."
        )
        yield RULE.finding(None, text, unseen=True)
    numbers = compared(seen)
    if seen.artifact is None or numbers is None:
        return
    name = seen.artifact.name
    if stochastic(seen):
        text = "was not compared in numbers: the model's inference is stochastic."
        yield RULE.finding(None, f"{name} {text}")
    elif proves_nothing(numbers):
        text = (
            "agrees, but the output hardly varies over the batch: that proves nothing."
        )
        yield RULE.finding(None, f"{name} {text}", **numbers)
