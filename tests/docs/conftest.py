"""One strict build of the site for all tests that look at it, whichever worker runs them, and a server for it."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB_CACHE = ROOT / ".cache/labs"


def build_site(folder: Path) -> str:
    """Build as README says; return what went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.fixture(scope="session")
def build() -> Callable[[Path], str]:
    return build_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The strict build from a cold cache, made by the first worker that asks; or a site that is built already."""
    if "PHASEBOOK_SITE" in os.environ:
        return Path(os.environ["PHASEBOOK_SITE"])
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, outcome = shared / "site", shared / "site.txt"
    try:
        (shared / "site.lock").mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 600
        while not outcome.exists():
            assert time.monotonic() < deadline, "the worker that builds the site has not finished"
            time.sleep(0.2)
    else:
        shutil.rmtree(LAB_CACHE, ignore_errors=True)
        unfinished = shared / "site.part"
        unfinished.write_text(build_site(folder), encoding="utf-8")
        unfinished.rename(outcome)
    wrong = outcome.read_text(encoding="utf-8")
    assert not wrong, wrong
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def view(browser) -> Callable[..., None]:
    """Set the width of the window, the reader's colour scheme and wish for motion, and the medium."""

    def see(width: int = 1280, scheme: str = "light", motion: str = "no-preference", medium: str = "") -> None:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})

    return see
