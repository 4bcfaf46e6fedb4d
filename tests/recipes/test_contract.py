"""What every recipe promises: one name for file, page and test; read in five minutes; runs alone; a head that tells."""

import ast
import re
import sys
from pathlib import Path

import pytest
from phase_doctor import __version__

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
by_slug = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def functions(recipe: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(recipe.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_file_page_and_test_share_one_name() -> None:
    files = {path.stem for path in RECIPES} | {path.parent.name for path in (ROOT / "recipes").glob("*/__init__.py")}
    pages = {path.stem for path in (ROOT / "docs/recipes").glob("*.md")} - {"index"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/recipes").glob("test_*.py")} - {"contract"}
    assert files == pages == tests


@by_slug
def test_it_is_read_before_it_is_copied(recipe: Path) -> None:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200, "a recipe that needs more says two things: split it"
    assert max(map(len, lines)) <= 88
    assert "--8<--" not in "\n".join(lines), "a page shows the file whole"
    (main,) = [function for function in functions(recipe) if function.name == "main"]
    assert main.end_lineno - main.lineno < 35


@by_slug
def test_head_tells_title_symptom_cause_fix_versions_and_page(recipe: Path) -> None:
    text = ast.get_docstring(ast.parse(recipe.read_text(encoding="utf-8"))) or ""
    found = re.findall(r"^(Symptom|Cause|Fix|Holds on|More):", text, re.MULTILINE)
    assert found == ["Symptom", "Cause", "Fix", "Holds on", "More"]
    assert len(text.splitlines()) <= 10
    assert text.splitlines()[-1] == f"More: docs/recipes/{recipe.stem}.md, Phasebook {__version__}"


@by_slug
def test_imports_at_the_top_are_tensorflow_keras_numpy_and_the_standard_library(recipe: Path) -> None:
    allowed = {"tensorflow", "keras", "numpy"} | set(sys.stdlib_module_names)
    for node in ast.parse(recipe.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{recipe.name}:{node.lineno} imports from its folder"
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in allowed, f"{recipe.name}:{node.lineno} imports {name} at the top"


@by_slug
def test_every_step_scales_its_loss(recipe: Path) -> None:
    """Without it a loss-scaled optimizer hardly trains, and says nothing."""
    steps = [f for f in functions(recipe) if re.search(r"\bapply_gradients\(|optimizer\.apply\(", ast.unparse(f))]
    for step in steps:
        assert "scale_loss(" in ast.unparse(step), f"{recipe.name}:{step.lineno}"


@by_slug
def test_its_own_tests_run_its_demo_and_read_what_it_prints(recipe: Path) -> None:
    """conftest.py's `demo` copies the file alone into an empty folder and runs it there, once."""
    tests = ast.parse((ROOT / f"tests/recipes/test_{recipe.stem}.py").read_text(encoding="utf-8"))
    asked = [f for f in ast.walk(tests) if isinstance(f, ast.FunctionDef) and "demo" in [a.arg for a in f.args.args]]
    assert any(re.search(r"\bassert\b.*", ast.unparse(function)) for function in asked)
