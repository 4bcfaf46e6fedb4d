"""Facts that several rules and excuses ask, each in one place; all from Evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .evidence import (
    Arrays,
    Evidence,
    Failure,
    Layer,
    Statistic,
    Variable,
    Way,
    remembered,
)
from .noise import ROUNDING_SIGMAS, differences, draws, rms

# -- training ------------------------------------------------------------------------


@remembered
def was_trained(seen: Evidence) -> bool:
    """Whether anything shows that training has begun."""
    return seen.steps > 0 or any(layer.trained for layer in seen.layers)


def layer_was_trained(seen: Evidence, statistic: Statistic) -> bool:
    """The model's step counter speaks for layers without gamma and beta."""
    layer = statistic.layer
    if layer.trained:
        return True
    return layer.trainable and not layer.affine and was_trained(seen)


def untouched(statistic: Statistic) -> bool:
    """Whether the statistics are exactly the initial ones."""
    pairs = zip(statistic.now, statistic.first, strict=True)
    return all(a is None or b is None or np.array_equal(a, b) for a, b in pairs)


# -- variables -----------------------------------------------------------------------


@remembered
def strangers(seen: Evidence) -> list[Variable]:
    """Variables in the graph of training that no list of the model holds."""
    reads = seen.training.reads if seen.training else ()
    found = [seen.variables[k] for k in reads if k in seen.variables]
    return [v for v in found if not v.tracked and v.floating]


@remembered
def untracked_layers(seen: Evidence) -> list[Layer]:
    """Layers that run and whose variables are in no list; the innermost ones."""
    told, keys = seen.training, {v.key for v in strangers(seen)}
    if told is None or not keys:
        return []
    inside: dict[Layer, set[int]] = {}  # variables of the layers called directly within
    for call in told.calls:
        if call.parent is not None:
            parent = told.calls[call.parent].layer
            inside.setdefault(parent, set()).update(call.layer.variables)
    called = dict.fromkeys(call.layer for call in told.calls)
    return [
        layer
        for layer in called
        if not layer.in_tree
        and layer.variables & keys
        and not inside.get(layer, set()) & keys
    ]


def counts_untracked(seen: Evidence, layer: Layer) -> bool:
    """Whether it is about phases: the layer heeds them, or training writes it."""
    writes = seen.training.writes if seen.training else {}
    return layer.heeds or layer.norm or any(key in writes for key in layer.variables)


def lost_statistics(seen: Evidence) -> list[Variable]:
    """Bare variables that training writes and inference reads, in no list."""
    told, infer = seen.training, seen.inference
    if told is None or infer is None:
        return []
    covered = {key for layer in untracked_layers(seen) for key in layer.variables}
    read = set(infer.reads) - infer.writes.keys() - covered
    return [v for v in strangers(seen) if v.key in told.writes and v.key in read]


# -- values --------------------------------------------------------------------------


def ailment(statistic: Statistic) -> tuple[str, int] | None:
    """What is wrong with the numbers: "not finite", "negative" or "zero", how often."""
    mean, variance = statistic.now
    both = (
        mean if variance is None else np.concatenate([mean.ravel(), variance.ravel()])
    )
    wrong = int(np.sum(~np.isfinite(both)))
    if wrong:
        return "not finite", wrong
    if variance is None:
        return None
    below = int(np.sum(variance < 0))
    if below:
        return "negative", below
    return None if np.any(variance) else ("zero", int(mean.size))


def zero_may_be_meant(seen: Evidence, statistic: Statistic) -> bool:
    """A layer written by hand may start at 0; until training that is its author's."""
    return not statistic.layer.norm and not was_trained(seen)


def never_moved(seen: Evidence, statistic: Statistic) -> bool:
    """Still the initial ones, though the layer was trained."""
    if ailment(statistic) is not None:
        return False
    serves = untouched(statistic) and layer_was_trained(seen, statistic)
    return serves and is_called(seen, statistic)


def is_called(seen: Evidence, statistic: Statistic) -> bool:
    """Whether a graph holds its statistics; where there is none, no one can tell."""
    traces = [seen.inference, seen.training, seen.step.trace if seen.step else None]
    graphs = [trace for trace in traces if trace is not None]
    return not graphs or any(statistic.mean in trace.reads for trace in graphs)


@remembered
def weights_broken(seen: Evidence) -> bool:
    """Whether a variable other than a moving statistic is not finite."""
    known = {key for s in seen.statistics for key in s.keys}
    return any(v.not_finite and v.key not in known for v in seen.variables.values())


@remembered
def values_broken(seen: Evidence) -> bool:
    """Whether any weight or statistic holds what no arithmetic survives."""
    if weights_broken(seen):
        return True
    ill = [s for s in seen.statistics if ailment(s) is not None]
    return any(
        ailment(s) != ("zero", s.now[0].size) or not zero_may_be_meant(seen, s)
        for s in ill
    )


