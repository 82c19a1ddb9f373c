"""Forecasts: every recipe and example, bounds, monotony, common random numbers, and what must not move."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError, UsageError
from mopdsim.belief.calibration import default_calibration
from mopdsim.facts import domains as domains_module
from mopdsim.facts.domains import Estimate
from mopdsim.facts.model import model
from mopdsim.forecast.compare import MEASURES, cells, compare, difference
from mopdsim.forecast.forecast import Forecast, forecast
from mopdsim.forecast.scenario import Scenario, dump, from_document, load, loads, of_recipe
from mopdsim.forecast.schedule import Reliability
from mopdsim.quality.step import CAUSES
from mopdsim.recipes.catalogue import CATALOGUE, mixed_rl, mopd, recipe
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.recipe_file import to_document

EXAMPLES = sorted((Path(__file__).parents[3] / "studies" / "scenarios").glob("*.toml"))
NAMES = ["math", "code", "if"]


def _scenario(name: str = "mopd", **settings: Any) -> Scenario:
    return of_recipe(name, **{"domains": NAMES, "gpus": 64, "draws": 200, **settings})


def _check(found: Forecast) -> None:
    """What holds for any forecast."""
    document = json.loads(json.dumps(found.to_document(), allow_nan=False))
    for key in ("gpu_hours", "usd", "days"):
        assert 0 < document[key]["p10"] <= document[key]["p50"] <= document[key]["p90"]
    for scores in document["scores"].values():
        assert 0 <= scores["p10"] <= scores["p50"] <= scores["p90"] <= 1
    for causes in document["waterfall"].values():
        assert causes["start"] + sum(causes[cause] for cause in CAUSES) == pytest.approx(
            causes["final"], abs=1e-9
        )
    work_hours = sum(job.seconds_N * job.gpus for job in found.timeline.jobs) / 3600
    assert found.gpu_hours_N == pytest.approx(work_hours)
    assert np.all(found.days_N * 24 * sum(found.scenario.pools.values()) >= found.gpu_hours_N * (1 - 1e-9))
    assert set(document["grades"].values()) <= set(domains_module.GRADES)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize(
    "domains", [NAMES, ["reasoning_gym:leg_counting", "jsonl:x.jsonl"]], ids=["frontier", "small"]
)
def test_every_recipe_forecasts(name: str, domains: list[str]) -> None:
    _check(forecast(_scenario(name, domains=domains, model="Qwen3-8B")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_forecasts(path: Path) -> None:
    _check(forecast(replace(load(path), draws=100)))


@pytest.mark.parametrize("gpu", ["A100-80GB", "H20", "H200", "B300", "GB200", "MI300X", "TPU-v5p"])
def test_gpus_forecast(gpu: str) -> None:
    _check(forecast(_scenario("mixed_rl", gpu=gpu, model="Qwen3-8B")))


def test_money_is_hours_times_price_and_monotone_in_it() -> None:
    cheap, dear = (forecast(_scenario(usd_per_gpu_hour=price)) for price in (2.0, 3.0))
    assert cheap.usd_N == pytest.approx(2.0 * cheap.gpu_hours_N)
    assert np.all(dear.usd_N > cheap.usd_N) and np.array_equal(dear.days_N, cheap.days_N)


def test_more_steps_cost_more_and_teach_more_without_conflict() -> None:
    less = forecast(_scenario("single_domain", domains=["math"]))
    plan = less.scenario.recipe.scaled(4)
    more = forecast(replace(less.scenario, recipe=plan))
    assert np.all(more.gpu_hours_N > less.gpu_hours_N) and np.all(more.scores_DN >= less.scores_DN)


def test_the_same_scenario_gives_the_same_numbers_and_another_seed_others() -> None:
    first, again, other = (forecast(_scenario(seed=seed)) for seed in (0, 0, 1))
    assert first.to_document() == again.to_document()
    assert not np.array_equal(first.scores_DN, other.scores_DN)


def test_common_random_numbers_make_a_difference_sharper_than_its_levels() -> None:
    mixed, cascade = forecast(_scenario("mixed_rl")), forecast(_scenario("cascade_rl"))
    measure = MEASURES["mean_score"]
    assert np.array_equal(mixed.world.start_DN, cascade.world.start_DN)
    paired = np.std(difference(mixed, cascade, measure).difference_N)
    assert paired < 0.7 * math.hypot(np.std(measure.of(mixed)), np.std(measure.of(cascade)))


def test_a_recipe_ties_with_itself_and_loses_on_price_to_a_cheaper_one() -> None:
    found = compare([forecast(_scenario(name, gpus_per_stage=16)) for name in ("mopd", "mopd", "mixed_rl")])
    itself, mixed = found["against_baseline"]["mopd 2"], found["against_baseline"]["mixed_rl"]
    assert all(
        itself[key]["verdict"] == "tie" and itself[key]["probability_better"] == 0.5 for key in MEASURES
    )
    assert mixed["usd"]["verdict"] == "mixed_rl" and mixed["usd"]["difference"]["p50"] < 0


def test_only_like_is_compared_with_like() -> None:
    with pytest.raises(UsageError, match="same seed"):
        compare([forecast(_scenario()), forecast(_scenario(seed=1))])
    with pytest.raises(UsageError, match="same domains"):
        compare([forecast(_scenario()), forecast(_scenario(domains=["math", "code"]))])
    with pytest.raises(UsageError, match="at least two"):
        compare([forecast(_scenario())])


def test_a_frontier_forecast_does_not_move_when_tiny_numbers_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = forecast(_scenario())
    table = {
        name: replace(row, start=replace(row.start, value=0.11), midpoint=replace(row.midpoint, value=1.0))
        if row.scope == "tiny"
        else row
        for name, row in domains_module.domains().items()
    }
    monkeypatch.setattr(domains_module, "domains", lambda: table)
    assert forecast(_scenario()).to_document() == before.to_document()


def test_a_tiny_study_of_a_shape_moves_a_frontier_forecast_and_narrows_it_together() -> None:
    plain = default_calibration().unfitted()
    found = Estimate(value=0.6, sd=0.05, grade="measured", source="study of the tiny world")
    name = "conflict_share"
    parameter = replace(plain.parameters[name], studies={"tiny": found})
    studied = replace(plain, parameters={**plain.parameters, name: parameter})
    scenario = _scenario(conflict={f"{a}>{b}": -0.5 for a in NAMES for b in NAMES if a != b}, draws=2000)
    informed, dropped = (forecast(scenario, calibration).scores_DN for calibration in (studied, plain))
    draws = [calibration.draw(name, "frontier", seed=0, draws=2000) for calibration in (studied, plain)]
    assert np.std(draws[0]) < np.std(draws[1]) and np.median(draws[0]) > np.median(draws[1])
    assert np.all(np.median(informed, axis=1) < np.median(dropped, axis=1))
    assert np.array_equal(informed, forecast(scenario, studied).scores_DN)


def test_measured_facts_narrow_the_scores() -> None:
    vague = forecast(_scenario())
    sharp = forecast(_scenario(domain={"math": {"start": 0.45, "asymptote": 0.56, "midpoint": 1e10}}))
    assert np.std(sharp.scores_DN[0]) < np.std(vague.scores_DN[0]) / 3
    assert sharp.grades["scores.math"] == "measured" and vague.grades["scores.math"] == "prior"


def test_measured_specialists_say_how_fast_their_domains_are_learnt() -> None:
    domains = ["sort", "reverse"]

    def median(name: str, score: float) -> Array:
        made = recipe(name, domains[:1] if name == "single_domain" else domains)
        document = {"recipe": to_document(made), "model": "tiny", "draws": 200}
        first = made.stages[0].name
        flops = float(np.median(forecast(from_document(document)).efforts[first].compute_N))
        found = {"score": score, "flops": flops * model("tiny").active_parameters}
        told = {name: {"start": 0.2, "specialist": found} for name in made.domains}
        asked = from_document(document | {"domain": told})
        assert loads(dump(asked)) == asked
        return np.asarray(np.median(forecast(asked).scores_DN, axis=1))

    for score in (0.4, 0.7, 0.9):
        assert median("single_domain", score)[0] == pytest.approx(score, abs=0.02)
    slow, fast = (median("mixed_rl", score) for score in (0.3, 0.8))
    assert (fast > slow + 0.2).all()
    slow, fast = (median("mopd", score) for score in (0.3, 0.8))
    assert (fast > slow + 0.2).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"score": 0.9}, "flops is missing"),
        ({"score": 1.2, "flops": 1e9}, "score = 1.2: must be a finite number from 0 to 1"),
        ({"score": 0.9, "flops": 0}, "flops = 0: must be a finite number above 0"),
        ({"score": 0.9, "flops": 1e9, "steps": 3}, "unknown key 'steps'"),
        (
            {"score": 0.9, "flops": 1e9, "prompts_per_step": 4},
            "amounts tiny alone, and these are small: leave it",
        ),
        (0.9, "must be a table"),
    ],
)
def test_a_specialist_said_wrongly_is_one_sentence(given: object, said: str) -> None:
    with pytest.raises(UsageError, match=rf"domain\.math\.specialist.*{said}") as caught:
        _scenario(domain={"math": {"specialist": given}})
    assert "\n" not in str(caught.value)


def test_verified_samples_teach_more_than_their_sampler() -> None:
    chosen, all_samples = (
        forecast(
            _scenario("off_policy", options={"correct_only": only}, domains=["sort", "reverse"], model="tiny")
        )
        for only in (True, False)
    )
    assert (chosen.scores_DN > all_samples.scores_DN).mean() > 0.9


def test_seeds_are_a_part_of_the_uncertainty_and_vanish_with_their_constant() -> None:
    found = forecast(_scenario())
    assert all(0 < row["seed_sd"] < row["sd"] for row in found.uncertainty.values())
    plain = default_calibration()
    still = replace(
        plain.parameters["seed_sd"], prior=replace(plain.parameters["seed_sd"].prior, value=1e-12)
    )
    calm = replace(plain, parameters={**plain.parameters, "seed_sd": still})
    assert all(row["seed_sd"] < 1e-9 for row in forecast(_scenario(), calm).uncertainty.values())


def test_one_changed_domain_costs_a_mixed_run_everything_and_mopd_a_teacher() -> None:
    calm = {"rerun_probability": 0.0, "failures_per_gpu_hour": 0.0}
    mixed = forecast(_scenario("mixed_rl", reliability=calm))
    names, hours_N, days_N = mixed.retraining("code")
    assert names == ("mixed",) and hours_N == pytest.approx(mixed.gpu_hours_N)
    many = forecast(_scenario("mopd", reliability=calm, gpus_per_stage=64))
    names, hours_N, days_N = many.retraining("code")
    assert names == ("teacher_2", "student")
    assert np.all(hours_N < many.gpu_hours_N) and np.all(days_N < many.days_N)
    with pytest.raises(UsageError, match="did you mean 'code'"):
        many.retraining("cod")


def test_own_pools_save_calendar_and_not_hours() -> None:
    shared = forecast(_scenario(gpus=64, gpus_per_stage=64))
    pools = {"a": 64, "b": 64, "c": 64}
    own = forecast(
        _scenario(gpus=None, pools=pools, pool_of={"teacher_2": "b", "teacher_3": "c"}, gpus_per_stage=64)
    )
    assert np.all(own.days_N < shared.days_N) and own.gpu_hours_N == pytest.approx(shared.gpu_hours_N)


def test_budget_and_deadline_are_answered_with_a_probability() -> None:
    found = forecast(_scenario(budget_usd=1.0, deadline_days=1e6)).to_document()
    assert (found["within_budget"], found["within_deadline"]) == (0.0, 1.0)
    assert forecast(_scenario()).to_document()["within_budget"] is None
    middle = float(np.median(forecast(_scenario()).usd_N))
    shares = [
        forecast(_scenario(budget_usd=middle * part)).to_document()["within_budget"]
        for part in (0.8, 1, 1.25)
    ]
    assert 0 < shares[0] < shares[1] == 0.5 < shares[2] < 1


def test_a_model_that_does_not_fit_is_refused_with_the_amount_it_lacks() -> None:
    with pytest.raises(InfeasibleError, match="does not fit"):
        forecast(_scenario(model="DeepSeek-V3", gpus=2))


def test_a_part_of_the_pool_that_is_too_small_is_named_beside_the_pool() -> None:
    """As where teams share it: what the user gave is the pool."""
    asked = _scenario(model="GLM-5", gpu="GB300", gpus=512, gpus_per_stage=16, domains=["swe", "math"])
    with pytest.raises(
        InfeasibleError, match=r"'teacher_1' has 16 of its pool's 512 GPUs: .* 16 x GB300 for"
    ):
        forecast(asked)


def test_more_gpus_a_stage_than_its_pool_has_are_said() -> None:
    asked = _scenario(
        gpus=None, pools={"a": 64, "b": 16}, pool_of={"teacher_2": "b"}, gpus_per_stage=32, draws=8
    )
    sentence = "gpus_per_stage = 32: there are 16 of pool 'b', so stages there take these: lower it, or raise the pool"
    assert sentence in forecast(asked).warnings
    for enough in ({"gpus_per_stage": 16}, {"gpus_of": {"teacher_2": 16}}, {"pool_of": {}}):
        assert "there are" not in " ".join(forecast(replace(asked, **enough)).warnings)


def test_a_cpu_is_priced_in_float32_and_says_so_where_a_run_may_compute_in_bfloat16() -> None:
    """A built-in model never does, however wide."""
    said = {name: "times are of float32" in " ".join(forecast(_on_cpu(name)).warnings) for name in CPU_MODELS}
    assert said == CPU_MODELS


CPU_MODELS = {"tiny": False, "tiny-10M": False, "smollm2-135m": True}


def _on_cpu(name: str) -> Scenario:
    domains = ["ask:smallest"] if name == "smollm2-135m" else ["sort"]
    return from_document({"recipe": "mixed_rl", "domains": domains, "model": name, "draws": 8})


def test_extrapolation_is_said() -> None:
    warnings = " ".join(forecast(_scenario(model="MiMo-V2-Flash", gpus=256)).warnings)
    assert "never fitted on model" in warnings and "another model's or a prior" in warnings
    known = {"start": 0.4, "asymptote": 0.6, "midpoint": 1e6}
    told = forecast(_scenario(domain=dict.fromkeys(NAMES, known), usd_per_gpu_hour=2.0)).warnings
    assert not any(
        "start scores" in line or "before C_mid" in line or "the price of" in line for line in told
    )


def test_a_stage_costs_by_the_drawn_lengths_of_its_domains_and_learns_by_updates() -> None:
    found = forecast(_scenario("mixed_rl", options={"shares": {"math": 2.0, "code": 1.0, "if": 1.0}}))
    rows = found.domains
    central = (
        sum(share * rows[name].response_tokens.value for name, share in (("math", 2), ("code", 1), ("if", 1)))
        / 4
    )
    drawn = (2 * found.world.length_DN[0] + found.world.length_DN[1] + found.world.length_DN[2]) / 4
    effort, paid = found.efforts["mixed"], found.bills["mixed"]
    assert paid.mean_length == pytest.approx(central)
    assert found.stage_flops["mixed"] == pytest.approx(paid.training_run_flops * drawn / central)
    assert effort.tokens_N == pytest.approx(np.full_like(drawn, paid.gradient_tokens))


@settings(max_examples=25)
@given(
    name=st.sampled_from(["mixed_rl", "cascade_rl", "mopd", "merge", "off_policy"]),
    kl=st.floats(0.001, 0.1),
    longer=st.floats(1.0, 4.0),
    overlap=st.sampled_from(["one_step_off", "asynchronous"]),
)
def test_what_is_only_spent_teaches_nothing(name: str, kl: float, longer: float, overlap: str) -> None:
    plain = _scenario(name, draws=60)
    stages = [
        stage.model_copy(update={"kl_coefficient": kl}) if stage.kind == "rl" else stage
        for stage in plain.recipe.stages
    ]
    penalised = plain.recipe.model_copy(update={"stages": tuple(stages)})
    facts = {
        each: {"response_tokens": longer * row.response_tokens.value, "max_response_tokens": 131072}
        for each, row in plain.domains.items()
    }
    usual = forecast(plain)
    for changed in (replace(plain, recipe=penalised), replace(plain, facts=facts)):
        found = forecast(changed)
        for stage, effort in found.efforts.items():
            assert np.all(effort.compute_N <= usual.efforts[stage].compute_N * (1 + 1e-9))
            assert effort.tokens_N == pytest.approx(usual.efforts[stage].tokens_N)
    stale = forecast(replace(plain, overlap=overlap))  # type: ignore[arg-type]
    for stage, effort in stale.efforts.items():
        learner = plain.recipe.stage[stage]
        fresh = usual.efforts[stage].compute_N
        if learner.kind == "rl" or (learner.kind == "distill" and learner.on_policy):
            assert np.all(effort.compute_N < fresh)
        else:
            assert effort.compute_N == pytest.approx(fresh)


def test_reruns_and_sweeps_cost_what_they_should() -> None:
    calm = forecast(_scenario(reliability={"rerun_probability": 0.0, "failures_per_gpu_hour": 0.0}))
    swept = replace(
        calm.scenario,
        reliability=Reliability(
            rerun_probability=0.0, failures_per_gpu_hour=0.0, sweep_runs=4, sweep_fraction=0.25
        ),
    )
    assert forecast(swept).gpu_hours_N == pytest.approx(2 * calm.gpu_hours_N)


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(CATALOGUE)),
    domains=st.lists(
        st.sampled_from(["math", "code", "swe", "if", "chat", "search"]), min_size=1, max_size=4, unique=True
    ),
    gpus=st.sampled_from([8, 24, 96, 512]),
    teams=st.one_of(st.none(), st.integers(1, 3)),
    overlap=st.sampled_from(["synchronous", "one_step_off", "asynchronous"]),
)
def test_any_question_of_the_catalogue_is_answered(
    name: str, domains: list[str], gpus: int, teams: int | None, overlap: str
) -> None:
    assume(domains != ["chat"])  # the systems with a general domain need another beside it
    _check(
        forecast(
            of_recipe(
                name,
                domains=domains,
                gpus=gpus,
                teams=teams,
                overlap=overlap,
                model="Qwen3-8B",
                gpu="H200",
                draws=50,
            )
        )
    )


def test_ranges_widen_what_they_name_and_say_so() -> None:
    calm = {"rerun_probability": 0.0, "failures_per_gpu_hour": 0.0}
    plain = forecast(_scenario(reliability=calm))
    steps = plain.bills["student"].steps
    ranged = forecast(_scenario(reliability=calm, ranges={"student.steps": [steps / 2, steps * 2]}))
    drawn_N = ranged.efforts["student"].tokens_N / plain.efforts["student"].tokens_N
    low, middle, high = np.quantile(drawn_N, [0.1, 0.5, 0.9])
    assert (low, middle, high) == pytest.approx((0.5, 1.0, 2.0), rel=0.15)
    assert ranged.stage_flops["student"] == pytest.approx(plain.stage_flops["student"] * drawn_N)
    growth_N = ranged.stage_gpu_hours["student"] / plain.stage_gpu_hours["student"]
    once = plain.bills["student"].once_seconds / sum(plain.bills["student"].seconds.values())
    assert growth_N == pytest.approx(once + (1 - once) * drawn_N)
    assert np.array_equal(ranged.stage_gpu_hours["teacher_1"], plain.stage_gpu_hours["teacher_1"])
    grades = {stage["name"]: stage["grade"] for stage in ranged.to_document()["stages"]}
    assert grades["student"] == "prior" and grades["teacher_1"] != "prior"


def test_a_range_without_width_is_the_plain_number() -> None:
    plain = forecast(_scenario())
    amounts = plain.scenario.recipe.amounts["student"]
    ranges = {f"student.{key}": getattr(amounts, key) for key in ("steps", "prompts_per_step")}
    same = forecast(_scenario(ranges=ranges))
    assert same.gpu_hours_N == pytest.approx(plain.gpu_hours_N) and same.scores_DN == pytest.approx(
        plain.scores_DN
    )


def test_a_stages_own_length_follows_its_range_and_teaches_nothing_by_itself() -> None:
    plain, found = (
        forecast(_scenario("mixed_rl", **ranges))
        for ranges in ({}, {"ranges": {"mixed.response_tokens": [2000, 8000]}})
    )
    assert found.bills["mixed"].mean_length == pytest.approx(4000)
    drawn_N = found.stage_flops["mixed"] / found.bills["mixed"].training_run_flops
    assert np.quantile(drawn_N, [0.1, 0.9]) == pytest.approx([0.5, 2.0], rel=0.15)
    lengths_N = found.world.length_DN[0]
    assert abs(np.corrcoef(np.log(drawn_N), np.log(lengths_N))[0, 1]) < 0.2
    assert found.efforts["mixed"].tokens_N == pytest.approx(plain.efforts["mixed"].tokens_N)


def test_overhead_is_one_factor_on_all_hours() -> None:
    calm = {"rerun_probability": 0.0, "failures_per_gpu_hour": 0.0}
    plain, slow = (forecast(_scenario(reliability=calm, overhead=given)) for given in (1.0, [1.0, 2.5]))
    factor_N = slow.gpu_hours_N / plain.gpu_hours_N
    assert np.quantile(factor_N, [0.1, 0.9]) == pytest.approx([1.0, 2.5], rel=0.15)
    assert slow.stage_gpu_hours["student"] == pytest.approx(plain.stage_gpu_hours["student"] * factor_N)
    assert np.array_equal(slow.scores_DN, plain.scores_DN) and slow.grades["gpu_hours"] == "prior"


def test_a_whole_project_has_an_overhead_that_is_never_below_one() -> None:
    """Its own line, in hours and calendar, not in a step's seconds; a CPU's runs are the trainer's own, without any."""
    calm = {"rerun_probability": 0.0, "failures_per_gpu_hour": 0.0}
    default, none = (forecast(_scenario(reliability=calm, overhead=given)) for given in (None, 1.0))
    factor_N = default.gpu_hours_N / none.gpu_hours_N
    assert factor_N.min() >= 1.0 and 1.05 < np.median(factor_N) < 1.3
    assert default.to_document()["project_overhead"]["p50"] == pytest.approx(np.median(factor_N))
    np.testing.assert_array_equal(default.step_seconds_N("student"), none.step_seconds_N("student"))
    tiny = forecast(_scenario(domains=["sort", "reverse"], model=None, gpu=None, gpus=None))
    assert tiny.to_document()["project_overhead"] == {"p10": 1.0, "p50": 1.0, "p90": 1.0}


