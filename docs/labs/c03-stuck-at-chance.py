# %% [markdown]
# # C3: stuck at chance, every row the same
#
# **A loop that calls `model(x)` trains the network in the inference phase.** BatchNormalization then divides by
# moving statistics that nobody ever updates: mean 0, variance 1, which is to say not at all. Through 52 layers
# without normalization the differences between images die out, every row of a batch gets the same prediction, and the
# loss stays at ln 2 ≈ 0.693. `model(x, training=True)` cures the loop.
#
# The article (C3): its own `tf.function` loop, fine on a pretrained MobileNetV2, sat at loss 0.69 and accuracy 50 %
# for 280 steps as soon as `weights=None`.

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

# %% [markdown]
# ## The experiment
#
# The article's loop, with the softmax head that it [must have had](listing-as-printed.py): `tf.function`,
# `GradientTape`, RMSprop. One argument makes the difference between
# the two runs: `forward` is `model(image)` or `model(image, training=True)`.

# %% tags=["draw"]
case.show_source("stuck_loop", "Loop", "mobilenet", "initialise", "batches")

# %% [markdown]
# ## Stuck, and cured

# %% tags=["draw"]
fig, (left, right) = case.axes(2)
printed = np.array(case.article()["stuck_loop"]["rows"])
steps = np.arange(20, 301, 20)
for release, run in runs.items():
    left.plot(steps, case.smooth(run["stuck"]["loss"][:300]), color=case.COLOURS[release], label=case.label(release))
    left.plot(steps, case.smooth(run["cure"]["loss"][:300]), "--", color=case.COLOURS[release])
    right.plot(steps, case.smooth(run["stuck"]["accuracy"][:300]), color=case.COLOURS[release])
    right.plot(steps, case.smooth(run["cure"]["accuracy"][:300]), "--", color=case.COLOURS[release])
left.plot(printed[:, 0], printed[:, 1], "s", markersize=3.5, color=case.GREY, label="the article printed")
right.plot(printed[:, 0], printed[:, 2], "s", markersize=3.5, color=case.GREY)
left.set(title="loss", xlabel="step", ylim=(0, 1.25))
right.set(title="training accuracy", xlabel="step", ylim=(0.4, 1.02))
left.legend(fontsize=9, loc="lower left")
right.text(20, 0.94, "model(x, training=True)", color=case.INK, fontsize=10)
right.text(300, 0.53, "model(x)", color=case.INK, fontsize=10, ha="right")
case.show(
    fig,
    "With model(x) loss stays at ln 2 and accuracy at one half, on every release and in the article; "
    "with training=True loss falls and accuracy rises.",
    "Solid: model(x). Dashed: model(x, training=True). Means of 20 steps; one line a release.",
)

# %% tags=["draw"]
case.show_table(
    [
        "release",
        "loss, last 20 steps",
        "accuracy, last 100",
        "largest difference between rows",
        "with <code>training=True</code>: accuracy at step 300",
    ],
    [
        [
            case.label(r),
            f"{np.mean(run['stuck']['loss'][-20:]):.4f}",
            float(np.mean(run["stuck"]["accuracy"][-100:])),
            case.tiny(run["stuck_spread"]),
            float(np.mean(run["cure"]["accuracy"][280:300])),
        ]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# ## Every row the same
#
# Predictions for the first images of one batch, as the article printed them and as measured here:

# %% tags=["draw"]
ours, theirs = today["stuck_rows"], case.article()["stuck_predictions"]
case.show_table(
    ["row", "the article", "here"],
    [
        [n, " ".join(f"{p:.6f}" for p in a), " ".join(f"{p:.5f}" for p in b)]
        for n, (a, b) in enumerate(zip(theirs[:5], ours[:5], strict=True))
    ],
)

# %% [markdown]
# Only the head's bias is left to learn, and the best a bias can do on two equal classes is ½ and ½: a loss of ln 2.
#
# ## Why: the signal dies on the way
#
# Below is how much the 32 images of a batch differ at the output of every BatchNormalization layer of the freshly
# initialised network. In the training phase each layer brings the differences back to the order of 1. In the inference
# phase, with statistics at 0 and 1, it passes them on as they come, and most depthwise convolutions make them ten times
# smaller.

# %% tags=["draw"]
fig, ax = case.axes(height=3.4)
signal = today["signal"]
ax.semilogy(np.maximum(signal["training"], 1e-45), "o-", color=case.GREEN, markersize=3.5)
ax.semilogy(np.maximum(signal["inference"], 1e-45), "o-", color=case.RED, markersize=3.5)
ax.text(51, 3, "training phase", color=case.GREEN, ha="right")
ax.text(27, signal["inference"][18] * 3, "inference phase, statistics 0 and 1", color=case.RED)
ax.axhline(np.finfo("float32").eps, color=case.GREY, linestyle=":")
ax.text(
    0, np.finfo("float32").eps * 0.15, "what float32 can tell from a constant 1", color=case.GREY, va="top", fontsize=9
)
ax.set(xlabel="BatchNormalization layer, from input to output", ylabel="difference between images")
case.show(
    fig,
    "In the training phase differences between images stay near one through all layers; in the inference phase they "
    "shrink by many orders of magnitude, far below float32 precision.",
    f"Standard deviation over the batch, mean over units, logarithmic. {case.label(case.TODAY)}, before training.",
)

# %% tags=["draw"]
case.say(
    f"At the last of the {len(signal['inference'])} layers the images differ by {signal['inference'][-1]:.0e} in the "
    f"inference phase and by {signal['training'][-1]:.2f} in the training phase. The head adds a bias to that and "
    "rounds: ten equal rows."
)

# %% [markdown]
# ## Trained right, still wrong in predict?
#
# The cured loop has trained the weights, and updated the statistics 300 times. That is too few for momentum 0.999, so
# `predict` is still at chance; re-estimated statistics show what the weights can do. That lag is
# [C7](c06-c07-fit-lag.py).

# %% tags=["draw"]
case.show_table(
    ["release", "validation accuracy after the cured loop", "with re-estimated statistics"],
    [[case.label(r), run["cure_val_accuracy"], run["cure_val_accuracy_reestimated"]] for r, run in runs.items()],
)

# %% [markdown]
# To write the loop well: [`subclass_training_arg`](../recipes/subclass_training_arg.md) for a class of your own,
# [`functional_learning_phase`](../recipes/functional_learning_phase.md) for a Functional model like this one.
#
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C3")
