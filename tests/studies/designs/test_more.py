"""Studies 8 to 12: what their designs promise, and that each analysis finds what simulated observations hold."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from simulated import noise, runs_of, simulated
from typer.testing import CliRunner

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.cli.commands import cost_kind
from mopdsim.recipes.recipe import BASE, Distill, Recipe, Sft
from mopdsim.validate import rl_rows
from studies.cli.measure import MEASURING
from studies.designs.builders import at_best
from studies.designs.effects import bias, throughput
from studies.designs.size import ladder, shapes, timing
from studies.framework.observe import Observations, read
from studies.framework.registry import study
from studies.framework.run import Run
from trainer.batch.meter import forward_flops
from trainer.model.policy import Policy
from trainer.model.tiny import byte_tokenizer, random_model
from trainer.tasks import task


def spent(recipe: Recipe, *, without: tuple[str, ...] = ()) -> float:
    """The FLOPs that end a recipe's stages."""
    return sum(
        amounts.max_flops or math.nan for name, amounts in recipe.amounts.items() if name not in without
    )


def spending(
    found: Observations, flops: Callable[[str, str], float], steps: Callable[[str], int]
) -> Observations:
    """The observations with these FLOPs (by run and stage) and steps (by stage)."""
    stages: dict[str, Any] = {}
    for name, row in found.manifest["runs"].items():
        for stage, key in row["keys"].items():
            stages[key] = found.manifest["stages"][key] | {"flops": flops(name, stage)}
    points = found.points.assign(step=found.points.stage.map(steps))
    return replace(found, points=points, manifest={**found.manifest, "stages": stages})


# bias


def test_host_and_habit_ask_the_same_and_want_opposites() -> None:
    host, habit = task(bias.HOST), task(bias.HABIT)
    for asked in (host, habit):
        assert all(item.prompt.startswith("?:") for item in asked.fixed("test", 50))
    for item in host.fixed("test", 50):
        assert host.grade(item, (item.answer,)) == 1.0 and habit.grade(item, (item.answer,)) == 0.0


def test_the_habit_is_planted_before_a_training_that_never_sees_it() -> None:
    for run in runs_of("bias").values():
        stages = run.recipe.stage
        planted = [stage for stage in stages.values() if isinstance(stage, Sft)]
        reading = {name for name, s in stages.items() if bias.HABIT in getattr(s, "domains", {})}
        assert reading == {stage.name for stage in planted}
        assert bool(planted) == run.factors["planted"]
        assert stages["teacher_1"].init == ("planted" if planted else stages["student"].init)
        if run.factors["routing"] == "misrouted":
            student = stages["student"]
            assert isinstance(student, Distill) and student.misrouting == 0.2 and bias.HOST in student.domains


def test_what_arrives_is_recovered() -> None:
    """Students take a known share of the teacher's habit, over whatever a clean teacher leaves them with."""
    share = {"reverse_kl": 0.0, "forward_kl": 0.15, "off_policy": 0.2, "merge": 0.6}

    def score(run: Run, stage: str, domain: str) -> float:
        clean = 0.45 if run.factors["distance"] == "mild" else 0.02
        if domain != bias.HABIT or not run.factors["planted"] or stage in (BASE, "settled", "planted"):
            return clean
        if stage == "teacher_1":
            return clean + 0.4
        arrived = share[str(run.factors["way"])] if stage == "student" else 0.0
        return clean + 0.4 * arrived + 0.001 * run.settings.seed

    found = bias.analyse(simulated(runs_of("bias"), score)).quantities
    for condition in bias.CONDITIONS:
        assert found[condition.name].value == pytest.approx(share[condition.way], abs=0.01), condition.name
    assert found["planted_far"].value == pytest.approx(0.4) and found["start_habit_far"].value < 0.03


def test_nothing_can_arrive_where_nothing_was_planted() -> None:
    found = bias.analyse(simulated(runs_of("bias"), lambda run, stage, domain: 0.3)).quantities
    assert found["planted_mild"].value == 0 and not {c.name for c in bias.CONDITIONS} & set(found)


# builders


