"""The built site, looked at as a reader's browser sees it."""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_a_warm_build_runs_no_lab_again(site: Path, build: Callable[[Path], str], tmp_path: Path) -> None:
    def stored() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (ROOT / ".cache/labs").rglob("*.json")}

    cold = stored()
    assert len(cold) == len(list((ROOT / "docs/labs").glob("*.py")))
    assert not build(tmp_path)
    assert stored() == cold


class Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in {"script", "img", "iframe", "source", "video"} and given.get("src"):
            self.loads.append(str(given["src"]))
        if tag == "link" and given.get("rel") not in {"canonical", "prev", "next", "edit"} and given.get("href"):
            self.loads.append(str(given["href"]))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Links]:
    """Every built page by its path below the site, such as `recipes/export_inference_model/`."""
    return {
        page.parent.relative_to(site).as_posix().removeprefix(".") + "/": Links(page)
        for page in site.rglob("index.html")
    }


def test_every_internal_link_and_anchor_leads_somewhere(site: Path, pages: dict[str, Links]) -> None:
    broken = []
    for path, page in pages.items():
        for link in set(page.links):
            target, anchor = urldefrag(urljoin(f"http://site/{path.lstrip('/')}", link))
            if urlparse(target).netloc not in {"site", "127.0.0.1:8000"}:
                continue
            local = unquote(urlparse(target).path).lstrip("/")
            if local in pages or f"{local.rstrip('/')}/" in pages or local == "":
                here = pages.get(local) or pages[f"{local.rstrip('/')}/"]
                if anchor and unquote(anchor) not in here.anchors:
                    broken.append(f"{path}: {link} (no such anchor)")
            elif not (site / local).is_file():
                broken.append(f"{path}: {link}")
    assert not broken


def test_nothing_is_loaded_from_another_origin(pages: dict[str, Links]) -> None:
    foreign = {
        url for page in pages.values() for url in page.loads if urlparse(url).netloc not in {"", "127.0.0.1:8000"}
    }
    assert not foreign


def test_no_page_carries_the_notebook_plugins_half_megabyte(site: Path) -> None:
    for page in site.rglob("index.html"):
        # Figures of labs are inlined, a listing is as long as its file; without them a page is small.
        text = re.sub(r"data:image/[^\"']+", "", page.read_text(encoding="utf-8"))
        text = re.sub(r"<svg.*?</svg>|<pre>.*?</pre>", "", text, flags=re.DOTALL)
        assert len(text) < 500_000, f"{page.relative_to(site)}: {len(text)} bytes"
        assert "jp-mod-dark" not in text


def test_a_first_visit_weighs_little(site: Path, pages: dict[str, Links]) -> None:
    """Compressed, each page with all that it loads and the search's worker, without its index: at most 150 KB."""

    def weight(path: Path) -> int:
        return len(gzip.compress(path.read_bytes()))

    search = sum(map(weight, [site / "assets/search.js", *(site / "assets/javascripts/workers").glob("*.js")]))
    heavy = {}
    for name, page in pages.items():
        own = site / name.lstrip("/")
        loads = {(own / urlparse(url).path).resolve() for url in page.loads if not urlparse(url).netloc}
        assert len(loads) >= 5
        total = weight(own / "index.html") + sum(map(weight, loads)) + search
        if total > 150_000:
            heavy[name] = total
    assert not heavy


def test_every_recipe_can_be_downloaded_byte_for_byte(site: Path) -> None:
    recipes = ROOT / "recipes"
    for path in recipes.rglob("*.py"):
        assert (site / "recipes/files" / path.relative_to(recipes)).read_bytes() == path.read_bytes()
    with zipfile.ZipFile(site / "recipes/files/phase_doctor.zip") as folder:
        packed = {name: folder.read(name) for name in folder.namelist()}
    assert packed == {
        path.relative_to(recipes).as_posix(): path.read_bytes() for path in (recipes / "phase_doctor").rglob("*.py")
    }


def test_no_page_scrolls_sideways_on_a_phone_or_logs_an_error_or_loads_from_another_origin(
    browser: webdriver.Chrome, view: Callable[..., None], address: str, pages: dict[str, Links]
) -> None:
    view(360)
    browser.get_log("browser")
    wide = {}
    for path in pages:
        browser.get(address + path.lstrip("/"))
        width = browser.execute_script("return document.documentElement.scrollWidth")
        if width > 360:
            wide[path] = width
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        foreign = [url for url in loaded if not url.startswith((address, "data:", "blob:"))]
        assert not foreign, f"{path} loads {foreign}"
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors and not wide


def test_copying_an_example_copies_code_without_prompts_or_outputs(
    browser: webdriver.Chrome, view: Callable[..., None], address: str
) -> None:
    view(1280)
    browser.get(address + "reference/who-decides-the-phase/")
    block = browser.find_element(By.CSS_SELECTOR, ".language-pycon code")
    copied = browser.execute_script(
        "const e = arguments[0]; e.setAttribute('data-md-copying', ''); const t = e.innerText;"
        "e.removeAttribute('data-md-copying'); return t",
        block,
    )
    assert ">>>" in block.text and "'inference'" in block.text
    assert ">>>" not in copied and "'inference'" not in copied
    assert copied.strip().splitlines()[0] == "phase_of(lambda: model(x))"


def test_code_can_be_read_without_javascript(site: Path) -> None:
    text = (site / "recipes/export_inference_model/index.html").read_text(encoding="utf-8")
    assert "write_out" in re.sub(r"<[^>]+>", "", text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(
    browser: webdriver.Chrome,
    view: Callable[..., None],
    address: str,
    scheme: str,
) -> None:
    """WCAG 2.1, 1.4.3: body text has a contrast of at least 4.5 to 1, in both schemes."""
    view(1280, scheme)
    browser.get(address)
    back, ink = browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('article p')).color]"
    )

    def luminance(colour: str, under: tuple[float, ...] = (0, 0, 0)) -> tuple[float, tuple[float, ...]]:
        numbers = [float(n) for n in re.findall(r"[\d.]+", colour)]
        alpha = numbers[3] if len(numbers) > 3 else 1.0
        mixed = tuple(alpha * n + (1 - alpha) * u for n, u in zip(numbers[:3], under, strict=True))
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in mixed)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2], mixed

    ground, mixed = luminance(back)
    text, _ = luminance(ink, mixed)
    assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5
    is_dark = ground < 0.2
    assert is_dark == (scheme == "dark")
