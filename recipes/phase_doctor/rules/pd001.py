"""PD001: raised

The model, the step or the artifact raised an exception, which the finding quotes.
The rest of the examination goes on where it can.
The command line exits with status 2.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.Input((9,)), keras.layers.Dense(3)]  # x has 8
model = keras.Sequential(layers, name="net")
```

Printed:

```python
>>> print(diagnose(model, x))
net: 1 finding (TensorFlow ..., keras ...)
PD001  error    whole model
    model(x, training=False) raised ValueError: Input 0 with name 'None' of
    layer 'dense...' is incompatible with the layer: expected axis -1 of input
    shape to have value 9, but received input with shape (32, 8)
    cure: Make it run on this batch first.
```

Cured, and silent:

```python
layers = [keras.Input((8,)), keras.layers.Dense(3)]
model = keras.Sequential(layers, name="net")
```

```python
>>> diagnose(model, x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import meant_for_another
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD001",
    "the model, the step or the artifact raised",
    "error",
    Cure(
        "make-it-run",
        "Make it run on this batch first.",
        None,
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for failure in seen.failures:
        if meant_for_another(seen, failure) is None:
            text = f"{failure.what} raised {failure.error}: {failure.text}"
            yield RULE.finding(None, text, exception=failure.error)
