"""Layers that a step trains through and never puts into the training phase."""

from __future__ import annotations

from dataclasses import dataclass, field

from .evidence import Evidence, Layer, Trace, remembered
from .told import state_moves, state_of


@dataclass
class Untold:
    """By the outermost layer that the step calls; and what could not be seen."""

    by: dict[Layer, list[Layer]] = field(default_factory=dict)
    unseen: list[Layer] = field(default_factory=list)


@remembered
def untold(seen: Evidence) -> Untold:
    found, suspects = Untold(), suspected(seen)
    if not suspects:
        return found
    calls = seen.measure.step_calls()
    if calls is None or not calls.calls:
        found.unseen = suspects
        return found
    through = seen.measure.trained_through(trained(seen))
    for layer in suspects:
        numbers = calls.of(layer)
        if any(calls.calls[n].training for n in numbers):
            continue
        numbers = [n for n in numbers if not meant(seen, calls, n)]
        if any(n not in through for n in numbers):
            found.unseen.append(layer)
            continue
        for number in (n for n in numbers if through[n] or opens(seen, layer, n)):
            outermost = calls.calls[calls.around(number)[-1]].layer
            found.by.setdefault(outermost, []).append(layer)
    found.by = {one: list(dict.fromkeys(layers)) for one, layers in found.by.items()}
    return found


def opens(seen: Evidence, layer: Layer, number: int) -> bool:
    """Whether a layer before all weights, as noise on the input, feeds a network that
    the step trains whole."""
    network, updated = home(seen, layer), trained(seen)
    if not network <= updated:
        return False
    return bool(network & seen.measure.feeds(updated).get(number, frozenset()))


@remembered
def trained(seen: Evidence) -> frozenset[int]:
    """The weights that the step writes."""
    step, known = seen.step, seen.variables
    if step is None or step.by is None:
        return frozenset()
    return frozenset(k for k in step.trace.writes if k in known and known[k].trainable)


def home(seen: Evidence, layer: Layer) -> frozenset[int]:
    """The weights of the smallest network that a layer belongs to and that has any."""
    for one in (layer, *reversed(layer.parents)):
        known = [seen.variables[k] for k in one.variables if k in seen.variables]
        weights = [v for v in known if v.floating and not (v.statistic or v.metric)]
        if weights:
            return frozenset(v.key for v in weights)
    return frozenset()


def suspected(seen: Evidence) -> list[Layer]:
    """Layers of what is trained that heed the phase and show no sign of training."""
    chosen = [
        layer
        for layer in seen.layers
        if layer.heeds
        and not layer.norm
        and home(seen, layer) & trained(seen)
        and not state_moves(seen, layer)
        and (layer.stock or state_of(seen, layer) or draws_in_training(seen))
    ]
    return [one for one in chosen if not any(outer in chosen for outer in one.parents)]


def draws_in_training(seen: Evidence) -> bool:
    """Whether training draws where inference does not, or there is no telling."""
    if seen.training is None or seen.inference is None:
        return True
    return bool(seen.training.random - seen.inference.random)


def meant(seen: Evidence, calls: Trace, number: int) -> bool:
    """Whether somebody wrote inference at this call of the step, or around it."""
    chain = [calls.calls[n] for n in calls.around(number)]
    if chain[-1].explicit is False:
        return True
    layer, told = chain[0].layer, seen.training
    numbers = told.of(layer) if told is not None else []
    if told is not None and numbers:  # else a default that is handed down looks alike
        return not any(told.calls[n].training for n in numbers)
    return any(call.explicit is False for call in chain)
