"""PD403: fixed batch size or phase input

**What it does.** Looks at the signature.

**Why it is bad.** A fixed batch size fails on the first request of another size. A
phase input leaves the choice to the caller.

Broken:

```python
import keras
import numpy as np
import tensorflow as tf
from phase_doctor import diagnose

x = np.random.default_rng(0).normal(3, 2, (32, 8)).astype("float32")

layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(momentum=0.5)]
model = keras.Sequential([keras.Input((8,)), *layers], name="net")
for _ in range(20):
    model(x, training=True)


def export(path, rows, training):
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = tf.TensorSpec((rows, 8), "float32")
    archive.add_endpoint("serve", lambda x: model(x, training=training), [spec])
    archive.write_out(path)


export("fixed", 32, training=False)
```

Printed:

```python
>>> print(diagnose(model, x, artifact="fixed"))
net: 1 finding (TensorFlow ..., keras ...)
PD403  warning  whole model
    fixed: input 'x' takes batches of exactly 32.
    cure: Export with a batch dimension of None and with the phase fixed.
    [export_inference_model]
```

Cured, and silent:

```python
export("free", None, training=False)
```

```python
>>> diagnose(model, x, artifact="free").codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD403",
    "the artifact has a fixed batch size or a phase input",
    "warning",
    Cure(
        "free-the-batch-fix-the-phase",
        "Export with a batch dimension of None and with the phase fixed.",
        "export_inference_model",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    artifact = seen.artifact
    if artifact is not None and artifact.fixed:
        text = f"{artifact.name}: {'; '.join(artifact.fixed)}."
        yield RULE.finding(None, text, inputs=artifact.fixed)
