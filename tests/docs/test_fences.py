"""No Python-looking fence escapes: each one is collected by sybil or carries a printed reason."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from sybil.document import Document

ROOT = Path(__file__).resolve().parents[2]
# By its path: other folders have a conftest.py, too.
spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
assert spec and spec.loader
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
RULES = sorted((ROOT / "recipes/phase_doctor/rules").glob("pd*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *RULES]
WITH_MACROS = [
    page for page in PAGES if page.suffix == ".md" and "render_macros: true" in page.read_text(encoding="utf-8")
]
# An opening fence whose language looks like Python, however it is spelled.
PYTHON_LIKE = re.compile(
    r"^[ \t>]*(?:`{3,}|~{3,})[ \t]*(\{?[ \t]*\.?(?:py\b|python\w*|pycon\w*|ipython\w*).*)$",
    re.MULTILINE | re.IGNORECASE,
)
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*\n[ \t]*(?:`{3,}|~{3,})[^\n]*$", re.MULTILINE)


def collected_fences(text: str) -> int:
    """Count fences, not examples: one doctest fence yields an example for each prompt."""
    document = Document(text, "page.md")
    return len(list(conftest.FenceParser().codeblock_parser(document)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_fence_is_collected(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page in RULES:  # its docstring is its page
        text = ast.get_docstring(ast.parse(text)) or ""
    looking = PYTHON_LIKE.findall(text)
    excused = len(NOT_RUN.findall(text))
    assert len(looking) == collected_fences(text) + excused, f"{page.name}: fences {looking}; spell them ```python"


@pytest.mark.parametrize("page", WITH_MACROS, ids=lambda page: str(page.relative_to(ROOT)))
def test_macros_leave_fences_alone(page: Path) -> None:
    """Shown code must be tested code: nothing in a fence of a page with macros may look like a macro."""
    text = page.read_text(encoding="utf-8")
    for region in conftest.FenceParser().codeblock_parser(Document(text, "page.md")):
        assert not re.search(r"\{\{|\{%|\{#", region.parsed), region.parsed


@pytest.mark.parametrize(
    "spelling", ["```py", "```pycon", "``` python", "```python title='x'", "~~~python3", "```{.python}", "```Python"]
)
def test_a_fence_that_sybil_would_skip_is_noticed(spelling: str) -> None:
    text = f"{spelling}\nprint(1)\n{spelling[:3]}\n"
    assert len(PYTHON_LIKE.findall(text)) == 1
    assert collected_fences(text) == 0


def test_included_sections_are_expanded_not_skipped(tmp_path: Path) -> None:
    source, line = conftest.included_source("conftest.py", None)
    assert "def included_source" in source and line == 1
    with pytest.raises(ValueError, match=r"needs one \[start:nothing\]"):
        conftest.included_source("conftest.py", "nothing")
