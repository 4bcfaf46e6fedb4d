"""What README, the lock, the workflows and the indexes promise."""

from __future__ import annotations

import html
import re
import shutil
import tomllib
from pathlib import Path

import hooks
import jinja2
import pytest
import yaml
from packaging.requirements import Requirement
from phase_doctor import Diagnosis, __version__

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(
    [path.stem for path in (ROOT / "recipes").glob("*.py")]
    + [path.parent.name for path in (ROOT / "recipes").glob("*/__init__.py")]
)
SYMPTOMS = sorted(path.stem for path in (ROOT / "docs/symptoms").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_readme_has_exactly_the_two_commands() -> None:
    commands = re.findall(r"^pip install.*$", README, re.MULTILINE)
    assert commands == [
        "pip install -r requirements.txt && mkdocs serve",
        "pip install -r requirements.txt && pytest",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        "docs/labs/data/2.0.0.json",
        "tests/versions/experiments.py",
        "docs/_site/claims.py",
        "a package",
    ],
)
def test_labs_are_drawn_anew_when_what_they_show_has_changed(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("docs/labs", "docs/_site", "tests/versions"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    before = hooks.lab_digest()
    (tmp_path / "docs/index.md").write_text("no lab shows this")
    assert hooks.lab_digest() == before
    if changed == "a package":
        monkeypatch.setattr(hooks, "distributions", lambda: [])
    else:
        path = tmp_path / changed
        path.write_bytes(path.read_bytes() + b"\n")
    assert hooks.lab_digest() != before


def test_one_version_everywhere() -> None:
    """The package is its home; a recipe's head is held by tests/recipes/test_contract.py."""
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M) == [__version__]
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[0] == __version__


def test_every_line_of_the_lock_is_pinned_and_hashed_and_names_no_index() -> None:
    entries = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"^\s*#.*\n", "", LOCK, flags=re.MULTILINE).strip())
    assert len(entries) > 50
    for entry in entries:
        assert "==" in entry.splitlines()[0] and "--hash=sha256:" in entry, entry.splitlines()[0]
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|@ file:", LOCK)


def test_the_lock_satisfies_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE):
        locked.setdefault(name.lower().replace("_", "-"), []).append(version)
    groups = project["dependency-groups"]
    wanted = [requirement for name, group in groups.items() if name != "dev" for requirement in group]
    for line in wanted:
        requirement = Requirement(line)
        versions = locked.get(requirement.name.lower().replace("_", "-"), [])
        assert versions, f"{requirement.name} is not in requirements.txt: nox -s lock"
        assert all(requirement.specifier.contains(v, prereleases=True) for v in versions), f"{line}: {versions}"


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert yaml.safe_load(text)["jobs"]
    for action in re.findall(r"uses:\s*(\S+)", text):
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action


@pytest.mark.parametrize("slug", RECIPES)
def test_every_recipe_is_on_the_indexes(slug: str) -> None:
    assert re.search(rf"\(recipes/{slug}(\.py|/)\)", README)
    assert "(recipes/index.md)" in (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert f"({slug}.md)" in (ROOT / "docs/recipes/index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("slug", SYMPTOMS)
def test_every_symptom_is_on_the_front_page_and_leads_to_a_recipe(slug: str) -> None:
    assert f"symptoms/{slug}.md" in (ROOT / "docs/index.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/symptoms" / f"{slug}.md").read_text(encoding="utf-8")
    cures = re.findall(r"\]\(\.\./recipes/(\w+)\.md", page)
    assert cures and set(cures) <= set(RECIPES)
    # The answer comes first: the cure is linked above the first heading of the page's body.
    assert "../recipes/" in page.split("\n## ")[0]


@pytest.mark.parametrize("form", ["false_alarm", "wrong_sentence"])
def test_the_issue_forms_ask_for_what_is_needed(form: str) -> None:
    asked = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / f"{form}.yml").read_text(encoding="utf-8"))
    assert asked["name"] and asked["description"]
    fields = {field["id"]: field for field in asked["body"]}
    assert len(fields) == len(asked["body"]) and all(field["attributes"]["label"] for field in asked["body"])
    needed = {name for name, field in fields.items() if field.get("validations", {}).get("required")}
    assert needed == {"false_alarm": {"json", "truth"}, "wrong_sentence": {"page", "sentence", "truth"}}[form]
    if form == "false_alarm":
        assert fields["json"]["attributes"]["render"] == "json"
        assert ".to_json()" in fields["json"]["attributes"]["description"] and hasattr(Diagnosis, "to_json")


def test_every_page_leads_to_the_issue_forms() -> None:
    theme = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "docs/_site/overrides"))
    partial = theme.get_template("partials/feedback.html")
    page = {"canonical_url": "https://book.example/a/"}
    shown = partial.render(config={"repo_url": "https://forge.example/o/r/"}, page=page)
    targets = [html.unescape(target) for target in re.findall('href="(.*?)"', shown)]
    assert targets == [
        "https://forge.example/o/r/issues/new?template=wrong_sentence.yml&page=https%3A//book.example/a/",
        "https://forge.example/o/r/issues/new?template=false_alarm.yml",
    ]
    for target in targets:
        form = re.findall(r"template=(\w+\.yml)", target)[0]
        assert (ROOT / ".github/ISSUE_TEMPLATE" / form).is_file()
    assert not partial.render(config={"repo_url": ""}, page=page).strip()


def test_every_thread_is_a_link_to_itself() -> None:
    thread = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)#(?P<number>\d+)")
    link = re.compile(r"\[`?([\w.-]+/[\w.-]+)#(\d+)`?\]\(https://github\.com/([\w./-]+)/(?:issues|pull)/(\d+)\)")
    found = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        links = link.findall(text)
        found += len(links)
        assert not [given for given in links if given[:2] != given[2:]], page.relative_to(ROOT)
        bare = thread.findall(link.sub("", text))
        assert not bare, f"{page.relative_to(ROOT)}: {bare}"
    assert found > 50
