"""PD302: statistics move more than once a step

**What it does.** Counts the assignments in one step and looks at what the calls are
given.
The same input twice is an error.
Different inputs in several calls are a warning that says whose inputs mix, as in a GAN
that calls its discriminator once for real and once for fake images.
One call that holds them all, as in a siamese model, is a note.
So is a step that puts the statistics back after a second pass: they are, within 2 %,
where one update leaves them.
<!-- tests/doctor/corpus_healthy.py: second_pass_whose_statistics_are_put_back -->

**Why it is bad.** Momentum works twice as fast as you set it, and the mixture fits
neither input.

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
        value = loss(y, model(x, training=True))
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value, model(x, training=True)
```

Printed:

```python
>>> print(diagnose(model, x, y, train_step=step))
net: 1 finding (TensorFlow ..., keras ...)
PD302  error    norm
    The step moves the statistics of 'norm' 2 times on the same input
    (net(x)).
    cure: Run one training-phase forward pass a step; run any other with
    `training=False`. [fit_explicit_phase]
...
```

Cured, and silent:

```python
def step(x, y):
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True))
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value, model(x, training=False)
```

```python
>>> diagnose(model, x, y, train_step=step).codes
()
```
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..evidence import Evidence, Statistic, Trace
from ..noise import rms
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD302",
    "statistics move more than once a step",
    "error",
    Cure(
        "one-training-pass-a-step",
        "Run one training-phase forward pass a step; run any other with "
        "`training=False`.",
        "fit_explicit_phase",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    writes = seen.step.trace.writes if seen.step else {}
    for statistic in seen.statistics:
        low, high = writes.get(statistic.mean, (0, 0))
        if high > 1 and statistic.layer.trainable:
            yield judge_one(seen, statistic, low, high)


def judge_one(seen: Evidence, statistic: Statistic, low: float, high: float) -> Finding:
    layer, path = statistic.layer, statistic.layer.path
    times = f"{high:.0f}" if low == high else f"up to {high:.0f}"
    evidence: dict[str, Any] = {"updates": high, "momentum": statistic.momentum}
    if math.isinf(high):
        times = "several"
    elif statistic.momentum:
        evidence["effective_momentum"] = statistic.momentum**high
    trace = calls_of(seen, statistic)
    outer = outer_calls(trace, statistic)
    within = f"{path!r} updates its moving statistics {times} times a step,"
    if len(outer) <= 1:
        around = [trace.around(n)[1:2] for n in trace.of(layer)] if trace else []
        looped = any(
            trace.calls[i].layer.kind == "TimeDistributed"
            for near in around
            for i in near
        )
        if trace and same_within(trace, trace.of(layer)):
            return RULE.finding(path, f"{within} on the same input.", **evidence)
        if looped:
            text = f"{within} once for every timestep."
            return RULE.finding(path, text, "warning", **evidence)
        text = f"{within} all within one call of the model."
        return RULE.finding(path, text, "note", **evidence)
    if moved_once(seen, statistic):
        text = (
            f"The step writes the statistics of {path!r} {times} times "
            "and leaves them where one update would."
        )
        return RULE.finding(path, text, "note", **evidence)
    origins = [trace.calls[n].origin for n in outer]
    moves = f"The step moves the statistics of {path!r} {times} times"
    if same_input(seen, trace, outer):
        text = f"{moves} on the same input ({origins[0]})."
        return RULE.finding(path, text, **evidence, inputs=origins)
    text = (
        f"{moves}, mixing the inputs of {len(outer)} calls: {', '.join(origins)}. "
        "Inference normalises each of them with the mixture."
    )
    return RULE.finding(path, text, "warning", **evidence, inputs=origins)


def calls_of(seen: Evidence, statistic: Statistic) -> Trace:
    """Where the layer's calls can be seen: in the step, else in the model.

    A training function that Keras keeps runs no Python when traced again.
    """
    step = seen.measure.step_calls() if seen.step and seen.step.by else None
    if step is not None and step.of(statistic.layer):
        return step
    return seen.training or Trace("none")


def outer_calls(trace: Trace, statistic: Statistic) -> list[int]:
    """The outermost calls around those that update the layer, each once."""
    layer = statistic.layer
    updating = [
        n for n in trace.of(layer) if trace.calls[n].training or not layer.stock
    ]
    return list(dict.fromkeys(trace.around(n)[-1] for n in updating))


def moved_once(seen: Evidence, statistic: Statistic) -> bool:
    """Whether the step took the statistics where one training pass does, within 2 %.

    A second update on the same batch adds momentum times the first one, so it is seen
    from momentum 0.02 on.
    """
    key, told, step = statistic.mean, seen.training, seen.step
    if told is None or step is None or told.writes.get(key) != (1, 1):
        return False
    if key not in step.means:
        return False
    once = seen.measure.training_means()[key] - statistic.now[0]
    return rms([step.means[key] - statistic.now[0] - once]) < 0.02 * rms([once])


def same_input(seen: Evidence, trace: Trace, outer: list[int]) -> bool:
    """Whether two of these outermost calls get the very same numbers."""
    pairs = list(itertools.combinations(outer, 2))
    inputs = {n: trace.calls[n].inputs for n in outer}
    if any(inputs[a] and inputs[a] == inputs[b] for a, b in pairs):
        return True
    values = seen.measure.outer_inputs()
    return any(
        values.get(a)
        and len(values[a]) == len(values.get(b, ()))
        and all(map(np.array_equal, values[a], values[b]))
        for a, b in pairs
    )


def same_within(trace: Trace, numbers: list[int]) -> bool:
    """Whether one call hands two of these, or the layer around each, one tensor."""
    chains = [trace.around(n)[::-1] for n in numbers]
    for first, second in itertools.combinations(chains, 2):
        parted = (pair for pair in zip(first, second, strict=False) if len({*pair}) > 1)
        fork = next(parted, None)
        if fork is None:
            continue
        one, two = (trace.calls[n] for n in fork)
        if one.layer is two.layer and one.sources and one.sources == two.sources:
            return True
    return False
