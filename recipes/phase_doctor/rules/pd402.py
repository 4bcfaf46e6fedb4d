"""PD402: assigning or random operations

**What it does.** Reads the graph of the endpoint and of the functions it calls.
The code that restores variables always assigns and does not count.
Keras draws the dropout masks of an RNN in every phase and uses them in one: random
operations that no output depends on, two runs agreeing bit for bit, are a note.
<!-- tests/doctor/corpus_healthy.py: export_of_an_rnn_with_dropout -->
In ONNX only random operators can be seen, because converters drop assignments: there
the numbers of PD401 are the proof.

**Why it is bad.** The artifact serves in training mode: requests change it, or it rolls
dice.

```python
>>> diagnose(model, x, artifact=save("trains", training=True)).codes
('PD402',)
>>> diagnose(model, x, artifact=save("serves", training=False)).codes
()
```
"""

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
