"""What the recipes' tests share: a recipe's demo, run once, as its reader would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the recipe of this test file prints when it is copied alone into an empty folder and run there."""
    folder = tmp_path_factory.mktemp("copied")
    name = Path(request.path).stem.removeprefix("test_") + ".py"
    shutil.copy(ROOT / "recipes" / name, folder)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    # TensorFlow writes its start-up lines to stderr; whoever runs it knows them.
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    left = {path.name for path in folder.iterdir()} - {name, "__pycache__"}
    assert not left, f"the demo left {left} behind"
    return done.stdout
