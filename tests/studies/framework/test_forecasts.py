"""Forecasts on record: made from starts and specialists alone, before the rest is run, and of one model to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_world import SETTINGS, shrunk

from mopdsim.base.errors import Interrupted, NotFoundError, UsageError
from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE
from studies.framework import conduct, forecasts, observe, prediction
from studies.framework.analysis import Analysis
from studies.framework.conduct import Work
from studies.framework.forecasts import Foreteller
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, predicted
from trainer.runs import execute

MODEL = "a" * 64
Make = Callable[..., Work]


@pytest.fixture
def make(small: dict[str, str], model: Path, tmp_path: Path) -> Make:
    """A study that foretells, of two conditions: MOPD and mixed RL of two domains, each score taken three ways."""
    domains = [small["low"], small["high"]]
    settings = SETTINGS.model_copy(update={"samples_per_prompt": 8, "greedy_items": 8})

    def design() -> list[Run]:
        made = {"mopd": catalogue.mopd(domains), "mixed": catalogue.mixed_rl(domains)}
        return [
            Run(
                name=name,
                recipe=shrunk(recipe),
                settings=settings,
                model=str(model),
                held_out=True,
                factors={"contest": f"only {name}"},
            )
            for name, recipe in made.items()
        ]

    def made(**changes: Any) -> Work:
        study = Study(
            name="foretold",
            question="Is it?",
            prediction=predicted("It is.", "none  >= 0.0  nothing"),
            observed="scores",
            held_out="all",
            design=design,
            analyse=lambda found: Analysis(quantities={}, findings=(f"{len(found.runs())} runs.",)),
            foretells=True,
            **changes,
        )
        return Work(study=study, out=tmp_path / "out", results=tmp_path / "results")

    return made


def foreteller(model: str = MODEL, rules: tuple[str, ...] = ("start",)) -> Foreteller:
    """What a run's start scores, which of its stages were there when it was asked, and which runs had finished."""

    def tell(found: Observations) -> dict[str, Any]:
        return {
            name: {
                "start": found.scores(name, BASE),
                "there": [stage for stage in row["keys"] if found.has(name, stage)],
                "finished": found.runs(),
            }
            for name, row in found.manifest["runs"].items()
        }

    return Foreteller(model=model, rules=rules, tell=tell)


@pytest.mark.slow
def test_forecasts_know_starts_and_specialists_and_stay_as_they_were(make: Make) -> None:
    work = make()
    with pytest.raises(NotFoundError, match="no forecasts are on record"):
        forecasts.read(work.folder)
    conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    record = forecasts.read(work.folder)
    assert set(record["conditions"]) == {"only mopd", "only mixed"}
    told = forecasts.told(record)
    assert told["mopd"]["there"] == [BASE, "teacher_1", "teacher_2"] and told["mopd"]["finished"] == []
    assert told["mixed"]["there"] == [BASE] and told["mixed"]["finished"] == ["mopd"]
    found = observe.read(work.folder)
    assert sorted(found.runs()) == ["mixed", "mopd"]
    for figure in ("greedy", "pass_8"):
        assert set(found.seen(figure).scores("mopd")) == set(found.scores("mopd"))
    conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    assert forecasts.read(work.folder) == record

    def judge(found: Observations, told: Any) -> Analysis:
        return Analysis(quantities={}, findings=(f"Judged by {told['model'][:4]}.",))

    conduct.write_report(work, judge=judge)
    report = (work.folder / "report.md").read_text()
    assert "2 runs." in report and "Judged by aaaa." in report


@pytest.mark.slow
def test_conditions_may_share_stages(make: Make) -> None:
    """What the first condition ran after its forecasts keeps the second from none of its own."""
    work = make()
    (one, _) = work.study.design()
    runs = [
        one.model_copy(update={"name": name, "factors": {"contest": name}}) for name in ("first", "second")
    ]
    shared = replace(work, study=replace(work.study, design=lambda: runs))
    conduct.run(shared, executor="local", workers=1, foreteller=foreteller())
    assert set(forecasts.read(shared.folder)["conditions"]) == {"first", "second"}
    assert sorted(observe.read(shared.folder).runs()) == ["first", "second"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (foreteller("b" * 64), "the model file was changed after the forecasts of"),
        (foreteller(rules=("start", "another")), "the list of rules was changed after the forecasts of"),
    ],
)
def test_a_study_does_not_go_on_under_another_model(make: Make, changed: Foreteller, said: str) -> None:
    work = make()
    work.folder.mkdir(parents=True)
    before = Foreteller(model=MODEL, rules=("start",), tell=lambda found: {})
    nothing = Observations(points=pd.DataFrame(), manifest={})
    forecasts.add("foretold", "only mopd", ["mopd"], nothing, before, work.folder, today="2026-01-01")
    with pytest.raises(UsageError, match=said) as error:
        conduct.run(work, executor="local", workers=1, foreteller=changed)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_edited_forecasts_are_found_out(make: Make) -> None:
    work = make()
    work.folder.mkdir(parents=True)
    told = Foreteller(model=MODEL, rules=("start",), tell=lambda found: {"mixed": {"score": 0.25}})
    nothing = Observations(points=pd.DataFrame(), manifest={})
    forecasts.add("foretold", "only mixed", ["mixed"], nothing, told, work.folder, today="2026-01-01")
    path = work.folder / forecasts.FILE
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(UsageError, match="not the one that was hashed"):
        conduct.run(work, executor="local", workers=1, foreteller=told)


