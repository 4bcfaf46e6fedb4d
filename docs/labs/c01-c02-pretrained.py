# %% [markdown]
# # C1 + C2: pretrained, both ways work
#
# **On a pretrained base a loop that never says `training` trains just as well as `fit`.** The statistics came with
# the weights, and the inference phase only reads them. So the mistake is there from the first line and waits for
# `weights=None`. That is also why the tutorial that the article started from does not stumble over it (C14).
#
# The article (C1, C2): MobileNetV2 with ImageNet weights on cats and dogs, validation 0.98 with `fit`, and "still
# perfect" with its own loop.

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
runs = case.runs("pretrained", live=LIVE)

# %% [markdown]
# ## The experiment
#
# ImageNet cannot be had offline, so the base is pretrained here: on the digits 5 to 9, "which is it?". Then it is
# transferred to a task it has never seen, on digits it has never seen: 0 to 4, odd or even? (With momentum 0.99, for
# the reason that [C7](c06-c07-fit-lag.py) gives: these runs are shorter than the article's.) To use ImageNet's own
# weights instead: `python tests/versions/experiments.py out.json --only pretrained --imagenet`.

# %% tags=["draw"]
case.show_source("pretrained", "Loop", "mobilenet")

# %% tags=["draw"]
fig, (left, right) = case.axes(2)
for release, run in runs.items():
    epochs = np.arange(1, len(run["fit"]["accuracy"]) + 1)
    left.plot(epochs, run["fit"]["accuracy"], color=case.COLOURS[release], label=case.label(release))
    left.plot(epochs, run["fit"]["val_accuracy"], "--", color=case.COLOURS[release])
    loop = case.smooth(run["loop"]["accuracy"], 15)
    right.plot(np.arange(1, len(loop) + 1) * 15, loop, color=case.COLOURS[release])
left.set(title="C1: fit", xlabel="epoch", ylabel="accuracy", ylim=(0.4, 1.02))
right.set(title="C2: own loop, model(x)", xlabel="step", ylim=(0.4, 1.02))
left.legend(fontsize=9, loc="lower right")
case.show(
    fig,
    "From a pretrained base both fit and the loop without training reach high accuracy on every release.",
    "Solid: training, dashed: validation.",
)

# %% tags=["draw"]
case.show_table(
    [
        "release",
        "validation before",
        "after <code>fit</code> (C1)",
        "after the loop (C2)",
        "layers whose statistics the loop moved",
    ],
    [
        [
            case.label(r),
            run.get("before", "–"),
            run["fit"]["val_accuracy"][-1],
            run["loop_val_accuracy"],
            sum(max(p) > 0 for p in run["loop_moved"]),
        ]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# ## C14: why does nobody tell you?
#
# The article asks why the tutorials of its day said nothing. Because their example is this page: pretrained, where
# nothing goes wrong. And the place where one would look said little. Does the documentation that comes with the wheel,
# `BatchNormalization`'s own, say what the argument does, and what a call without it does?

# %% tags=["draw"]
docs = {r: case.results(r)["documentation"]["BatchNormalization"] for r in case.RELEASES}
facts = [fact for fact, answer in docs[case.TODAY].items() if isinstance(answer, bool)]
case.show_table(
    ["the layer's documentation says", *map(case.label, docs)],
    [[fact, *("yes" if docs[r][fact] else "no" for r in docs)] for fact in facts],
)

# %% tags=["draw"]
first, last = case.RELEASES[0], case.TODAY
case.say(
    f"In {case.label(first)}'s words: \"{docs[first]['quote'][0]}.\" In {case.label(last)}'s: "
    f'"{docs[last]["quote"][0]}."'
)

# %% [markdown]
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C1", "C2", "C14")
