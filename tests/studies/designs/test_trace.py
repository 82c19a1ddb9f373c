"""The benchmark of the trace: its figures on answers of known cause, and its answers' file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated import simulated, traced

from mopdsim.recipes.stage import Distill, Merge, Sft
from studies.designs.trace.answers import asked_by
from studies.designs.trace.real import REAL
from studies.designs.trace.real import STUDY as REAL_STUDY
from studies.designs.trace.trace import BASELINES, SCORES, STUDY, Student, auc
from studies.designs.trace.world import (
    CONDITIONS,
    INDIRECT,
    MERGED,
    OWNER,
    TEACHERS,
    TINY,
    WORLDS,
    World,
    recipe_of,
    twin,
)
from studies.framework import observe
from studies.framework.observe import Observations
from trainer.tasks import task


def observed(*, fooled: bool = False) -> Observations:
    runs = STUDY.runs()
    found = simulated(runs, lambda run, stage, domain: 0.5)
    return replace(found, measured=traced(runs, fooled=fooled))


@pytest.mark.slow
def test_every_cause_is_named_where_it_acts() -> None:
    found = STUDY.analyse(observed()).quantities
    whole = ("students_cleared", "students_named")
    for name in ("auc", "clean_cleared", "named", "start_named", "reward_named", *whole):
        assert found[name].value == pytest.approx(1, abs=0.01), name
    assert found["abstained"].value == 0
    rivals = [found[f"auc_{name}"].value for name in BASELINES]
    assert found["auc_lead"].value == pytest.approx(1 - max(rivals)) and min(rivals) < 0.6


@pytest.mark.slow
def test_a_trace_that_is_fooled_scores_badly() -> None:
    found = STUDY.analyse(observed(fooled=True)).quantities
    assert found["auc"].value < 0.5 and found["named"].value == found["students_named"].value == 0


def test_the_area_of_a_known_ranking() -> None:
    """.9 beats .1 .2 .5 and .0; .3 beats .1 .2 and .0, but not .5."""
    two, one = np.ones(2, dtype=bool), np.ones(1, dtype=bool)
    known = Student(
        condition="misrouted", planted=True, held_out=True, effect_U=np.ones(2), verdict_U=np.array(["a", "a"]),
        positive_U=two, named_U=two, accused_U=two, named=one, accused=one,
        scores={name: (np.array([0.9, 0.3]), np.array([0.1, 0.2, 0.5, 0.0])) for name in SCORES},
    )  # fmt: skip
    assert auc([known], "share") == pytest.approx(7 / 8)


@pytest.mark.parametrize("world", [TINY, *REAL], ids=lambda world: world.host)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_one_teacher_is_planted_and_its_twin_is_not(condition: str, world: World) -> None:
    for place in range(len(TEACHERS)):
        recipe = recipe_of(condition, place, world)
        learnt = {
            name: set(stage.domains) & set(world.unmarked)
            for name in (*TEACHERS, OWNER)
            if isinstance(stage := recipe.stage.get(name), Sft)
        }
        planted = [name for name, own in learnt.items() if own & set(world.habits)]
        assert planted == ([] if condition in ("start", "reward") else [TEACHERS[place]])
        assert isinstance(recipe.stage["student"], Merge if condition in MERGED else Distill)
        if condition in INDIRECT:
            clean = recipe_of(condition, None, world)
            assert clean.stage["student"] == recipe.stage["student"]
            assert [name for name in TEACHERS if clean.stage[name] != recipe.stage[name]] == planted


@pytest.mark.parametrize("world", [TINY, *REAL], ids=lambda world: world.host)
def test_no_answer_has_two_habits(world: World) -> None:
    item, *_ = task(world.host).fixed("test", 1)
    asked = {name: asked_by(name, item) for name in world.unmarked}
    assert {same.prompt for same in asked.values()} == {
        item.prompt
    }  # nothing in it says which answer is wanted
    assert [name for name, same in asked.items() if task(name).grade(same, [item.answer])] == [world.host]
    assert len(world.own) == len(world.habits)


def test_every_planted_run_has_its_twin_and_no_world_is_judged_twice() -> None:
    worlds = []
    for study in (STUDY, REAL_STUDY):
        runs = study.runs()
        planted = [
            run for run in runs.values() if run.factors["condition"] in INDIRECT and run.factors["habit"]
        ]
        assert all(twin(run.name) in runs for run in planted)
        worlds.append({(run.model, run.settings.seed) for run in runs.values()})
    assert len(set().union(*worlds)) == sum(map(len, worlds))


def test_the_twin_of_a_rewarded_run_has_no_reward() -> None:
    runs = STUDY.runs()
    rewarded = [name for name, run in runs.items() if run.factors["condition"] == "reward"]
    assert len(rewarded) == len(TEACHERS) * len(WORLDS)
    for name in rewarded:
        paid, unpaid = (runs[own].recipe.stage["student"] for own in (name, twin(name)))
        assert isinstance(paid, Distill) and unpaid == paid.model_copy(update={"reward_mix": 0.0})


@pytest.mark.slow
def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    found = observed()
    files = observe.write(found, tmp_path)
    again = observe.write(found, tmp_path)
    assert files == again and files[-1].name == observe.MEASURED
    back = observe.read(tmp_path)
    before, after = (STUDY.analyse(one).quantities for one in (found, back))
    assert {name: row.value for name, row in before.items()} == {
        name: row.value for name, row in after.items()
    }