def test_a_model_that_came_later_is_read_after_the_study_s_own(make: Make) -> None:
    work = make()
    work.folder.mkdir(parents=True)
    nothing = Observations(points=pd.DataFrame(), manifest={})
    for model, name in (("b" * 64, "forecasts_later.json"), (MODEL, forecasts.FILE)):
        told = Foreteller(model=model, rules=("start",), tell=lambda found: {"mixed": {"score": 0.25}})
        forecasts.add("foretold", "only mixed", ["mixed"], nothing, told, work.folder, today="2026-01-01")
        (work.folder / forecasts.FILE).rename(work.folder / name)
    assert [record["model"] for record in forecasts.read_all(work.folder)] == [MODEL, "b" * 64]
    later = work.folder / "forecasts_later.json"
    later.write_text(later.read_text().replace("0.25", "0.75"))
    with pytest.raises(UsageError, match=r"forecasts_later\.json: its text is not the one that was hashed"):
        forecasts.read_all(work.folder)


@pytest.mark.slow
def test_what_is_run_already_cannot_be_forecast(make: Make) -> None:
    work = make()
    conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    (work.folder / forecasts.FILE).unlink()
    with pytest.raises(UsageError, match="were run before their forecasts") as error:
        conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_stopped_study_leaves_the_observations_of_what_is_finished(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when the first condition's forecasts stand and nothing more is run."""
    work = make()
    run_on = execute.run_on

    def stopped(executor: Any, workers: int, plan: Any, *more: Any, **options: Any) -> Any:
        if any(node.label.endswith("student") for node in plan.nodes):
            raise Interrupted("it was stopped")
        return run_on(executor, workers, plan, *more, **options)

    monkeypatch.setattr(execute, "run_on", stopped)
    with pytest.raises(Interrupted):
        conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    found = observe.read(work.folder)
    assert list(forecasts.read(work.folder)["conditions"]) == ["only mopd"]
    assert found.runs() == [] and found.has("mopd", "teacher_2") and not found.has("mopd", "student")
    assert {row["failure"] for row in found.manifest["runs"].values()} == {"not run yet"}


def test_a_world_that_has_not_passed_its_gate_is_not_run(make: Make) -> None:
    def refuse() -> None:
        raise UsageError("world 'easy' fails the gate: domain 'sort' starts at .9 greedy")

    work = make(admit=refuse)
    with pytest.raises(UsageError, match="fails the gate"):
        conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    assert not work.folder.exists()


@pytest.mark.slow
def test_greedy_scores_where_sampled_ones_belong_are_refused(make: Make) -> None:
    """Columns exchanged, or one written over the other."""
    work = make()
    conduct.run(work, executor="local", workers=1, foreteller=foreteller())
    found = observe.read(work.folder)
    exchanged = {"pass_rate": "greedy", "greedy": "pass_rate", "se": "greedy_se", "greedy_se": "se"}
    for wrong in (exchanged, {"greedy": "pass_rate"}):
        mixed = {name: found.points[other] for name, other in wrong.items()}
        observe.write(replace(found, points=found.points.assign(**mixed)), work.folder)
        with pytest.raises(UsageError, match="greedy and temperature-1 scores are mixed up") as error:
            observe.read(work.folder)
        assert "\n" not in str(error.value)
    observe.write(found, work.folder)
    observe.read(work.folder)


@pytest.mark.parametrize("column", ["pass_rate", "greedy", "step"])
def test_observations_in_which_a_number_is_no_number_are_refused(tmp_path: Path, column: str) -> None:
    order = Path(__file__).parents[3] / "studies" / "results" / "order"
    (tmp_path / "manifest.json").write_bytes((order / "manifest.json").read_bytes())
    points = pd.read_csv(order / "observations.csv", dtype=str, nrows=5)
    points.assign(**{column: "high"}).to_csv(tmp_path / "observations.csv", index=False)
    with pytest.raises(UsageError, match=r"the observations cannot be read \(.*high"):
        observe.read(tmp_path)


def test_observations_with_a_cell_too_many_are_one_sentence(tmp_path: Path) -> None:
    order = Path(__file__).parents[3] / "studies" / "results" / "order"
    head, row = (order / "observations.csv").read_text().splitlines()[:2]
    (tmp_path / "observations.csv").write_text("\n".join([head, row, f"{row},1"]))
    with pytest.raises(UsageError, match=r"cannot be read \(.*saw 23\): restore") as error:
        observe.read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reader", [forecasts.read, prediction.read, observe.read])
@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"conditions": 3}', '{"conditions": {"a": {}}}'])
def test_a_study_whose_record_was_changed_is_one_sentence(
    tmp_path: Path, reader: Callable[[Path], Any], text: str
) -> None:
    order = Path(__file__).parents[3] / "studies" / "results" / "order"
    (tmp_path / "observations.csv").write_bytes((order / "observations.csv").read_bytes())
    for name in (forecasts.FILE, prediction.FILE, "manifest.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=r"json: .*(restore it|must be a table|bring it back)"):
        reader(tmp_path)


def test_a_condition_whose_seeds_come_one_after_the_other_is_foretold_in_batches(make: Make) -> None:
    runs = make().runs
    assert list(forecasts.conditions(runs)) == ["only mopd", "only mixed"]
    batched = {
        name: run.model_copy(update={"factors": {"contest": "one", "batch": f"one, {name}"}})
        for name, run in runs.items()
    }
    assert forecasts.conditions(batched) == {"one, mopd": ["mopd"], "one, mixed": ["mixed"]}
