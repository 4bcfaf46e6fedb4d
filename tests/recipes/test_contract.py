"""What every recipe promises: file, page and test under one name; it runs alone; its head tells the story."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
by_slug = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def test_file_page_and_test_share_one_name() -> None:
    packages = {path.parent.name for path in (ROOT / "recipes").glob("*/__init__.py")}
    files = {path.stem for path in RECIPES} | packages
    pages = {path.stem for path in (ROOT / "docs/recipes").glob("*.md")} - {"index"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/recipes").glob("test_*.py")} - {"contract"}
    assert files == pages == tests


@by_slug
def test_head_tells_title_symptom_cause_fix_versions_and_page(recipe: Path) -> None:
    text = ast.get_docstring(ast.parse(recipe.read_text(encoding="utf-8"))) or ""
    found = re.findall(r"^(Symptom|Cause|Fix|Holds on|More):", text, re.MULTILINE)
    assert found == ["Symptom", "Cause", "Fix", "Holds on", "More"]
    assert f"docs/recipes/{recipe.stem}.md" in text


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


def test_the_block_that_hides_start_up_lines_is_the_same_wherever_it_is_still_there() -> None:
    blocks = set()
    for recipe in RECIPES:
        text = recipe.read_text(encoding="utf-8")
        found = re.search(
            r'^if __name__ == "__main__" and "PHASEBOOK_DEMO".*?^    sys\.exit\(child\.returncode\)\n',
            text,
            re.M | re.S,
        )
        blocks |= {found[0]} if found else set()
    assert len(blocks) <= 1


@pytest.mark.slow
@by_slug
def test_copied_alone_into_an_empty_folder_it_runs(recipe: Path, tmp_path: Path) -> None:
    """The whole demo, with its real training, as a reader runs it after copying the one file."""
    copy = shutil.copy(recipe, tmp_path)
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PHASEBOOK_DEMO"}}
    arguments = DEMO_ARGUMENTS.get(recipe.stem, [])
    done = subprocess.run(
        [sys.executable, copy, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "the demo prints nothing"
    assert "Traceback" not in done.stderr  # TensorFlow's start-up lines may stand there
    left = {path.name for path in tmp_path.iterdir()} - {recipe.name, "__pycache__"}
    assert not left, f"the demo left {left} behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [path for path in RECIPES if "argparse" in path.read_text(encoding="utf-8")],
    ids=lambda path: path.stem,
)
def test_help_works(recipe: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, recipe, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


# A recipe whose demo needs an argument names it here.
DEMO_ARGUMENTS: dict[str, list[str]] = {}
