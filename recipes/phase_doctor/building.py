"""Building an unbuilt model on the batch, moving nothing that is there already."""

from __future__ import annotations

import tensorflow as tf

from .clock import Clock
from .layers import has_call
from .report import CannotExamine
from .subject import Subject, variables_of
from .variables import Snapshot


def build(subject: Subject, clock: Clock) -> None:
    """Creates the variables of an unbuilt model by tracing a call; runs nothing."""
    model = subject.model
    before = len(variables_of(model))
    if not has_call(model) or (getattr(model, "built", True) and before):
        return
    clock.stage("building the model")
    call = subject.phase(False)
    with clock.counting("tracing"):
        try:
            traced = tf.function(lambda: call(subject.x), autograph=False)
            traced.get_concrete_function()
        except Exception:
            run_once(subject)  # Python control flow and the like
    made = len(variables_of(model)) - before
    if made:
        subject.remarks.append(
            f"The model was not built; it was built on the batch ({made} variables)."
        )


def run_once(subject: Subject) -> None:
    """Runs the model, and puts back what that moves."""
    state = Snapshot()
    state.add_all(subject.everything())
    try:
        subject.phase(False)(subject.x)
    except Exception as error:
        kind = type(error).__name__
        if subject.own_step() is None:
            raise CannotExamine(
                f"The model is not built and calling it on the batch raised {kind}: "
                f"{error}. Hand the doctor a batch that the model accepts, "
                "or build the model first."
            ) from error
        subject.remarks.append(
            "The model's `call` does not take this batch "
            f"({kind}; its own train_step may): not built."
        )
    finally:
        state.restore()
