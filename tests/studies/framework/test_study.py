"""The study framework on a study of seconds: real stages of a random model, no stand-ins."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from simulated import SMOLLM2, simulated
from small_world import SETTINGS, shrunk

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.base.run_directory import PHASES
from mopdsim.cost.own_trainer import phase_s
from mopdsim.cost.stage_cost import bill
from mopdsim.cost.stage_seconds import Machine
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model as model_of
from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import Rl, default_amounts
from studies.framework import conduct, observe, prediction
from studies.framework.analysis import Analysis, Chart, Quantity, Table, mean_quantity
from studies.framework.conduct import QUICK_SCALE, Work
from studies.framework.ledger import ledger, lengths_of
from studies.framework.observe import Observations
from studies.framework.run import Run, planned
from studies.framework.study import Claim, Prediction, Study
from trainer.model.sources import cached_model
from trainer.runs import pools
from trainer.runs.execute import ATTEMPTS, Outcome, carry_out
from trainer.runs.plan import Plan
from trainer.runs.pools import LocalPool, Pool
from trainer.runs.progress import Progress
from trainer.runs.store import Store, key_of
from trainer.tasks import task

Make = Callable[..., Work]


def analyse(found: Observations) -> Analysis:
    """Of the micro study: mean of the final scores, and the table they come from."""
    means = {name: sum(found.scores(name).values()) / len(found.scores(name)) for name in found.runs()}
    frame = found.points.groupby("run", as_index=False)[["pass_rate"]].mean()
    measured = mean_quantity(list(means.values()))
    return Analysis(
        quantities={} if measured is None else {"mean": measured},
        findings=(f"{len(means)} runs.",),
        tables=(Table(title="Means", frame=frame),),
        charts=(
            Chart(name="means", title="Means by run", frame=frame, x="run", y="pass_rate", mark="point"),
        ),
        fitted={"runs": len(means)},
    )


def micro(domains: list[str], model: Path, **changes: Any) -> Study:
    """Three recipes that share their teachers, on one seed."""

    def design() -> list[Run]:
        made = {
            "mopd": catalogue.mopd(domains),
            "merge": catalogue.merge(domains),
            "mixed": catalogue.mixed_rl(domains),
        }
        return [
            Run(
                name=name,
                recipe=shrunk(recipe),
                settings=SETTINGS,
                model=str(model),
                factors={"recipe": name},
                held_out=name == "merge",
                cut=int(name == "mixed"),
            )
            for name, recipe in made.items()
        ]

    fields: dict[str, Any] = {
        "name": "micro",
        "question": "Does the framework work?",
        "prediction": Prediction(
            text="It does.", claims=(Claim(quantity="mean", text="a score", at_least=0.0, at_most=1.0),)
        ),
        "observed": "scores",
        "held_out": "the merge",
        "design": design,
        "analyse": analyse,
    }
    return Study(**(fields | changes))


@pytest.fixture
def make(small: dict[str, str], model: Path, tmp_path: Path) -> Make:
    """A micro study in a place of its own, with changes to the study."""

    def made(**changes: Any) -> Work:
        study = micro([small["low"], small["high"]], model, **changes)
        return Work(study=study, out=tmp_path / "out", results=tmp_path / "results")

    return made


def run_here(work: Work, pool: Pool | None = None) -> Outcome:
    """Run the stages of a study without its records."""
    pool = pool or LocalPool(2, work.store.root)
    try:
        return carry_out(
            work.planned, work.store, pool, Progress(quiet=True), seconds_of=work.ledger.seconds_of
        )
    finally:
        pool.close()


def test_a_study_is_run_fitted_and_reported_and_reruns_nothing(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make()
    outcome = conduct.run(work, executor="here", workers=1)
    assert not outcome.failures and len(outcome.summaries) == 6
    shown = capsys.readouterr().err
    assert "[6/6]" in shown and " left" in shown

    found = observe.read(work.folder)
    assert sorted(found.runs()) == ["merge", "mixed", "mopd"] and found.runs(recipe="merge") == ["merge"]
    for name in found.runs():
        key = found.key(name)
        measured = outcome.summaries[key]["domains"]
        assert found.scores(name) == pytest.approx({d: row["pass_rate"] for d, row in measured.items()})
    assert found.key("mopd", "teacher_1") == found.key("merge", "teacher_1")
    own = found.points[found.points.key == found.key("mixed")]
    assert {"validation", "test"} == set(own.split) and own[own.split == "validation"].step.tolist()[0] == 0
    trained = own[(own.split == "test") & own.trained]
    tokens = outcome.summaries[found.key("mixed")]["tokens"]["trained"]
    assert dict(zip(trained.domain, trained.gradient_tokens, strict=True)) == pytest.approx(tokens)
    cost = found.manifest["stages"][found.key("mixed")]
    spent = outcome.summaries[found.key("mixed")]["cpu_seconds"]
    assert cost["cpu_seconds"] == sum(spent.values()) > spent["evaluation"] > 0
    assert found.flops("mopd") > 0 and "weights" not in {p.name for p in work.folder.iterdir()}

    document = conduct.fit(work)
    assert document["verdicts"] == {"mean": "held"} and document["parameters"] == {"runs": 3}
    assert work.folder / "report.md" in conduct.write_report(work)
    report = (work.folder / "report.md").read_text()
    assert "3 of 3 runs finished (1 of them declared held out)" in report and "**held**" in report
    assert work.record()["sha256"][:16] in report and (work.folder / "means.svg").stat().st_size > 1000

    (work.folder / prediction.FILE).unlink()  # a record that is replaced after the fact does not help
    changed = replace(work, study=replace(work.study, question="Does it work well?"))
    with pytest.raises(UsageError, match="made under another prediction"):
        conduct.write_report(changed)
    (work.folder / prediction.FILE).unlink()

    again = Work(study=work.study, out=work.out, results=work.results)
    conduct.run(again, executor="here", workers=1)
    assert capsys.readouterr().err == ""  # nothing ran
    assert conduct.status(again)["finished"] == 3 and again.ledger.left_seconds == 0


@pytest.mark.slow
def test_another_machine_goes_on_from_committed_results_and_keeps_them(make: Make, tmp_path: Path) -> None:
    """There is no store there: mixed RL alone is run and measured, from a start of its own; of the rest nothing is."""

    def measure(runs: Mapping[str, Run], plan: Plan, store: Store) -> pd.DataFrame:
        own = {name: store.summary(plan.keys[name][run.recipe.output]) for name, run in runs.items()}
        return pd.DataFrame([{"run": name, "at": summary["wall_seconds"]} for name, summary in own.items()])

    whole = make(measure=measure)
    begun = replace(
        whole,
        study=replace(whole.study, design=lambda: [r for r in whole.study.design() if r.name != "mixed"]),
    )
    conduct.run(begun, executor="here", workers=1)
    before = observe.read(begun.folder)
    there = Work(study=whole.study, out=tmp_path / "elsewhere", results=whole.results)
    assert conduct.status(there)["finished"] == 2
    conduct.run(there, executor="here", workers=1)
    keys = {path.parent.name for path in there.store.root.glob("*/summary.json")}
    assert keys == there.planned.needed("mixed")
    after = observe.read(there.folder)
    assert sorted(after.runs()) == ["merge", "mixed", "mopd"]
    old = after.points[after.points.key.isin(before.manifest["stages"])]
    assert old.reset_index(drop=True).equals(before.points) and len(after.points) > len(old)
    assert before.manifest["stages"].items() <= after.manifest["stages"].items()
    assert after.measured[after.measured.run != "mixed"].equals(before.measured) and len(after.measured) == 3
    shutil.rmtree(there.store.root)
    again = replace(there)
    assert conduct.status(again)["finished"] == 3 and again.ledger.left_seconds == 0


def test_what_is_missing_is_what_no_committed_run_has(make: Make) -> None:
    """A run counts as done where it ended and its stages are those that are now planned."""
    work = make()
    found = simulated(work.runs, lambda run, stage, domain: 0.5)
    rows = found.manifest["runs"]
    for name, row in rows.items():
        row["keys"] = dict(work.planned.keys[name])
    rows["mixed"]["failure"] = observe.NOT_RUN
    rows["merge"]["keys"]["merged"] = "made by an older trainer"
    observe.write(found, work.folder)
    assert work.ended() == {"mopd"}
    assert set(work.missing().node) == work.planned.needed("mixed") | work.planned.needed("merge")
    assert work.done() == {work.planned.keys["mopd"]["student"]}
    assert conduct.status(work)["runs"]["mopd"]["finished"] == 4
    alone = replace(work, study=replace(work.study, twin=lambda name: f"{name}/twin"))
    assert alone.ended() == {"mopd"}  # a twin that is no run of the study
    twins = replace(work, study=replace(work.study, twin=lambda name: "mixed"))
    assert twins.ended() == set()  # measured without its twin
    twins = replace(work, study=replace(work.study, twin=lambda name: "mopd" if name == "mixed" else name))
    assert twins.ended() == {"mopd"} and set(twins.missing().node) == set(twins.planned.node)


@pytest.mark.parametrize("store", ["a link to itself", "a file"])
def test_a_store_that_cannot_be_written_is_one_sentence(make: Make, store: str) -> None:
    work = make(
        design=lambda: [Run(name="one", recipe=catalogue.merge(["sort"]), settings=SETTINGS, model="tiny")]
    )
    work.out.mkdir()
    place = work.out / "store"
    place.symlink_to(place.name) if store == "a link to itself" else place.touch()
    with pytest.raises(MopdError, match=r"/out/store/tiny-\d+: cannot be written: .*choose --out$"):
        conduct.status(work)


def test_a_scale_beyond_all_steps_is_refused(make: Make) -> None:
    with pytest.raises(UsageError, match=r"come of this scale: lower it"):
        conduct.status(replace(make(), scale=1e308))


def test_too_few_prompts_are_refused_before_anything_runs(make: Make) -> None:
    work = make()
    greedy = work.runs["mopd"].settings.model_copy(update={"greedy_items": 10**6})
    design = lambda: [run.model_copy(update={"settings": greedy}) for run in work.runs.values()]  # noqa: E731
    with pytest.raises(UsageError, match=r"1000000 distinct test prompts asked for, \d+ exist"):
        conduct.run(make(design=design), executor="here", workers=1)
    assert not work.folder.exists() and not work.store.root.exists()


def test_the_ledger_counts_shared_stages_once_and_says_what_to_drop(make: Make) -> None:
    found = make().ledger
    assert (
        found.stages_in_all == 4 + 4 + 2
    )  # base, two teachers, student; base, two teachers, merged; base, mixed
    assert found.distinct_stages == 6 and found.finished_stages == 0
    rows = {row.run: row for row in found.rows}
    assert found.rows[0].run == "mixed"  # of the highest cut
    assert found.rows[-1].run == "merge"  # held-out runs go last
    assert (rows["mixed"].own_stages, rows["mopd"].own_stages, rows["merge"].own_stages) == (1, 1, 1)
    assert sum(row.saves for row in found.rows) == pytest.approx(found.seconds)
    assert sum(row.seconds for row in found.rows) > found.seconds
    assert found.by_rule == ("distill", "rl")


@pytest.mark.parametrize(
    ("dtype", "steps", "flops", "told"),
    [
        ("float32", 20, 5e9, True),
        ("bfloat16", 20, 5e9, False),
        ("float32", 4, 5e9, False),
        ("float32", 4, 5e12, True),
    ],
)
def test_estimates_follow_the_pace_of_finished_stages(
    make: Make, model: Path, dtype: str, steps: int, flops: float, told: bool
) -> None:
    """A stage that took three times its pace: the ledger of the same study then expects that of all such stages, where
    it computed in their type and in steps enough, or in few long ones."""
    work = make()
    key, other = work.planned.keys["mixed"]["mixed"], work.planned.keys["mopd"]["student"]
    before, shape = work.ledger, model_of(str(model))
    made_from = {
        "stage": {"kind": "rl"}, "amounts": {"prompts_per_step": 2, "rollouts_per_prompt": 4},
        "settings": {"dtype": dtype},
    }  # fmt: skip
    place = work.store.directory(key_of(made_from))
    (place / "weights").mkdir(parents=True)
    shutil.copy(model / "config.json", place / "weights")
    none = dict.fromkeys(PHASES, 0.0)
    took = 3 * phase_s("rl", shape, flops, passes=steps)
    summary = {
        "steps": steps, "seconds": none | {"training": took}, "flops": none | {"training": flops},
        "tokens": {"generated": {}}, "domains": {"sort": {"pass_rate": 0.5}}, "peak_memory_bytes": 1,
        "wall_seconds": took,
    }  # fmt: skip
    (place / "summary.json").write_text(json.dumps(summary))
    (place / "made_from.json").write_text(json.dumps(made_from))
    after = ledger(work.runs, work.planned, work.store, finished=work.done())
    node = work.planned.node[key]
    due = phase_s("rl", shape, 0.0, passes=node.job.amounts.steps)  # type: ignore[union-attr]
    more = after.seconds_of[key] - before.seconds_of[key]
    assert more > 2 * due if told else more == 0
    assert after.seconds_of[other] == before.seconds_of[other]
    assert after.by_rule == (("distill",) if told else before.by_rule)


def test_a_step_of_a_real_model_is_priced_by_its_parameters() -> None:
    """SmolLM2 took .14 to .28 TFLOP for eight groups of eight short answers (studies/LOG.md, 29 November); within a
    factor of 1.5."""
    amounts = default_amounts("real", "rl")
    machine = Machine(model=model_of(SMOLLM2), gpu=gpu("CPU-2-cores"), evaluations=0)
    for spec in ("ask:smallest", "ask:larger", "ask:swap"):
        own = bill(
            Rl(name="one", domains={spec: 1.0}), amounts, {spec: lengths_of(task(spec))}, machine, gpus=1
        )
        assert 0.14e12 / 1.5 < own.step_flops < 0.28e12 * 1.5


@pytest.mark.parametrize(
    ("name", "factor", "kinds"),
    [
        ("caps", 2.0, {"distill", "rejection_sampling", "rl", "sft"}),
        ("real_systems", 1.25, {"distill", "rejection_sampling", "reward_model", "rl", "sft"}),
    ],
)
def test_the_ledger_expects_what_a_study_took(name: str, factor: float, kinds: set[str]) -> None:
    """Before any of its stages is in the store. `caps` shared its machine with other work; `real_systems` ran SmolLM2
    in bfloat16."""
    if name == "real_systems" and cached_model("smollm2-135m") is None:
        pytest.skip("smollm2-135m is not at hand: mopd train get-model smollm2-135m")
    with tempfile.TemporaryDirectory() as out:
        found = conduct.named(name, out=Path(out)).ledger
    manifest = observe.read(conduct.RESULTS / name).manifest
    took = sum(stage["wall_seconds"] for stage in manifest["stages"].values())
    assert 1 / factor < found.seconds / took < factor
    assert set(found.by_rule) == kinds


def test_a_changed_prediction_is_refused_after_the_first_run_only(make: Make) -> None:
    work = make()
    first = work.record()
    changed = make(question="Another question?")
    assert changed.record()["sha256"] != first["sha256"]
    prediction.begin(changed.folder, today="2026-01-01")
    assert changed.record()["first_run"] == "2026-01-01"
    with pytest.raises(UsageError, match="changed after the first run of 2026-01-01") as error:
        work.record()
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    with pytest.raises(UsageError, match="changed after the first run"):
        conduct.run(work, executor="local", workers=1)


def test_what_is_held_out_is_part_of_the_prediction(make: Make) -> None:
    work = make()
    before = work.record()["sha256"]
    design = work.study.design

    def another() -> list[Run]:
        return [run.model_copy(update={"held_out": False}) for run in design()]

    assert replace(work, study=replace(work.study, design=another)).record()["sha256"] != before


def test_an_edited_record_is_found_out(make: Make) -> None:
    work = make()
    work.record()
    path = work.folder / prediction.FILE
    path.write_text(path.read_text().replace("It does.", "It does not."))
    with pytest.raises(UsageError, match="not the one that was hashed"):
        work.record()
    path.unlink()
    with pytest.raises(NotFoundError, match="no prediction is on record"):
        prediction.read(work.folder)


@pytest.mark.slow
def test_one_failing_run_is_reported_and_the_rest_finish(make: Make) -> None:
    work = make()
    design = work.study.design

    def with_divergence() -> list[Run]:
        runs = {run.name: run for run in design()}
        broken = runs["mopd"].recipe
        rate = broken.amounts["teacher_2"].model_copy(update={"learning_rate": 1e30})
        runs["broken"] = runs["mopd"].model_copy(
            update={"name": "broken", "recipe": broken.with_amounts({"teacher_2": rate})}
        )
        return list(runs.values())

    work = replace(work, study=replace(work.study, design=with_divergence))
    outcome = conduct.run(work, executor="local", workers=2)
    failed = conduct.failures(work, outcome)
    assert list(failed) == ["broken"] and "teacher_2" in failed["broken"]
    found = observe.read(work.folder)
    assert sorted(found.runs()) == ["merge", "mixed", "mopd"]
    conduct.write_report(work)
    report = (work.folder / "report.md").read_text()
    assert "3 of 4 runs finished" in report and "`broken` failed: stage 'teacher_2'" in report


@pytest.mark.slow
def test_a_killed_worker_is_taken_up_again(make: Make, tmp_path: Path) -> None:
    work = make()
    expected = run_here(replace(work, out=tmp_path / "other"))
    pool = LocalPool(1, work.store.root)
    killed: set[str] = set()
    submit = pool.submit

    def submit_and_kill(node: Any) -> None:
        submit(node)
        if node.key not in killed:
            killed.add(node.key)
            os.kill(dict(pool.running.values())[node.key].pid, signal.SIGKILL)

    pool.submit = submit_and_kill  # type: ignore[method-assign]
    outcome = run_here(work, pool)
    assert len(killed) == 6 and not outcome.failures
    for name in work.runs:
        key = work.planned.keys[name][work.runs[name].recipe.output]
        assert outcome.summaries[key]["domains"] == expected.summaries[key]["domains"]


@pytest.mark.slow
def test_a_stage_whose_worker_is_killed_again_and_again_fails(make: Make) -> None:
    work = make()
    pool = LocalPool(2, work.store.root)
    target = work.planned.keys["mixed"]["mixed"]
    submit = pool.submit

    def submit_and_kill(node: Any) -> None:
        submit(node)
        if node.key == target:
            os.kill(dict(pool.running.values())[target].pid, signal.SIGKILL)

    pool.submit = submit_and_kill  # type: ignore[method-assign]
    outcome = run_here(work, pool)
    assert list(outcome.failures) == [target] and "killed 3 times" in str(outcome.failures[target])
    assert work.planned.keys["mopd"]["student"] in outcome.summaries


def _run_in_a_process(store: Path, domains: list[str], model: Path) -> None:
    """The micro study's stages; the process is killed while it runs."""
    work = Work(study=micro(domains, model), out=store.parent, results=store.parent)
    run_here(work)


