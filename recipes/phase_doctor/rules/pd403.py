"""PD403: fixed batch size or phase input

**What it does.** Looks at the signature.

**Why it is bad.** A fixed batch size fails on the first other request; a phase input
leaves the choice to the caller.

```python
>>> diagnose(model, x, artifact=save("fixed", training=False, batch=32)).codes
('PD403',)
>>> diagnose(model, x, artifact=save("free", training=False)).codes
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
