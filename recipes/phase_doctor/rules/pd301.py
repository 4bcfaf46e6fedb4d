"""PD301: the step leaves statistics unmoved

**What it does.** Reports a layer whose weights the step trains while its statistics
stay, although the model would move them when told `training=True`.

**Why it is bad.** Training normalises with statistics that belong to no data; inference
stays at chance.
A step that says `training=False` itself, on a model with sensible statistics, means it:
that is a note.

```python
>>> codes(net(), None)[0]
'PD301'
>>> codes(net(), True)
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD301",
    "the step leaves statistics unmoved",
    "error",
    Cure(
        "call-with-training-true",
        "Call the model with `training=True` inside the train step.",
        "functional_learning_phase",
    ),
)
