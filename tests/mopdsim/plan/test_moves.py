"""Moves around a plan, and several of them made at once."""

from __future__ import annotations

from mopdsim.plan.candidate import Plan
from mopdsim.plan.explore import LEAST_STEPS, together

HERE = Plan(
    family="mopd",
    groups=(("math",), ("code", "chat")),
    rl_steps=(100, 40),
    distill_steps=20,
    gpus=8,
    student_gpus=8,
)


def test_together_multiplies_steps_and_takes_the_first_change_of_any_other_choice() -> None:
    moved = [
        HERE.but(rl_steps=(140, 40)),
        HERE.but(rl_steps=(50, 20), distill_steps=40),
        HERE.but(balance="token_share"),
        HERE.but(balance="remaining_gap", student_gpus=16),
    ]

    made = together(HERE, moved)

    assert made == HERE.but(rl_steps=(70, 20), distill_steps=40, balance="token_share", student_gpus=16)


def test_together_keeps_a_run_of_at_least_two_steps_and_no_student_where_there_was_none() -> None:
    cascade = Plan(
        family="cascade_rl", groups=(("math",), ("code",)), rl_steps=(4, 9), gpus=8, student_gpus=8
    )

    made = together(cascade, [cascade.but(rl_steps=(2, 9)), cascade.but(rl_steps=(2, 18))])

    assert made.rl_steps == (LEAST_STEPS, 18)
    assert made.distill_steps == 0
