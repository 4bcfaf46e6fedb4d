# %% [markdown]
# # C6 + C7: fit learns, validation waits
#
# **Training accuracy climbs, validation stays at chance, and nothing is broken.** `fit` updates the moving
# statistics, but MobileNetV2 asks for `momentum=0.999`: every update replaces one thousandth of them. Validation
# reads those statistics, so it waits until almost nothing of their initial values, 0 and 1, is left.
#
# The article saw this (C7): training accuracy 0.62 → 0.87 in four epochs with validation at 0.50. The next lines it
# prints are epochs 18 to 20, with validation recovered. "It should not be this slow." Its lead (C6) was a known
# report that saving loses the moving statistics.

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
LIVE = False  # True: measure it now on your own TensorFlow as well (about 5 minutes)
runs = case.runs("scratch_fit", live=LIVE)
newest = "live" if LIVE else case.TODAY
today = runs[newest]

# %% [markdown]
# ## The experiment
#
# MobileNetV2 as in the article (`weights=None`, softmax over two classes, RMSprop), at width 0.35, on 1,440 real
# scans of digits enlarged to 32×32: odd or even? 45 batches of 32 make an epoch. The initial weights and the order of
# the batches come from NumPy, so every release starts from the same numbers and sees the same images.

# %% tags=["draw"]
case.show_source("scratch_fit", "fit", "mobilenet", "reestimate", "batch_norms")

# %% [markdown]
# ## What fit prints

# %% tags=["draw"]
fig, (left, right) = case.axes(2, sharey=True)
for release, run in runs.items():
    epochs = np.arange(1, len(run["fit"]["accuracy"]) + 1)
    left.plot(epochs, run["fit"]["accuracy"], color=case.COLOURS[release], label=case.label(release))
    left.plot(epochs, run["fit"]["val_accuracy"], "--", color=case.COLOURS[release])
left.annotate("training", (3, 0.80), color=case.INK, ha="right")
left.annotate("validation", (3, 0.52), color=case.INK)
left.set(title="Here: 45 updates an epoch", xlabel="epoch", ylabel="accuracy", ylim=(0.4, 1.02))
left.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 0.22))
printed = np.array([row[:3] for row in case.article()["scratch_fit"]["rows"]])
right.plot(printed[:, 0], printed[:, 1], "o-", color=case.GREY)
right.plot(printed[:, 0], printed[:, 2], "s--", color=case.GREY)
right.annotate("training", (11, 0.93), color=case.INK, ha="right")
right.annotate("validation", (10, 0.52), color=case.INK)
right.set(title="The article: 581 updates an epoch", xlabel="epoch", xlim=(0, 21))
case.show(
    fig,
    "Training accuracy rises within six epochs while validation accuracy stays at one half, on every release drawn; "
    "beside it the article's own figures, which do the same until its last three epochs.",
    "Solid: training, dashed: validation. Right: the lines the article printed.",
)

