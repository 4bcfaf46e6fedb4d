"""PD309: `model(x)` differs from `predict`

**What it does.** Compares a bare call with `predict`.

**Why it is bad.** Notebooks call `model(x)`, servers call `predict`; they should agree.
The usual reason is a `call` with `training=True` as its default.

```python
class Triggers(keras.Model):
    def __init__(self):
        super().__init__(name="eager")
        self.drop, self.head = keras.layers.Dropout(0.5), keras.layers.Dense(3)

    def call(self, inputs, training=True):
        return self.head(self.drop(inputs, training=training))


class Fixed(Triggers):
    def call(self, inputs, training=None):
        return self.head(self.drop(inputs, training=training))
```

```python
>>> diagnose(Triggers(), x).codes
('PD309',)
>>> diagnose(Fixed(), x).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD309",
    "`model(x)` differs from `predict`",
    "warning",
    Cure(
        "say-the-phase",
        "Say the phase on every direct call: `model(x, training=False)`.",
        "functional_learning_phase",
    ),
)
