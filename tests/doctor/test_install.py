"""`pip install .` installs the doctor and nothing else, and its command answers where no TensorFlow is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_is_the_doctor_alone_and_its_command_runs_without_tensorflow(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "recipes", clone / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    before = sorted(clone.rglob("*"))
    # What `pip install .` does, in two steps: the lock holds what builds the wheel, so no registry is asked.
    wheel = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, clone]
    run(sys.executable, "-m", "pip", *wheel)
    assert sorted(clone.rglob("*")) == before, "building left something behind in the tree"
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
    source = tmp_path / "net.py"
    source.write_text("from keras.layers import BatchNormalization\nnorm = BatchNormalization(momentum=0.1)\n")
    done = subprocess.run([scripts / "phase-doctor", "scan", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "") and "net.py:2:8: PS403 warning" in done.stdout
