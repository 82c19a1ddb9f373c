"""How many answers a test with several samples of a prompt is worth."""

from __future__ import annotations

import pytest

from mopdsim.base.answers import samples_count


def test_samples_of_one_prompt_count_for_as_many_answers_as_their_error_says() -> None:
    """Prompts that differ by nothing: eight samples count eight times. All or nothing: they count once."""
    alone = {"pass_rate": "0.4", "n": "30", "se": str((0.4 * 0.6 / 30) ** 0.5)}
    alike = {**alone, "se": str((0.4 * 0.6 / 240) ** 0.5)}
    assert samples_count([alone]) == pytest.approx(1.0)
    assert samples_count([alike]) == pytest.approx(8.0)
    assert 1.0 < samples_count([alone, alike]) < 8.0
    assert samples_count([{"pass_rate": "1.0", "n": "30", "se": "0"}]) == 1.0
    assert samples_count([{"pass_rate": "0.5", "n": "30"}]) == 1.0
