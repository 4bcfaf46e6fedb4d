"""PD202: far behind the data

**What it does.** Reads the layer's batch statistics in one pass in the training phase,
and compares the moving statistics with them, in units of sampling noise.
It then runs inference with the batch statistics to see whether the difference matters.
The message gives the cause, and the cure follows from it:

- A share of the initial values is left. The message says after how many steps that is
  so at this momentum, and how many bring it below 5 % of the variance to be reached.
- The layer, or one before it, is exactly as it was created, and others are not: weights
  were skipped on loading.
<!-- tests/doctor/corpus_broken.py: some_layers_skipped_on_load -->
- The batch varies more, or less, than the statistics say, by the same factor in every
  channel: the input is on another scale, and the statistics are right.
<!-- tests/doctor/corpus_broken.py: data_on_another_scale -->
- Every sample has the same target, or nothing explains it: the cure says how to find
  out whether the data or the statistics are the cause.

**Why it is bad.** Training accuracy rises and validation stays at chance.

**When it is a note.** The statistics of every fresh network are far from its data.
Without any sign of training (gamma or beta moved, optimizer steps, a step that leaves
statistics unmoved) PD202, PD307 and PD308 are notes.
They are also notes where the statistics are right and the batch is unusual, such as the
first batch of a folder sorted by class. Hand in targets and a loss, and the doctor
compares the loss of each sample under the moving statistics with that under the batch
statistics (paired t test, one-sided, error rate 0.01).
A batch that repeats one sample is not judged.
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
