# %% [markdown]
# # C4 + C5: not the learning rate, not the initial weights
#
# **Neither a learning rate nor more steps moves the stuck loop, and its initial weights are as they should be.** Two
# suspects less. What is wrong lies between them: the statistics that BatchNormalization divides by.
#
# The article tried several learning rates and longer training (C4), then looked at the initial weights (C5), and
# found that no rate helped and that the weights were normal.

# %% tags=["draw"]
import sys
from pathlib import Path

root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "docs/_site/casefile.py").is_file()), None)
if root is None:
    raise FileNotFoundError("Run this notebook inside a clone of Phasebook: it reads docs/_site and docs/labs/data.")
sys.path.insert(0, str(root / "docs/_site"))
import casefile as case
import numpy as np

# %%
LIVE = False  # True: measure it now on your own TensorFlow as well (about 2 minutes)
runs = case.runs("stuck_loop", live=LIVE)
today = runs["live" if LIVE else case.TODAY]

# %% tags=["draw"]
case.show_source("stuck_loop", "initial_weights", "Loop")

# %% [markdown]
# ## C4: other learning rates, longer training
#
# The loop of [C3](c03-stuck-at-chance.py), from the same weights. The dashed line is ln 2: the loss of a model that
# says ½ whatever it sees.

# %% tags=["draw"]
fig, (left, right) = case.axes(2, sharey=True)
rates = dict(sorted(today["learning_rates"].items(), key=lambda item: float(item[0])))
for (rate, curve), colour in zip(rates.items(), (case.BLUE, case.ORANGE, case.GREEN), strict=True):
    losses = case.smooth(curve["loss"])
    left.plot(np.arange(1, len(losses) + 1) * 20, losses, "o-", color=colour, label=f"learning rate {rate}")
long = case.smooth(today["stuck"]["loss"])
right.plot(np.arange(1, len(long) + 1) * 20, long, color=case.PURPLE)
for ax in (left, right):
    ax.axhline(np.log(2), color=case.GREY, linestyle="--", linewidth=1)
    ax.set(xlabel="step", ylim=(0.65, 0.75))
left.set(title="other learning rates", ylabel="loss")
left.legend(fontsize=9)
right.set(title=f"{len(today['stuck']['loss'])} steps at 0.001")
case.show(
    fig,
    "The loss settles at ln 2 at every learning rate, at the largest after a jump, and stays there.",
    f"Means of 20 steps, {case.label(case.TODAY)}.",
)

# %% tags=["draw"]
case.show_table(
    ["release", *[f"accuracy at {rate}" for rate in rates], f"at 0.001, after {len(today['stuck']['loss'])} steps"],
    [
        [
            case.label(r),
            *[float(np.mean(run["learning_rates"][rate]["accuracy"][-40:])) for rate in rates],
            float(np.mean(run["stuck"]["accuracy"][-40:])),
        ]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# Means of the last 40 steps. Chance on 1,280 images is 0.50 ± 0.03.
#
# None of them helps, and none can be expected to: the gradient has gone the way of the signal. Where all images look
# alike to the head, the layers below it are told nothing.
#
# ## C5: the initial weights
#
# Keras draws kernels by Glorot's rule: mean 0, variance 2 / (fan in + fan out). Each point is one kernel as the
# release drew it; 1 is exactly Glorot. Small kernels scatter more, as samples do: the band is five standard errors.

# %% tags=["draw"]
fig, ax = case.axes()
for release, run in runs.items():
    rows = run["initial"]
    ax.semilogx(
        [row[1] for row in rows],
        [row[3] for row in rows],
        "o",
        markersize=4,
        alpha=0.7,
        color=case.COLOURS[release],
        label=case.label(release),
    )
sizes = np.geomspace(100, 5e5)
band = 5 * np.sqrt(0.2 / sizes)  # a uniform distribution's standard deviation has this standard error, times five
ax.fill_between(sizes, 1 - band, 1 + band, color=case.GREY, alpha=0.2, linewidth=0)
ax.set(xlabel="numbers in the kernel", ylabel="standard deviation / Glorot's", ylim=(0.6, 1.4))
ax.legend(fontsize=9)
case.show(
    fig,
    "The standard deviation of every initial kernel is what Glorot's rule says, within sampling error.",
)

# %% [markdown]
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C4", "C5")
