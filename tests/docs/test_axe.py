"""axe-core finds nothing serious: on one page of each kind, or on every page of a site that is built already.

`nox -s axe` and `.ci/run` build the site and name it in PHASEBOOK_SITE; then every page is examined.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow

KINDS = [
    "",
    "404.html",
    "symptoms/validation_at_chance/",
    "recipes/export_inference_model/",
    "reference/version-matrix/",
    "reference/doctor/behaviour/",
    "case-file/",
    "labs/c06-c07-fit-lag/",
]
# Each width and each scheme once; on a site that is built already, where every page is examined, all four.
LOOKS = [(1280, "light"), (360, "dark"), (1280, "dark"), (360, "light")]
looks = pytest.mark.parametrize(("width", "scheme"), LOOKS if "PHASEBOOK_SITE" in os.environ else LOOKS[:2])
# The first words of a long listing stand for the rest: the probes' 1,500 lines take axe minutes on a busy machine.
RUN = """
for (const code of document.querySelectorAll("pre, pre > code")) {
  while (code.childNodes.length > 2000) code.lastChild.remove();
}
const answer = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => answer(
  violations.filter(({impact}) => impact === "serious" || impact === "critical")
    .flatMap(({id, nodes}) => nodes.map(({target, failureSummary}) => `${id}: ${target.join(" ")}: ${failureSummary}`))
));
"""


def axe_script() -> str:
    """Return the axe.min.js that the locked package brings; its own module would start Playwright."""
    package = importlib.util.find_spec("axe_playwright_python")
    assert package and package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


AXE = axe_script()


def serious(browser: webdriver.Chrome) -> list[str]:
    browser.execute_script(AXE)
    return browser.execute_async_script(RUN)


@looks
def test_axe_finds_nothing_serious(
    browser: webdriver.Chrome, view: Callable[..., None], site: Path, address: str, width: int, scheme: str
) -> None:
    every = sorted(page.parent.relative_to(site).as_posix() + "/" for page in site.rglob("index.html"))
    view(width, scheme)
    browser.set_script_timeout(120)
    found = {}
    for path in every if "PHASEBOOK_SITE" in os.environ else KINDS:
        browser.get(address + path.removeprefix("./"))
        assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
        if faults := serious(browser):
            found[path] = faults
    assert not found


def test_axe_sees_a_fault(browser: webdriver.Chrome, view: Callable[..., None], address: str) -> None:
    """An examination that could find nothing would find nothing."""
    view()
    browser.get(address)
    browser.execute_script(
        "document.querySelector('.md-content').insertAdjacentHTML('beforeend',"
        ' \'<p style="color: #bbb; background: #fff">pale</p><p><img src="assets/favicon.svg"></p>\')'
    )
    assert {fault.split(":")[0] for fault in serious(browser)} == {"color-contrast", "image-alt"}


@looks
def test_axe_finds_nothing_serious_in_the_open_search(
    browser: webdriver.Chrome, view: Callable[..., None], address: str, width: int, scheme: str
) -> None:
    view(width, scheme)
    browser.get(address)
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    browser.switch_to.active_element.send_keys("moving mean")
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".md-search-result__item"))
    assert not serious(browser)