# %% tags=["draw"]
case.show_table(
    ["release", "training accuracy", "validation accuracy", "spread of one batch's predictions"],
    [
        [case.label(r), run["fit"]["accuracy"][-1], run["fit"]["val_accuracy"][-1], case.tiny(run["spread"])]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# Every row of a batch gets the same prediction (the spread above is the largest difference within a batch of 32), as
# in the article, although this is `fit`, which does run in the training phase.
#
# ## The momentum arithmetic, drawn over the measured curve
#
# After *n* updates a moving average with momentum *m* still holds the share *mⁿ* of its initial value. That is
# arithmetic; is it what happens? Two runs of `fit` start from the same weights and see the same batches, but begin
# with statistics that differ by exactly 1. The training phase never reads them. So whatever difference is left later
# is the share of the initial value that is left, in every channel of all BatchNormalization layers.

# %% tags=["draw"]
momentum = today["momentum"][0]
share = np.array(today["share_left"])
n = np.arange(0, share[-1, 0] + 1)
fig, ax = case.axes()
ax.plot(n, momentum**n, color=case.GREY, linewidth=6, alpha=0.5, solid_capstyle="round")
ax.plot(share[:, 0], share[:, 1], "o", color=case.BLUE, markersize=6)
ax.text(0.97, 0.9, f"line: {momentum}ⁿ", color=case.INK, ha="right", transform=ax.transAxes)
ax.text(0.03, 0.1, "points: measured in the model", color=case.BLUE, transform=ax.transAxes)
ax.set(xlabel="updates of the moving statistics", ylabel="share of the initial value left", ylim=(0.85, 1.01))
case.show(
    fig,
    "The measured share of the initial statistics lies on the curve 0.999 to the power n.",
    f"Line: arithmetic. Points: median over all channels of {today['layers']} layers, {case.label(newest)}.",
)

# %% tags=["draw"]
per_epoch = case.article()["steps_per_epoch"]
case.say(
    f"After our {share[-1, 0]:.0f} updates {share[-1, 1]:.0%} of the initial statistics are still there "
    f"({momentum}ⁿ says {momentum ** share[-1, 0]:.0%}). The article's first epoch of {per_epoch} updates left "
    f"{momentum**per_epoch:.0%}, its fourth {momentum ** (4 * per_epoch):.0%}."
)

# %% [markdown]
# ## Why a small share left is too much
#
# Because some layers need very small statistics. In a third of them, the depthwise ones, the variance of the input is a
# few hundredths or less. Next to that, even a small share of the initial variance 1 is a giant: the layer divides by a
# number far too large, and the next depthwise layer does it again.

# %% tags=["draw"]
have, needed = np.array(today["needed"]).T
fig, ax = case.axes(height=3.2)
ax.semilogy(have, "_", color=case.ORANGE, markersize=9, markeredgewidth=2)
ax.semilogy(needed, "o", color=case.BLUE, markersize=5)
ax.text(0, 2.2, "moving variance that the layer has after six epochs", color=case.ORANGE)
ax.text(0, 2e-4, "variance that its input really has", color=case.BLUE)
ax.set(xlabel="BatchNormalization layer, from input to output", ylabel="variance", ylim=(5e-5, 8))
case.show(
    fig,
    "After six epochs the moving variance of a third of the layers is many times the variance that their input has.",
    f"Medians over channels, logarithmic. {case.label(newest)}.",
)

# %% [markdown]
# ## Two cures
#
# **Re-estimate the statistics.** One pass over the training images in the training phase, and not one training step:

# %% tags=["draw"]
case.show_table(
    ["release", "validation accuracy as `fit` left it", "with re-estimated statistics"],
    [
        [case.label(r), run["before_reestimate"], f"<strong>{run['reestimated']:.3f}</strong>"]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# **Or lower the momentum before training.** With 0.9 the initial values are gone after two or three epochs. The
# training curve is the same, to the last digit shown: the training phase does not read the moving statistics at all.

# %% tags=["draw"]
slow, quick = today["fit"], today["fit_momentum_0.9"]
case.show_table(
    ["epoch", "training, momentum 0.999", "training, momentum 0.9", "validation, 0.999", "validation, 0.9"],
    [
        [
            epoch + 1,
            slow["accuracy"][epoch],
            quick["accuracy"][epoch],
            slow["val_accuracy"][epoch],
            quick["val_accuracy"][epoch],
        ]
        for epoch in range(len(slow["accuracy"]))
    ],
)

# %% [markdown]
# The recipe for both, exact over many batches and as a callback, is
# [`recalibrate_batchnorm`](../recipes/recalibrate_batchnorm.md).
#
# ## When does validation wake up by itself?
#
# If the leftover share is what counts, then one clock fits all: put *mⁿ* on the axis instead of epochs. Below are two
# waits on that clock: ours with momentum 0.99, and the article's with 0.999.

# %% tags=["draw"]
case.show(*case.figure_clock(runs))

# %% [markdown]
# ## C6: is it the saving?
#
# The article's lead was a report that saving a model loses the moving statistics. Two measurements: do they survive
# `save_weights` and `load_weights`; and would losing them look like this?

# %% tags=["draw"]
case.show_table(
    [
        "release",
        "largest change by saving and loading",
        "accuracy with the statistics reset to 0 and 1",
        "spread of a batch",
    ],
    [
        [
            case.label(r),
            run["saved"] if not isinstance(run["saved"], dict) else run["saved"]["error"],
            run["lost"]["accuracy"],
            case.tiny(run["lost"]["spread"]),
        ]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# So the lead was right about the symptom and wrong about the cause: a model whose statistics are lost looks exactly
# like this, but saving its weights loses nothing. The statistics were never good in the first place.
#
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C6", "C7")
