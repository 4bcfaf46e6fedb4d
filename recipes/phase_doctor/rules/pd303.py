"""PD303: a frozen layer moves

**What it does.** Reports variables of frozen layers that the step writes: because it
was traced earlier, because the layer does not ask whether it is frozen, or because the
optimizer still holds them.
Weights that the step sets itself from others of their shape, as for a teacher, are a
note; weights that it clips or decays are not.
<!-- tests/doctor/corpus_broken.py: weights_clipped_with_the_frozen_ones -->

**Why it is bad.** The backbone you meant to keep drifts.

```python
def frozen(when):
    model = net()
    step = step_of(model, True)
    if when == "late":
        step(tf.constant(x), tf.constant(y))  # traces the step
    model.get_layer("norm").trainable = False
    return diagnose(model, x, y, train_step=step).codes
```

```python
>>> frozen("late")
('PD303',)
>>> frozen("before the first call")
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD303",
    "a frozen layer moves",
    "error",
    Cure(
        "freeze-before-compile-and-trace",
        "Set `trainable = False` before `compile` and before the step is first traced.",
        "fine_tune_frozen_batchnorm",
    ),
)
