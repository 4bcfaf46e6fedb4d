"""PD101: `call` cannot be told the phase

**What it does.** Traces what `fit` would run and reports a layer that heeds the phase,
is not told that this is training, and was given no phase by the author.
The finding names the model or block whose `call` takes no `training`.
A phase that `call` writes itself is the author's decision where the statistics came
from somewhere; in a model that is being trained from fresh ones it counts too, as with
an argument named `is_training`.
<!-- tests/doctor/corpus_broken.py: argument_by_another_name -->

**Why it is bad.** `fit` looks for a parameter named `training`; `**kwargs` does not
count.
Without it BatchNormalization and Dropout stay in inference mode, silently.

```python
class Triggers(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.norm, self.head = keras.layers.BatchNormalization(), keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.norm(inputs))


class Fixed(Triggers):
    def call(self, inputs, training=None):
        return self.head(self.norm(inputs, training=training))
```

```python
>>> diagnose(Triggers(), x, y).codes
('PD101',)
>>> diagnose(Fixed(), x, y).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD101",
    "`call` cannot be told the phase",
    "error",
    Cure(
        "declare-training",
        "Declare `def call(self, inputs, training=None)` and pass `training` to every "
        "layer inside.",
        "subclass_training_arg",
    ),
)
