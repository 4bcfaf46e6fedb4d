"""The corpus scored: no healthy model is flagged. A file of its own, since a file is one worker's."""

from __future__ import annotations

from pathlib import Path

import corpus_healthy
import keras
import pytest
from cases import build, judge

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", corpus_healthy.CASES)
def test_the_healthy_model_is_not_flagged(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    assert not judge(build(corpus_healthy.CASES[name], tmp_path), healthy=True)
