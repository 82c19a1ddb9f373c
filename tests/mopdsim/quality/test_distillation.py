"""Caps against published points and the rule that pure distillation never passes its teacher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.quality import distillation

scores = st.floats(0.0, 1.0)
sizes = st.floats(0.1, 700.0)


@given(scores, sizes, sizes)
def test_another_size_never_passes_its_teacher(teacher: float, teacher_b: float, student_b: float) -> None:
    cap = distillation.across_sizes(np.array(teacher), teacher_b=teacher_b, student_b=student_b)
    assert 0 <= cap <= teacher


def test_the_size_law_is_the_published_one() -> None:
    cap = distillation.across_sizes(np.array(0.6), teacher_b=8.0, student_b=1.5)
    assert 1 - cap == pytest.approx(0.97 * 1.5**-0.30 * 1.5**0.27 * 0.4**0.95)
    small = distillation.across_sizes(np.array(0.6), teacher_b=30.0, student_b=0.5)
    assert small < cap


def test_extrapolation_helps_an_undertrained_teacher_most_and_ends_at_the_asymptote() -> None:
    weak, strong = (
        distillation.extrapolated(0.3, np.array(q), np.array(0.9), 1.25, np.array(1.0)) - q
        for q in (0.5, 0.85)
    )
    assert weak > strong > 0
    assert distillation.extrapolated(0.3, np.array(0.5), np.array(0.9), 9.0, np.array(1.0)) == pytest.approx(
        0.9
    )
    assert distillation.extrapolated(0.3, np.array(0.5), np.array(0.9), 1.0, np.array(1.0)) == pytest.approx(
        0.5
    )
    assert distillation.extrapolated(0.3, np.array(0.5), np.array(0.9), 0.5, np.array(1.0)) < 0.5


def test_the_published_distances_are_told_apart() -> None:
    normal, foreign = distillation.collapse_hazard(np.array([0.04, 0.19]), np.array(0.12))
    assert normal < 0.05 and foreign > 0.8
