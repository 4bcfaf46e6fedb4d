"""Examine a Keras model and its training step, and name every phase bug with evidence.

Symptom: Training looks fine and validation does not, or the export disagrees.
Cause: A layer runs in another phase than meant, or its statistics do not fit.
Fix: `diagnose(model, x, y, train_step=step)` names each fault by a stable code, says
which layer, gives the numbers and the cure; `assert_healthy(...)` does so in a test.
Holds on: Keras 3.0 to 3.16.dev on TensorFlow, and tf_keras 2.21; Python 3.11 and newer.
More: docs/recipes/phase_doctor.md, Phasebook 0.2.0
"""

from typing import Any

from .interface import assert_healthy, diagnose
from .report import CannotExamine, Diagnosis, Finding

__version__ = "0.2.0"
__all__ = [
    "RULES",
    "CannotExamine",
    "Diagnosis",
    "Finding",
    "PhaseDoctor",
    "assert_healthy",
    "diagnose",
    "examine_first",
]


def __getattr__(name: str) -> Any:
    """What loads NumPy or Keras is read when asked for."""
    if name == "RULES":
        from .rules import RULES

        return RULES
    if name in ("PhaseDoctor", "examine_first"):
        from . import callback

        return getattr(callback, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
