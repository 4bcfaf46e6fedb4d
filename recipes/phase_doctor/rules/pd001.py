"""PD001: raised

The model, the step or the artifact raised an exception, which the finding quotes.
The rest of the examination goes on where it can.
The command line exits with status 2.
"""

from collections.abc import Iterator

from ..evidence import Evidence
from ..facts import meant_for_another
from ..report import Finding
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


def judge(seen: Evidence) -> Iterator[Finding]:
    for failure in seen.failures:
        if meant_for_another(seen, failure) is None:
            text = f"{failure.what} raised {failure.error}: {failure.text}"
            yield RULE.finding(None, text, exception=failure.error)
