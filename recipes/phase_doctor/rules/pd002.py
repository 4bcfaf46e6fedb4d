"""PD002: not examined, or not put back

Always a note.
It says what was left out and why: a step with side effects that was not run, a batch of
one sample, a model that came unbuilt and is built now.
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD002",
    "not examined, or not put back",
    "note",
    Cure(
        "read-the-message",
        "Read the message; `insist=True` runs the step all the same.",
        None,
    ),
)
