"""Who tells which layer the phase: the step, the model, or nobody."""

from __future__ import annotations

import numpy as np

from .evidence import Evidence, Layer, Statistic, Trace, remembered
from .facts import untouched, was_trained


@remembered
def step_tells(seen: Evidence) -> bool:
    """Whether the reader's step itself puts a layer into the training phase."""
    step = seen.step
    if step is None or step.by != "reader":
        return False
    if any(step_moves(seen, s) for s in seen.statistics if s.layer.trainable):
        return True
    untold = {layer for layers in deaf(seen).values() for layer in layers}
    if any(state_moves(seen, layer) for layer in untold):
        return True
    calls = seen.measure.step_calls() if untold else None
    if calls is None:
        return False
    return any(c.training for c in calls.calls if c.layer in untold)


def state_moves(seen: Evidence, layer: Layer) -> bool:
    """Whether the step writes what a layer writes in the training phase alone."""
    step = seen.step
    if step is None:
        return False
    return any(
        key in step.changed if step.ran and low else high > 0
        for key in state_of(seen, layer)
        for low, high in [step.trace.writes.get(key, (0, 0))]
    )


def state_of(seen: Evidence, layer: Layer) -> list[int]:
    """States of seed generators, and statistics, that inference leaves alone."""
    known = [seen.variables[k] for k in layer.variables if k in seen.variables]
    states = [v.key for v in known if v.statistic or not v.floating]
    kept = seen.inference.writes if seen.inference is not None else {}
    return [key for key in states if key not in kept]


def step_moves(seen: Evidence, statistic: Statistic) -> bool:
    """Whether the step writes a statistic, and not the value that it had already."""
    step, told, key = seen.step, seen.training, statistic.mean
    low, high = step.trace.writes.get(key, (0, 0)) if step is not None else (0, 0)
    if step is None or high == 0:
        return False
    if low == 0 or not step.ran or key in step.changed:
        return True
    if told is None or key not in told.writes:
        return True
    # Assigned and unchanged: it may be at rest on this batch.
    return bool(np.array_equal(seen.measure.training_means()[key], statistic.now[0]))


def step_trains(seen: Evidence, statistic: Statistic) -> bool:
    """Whether the step trains what this layer serves: its weights, else neighbours'."""
    assert seen.step is not None
    written = seen.step.written
    own = [v for v in seen.own(statistic.layer) if v.trainable]
    if own:
        return any(v.key in written for v in own)
    parents, told = statistic.layer.parents[-1:], seen.training or Trace("none")
    called = [call.layer for call in told.calls if call.layer.parents[-1:] == parents]
    if statistic.layer not in called:
        return False
    place = called.index(statistic.layer)
    # What gives it its inputs, else what takes its outputs.
    for near in (*reversed(called[:place]), *called[place:]):
        weights = [v for v in seen.own(near) if v.trainable]
        if weights:
            return any(v.key in written for v in weights)
    return False


@remembered
def unmoved(seen: Evidence) -> list[Statistic]:
    """Statistics that the step leaves, though it trains what they serve."""
    step, told = seen.step, seen.training
    if step is None or step.by is None:
        return []
    return [
        s
        for s in seen.statistics
        if s.layer.trainable
        and not step_moves(seen, s)
        and step_trains(seen, s)
        and (told is None or bool(told.of(s.layer)))
        and not (told is not None and keeps_what_it_got(seen, told, s))
    ]


def keeps_what_it_got(seen: Evidence, told: Trace, statistic: Statistic) -> bool:
    """Whether the model keeps statistics that came from somewhere, told or not."""
    if statistic.mean in told.writes or untouched(statistic):
        return False
    return any(decided(seen, told, number) for number in told.of(statistic.layer))


def decided(seen: Evidence, trace: Trace, number: int) -> bool:
    """Whether the author wrote a phase at this call, or around it below the model."""
    for index in trace.around(number):
        call = trace.calls[index]
        if call.parent is None:
            return False
        if call.layer in seen.recorded:
            return True
        parent = trace.calls[call.parent].layer
        if call.explicit is not None and not parent.graph and not parent.wrapper:
            return True
    return False


def runs_in_training(seen: Evidence, layer: Layer) -> bool:
    """Whether the step calls a layer in the training phase."""
    calls = seen.measure.step_calls() if seen.step and seen.step.by else None
    return calls is not None and any(calls.calls[n].training for n in calls.of(layer))


def says_inference(seen: Evidence, layer: Layer) -> bool:
    """Whether the step writes `training=False` on every outermost call of a layer."""
    calls = seen.measure.step_calls()
    said = [calls.calls[n].explicit for n in calls.outermost(layer)] if calls else []
    return bool(said) and all(explicit is False for explicit in said)


def means_inference(seen: Evidence, statistic: Statistic) -> bool:
    """Whether the step keeps statistics that came from somewhere, in so many words."""
    return not untouched(statistic) and says_inference(seen, statistic.layer)


@remembered
def forgotten(seen: Evidence) -> list[Statistic]:
    """Unmoved statistics that nothing says are meant to be."""
    return [s for s in unmoved(seen) if not means_inference(seen, s)]


@remembered
def deaf(seen: Evidence) -> dict[Layer, list[Layer]]:
    """Layers that heed the phase and are not told of training by what `fit` runs.

    By the layer to blame: the outermost whose `call` takes no `training`, else itself.
    """
    fit = seen.fit
    if fit is None:
        return {}
    by_reader = seen.step is not None and seen.step.by == "reader"
    training = was_trained(seen) or seen.compiled or by_reader
    # A phase written in `call` makes sense for statistics that came from somewhere.
    fresh = {s.layer for s in seen.statistics if training and untouched(s)}
    blamed: dict[Layer, list[Layer]] = {}
    for number, call in enumerate(fit.calls):
        layer = call.layer
        if not layer.heeds or call.training:
            continue
        around = [fit.calls[i].layer for i in fit.around(number)[1:]]
        mute = [one for one in around if not one.takes_training and not one.stock]
        if decided(seen, fit, number) and not (mute and layer in fresh):
            continue
        blamed.setdefault(mute[-1] if mute else layer, []).append(layer)
    return {culprit: list(dict.fromkeys(layers)) for culprit, layers in blamed.items()}
