"""The loss, as `fit` would take it: by name, by output, with targets of either rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from .subject import Subject

Loss = Callable[[Any, Any], Any]


def loss_of(subject: Subject) -> Loss | None:
    """The reader's loss, or the compiled one, as `loss(targets, outputs)`."""
    given = subject.loss
    if given is None:
        given = getattr(subject.model, "loss", None)
    if given is None or subject.y is None:
        return None
    names: list[str] = []
    if isinstance(given, Mapping):
        known = list(getattr(subject.model, "output_names", None) or ())
        names = known if set(known) == set(given) else sorted(given)
        given = [given[name] for name in names]
    several = isinstance(given, (list, tuple))
    try:
        parts = [function(subject, one) for one in (given if several else [given])]
    except ValueError:
        return None

    def loss(targets: Any, outputs: Any) -> Any:
        by_name = isinstance(targets, Mapping) and set(names) == set(targets)
        goals = [targets[n] for n in names] if by_name else tf.nest.flatten(targets)
        answers = tf.nest.flatten(outputs)
        each = parts if len(parts) == len(answers) else parts * len(answers)
        values = [
            tf.reduce_mean(one(fitted(goal, answer), answer))
            for one, goal, answer in zip(each, goals, answers, strict=True)
            if one is not None
        ]
        return tf.add_n(values)

    return loss


def function(subject: Subject, loss: Any) -> Loss | None:
    """A loss by its name; None for an output that has none."""
    found = subject.package.losses.get(loss) if isinstance(loss, str) else loss
    if found is not None and not callable(found):
        raise ValueError(f"{loss!r} is no loss")
    return found


def fitted(goal: Any, answer: Any) -> Any:
    """Targets (n,) for outputs (n, 1), and the other way round, as `fit` fits them."""
    goal = tf.convert_to_tensor(goal)
    if goal.shape.rank == answer.shape.rank - 1 and answer.shape[-1] == 1:
        return goal[..., None]
    if goal.shape.rank == answer.shape.rank + 1 and goal.shape[-1] == 1:
        return goal[..., 0]
    return goal
