"""The recipe language: what a recipe is, what it refuses and how it says so, its catalogue."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.graph import links
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import (
    BASE,
    SMALLER,
    Amounts,
    Distill,
    Merge,
    Rl,
    Sft,
    Teacher,
    default_amounts,
    needs,
    parents,
)

DOMAINS = ("sort", "reverse", "shift", "reasoning_gym:leg_counting", "jsonl:/data/a b.jsonl?verifier=regex")
LOSSES = ("reverse_kl", "forward_kl", "jensen_shannon", "top_k_reverse_kl", "sampled_token")
BALANCES = ("none", "token_share", "remaining_gap", "dispersion")
RL = {"steps": 10, "prompts_per_step": 4, "rollouts_per_prompt": 4, "learning_rate": 1e-3}
STUDENT = {"steps": 10, "prompts_per_step": 4, "learning_rate": 1e-3}


@st.composite
def catalogue_recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe of the catalogue, with any of its options."""
    domains = draw(st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=4, unique=True))
    weight = st.floats(1e-6, 1e6)
    fraction = st.floats(0, 1)
    cut = draw(st.integers(1, len(domains)))
    grouped = st.sampled_from([None, [domains], [group for group in (domains[:cut], domains[cut:]) if group]])
    method = draw(st.sampled_from(["average", "task_arithmetic", "ties"]))
    chosen: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "single_domain": {},
        "mixed_rl": {
            "shares": st.none() | st.fixed_dictionaries({domain: weight for domain in domains}),
            "reward_weights": st.dictionaries(st.sampled_from(domains), weight),
            "advantage_scale": st.sampled_from(["group", "domain", "none"]),
            "curriculum": st.sampled_from(["none", "staged", "signal"]),
        },
        "cascade_rl": {
            "order": st.permutations(domains),
            "replay": st.just(0.0) | st.floats(1e-6, 0.99),
        },
        "mopd": {
            "groups": grouped,
            "rounds": st.integers(1, 3),
            "warmup": st.booleans(),
            "reward_mix": st.floats(0, 10),
            "balance": st.sampled_from(BALANCES),
            "loss": st.sampled_from(LOSSES),
            "extrapolation": st.floats(0.1, 2),
            "misrouting": fraction if len(domains) > 1 else st.just(0.0),
        },
        "off_policy": {
            "groups": grouped,
            "loss": st.sampled_from(["sample_nll", "reverse_kl", "forward_kl", "jensen_shannon"]),
            "correct_only": st.booleans(),
        },
        "merge": {
            "groups": grouped,
            "method": st.just(method),
            "scale": st.none() if method == "average" else weight,
            "density": st.floats(0.01, 1) if method == "ties" else st.just(0.2),
        },
    }
    name = draw(st.sampled_from(sorted(chosen)))
    needed = chosen[name] if name == "merge" else {}  # whose options depend on its method
    options = draw(st.fixed_dictionaries(needed, optional={} if needed else chosen[name]))
    if "misrouting" in options and options.get("groups") == [domains]:
        options["misrouting"] = 0.0  # one teacher only
    amounts = draw(st.sampled_from(["tiny", "small"]))
    return catalogue.recipe(name, domains, amounts=amounts, **options)


@given(recipe=catalogue_recipes(), factor=st.floats(1e-3, 1e3))
def test_any_catalogue_recipe_survives_its_file(recipe: Recipe, factor: float) -> None:
    assert recipe_file.loads(recipe_file.dump(recipe)) == recipe
    scaled = recipe.scaled(factor)
    assert recipe_file.loads(recipe_file.dump(scaled)) == scaled


@given(recipe=catalogue_recipes())
def test_the_graph_is_the_recipe(recipe: Recipe) -> None:
    graph = nx.DiGraph(links(recipe).keys())
    assert nx.is_directed_acyclic_graph(graph)
    assert set(graph.nodes) == {BASE, *(stage.name for stage in recipe.stages)}
    seen = {BASE}
    for stage in recipe.stages:
        assert set(graph.predecessors(stage.name)) == set(parents(stage)) <= seen  # parents come first
        assert links(recipe)[stage.init, stage.name] == "init"
        assert recipe.ancestors(stage.name) == nx.ancestors(graph, stage.name) - {BASE}
        seen.add(stage.name)
    assert nx.ancestors(graph, recipe.output) == set(graph.nodes) - {recipe.output}


