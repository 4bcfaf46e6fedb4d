"""PD311: the step moves statistics of what it does not train

**What it does.** Looks at layers and networks of which the step trains no weight, while
it trains others. It reports those whose statistics the step moves: a teacher or a
target called with `training=True`, or a backbone when only the head is trained.
Where gradients pass through on their way to what is trained, as through the
discriminator in the generator's step, it is a note.
<!-- tests/doctor/corpus_healthy.py: discriminator_told_in_the_step_of_the_generator -->

**Why it is bad.** Its weights stay and its statistics drift: a teacher's answers change
from step to step while nobody trains it.

Broken:

```python
import keras
import numpy as np
import tensorflow as tf
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")
y = np.arange(32) % 3

layers = [keras.Input((8,)), keras.layers.Dense(6), keras.layers.BatchNormalization()]
base, head = keras.Sequential(layers, name="base"), keras.layers.Dense(3)
model = keras.Sequential([base, head], name="net")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.SGD(0.1)


def step(x, y):
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True))
    weights = head.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value
```

Printed:

```python
>>> print(diagnose(model, x, y, train_step=step))
net: 1 finding (TensorFlow ..., keras ...)
PD311  error    base/batch_normalization...
    The step moves the statistics of 'base/batch_normalization...' and trains
    none of its weights: it runs in the training phase, and only its
    statistics drift.
    cure: Call what the step does not train with `training=False`.
    [fine_tune_frozen_batchnorm]
...
```

Cured, and silent:

```python
def step(x, y):
    with tf.GradientTape() as tape:
        value = loss(y, head(base(x, training=False)))
    weights = head.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value
```

```python
>>> diagnose(model, x, y, train_step=step).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence, Layer
from ..report import Finding
from ..rule import Cure, Rule
from ..told import step_moves
from ..untold import home, trained

RULE = Rule(
    "PD311",
    "the step moves statistics of what it does not train",
    "error",
    Cure(
        "run-the-untrained-in-inference",
        "Call what the step does not train with `training=False`.",
        "fine_tune_frozen_batchnorm",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    step, updated = seen.step, trained(seen)
    if step is None or not updated:
        return
    for statistic in seen.statistics:
        layer, weights = statistic.layer, home(seen, statistic.layer)
        if not layer.trainable or not weights or not step_moves(seen, statistic):
            continue
        if any(key in step.trace.writes for key in weights):
            continue
        text = (
            f"The step moves the statistics of {layer.path!r} "
            "and trains none of its weights"
        )
        if passes_gradients(seen, layer):
            text += ": gradients pass through it to what is trained."
            yield RULE.finding(layer.path, text, "note", executed=step.ran)
        else:
            text += ": it runs in the training phase, and only its statistics drift."
            yield RULE.finding(layer.path, text, executed=step.ran)


def passes_gradients(seen: Evidence, layer: Layer) -> bool:
    """Whether a call of it in the training phase lies between the loss and weights."""
    calls = seen.measure.step_calls()
    if calls is None:
        return False
    through = seen.measure.trained_through(trained(seen))
    return any(calls.calls[n].training and through.get(n) for n in calls.of(layer))
