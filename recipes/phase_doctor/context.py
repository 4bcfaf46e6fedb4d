"""The phase that a call finds where its caller wrote none: what somebody wrote before.

Keras keeps the last phase written in a context of the outermost call. Until 3.15 a
Functional or Sequential model told each of its layers all the same; from 3.16 on it
tells none, so that every layer takes what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass

from .evidence import Evidence, Layer, Trace
from .rule import Cure

FREEZE = Cure(
    "freeze-and-write-no-phase",
    "Delete that `training=False`, and freeze by `trainable = False` (a dropout by "
    "`rate = 0`): nobody else hears of it. Where a `call` of yours must write a phase, "
    "give its last layer the one that came in.",
    "fine_tune_frozen_batchnorm",
)
FORCE = Cure(
    "keep-the-phase-to-the-dropout",
    "Delete that `training=True`. A dropout stays on, and nobody else hears of it, "
    "where a subclass passes `training=True` to `super().call`, as `to_monte_carlo` "
    "makes it of a trained model.",
    "monte_carlo_dropout",
)


@dataclass(frozen=True)
class Heard:
    """The phase that a call gets on Keras 3.16, and the call that wrote it."""

    phase: bool
    source: int | None = None


def heard(seen: Evidence, trace: Trace) -> list[Heard]:
    """By call, in order: what was written for it, else what was written last."""
    found: list[Heard] = []
    last: Heard | None = None
    for number, call in enumerate(trace.calls):
        if call.parent is None:
            last = None
        written = writing(seen, trace, number, found)
        last = written or last
        found.append(last or Heard(bool(call.layer.default)))
    return found


def writing(
    seen: Evidence, trace: Trace, number: int, found: list[Heard]
) -> Heard | None:
    """What the author wrote at this call, not what a model handed down by itself."""
    call = trace.calls[number]
    if call.explicit is None:
        return None
    if call.parent is None:
        return Heard(call.explicit, number)
    around = trace.calls[call.parent]
    if around.layer.graph:
        recorded = seen.recorded.get(call.layer)
        return None if recorded is None else Heard(recorded, number)
    if around.layer.takes_training and call.explicit == around.training:
        return found[call.parent]  # `training=training`
    return Heard(call.explicit, number)


def in_front(trace: Trace, number: int, found: list[Heard]) -> Layer | None:
    """The layer that ran before a call, not around it, and whose phase it gets."""
    source = found[number].source
    if source is None or source in trace.around(number):
        return None
    return trace.calls[source].layer


def reached(
    seen: Evidence, trace: Trace | None, phase: bool
) -> dict[Layer, tuple[Layer, bool]]:
    """Layers that heed a phase and get this one from a layer in front: that layer, and
    whether it is so on the Keras that runs."""
    reach: dict[Layer, tuple[Layer, bool]] = {}
    if trace is None or not seen.keras3:
        return reach
    found = heard(seen, trace)
    for number, call in enumerate(trace.calls):
        front = in_front(trace, number, found)
        if front is not None and call.layer.heeds and found[number].phase == phase:
            reach.setdefault(call.layer, (front, call.training == phase))
    return reach
