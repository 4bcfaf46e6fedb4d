"""PD302: statistics move more than once a step

**What it does.** Counts the assignments in one step and looks at what the calls are
given.
The same input twice is an error.
Different inputs in several calls are a warning that says whose inputs mix, as in a GAN
that shows its discriminator real and fake images apart.
One call that holds them all, as in a siamese model, is a note.
So is a step that puts the statistics back after a second pass: it leaves them, within 2
%, where one update would.
<!-- tests/doctor/corpus_healthy.py: second_pass_whose_statistics_are_put_back -->

**Why it is bad.** Momentum works twice as fast as you set it, and the mixture fits
neither input.

```python
>>> codes(net(), True, True)
('PD302',)
>>> codes(net(), True, False)
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD302",
    "statistics move more than once a step",
    "error",
    Cure(
        "one-training-pass-a-step",
        "Run one training-phase forward pass a step; run any other with "
        "`training=False`.",
        "fit_explicit_phase",
    ),
)
