"""PD310: the step trains with dropout off

**What it does.** Looks at dropout, noise, attention and recurrent dropout, spectral
normalisation, and layers of your own that heed the phase. It reports one through which
the step trains weights, while all its calls run in inference. Noise on the input counts
where all layers behind it are trained.
<!-- tests/doctor/corpus_broken.py: denoiser_whose_noise_stays_off -->
It is no finding where somebody wrote `training=False` at the layer or around it, as for
a frozen backbone, a teacher, or the discriminator in the generator's step.
Where the calls of a step cannot be seen, as in a training function that Keras keeps, a
note names the layers, and the table does not say "healthy".
<!-- tests/doctor/corpus_healthy.py: discriminator_in_the_step_of_the_generator -->

**Why it is bad.** A bare `model(x)` in a loop means inference: the network is not
regularised at all, and nothing shows it.

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
    keras.layers.Dropout(0.5, name="drop"),
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
net: 1 finding (TensorFlow ..., keras ...)
PD310  error    net
    The step trains through 'net' and never calls it with `training=True`:
    in the inference phase run 'drop'.
    cure: Call it with `training=True` where the step computes the loss.
    [functional_learning_phase]
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
