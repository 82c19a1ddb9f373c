"""Scenario files: resolved, written and read without loss, and every mistake one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.forecast.scenario import dump, from_document, load, loads, of_recipe
from mopdsim.recipes.catalogue import recipe
from mopdsim.recipes.recipe_file import dump as dump_recipe

EXAMPLES = sorted((Path(__file__).parents[3] / "studies" / "scenarios").glob("*.toml"))
BASE: dict[str, Any] = {"recipe": "mopd", "domains": ["math", "code"], "model": "Qwen3-8B"}
SMALL: dict[str, Any] = {"recipe": "deepseek_r1", "options": {"smaller": True}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_read_and_written_without_loss(path: Path) -> None:
    scenario = load(path)
    assert loads(dump(scenario)) == scenario


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


def test_a_resolved_scenario_states_its_recipe_and_defaults() -> None:
    text = dump(from_document(BASE))
    for stated in (
        "gpu = ",
        "draws = 1000",
        "rerun_probability",
        "[[recipe.stages]]",
        "[recipe.amounts_of.teacher_1]",
    ):
        assert stated in text


def test_a_recipe_file_is_a_scenario(tmp_path: Path) -> None:
    plan = recipe("mixed_rl", ["math", "code"], amounts="small")
    path = tmp_path / "recipe.toml"
    path.write_text(dump_recipe(plan))
    assert load(path).recipe == plan


def test_the_machine_follows_the_scope_unless_given() -> None:
    frontier = of_recipe("mixed_rl", domains=["math"], gpus=None)
    assert (frontier.model, frontier.scope, frontier.recipe.amounts_name) == (
        "Qwen3-30B-A3B",
        "frontier",
        "small",
    )
    assert of_recipe("mixed_rl", domains=["math"], gpus=8, gpu="h200_sxm").gpu == "H200"


def test_facts_and_conflicts_reach_the_domains() -> None:
    scenario = from_document(
        {
            **BASE,
            "domain": {"math": {"start": [0.2, 0.3]}},
            "conflict": {"math>code": [-0.4, 0.0], "code>math": 0.1},
        }
    )
    assert scenario.domains["math"].start.value == pytest.approx(0.25)
    assert scenario.pairs["math>code"].value == pytest.approx(-0.2) and scenario.pairs["code>math"].sd == 0


def test_pools_and_gpus_per_stage() -> None:
    scenario = from_document(
        {**BASE, "pools": {"a": 64, "b": 8}, "pool_of": {"teacher_2": "b"}, "gpus_per_stage": 16}
    )
    assert [scenario.stage_gpus(name) for name in ("teacher_1", "teacher_2")] == [16, 8]


def test_a_range_changes_the_stage_it_names_alone() -> None:
    scenario = from_document(
        {**BASE, "ranges": {"student.steps": [100, 400], "teacher_1.response_tokens": 5000}}
    )
    assert scenario.range_of("student", "steps") == (100, 400)
    assert scenario.range_of("teacher_1", "response_tokens") == (5000, 5000)
    assert scenario.range_of("teacher_2", "steps") is None


def test_everything_a_scenario_may_say_is_written_and_read() -> None:
    scenario = from_document(
        {
            **BASE,
            **SMALL,
            "smaller": "Qwen3-1.7B",
            "smaller_start": {"math": [0.1, 0.2]},
            "ranges": {"rl.steps": [100, 400], "rl.response_tokens": [2000, 9000]},
            "overhead": [1.0, 2.5],
            "precision": "fp8",
            "speculative_factor": 1.6,
        }
    )
    assert loads(dump(scenario)) == scenario
    assert scenario.smaller_starts["math"].value == pytest.approx(0.15)
    assert (scenario.model_of("base"), scenario.model_of("smaller")) == ("Qwen3-8B", "Qwen3-1.7B")


def test_the_tiny_model_brings_its_own_smaller_one() -> None:
    scenario = of_recipe("deepseek_r1", domains=["sort", "shift"], options={"smaller": True})
    assert scenario.smaller == "tiny-small"


BAD: list[tuple[dict[str, Any], type[MopdError], str]] = [
    ({"recipe": "mopdx"}, NotFoundError, "did you mean 'mopd'"),
    ({"domains": ["mathh"]}, NotFoundError, "did you mean 'math'"),
    ({"domains": []}, UsageError, "must be a list of names"),
    ({"model": "Qwen3-9B"}, NotFoundError, "did you mean"),
    ({"model": 3}, UsageError, "must be a name in quotes"),
    ({"gpu": "H1000"}, NotFoundError, "did you mean 'H100'"),
    ({"gpus": 0}, UsageError, "gpus = 0: must be a whole number from 1"),
    ({"gpus": -4}, UsageError, "must be a whole number"),
    ({"gpus": 2.5}, UsageError, "must be a whole number"),
    ({"gpus": 8, "pools": {"a": 8}}, UsageError, "keep one"),
    ({"pool_of": {"student": "x"}}, UsageError, "no such pool"),
    ({"pool_of": {"student": ["x"]}}, UsageError, "no such pool"),
    ({"model": "x" * 500}, NotFoundError, "is not in the catalogue"),
    ({"reliability": {"failures_per_gpu_hour": 1e308}}, UsageError, "must be a finite number from 0 to 1"),
    ({"pool_of": {"studnt": "pool"}}, UsageError, "did you mean 'student'"),
    ({"priority": {"student": "high"}}, UsageError, "finite number"),
    ({"teams": True}, UsageError, "must be a whole number"),
    ({"budget_usd": float("nan")}, UsageError, "finite number above 0"),
    ({"budget_usd": 0}, UsageError, "finite number above 0"),
    ({"deadline_days": -1}, UsageError, "finite number above 0"),
    ({"draws": 10**9}, UsageError, "from 1 to 100000"),
    ({"seed": 1.5}, UsageError, "must be a whole number"),
    ({"modle": "x"}, UsageError, "did you mean 'model'"),
    ({"options": {"round": 2}}, UsageError, "did you mean 'rounds'"),
    ({"options": 3}, UsageError, "must be a table"),
    ({"domain": {"sort": {"start": 0.2}}}, UsageError, "no domain of the recipe"),
    ({"domain": {"math": {"strt": 0.2}}}, UsageError, "did you mean 'start'"),
    ({"domain": {"math": {"start": 1.4}}}, UsageError, "start = 1.4: must be a finite number from 0 to 1"),
    ({"domain": {"math": {"like": "code"}}}, UsageError, "leave `like` out"),
    ({"conflict": {"math>cod": 0.1}}, UsageError, "did you mean 'code'"),
    ({"conflict": {"math>code": [0.2, -0.2]}}, UsageError, "P10 is above P90"),
    ({"conflict": {"math>code": "strong"}}, UsageError, "finite number"),
    (
        {"conflict": {"math>code": [-40, 0]}},
        UsageError,
        "conflict 'math>code': K, .* = -40: must be .* from -5 to 5",
    ),
    (
        {"conflict": {"math>math": -0.4}},
        UsageError,
        "conflict 'math>math': a domain has no conflict with itself",
    ),
    ({"conflict": {"math-code": -0.4}}, UsageError, 'must be "source>target"'),
    ({"reliability": {"rerun_probability": 1}}, UsageError, "below 1"),
    ({"reliability": {"reruns": 1}}, UsageError, "unknown key"),
    ({"schema_version": 99}, UsageError, "reads version 1"),
    ({"ranges": {"studnt.steps": [1, 2]}}, UsageError, "did you mean 'student'"),
    ({"ranges": {"student.step": [1, 2]}}, UsageError, "did you mean 'steps'"),
    ({"ranges": {"student": [1, 2]}}, UsageError, "has no range"),
    ({"ranges": {"student.steps": [2, 1]}}, UsageError, "P10 is above P90"),
    ({"ranges": {"student.steps": [0, 1]}}, UsageError, "finite number above 0"),
    ({"ranges": {"student.steps": "many"}}, UsageError, "finite number above 0"),
    ({"ranges": 3}, UsageError, "must be a table"),
    ({"overhead": [2.0, 1.0]}, UsageError, "P10 is above P90"),
    ({"overhead": 0}, UsageError, "finite number above 0"),
    ({"precision": "fp7"}, UsageError, "did you mean 'fp8'"),
    ({"speculative_factor": 0.5}, UsageError, "from 1 to 16"),
    ({"smaller": "Qwen3-1.7B"}, UsageError, "leave it out"),
    ({"smaller": 3}, UsageError, "must be a name in quotes"),
    ({"smaller_start": {"math": 0.1}}, UsageError, "has no smaller student"),
    ({**SMALL, "smaller": "Qwen3-1.6B"}, NotFoundError, "did you mean"),
    (SMALL, UsageError, "give its model"),
    ({**SMALL, "smaller": "Qwen3-1.7B", "smaller_start": {"mth": 0.1}}, UsageError, "did you mean 'math'"),
    ({**SMALL, "smaller": "Qwen3-1.7B", "smaller_start": {"math": 1.2}}, UsageError, "from 0 to 1"),
    ({"stack": "megatrom"}, UsageError, "stack = 'megatrom'.*did you mean 'megatron'"),
    ({"stack": 3}, UsageError, "stack = 3"),
    ({"packed": "yes"}, UsageError, "packed = 'yes': must be true or false"),
    ({"lora": 1.5}, UsageError, "lora = 1.5: must be true or false"),
    ({"trainer_share": 1.5}, UsageError, "trainer_share = 1.5"),
    ({"lag": 4, "overlap": "one_step_off"}, UsageError, "lag = 4: only overlap"),
    ({"evaluations": -1}, UsageError, "evaluations = -1"),
    ({"epochs": 0}, UsageError, "epochs = 0"),
    ({"sampled_per_trained": 0.5}, UsageError, "sampled_per_trained = 0.5"),
    ({"environment_slots": 0}, UsageError, "environment_slots = 0"),
    ({"value_model": "Qwen3-8B"}, UsageError, "value_model = 'Qwen3-8B': no stage of the recipe is PPO"),
    ({"measured": 3}, UsageError, "measured = 3: must be the name of a file"),
    ({"measured": "nowhere.json"}, NotFoundError, "mopd calibrate cost"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD, ids=[str(row[0])[:50] for row in BAD])
def test_every_mistake_is_one_clear_sentence(
    change: dict[str, Any], kind: type[MopdError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        from_document({**BASE, **change})
    assert "\n" not in str(caught.value)


def test_a_named_recipes_settings_do_not_mix_with_an_inline_one() -> None:
    inline = loads(dump(from_document(BASE)))
    assert inline.recipe.name == "mopd"
    with pytest.raises(UsageError, match="belongs to a named recipe"):
        loads("domains = ['math']\n" + dump(from_document(BASE)))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *(
                    "recipe",
                    "domains",
                    "gpus",
                    "teams",
                    "pools",
                    "domain",
                    "conflict",
                    "options",
                    "model",
                    "x",
                ),
                *("smaller", "smaller_start", "ranges", "overhead", "precision", "speculative_factor"),
            ]
        ),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_no_document_ends_in_a_traceback(document: dict[str, Any]) -> None:
    try:
        from_document({**BASE, **document})
    except MopdError as error:
        assert str(error)


def test_what_is_said_of_software_is_written_and_read() -> None:
    said = {
        "stack": "verl",
        "overlap": "asynchronous",
        "lag": 4,
        "trainer_share": 0.25,
        "packed": True,
        "lora": True,
        "evaluations": 0,
        "epochs": 2,
        "sampled_per_trained": 1.5,
        "environment_slots": 64,
    }
    scenario = from_document({**BASE, **said})
    assert all(getattr(scenario, key) == value for key, value in said.items())
    assert loads(dump(scenario)) == scenario
    assert scenario.software.name == "verl"
