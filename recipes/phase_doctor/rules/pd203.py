"""PD203: not finite, or a variance not positive

**What it does.** Reads every weight and statistic.
A variance of exactly zero is right for a channel that is constant in the data.
It counts where the batch varies in that channel, and where every channel of a layer has
it.

**Why it is bad.** One batch with NaN makes the statistics NaN for good; evaluation is
NaN while training goes on.

```python
triggers = train(0.5, 40)
broken = x.copy()
broken[0, 0] = np.nan
_ = triggers(broken, training=True)

zeroed = train(0.5, 40)
norm = zeroed.get_layer("norm")
norm.moving_variance.assign(norm.moving_variance * 0)  # as a loader that lost them
```

```python
>>> diagnose(triggers, x, y).codes
('PD203',)
>>> diagnose(zeroed, x, y).codes[0]
'PD203'
>>> diagnose(train(0.5, 40), x, y).codes
()
```
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD203",
    "statistics not finite, or a variance not positive",
    "error",
    Cure(
        "re-estimate-after-the-bad-batch",
        "Find the batch that was empty or not finite, then re-estimate the statistics.",
        "fit_explicit_phase",
    ),
)
