"""PD401: the artifact differs

**What it does.** Runs the artifact on the batch and compares it with `model(x,
training=False)`.
When the output hardly varies over the batch, it says that agreement proves nothing.

**Why it is bad.** What you serve is not what you tested.

```python
model.save("kept.keras")
weights = model.get_weights()
model.set_weights([w * 1.1 for w in weights])
model.save("other.keras")
model.set_weights(weights)
```

```python
>>> diagnose(model, x, artifact="other.keras").codes
('PD401',)
>>> diagnose(model, x, artifact="kept.keras").codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD401",
    "the artifact differs from `model(x, training=False)`",
    "error",
    Cure(
        "export-with-training-false",
        "Export again through an endpoint that passes `training=False`.",
        "export_inference_model",
    ),
)
