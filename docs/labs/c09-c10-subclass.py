# %% [markdown]
# # C9 + C10: a subclass without and with training
#
# **A subclass whose `call` takes `training` and hands it on is the right cure, then and now.** Without it the weights
# train and the statistics never move; in Keras 3 not even under `fit`. But give the argument no default of `True`, as
# the article did: whoever forgets it serves batch statistics.
#
# The article (C9): another author's advice, a subclass, trains well and leaves the statistics alone: "not a fix".
# Then (C10) `call(self, x, training=True)`, told `True` and `False`: statistics move, the test is right.

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
LIVE = False  # True: measure it now on your own TensorFlow as well (about 10 seconds)
runs = case.runs("subclass", live=LIVE)

# %% [markdown]
# ## The experiment
#
# The article's network: one convolution, one BatchNormalization, two dense layers; all ten digits, 8×8. One layer
# means that the signal survives without normalization, so it trains either way.

# %% tags=["draw"]
case.show_source("without_training", "with_training", "subclass", "phases_by_route")

# %% [markdown]
# ## C9: without training

# %% tags=["draw"]
fig, (left, right) = case.axes(2)
for release, run in runs.items():
    for curve, style in (("c9_loop", "-"), ("c10_loop", "--")):
        loss = case.smooth(run[curve]["loss"], 9)
        left.semilogy(
            np.arange(1, len(loss) + 1) * 9,
            loss,
            style,
            color=case.COLOURS[release],
            label=case.label(release) if style == "-" else None,
        )
left.set(title="loss in the loop", xlabel="step")
left.legend(fontsize=9)
ways = (("C9 loop", "c9_loop_moved"), ("C9 fit", "c9_fit_moved"), ("C10 loop", "c10_loop_moved"))
for offset, (release, run) in enumerate(runs.items()):
    heights = [run[key][0][1] for _, key in ways]
    right.bar(np.arange(3) + offset * 0.2 - 0.3, heights, 0.18, color=case.COLOURS[release])
right.set_xticks(range(3), [name for name, _ in ways])
right.set(title="change of the moving variance")
case.show(
    fig,
    "Both subclasses train. Without training the moving variance does not change in the loop on any release, and under "
    "fit it changes on TensorFlow 1.14 to 2.15 but not today.",
    "Solid: C9, without training; dashed: C10, with it. A missing bar is a change of exactly 0.",
)


# %% tags=["draw"]
def moves(pairs):
    return "move" if max(pairs[0]) > 0 else "<strong>never move</strong>"


case.show_table(
    [
        "release",
        "C9 in the loop",
        "accuracy",
        "C9 under <code>fit</code>",
        "validation",
        "C10 in the loop",
        "test accuracy",
    ],
    [
        [
            case.label(r),
            moves(run["c9_loop_moved"]),
            run["c9_loop_val_accuracy"],
            moves(run["c9_fit_moved"]),
            run["c9_fit"]["val_accuracy"][-1],
            moves(run["c10_loop_moved"]),
            run["c10_test_accuracy"],
        ]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# Today the C9 subclass is worse than in the article's time: `fit` used to bring a learning phase of its own along,
# which reached the layer without any argument. In Keras 3 a model whose `call` cannot take the phase hands nothing
# on.
#
# ## C10: what a default of training=True does
#
# The statistics, and so the phase, of every route into the same trained model, with the article's default and with
# `training=False`. "Training" here means: the prediction for one image depends on the other images of its batch.


# %% tags=["draw"]
def route(answer):
    if "error" in answer:
        return answer["error"]
    return ("<strong>training</strong>" if answer["phase"] == "training" else answer["phase"]) + (
        ", moves statistics" if answer["moves_statistics"] else ""
    )


rows = []
for r, run in runs.items():
    for default in ("true", "false"):
        answers = run[f"c10_default_{default}"]
        served = route(answers["served"]) + (", writes to variables" if answers.get("served_assigns") else "")
        rows.append(
            [
                case.label(r),
                f"<code>training={default.title()}</code>",
                route(answers["call"]),
                route(answers["predict"]),
                served,
                f"<code>{answers['written_by']}</code>",
            ]
        )
case.show_table(
    ["release", "default", "<code>model(x)</code>", "<code>predict</code>", "the exported model", "exported with"], rows
)

# %% [markdown]
# `predict` is safe: it passes `training=False` itself. `model(x)` is not, and the export is not: it traces `call`
# with its own default (2.0.0's export alone served inference). Let the default be `None` or
# `False`, and export through an endpoint that says `training=False`:
# [`export_inference_model`](../recipes/export_inference_model.md).
#
# One more thing the old releases did: after training in a loop, `predict` on the very same model could fail.

# %% tags=["draw"]
case.show_table(
    ["release", "<code>predict</code> on the model that the loop has trained"],
    [
        [
            case.label(r),
            f"<code>{run['c10_predict_after_loop']['error']}</code>"
            if isinstance(run["c10_predict_after_loop"], dict)
            else "works",
        ]
        for r, run in runs.items()
    ],
)

# %% [markdown]
# The whole pattern, with a guard against the missing argument:
# [`subclass_training_arg`](../recipes/subclass_training_arg.md).
#
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C9", "C10")
