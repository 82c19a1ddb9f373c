"""The store: a stage's key says what it was made from, so work is shared, redone where needed, and nowhere else."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from damage import hurt
from small_world import SETTINGS, Recorder, carry_out, shrunk, write_model

from mopdsim.base.errors import MopdError, NotFoundError
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, NORMALISING_ANSWERS, AnyStage, RewardModel, Sft, default_amounts
from trainer.files.settings import Settings
from trainer.runs import store as store_module
from trainer.runs.plan import Plan, answers, default_start, plan
from trainer.runs.store import Store
from trainer.runs.worker import ALGORITHM_VERSIONS, KINDS, run_job
from trainer.tasks import FORM

pytestmark = pytest.mark.usefixtures("one_thread")


def planned(recipe: Recipe, model: Path, root: Path, settings: Settings = SETTINGS) -> Plan:
    return plan({recipe.name: recipe}, model=str(model), settings=settings, store=Store(root=root))


def keys(recipe: Recipe, model: Path, root: Path, settings: Settings = SETTINGS) -> dict[str, str]:
    return dict(planned(recipe, model, root, settings).keys[recipe.name])


def mopd(specs: dict[str, str], **options: Any) -> Recipe:
    return shrunk(catalogue.recipe("mopd", list(specs.values()), **options))


def test_recipes_share_the_stages_they_have_in_common(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    made = {
        name: shrunk(catalogue.recipe(name, list(small.values())))
        for name in ("mopd", "off_policy", "merge", "single_domain")
    }
    whole = plan(made, model=str(model), settings=SETTINGS, store=Store(root=tmp_path))
    teachers = {name: whole.keys[name]["teacher_2"] for name in ("mopd", "off_policy", "merge")}
    assert len(set(teachers.values())) == 1
    assert whole.keys["single_domain"]["specialist"] == whole.keys["mopd"]["teacher_1"]  # names do not count
    assert len({whole.keys[name][BASE] for name in made}) == 1
    assert len({whole.keys["mopd"]["student"], whole.keys["off_policy"]["student"]}) == 2
    assert len(whole.nodes) == len({node.key for node in whole.nodes}) == 1 + 3 + 3
    done: set[str] = set()
    for node in whole.nodes:  # parents first
        assert set(node.needs) <= done
        done.add(node.key)


def test_a_changed_teacher_changes_what_depends_on_it_and_nothing_else(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe = mopd(small)
    longer = recipe.with_amounts({"teacher_2": recipe.amounts["teacher_2"].model_copy(update={"steps": 3})})
    before, after = (keys(each, model, tmp_path) for each in (recipe, longer))
    assert {name for name in before if before[name] != after[name]} == {"teacher_2", "student"}


def test_everything_that_can_change_a_number_changes_the_keys(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe = mopd(small)
    before = keys(recipe, model, tmp_path)
    other = write_model(tmp_path / "other", seed=2)
    assert not set(keys(recipe, other, tmp_path).values()) & set(before.values())
    for change in (
        {"seed": 5},
        {"temperature": 0.9},
        {"threads": 2},
        {"test_items": 9},
        {"dtype": "bfloat16"},
    ):
        changed = keys(recipe, model, tmp_path, SETTINGS.model_copy(update=change))
        assert not set(changed.values()) & set(before.values())
    rarer = SETTINGS.model_copy(update={"checkpoint_every": 7})
    assert keys(recipe, model, tmp_path, rarer) == before


def test_a_new_version_of_a_loop_reruns_its_stages_and_their_dependents(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = mopd(small)
    before = keys(recipe, model, tmp_path)
    monkeypatch.setattr("trainer.runs.worker.ALGORITHM_VERSIONS", {**ALGORITHM_VERSIONS, "distill": 99})
    after = keys(recipe, model, tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"student"}


def test_a_changed_file_of_prompts_is_another_domain(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    specs = {}
    for name, spec in small.items():
        path = Path(spec.partition(":")[2].partition("?")[0])
        shutil.copy(path, tmp_path / path.name)
        specs[name] = spec.replace(str(path), str(tmp_path / path.name))
    recipe = mopd(specs)
    before = keys(recipe, model, tmp_path / "store")
    changed = tmp_path / "low.jsonl"
    changed.write_text(changed.read_text().replace("l00", "l99"))
    after = keys(recipe, model, tmp_path / "store")
    assert not set(before.values()) & set(after.values())  # the base's scores too


@pytest.fixture
def ran(small: dict[str, str], model: Path, shared_store: Path, tmp_path: Path) -> tuple[Recipe, Path]:
    """A finished recipe and a store of its own, copied from the shared one."""
    recipe = mopd(small)
    carry_out(recipe, model, tmp_path / "first", store=shared_store)
    own = tmp_path / "store"
    own.mkdir()
    for key in keys(recipe, model, shared_store).values():
        shutil.copytree(shared_store / key, own / key)
    return recipe, own


def again(recipe: Recipe, model: Path, own: Path) -> Recorder:
    recorder = Recorder()
    carry_out(recipe, model, own.parent / f"run-{len(os.listdir(own.parent))}", store=own, progress=recorder)
    return recorder


def test_a_second_run_takes_everything_from_the_store(ran: tuple[Recipe, Path], model: Path) -> None:
    recipe, own = ran
    recorder = again(recipe, model, own)
    assert recorder.ran == [] and set(recorder.stored) == {BASE, *recipe.stage}


def test_a_changed_student_keeps_its_teachers(ran: tuple[Recipe, Path], model: Path) -> None:
    recipe, own = ran
    longer = recipe.with_amounts({"student": recipe.amounts["student"].model_copy(update={"steps": 3})})
    assert again(longer, model, own).ran == ["student"]


def _with(place: Path, name: str, value: Any) -> None:
    """A stage's summary without a value (None), or with another."""
    document = json.loads((place / "summary.json").read_text())
    del document[name]
    (place / "summary.json").write_text(json.dumps(document if value is None else document | {name: value}))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped weights": lambda place: hurt(place / "weights" / "model.safetensors", "flipped"),
    "short weights": lambda place: hurt(place / "weights" / "model.safetensors", "truncated"),
    "no weights": lambda place: shutil.rmtree(place / "weights"),
    "another tokenizer": lambda place: hurt(place / "weights" / "tokenizer.json", "flipped"),
    "not done": lambda place: (place / "STATUS").write_text("running\n") and None,  # type: ignore[func-returns-value]
    "no summary": lambda place: (place / "summary.json").unlink(),
    **{
        f"summary {name}": lambda place, text=text: (place / "summary.json").write_text(text) and None
        for name, text in {"empty": "", "a list": "[1]", "deep": "[" * 100_000, "of nothing": "{}"}.items()
    },
    **{
        f"summary with {name} = {value}": partial(_with, name=name, value=value)
        for name, value in [("steps", None), ("domains", "x"), ("wall_seconds", math.nan), ("flops", {})]
    },
    "another made_from": lambda place: (place / "made_from.json").write_text('{"stage": 3}') and None,
    "half a summary": lambda place: hurt(place / "summary.json", "truncated"),
}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, marks=[] if damage == "flipped weights" else [pytest.mark.slow])
        for damage in DAMAGES
    ],
)
def test_a_damaged_stage_is_run_again_with_the_same_result(
    ran: tuple[Recipe, Path], model: Path, damage: str
) -> None:
    recipe, own = ran
    place = own / keys(recipe, model, own)["teacher_1"]
    before = (place / "weights" / "model.safetensors").read_bytes()
    DAMAGES[damage](place)
    recorder = again(recipe, model, own)
    assert recorder.ran == ["teacher_1"]
    assert (place / "weights" / "model.safetensors").read_bytes() == before


