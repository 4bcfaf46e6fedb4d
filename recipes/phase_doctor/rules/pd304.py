"""PD304: inference depends on batch mates

**What it does.** Runs each half of the batch alone and in company, and compares.
Both, because a maximum or a first row over the batch spares the half that holds it.

**Why it is bad.** A prediction changes with whoever shares the batch; a batch of one
gives the same answer for everything.

```python
class Centre(keras.layers.Layer):
    # Takes away the mean over the batch, or over the features.

    def __init__(self, axis, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs):
        return inputs - tf.reduce_mean(inputs, axis=self.axis, keepdims=True)
```

```python
>>> finding = diagnose(net(Centre(0, name="centre")), x).findings[0]
>>> finding.code, finding.where
('PD304', 'centre')
>>> diagnose(net(Centre(1)), x).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD304",
    "inference depends on batch mates",
    "error",
    Cure(
        "pass-training-false-down",
        "Pass `training=False` down to the layer at inference; never fix "
        "`training=True` in `call`.",
        "subclass_training_arg",
    ),
)
