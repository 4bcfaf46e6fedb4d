"""PD001: raised

The model, the step or the artifact raised an exception, which the finding quotes.
The rest of the examination goes on where it can.
The command line exits with status 2.
"""

from ..rule import Cure, Rule

RULE = Rule(
    "PD001",
    "the model, the step or the artifact raised",
    "error",
    Cure(
        "make-it-run",
        "Make it run on this batch first.",
        None,
    ),
)
