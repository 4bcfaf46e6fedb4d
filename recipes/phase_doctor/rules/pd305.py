"""PD305: inference is stochastic

**What it does.** Runs inference twice when its graph draws random numbers, and
compares.

**Why it is bad.** The same request gets two answers.
Monte Carlo dropout and variational autoencoders mean it: pass `allow=("PD305",)`.

```python
class Noise(keras.layers.Layer):
    def __init__(self, obey, **kwargs):
        super().__init__(**kwargs)
        self.obey, self.seeds = obey, keras.random.SeedGenerator(0)

    def call(self, inputs, training=None):
        if self.obey and not training:
            return inputs
        noise = keras.random.normal(tf.shape(inputs), stddev=0.1, seed=self.seeds)
        return inputs + noise
```

```python
>>> diagnose(net(Noise(obey=False)), x).codes
('PD305',)
>>> diagnose(net(Noise(obey=False)), x, allow=("PD305",)).codes
()
>>> diagnose(net(Noise(obey=True)), x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import said
from ..noise import differences, draws, rms
from ..report import Finding
from ..rule import Cure, Rule

RULE = Rule(
    "PD305",
    "inference is stochastic",
    "error",
    Cure(
        "obey-training",
        "Make the random layer obey `training`. If you mean it, pass "
        "`allow=('PD305',)`.",
        "monte_carlo_dropout",
    ),
)


def judge(seen: Evidence) -> Iterator[Finding]:
    for way in seen.ways:
        if way.again is None or not draws(way.outputs, way.again):
            continue
        distance = rms(differences(way.outputs, way.again))
        size, name = rms(way.outputs), way.trace.name
        where = seen.measure.first_difference(name, name)
        yield RULE.finding(
            where,
            f"Two runs of {said(seen, way)} on one batch differ by "
            f"{distance / max(size, 1e-30):.1%} of the output"
            + (f"; {where!r} draws at random." if where else "."),
            rms_difference=distance,
            rms_output=size,
            operations=sorted(way.trace.random),
        )