@pytest.mark.parametrize("factor", [1e6, 1e9, 1e308])
def test_no_scale_makes_more_steps_than_a_file_may_say(factor: float) -> None:
    with pytest.raises(UsageError, match=r"stage 'teacher_1': steps: more than 10,000,000"):
        catalogue.recipe("mopd", ["sort", "reverse"], amounts="tiny").scaled(factor)


@given(recipe=catalogue_recipes(), factor=st.floats(1e-6, 1e3))
def test_scaling_touches_steps_alone(recipe: Recipe, factor: float) -> None:
    scaled = recipe.scaled(factor)
    same = scaled.model_copy(update={"amounts": recipe.amounts})
    assert same == recipe
    for name, amounts in scaled.amounts.items():
        before = recipe.amounts[name]
        assert amounts.model_copy(update={"steps": before.steps}) == before
        assert amounts.steps == max(2, round(before.steps * factor))


def test_scaling_by_one_changes_nothing_and_ceilings_scale_along() -> None:
    one_step = catalogue.recipe("single_domain", ["sort"]).with_amounts(
        {"specialist": Amounts(**{**RL, "steps": 1, "max_flops": 1e9})}
    )
    assert one_step.scaled(1.0) == one_step
    longer = one_step.scaled(10.0).amounts["specialist"]
    assert (longer.steps, longer.max_flops) == (10, 1e10)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_must_be_positive(factor: float) -> None:
    with pytest.raises(UsageError, match=r"scale = .*: must be a finite number above 0"):
        catalogue.recipe("single_domain", ["sort"]).scaled(factor)


def document(**changes: Any) -> dict[str, Any]:
    """A sound recipe of two teachers and a student as a document, with some keys replaced."""
    stages = [
        {"kind": "rl", "name": "first", "domains": {"sort": 1.0}},
        {"kind": "rl", "name": "second", "domains": {"reverse": 1.0}},
        {
            "kind": "distill",
            "name": "student",
            "domains": {"sort": 1.0, "reverse": 1.0},
            "teachers": [
                {"stage": "first", "domains": ["sort"]},
                {"stage": "second", "domains": ["reverse"]},
            ],
        },
    ]
    sound = {"name": "pair", "domains": ["sort", "reverse"], "stages": stages, "output": "student"}
    return {**sound, "amounts_of": {"student": {"steps": 7}}} | changes


def changed(stage: str, **changes: Any) -> dict[str, Any]:
    """`document` with one stage changed."""
    whole = document()
    whole["stages"] = [{**row, **changes} if row["name"] == stage else row for row in whole["stages"]]
    return whole


def with_stages(*rows: dict[str, Any]) -> dict[str, Any]:
    """`document` with further stages in front."""
    whole = document()
    whole["stages"] = [*rows, *whole["stages"]]
    return whole


TO_FIRST = {"stage": "first", "domains": ["sort"]}
TO_SECOND = {"stage": "second", "domains": ["reverse"]}
ONE_TEACHER = [{"stage": "first", "domains": ["sort", "reverse"]}]
IDLE = {"kind": "rl", "name": "idle", "domains": {"sort": 1.0}}
MERGED = {"kind": "merge", "name": "merged", "inputs": ["first", "second"]}

MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "cycle": (changed("first", init="student"), ["cycle", "first -> ", "remove one link"]),
    "its own parent": (changed("first", init="first"), ["first -> first"]),
    "unknown domain": (changed("first", domains={"srot": 1.0}), ["'first'", "'srot'", "did you mean 'sort'"]),
    "no teacher": (
        changed("student", teachers=[TO_FIRST, {"stage": "second", "domains": ["sort"]}]),
        ["'student'", "'reverse' has no teacher", "add it"],
    ),
    "teacher of no prompts": (changed("student", domains={"sort": 1.0}), ["'reverse'", "add it to domains"]),
    "teacher is no stage": (
        changed("student", teachers=[TO_FIRST, {"stage": "secnd", "domains": ["reverse"]}]),
        ["'secnd'", "is no stage", "did you mean 'second'"],
    ),
    "teacher is no ancestor": (changed("second", init="student"), ["cycle"]),
    "init is no stage": (changed("student", init="bsae"), ["'bsae'", "did you mean 'base'"]),
    "unknown key": (document(stgaes=[]), ["unknown key 'stgaes'", "did you mean 'stages'"]),
    "unknown key of a stage": (changed("first", curiculum="none"), ["'first'", "did you mean 'curriculum'"]),
    "unknown key of a teacher": (
        changed("student", teachers=[{**TO_FIRST, "wieght": 2.0}, TO_SECOND]),
        ["'student'.teachers", "did you mean 'weight'"],
    ),
    "unknown amount": (document(amounts_of={"first": {"stpes": 3}}), ["first", "did you mean 'steps'"]),
    "amounts of no stage": (document(amounts_of={"frist": {"steps": 3}}), ["frist", "did you mean 'first'"]),
    "unknown kind": (changed("student", kind="distil"), ["unknown kind 'distil'", "did you mean 'distill'"]),
    "no kind": (with_stages({"name": "x", "domains": {"sort": 1.0}}), ["'x'", "add kind"]),
    "unknown set": (document(amounts="tniy"), ["amounts = 'tniy'", "did you mean 'tiny'"]),
    "another schema": (document(schema_version=99), ["schema_version 99", "version 1"]),
    "no steps": (
        document(amounts_of={"first": {"steps": 0}}),
        ["first.steps = 0", "greater than or equal to 1"],
    ),
    "negative rate": (
        document(amounts_of={"first": {"learning_rate": -1e-3}}),
        ["first.learning_rate = -0.001", "greater than or equal to 0"],
    ),
    "NaN rate": (document(amounts_of={"first": {"learning_rate": math.nan}}), ["nan", "finite"]),
    "infinite decay": (document(amounts_of={"first": {"weight_decay": math.inf}}), ["inf", "finite"]),
    "negative share": (
        changed("first", domains={"sort": -1.0}),
        ["domains.sort = -1.0", "equal to 0.000000001"],
    ),
    "share of nearly nothing": (
        changed("first", domains={"sort": 5e-324}),
        ["domains.sort = 5e-324", "0.000000001"],
    ),
    "share of everything": (
        changed("first", domains={"sort": 1e308}),
        ["domains.sort = 1e+308", "1000000000"],
    ),
    "NaN share": (changed("first", domains={"sort": math.nan}), ["nan", "finite"]),
    "NaN mix": (changed("student", reward_mix=math.nan), ["reward_mix = nan", "finite"]),
    "infinite KL": (changed("first", kl_coefficient=math.inf), ["kl_coefficient = inf", "finite"]),
    "no domains": (changed("first", domains={}), ["'first'.domains", "at least 1"]),
    "same name twice": (
        with_stages({**IDLE, "name": "first"}),
        ["two stages are called 'first'", "own name"],
    ),
    "named base": (with_stages({**IDLE, "name": "base"}), ["'base'", "rename it"]),
    "bad name": (with_stages({**IDLE, "name": "Idle stage"}), ["'Idle stage'.name", "match"]),
    "same domain twice": (document(domains=["sort", "sort"]), ["'sort' is listed twice"]),
    "unused stage": (with_stages(IDLE), ["'idle'", "no ancestor of the output", "remove it"]),
    "output is no stage": (document(output="studnet"), ["'studnet'", "did you mean 'student'"]),
    "no stages": (document(stages=[]), ["stages", "at least 1"]),
    "stages of another type": (document(stages=5), ["stages = 5", "must be a list"]),
    "too many stages": (document(stages=[IDLE] * 2001), ["2001 stages", "split"]),
    "reward of another's domain": (
        changed("first", reward_weights={"reverse": 1.0}),
        ["reward_weights", "reverse"],
    ),
    "baseline of one": (
        document(amounts_of={"first": {"rollouts_per_prompt": 1}}),
        ["'first'", "rollouts_per_prompt = 1", "at least 2", "raise it"],
    ),
    "another rank than the parent's": (
        document(
            stages=[
                {**IDLE, "name": "before", "adapter_rank": 4},
                *changed("first", init="before", adapter_rank=2)["stages"],
            ]
        ),
        ["'first'", "adapter_rank = 2", "rank 4 ('before')", "give it that rank"],
    ),
    "a ledger of an adapter": (
        changed("student", adapter_rank=8) | {"amounts_of": {"student": {"ledger": True}}},
        ["'student'", "ledger = true", "whole weights", "leave adapter_rank out"],
    ),
    "a ledger of what is mixed": (
        changed("student", loss="sampled_token", reward_mix=0.5)
        | {"amounts_of": {"student": {"ledger": True, "rollouts_per_prompt": 4}}},
        ["'student'", "ledger = true", "set reward_mix = 0"],
    ),
    "mixed reward of one": (
        changed("student", reward_mix=0.5),
        ["'student'", "rollouts_per_prompt = 1", "at least 2", "raise it"],
    ),
    "demonstrations in groups": (
        document(
            stages=[{"kind": "sft", "name": "tuned", "domains": {"sort": 1.0}}],
            output="tuned",
            amounts_of={"tuned": {"rollouts_per_prompt": 4}},
        ),
        ["'tuned'", "rollouts_per_prompt = 4", "set it to 1"],
    ),
    "samples without teachers'": (changed("student", loss="sample_nll"), ["sample_nll", "on_policy = false"]),
    "token of teachers'": (
        changed("student", on_policy=False, loss="sampled_token"),
        ["sampled_token", "on_policy = true"],
    ),
    "correct of the student": (changed("student", correct_only=True), ["correct_only", "on_policy = false"]),
    "reward off-policy": (
        changed("student", on_policy=False, reward_mix=0.5),
        ["reward_mix", "on_policy = true"],
    ),
    "extrapolated samples": (
        changed("student", on_policy=False, loss="sample_nll", extrapolation=1.5),
        ["extrapolation", "scores"],
    ),
    "balance without scores": (
        changed("student", on_policy=False, loss="sample_nll", balance="remaining_gap"),
        ["remaining_gap", "scores"],
    ),
    "unread setting": (changed("student", top_k=8), ["top_k = 8", "'top_k_reverse_kl' alone", "remove it"]),
    "nobody to stray to": (
        changed("student", teachers=ONE_TEACHER, misrouting=0.1),
        ["misrouting = 0.1", "needs"],
    ),
    "everybody is right": (
        changed(
            "student",
            misrouting=0.1,
            teachers=[{**ONE_TEACHER[0], "stage": name} for name in ("first", "second")],
        ),
        ["misrouting = 0.1", "'sort'"],
    ),
    "teacher given twice": (
        changed("student", teachers=[TO_FIRST, TO_FIRST, TO_SECOND]),
        ["'first'", "once"],
    ),
    "too many weights": (
        document(
            stages=[*document()["stages"][:2], {**MERGED, "weights": [1.0]}], output="merged", amounts_of={}
        ),
        ["1 weights for 2 inputs"],
    ),
    "scaled average": (
        document(
            stages=[*document()["stages"][:2], {**MERGED, "scale": 0.5}], output="merged", amounts_of={}
        ),
        ["scale = 0.5", "average"],
    ),
    "density of no TIES": (
        document(
            stages=[*document()["stages"][:2], {**MERGED, "density": 0.5}], output="merged", amounts_of={}
        ),
        ["density = 0.5", "ties"],
    ),
    "input given twice": (
        document(
            stages=[document()["stages"][0], {**MERGED, "inputs": ["first", "first"]}],
            output="merged",
            amounts_of={},
        ),
        ["'first' is given twice"],
    ),
}


