"""PD106: a preprocessing default leaks

**What it does.** Traces a bare `model(x)` and reports a layer whose own default is
`training=True` and which puts later layers into the training phase.

Up to Keras 3.15 it hands that default on. [From 3.16 on](../keras-3.16.md#why) only a
phase that a layer *states* is handed on, to every layer that runs after it.

**Why it is bad.** `model(x)` then updates statistics, and `model.export()` can write a
graph that does.

Broken:

```python
import keras
import numpy as np
from phase_doctor import diagnose

images = np.random.default_rng(0).normal(3, 2, (32, 8, 8, 1)).astype("float32")
layers = [keras.layers.Resizing(4, 4, name="resize")]
layers += [keras.layers.BatchNormalization(name="norm"), keras.layers.Flatten()]
model = keras.Sequential([keras.Input((8, 8, 1)), *layers], name="net")
```

Printed:

```python
>>> print(diagnose(model, images))
net: 2 findings (TensorFlow ..., keras ...)
PD106  warning  resize
    `call` of 'resize' defaults to `training=True`; on a bare `model(x)` it
    puts 'norm' into training mode.
    cure: Call `model(x, training=False)`, and export through an endpoint
    that says so. [export_inference_model]
...
```

Cured, and silent:

```python
layers[0] = keras.layers.AveragePooling2D(2)
model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
```

```python
>>> diagnose(model, images).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence, Trace
from ..facts import paths, quoted
from ..report import Finding
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


def judge(seen: Evidence) -> Iterator[Finding]:
    bare = seen.bare.trace if seen.bare else None
    leak = leaking_call(bare) if bare else None
    if bare is None or leak is None:
        return
    source = bare.calls[leak].layer
    later = [
        call.layer
        for number, call in enumerate(bare.calls)
        if number > leak
        and call.layer.heeds
        and call.training
        and leak not in bare.around(number)[1:]
        and call.layer.default is not True
    ]
    names = list(dict.fromkeys(paths(later)))
    if names and source.leaf and source is not seen.model:
        others = " and others" if len(names) > 3 else ""
        yield RULE.finding(
            source.path,
            f"`call` of {source.path!r} defaults to `training=True`; on a bare "
            f"`model(x)` it puts {quoted(names[:3])}{others} into training mode.",
            layers=names,
            variables_written=len(seen.floats(bare.writes)),
        )


def leaking_call(bare: Trace) -> int | None:
    """The first call that runs in training by its own default alone."""
    for number, call in enumerate(bare.calls):
        # Functional graphs record the default as if it had been written.
        graph = call.parent is not None and bare.calls[call.parent].layer.graph
        unsaid = call.explicit is None or graph
        if call.training and call.layer.default is True and unsaid:
            return number
    return None
