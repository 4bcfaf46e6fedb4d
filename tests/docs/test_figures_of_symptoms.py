"""The figures that are no recipe's, measured today: a file of their own, since a file is one worker's."""

import lane_figures
import pytest
from test_figures import RECIPES, assert_today_looks_like


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(lane_figures.NAMES) - RECIPES))
def test_today_looks_like_the_figure_of_a_symptom(name: str) -> None:
    assert_today_looks_like(name)
