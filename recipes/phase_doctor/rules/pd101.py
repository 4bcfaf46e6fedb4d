"""PD101: `call` cannot be told the phase

**What it does.** Traces what `fit` would run. It reports a layer that heeds the phase,
does not get the training phase, and was given no phase by the author.
The finding names the model or block whose `call` takes no `training`.
Where a layer inherits the phase that an earlier layer states, it names both. That
happens in a subclass on every Keras 3, and in a Functional or Sequential model [from
3.16 on](../keras-3.16.md); before that, `PD108` says that it will.
A phase that `call` itself writes is the author's decision, if the statistics came with
the weights. If the model is trained from initial statistics, it counts too, as with an
argument named `is_training`.
<!-- tests/doctor/corpus_broken.py: argument_by_another_name -->

**Why it is bad.** `fit` looks for a parameter named `training`; `**kwargs` does not
count.
Without it BatchNormalization and Dropout stay in inference, and nothing warns.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.head = keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.norm(inputs))
```

Printed:

```python
>>> print(diagnose(Net(), x))
net: 1 finding (TensorFlow ..., keras ...)
PD101  error    net
    `call` of 'net' takes no `training`, so `fit` never puts
    'norm' into training mode.
    cure: Declare `def call(self, inputs, training=None)` and pass
    `training` to every layer inside. [subclass_training_arg]
...
```

Cured, and silent:

```python
class Told(Net):
    def call(self, inputs, training=None):
        return self.head(self.norm(inputs, training=training))
```

```python
>>> diagnose(Told(), x).codes
()
```
"""

from collections.abc import Iterator

from ..context import FREEZE, reached
from ..evidence import Evidence, Layer
from ..facts import paths, quoted
from ..report import Finding
from ..rule import Cure, Rule
from ..told import deaf

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
    Cure(
        "say-the-phase-here",
        "Say the phase on this call too: `layer(x, training=training)`.",
        "subclass_training_arg",
    ),
    FREEZE,
)


def judge(seen: Evidence) -> Iterator[Finding]:
    fronts = reached(seen, seen.fit, False)
    for culprit, layers in deaf(seen).items():
        where, names = culprit.path, paths(layers)
        if culprit in layers:
            text = (
                f"{where!r} is not told the phase during training: "
                "an earlier layer's explicit phase reaches it"
            )
            if culprit in fronts:
                text += f", the `training=False` of {fronts[culprit][0].path!r}"
            cure = FREEZE.id if called_by_keras(culprit) else "say-the-phase-here"
            yield RULE.finding(where, f"{text}.", cure=cure, layers=names)
        else:
            text = (
                f"`call` of {where!r} takes no `training`, so `fit` never puts "
                f"{quoted(names)} into training mode."
            )
            yield RULE.finding(where, text, layers=names)


def called_by_keras(layer: Layer) -> bool:
    """Whether a Functional or Sequential model calls it: nobody writes that call."""
    return bool(layer.parents) and layer.parents[-1].graph
