# %% [markdown]
# # C11 + C12 + C13: the learning phase
#
# **`set_learning_phase(True)` did not make `fit` any faster. On TensorFlow 1.14 it put validation itself into the
# training phase.** The same weights, asked in the inference phase, were at chance. Later releases validate in the
# inference phase whatever the setter says, so the effect is gone; Keras 3 has no setter at all.
#
# The article (C11): one line, `tf.keras.backend.set_learning_phase(True)`, and the stuck loop works; the same line
# makes `fit` "converge in one epoch". Its first advice (C13) is therefore to set the phase by hand even with `fit`.

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
runs = case.runs("learning_phase", live=LIVE)
plain = case.runs("scratch_fit", live=LIVE)

# %% tags=["draw"]
case.show_source("learning_phase", "updates", "both_phases", "phase_of")

# %% [markdown]
# ## C11: the loop, cured by one global line

# %% tags=["draw"]
fig, ax = case.axes(height=3.0)
for release, run in runs.items():
    if "loop" in run:
        accuracy = case.smooth(run["loop"]["accuracy"])
        ax.plot(np.arange(1, len(accuracy) + 1) * 20, accuracy, color=case.COLOURS[release], label=case.label(release))
stuck = case.smooth(case.results()["stuck_loop"]["stuck"]["accuracy"][:200])
ax.plot(np.arange(1, len(stuck) + 1) * 20, stuck, "--", color=case.GREY, label="without it")
ax.set(xlabel="step", ylabel="training accuracy", ylim=(0.4, 1.02))
ax.legend(fontsize=9)
case.show(fig, "With the learning phase set to True the loop that calls model(x) trains, where the setter exists.")

# %% tags=["draw"]
rows = []
for r, run in runs.items():
    if run["setter"] == "exists":
        rows.append(
            [
                case.label(r),
                "exists",
                float(np.mean(run["loop"]["accuracy"][-20:])),
                run["left_on_phase"],
                "yes" if run["left_on_moves_statistics"] else "no",
            ]
        )
    else:
        rows.append([case.label(r), f"<code>{run['setter']['error']}</code>", "–", "–", "–"])
case.show_table(
    [
        "release",
        "the setter",
        "accuracy at step 200",
        "a test with the phase left on runs in",
        "and moves the statistics",
    ],
    rows,
)

# %% [markdown]
# So it works where it exists, with a trap: whoever forgets to switch it back tests in the training phase, and every
# test batch moves the statistics. Switched back, the test runs in the inference phase, and shows what momentum 0.999
# has made of the statistics by then ([C7](c06-c07-fit-lag.py)):

# %% tags=["draw"]
case.show_table(
    ["release", "test with the phase switched off, in the", "its accuracy", "with re-estimated statistics"],
    [
        [case.label(r), run["switched_off_phase"], run["loop_val_accuracy"], run["loop_val_accuracy_reestimated"]]
        for r, run in runs.items()
        if run["setter"] == "exists"
    ],
)

# %% [markdown]
# ## C11: fit, and a validation in the wrong phase
#
# For each release, what `fit` printed as validation accuracy, without the setter and with it, and what
# the *same weights with the same statistics* answer after the last epoch, when the inference phase is asked for by
# name.

# %% tags=["draw"]
case.show(*case.figure_learning_phase(runs, plain))

# %% tags=["draw"]
rows = []
for r, run in runs.items():
    if run["setter"] == "exists":
        rows.append(
            [
                case.label(r),
                plain[r]["fit"]["val_accuracy"][-1],
                f"<strong>{run['fit']['val_accuracy'][-1]:.3f}</strong>",
                run["evaluate_accuracy"],
                run["fit_val_accuracy_inference"],
                run["fit_val_accuracy_training"],
                run["predict_phase"],
            ]
        )
case.show_table(
    [
        "release",
        "<code>fit</code> shows, without the setter",
        "<code>fit</code> shows, with it",
        "<code>evaluate</code> after it",
        "inference phase, by name",
        "training phase, by name",
        "<code>predict</code> ran in",
    ],
    rows,
)

# %% [markdown]
# On 1.14 `evaluate` is the training phase's accuracy to the digit. What `fit` shows differs from it by a few
# hundredths: in the training phase the answer for one image depends on the others in its batch. `predict` ran in the
# training phase as well, so none of the model's own methods could have told.
#
# ## C13: was training faster?
#
# No. From the same weights over the same batches, the training curves with and without the setter are the same run.

# %% tags=["draw"]
fig, ax = case.axes(height=3.0)
for release, run in runs.items():
    if "fit" in run:
        epochs = np.arange(1, len(run["fit"]["accuracy"]) + 1)
        ax.plot(
            epochs,
            plain[release]["fit"]["accuracy"],
            color=case.COLOURS[release],
            linewidth=6,
            alpha=0.35,
            label=f"{case.label(release)}, without",
        )
        ax.plot(
            epochs, run["fit"]["accuracy"], "o-", color=case.COLOURS[release], markersize=4, linewidth=1, label="with"
        )
ax.set(xlabel="epoch", ylabel="training accuracy", ylim=(0.45, 1.02))
ax.legend(fontsize=8, ncols=2)
case.show(fig, "Training accuracy epoch by epoch is the same with and without the learning phase set to True.")

# %% [markdown]
# ## C12: model.updates
#
# The article wanted to run the assign operations itself. What the list holds, and what comes of trying:

# %% tags=["draw"]
rows = []
for r, run in runs.items():
    held = run["updates"]
    if "error" in held:
        rows.append([case.label(r), f"<code>{held['error']}</code>", "–", "–", "–"])
        continue
    if not held["count"]:
        rows.append([case.label(r), "empty", "–", "–", "–"])
        continue
    tries = [
        held[way] if isinstance(held[way], str) else f"<code>{held[way]['error']}</code>"
        for way in ("read", "called", "session")
    ]
    rows.append([case.label(r), f"{held['count']} of kind {', '.join(held['kinds'])}", *tries])
case.show_table(
    ["release", "<code>model.updates</code>", "<code>.numpy()</code>", "called", "<code>Session().run</code>"], rows
)

# %% [markdown]
# Today's spelling of all of it is the argument: `model(x, training=True)` in the step, `model(x, training=False)` in
# the test. [Line by line](../reference/learning-phase.md).
#
# ## Verdict

# %% tags=["draw"]
case.show_verdicts("C11", "C12", "C13")
