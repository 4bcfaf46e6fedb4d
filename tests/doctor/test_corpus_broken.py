"""The corpus scored: every broken model is found with its code and layer."""

from __future__ import annotations

from pathlib import Path

import corpus_broken
import corpus_healthy
import keras
import phase_doctor
import pytest
from cases import build, judge

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", corpus_broken.CASES)
def test_the_broken_model_is_found_with_code_and_layer(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    assert not judge(build(corpus_broken.CASES[name], tmp_path), healthy=False)


def test_the_corpus_is_large_enough_and_covers_every_rule() -> None:
    assert len(corpus_broken.CASES) >= 40 and len(corpus_healthy.CASES) >= 40
    source = Path(corpus_broken.__file__).read_text(encoding="utf-8")
    rules = [code for code in phase_doctor.RULES if code not in ("PD001", "PD002")]
    assert [code for code in rules if f'"{code}"' not in source] == []