def test_two_processes_never_work_on_one_stage(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits a moment, then says so, and does not touch the first one's files."""
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.1)
    node = planned(mopd(small), model, tmp_path).nodes[0]
    place = tmp_path / node.key
    (place / ".weights.partial.1").mkdir(parents=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MopdError, match="another process is working on this stage"):
            run_job(node.job, node.made_from, tmp_path, lambda done: None)
    assert (place / ".weights.partial.1").is_dir() and not (place / "STATUS").exists()


def test_a_stage_that_another_run_has_finished_meanwhile_is_taken_over(
    ran: tuple[Recipe, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, own = ran
    node = next(node for node in planned(recipe, model, own).nodes if node.label == "mopd/teacher_1")
    monkeypatch.setattr("trainer.runs.worker.run_stage", lambda *_: pytest.fail("run again"))
    assert run_job(node.job, node.made_from, own, lambda done: None) == Store(root=own).summary(node.key)


def test_an_unwritable_store_is_named(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    node = planned(mopd(small), model, tmp_path / "store").nodes[0]
    with pytest.raises(MopdError, match=r"file/.*: cannot be written"):
        run_job(node.job, node.made_from, tmp_path / "file", lambda done: None)


def test_what_a_stage_is_made_from_can_be_read(ran: tuple[Recipe, Path], model: Path) -> None:
    recipe, own = ran
    found = keys(recipe, model, own)
    made = json.loads((own / found["student"] / "made_from.json").read_text())
    assert made["parents"] == [found[BASE], *(found[f"teacher_{number}"] for number in (1, 2, 3))]
    assert [teacher["stage"] for teacher in made["stage"]["teachers"]] == made["parents"][1:]
    assert store_module.key_of(made) == found["student"]


def test_the_built_in_model_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that a killed process left half made is made again."""
    recipe = catalogue.recipe("single_domain", ["sort"])
    store = Store(root=tmp_path)
    first = plan({"one": recipe}, model="tiny", settings=Settings(seed=3), store=store)
    assert first.nodes[0].label == "start"
    (tmp_path / "tiny-3" / "model.safetensors").unlink()
    second = plan({"one": recipe}, model="tiny", settings=Settings(seed=3), store=store)
    assert second.keys == first.keys
    monkeypatch.setattr("trainer.runs.plan.init_model", lambda *_, **__: pytest.fail("made again"))
    assert plan({"one": recipe}, model="tiny", settings=Settings(seed=3), store=store).keys == first.keys
    assert first.nodes[0].job.settings.probes == ()
    composed = catalogue.recipe("mixed_rl", ["sort", "shift?length=5-6"])
    probed = plan({"one": composed}, model="tiny", settings=Settings(seed=3), store=store)
    assert all(node.job.settings.probes == ("sort_then_shift",) for node in probed.nodes)


def test_a_small_scale_shortens_the_start_to_a_quarter_at_least() -> None:
    whole = default_start(6)
    steps = [default_start(6, scale=scale).steps for scale in (0.02, 0.25, 0.5, 1.0, 3.0)]
    assert steps == [whole.steps // 4, whole.steps // 4, whole.steps // 2, whole.steps, whole.steps]
    assert default_start(1) == default_start(3) and default_start(6).steps == 2 * default_start(3).steps


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    recipe = catalogue.recipe("single_domain", ["sort"])
    with pytest.raises(NotFoundError, match=r"config\.json is missing"):
        planned(recipe, tmp_path, tmp_path)


def test_the_longest_chain_starts_first(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    from trainer.runs.order import ranks_of

    whole = planned(mopd(small, rounds=2), model, tmp_path)
    rank = ranks_of(whole, {node.key: node.effort for node in whole.nodes})
    by_label = {node.label: rank[node.key] for node in whole.nodes}
    assert by_label["base"] == max(by_label.values())
    assert by_label["mopd/r1_teacher_1"] > by_label["mopd/r1_student"] > by_label["mopd/r2_teacher_1"]


def test_amounts_real_give_a_model_a_start_that_recipes_share(model: Path, tmp_path: Path) -> None:
    domains = ["ask:gcd", "ask:smallest?count=5"]
    made = {name: catalogue.recipe(name, domains, amounts="real") for name in ("mopd", "mixed_rl")}
    whole = plan(made, model=str(model), settings=SETTINGS, store=Store(root=tmp_path), start_scale=0.3)
    start = next(node for node in whole.nodes if node.key == whole.keys["mopd"][BASE])
    assert start.job.amounts == default_amounts("real", "sft"), "the scale is of a built-in model's start"
    assert whole.keys["mixed_rl"][BASE] == start.key and isinstance(start.job.stage, Sft)
    assert tuple(start.job.stage.domains) == FORM and set(FORM) | set(domains) <= set(start.job.tasks())
    assert start.job.scored("test") == (*domains, *SETTINGS.probes), "and not all that it trains on"
    given = plan(
        {"tiny": catalogue.recipe("mopd", domains)},
        model=str(model),
        settings=SETTINGS,
        store=Store(root=tmp_path),
    )
    assert given.nodes[0].job.stage is None, "other amounts take the model as it is"


def test_a_stage_scores_other_domains_always_at_its_end_or_never(model: Path, tmp_path: Path) -> None:
    recipe = catalogue.recipe("mopd", ["ask:gcd", "ask:swap"])
    expected = {
        "always": {"validation": 3, "test": 3},
        "at_end": {"validation": 1, "test": 3},
        "never": {"validation": 1, "test": 1},
    }
    for others, counts in expected.items():
        settings = SETTINGS.model_copy(update={"score_others": others})
        whole = planned(recipe, model, tmp_path, settings)
        job = next(node.job for node in whole.nodes if node.key == whole.keys["mopd"]["teacher_1"])
        assert {split: len(job.scored(split)) for split in ("validation", "test")} == counts  # type: ignore[arg-type]


def test_settings_that_came_later_leave_older_keys_as_they_were() -> None:
    later = {"samples_per_prompt": 8, "greedy_items": 100, "score_others": "never", "system_prompt": "none"}
    assert not set(later) & set(Settings().keyed())
    for name, value in later.items():
        assert Settings.model_validate({name: value}).keyed()[name] == value


def test_the_cost_of_evaluation_is_counted_before_a_run() -> None:
    recipe = shrunk(catalogue.recipe("mopd", ["ask:gcd", "ask:swap"]), steps=5, prompts_per_step=10)
    plain = Settings(test_items=20, validation_items=3, evaluate_every=2)
    counted = answers(recipe, plain)
    assert counted.training == 2 * (5 * 10 * 4) + 5 * 10 * 1, "two teachers with groups of four, a student"
    assert counted.evaluation == 4 * 2 * 20 + 3 * 3 * 2 * 3, (
        "start and three stages; steps 0, 2 and 4 of each stage"
    )
    judge = RewardModel(name="judge", domains={"ask:gcd": 1.0})
    judged = recipe.model_copy(
        update={
            "stages": (*recipe.stages, judge),
            "amounts": {**recipe.amounts, "judge": recipe.amounts["student"]},
        }
    )
    assert answers(judged, plain).training == counted.training + 5 * 10 * 1 + NORMALISING_ANSWERS
    changes = {"samples_per_prompt": 8, "greedy_items": 100, "score_others": "never"}
    own = answers(recipe, plain.model_copy(update=changes))
    assert own.evaluation == (2 + 1 + 1 + 2) * (20 * 8 + 100) + 3 * 3 * (1 + 1 + 2)
    assert str(own) == "evaluation: 1,596 answers beside 450 in training, 78% of all"


def test_every_kind_of_stage_has_a_loop() -> None:
    assert {stage.model_fields["kind"].default for stage in get_args(AnyStage)} == KINDS.keys()
