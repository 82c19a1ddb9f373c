"""A recipe with a student of another size: a second root beside the base, from the command to the run directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from small_world import SETTINGS, carry_out, rows_of, shrunk, timeless, write_model

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.cli.main import main
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, SMALLER, Distill, Rl, Teacher, default_amounts
from trainer.files.settings import Settings
from trainer.model.loading import load_policy, tensors_sha256
from trainer.runs.plan import BUILT_IN, SMALL_TINY, plan
from trainer.runs.progress import Progress
from trainer.runs.run import check, resume, run_recipe
from trainer.runs.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of half the small world's width."""
    from transformers import AutoModelForCausalLM

    from trainer.model.tiny import init_model

    place = tmp_path_factory.mktemp("smaller")
    init_model(place, seed=5, hidden=8, layers=1, heads=2)
    model = AutoModelForCausalLM.from_pretrained(place)
    model.model.norm.weight.data.mul_(4.0)  # sharper logits than a fresh model's
    model.save_pretrained(place)
    return place


def distilled(specs: dict[str, str]) -> Recipe:
    """A model trained by reinforcement, then distilled into a smaller one."""
    domains = tuple(specs.values())
    stages = (
        Rl(name="rl", domains=dict.fromkeys(domains, 1.0)),
        Distill(
            name="distilled",
            init=SMALLER,
            domains=dict.fromkeys(domains, 1.0),
            teachers=(Teacher(stage="rl", domains=domains),),
            on_policy=False,
            loss="sample_nll",
        ),
    )
    amounts = {stage.name: default_amounts("tiny", stage.kind) for stage in stages}
    made = Recipe(
        name="r1",
        domains=domains,
        amounts_name="tiny",
        stages=stages,
        amounts=amounts,
        output="rl",
        side_outputs=("distilled",),
    )
    return shrunk(made)


def run_small(recipe: Recipe, model: Path, smaller: Path | None, out: Path) -> dict[str, Any]:
    return run_recipe(
        recipe,
        model=str(model),
        smaller=None if smaller is None else str(smaller),
        settings=SETTINGS,
        out=out,
        workers=1,
        progress=Progress(quiet=True),
    )


@pytest.mark.slow
def test_the_student_is_delivered_beside_the_output(
    small: dict[str, str], model: Path, smaller: Path, tmp_path: Path
) -> None:
    summary = run_small(distilled(small), model, smaller, tmp_path / "run")
    delivered, output = tmp_path / "run" / "side_outputs" / "distilled", tmp_path / "run" / "weights"
    assert load_policy(delivered).model.config.hidden_size == 8
    assert load_policy(output).model.config.hidden_size == 16
    row = summary["side_outputs"]["distilled"]
    assert row["weights_sha256"] == tensors_sha256(delivered) != tensors_sha256(smaller)
    stages = summary["stages"]
    assert stages["base"]["kind"] == "base" and stages["smaller"]["kind"] == "smaller"
    for domain, scores in row["scores"].items():
        assert scores["start"] == stages["smaller"]["domains"][domain]["pass_rate"]
        assert scores["final"] == stages["distilled"]["domains"][domain]["pass_rate"]
    assert {row["stage"] for row in rows_of(tmp_path / "run")} == set(stages)
    again = resume(tmp_path / "run", progress=Progress(quiet=True))
    assert again == summary


@pytest.mark.slow
def test_kl_to_the_start_is_to_the_students_own_root(
    small: dict[str, str], model: Path, smaller: Path, tmp_path: Path
) -> None:
    """A step of size almost zero leaves the student where the smaller model is, far from the base."""
    recipe = distilled(small)
    still = recipe.amounts["distilled"].model_copy(update={"learning_rate": 1e-12})
    summary = run_small(recipe.with_amounts({"distilled": still}), model, smaller, tmp_path / "run")
    for row in summary["stages"]["distilled"]["domains"].values():
        assert row["kl_start"] == row["kl_parent"] == pytest.approx(0, abs=1e-6)
    assert any(row["kl_start"] > 1e-4 for row in summary["stages"]["rl"]["domains"].values())


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_smaller_model(
    small: dict[str, str], model: Path, smaller: Path, tmp_path: Path
) -> None:
    summary = run_small(distilled(small), model, smaller, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "resolved.json").read_text())["smaller"] == str(smaller)
    (tmp_path / "run" / "STATUS").write_text("interrupted\n")
    assert timeless(resume(tmp_path / "run", progress=Progress(quiet=True))) == timeless(summary)
    with pytest.raises(UsageError, match="holds a run of another recipe, model or settings"):
        other = write_model(tmp_path / "other", seed=7)
        run_small(distilled(small), model, other, tmp_path / "run")