def test_the_sound_document_is_a_recipe() -> None:
    recipe = recipe_file.from_document(document())
    assert recipe.amounts["student"].steps == 7
    assert recipe.amounts["first"] == default_amounts("tiny", "rl")
    assert recipe_file.from_document(document(output="student")) == recipe


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_sentence_with_the_remedy(mistake: str) -> None:
    bad, words = MISTAKES[mistake]
    with pytest.raises(UsageError) as caught:
        recipe_file.from_document(bad, source="my.toml")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith("my.toml: ") and "\n" not in message and len(message) < 400
    for word in words:
        assert word in message


BAD_OPTIONS: list[tuple[str, dict[str, Any], type[Exception], list[str]]] = [
    ("mpod", {}, NotFoundError, ["'mpod'", "did you mean 'mopd'"]),
    ("mopd", {"ruonds": 2}, UsageError, ["'ruonds'", "did you mean 'rounds'"]),
    ("mopd", {"domains": ["sort"]}, UsageError, ["no option 'domains'"]),
    ("mopd", {"rounds": 0}, UsageError, ["rounds = 0", "greater than or equal to 1"]),
    ("mopd", {"rounds": 10**18}, UsageError, ["less than or equal to 100"]),
    ("mopd", {"rounds": "two"}, UsageError, ["rounds = 'two'", "integer"]),
    ("mopd", {"groups": 5}, UsageError, ["groups = 5"]),
    ("mopd", {"groups": []}, UsageError, ["groups = []", "exactly once"]),
    ("mopd", {"groups": [["sort"]]}, UsageError, ["groups", "reverse", "exactly once"]),
    ("mopd", {"amounts": "huge"}, UsageError, ["amounts = 'huge'", "'tiny', 'real', 'small' or"]),
    ("mopd", {"warmup": "perhaps"}, UsageError, ["warmup = 'perhaps'", "boolean"]),
    ("mopd", {"reward_mix": math.nan}, UsageError, ["reward_mix = nan", "finite"]),
    ("mopd", {"loss": "reverse"}, UsageError, ["loss = 'reverse'", "'reverse_kl'"]),
    ("cascade_rl", {"replay": 1.0}, UsageError, ["replay = 1.0", "below 1"]),
    ("cascade_rl", {"replay": -0.1}, UsageError, ["replay = -0.1", "at least 0"]),
    ("cascade_rl", {"order": ["sort"]}, UsageError, ["order", "reverse", "once"]),
    ("cascade_rl", {"order": "sort,reverse"}, UsageError, ["order = 'sort,reverse'"]),
    ("mixed_rl", {"shares": "sort"}, UsageError, ["shares = 'sort'"]),
    ("mixed_rl", {"shares": {"sotr": 1.0}}, UsageError, ["'sotr'", "did you mean 'sort'"]),
    ("merge", {"method": "average", "scale": 0.5}, UsageError, ["scale = 0.5", "average"]),
]


