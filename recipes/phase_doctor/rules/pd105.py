"""PD105: `trainable` changed after `compile`

**What it does.** Compares the current `trainable` flags with those that `compile` and
the optimizer saw, and reads which variables the traced training function writes.
If you hand in a step that follows the current flags, it is a note: the compiled
function is not what trains.
<!-- tests/doctor/corpus_healthy.py: frozen_after_fit_for_a_step_of_ones_own -->

**Why it is bad.** The traced function keeps the old flags: what was frozen moves, what
was unfrozen does not learn.
On older releases, where `compile` records no flags, the doctor can tell only once the
optimizer was built.
The classic GAN recipe (compile the discriminator, freeze it, compile the GAN) fails
this way on Keras 3. Compiling it again while it is frozen changes nothing: unfreeze it
for its own step.
<!-- tests/doctor/corpus_broken.py: discriminator_of_the_classic_gan_recipe -->
A whole model that is frozen, while its training function was traced before and trains
it, is between two steps of such a loop: a note.
<!-- tests/doctor/corpus_healthy.py: gan_trained_in_turn -->
A `train_step` of your own may give the optimizer any part of the variables: what it
leaves out is no finding.
<!-- tests/doctor/corpus_healthy.py: distillation_with_the_students_variables -->

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")
y = np.arange(32) % 3

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
body = keras.layers.Dense(6, name="body")
layers = [keras.Input((8,)), body, keras.layers.Dense(3)]
model = keras.Sequential(layers, name="net")
model.compile("sgd", loss)
model.fit(x, y, verbose=0)
body.trainable = False
```

Printed:

```python
>>> print(diagnose(model, x, y))
net: 2 findings (TensorFlow ..., keras ...)
PD105  error    body
    'body' was made frozen after `compile`; the compiled training function
    may not know.
    cure: Call `compile` again after every change of `trainable`: between
    two calls of `fit`, for no callback can. [fine_tune_frozen_batchnorm]
...
```

Cured, and silent:

```python
model.compile("sgd", loss)
```

```python
>>> diagnose(model, x, y).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import changed_flags, nothing_to_train, trained_in_turn
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD105",
    "`trainable` changed after `compile`",
    "error",
    Cure(
        "compile-again",
        "Call `compile` again after every change of `trainable`: between two calls of "
        "`fit`, for no callback can.",
        "fine_tune_frozen_batchnorm",
    ),
    Cure(
        "thaw-for-its-own-step",
        "Set `trainable = True` before its own `train_on_batch` and `False` before the "
        "other model's, each time. Do not compile it while it is frozen.",
        None,
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    owners = [seen.variables[k].owner for k in seen.stale if k in seen.variables]
    flags = changed_flags(seen)
    if seen.compiled and not flags and not seen.own_step and nothing_to_train(seen):
        path = seen.model.path
        text = (
            f"{path!r} is compiled with nothing trainable in it: its `fit` and "
            "`train_on_batch` change no weight."
        )
        yield RULE.finding(path, text, "note", "thaw-for-its-own-step")
    for layer, before in flags.items():
        now, whole = "frozen" if before else "trainable", layer is seen.model and before
        written = sum(owner is not None and layer.holds(owner) for owner in owners)
        yield RULE.finding(
            layer.path,
            f"{layer.path!r} was made {now} after `compile`; "
            "the compiled training function may not know.",
            "note" if whole and trained_in_turn(seen) else None,
            "thaw-for-its-own-step" if whole else None,
            trainable_at_compile=before,
            trainable_now=not before,
            variables_still_written=written if before else 0,
        )