def test_settings_are_chosen_on_the_other_seeds() -> None:
    """Seed 0 is best at a and seed 1 at b: each is judged at the setting that the other chose."""
    rows = pd.DataFrame(
        {"world": "w", "seed": [0, 0, 1, 1], "setting": ["a", "b", "a", "b"], "score": [0.9, 0.1, 0.2, 0.8]}
    )
    chosen = at_best(rows, of=("world",), setting="setting", score="score").set_index("seed")
    assert chosen.setting.to_dict() == {0: "b", 1: "a"} and chosen.score.to_dict() == {0: 0.1, 1: 0.2}


# throughput


def test_seconds_are_recovered_from_steps_and_flops() -> None:
    truth = {"fixed_s": 0.5, "s_per_step": 0.01, "s_per_flop": 2e-10}
    runs = runs_of("throughput")
    found = simulated(runs, lambda run, stage, domain: 0.5 + noise(run, stage, domain))

    def flops(name: str, stage: str) -> float:
        length, prompts = int(runs[name].factors["length"]), int(runs[name].factors["prompts"])
        return 1e6 * length * prompts * throughput.STEPS[prompts] * (2 if stage == "student" else 1)

    found = spending(found, flops, lambda stage: 1)
    points = found.points.assign(
        step=[throughput.STEPS[int(runs[n].factors["prompts"])] for n in found.points.run]
    )
    stages = dict(found.manifest["stages"])
    for name, run in runs.items():
        for key in found.manifest["runs"][name]["keys"].values():
            steps = throughput.STEPS[int(run.factors["prompts"])]
            seconds = (
                truth["fixed_s"] + truth["s_per_step"] * steps + truth["s_per_flop"] * stages[key]["flops"]
            )
            stages[key] = stages[key] | {"wall_seconds": seconds}
    analysis = throughput.analyse(
        replace(found, points=points, manifest={**found.manifest, "stages": stages})
    )
    assert set(analysis.fitted) == {"rl", "distill"}
    for fitted in analysis.fitted.values():
        assert fitted == pytest.approx(truth, rel=1e-6)
    assert analysis.quantities["held_out_error"].value < 1e-6
    assert analysis.quantities["one_rate_minus_fitted"].low > 0.1


# shapes and timing


@pytest.mark.parametrize(
    ("shape", "parameters"), [("5M", 5e6), ("25M", 25e6), ("100M", 100e6), ("0.6B", 0.596e9), ("4B", 4.02e9)]
)
def test_shapes_have_the_size_of_their_name(shape: str, parameters: float) -> None:
    assert shapes.described(shape).total_parameters == pytest.approx(parameters, rel=0.06)


