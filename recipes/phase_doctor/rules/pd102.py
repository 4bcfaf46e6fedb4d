"""PD102: a recorded `training=` is ignored

**What it does.** Finds `training=` recorded in a Functional graph and compares it with
what the layers get when the model is told the other phase.

**Why it is bad.** `base(inputs, training=False)` reads as if the backbone's statistics
were safe.
On Keras 3.0 to 3.15 `fit` overrides it. On Keras 2 and from 3.16 on it holds, and the
rule is silent; on 3.16 it also reaches [the layers behind](../keras-3.16.md).
The cure depends on what was recorded. A BatchNormalization recorded with False is
frozen by `trainable`. One recorded with True loses that True: frozen, it would learn
nothing. A dropout recorded with True goes through `to_monte_carlo`.
<!-- tests/doctor/corpus_broken.py: norms_recorded_true_in_a_residual_net -->
A recorded value that equals the layer's own default looks like no value, and is not
judged.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(name="norm")]
base = keras.Sequential([keras.Input((8,)), *layers], name="backbone")
inputs = keras.Input((8,))
outputs = keras.layers.Dense(3)(base(inputs, training=False))
model = keras.Model(inputs, outputs, name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD102  error    backbone
    `training=False` was recorded at 'backbone', but keras ....1 runs it in
    training mode when the model is.
    cure: Set `trainable = False` on each BatchNormalization before
    `compile`, or call it in a subclass's `call`.
    [fine_tune_frozen_batchnorm]
...
```

Cured, and silent:

```python
base.get_layer("norm").trainable = False
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence, Layer, Trace
from ..facts import paths
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD102",
    "a recorded `training=` is ignored by this Keras",
    "error",
    Cure(
        "freeze-by-trainable",
        "Set `trainable = False` on each BatchNormalization before `compile`, or call "
        "it in a subclass's `call`.",
        "fine_tune_frozen_batchnorm",
    ),
    Cure(
        "delete-the-recorded-true",
        "Delete `training=True` from that call: `fit` says it anyway, and inference "
        "then has the moving statistics everywhere, in an export too. Do not freeze "
        "it. Where each batch's own statistics are meant, take GroupNormalization.",
        "fit_explicit_phase",
    ),
    Cure(
        "convert-to-monte-carlo",
        "To keep it on in `predict` and once exported, convert the model with "
        "`to_monte_carlo`. Else delete `training=True` from that call.",
        "monte_carlo_dropout",
    ),
    Cure(
        "let-a-subclass-decide",
        "Call it in a subclass's `call` with `training=False`, or set its rate to 0.",
        "subclass_training_arg",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for layer, training in seen.recorded.items():
        affected = overruled(seen, layer, training)
        if not layer.in_tree or not affected:
            continue
        mode = "inference" if training else "training"
        norms = sum(one.norm for one in affected)
        yield RULE.finding(
            layer.path,
            f"`training={training}` was recorded at {layer.path!r}, "
            f"but {seen.keras} runs it in {mode} mode when the model is.",
            # Dropout in a frozen backbone loses nothing but determinism.
            None if training or norms else "note",
            cure_for(training, bool(norms)),
            layers=list(dict.fromkeys(paths(affected))),
            batchnorms=norms,
        )


def cure_for(training: bool, norms: bool) -> str:
    """A recorded True wants the contrary of a recorded False."""
    if norms:
        return "delete-the-recorded-true" if training else "freeze-by-trainable"
    return "convert-to-monte-carlo" if training else "let-a-subclass-decide"


def overruled(seen: Evidence, layer: Layer, training: bool) -> list[Layer]:
    """Layers that get the other phase when the model is told that one."""
    trace = (seen.inference if training else seen.training) or Trace("none")
    affected = []
    for number, call in enumerate(trace.calls):
        around = [trace.calls[i].layer for i in trace.around(number)]
        if layer not in around or not call.layer.heeds:
            continue
        inner = next(seen.recorded[one] for one in around if one in seen.recorded)
        if inner == training and call.training != training:
            affected.append(call.layer)
    return affected
