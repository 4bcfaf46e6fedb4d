"""What a code means, for a terminal: read from the sources, which loads nothing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

RULES = Path(__file__).parent / "rules"


def explanations() -> dict[str, str]:
    """The text of every code: of the doctor's rules, and of the scan's checks."""
    from .scan import command

    found = {}
    for path in sorted(RULES.glob("pd[0-9]*.py")):
        page = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem.upper()] = plain(page)
    return found | command.explanations()


def plain(page: str) -> str:
    """A rule's page without its marks: examples are indented, comments gone."""
    page = re.sub(r"\n?<!--.*?-->", "", page, flags=re.DOTALL)
    lines, code = [], False
    for line in page.splitlines():
        if line.strip().startswith("```"):
            code = not code
        else:
            text = line if code else line.replace("**", "").replace("`", "")
            lines.append(f"    {line}" if code else text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