def test_a_smaller_student_is_costed_scored_and_warned_of_as_what_it_is() -> None:
    found = forecast(
        _scenario("deepseek_r1", options={"smaller": True}, smaller="Qwen3-0.6B", model="Qwen3-32B")
    )
    _check(found)
    document = found.to_document()
    side = document["side_outputs"]["distilled"]
    assert all(side[name]["p50"] < document["scores"][name]["p50"] for name in ("math", "code"))
    stages = {stage["name"]: stage for stage in document["stages"]}
    assert (
        stages["distilled"]["flops_by_phase"]["training"]
        < stages["distilled"]["flops_by_phase"]["generation"]
    )
    assert set(stages["reward_model"]["fidelity"]) == set(NAMES) and "kept" in stages["rejection"]
    warnings = " ".join(found.warnings)
    assert "follow from its size alone" in warnings and "is extrapolated" in warnings
    told = {"smaller": "Qwen3-1.7B", "smaller_start": dict.fromkeys(NAMES, 0.1), "model": "Qwen3-8B"}
    quiet = " ".join(forecast(_scenario("deepseek_r1", options={"smaller": True}, **told)).warnings)
    assert "follow from its size alone" not in quiet and "is extrapolated" not in quiet


def test_judges_are_said_to_be_priors_and_an_unheld_policy_is_said() -> None:
    plan = _scenario("instructgpt").recipe
    free = plan.model_copy(
        update={
            "stages": tuple(
                stage.model_copy(update={"kl_coefficient": 0.0}) if stage.name == "ppo" else stage
                for stage in plan.stages
            )
        }
    )
    held, unheld = (
        " ".join(forecast(replace(_scenario("instructgpt"), recipe=recipe)).warnings)
        for recipe in (plan, free)
    )
    assert "over-optimisation" in held and "nothing holds" not in held
    assert "nothing holds ppo" in unheld


