# %% [markdown]
# # The listing as printed, and as meant
#
# **Two lines of the article's listing cannot be what it ran, and each makes the puzzle worse for whoever copies it.**
# The printed head is linear under a loss that expects probabilities: with it, even the right phase can stay at
# chance. And the printed summary belongs to another model: a frozen base under a head of one unit.

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
heads = case.runs("listing_head", live=LIVE)
summaries = case.runs("listing_summary", live=LIVE)
frozen = case.runs("listing_frozen", live=LIVE)
newest = "live" if LIVE else case.TODAY

# %% tags=["draw"]
case.show_source("listing_head", "listing_summary", "listing_frozen")

# %% [markdown]
# ## A linear head under a loss that expects probabilities
#
# The listing ends in `Dense(NUM_CLASSES)` with no activation and trains it with `sparse_categorical_crossentropy`,
# which takes its input for probabilities and clips it to between 0 and 1. A linear output below 0 is clipped, and a
# clipped output has no gradient. Below is the *cured* loop, `training=True`, from several initial weights.

# %% tags=["draw"]
fig, (left, right) = case.axes(2, sharey=True)
for ax, name, title in ((left, "printed", "as printed: linear"), (right, "meant", "as meant: softmax")):
    for run, colour in zip(heads[newest][name], (case.BLUE, case.ORANGE, case.GREEN, case.PURPLE), strict=True):
        accuracy = case.smooth(run["accuracy"], 15)
        ax.plot(
            np.arange(1, len(accuracy) + 1) * 15,
            accuracy,
            "o-",
            markersize=3,
            color=colour,
            label=f"seed {run['seed']}",
        )
    ax.set(title=title, xlabel="step", ylim=(0.35, 1.0))
left.set_ylabel("training accuracy")
left.legend(fontsize=9)
case.show(
    fig,
    "With the linear head every seed stays near chance even with training=True; with softmax all seeds learn.",
    f"Means of 15 steps, {case.label(newest)}.",
)


# %% tags=["draw"]
def last(run):
    return float(np.mean(run["accuracy"][-30:]))


seeds = [run["seed"] for run in heads[newest]["printed"]]
case.show_table(
    ["release", "head", *[f"seed {seed}" for seed in seeds]],
    [
        [case.label(r), "linear" if name == "printed" else "softmax", *map(last, run[name])]
        for r, run in heads.items()
        for name in ("printed", "meant")
    ],
)

# %% [markdown]
# Training accuracy over the last 30 steps. So a reader who copies the listing has a second sufficient cause for
# accuracy at chance, and the cure of the first does not help.
#
# Did the article run it? Its own printout says no. It shows predictions that add up to 1 in every row, which a linear
# head does not give:

# %% tags=["draw"]
sums = [a + b for a, b in case.article()["stuck_predictions"]]
case.say(
    f"Sums of the {len(sums)} printed rows: from {min(sums):.7f} to {max(sums):.7f}. The head that ran was a softmax."
)

# %% [markdown]
# ## A summary that belongs to another model
#
# The printed summary says 1,281 trainable parameters under a head labelled `(None, 2)`. Count:

# %% tags=["draw"]
counts, printed = summaries[newest]["parameters"], case.article()["summary"]
case.show_table(
    ["head", "its parameters", "whole model"],
    [[f"Dense({units})", f"{row['head']:,}", f"{row['total']:,}"] for units, row in counts.items()]
    + [["printed", f"{printed['trainable']:,} trainable", f"{printed['total']:,}"]],
)

# %% [markdown]
# Only a head of one unit on a base that is frozen whole has these numbers: not the listing's model.
# It may explain the first success (C1): a frozen pretrained base keeps its good statistics in every loop.
#
# As printed it cannot train on the listing's loss: one output for two classes leaves class 1 without a place.

# %% tags=["draw"]
case.show_table(
    ["release", "<code>Dense(1)</code> under <code>sparse_categorical_crossentropy</code>"],
    [
        [
            case.label(r),
            f"<code>{run['one_unit_loss']['error'].split('  Label values')[0]}</code>"
            if isinstance(run["one_unit_loss"], dict)
            else f"{run['one_unit_loss']:.4g}",
        ]
        for r, run in summaries.items()
    ],
)

# %% [markdown]
# ## A frozen base from scratch
#
# Freeze a base with `weights=None`, and `model(x)` stays at chance on every release: a third way into the same
# symptom. `training=True` is no way out today, since a frozen BatchNormalization runs in the inference phase whatever
# it is told. On 1.14 and 2.0.0 it reached the base: rows differ, and still no statistic moves.

# %% tags=["draw"]
rows = []
for r, run in frozen.items():
    for name, call in (("frozen", "model(x)"), ("frozen_training_true", "model(x, training=True)")):
        rows.append(
            [
                case.label(r),
                f"<code>{call}</code>",
                float(np.mean(run[name]["accuracy"][-40:])),
                case.tiny(max(run[name]["spread"][-20:])),
                sum(max(pair) > 0 for pair in run[f"{name}_moved"]),
            ]
        )
case.show_table(
    ["release", "frozen base, <code>weights=None</code>", "accuracy", "rows differ by", "layers whose statistics move"],
    rows,
)

# %% [markdown]
# Why 2.0.0 too, whose `BatchNormalization` already took frozen for the inference phase? Its `keras.applications` were
# still built from the old class:

# %% tags=["draw"]
places = ["keras.applications", "keras.layers"]
case.show_table(
    ["frozen means the inference phase in", *(f"<code>{place}</code>" for place in places)],
    [
        [case.label(r), *("yes" if run["frozen_means_inference"][place] else "no" for place in places)]
        for r, run in frozen.items()
    ],
)
