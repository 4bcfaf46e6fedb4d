"""PD103: untracked variables

**What it does.** Compares the variables in the traced graph with the model's lists, and
names the layer that uses the strangers.
In Keras 3 a bare `tf.Variable` in a layer is one: it is in no list and is not saved. It
counts when training writes it and inference reads it.
<!-- tests/doctor/corpus_broken.py: statistics_in_bare_variables -->

**Why it is bad.** Such a layer runs, but it is not trained, not frozen and not saved.

```python
hidden = keras.layers.BatchNormalization(name="hidden")
body, head = keras.layers.Dense(6), keras.layers.Dense(3)
triggers = fresh(body, keras.layers.Lambda(lambda t: hidden(t)), head)
norm = keras.layers.BatchNormalization()
fixed = fresh(keras.layers.Dense(6), norm, keras.layers.Dense(3))
```

```python
>>> finding = diagnose(triggers, x, y).findings[0]
>>> finding.code, finding.where
('PD103', 'hidden')
>>> diagnose(fixed, x, y).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD103",
    "a phase-dependent layer whose variables the model does not track",
    "error",
    Cure(
        "assign-to-an-attribute",
        "Assign the layer to an attribute of the model, not to a closure, a global or "
        "a hidden container.",
        "subclass_training_arg",
    ),
)