@pytest.mark.slow
def test_a_killed_study_takes_its_workers_with_it_and_resumes(
    make: Make, small: dict[str, str], model: Path
) -> None:
    work = make()
    context = multiprocessing.get_context("forkserver")
    domains = [small["low"], small["high"]]
    process = context.Process(target=_run_in_a_process, args=(work.store.root, domains, model))
    process.start()
    deadline = time.monotonic() + 120
    base = work.planned.keys["mixed"]["base"]
    while not work.store.finished(base):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    kept = {path: path.stat().st_mtime_ns for path in work.store.root.glob("*/summary.json")}
    outcome = run_here(work)
    assert not outcome.failures and len(outcome.summaries) == 6
    assert kept and all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_scale_changes_steps_and_points_alike(make: Make) -> None:
    work = make()
    run = work.runs["mixed"]
    longer = run.scaled(10)
    assert longer.recipe.amounts["mixed"].steps == 20 and longer.settings.evaluate_every == 20
    assert longer.settings.test_items == max(10, run.settings.test_items)
    assert replace(work, scale=0.5).folder == work.out / "scale-0.5" / "micro"
    with pytest.raises(UsageError, match="scale = 0: must be"):
        work.study.runs(scale=0)


def test_quick_is_one_seed_of_few_steps_in_a_place_of_its_own(make: Make) -> None:
    once = make().study.design()
    again = [
        run.model_copy(
            update={"name": f"{run.name}/again", "settings": run.settings.model_copy(update={"seed": 7})}
        )
        for run in once
    ]
    work = replace(make(design=lambda: [*again, *once]), quick=True, scale=3.0)
    assert list(work.runs) == [run.name for run in once]
    assert work.factor == QUICK_SCALE and work.folder == work.out / "quick" / "micro"
    assert work.runs["mopd"].settings == once[0].scaled(QUICK_SCALE).settings != once[0].settings


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.2, 0.3, "held"), (0.0, 0.05, "refuted"), (0.6, 0.7, "refuted"), (0.05, 0.3, "undecided")],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert Claim(quantity="q", text="t", at_least=0.1, at_most=0.5).judge(low, high) == verdict


