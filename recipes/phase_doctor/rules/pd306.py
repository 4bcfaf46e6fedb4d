"""PD306: inference changes state

**What it does.** Compares every variable before and after inference.
Seed generators, metrics and the state of a stateful RNN may change.

**Why it is bad.** Serving changes the model, and the order of requests matters.

```python
class Average(keras.layers.Layer):
    def __init__(self, obey, **kwargs):
        super().__init__(**kwargs)
        self.obey = obey

    def build(self, shape):
        self.mean = self.add_weight(
            shape=(shape[-1],), initializer="zeros", trainable=False, name="mean"
        )

    def call(self, inputs, training=None):
        if training or not self.obey:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(inputs, axis=0))
        return inputs
```

```python
>>> diagnose(net(Average(obey=False)), x).codes
('PD306',)
>>> diagnose(net(Average(obey=True)), x).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD306",
    "inference changes state",
    "error",
    Cure(
        "write-in-training-only",
        "Update state only when `training` is true.",
        "subclass_training_arg",
    ),
)
