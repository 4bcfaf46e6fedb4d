"""PD402: assigning or random operations

**What it does.** Reads the graph of the endpoint and of the functions it calls.
The code that restores variables always assigns and does not count.
Keras draws the dropout masks of an RNN in every phase and uses them in one: random
operations that no output depends on, two runs agreeing bit for bit, are a note.
<!-- tests/doctor/corpus_healthy.py: export_of_an_rnn_with_dropout -->
In ONNX only random operators can be seen, because converters drop assignments: there
the numbers of PD401 are the proof.

**Why it is bad.** The artifact serves in the training phase: requests change it, or its
answers are random.

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


export("trains", None, training=True)
```

Printed:

```python
>>> print(diagnose(model, x, artifact="trains"))
net: 1 finding (TensorFlow ..., keras ...)
PD402  error    whole model
    The endpoint of trains holds 2 assignments to variables.
    cure: Export a function that calls `model(x, training=False)`.
    [export_inference_model]
```

Cured, and silent:

```python
export("serves", None, training=False)
```

```python
>>> diagnose(model, x, artifact="serves").codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Artifact, Evidence
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD402",
    "the artifact holds assigning or random operations",
    "error",
    Cure(
        "export-an-inference-endpoint",
        "Export a function that calls `model(x, training=False)`.",
        "export_inference_model",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    artifact = seen.artifact
    if artifact is None or not (artifact.writes or artifact.drawn):
        return
    written = [f"{artifact.writes} assignments to variables"] if artifact.writes else []
    what = ", ".join(written + artifact.drawn)
    # Keras draws the masks of an RNN in every phase and uses them in one.
    idle = draws_idly(artifact)
    yield RULE.finding(
        None,
        f"The endpoint of {artifact.name} holds {what}"
        + (", which no output depends on." if idle else "."),
        "note" if idle else None,
        assignments=artifact.writes,
        random_operations=artifact.drawn,
    )


def draws_idly(artifact: Artifact) -> bool:
    """Whether all it writes are states of seeds, and two runs agree bit for bit."""
    first, second = artifact.outputs, artifact.again
    if not artifact.drawn or artifact.writes != artifact.seeds or not first:
        return False
    return second is not None and [a.tobytes() for a in first] == [
        b.tobytes() for b in second
    ]
