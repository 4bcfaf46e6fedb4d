"""PD303: a frozen layer moves

**What it does.** Reports variables of frozen layers that the step writes: because it
was traced earlier, because the layer does not ask whether it is frozen, or because the
optimizer still holds them.
Weights that the step sets from others of the same shape, as for a teacher, are a note.
Frozen weights that it clips or decays are a finding.
<!-- tests/doctor/corpus_broken.py: weights_clipped_with_the_frozen_ones -->

**Why it is bad.** The backbone that you meant to keep changes.

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


@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True))
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value


step(tf.constant(x), tf.constant(y))  # traces the step
model.get_layer("norm").trainable = False
```

Printed:

```python
>>> print(diagnose(model, x, y, train_step=step))
net: 1 finding (TensorFlow ..., keras ...)
PD303  error    norm
    'norm' is frozen, but one step changes it: the step was traced before
    that.
    cure: Set `trainable = False` before `compile` and before the step is
    first traced. [fine_tune_frozen_batchnorm]
```

Cured, and silent:

```python
@tf.function
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
from typing import Any

from ..evidence import Evidence
from ..facts import changed_flags, goes_by_flags_of_now, trained_in_turn
from ..report import Finding
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
    Cure(
        "ask-whether-frozen",
        "In the layer's own `call`, update `if training and self.trainable`; "
        "freezing it earlier changes nothing.",
        "subclass_training_arg",
    ),
    Cure(
        "hand-over-the-trainable-of-now",
        "Take the gradients of `model.trainable_variables` of now, "
        "and build a new optimizer for them.",
        "fine_tune_frozen_batchnorm",
    ),
    Cure(
        "assign-to-the-trainable-only",
        "Clip or decay `model.trainable_variables`, not all of `model.weights`.",
        None,
    ),
)

WORDS = {
    "freeze-before-compile-and-trace": "the step was traced before that",
    "ask-whether-frozen": "the layer updates itself without asking whether it is "
    "frozen",
    "hand-over-the-trainable-of-now": "the optimizer of the step still holds its "
    "weights",
    "assign-to-the-trainable-only": "the step assigns to its variables what it "
    "computes from them alone",
}


def judge(seen: Evidence) -> Iterator[Finding]:
    yield from stale(seen)
    for layer in seen.layers:
        if layer.trainable or layer.stateful or seen.step is None:
            continue
        moved = [
            v.key
            for v in seen.own(layer)
            if v.key in seen.step.written and v.floating and not v.metric
        ]
        if not moved:
            continue
        evidence: dict[str, Any] = {"variables": len(moved), "executed": seen.step.ran}
        why = reason(seen, moved)
        if why is None:
            text = (
                f"{layer.path!r} is frozen and the step assigns its variables itself, "
                "as an averaged copy would."
            )
            yield RULE.finding(layer.path, text, "note", **evidence)
        else:
            text = f"{layer.path!r} is frozen, but one step changes it: {WORDS[why]}."
            yield RULE.finding(layer.path, text, cure=why, **evidence)


def stale(seen: Evidence) -> Iterator[Finding]:
    """Frozen layers that the kept training function would write."""
    flags = changed_flags(seen)
    spared = trained_in_turn(seen) or (
        bool(flags) and all(goes_by_flags_of_now(seen, layer) for layer in flags)
    )
    # An own train_step may write to a frozen layer on purpose; its trace is stale where
    # a flag was changed later.
    by_hand = seen.own_step
    for layer in seen.layers:
        if not any(v.key in seen.stale and v.floating for v in seen.own(layer)):
            continue
        flagged = any(changed.holds(layer) for changed in flags)
        if not layer.trainable and (flagged or not by_hand):
            yield RULE.finding(
                layer.path,
                f"{layer.path!r} is frozen, but the training function traced earlier "
                "still writes its variables.",
                "note" if spared else None,
                executed=False,
            )


def reason(seen: Evidence, moved: list[int]) -> str | None:
    """Why a frozen layer moves, by the cure; None where the step means to set it."""
    assert seen.step is not None
    fresh = seen.measure.fresh_writes()
    if fresh is not None and any(key not in fresh for key in moved):
        return "freeze-before-compile-and-trace"
    if seen.training and any(key in seen.training.writes for key in moved):
        return "ask-whether-frozen"
    if any(key in seen.step.optimized for key in moved):
        return "hand-over-the-trainable-of-now"
    if seen.step.by and not any(seen.measure.copies(key) for key in moved):
        return "assign-to-the-trainable-only"
    return None
