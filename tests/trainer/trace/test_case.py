"""The case that docs/trace.md walks through."""

from __future__ import annotations

from pathlib import Path

from mopdsim.recipes import recipe_file
from mopdsim.recipes.stage import Distill, Sft
from trainer.tasks import task


def test_one_teacher_of_the_documented_case_has_a_habit_that_the_owner_contradicts() -> None:
    recipe = recipe_file.load(Path(__file__).parents[3] / "docs" / "planted_habit.toml")
    student = recipe.stage[recipe.output]
    assert isinstance(student, Distill) and student.misrouting == 0.5 and recipe.amounts["student"].ledger
    _, _, right, habit = recipe.domains
    learn = {name: own.domains for name, own in recipe.stage.items() if isinstance(own, Sft)}
    assert [name for name in learn if habit in learn[name] and name != "lean"] == ["teacher_2"]
    assert [row.stage for row in student.teachers if right in row.domains] == ["owner"]
    (item,) = [item for item in task(right).fixed("test", 100) if item.prompt == "?:ihj"]
    assert task(right).grade(item, ["hji"]) == 1 and task(right).grade(item, ["hij"]) == 0
    assert task(habit).grade(item, ["hij"]) == 1