def test_a_written_shape_is_what_was_described(tmp_path: Path) -> None:
    shapes.write("tiny", tmp_path / "one")
    shapes.write("tiny", tmp_path / "two")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert (
        random_model(shapes.config("tiny"), byte_tokenizer(), seed=0).num_parameters()
        == shapes.described("tiny").total_parameters
    )
    with pytest.raises(NotFoundError, match="did you mean '25M'"):
        shapes.config("26M")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells of the tiny shape."""
    monkeypatch.setitem(timing.SAMPLES, "tiny", (8,))
    monkeypatch.setitem(timing.TOKENS, "tiny", (2, 4))


def measured(path: Path, *, seconds: float = 60) -> int:
    return timing.measure_cells("tiny", out=path, device="cpu", dtype="float32", seconds=seconds)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_measurements_are_kept_and_not_repeated(few: None, tmp_path: Path) -> None:
    path = tmp_path / "timing.csv"
    assert measured(path, seconds=0) == 2 and not path.exists()
    assert measured(path) == 0
    rows = rows_of(path)
    assert [row["max_tokens"] for row in rows] == ["2", "4"]
    for row in rows:
        phases = [float(row[name]) for name in ("generation_s", "old_logprob_s", "update_s")]
        assert min(phases) > 0 and float(row["step_s"]) == pytest.approx(sum(phases))
        assert int(row["peak_memory_bytes"]) > 1e7
    before = path.read_bytes()
    assert measured(path) == 0 and path.read_bytes() == before
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="choose another --out"):
        measured(path)


def test_measurements_of_known_models_can_calibrate_cost(few: None, tmp_path: Path) -> None:
    path = tmp_path / "timing.csv"
    measured(path)
    rows = rows_of(path)
    path.unlink()
    for row in rows:
        gpu = timing.gpu_name("NVIDIA H100 80GB HBM3")
        timing.append(path, row | {"model": "Qwen/Qwen3-0.6B", "gpu": gpu, "precision": "BF16"})
    assert cost_kind(path) == "rl_steps"
    table = rl_rows.load(path)
    assert len(table.rows) == 2 and not table.unknown and not table.refused
    assert [row.measured for row in table.rows] == pytest.approx([float(row["step_s"]) for row in rows])


def test_what_does_not_fit_is_kept_as_such(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: timing.PhasedStep) -> Mapping[str, float]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(timing.PhasedStep, "seconds", full)
    path = tmp_path / "timing.csv"
    assert measured(path) == 0
    assert {(row["note"], row["step_s"]) for row in rows_of(path)} == {("out of memory", "")}


def test_the_flops_of_a_cell_are_those_that_are_counted() -> None:
    cell = timing.Cell(shape="tiny", samples=16, tokens=8, prompt=12)
    policy = Policy(random_model(shapes.config("tiny"), byte_tokenizer(), seed=0), byte_tokenizer())
    counted = 5 * forward_flops(policy, timing.PhasedStep(policy, cell).sample())
    assert cell.flops == pytest.approx(counted, rel=0.1)


def test_no_cell_is_too_large_for_a_call_of_ten_minutes() -> None:
    for shape in shapes.SHAPES:
        sizes = [cell.flops for cell in timing.cells(shape)]
        assert sizes == sorted(sizes) and sizes and sizes[-1] <= timing.LARGEST_FLOPS


# ladder


@pytest.mark.parametrize("rung", ladder.RUNGS)
def test_a_rung_pretrains_once_and_spends_alike(rung: str) -> None:
    runs = ladder.study_of(rung).runs()
    first = {run.recipe.amounts[ladder.PRETRAINED].model_dump_json() for run in runs.values()}
    assert len(first) == 1
    for run in runs.values():
        starts = {stage.init for stage in run.recipe.stages if stage.name != ladder.PRETRAINED}
        assert starts == {ladder.PRETRAINED} and run.recipe.stages[0].init == BASE
        if ladder.RUNGS[rung].flops is None:
            assert {amounts.steps for amounts in run.recipe.amounts.values()} == {2}
        else:
            assert spent(run.recipe, without=(ladder.PRETRAINED,)) == pytest.approx(ladder.RUNGS[rung].flops)


def test_a_rung_that_does_not_exist_is_refused() -> None:
    assert study("ladder-25M").name == "ladder-25M"
    with pytest.raises(NotFoundError, match="did you mean 'ladder-25M'"):
        study("ladder-26M")
    with pytest.raises(NotFoundError, match="rung '6M' does not exist"):
        ladder.study_of("6M")


@pytest.mark.slow
def test_the_smallest_rung_is_made_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of every recipe, two steps of a model of one layer, from the command."""
    domains = ("sort", "reverse", "rotate")
    monkeypatch.setitem(shapes.OWN, "micro", (16, 1, 2))
    monkeypatch.setitem(ladder.RUNGS, "micro", ladder.RUNGS["0.6B"])
    monkeypatch.setattr(ladder, "TRAINED", domains)
    monkeypatch.setattr(ladder, "WORLD", (*domains, "swap"))
    monkeypatch.setattr(ladder, "OTHERS", ("swap",))
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    for command in MEASURING:
        app.command()(command)
    asked = ["ladder", "--rung", "micro", "--scale", "0.5", "--workers", "1", "--out", "out"]
    result = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert result.exit_code == 0 and "3 of 3 runs finished" in result.output
    found = read(tmp_path / "out" / "scale-0.5" / "ladder-micro")
    assert set(found.runs()) == {f"{arm}/seed0" for arm in ladder.ARMS}
    assert len({found.key(name, ladder.PRETRAINED) for name in found.runs()}) == 1
    assert found.stage("mopd/seed0").step.max() == 2
    assert "others" in ladder.analyse(found).tables[0].frame


def test_a_dry_run_measures_nothing(tmp_path: Path) -> None:
    app = typer.Typer()
    for command in MEASURING:
        app.command()(command)
    path = tmp_path / "timing.csv"
    result = CliRunner().invoke(app, ["timing", "--shape", "4B", "--out", str(path), "--dry-run"])
    assert (
        result.exit_code == 0 and result.output.count("4B:") == len(timing.cells("4B")) and not path.exists()
    )
