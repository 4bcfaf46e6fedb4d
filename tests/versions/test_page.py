"""The matrix in a real browser: its filter, its sticky header, a phone, and no JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matrix as site
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

ASSETS = Path(__file__).resolve().parents[2] / "docs" / "assets"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> dict:
    return site.load()


@pytest.fixture(scope="module")
def show(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory, data: dict) -> Callable[..., None]:
    """Open the matrix alone, with its style sheet and with or without its script, at a width."""
    folder = tmp_path_factory.mktemp("page")

    def open_page(width: int = 1280, script: bool = True, fragment: str = "") -> None:
        page = folder / f"{script}.html"
        if not page.exists():
            end = f"<script>{(ASSETS / 'matrix.js').read_text(encoding='utf-8')}</script>" if script else ""
            style = (ASSETS / "matrix.css").read_text(encoding="utf-8")
            page.write_text(
                '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
                f"<style>html {{ font-size: 20px }} {style}</style>{site.matrix_page(data)}{end}",
                encoding="utf-8",
            )
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get("about:blank")
        browser.get(page.as_uri() + fragment)

    return open_page


def shown(browser: webdriver.Chrome) -> list[str]:
    """The ids of the facts whose rows are displayed."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('.mx [id^=fact-]')]"
        ".filter(fact => fact.closest('tr').offsetHeight > 0).map(fact => fact.id)"
    )
    return found


def test_the_filter_by_group(browser: webdriver.Chrome, show: Callable[..., None], data: dict) -> None:
    show()
    assert len(shown(browser)) == len(data["facts"])
    group = data["facts"][-1]["group"]
    Select(browser.find_element(By.NAME, "group")).select_by_visible_text(group)
    wanted = [site.anchor(fact["id"]) for fact in data["facts"] if fact["group"] == group]
    assert shown(browser) == wanted
    assert browser.find_element(By.CSS_SELECTOR, ".mx-filter output").text == f"{len(wanted)} facts"


def test_the_filter_by_changes_since_a_release(
    browser: webdriver.Chrome, show: Callable[..., None], data: dict
) -> None:
    show()
    Select(browser.find_element(By.NAME, "since")).select_by_visible_text("Keras 3.10.0")
    columns = site.timeline(data)
    first = [column["id"] for column in columns].index("2.19.1+keras3.10.0")
    wanted = {
        name
        for _, after, found in site.changes(data)
        if not site.apart(after) and columns.index(after) >= first
        for name, _, _ in found
    }
    assert set(shown(browser)) == {site.anchor(name) for name in wanted}
    assert "fact-subclass_no_arg-tffunction_training_true" in shown(browser)
    assert "fact-has_set_learning_phase" not in shown(browser)


def test_a_link_reaches_a_fact_that_the_filter_hides(browser: webdriver.Chrome, show: Callable[..., None]) -> None:
    show()
    Select(browser.find_element(By.NAME, "group")).select_by_index(1)
    assert "fact-bn_momentum" not in shown(browser)
    browser.execute_script("location.hash = '#fact-bn_momentum'")
    top = browser.execute_async_script(
        "const done = arguments[0];"
        "setTimeout(() => done(document.getElementById('fact-bn_momentum').getBoundingClientRect().top), 300)"
    )
    assert "fact-bn_momentum" in shown(browser)
    assert -1 < top < 800  # a box scrolls by whole pixels


def test_a_link_opens_the_row_of_a_family(browser: webdriver.Chrome, show: Callable[..., None]) -> None:
    name = "fact-behind-base_false-dropout-functional-fit"
    show(fragment=f"#{name}")
    fold, top = browser.execute_async_script(
        "const done = arguments[1], fact = document.getElementById(arguments[0]);"
        "setTimeout(() => done([fact.closest('details').open, fact.getBoundingClientRect().top]), 300)",
        name,
    )
    assert fold
    assert -1 < top < 800  # a box scrolls by whole pixels


def test_the_head_stays_in_sight(browser: webdriver.Chrome, show: Callable[..., None]) -> None:
    show()
    head, box, fact = browser.execute_script(
        "const box = document.querySelector('.mx-scroll'); box.scrollTop = 3000; box.scrollLeft = 200;"
        "const at = e => { const r = e.getBoundingClientRect(); return [r.left, r.top] };"
        "const rows = [...document.querySelectorAll('.mx tr[data-changes] th')];"
        "return [at(document.querySelector('.mx thead th:last-child')), at(box),"
        " at(rows.find(r => r.getBoundingClientRect().top > 300))]"
    )
    assert head[1] == pytest.approx(box[1], abs=2)  # the releases, after scrolling down
    assert fact[0] == pytest.approx(box[0], abs=2)  # the statements, after scrolling right


def test_a_phone_shows_each_run_as_a_line(browser: webdriver.Chrome, show: Callable[..., None]) -> None:
    show(360)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    row = browser.find_element(By.ID, "fact-subclass_no_arg-fit")
    cells = row.find_elements(By.TAG_NAME, "td")
    tops = [cell.location["y"] for cell in cells]
    assert len(cells) >= 3 and tops == sorted(set(tops))
    label = browser.execute_script("return getComputedStyle(arguments[0], '::before').content", cells[0])
    assert label == '"TF 1.14.0 – 2.15.1"'
    assert [cell.text.replace("\n", " ").split() for cell in cells[:2]] == [["✓", "yes"], ["✗", "no"]]


def test_without_javascript_everything_is_there(
    browser: webdriver.Chrome, show: Callable[..., None], data: dict
) -> None:
    show(script=False)
    assert len(shown(browser)) == len(data["facts"])
    assert not browser.find_element(By.CSS_SELECTOR, ".mx-filter").is_displayed()


@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_answers_stand_out_from_their_colour(browser: webdriver.Chrome, show: Callable[..., None], scheme: str) -> None:
    """WCAG 2.1, 1.4.3: a contrast of at least 4.5 to 1, in both schemes."""
    show()
    browser.execute_script("document.body.dataset.mdColorScheme = arguments[0]", scheme)
    for tone in ("yes", "no", "error", "value"):
        ink, back = browser.execute_script(
            "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.color, s.backgroundColor]",
            f".mx td.mx-{tone}",
        )

        def luminance(colour: str) -> float:
            numbers = [int(n) / 255 for n in colour[colour.index("(") + 1 : -1].split(",")[:3]]
            linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in numbers]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        light, dark = sorted((luminance(ink), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{tone} in {scheme}: {ink} on {back}"
