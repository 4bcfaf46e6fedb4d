"""What a rule is made of: code, title, severity, cures, and how it words a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .report import Finding


@dataclass(frozen=True)
class Cure:
    """What to do. The id is stable, as the code is; the recipe is a page's slug."""

    id: str
    text: str
    recipe: str | None = None


class Rule:
    """One rule. Its module's docstring is its page, its module's `judge` its test.

    Attributes:
        code: Stable, never used for anything else.
        title: What a finding says, in a few words.
        severity: Of a finding that nothing softens.
        cures: By id; the first one is meant where a finding names none.
    """

    def __init__(self, code: str, title: str, severity: str, *cures: Cure) -> None:
        self.code, self.title, self.severity = code, title, severity
        self.cures = {cure.id: cure for cure in cures}

    def finding(
        self,
        where: str | None,
        message: str,
        severity: str | None = None,
        cure: str | None = None,
        **evidence: Any,
    ) -> Finding:
        """A finding at a layer (None: the whole model), with the cure of that id."""
        chosen = self.cures[cure or next(iter(self.cures))]
        return Finding(
            self.code,
            severity or self.severity,
            where,
            message,
            evidence,
            chosen.text,
            chosen.recipe,
            chosen.id,
        )
