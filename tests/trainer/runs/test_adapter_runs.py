"""Recipes whose stages train adapters: teachers beside one base, merged, distilled, taken up again after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import SETTINGS, UNSCORED, carry_out, shrunk

from mopdsim.base.errors import UsageError
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts, Distill, Merge, Rl
from trainer.model.adapters import is_adapter, read_adapter
from trainer.model.loading import load_policy
from trainer.runs.plan import plan
from trainer.runs.resolve import resolve_recipe
from trainer.runs.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def with_adapters(recipe: Recipe, rank: int, *kinds: type) -> Recipe:
    """The recipe with adapters on its stages of these kinds."""
    stages = tuple(
        stage.model_copy(update={"adapter_rank": rank}) if isinstance(stage, kinds) else stage
        for stage in recipe.stages
    )
    return recipe.model_copy(update={"stages": stages})


def places(recipe: Recipe, model: Path, root: Path) -> dict[str, Path]:
    """Where each stage's weights lie."""
    store = Store(root=root)
    planned = plan({recipe.name: recipe}, model=str(model), settings=SETTINGS, store=store)
    return {name: store.weights(key) for name, key in planned.keys[recipe.name].items()}


@pytest.mark.slow
def test_a_student_learns_from_adapters_of_its_own_base(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    whole = shrunk(catalogue.recipe("mopd", list(small.values())))
    recipe = with_adapters(whole, 2, Rl)
    summary = carry_out(recipe, model, tmp_path / "run", store=tmp_path / "store")
    found = places(recipe, model, tmp_path / "store")
    for name in ("teacher_1", "teacher_2", "teacher_3"):
        assert is_adapter(found[name]) and read_adapter(found[name]).base == str(model)
        assert any(float(b_OR.abs().max()) > 0 for _, b_OR, _ in read_adapter(found[name]).maps.values())
    assert not is_adapter(found["student"])
    assert summary["stages"]["student"]["steps"] == 2
    plain = places(whole, model, tmp_path / "store")
    assert plain["teacher_1"] != found["teacher_1"] and plain[BASE] == found[BASE]


@pytest.mark.slow
def test_an_adapter_teacher_that_learnt_nothing_is_said_and_stops_nothing(
    small: dict[str, str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a verifier passes everything there is no signal, and the new adapter stays as it is."""
    file = tmp_path / "easy.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n:02d}", "answer": "(?s).*"}) + "\n" for n in range(40)))
    easy = f"jsonl:{file}?verifier=regex&max_new_tokens=4"
    recipe = with_adapters(shrunk(catalogue.recipe("mopd", [small["low"], easy])), 2, Rl)
    recipe = recipe.with_amounts(
        {name: amounts.model_copy(update={"steps": 1}) for name, amounts in recipe.amounts.items()}
    )
    settings = UNSCORED.model_copy(update={"diagnose_every": 0})
    carry_out(recipe, model, tmp_path / "run", settings=settings)
    assert "teacher 'teacher_2' has the weights of the student's start (base)" in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_are_merged_and_trained_on(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    recipe = with_adapters(shrunk(catalogue.recipe("merge", list(small.values()))), 2, Rl)
    carry_out(recipe, model, tmp_path / "run", store=tmp_path / "store")
    found = places(recipe, model, tmp_path / "store")
    merged = next(stage for stage in recipe.stages if isinstance(stage, Merge))
    base, result = (load_policy(place).model.state_dict() for place in (model, found[merged.name]))
    changed = {name for name in base if not torch.equal(base[name], result[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)


def chain(small: dict[str, str], ranks: tuple[int | None, int | None]) -> Recipe:
    """Two stages of reinforcement, one after the other."""
    domain, *_ = small.values()
    amounts = Amounts(steps=2, prompts_per_step=7, rollouts_per_prompt=4, learning_rate=1e-3)
    return Recipe(
        name="chain",
        domains=(domain,),
        amounts_name="tiny",
        stages=(
            Rl(name="first", domains={domain: 1.0}, adapter_rank=ranks[0]),
            Rl(name="second", init="first", domains={domain: 1.0}, adapter_rank=ranks[1]),
        ),
        amounts={"first": amounts, "second": amounts},
        output="second",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "ends_as_adapter"), [((2, 2), True), ((2, None), False), ((None, 2), True)]
)
def test_an_adapter_goes_on_or_becomes_whole_weights(
    small: dict[str, str], model: Path, tmp_path: Path, ranks: Any, ends_as_adapter: bool
) -> None:
    recipe = chain(small, ranks)
    carry_out(recipe, model, tmp_path / "run", store=tmp_path / "store")
    found = places(recipe, model, tmp_path / "store")
    assert is_adapter(found["second"]) == ends_as_adapter == is_adapter(tmp_path / "run" / "weights")
    if ranks == (2, 2):
        assert read_adapter(found["second"]).base == str(model)
    load_policy(tmp_path / "run" / "weights")


@pytest.mark.slow
def test_a_student_may_be_an_adapter_too(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    recipe = with_adapters(shrunk(catalogue.recipe("mopd", list(small.values()))), 2, Rl, Distill)
    carry_out(recipe, model, tmp_path / "run")
    assert is_adapter(tmp_path / "run" / "weights")


def test_one_option_puts_adapters_on_all_but_what_is_delivered() -> None:
    recipe = resolve_recipe("mopd", ["sort", "reverse"], None, ["adapter_rank=4"])
    ranks = {stage.name: getattr(stage, "adapter_rank", None) for stage in recipe.stages}
    assert ranks == {"teacher_1": 4, "teacher_2": 4, "student": None}
    one = resolve_recipe("mopd", ["sort", "reverse"], None, ["stages.teacher_2.adapter_rank=2"])
    assert {stage.name: getattr(stage, "adapter_rank", None) for stage in one.stages} == {
        "teacher_1": None,
        "teacher_2": 2,
        "student": None,
    }
    with pytest.raises(UsageError, match="adapter_rank"):
        resolve_recipe("mopd", ["sort"], None, ["adapter_rank=0"])
    for name in catalogue.CATALOGUE:
        resolve_recipe(name, ["sort", "reverse", "shift"], None, ["adapter_rank=2"])
