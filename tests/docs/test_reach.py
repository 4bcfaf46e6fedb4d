"""Every reader gets at everything: by keyboard, on paper, without motion, and without text that jumps or is cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accessible
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "docs/recipes").glob("*.md") if path.stem != "index")
slow = pytest.mark.slow


def test_names_in_tables_may_break_at_their_joints_only() -> None:
    page = (
        "<p><code>a_b</code></p>"
        "<table><td><code>keras.layers.Dropout_2(p)</code> <code>__init__</code> <span>TypeError</span></td></table>"
    )
    assert accessible.breakable_names(page) == (
        "<p><code>a_b</code></p>"
        "<table><td><code>keras.<wbr>layers.<wbr>Dropout_<wbr>2(<wbr>p)</code> <code>__init__</code> "
        "<span>Type<wbr>Error</span></td></table>"
    )


def test_code_that_may_scroll_takes_focus() -> None:
    short, long = ("<pre><span></span><code>" + line + "</code></pre>" for line in ("x" * 36, "&lt;" * 37))
    assert accessible.focusable_code(short) == short
    assert accessible.focusable_code(long) == long.replace("<code>", '<code tabindex="0">')


def press(browser: webdriver.Chrome, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def tab_to(browser: webdriver.Chrome, selector: str) -> None:
    """Press Tab until an element that the selector names has the focus."""
    for _ in range(300):
        press(browser, Keys.TAB)
        if browser.execute_script("return document.activeElement.matches(arguments[0])", selector):
            return
    raise AssertionError(f"Tab never reaches {selector}")


@slow
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("way", ["/", "Tab"])
def test_search_works_by_keyboard(
    browser: webdriver.Chrome, view: Callable[..., None], address: str, width: int, way: str
) -> None:
    view(width)
    browser.get(address)
    if way == "Tab":
        tab_to(browser, ".md-search__input")
    else:
        press(browser, way)
    press(browser, "set_learning_phase")
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".md-search-result__item"))
    press(browser, Keys.ARROW_DOWN)
    assert "set_learning_phase_missing" in browser.switch_to.active_element.get_attribute("href")
    press(browser, Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda page: "set_learning_phase_missing" in page.current_url)


@slow
def test_tabs_work_by_keyboard(browser: webdriver.Chrome, view: Callable[..., None], address: str, site: Path) -> None:
    tabbed = [page for page in sorted(site.rglob("index.html")) if 'class="tabbed-set' in page.read_text("utf-8")]
    view()
    browser.get(address + tabbed[0].relative_to(site).as_posix())
    tab_to(browser, ".tabbed-set > input:checked")
    chosen = browser.switch_to.active_element.get_attribute("id")
    press(browser, Keys.ARROW_RIGHT)
    now = browser.switch_to.active_element
    assert now.get_attribute("id") != chosen and now.is_selected()


@slow
def test_code_is_copied_and_scrolled_by_keyboard(
    browser: webdriver.Chrome, view: Callable[..., None], address: str
) -> None:
    view(360)
    browser.get(address + "recipes/export_inference_model/")
    tab_to(browser, "pre > code")
    press(browser, *[Keys.ARROW_RIGHT] * 3)
    WebDriverWait(browser, 10).until(lambda page: page.execute_script("return document.activeElement.scrollLeft > 0"))
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab_to(browser, "[data-clipboard-target], .md-code__button")
    press(browser, Keys.ENTER)
    told = browser.find_element(By.CSS_SELECTOR, ".md-dialog")
    WebDriverWait(browser, 10).until(lambda _: "Copied" in told.text)


@slow
@pytest.mark.parametrize("slug", RECIPES)
def test_88_columns_of_code_fit_beside_the_menus(
    browser: webdriver.Chrome, view: Callable[..., None], address: str, slug: str
) -> None:
    view(1280)
    browser.get(f"{address}recipes/{slug}/")
    cut, longest = browser.execute_script(
        "const blocks = [...document.querySelectorAll('.md-content pre > code')].filter(code => code.offsetParent);"
        "const cut = blocks.filter(code => code.scrollWidth > code.clientWidth).map(code => code.textContent);"
        "const block = document.querySelector('article > .highlight code');"
        "block.textContent = 'x'.repeat(88);"
        "return [cut, block.scrollWidth <= block.clientWidth]"
    )
    assert not [text for text in cut if max(map(len, text.splitlines())) <= 88]
    assert longest


@slow
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_moves_while_a_page_loads(
    browser: webdriver.Chrome, view: Callable[..., None], address: str, width: int
) -> None:
    """Less than 0.1 of cumulative layout shift is called good by the Web Vitals; half of it is asked here."""
    view(width)
    shifts = {}
    for path in ("", "symptoms/validation_at_chance/", "recipes/export_inference_model/", "reference/version-matrix/"):
        browser.get(address + path)
        shifts[path] = browser.execute_async_script(
            "const done = arguments[0]; let sum = 0;"
            "new PerformanceObserver(list => list.getEntries().forEach(entry => sum += entry.value))"
            ".observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 400)"
        )
    assert max(shifts.values()) < 0.05, shifts


@slow
def test_nothing_is_animated_for_those_who_ask(
    browser: webdriver.Chrome, view: Callable[..., None], address: str
) -> None:
    longest = (
        "return Math.max(...[...document.querySelectorAll('*')].flatMap(element => ['', '::before', '::after']"
        ".flatMap(part => { const style = getComputedStyle(element, part || null);"
        " return `${style.transitionDuration},${style.animationDuration}`.split(',').map(parseFloat) })))"
    )
    view()
    browser.get(address)
    assert browser.execute_script(longest) >= 0.1
    view(motion="reduce")
    assert browser.execute_script(longest) <= 0.001


@slow
def test_paper_shows_all(browser: webdriver.Chrome, view: Callable[..., None], address: str, site: Path) -> None:
    tabbed = [page for page in sorted(site.rglob("index.html")) if 'class="tabbed-set' in page.read_text("utf-8")]
    hidden = (
        "return [...document.querySelectorAll('.tabbed-block')].filter(block => !block.getClientRects().length).length"
    )
    cut = (
        "return [...document.querySelectorAll('.md-content pre > code')]"
        ".filter(code => code.scrollWidth > code.clientWidth).length"
    )
    view(800)
    browser.get(address + tabbed[0].relative_to(site).as_posix())
    assert browser.execute_script(hidden)
    view(800, medium="print")
    assert not browser.execute_script(hidden) and not browser.execute_script(cut)
    view()