@pytest.mark.parametrize(("name", "options", "error", "words"), BAD_OPTIONS)
def test_bad_options_of_the_catalogue_say_what_is_wrong(
    name: str, options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        catalogue.recipe(name, ["sort", "reverse"], **options)
    for word in words:
        assert word in str(caught.value)


def test_a_recipe_needs_domains() -> None:
    with pytest.raises(UsageError, match="at least one domain"):
        catalogue.recipe("mopd", [])


def test_amounts_that_do_not_suit_are_refused_when_replaced() -> None:
    recipe = catalogue.recipe("mopd", ["sort"])
    with pytest.raises(UsageError, match="did you mean 'student'"):
        recipe.with_amounts({"studnet": Amounts(**STUDENT)})
    with pytest.raises(UsageError, match="at least 2"):
        recipe.with_amounts({"teacher_1": Amounts(**STUDENT)})
    changed_once = recipe.with_amounts({"student": Amounts(**STUDENT)})
    assert changed_once.amounts["student"].steps == 10
    assert changed_once.amounts["teacher_1"] == recipe.amounts["teacher_1"]


def test_recipes_that_share_teachers_state_them_alike() -> None:
    """The store can then run them once."""
    domains = ["sort", "reverse"]
    found = [catalogue.recipe(name, domains) for name in ("mopd", "off_policy", "merge")]
    for name in ("teacher_1", "teacher_2"):
        assert len({recipe.stage[name].model_dump_json() for recipe in found}) == 1
        assert len({recipe.amounts[name].model_dump_json() for recipe in found}) == 1


def test_options_reach_the_stages() -> None:
    domains = ["sort", "reverse", "shift"]
    mixed = catalogue.recipe("mixed_rl", domains, reward_weights={"sort": 2.0}, curriculum="staged").stage[
        "mixed"
    ]
    assert isinstance(mixed, Rl)
    assert (mixed.reward_weights, mixed.curriculum) == ({"sort": 2.0}, "staged")
    cascade = catalogue.recipe("cascade_rl", domains, order=["shift", "sort", "reverse"], replay=0.4)
    last = cascade.stages[-1]
    assert isinstance(last, Rl)
    assert last.domains == pytest.approx({"reverse": 0.6, "shift": 0.2, "sort": 0.2})
    assert [stage.init for stage in cascade.stages] == [BASE, "step_1", "step_2"]
    rounds = catalogue.recipe("mopd", domains, rounds=2, warmup=True, groups=[["sort", "shift"], ["reverse"]])
    assert [stage.init for stage in rounds.stages if stage.name.startswith("r2_teacher")] == [
        "r1_student"
    ] * 2
    student = rounds.stage["r2_student"]
    assert isinstance(student, Distill) and student.init == "r2_warmup"
    assert student.teachers[0] == Teacher(stage="r2_teacher_1", domains=("sort", "shift"))
    assert rounds.amounts["r1_warmup"].steps == rounds.amounts["r1_student"].steps // 10
    rewarded = catalogue.recipe("mopd", domains, reward_mix=0.5).amounts["student"]
    plain = catalogue.recipe("mopd", domains).amounts["student"]
    assert rewarded.rollouts_per_prompt > 1
    assert rewarded.prompts_per_step * rewarded.rollouts_per_prompt == plain.prompts_per_step
    merged = catalogue.recipe("merge", domains, method="ties", density=0.5).stage["merged"]
    assert isinstance(merged, Merge) and (merged.scale, merged.density) == (0.5, 0.5)


def test_the_catalogue_describes_itself() -> None:
    for entry in catalogue.entries():
        assert entry.summary.endswith(".") and len(entry.summary) < 120
        assert "amounts" in entry.options and "domains" not in entry.options


def test_a_copy_with_other_stages_knows_them() -> None:
    recipe = catalogue.recipe("deepseek_r1", ["sort", "reverse"], smaller=True)
    assert recipe.stage["distilled"].init == SMALLER and recipe.roots == (BASE, SMALLER)  # tables are made
    fewer = recipe.model_copy(update={"stages": recipe.stages[:1]})
    assert list(fewer.stage) == [recipe.stages[0].name] and fewer.roots == (BASE,)
    renamed = recipe.model_copy(update={"name": "other"})
    assert renamed.stage == recipe.stage


def test_values_are_frozen() -> None:
    stage = Sft(name="tuned", domains={"sort": 1.0})
    with pytest.raises(ValidationError):
        stage.name = "other"  # type: ignore[misc]


def test_what_each_recipe_pays_when_one_domain_changes() -> None:
    names = ["math", "code", "swe"]
    assert catalogue.recipe("mixed_rl", names).affected_by("code") == ("mixed",)
    assert catalogue.recipe("mopd", names).affected_by("code") == ("teacher_2", "student")
    assert catalogue.recipe("mopd", names, rounds=2).affected_by("code") == ("r2_teacher_2", "r2_student")
    assert catalogue.recipe("cascade_rl", names).affected_by("math") == ("step_1", "step_2", "step_3")
    assert catalogue.recipe("cascade_rl", names).affected_by("swe") == ("step_3",)
    assert catalogue.recipe("merge", names).affected_by("math") == ("teacher_1", "merged")


def test_a_changed_reward_reaches_back_to_what_it_was_learnt_from() -> None:
    names = ["math", "code", "chat"]
    assert catalogue.recipe("instructgpt", names).affected_by("code") == ("reward_model", "ppo")
    assert catalogue.recipe("llama3", names, rounds=2).affected_by("code") == (
        "dpo_2",
    )  # it reads labelled pairs itself
    r1 = catalogue.recipe("deepseek_r1", names, smaller=True)
    assert r1.affected_by("math") == ("rl", "distilled")
    assert r1.affected_by("chat") == ("reward_model", "rl", "distilled")
    climbs = catalogue.recipe("mai_thinking_1", names)
    without_rl = climbs.model_copy(update={"stages": climbs.stages[:-1], "output": "consolidation"})
    assert without_rl.affected_by("math") == ("rejection_1", "consolidation")


def test_a_stage_waits_for_its_start_and_its_teachers() -> None:
    plan = catalogue.recipe("mopd", ["math", "code"], warmup=True)
    assert needs(plan.stage["teacher_1"]) == ()
    assert needs(plan.stage["student"]) == ("warmup", "teacher_1", "teacher_2")
