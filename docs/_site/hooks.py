"""What mkdocs.yml cannot say: recipe files beside their pages, prompts that do not get copied, lean lab pages."""

from __future__ import annotations

import hashlib
import inspect
import io
import re
import shutil
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import accessible
import figures
import search
from phase_doctor.rules import MODULES
from phase_doctor.scan import checks, command
from phase_doctor.scan.check import CHECKS

assert checks  # it fills CHECKS

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
FIGURE = re.compile(r"^<!-- figure: (?P<name>\w+) -->$", re.MULTILINE)
RULES = re.compile(r"^<!-- rules: (?P<prefix>PD\d) -->$", re.MULTILINE)
SCAN = re.compile(r"^<!-- checks: (?P<prefix>PS\d) -->$", re.MULTILINE)
FENCE_OF_PROMPTS = re.compile(r"^(?P<indent>[ \t]*)```python\n(?=[ \t]*>>>)", re.MULTILINE)
NOTEBOOK_CODE = re.compile(r'<div class="highlight-ipynb[^"]*"><pre>(?:<span></span>)?(?P<code>.*?)</pre>', re.DOTALL)
LINK_TO_SOURCE = re.compile(r'href="(?!https?:)(?P<page>[^"#]+)\.(?:md|py)(?P<anchor>#[^"]*)?"')
NOTEBOOK_STYLE = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)
NOTEBOOK_SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)


def lab_digest() -> str:
    """Return a digest of all that a lab's output depends on; the plugin's own key is the page alone."""
    digest = hashlib.sha256()
    for package in sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}):
        digest.update(package.encode())
    sources = [
        *(ROOT / "docs/labs").rglob("*"),
        *(ROOT / "tests/versions").glob("*.py"),
        *(ROOT / "docs/_site").glob("*.py"),
    ]
    for path in sorted(p for p in sources if p.is_file() and "__pycache__" not in p.parts):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def on_config(config: Any) -> Any:
    """Name the lab cache after that digest, and drop what was drawn for another one."""
    jupyter, digest = config.plugins["mkdocs-jupyter"].config, lab_digest()
    for old in (ROOT / jupyter["cache_dir"]).glob("*"):
        if old.name != digest:
            shutil.rmtree(old, ignore_errors=True)
    jupyter["cache_dir"] = f"{jupyter['cache_dir']}/{digest}"
    config.watch.extend(str(ROOT / folder) for folder in ("recipes", "tests/versions"))
    return config


def archive(package: Path) -> bytes:
    """Return a package's files as a zip that holds the folder to copy; the same bytes whenever it is made."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as folder:
        for path in sorted(package.rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(package.parent).as_posix())
            folder.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def on_files(files: Files, config: Any) -> Files:
    """Serve every recipe's exact bytes for download, a package's as an archive too, and the probes'."""
    for path in sorted(RECIPES.rglob("*.py")):
        name = path.relative_to(RECIPES).as_posix()
        files.append(File.generated(config, f"recipes/files/{name}", abs_src_path=str(path)))
    for package in sorted(path.parent for path in RECIPES.glob("*/__init__.py")):
        files.append(File.generated(config, f"recipes/files/{package.name}.zip", content=archive(package)))
    files.append(File.generated(config, "reference/probes.py", abs_src_path=str(ROOT / "tests/versions/probes.py")))
    return files


def rule_pages(prefix: str) -> str:
    """Return the sections of the doctor's rules whose code begins with `prefix`, made from the rules themselves."""
    sections = []
    for code, module in MODULES.items():
        if not code.startswith(prefix):
            continue
        title, _, body = inspect.getdoc(module).partition("\n")
        cures = [
            f"- {cure.text}" + (f" [`{cure.recipe}`](../../recipes/{cure.recipe}.md)" if cure.recipe else "")
            for cure in module.RULE.cures.values()
        ]
        head = f"{'###' if prefix == 'PD0' else '##'} {title} {{ #{code.lower()} }}"
        # The cure comes before the example, which shows the fault first.
        words, broken, example = body.strip().partition("Broken:")
        sections.append("\n\n".join([head, words.strip(), "**Use instead.**", "\n".join(cures), broken + example]))
    return "\n\n".join(sections)


def scan_page(prefix: str) -> str:
    """Return the sections of the scan's checks whose code begins with `prefix`, made from the checks themselves."""
    sections = []
    for code, check in CHECKS.items():
        if code.startswith(prefix):
            words = f"{check.why}\n\nTrue on {check.releases}; {check.severity}.\n\n**Use instead.** {check.instead}"
            shown = [("Broken:", "python", check.broken), ("Printed:", "text", command.printed(check))]
            shown.append(("Cured, and silent:", "python", check.cured))
            fences = [f"{label}\n\n```{kind}\n{text}\n```" for label, kind, text in shown]
            sections.append("\n\n".join([f"### {code}: {check.title} {{ #{code.lower()} }}", words, *fences]))
    return "\n\n".join(sections)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put a download button under a recipe page's title, draw its figure, and let Pygments know prompts as prompts."""
    path = Path(page.file.src_uri)
    page.meta["search"] = search.settings(page)
    markdown += search.other_words(page)
    name = f"{path.stem}.zip" if (RECIPES / path.stem).is_dir() else f"{path.stem}.py"
    if files.get_file_from_path(f"recipes/files/{name}") and path.parts[0] == "recipes":
        title, _, rest = markdown.partition("\n")
        if not title.startswith("# "):
            raise ValueError(f"{path} must open with its title")
        button = f'[:material-download: {name}](files/{name}){{ .md-button .recipe-file download="{name}" }}'
        markdown = f"{title}\n\n{button}\n\n{rest}"
    markdown = RULES.sub(lambda marker: rule_pages(marker["prefix"]), markdown)
    markdown = SCAN.sub(lambda marker: scan_page(marker["prefix"]), markdown)
    markdown = FIGURE.sub(lambda marker: figures.figure(marker["name"]), markdown)
    return FENCE_OF_PROMPTS.sub(r"\g<indent>```pycon\n", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    return search.leave_out(accessible.breakable_names(html))


def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    """Runs after the search plugin's own."""
    search.complete(config.plugins["material/search"].search_index.entries, page)
    return context


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The notebook plugin writes 590 KB of style and script into each lab page; one small shared sheet serves all."""
    if not page.file.src_uri.startswith("labs/") or not page.file.src_uri.endswith(".py"):
        return accessible.focusable_code(output)
    head, body, rest = output.partition("<article")
    if not body or "jupyter-wrapper" not in rest:
        raise ValueError(f"{page.file.src_uri}: no notebook in the page; has mkdocs-jupyter changed its template?")
    article, end, tail = rest.partition("</article>")
    article = NOTEBOOK_SCRIPT.sub("", NOTEBOOK_STYLE.sub("", article))
    # Material's own code blocks: colours for both schemes, scrolling, a copy button.
    article = NOTEBOOK_CODE.sub(r'<div class="highlight"><pre><code>\g<code></code></pre>', article)
    # MkDocs turns links to sources into links to pages in Markdown only, not in notebooks.
    article = LINK_TO_SOURCE.sub(r'href="../\g<page>/\g<anchor>"', article)
    return accessible.focusable_code(head + body + article + end + tail)
