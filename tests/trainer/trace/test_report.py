"""The report of a trace: shares, habits and harm of known cases, and recipe changes that are sound and forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_world import carry_out, shrunk
from typer.testing import CliRunner

from mopdsim.base.errors import UsageError
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.stage import Distill, Merge
from trainer.trace.change import changes
from trainer.trace.cli import app
from trainer.trace.report import Harm, Report, features, habits_of
from trainer.trace.subject import Subject, open_run
from trainer.trace.verdict import Share

pytestmark = pytest.mark.usefixtures("one_thread")
DOMAINS = ("sort", "reverse", "shift_back")
LIFT = Share(share=-1.0, low=-2.0, high=-0.5)


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three teachers and a student, on domains whose items have answers."""
    out = tmp_path_factory.mktemp("runs") / "mopd"
    carry_out(shrunk(catalogue.recipe("mopd", DOMAINS), learning_rate=1e-2), model, out)
    return out


@pytest.mark.slow
def test_the_report_of_a_run(finished: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(finished), "--report", "--json"])
    found = json.loads(done.stdout)
    subject = open_run(finished)
    causes = {"start", *subject.teachers, "nobody"}
    assert set(found["matrix"]) == set(DOMAINS)
    for row in found["matrix"].values():
        assert set(row) == causes
        assert sum(share["share"] for share in row.values()) == pytest.approx(1)
    assert set(found["scores"]) == {"student", subject.start, *subject.teachers}
    assert set(found["lift"]) == set(subject.teachers)
    assert all(set(row) == set(DOMAINS) for row in found["lift"].values())
    for habit in found["habits"]:
        assert habit["source"] is None or habit["source"] in subject.teachers
    plain = CliRunner().invoke(app, [str(finished), "--report"]).stdout
    assert "share of each cause" in plain and "harm" in plain and found["text"].splitlines()[0] in plain


def test_features_are_of_words_or_of_letters() -> None:
    assert features("abc") == {"opens with 'a'", "ends with 'c'", "says 'ab'", "says 'bc'", "says 'abc'"}
    assert "says 'the answer'" in features("the answer is 4") and features(" ") == {"says nothing"}


@pytest.mark.slow
def test_a_habit_comes_from_the_teacher_that_has_it(finished: Path) -> None:
    subject = open_run(finished)
    plain, habit = ["abc"] * 40, ["abz"] * 40
    said = {
        subject.start: plain,
        "student": habit,
        "teacher_1": plain,
        "teacher_2": habit,
        "teacher_3": plain,
    }
    found = habits_of("sort", subject, said)
    assert found and {one.source for one in found} == {"teacher_2"}
    nobodys = habits_of("sort", subject, said | {"teacher_2": plain})
    assert nobodys and {one.source for one in nobodys} == {None}
    assert not habits_of("sort", subject, said | {"student": plain})
    longer = habits_of("sort", subject, said | {"student": ["abcd"] * 40, "teacher_3": ["abcd"] * 40})
    assert longer[0].what == "length in letters" and longer[0].source == "teacher_3"


def reported(subject: Subject, teacher: str, domain: str, lifting: str = "") -> Report:
    """A report of one harm, where `lifting` would do better."""
    good = Share(share=1.0, low=0.5, high=2.0)
    lift = {name: {domain: good if name == lifting else LIFT} for name in subject.teachers}
    harm = Harm(teacher=teacher, domain=domain, lift=LIFT, share=0.5)
    return Report(scores={}, matrix={}, lift=lift, habits=(), harms=(harm,))


def with_stage(subject: Subject, stage: Any) -> Subject:
    own = subject.recipe
    spent = {
        name: row for name, row in own.amounts.items() if name != stage.name or isinstance(stage, Distill)
    }
    stages = tuple(stage if one.name == stage.name else one for one in own.stages)
    draft = own.model_copy(update={"stages": stages})
    needed = {stage.name, *draft.ancestors(stage.name)}
    recipe = draft.model_copy(
        update={
            "stages": tuple(one for one in stages if one.name in needed),
            "amounts": {name: row for name, row in spent.items() if name in needed},
        }
    )
    resolved = {**subject.resolved, "model": "tiny"}
    return replace(subject, recipe=recipe, stages=(stage,), resolved=resolved)


def student_of(recipe: Any) -> Any:
    return recipe.stage["student"]


def test_a_change_for_every_way_of_harm(finished: Path) -> None:
    subject = open_run(finished)
    own = subject.stages[-1]
    assert isinstance(own, Distill)
    subject = with_stage(subject, own)
    (routed,) = changes(subject, reported(subject, "teacher_1", "sort", lifting="teacher_2"))
    assert student_of(routed.recipe).teachers_of("sort") == {"teacher_2": 1.0}
    assert "teacher_1" not in routed.recipe.stage  # it served nothing else
    (kept,) = changes(subject, reported(subject, "teacher_1", "sort"))
    assert student_of(kept.recipe).teachers_of("sort") == {"base": 1.0}
    (paid,) = changes(subject, reported(subject, "teacher_1", "reverse"))
    assert student_of(paid.recipe).reward_mix == 1.0
    assert paid.recipe.amounts["student"].rollouts_per_prompt == 8
    astray = with_stage(subject, own.model_copy(update={"misrouting": 0.3}))
    (straight,) = changes(astray, reported(astray, "teacher_1", "reverse"))
    assert student_of(straight.recipe).misrouting == 0
    fewer = own.model_copy(
        update={
            "domains": {name: 1.0 for name in DOMAINS[:2]},
            "teachers": tuple(row for row in own.teachers if "shift_back" not in row.domains),
        }
    )
    leaking = with_stage(subject, fewer)
    (anchored,) = changes(leaking, reported(leaking, "teacher_1", "shift_back"))
    assert student_of(anchored.recipe).teachers_of("shift_back") == {"base": 1.0}
    merge = with_stage(subject, Merge(name="student", inputs=subject.teachers, weights=(1.0, 2.0, 3.0)))
    (dropped,) = changes(merge, reported(merge, "teacher_2", "sort"))
    assert student_of(dropped.recipe).inputs == ("teacher_1", "teacher_3")
    assert student_of(dropped.recipe).weights == (1.0, 3.0)
    for made in (routed, kept, paid, straight, anchored, dropped):
        assert recipe_file.loads(recipe_file.dump(made.recipe)) == made.recipe
        row = made.forecast
        assert "unknown" not in row, row
        assert row["before"]["p10"] <= row["before"]["p50"] <= row["before"]["p90"]
        assert row["gpu_hours_ratio"]["p50"] > 0


def test_a_model_that_the_simulator_does_not_know_has_no_forecast(finished: Path) -> None:
    subject = open_run(finished)
    subject = replace(subject, resolved={**subject.resolved, "model": "nobodys-model"})
    (made,) = changes(subject, reported(subject, "teacher_1", "sort"))
    assert "nobodys-model" in made.forecast["unknown"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--report", "--domain", "sort"], "--report is over all test prompts"),
        (["--prompt", "x", "--changed", "f.toml"], "it goes with --report"),
        (["--prompt", "s:ba", "--by", "ledger", "--confirm"], "leave out --confirm"),
    ],
)
def test_what_does_not_fit_together_is_refused(finished: Path, arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, [str(finished), *arguments])
    assert isinstance(done.exception, UsageError) and sentence in str(done.exception)
