"""`pip install .` installs the doctor and nothing else, and its command answers where no TensorFlow is."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree() -> str:
    return run("git", "status", "--porcelain", "--ignored", "--untracked-files=all", "--", ".", ":!*__pycache__*")


def test_the_package_is_the_doctor_alone_and_its_command_runs_without_tensorflow(tmp_path: Path) -> None:
    before = tree()
    # What `pip install .` does, in two steps: the lock holds what builds the wheel, so no registry is asked.
    wheel = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, "."]
    run(sys.executable, "-m", "pip", *wheel)
    assert tree() == before, "building left something behind in the tree"
    venv.create(tmp_path / "empty", with_pip=False)
    scripts = tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin")
    install = ["install", "--quiet", "--no-index", *tmp_path.glob("*.whl")]
    run(sys.executable, "-m", "pip", "--python", scripts / "python", *install)
    packages = run(
        scripts / "python", "-c", "import importlib.metadata as m; print(*[d.name for d in m.distributions()])"
    )
    assert packages.split() == ["phasebook"]
    files = run(scripts / "python", "-c", "import importlib.metadata as m; print(*m.files('phasebook'))").split()
    assert {name.split("/")[0] for name in files if ".dist-info" not in name and ".." not in name} == {"phase_doctor"}
    assert run(scripts / "phase-doctor", "--version").startswith("phase_doctor 0.")
