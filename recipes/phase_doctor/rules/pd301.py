"""PD301: the step leaves statistics unmoved

**What it does.** Reports a layer whose weights the step trains and whose statistics it
does not move, although the model moves them with `training=True`.

**Why it is bad.** Training normalises with statistics that belong to no data; inference
stays at chance.
A step that says `training=False` itself, on a model with statistics that fit, does so
on purpose: that is a note.

Broken:

```python
import keras
import numpy as np
import tensorflow as tf
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")
y = np.arange(32) % 3

model = keras.Sequential([
    keras.Input((8,)),
    keras.layers.Dense(6),
    keras.layers.BatchNormalization(name="norm"),
    keras.layers.Dense(3),
], name="net")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.SGD(0.1)


def step(x, y):
    with tf.GradientTape() as tape:
        value = loss(y, model(x))
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value
```

Printed:

```python
>>> print(diagnose(model, x, y, train_step=step))
net: 3 findings (TensorFlow ..., keras ...)
PD301  error    norm
    The step trains the weights of 'norm' but leaves its moving statistics
    unmoved: it runs in inference.
    cure: Call the model with `training=True` inside the train step.
    [functional_learning_phase]
...
```

Cured, and silent:

```python
def step(x, y):
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True))
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value
```

```python
>>> diagnose(model, x, y, train_step=step).codes
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