def test_the_forecasts_path_is_free_of_slow_imports() -> None:
    slow = {"scipy", "pandas", "networkx", "torch", "transformers", "streamlit", "matplotlib"}
    code = (
        f"import sys, mopdsim.forecast.compare; found = {slow!r} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_bold_rate_on_domains_of_small_models_is_said_to_be_unknown() -> None:
    recipe = mopd(["ask:smallest", "ask:swap"], amounts="real")
    student = recipe.amounts["student"]
    fast = recipe.with_amounts(
        {"student": student.model_copy(update={"learning_rate": 2 * student.learning_rate})}
    )

    def told(chosen: Recipe) -> str:
        return " ".join(
            forecast(from_document({"recipe": to_document(chosen), "model": "tiny", "draws": 8})).warnings
        )

    assert "student: the forecast does not know what a bold learning rate does here" in told(fast)
    assert "bold learning rate" not in told(recipe)


def test_larger_models_of_tiny_domains_warn_of_bold_rates_and_of_sizes_never_tried() -> None:
    recipe = mixed_rl(["sort", "reverse"])
    bold = recipe.amounts["mixed"].model_copy(update={"learning_rate": 2.8e-3})

    def told(model: str, recipe: Recipe) -> str:
        asked = from_document({"recipe": to_document(recipe), "model": model, "draws": 8})
        return " ".join(forecast(asked).warnings)

    fast = recipe.with_amounts({"mixed": bold})
    assert "mixed: larger models broke at rates above 0.00225" in told("tiny-10M", fast)
    assert "larger models" not in told("tiny-10M", recipe) + told("tiny", fast) + told("tiny-small", fast)
    assert "62 times the parameters" in told("Qwen3-0.6B", recipe) and "times the" not in told(
        "tiny-10M", recipe
    )


@pytest.mark.parametrize(
    ("key", "ends", "probability", "row"),
    [
        ("usd", (-2000.0, -1000.0, 500.0), 0.9, ["cost", "-$1,000", "-$2,000 to +$500", "mopd, 90% sure"]),
        ("mean_score", (-0.01, 0.02, 0.05), 0.2, ["mean score, points", "+2.0", "-1.0 to +5.0", "mopd, 80% sure"]),
        ("math", (0.0, 0.0, 0.0), 0.5, ["math, points", "+0.0", "+0.0 to +0.0", "tie"]),
    ],
)  # fmt: skip
def test_a_difference_is_told_by_sign_unit_and_how_sure(
    key: str, ends: tuple[float, ...], probability: float, row: list[str]
) -> None:
    found = {
        "difference": dict(zip(("p10", "p50", "p90"), ends, strict=True)),
        "probability_better": probability,
        "verdict": "tie" if probability == 0.5 else "mopd",
    }
    assert list(cells(key, found).values()) == row