def test_another_smaller_model_changes_its_students_alone(
    small: dict[str, str], model: Path, smaller: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=6)
    first, second = (
        plan(
            {"r1": distilled(small)},
            model=str(model),
            smaller=str(each),
            settings=SETTINGS,
            store=Store(root=tmp_path),
        ).keys["r1"]
        for each in (smaller, other)
    )
    assert {name for name in first if first[name] != second[name]} == {SMALLER, "distilled"}


def test_the_built_in_smaller_model_has_a_start_of_its_own(tmp_path: Path) -> None:
    recipe = catalogue.recipe("deepseek_r1", ["sort", "reverse", "shift"], smaller=True)
    whole = plan({"r1": recipe}, model="tiny", settings=Settings(), store=Store(root=tmp_path))
    starts = {
        node.label: node for node in whole.nodes if node.label.endswith("start") and "/" not in node.label
    }
    assert set(starts) == {"start", "smaller start"}
    small, large = (starts[label].job for label in ("smaller start", "start"))
    assert small.stage == large.stage and small.amounts == large.amounts and small.key != large.key
    width, own_width = (load_policy(job.weights[BASE]).model.config.hidden_size for job in (large, small))
    assert own_width == BUILT_IN[SMALL_TINY]["hidden"] == width // 2
    student = next(node for node in whole.nodes if node.label == "r1/distilled")
    assert student.needs == (small.key, whole.keys["r1"]["rl"])
    assert student.job.weights[SMALLER] == Store(root=tmp_path).weights(small.key)


# What is refused.


def test_a_smaller_model_is_asked_for_by_name(small: dict[str, str], model: Path) -> None:
    with pytest.raises(UsageError, match=r"stage 'distilled' starts from a smaller model.*add --smaller"):
        check(distilled(small), model=str(model), smaller=None, settings=SETTINGS)


def test_a_smaller_model_that_nothing_reads_is_refused(small: dict[str, str], model: Path) -> None:
    recipe = shrunk(catalogue.recipe("mixed_rl", list(small.values())))
    with pytest.raises(
        UsageError, match="no stage of recipe 'mixed_rl' starts from a smaller model: leave it out"
    ):
        check(recipe, model=str(model), smaller=str(model), settings=SETTINGS)


def test_a_smaller_model_must_exist(small: dict[str, str], model: Path) -> None:
    with pytest.raises(NotFoundError, match="no such directory"):
        check(distilled(small), model=str(model), smaller="/no/such/model", settings=SETTINGS)


def test_a_smaller_model_of_other_tokens_is_refused_before_anything_runs(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "bytes", seed=1, kind="bytes")
    with pytest.raises(UsageError, match=r"tokens have other ids.*use models of one tokenizer"):
        check(distilled(small), model=str(model), smaller=str(other), settings=SETTINGS)


def test_the_command_takes_a_smaller_model(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        "--model",
        str(model),
        "--domains",
        small["low"],
        "--set",
        "smaller=true",
        "--set",
        "general=[]",
    ]
    command = ["mopd", "train", "run", "deepseek_r1", *options, "--out", str(tmp_path / "run"), "--dry-run"]
    command += ["--setting", "test_items=8", "--setting", "validation_items=4"]
    codes = []
    for more in ([], ["--smaller", str(model)]):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        codes.append(ended.value.code)
        assert ("add --smaller" in capsys.readouterr().err) == (not more)
    assert codes == [2, 0]


def test_recipes_of_one_size_need_none(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    summary = carry_out(shrunk(catalogue.recipe("single_domain", [small["low"]])), model, tmp_path / "run")
    assert summary["side_outputs"] == {} and not (tmp_path / "run" / "side_outputs").exists()
