"""What a code means, for a terminal: read from the sources, which loads nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

RULES = Path(__file__).parent / "rules"


def explanations() -> dict[str, str]:
    """The text of every code: of the doctor's rules, and of the scan's checks."""
    from .scan import command

    found = {}
    for path in sorted(RULES.glob("pd[0-9]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        page = plain(ast.get_docstring(tree) or "")
        found[path.stem.upper()] = "\n\n".join([page, *cures(tree)])
    return found | command.explanations()


def cures(tree: ast.Module) -> Iterator[str]:
    """What a rule says to do, by the id that a finding carries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Cure":
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield f"Cure {texts[0]}: {texts[1].replace('`', '')}"


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
