# %% [markdown]
# # C8: the statistics, before and after both loops
#
# **`fit` moves the statistics of every BatchNormalization layer; the loop that calls `model(x)` moves none.** A
# pretrained base works in both, because its statistics are good before the first step.
#
# The article printed one layer's moving mean and variance before and after (C8) and called the updates by `fit`
# "oddly slow". Here are all layers.

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
LIVE = False  # True: measure it now on your own TensorFlow as well (about 7 minutes)
fits = case.runs("scratch_fit", live=LIVE)
loops = case.runs("stuck_loop", live=LIVE)
newest = "live" if LIVE else case.TODAY

# %% tags=["draw"]
case.show_source("statistics", "moved", "Loop", "fit")

# %% [markdown]
# ## Every layer

# %% tags=["draw"]
fig, (left, right) = case.axes(2, height=3.6)
updates = len(fits[newest]["fit"]["loss"]) * 45
series = (
    (f"fit, {updates} updates", np.array(fits[newest]["moved"]), "o", case.BLUE),
    ("loop, model(x, training=True)", np.array(loops[newest]["cure_moved"]), "x", case.GREEN),
    ("loop, model(x)", np.array(loops[newest]["stuck_moved"]), "s", case.RED),
)
for name, moves, marker, colour in series:
    left.plot(moves[:, 0], marker, color=colour, markersize=4, label=name)
    right.plot(moves[:, 1], marker, color=colour, markersize=4)
left.set_yscale("symlog", linthresh=1e-8)
left.set(title="moving mean", ylabel="mean absolute change", xlabel="layer")
right.set(title="moving variance", xlabel="layer", ylim=(-0.02, 0.45))
left.legend(fontsize=8, loc="center left", bbox_to_anchor=(0.0, 0.2))
case.show(
    fig,
    "fit and the loop with training=True change mean and variance in all 52 layers; the loop without it changes none.",
    f"Change from the initial 0 and 1, one point a layer, {case.label(newest)}. The axis of the means is logarithmic.",
)


# %% tags=["draw"]
def count(moves):
    return f"{sum(max(pair) > 0 for pair in moves)} of {len(moves)}"


case.show_table(
    [
        "release",
        "layers that <code>fit</code> moves",
        "that <code>model(x)</code> moves",
        "that <code>model(x, training=True)</code> moves",
    ],
    [
        [case.label(r), count(fits[r]["moved"]), count(loops[r]["stuck_moved"]), count(loops[r]["cure_moved"])]
        for r in fits
    ],
)

# %% [markdown]
# ## Does fit set the learning phase?
#
# The article's first open question. A spy layer writes down what reaches it: its own `training` argument, and what
# `keras.backend.learning_phase()` says at that moment.

# %% tags=["draw"]
case.show_source("what_layers_are_told", "fit_anatomy")

# %% tags=["draw"]
anatomy = case.runs("fit_anatomy", live=LIVE)
routes = ("m(x)", "fit", "evaluate", "predict", "m(x) after fit")
case.show_table(
    ["release", *[f"<code>{route}</code>" for route in routes]],
    [
        [
            case.label(r),
            *["<br>".join(run["told"][route]) or "the graph that <code>fit</code> traced" for route in routes],
        ]
        for r, run in anatomy.items()
    ],
)

# %% [markdown]
# Only for its own duration, and only on the oldest two. A *tensor* is their placeholder: one graph for both phases, and
# each route feeds it its own value; on 2.0.0 a layer inside `fit` could also read 1. By 2.15 `fit` passes
# `training=True` down as a plain argument and the global phase stays 0. After `fit`, `m(x)` is told what it was told
# before, on every release.
#
# Keras 2 also handed the phase of `fit` to layers that nobody had passed it to. In Keras 3 a model whose `call` cannot
# take the phase hands nothing on, which is what the orange bars show.

# %% tags=["draw"]
case.show(*case.figure_told(case.runs("subclass", live=LIVE)))

# %% [markdown]
# ## How does it update the statistics?
#
# The second open question. After every batch, `moving = momentum * moving + (1 - momentum) * batch`, as a side effect
# of calling the layer in the training phase. Nothing has to be run by hand. To show it, the learning rate is 0, so
# that the weights stand still and the statistics of all batches are known beforehand.

# %% tags=["draw"]
case.show(*case.figure_updates(anatomy[newest]))

# %% tags=["draw"]
case.show_table(
    ["release", "largest difference between <code>fit</code> and the formula"],
    [[case.label(r), case.tiny(run["largest_gap"])] for r, run in anatomy.items()],
)

# %% [markdown]
# ## "Oddly slow": the variance after 270 updates
#
# The moving variance of the depthwise layers is on its way from 1 to something close to 0. After *n* updates it can
# have covered the share 1 − 0.999ⁿ of that way and no more: the upper edge of the right-hand cloud above.

# %% tags=["draw"]
share = 1 - 0.999**updates
largest = float(np.max(np.array(fits[newest]["moved"])[:, 1]))
case.say(
    f"1 − 0.999ⁿ for n = {updates} is {share:.3f}. "
    f"The largest change of a layer's moving variance by `fit` is {largest:.3f}."
)

# %% [markdown]
# How long that takes is [C7](c06-c07-fit-lag.py). Why a pretrained base is spared is [C2](c01-c02-pretrained.py).
#
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C8")
