"""What a code means, for a terminal: read without loading TensorFlow."""

from __future__ import annotations

import re

from .rules import MODULES, RULES
from .scan import command


def explanations() -> dict[str, str]:
    """The text of every code: of the doctor's rules, and of the scan's checks."""
    found = {}
    for code, rule in RULES.items():
        page = plain(MODULES[code].__doc__ or "")
        cures = [f"Cure {c.id}: {c.text.replace('`', '')}" for c in rule.cures.values()]
        found[code] = "\n\n".join([page, *cures])
    return found | command.explanations()


def plain(page: str) -> str:
    """A rule's page without its marks: examples are indented, comments gone."""
    page = re.sub(r"\n?<!--.*?-->", "", page, flags=re.DOTALL)
    page = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", page)
    lines, code = [], False
    for line in page.splitlines():
        if line.strip().startswith("```"):
            code = not code
        else:
            text = re.sub(r"\*\*([A-Z][^*]+)\*\*", r"\1", line).replace("`", "")
            lines.append(f"    {line}" if code else text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
