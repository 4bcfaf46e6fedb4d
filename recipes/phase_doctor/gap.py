"""How far the two phases lie apart, and whether the moving statistics are to blame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .evidence import Evidence, Phases, Statistic, remembered
from .facts import (
    counts_untracked,
    lost_statistics,
    never_moved,
    stochastic,
    untracked_layers,
    was_trained,
)
from .noise import (
    F_LIMIT,
    MEDIUM_EFFECT,
    ROUNDING_SIGMAS,
    differences,
    effect_size,
    rms,
    t_limit,
    tell_apart_alike,
)
from .told import deaf, forgotten, step_tells


@dataclass
class Gap:
    """The measurements of `Phases`, set against what chance explains.

    Two conditions, both needed. Significance: a layer's moving statistics lie farther
    from the batch's than sampling noise explains, or they move the output farther than
    the statistics of half batches do. The squared ratio of the two is compared with
    Fisher's F; channels are correlated, so they count as five independent ones, and
    F(5, 5) exceeds 29.75 with probability 0.001. Size: the statistics move the
    inference output by at least half a standard deviation over the samples (Cohen's
    medium effect), with the sampling noise taken off first.
    """

    far: list[tuple[Statistic, dict[str, float]]] = field(default_factory=list)
    size: float = 0.0
    direct: bool = False  # the outputs themselves differ by that much
    low: float = 1.0  # spread of the outputs over the batch in inference
    high: float = 0.0  # the same with the batch's own statistics, or in training
    least: float = 0.0  # below which a spread is noise

    @property
    def harmful(self) -> bool:
        return bool(self.far) and self.size >= MEDIUM_EFFECT


def ratio(measured: dict[str, float]) -> float:
    return measured["distance"] / max(measured["noise"], 1e-9)


def effect_of(seen: Evidence) -> dict[str, float] | None:
    """What the batch's own statistics change; a random output does not tell."""
    return None if seen.phases is None or stochastic(seen) else seen.phases.effect


@remembered
def gap(seen: Evidence) -> Gap:
    phases, effect, found = seen.phases, effect_of(seen), Gap()
    if phases is None:
        return found
    ranked = sorted(phases.behind, key=lambda item: -ratio(item[1]))
    found.far = [item for item in ranked if ratio(item[1]) > F_LIMIT]
    if effect:
        change, noise = effect["rms_change"], effect["rms_noise"]
        found.size = effect_size(change, noise, effect["spread_batch"])
        if not found.far and change > F_LIMIT * noise:
            found.far = ranked[:1]
    outputs = phases.outputs
    if outputs:
        change, noise = outputs["rms_between_phases"], outputs["rms_noise"]
        size = effect_size(change, noise, outputs["spread_training"])
        found.direct = change > F_LIMIT * noise and size >= MEDIUM_EFFECT
    if effect and effect["spread_batch"] > F_LIMIT * effect["rms_noise"]:
        found.low, found.high = effect["spread_moving"], effect["spread_batch"]
        found.least = effect["rms_noise"]
    elif outputs and (
        outputs["spread_training"] > F_LIMIT * outputs["rms_noise"]
        or rows_matter(seen, outputs)
    ):
        found.low, found.high = outputs["spread_inference"], outputs["spread_training"]
    return found


def constant(seen: Evidence, found: Gap) -> bool:
    """Whether inference says the same for every sample where the batch differs."""
    limit = max(found.least, ROUNDING_SIGMAS * seen.noise)
    return found.low <= limit and found.low < found.high


def rows_matter(seen: Evidence, outputs: dict[str, float]) -> bool:
    """Whether two random training passes tell the samples apart alike."""
    draws = bool(seen.training and seen.training.random)
    if outputs["spread_inference"] > seen.noise or not draws or stochastic(seen):
        return False
    return tell_apart_alike(*seen.measure.training_again())


@remembered
def signs_of_training(seen: Evidence) -> bool:
    return was_trained(seen) or bool(forgotten(seen))


@remembered
def serves_better(seen: Evidence) -> bool:
    """Whether the moving statistics give this batch a lower loss than its own do.

    Test: paired Student's t over the samples, one-sided, at an error rate of 0.01. A
    batch of one class, or in sorted order, is far from the data that the statistics
    describe, and they are right all the same. Weights trained in the inference phase
    prefer it too, so statistics that never moved are not excused.
    """
    phases = seen.phases
    if phases is None or effect_of(seen) is None or not signs_of_training(seen):
        return False
    if any(never_moved(seen, s) for s in seen.statistics) or forgotten(seen):
        return False
    if deaf(seen) and not step_tells(seen):
        return False
    found = gap(seen)
    # Of one class, one answer for all is right.
    if not found.far or (constant(seen, found) and not seen.one_class):
        return False
    losses = seen.measure.sample_losses(phases)
    if losses is None:
        return False
    gains, number = losses[0] - losses[1], len(losses[0])
    if number < 3:
        return False
    error = float(np.std(gains, ddof=1)) / math.sqrt(number)
    return bool(np.mean(gains) > t_limit(0.02, number - 1) * error)


@remembered
def by_itself(seen: Evidence) -> bool:
    """Whether the phases differ by a layer of its own, not by any moving statistics."""
    found, phases, told = gap(seen), seen.phases, seen.training
    if phases is None or told is None or not found.direct or found.far:
        return False
    judged = {key for statistic, _ in phases.behind for key in statistic.keys}
    others = [v for v in seen.variables.values() if v.statistic and v.owner]
    if any(v.key in told.writes and v.key not in judged for v in others):
        return False
    # Statistics out of sight are fresh ones as well.
    hidden = any(counts_untracked(seen, layer) for layer in untracked_layers(seen))
    return not explained(seen, phases) and not hidden and not lost_statistics(seen)


def explained(seen: Evidence, phases: Phases) -> bool:
    """Whether inference with the batch's own statistics gives what training gives."""
    outputs = phases.outputs
    if effect_of(seen) is None or not outputs:
        return False
    # The substituted run may cover the first half of the batch only.
    pairs = zip(phases.training, phases.substituted, strict=False)
    trained = [t[: len(b)] for t, b in pairs if t.ndim and b.ndim]
    rest, noise = rms(differences(phases.substituted, trained)), outputs["rms_noise"]
    size = effect_size(rest, noise, outputs["spread_training"])
    return rest <= F_LIMIT * noise or size < MEDIUM_EFFECT
