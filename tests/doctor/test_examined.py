"""The lane's verdicts (docs/reference/doctor/examined.json) against the corpus, and against today's doctor."""

from __future__ import annotations

import json

import corpus_broken
import corpus_healthy
import examine
import keras
import lane_doctor
import pytest

EXAMINED = json.loads(lane_doctor.EXAMINED.read_text(encoding="utf-8"))


def test_every_part_of_the_lane_is_there():
    assert tuple(EXAMINED) == lane_doctor.PARTS


@pytest.mark.parametrize("part", [part for part in EXAMINED if part.startswith("corpus@")])
def test_every_release_saw_the_corpus_of_today(part):
    names = [f"broken: {name}" for name in corpus_broken.CASES] + [f"healthy: {name}" for name in corpus_healthy.CASES]
    assert sorted(EXAMINED[part]["verdicts"]) == sorted(names), "run: nox -s doctor"


def test_every_architecture_was_examined_but_the_largest():
    wanted = set(examine.architectures(keras)) - set(examine.HUGE)
    assert {name.split(",")[0] for name in EXAMINED["applications@2.21.0"]["verdicts"]} == wanted


def test_no_part_has_lost_a_verdict():
    """What is wrong is shown on the page; today's release has nothing to show."""
    for part in ("corpus@2.21.0", "applications@2.21.0"):
        assert set(EXAMINED[part]["verdicts"].values()) == {"ok"}, part


@pytest.mark.slow
@pytest.mark.parametrize("state", ["fresh", "trained"])
def test_today_is_what_the_data_say(state):
    stored = EXAMINED["applications@2.21.0"]["verdicts"][f"MobileNetV2, {state}"]
    assert examine.examine_application(keras, "MobileNetV2", state) == stored
