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

from collections.abc import Iterator

from ..evidence import Evidence
from ..report import Finding
from ..rule import Cure, Rule
from ..told import runs_in_training, unmoved

RULE = Rule(
    "PD301",
    "the step leaves statistics unmoved",
    "error",
    Cure(
        "call-with-training-true",
        "Call the model with `training=True` inside the train step.",
        "functional_learning_phase",
    ),
    Cure(
        "keep-the-returned-state",
        "The call runs in the training phase already. Keep what it returns: assign "
        "the second result of `stateless_call` to `model.non_trainable_variables`.",
        "functional_learning_phase",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for statistic in unmoved(seen):
        path, kept = statistic.layer.path, runs_in_training(seen, statistic.layer)
        why = "its new statistics are thrown away" if kept else "it runs in inference"
        yield RULE.finding(
            path,
            f"The step trains the weights of {path!r} but leaves its moving statistics "
            f"unmoved: {why}.",
            cure="keep-the-returned-state" if kept else None,
            executed=bool(seen.step and seen.step.ran),
            statistics=int(statistic.now[0].size),
            change=0.0,
        )
