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
