"""PD310: the step trains with dropout off

**What it does.** Reports dropout, noise, attention and recurrent dropout, spectral
normalisation and layers of your own that heed the phase, where the step trains weights
through them and every one of their calls runs in inference; noise on the input too,
where all that follows is trained.
<!-- tests/doctor/corpus_broken.py: denoiser_whose_noise_stays_off -->
Nobody may have written `training=False` at them or around them: a frozen backbone, a
teacher or the discriminator in the generator's step is none.
Where the calls of a step cannot be seen, as in a training function that Keras keeps, a
note names the layers, and the table does not say "healthy".
<!-- tests/doctor/corpus_healthy.py: discriminator_in_the_step_of_the_generator -->

**Why it is bad.** A bare `model(x)` in a loop means inference: the network is not
regularised at all, and nothing tells.

```python
def dropping():
    return net(keras.layers.Dropout(0.5, name="drop"))
```

```python
>>> codes(dropping(), None)
('PD310',)
>>> codes(dropping(), True)
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import paths, quoted
from ..report import Finding
from ..rule import Cure, Rule
from ..untold import untold

RULE = Rule(
    "PD310",
    "the step trains with dropout off",
    "error",
    Cure(
        "say-training-in-the-step",
        "Call it with `training=True` where the step computes the loss.",
        "functional_learning_phase",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    found = untold(seen)
    for called, layers in found.by.items():
        names, path = paths(layers), called.path
        others = " and others" if len(names) > 3 else ""
        yield RULE.finding(
            path,
            f"The step trains through {path!r} and never calls it with "
            f"`training=True`: in the inference phase run {quoted(names[:3])}{others}.",
            layers=names,
        )
    if found.unseen:
        names = paths(found.unseen)
        others = " and others" if len(names) > 3 else ""
        yield RULE.finding(
            None,
            f"In which phase the step calls {quoted(names[:3])}{others} could not be "
            "seen: hand in the step as a plain function that calls the model.",
            "note",
            layers=names,
            unseen=True,
        )
