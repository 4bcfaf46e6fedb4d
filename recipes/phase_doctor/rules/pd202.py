"""PD202: far behind the data

**What it does.** Lets the layer tell its batch statistics by one training-phase pass,
and compares the moving ones with them in units of sampling noise.
It then runs inference with the batch's own statistics to see whether the difference
matters.
The message says why, and the cure follows from that.
Something of the initial values is left: it says how many steps that stands for at this
momentum, and how many bring it below 5 % of the variance that has to be reached.
The layer, or one before it, is exactly as it was created while others are not: weights
were skipped on load.
<!-- tests/doctor/corpus_broken.py: some_layers_skipped_on_load -->
The batch varies more or less widely than the statistics say by the same factor in every
channel: the input is on another scale, and the statistics are right.
<!-- tests/doctor/corpus_broken.py: data_on_another_scale -->
Every sample has the same target, or nothing explains it: the cure says how to tell the
data from the statistics.

**Why it is bad.** Training accuracy rises and validation stays at chance.

**When it is a note.** Every fresh network is behind its data.
Without any sign of training (gamma or beta moved, optimizer steps, a step that leaves
statistics unmoved) PD202, PD307 and PD308 are notes.
So are they where the statistics are right and the batch is not: hand in targets and a
loss, and the doctor compares the loss of each sample under the moving statistics with
that under the batch's own (paired t test, one-sided, error rate 0.01).
The first batch of a folder sorted by class is such a batch.
A batch of one sample repeated says nothing either way and is not judged at all.
<!-- tests/doctor/corpus_healthy.py: first_folder_of_a_sorted_data_set -->
<!-- tests/doctor/corpus_healthy.py: confident_softmax_on_one_folder -->
<!-- tests/doctor/corpus_healthy.py: dummy_batch_of_zeros -->

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
    model.fit(x, x[:, :3], epochs=20, verbose=0)
    return model
```

Printed:

```python
>>> print(diagnose(trained(net(momentum=0.99)), x))
net: 2 findings (TensorFlow ..., keras ...)
PD202  warning  norm
    ... of the initial moving statistics of 'norm' is left, as after 20
    steps at momentum ...; these data need 299.
    cure: Train for more steps, lower the momentum, or re-estimate the
    statistics over training batches. [recalibrate_batchnorm]
...
```

Cured, and silent:

```python
>>> diagnose(trained(net(momentum=0.5)), x).codes
()
```
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..gap import gap, ratio
from ..noise import F_LIMIT
from ..reasons import CURES, reason
from ..report import Finding
from ..rule import Rule

RULE = Rule("PD202", "statistics far behind the data", "warning", *CURES)


def judge(seen: Evidence) -> Iterator[Finding]:
    found = gap(seen)
    for statistic, measured in found.far if found.harmful else ():
        cure, text, why = reason(seen, statistic, measured)
        yield RULE.finding(
            statistic.layer.path,
            text,
            cure=cure,
            distance_in_noise=ratio(measured),
            limit=F_LIMIT,
            effect_size=found.size,
            momentum=statistic.momentum or 0.0,
            **why,
        )