def test_quantities_print_their_interval() -> None:
    assert str(Quantity(value=0.5, low=0.25, high=0.75, n=3)) == "0.5 [0.25, 0.75], n = 3"


def test_ray_runs_the_same_study_or_says_how_to_get_it(make: Make) -> None:
    work = make()
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match=r"pip install 'mopd\[ray\]'"):
            conduct.run(work, executor="ray", workers=2)
        return
    outcome = conduct.run(work, executor="ray", workers=2)
    assert not outcome.failures and len(outcome.summaries) == 6


def test_planning_again_gives_the_same_keys(make: Make, tmp_path: Path) -> None:
    work = make()
    again = planned(work.runs, Store(root=tmp_path / "elsewhere"))
    assert {k: dict(v) for k, v in again.keys.items()} == {k: dict(v) for k, v in work.planned.keys.items()}


def mortal(target: str, mark: Path, times: int) -> Callable[[Any, Path], tuple[str, Any]]:
    """`attempt`, whose worker is killed the first so many times that the target is tried."""
    attempt = pools.attempt

    def attempt_or_die(node: Any, root: Path) -> tuple[str, Any]:
        if node.key == target:
            with mark.open("a") as file:
                file.write(".")
            if mark.stat().st_size <= times:
                os.kill(os.getpid(), signal.SIGKILL)
        return attempt(node, root)

    return attempt_or_die


@pytest.mark.parametrize("times", [1, ATTEMPTS])
def test_a_ray_worker_that_is_killed_is_taken_up_again_or_reported(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    pytest.importorskip("ray")
    work = make()
    target, mark = work.planned.keys["mixed"]["base" if times == ATTEMPTS else "mixed"], tmp_path / "mark"
    monkeypatch.setattr(pools, "attempt", mortal(target, mark, times))
    outcome = run_here(work, pools.RayPool(2, work.store.root))
    assert mark.stat().st_size == min(times + 1, ATTEMPTS)
    if times < ATTEMPTS:
        assert not outcome.failures and len(outcome.summaries) == 6
    else:
        assert not outcome.summaries and f"killed {ATTEMPTS} times" in str(outcome.failures[target])


def test_what_ray_itself_cannot_do_is_reported(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")

    def wordless(node: Any, root: Path) -> tuple[str, Any]:
        return "finished", (each for each in ())  # an answer that cannot be sent back

    work = make()
    monkeypatch.setattr(pools, "attempt", wordless)
    outcome = run_here(work, pools.RayPool(1, work.store.root))
    assert not outcome.summaries and "pickle" in str(outcome.failures[work.planned.keys["mixed"]["base"]])
