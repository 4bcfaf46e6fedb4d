"""Maintainers' lanes. `nox -l` lists them; README's two commands need none of them."""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "tests"]
PYTHONS = ["3.11", "3.12", "3.13"]
# Pages and data show what the pinned release answers; the recipes' tests hold on others. The doctor has its own lane.
BEHAVIOUR = [
    *("tests/recipes", "tests/reference/test_keras_316.py"),
    *("tests/scan/test_checks.py", "tests/scan/test_true.py", "tests/doctor/test_callback.py"),
]
GROUPS = ["tensorflow", "demo", "export", "legacy", "docs", "test"]


def install_unlocked(session: nox.Session, *first: str) -> None:
    """Install a TensorFlow that the lock does not name, then the groups' packages beside it.

    In two steps: a release candidate asks for keras-nightly, which lies in the folder of keras, so nothing may bring
    keras as well.
    """
    session.install(*first)
    project = nox.project.load_toml("pyproject.toml")
    names = [n for group in GROUPS for n in nox.project.dependency_groups(project, group)]
    session.install(*(n for n in names if not n.startswith(("tensorflow", "keras", "tf-keras"))))
    session.run("python", "-c", "import keras, tensorflow; print(tensorflow.__version__, keras.__version__)")


@nox.session
def lock(session: nox.Session) -> None:
    """Make requirements.txt anew from pyproject.toml: hashed, for Linux, macOS and Windows, Python 3.11 to 3.13."""
    session.install("uv")
    groups = [word for group in GROUPS for word in ("--group", group)]
    session.run(
        *["uv", "pip", "compile", "pyproject.toml", *groups],
        *["--universal", "--python-version", "3.11", "--generate-hashes"],
        *["--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "nox -s lock"],
        *["--output-file", "requirements.txt", *session.posargs],
    )


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and mypy, as pre-commit runs them, and zizmor over the workflows."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "dev"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("zizmor", "--offline", ".github")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite on the lock, on each Python, installed by plain pip as README says."""
    session.install("pip")
    session.run("python", "-m", "pip", "install", "--quiet", "-r", "requirements.txt")
    session.run("pytest", *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The recipes' tests on the oldest supported pair: TensorFlow 2.16 with an early Keras 3."""
    install_unlocked(session, "tensorflow==2.16.2", "keras==3.3.3", "tf-keras==2.16.0", "onnx<1.17")
    session.run("pytest", *(session.posargs or BEHAVIOUR))


@nox.session(python="3.12")
def newest(session: nox.Session) -> None:
    """The recipes' tests on the newest release candidate of TensorFlow and the Keras it brings."""
    install_unlocked(session, "--pre", "tensorflow")
    session.run("pytest", *(session.posargs or BEHAVIOUR))


def locked(session: nox.Session) -> None:
    session.install("-r", "requirements.txt")


def version_of(package: str) -> str:
    """Return the release of a package that the lock names."""
    return re.search(rf"^{package}==([^\s;]+)", Path("requirements.txt").read_text(encoding="utf-8"), re.M)[1]


@nox.session(python="3.12")
def gpu(session: nox.Session) -> None:
    """The recipes' tests and the doctor's corpus on a GPU, without XLA and with it; an error where there is none."""
    locked(session)
    session.install(f"tensorflow[and-cuda]=={version_of('tensorflow')}")
    seen = "import tensorflow as tf; gpus = tf.config.list_physical_devices('GPU'); print(gpus); assert gpus, 'no GPU'"
    session.run("python", "-c", seen)
    for jit in ("off", "on"):
        # TensorFloat-32 rounds to three digits, and tests compare five.
        given = {"PHASEBOOK_JIT": jit, "TF_FORCE_GPU_ALLOW_GROWTH": "true", "NVIDIA_TF32_OVERRIDE": "0"}
        session.run("pytest", *(session.posargs or ["tests/recipes", "tests/doctor"]), env=given)


@nox.session(python="3.12")
def bench(session: nox.Session) -> None:
    """Print ratios from interleaved runs and write docs/reference/benchmarks.json; then what the doctor costs, and
    synchronised statistics of several workers."""
    locked(session)
    session.run("python", "tests/benchmarks/bench.py", *session.posargs)
    session.run("python", "tests/benchmarks/doctor_cost.py")
    session.run("python", "tests/benchmarks/distributed_cost.py")


@nox.session(python="3.12")
def mutants(session: nox.Session) -> None:
    """Break every phase argument and statistics update of every recipe, one at a time, and print the survivors."""
    locked(session)
    session.run("python", "tests/mutants/mutants.py", *session.posargs)


@nox.session(python="3.12")
def versions(session: nox.Session) -> None:
    """Make or refresh the version matrix: all columns, or those named, e.g. `nox -s versions -- 2.0.0 --fresh`."""
    session.install("uv")
    session.run("python", "tests/versions/runner.py", "fill", *session.posargs)


@nox.session(python="3.12")
def case_file(session: nox.Session) -> None:
    """Replay the source article on the releases that decide its verdicts; writes docs/labs/data/."""
    session.install("uv", "scikit-learn")
    session.run("python", "tests/versions/case_file.py", *session.posargs)


@nox.session(python="3.12")
def fine_tune(session: nox.Session) -> None:
    """Measure the cost of drifting statistics over seeds, and the calibration of Monte Carlo dropout."""
    locked(session)
    for lane in ("lane_fine_tune", "lane_mc_dropout"):
        session.run("python", f"tests/recipes/{lane}.py", *session.posargs, env={"PYTHONPATH": "recipes"})


@nox.session(python="3.12")
def figures(session: nox.Session) -> None:
    """Measure what the pages' figures show; writes docs/figures/."""
    locked(session)
    session.run("python", "tests/docs/lane_figures.py", *session.posargs)


@nox.session(python="3.12")
def doctor(session: nox.Session) -> None:
    """Try the doctor on keras.applications and other Keras releases; writes docs/reference/doctor/examined.json."""
    session.install("uv")
    session.run("python", "tests/doctor/lane_doctor.py", *session.posargs)


@nox.session(python="3.12")
def wild(session: nox.Session) -> None:
    """Try the doctor on models of published packages; writes docs/reference/doctor/wild.json."""
    session.install("uv")
    session.run("python", "tests/doctor/lane_wild.py", *session.posargs)


@nox.session(python="3.12")
def axe(session: nox.Session) -> None:
    """Build the site and let axe-core examine every page, in both schemes, wide and narrow (needs Chromium)."""
    locked(session)
    site = session.create_tmp()
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", site, env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", "tests/docs/test_axe.py", "--dist", "load", *session.posargs, env={"PHASEBOOK_SITE": site})
