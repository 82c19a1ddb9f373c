"""The three systems on the real model: every stage has its amounts, teachers alone are adapters."""

from __future__ import annotations

import pytest

from mopdsim.recipes.stage import Merge
from studies.designs.systems.real_systems import ADAPTER_RANK, ADAPTER_RATE, DOMAINS, SPENT, system, taught


@pytest.mark.parametrize("name", SPENT)
def test_teachers_alone_are_adapters_and_learn_at_their_own_rate(name: str) -> None:
    recipe = system(name)
    teachers = {teacher for teacher, _ in taught(recipe)}
    assert recipe.output not in teachers and teachers
    rate: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for stage in recipe.stages:
        assert not isinstance(stage, Merge)
        adapted = getattr(stage, "adapter_rank", None) == ADAPTER_RANK
        assert adapted == (stage.name in teachers)
        rate[adapted][stage.kind] = recipe.amounts[stage.name].learning_rate
    shared = rate[True].keys() & rate[False].keys()
    assert shared and all(rate[True][kind] == ADAPTER_RATE * rate[False][kind] for kind in shared)


def test_what_a_student_teaches_itself_counts_as_no_teacher() -> None:
    assert {domain for _, domain in taught(system("mimo_v2_flash"))} == set(DOMAINS) - {"ask:gcd"}