# -- flags ---------------------------------------------------------------------------


@remembered
def changed_flags(seen: Evidence) -> dict[Layer, bool]:
    """Layers whose `trainable` is not what `compile` saw, and what it saw."""
    if not seen.compiled:
        return {}
    changed = {
        layer: layer.at_compile
        for layer in seen.layers
        if layer.at_compile not in (None, layer.trainable)
    }
    # An optimizer tells only where Keras's own step gave it all that was trainable.
    trained = bool(seen.stale) and not seen.own_step
    by_keras = seen.held & seen.stale if seen.own_step else seen.held
    for layer in seen.layers if seen.held else ():
        own = seen.own(layer)
        weights = {v.key for v in own if v.trainable}
        if not layer.trainable and any(v.key in by_keras for v in own):
            changed.setdefault(layer, True)
        elif weights and trained and not weights & (seen.held | seen.stale):
            changed.setdefault(layer, False)
    # A container all of whose layers changed alike is what the reader froze.
    for layer in reversed(seen.layers):
        inner = [
            n for n in seen.layers if layer in n.parents and n.leaf and n.variables
        ]
        directions = {changed.get(n) for n in inner}
        if len(directions) == 1 and None not in directions:
            changed.setdefault(layer, bool(directions.pop()))
    return {
        layer: bool(before)
        for layer, before in changed.items()
        if not any(parent in changed for parent in layer.parents)
    }


def nothing_to_train(seen: Evidence) -> bool:
    """Whether the model has weights and all of them are frozen."""
    if any(v.trainable for v in seen.variables.values()):
        return False
    return any(layer.variables and not layer.trainable for layer in seen.layers)


def trained_in_turn(seen: Evidence) -> bool:
    """Whether the model is frozen as a whole, and its own training function, traced
    before, trains it all the same: a GAN between two of its steps."""
    if changed_flags(seen).get(seen.model) is not True:
        return False
    weights = [v for v in seen.variables.values() if v.owner and not v.statistic]
    return any(v.floating and v.key in seen.stale and not v.metric for v in weights)


def goes_by_flags_of_now(seen: Evidence, layer: Layer) -> bool:
    """Whether the reader's step writes what the layer's flag of now says."""
    if seen.step is None or seen.step.by != "reader":
        return False
    inside = [v for v in seen.variables.values() if v.owner and layer.holds(v.owner)]
    moved = any(v.floating and v.key in seen.step.written for v in inside)
    return moved == (not changed_flags(seen)[layer])


# -- outputs -------------------------------------------------------------------------


def said(seen: Evidence, way: Way) -> str:
    """How a way of asking is called in a message."""
    return way.trace.name if way is seen.ways[0] else "predict"


@remembered
def stochastic(seen: Evidence) -> bool:
    """Whether two runs of inference, by any way, differ."""
    return any(draws(way.outputs, way.again) for way in seen.ways)


def differs(
    seen: Evidence, first: Arrays, second: Arrays
) -> tuple[bool, dict[str, Any]]:
    """Whether two outputs differ by more than rounding.

    Test: the root mean square of the difference against 48 standard deviations of
    rounding noise. That noise is estimated from three runs, so the ratio of one output
    follows Student's t with 3 degrees of freedom: 48 is passed with probability 2e-5.
    Averaging over many outputs only lowers it.
    """
    distance = rms(differences(first, second))
    evidence = {
        "rms_difference": distance,
        "rounding_noise": seen.noise,
        "rms_output": rms(first),
    }
    return distance > ROUNDING_SIGMAS * seen.noise, evidence


def share(evidence: dict[str, Any]) -> float:
    return evidence["rms_difference"] / max(evidence["rms_output"], 1e-30)


# -- what raised ---------------------------------------------------------------------


def meant_for_another(seen: Evidence, failure: Failure) -> str | None:
    """Where another use of the same batch shows that it was not meant for this one:
    what to do."""
    own = failure.what != "train_step"  # the model's, not one that was handed in
    if failure.stage == "step" and own and seen.inference is not None:
        return OTHER_BATCH
    ran = seen.step is not None and seen.step.by == "model"
    if failure.stage == "call" and ran and seen.inference is None:
        return STEP_WAS_EXAMINED
    return None


OTHER_BATCH = (
    "Hand in `train_step=` with a batch that it takes, "
    "or examine the parts of the model."
)
STEP_WAS_EXAMINED = (
    "The model's own train_step takes this batch, so that is what was examined."
)


def quoted(names: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)) for name in names)


def paths(layers: Sequence[Layer]) -> list[str]:
    return [layer.path for layer in layers]
