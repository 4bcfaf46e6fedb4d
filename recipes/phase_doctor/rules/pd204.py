"""PD204: momentum at 0.1 or below

**What it does.** Reads the momentum of each BatchNormalization that is not frozen.

**Why it is bad.** In Keras momentum is the share that is kept. In PyTorch it is the
share that is new, so its 0.1 is 0.9 here.
At 0.1 the moving statistics are nine tenths those of the last batch, and inference
changes with whatever batch came last.
A value of 0.01 or less is often epsilon, handed in by mistake.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")


def net(momentum):
    norm = keras.layers.BatchNormalization(momentum=momentum, name="norm")
    layers = [keras.Input((8,)), keras.layers.Dense(6), norm, keras.layers.Dense(3)]
    return keras.Sequential(layers, name="net")


def trained(model):
    model.compile("sgd", "mse")
    model.fit(x, x[:, :3], epochs=40, verbose=0)
    return model
```

Printed:

```python
>>> print(diagnose(trained(net(momentum=0.1)), x))
net: 1 finding (TensorFlow ..., keras ...)
PD204  warning  norm
    'norm' has momentum ...: after each step 90% of its statistics are the
    last batch's.
    cure: Set `momentum` to the share that is kept, ... to ... (PyTorch's
    ... is ... here); re-estimate the statistics of a trained model.
    [recalibrate_batchnorm]
```

Cured, and silent:

```python
>>> diagnose(trained(net(momentum=0.9)), x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD204",
    "momentum at 0.1 or below",
    "warning",
    Cure(
        "keep-nine-tenths",
        "Set `momentum` to the share that is kept, 0.9 to 0.99 (PyTorch's 0.1 is 0.9 "
        "here); re-estimate the statistics of a trained model.",
        "recalibrate_batchnorm",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for statistic in seen.statistics:
        layer, momentum = statistic.layer, statistic.momentum
        if not layer.norm or not layer.trainable or momentum is None or momentum > 0.1:
            continue
        text = (
            f"{layer.path!r} has momentum {momentum:g}: after each step "
            f"{1 - momentum:.0%} of its statistics are the last batch's."
        )
        if 0 < momentum <= 0.01:
            text += " Was epsilon handed in as momentum?"
        yield RULE.finding(layer.path, text, momentum=momentum)
