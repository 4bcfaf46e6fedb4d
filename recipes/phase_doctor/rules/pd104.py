"""PD104: one BatchNormalization at several places

**What it does.** Looks at layers called several times in one pass.
It reports those fed by different layers, or whose inputs have different channel means.

**Why it is bad.** There is one moving mean for all places, a mixture that fits none.
A siamese encoder that sees the same kind of input twice is fine, and gets at most a
note.

```python
inputs = keras.Input((8,))
shared = keras.layers.BatchNormalization(name="shared")
h = shared(keras.layers.Dense(6)(inputs))
triggers = keras.Model(inputs, shared(keras.layers.Dense(6)(h)))
h = keras.layers.BatchNormalization()(keras.layers.Dense(6)(inputs))
fixed = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Dense(6)(h)))
```

```python
>>> diagnose(triggers, x).codes
('PD104',)
>>> diagnose(fixed, x).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD104",
    "one BatchNormalization serves several places",
    "warning",
    Cure(
        "one-norm-a-place",
        "Create one BatchNormalization for each place; weights of other layers may "
        "stay shared.",
        "fit_explicit_phase",
    ),
)
