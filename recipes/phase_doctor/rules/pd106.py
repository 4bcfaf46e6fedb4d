"""PD106: a preprocessing default leaks

**What it does.** Traces a bare `model(x)` and reports a layer whose own default is
`training=True` and which puts later layers into training mode.

**Why it is bad.** `model(x)` then updates statistics, and `model.export()` can write a
graph that does.

```python
def resized(layer):
    inputs = keras.Input((4, 4, 1))
    h = keras.layers.BatchNormalization()(keras.layers.Flatten()(layer(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3)(h))


images = x[:, :, None, None].repeat(2, axis=1).reshape(32, 4, 4, 1)
leaks = keras.__version__ < "3.16" and keras.__version__[:2] == "3."
```

```python
>>> resizing = resized(keras.layers.Resizing(2, 2))
>>> ("PD106" in diagnose(resizing, images, y).codes) == leaks
True
>>> diagnose(resized(keras.layers.AveragePooling2D(2)), images, y).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD106",
    "a layer's default `training=True` puts later layers in training mode on a bare "
    "call",
    "warning",
    Cure(
        "say-training-false",
        "Call `model(x, training=False)`, and export through an endpoint that says so.",
        "export_inference_model",
    ),
)
