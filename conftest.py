"""Makes README.md and docs/ tests: sybil collects every fence spelled exactly ```` ```python ````."""

import doctest
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

import pytest
from sybil import Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.example import NotEvaluated
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.sybil import SybilCollection

ROOT = Path(__file__).parent
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before TensorFlow starts: the workers share the cores, and more threads would wait for each other.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
INCLUDE = re.compile(r'^--8<-- "(?P<path>[^":]+)(?::(?P<section>[\w-]+))?"$', re.MULTILINE)


def included_source(path: str, section: str | None) -> tuple[str, int]:
    """Return the text that a `--8<--` line stands for, and the number of the first line in its file."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines(keepends=True)
    if section is None:
        return "".join(lines), 1
    markers = [n for n, line in enumerate(lines) if re.search(rf"--8<-- \[(start|end):{section}\]", line)]
    if len(markers) != 2:
        raise ValueError(f"{path} needs one [start:{section}] and one [end:{section}]; it has {len(markers)} of them")
    first, last = markers
    return dedent("".join(lines[first + 1 : last])), first + 2


class IncludingEvaluator(PythonEvaluator):
    """Runs a fence; one that consists of `--8<--` lines runs the named sections of the recipe instead."""

    def __call__(self, example: Example) -> None:
        includes = list(INCLUDE.finditer(example.parsed))
        if not includes:
            super().__call__(example)
            return
        rest = INCLUDE.sub("", example.parsed).strip()
        if rest:
            raise ValueError(f"a fence holds either --8<-- lines or code, not both: {rest!r}")
        for include in includes:
            source, line = included_source(include["path"], include["section"])
            # Padded with blank lines, so that tracebacks and AutoGraph find the lines in the recipe itself.
            code = compile("\n" * (line - 1) + source, str(ROOT / include["path"]), "exec", dont_inherit=True)
            exec(code, example.namespace)
            del example.namespace["__builtins__"]


class FenceParser(PythonCodeBlockParser):
    def __init__(self) -> None:
        super().__init__(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        self.codeblock_parser = CodeBlockParser("python", IncludingEvaluator())


def start_page(namespace: dict) -> None:
    import keras

    keras.utils.set_random_seed(0)
    namespace["__name__"] = "page"
    # A page that shows a recipe's classes registers them a second time, under the same names.
    namespace["_registered"] = dict(keras.saving.get_custom_objects())
    # Pages write files as their readers would: into the current folder, here an empty one.
    namespace["_folder"] = tempfile.TemporaryDirectory()
    namespace["_back"] = os.getcwd()
    os.chdir(namespace["_folder"].name)


def end_page(namespace: dict) -> None:
    os.chdir(namespace["_back"])
    namespace["_folder"].cleanup()
    registered = sys.modules["keras"].saving.get_custom_objects()
    registered.clear()
    registered.update(namespace["_registered"])
    restore_defaults()
    namespace.clear()


class RulePage(PythonDocStringDocument):
    """The page of one of the doctor's rules: its module's docstring."""

    def import_document(self, example: Example) -> None:
        raise NotEvaluated  # the examples are a reader's session, not the module's own names


PAGES = Sybil(parsers=[FenceParser()], patterns=["*.md"], setup=start_page, teardown=end_page)
RULES = Sybil(
    parsers=[FenceParser()],
    path="recipes/phase_doctor/rules",
    patterns=["pd*.py"],
    document_types={".py": RulePage},
    setup=start_page,
    teardown=end_page,
)
pytest_collect_file = SybilCollection([PAGES, RULES]).pytest()


def pytest_configure() -> None:
    """PHASEBOOK_JIT=on or off: `fit` and the `tf.function`s of recipes and tests with XLA, or without it."""
    chosen = os.environ.get("PHASEBOOK_JIT")
    if not chosen:
        return
    if chosen not in ("on", "off"):
        raise pytest.UsageError(f"PHASEBOOK_JIT is on or off, not {chosen!r}")
    import keras
    import tensorflow as tf

    trainer = next(kind for kind in keras.Model.__mro__ if "compile" in vars(kind))
    compile_model, function = trainer.compile, tf.function

    def compile_with(self, *args, **kwargs):
        jit = chosen == "on" and not kwargs.get("run_eagerly") and all(x.supports_jit for x in self._flatten_layers())
        return compile_model(self, *args, **{"jit_compile": jit, **kwargs})

    def function_with(*args, **kwargs):
        ours = not sys._getframe(1).f_globals["__name__"].startswith(("keras.", "tensorflow."))
        return function(*args, **({"jit_compile": chosen == "on"} if ours else {}) | kwargs)

    trainer.compile, tf.function = compile_with, function_with


def restore_defaults() -> None:
    """Undo every process-wide setting that a test, a page or an import can leave behind."""
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy("float32")
    tf.config.run_functions_eagerly(False)
    if "tf_keras" in sys.modules:
        # set_learning_phase(0) would pin the phase; clear_session brings back "not set".
        sys.modules["tf_keras"].backend.clear_session()
    if "matplotlib" in sys.modules:
        sys.modules["matplotlib"].rcdefaults()


@pytest.fixture(autouse=True)
def clean_state():
    """Every test starts from the same seed and leaves no global setting to the next."""
    import keras

    restore_defaults()
    keras.utils.set_random_seed(0)
    yield
    restore_defaults()


@pytest.fixture(scope="module")
def browser():
    """A real Chromium, without a window; no browser is a skip, or a failure where one is required."""
    from selenium import webdriver

    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        if os.environ.get("PHASEBOOK_REQUIRE_BROWSER"):
            pytest.fail("no chromium and chromedriver on PATH, and PHASEBOOK_REQUIRE_BROWSER is set")
        pytest.skip("no chromium and chromedriver on PATH; Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()
