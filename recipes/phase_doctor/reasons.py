"""Why moving statistics lie far from a batch's, and the cure for that reason."""

from __future__ import annotations

import math
from typing import Any

from .evidence import Evidence, Layer, Statistic, remembered
from .facts import quoted, untouched
from .gap import ratio
from .rule import Cure

LOAD = Cure(
    "load-or-train-this-layer",
    "Load its weights too: `load_weights` without `skip_mismatch` names what does not "
    "fit. If it is new, train it. Statistics are not what is missing.",
)
PREPARE = Cure(
    "prepare-the-input-as-in-training",
    "Prepare this input as in training: the same scale, the same order of channels. "
    "The statistics are those of the training data: leave them.",
)
LONGER = Cure(
    "train-longer-or-re-estimate",
    "Train for more steps, lower the momentum, or re-estimate the statistics over "
    "training batches.",
    "recalibrate_batchnorm",
)
SHUFFLE = Cure(
    "shuffle-the-batches",
    "Hand the doctor a mixed batch. If the training batches are like this one, shuffle "
    "them and train again: no statistics fit batches of one class.",
)
TELL = Cure(
    "tell-data-from-statistics",
    "Examine a batch of the training data, prepared as in training. If that is clean, "
    "this batch is other data: prepare it alike. If not, the weights have changed "
    "since: re-estimate the statistics over training batches.",
    "recalibrate_batchnorm",
)
CURES = (LONGER, LOAD, PREPARE, SHUFFLE, TELL)

Reason = tuple[str, str, dict[str, Any]]  # the id of a cure, in words, evidence


def reason(seen: Evidence, statistic: Statistic, measured: dict[str, float]) -> Reason:
    """Why these statistics lie far from the batch's."""
    path = statistic.layer.path
    skipped = as_created(seen, statistic)
    if statistic.layer in skipped:
        text = f"{path!r} is exactly as it was created, other layers are not."
        return LOAD.id, text, {}
    if skipped:
        names = quoted(layer.path for layer in skipped[:3])
        text = (
            f"{names} before {path!r} are exactly as they were created, so it gets "
            "other inputs than those that its moving statistics describe."
        )
        return LOAD.id, text, {}
    steps = steps_behind(seen, statistic, measured)
    scaled = scale(seen)
    if scaled and not counted(seen, steps):
        first, factor = scaled[0].layer.path, scaled[1]
        text = (
            f"The inputs of {first!r} vary {factor:.3g} times as widely as its moving "
            "statistics say, in every channel alike: this batch is on another scale "
            "than the training data."
        )
        if path != first:
            text += f" {path!r} lies behind it."
        return PREPARE.id, text, {"factor": factor}
    if steps:
        text = (
            f"{steps['initial_value_left']:.2g} of the initial moving statistics of "
            f"{path!r} is left, as after {steps['steps_seen']} steps at momentum "
            f"{statistic.momentum:g}; these data need {steps['steps_needed']}."
        )
        return LONGER.id, text, steps
    text = (
        f"The moving statistics of {path!r} lie {ratio(measured):.0f} times sampling "
        "noise from this batch's, and what is left of the initial values does not "
        "explain it: "
    )
    if seen.one_class:
        text += "every sample of this batch has the same target."
        return SHUFFLE.id, text, {}
    text += "the weights have changed since, or the batch is unlike the training data."
    return TELL.id, text, {}


def as_created(seen: Evidence, statistic: Statistic) -> list[Layer]:
    """Normalisations as they were created, at this one or before it, in a model where
    others are not."""
    if not any(layer.trained for layer in seen.layers):
        return []
    calls = [call.layer for call in seen.training.calls] if seen.training else []
    fresh = [s.layer for s in seen.statistics if untouched(s) and s.layer.affine]
    fresh = [layer for layer in fresh if not layer.trained and layer in calls]
    mine = calls.index(statistic.layer) if statistic.layer in calls else -1
    return [layer for layer in fresh if calls.index(layer) <= mine]


@remembered
def scale(seen: Evidence) -> tuple[Statistic, float] | None:
    """The first normalisation called and by how much its inputs are scaled, where that
    is the same in every channel.

    The quartiles of the ratios lie within a tenth of their median (in logarithms), and
    closer than those of the moving variances: a rest of the initial value, which is the
    same in every channel, does not follow the batch's variances.
    """
    behind = {s.layer: (s, m) for s, m in seen.phases.behind} if seen.phases else {}
    calls = [call.layer for call in seen.training.calls] if seen.training else []
    first = next((layer for layer in calls if layer in behind), None)
    if first is None or behind[first][0].variance is None:
        return None
    statistic, measured = behind[first]
    stretch, apart = measured.get("stretch", 0.0), "stretch_between_channels"
    alike = measured.get(apart, 1.0) < 0.1 * abs(stretch)
    follows = measured.get(apart, 1.0) < measured.get("moving_between_channels", 0.0)
    if measured.get("channels", 0) < 4 or abs(stretch) <= math.log(1.5):
        return None
    return (statistic, math.exp(stretch)) if alike and follows else None


def counted(seen: Evidence, steps: dict[str, Any]) -> bool:
    """Whether the optimizer has taken about as many steps as what is left says."""
    if not steps or not seen.steps:
        return False
    return abs(steps["steps_seen"] - seen.steps) <= max(3, seen.steps / 4)


def steps_behind(
    seen: Evidence, statistic: Statistic, measured: dict[str, float]
) -> dict[str, Any]:
    """The steps that what is left stands for; empty where it explains nothing.

    The distance of a variance is logarithmic: a rest of 5 % of the initial 1 is 50
    times a variance of 0.001. So the steps are counted down to 5 % of that.
    """
    momentum, left = statistic.momentum or 0.0, measured["left"]
    variance = 1.0
    if statistic.variance is not None:
        variance = min(1.0, max(measured.get("variance", 1.0), 1e-12))
    if not 0 < momentum < 1 or not 0.05 * variance < left <= 1:
        return {}
    if measured.get("between", 1.0) < 0.5:
        return {}
    # More steps than would leave a tenth of that: something else keeps them away.
    if momentum**seen.steps <= left / 10:
        return {}
    return {
        "initial_value_left": left,
        "steps_seen": 0 if left >= 1 else round(math.log(left) / math.log(momentum)),
        "steps_for_95_percent": steps_to(0.05, momentum),
        "steps_needed": steps_to(0.05 * variance, momentum),
        "variance": variance,
    }


def steps_to(left: float, momentum: float) -> int:
    return math.ceil(math.log(left) / math.log(momentum) - 1e-6)
