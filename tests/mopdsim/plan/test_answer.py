"""What is said of the search's result: decisions, flip points, worth of knowing, sensitivities, the year, the verb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mopdsim.base.numbers import usd
from mopdsim.belief import calibration
from mopdsim.cli.plan_command import answer_text
from mopdsim.cli.plan_command import plan as verb
from mopdsim.forecast import scenario
from mopdsim.forecast.compare import TIE
from mopdsim.forecast.forecast import forecast
from mopdsim.plan.candidate import scenario_of
from mopdsim.plan.explore import explore
from mopdsim.plan.finalists import (
    COLUMNS,
    FLOOR,
    NOTHING,
    finalists,
    keeps,
    probability_better,
    verdict,
)
from mopdsim.plan.information import (
    P90,
    flips,
    normal_scores,
    parameters,
    perfect,
    pilots,
    safety_of,
    worth_of,
)
from mopdsim.plan.plan import MOST_WORDS, Answer, plan
from mopdsim.plan.portfolio import releases
from mopdsim.plan.question import JUDGING_DRAWS, Question, from_document
from mopdsim.plan.reasons import losses, reasons, regret
from mopdsim.plan.tipping import GAP, GROUPS, POOL, PRICE, SHIFT, Tip, first_change, indices, tips
from mopdsim.plan.words import CONSTANTS, ENDS, Change, changes, group, parameter
from mopdsim.recipes import recipe_file

KEYS = {
    "recommended", "runner_up", "probability_better", "headline", "frontier", "flip_points", "value_of_information",
    "evaluated", "seconds",
}  # fmt: skip
BASE: dict[str, Any] = {"domains": ["sort", "reverse"], "deadline_days": 0.02, "draws": 24, "max_rounds": 1}


def _question(**changes: Any) -> Question:
    return from_document({**BASE, **changes})


@pytest.fixture(scope="module")
def answer() -> Answer:
    return plan(_question(portfolio=[["sort"], ["sort", "reverse"]], conflict={"sort>reverse": [-1.5, -0.5]}))


def test_the_answer_holds_what_is_promised(answer: Answer) -> None:
    document = answer.to_document()
    assert set(document) >= KEYS
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["evaluated"] > 100


def test_the_text_is_short_and_begins_with_what_was_asked_and_the_verdict(answer: Answer) -> None:
    document = answer.to_document()
    lines = answer_text(document).splitlines()
    assert lines[:2] == [document["assumptions"], document["headline"]] and len(lines) <= 25
    assert len(document["headline"].split()) <= MOST_WORDS
    assert "model" not in document["assumptions"] and "tiny*" in document["assumptions"]
    whole = answer_text(document, details=True)
    assert whole.startswith("\n".join(lines[:-1]))
    assert all(row["label"] in whole for row in [document["recommended"], *document["alternatives"]])


def test_at_equal_dollars_no_plan_costs_more_and_the_chances_of_being_best_add_up(answer: Answer) -> None:
    rows = answer.to_document()["equal_dollars"]
    assert [row["column"] for row in rows] == [name for name in COLUMNS if name in answer.equals]
    dollars = float(np.median(answer.recommended.forecast.usd_N))
    assert all(row["usd"]["p50"] <= 1.1 * dollars for row in rows)  # chosen by fewer draws than judged
    assert sum(row["probability_best"] for row in rows) >= 1 - 1e-9
    assert any(row["label"] == answer.recommended.plan.label for row in rows)


def test_a_rough_answer_is_a_plan_that_keeps_the_limits_and_says_what_it_left_out() -> None:
    steps: list[str] = []
    question = _question(draws=200, max_rounds=2)
    made = plan(question, rough=True, told=steps.append)
    assert [step.partition(" ")[0] for step in steps] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert np.mean(made.recommended.forecast.days_N <= 0.02) >= question.confidence
    assert made.recommended.plan.rounds == 1 and not made.flips and not made.tips
    text = answer_text(made.to_document())
    assert "what would change this: not looked for with --rough" in text
    assert "measure first: not looked for with --rough" in text


def test_the_recommended_scenario_forecasts_the_same_numbers(answer: Answer) -> None:
    document = answer.to_document()["recommended"]
    made = forecast(scenario.loads(document["scenario"])).to_document()
    assert made["usd"] == document["usd"] and made["days"] == document["days"]
    assert made["scores"] == document["scores"]
    assert made["within_deadline"] >= answer.question.confidence


def test_the_recommended_is_the_best_finalist_and_the_runner_up_another_structure(answer: Answer) -> None:
    values = [float(answer.question.value(one.utility_N)) for one in answer.finalists]
    hours = [float(np.median(one.forecast.gpu_hours_N)) for one in answer.finalists]
    assert values[1:] == sorted(values[1:], reverse=True)
    best = answer.finalists[int(np.argmax(values))]
    as_good = [
        hour
        for one, value, hour in zip(answer.finalists, values, hours, strict=True)
        if value >= max(values) - FLOOR and verdict(answer.question, best, one) == TIE
    ]
    assert hours[0] == min(as_good) and values[0] >= max(values) - FLOOR
    structures = [one.plan.structure for one in answer.finalists]
    assert len(set(structures)) == len(structures)
    assert answer.runner_up is answer.finalists[1]


def test_of_plans_of_a_structure_that_are_as_good_the_cheapest_is_recommended(answer: Answer) -> None:
    found = explore(answer.question)
    best = answer.recommended.plan
    alike = [o for o in found.outcomes if o.plan.structure == best.structure and o.feasible]
    chosen = found.evaluator.found[best]
    assert chosen.value >= alike[0].value - NOTHING
    cheaper = [
        o for o in alike if o.median["usd"] < chosen.median["usd"] and o.value >= alike[0].value - NOTHING
    ]
    made = [forecast(scenario_of(answer.question, o.plan, draws=JUDGING_DRAWS)) for o in cheaper]
    assert not any(keeps(answer.question, one) for one in made)


def test_the_frontier_is_sorted_and_nothing_on_it_is_beaten(answer: Answer) -> None:
    rows = [(o.median["usd"], o.median["days"], -round(o.value, 3)) for o in answer.frontier]
    assert rows == sorted(rows, key=lambda row: (row[0], row[2]))
    assert not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for a in rows for b in rows)
    assert (
        max(o.value for o in answer.frontier)
        >= float(answer.question.value(answer.recommended.utility_N)) - 0.02
    )


def _certain(**changes: Any) -> Question:
    """Two domains of which all is known but what the changes say."""
    known = {"start": 0.5, "asymptote": 0.9, "midpoint": 1e9, "steepness": 1.7, "distill_tokens": 1e7}
    names = ["math", "code"]
    document = {"domains": names, "gpus": 64, "budget_usd": 3e4, "draws": 24, "max_rounds": 1}
    return from_document({**document, "domain": dict.fromkeys(names, known), **changes})


def test_undecided_where_a_doubtful_conflict_decides_with_the_pilot_that_measures_it() -> None:
    """One mixed run wins where the one helps the other, one run after the other where it hurts: all else is known."""
    doubt = {
        "math>code": [-3.0, 1.5],
        "code>math": 0.0,
    }  # conflict hurts cascades too: it must be wide to decide
    found = plan(_certain(conflict=doubt, families=["mixed_rl", "cascade_rl"]))
    assert found.decision == "undecided"
    assert [(flip.parameter, flip.at) for flip in found.flips] == [("conflict:math>code", "p90")]
    assert found.pilot is not None and found.pilot.pilot.name == "pair:math+code"
    assert found.pilot.gain > 2 * found.pilot.error
    assert found.flips[0].to == "one RL run on all domains"
    assert found.headline.startswith("Too close to call: cascade $") and "mixed RL $" in found.headline
    assert f"Measure first: {found.pilot.pilot.short}, {usd(found.pilot.pilot.usd)}." in found.headline
    assert not any(name in found.headline for name in (*CONSTANTS, "conflict:", "P90"))
    assert max(found.worths, key=lambda worth: worth.gain) is found.pilot


def test_decided_where_the_conflict_is_known() -> None:
    known = {"math>code": -2.0, "code>math": -2.0}
    question = _certain(conflict=known, families=["mixed_rl", "merge"])
    found = plan(question)
    assert found.decision == "decided" and found.recommended.plan.family == "merge"
    assert found.runner_up is not None
    assert probability_better(question, found.runner_up, found.recommended) < 0.2
    pair = next(worth for worth in found.worths if worth.pilot.name == "pair:math+code")
    assert pair.gain == 0


def test_knowing_is_worth_what_theory_says() -> None:
    """Two plans, ahead by theta ~ N(0, 1): knowing theta is worth E max(0, theta) = 1 / sqrt(2 pi)."""
    rng = np.random.default_rng(0)
    theta_N, noise_N = rng.standard_normal((2, 20_000))
    ahead_FN = np.stack([np.zeros_like(theta_N), theta_N + 3 * noise_N])
    gain, error = worth_of(ahead_FN, [normal_scores(theta_N)])
    assert gain == pytest.approx(1 / np.sqrt(2 * np.pi), abs=4 * error)
    assert error < 0.03


@pytest.mark.parametrize("seed", range(6))
def test_what_cannot_change_the_decision_is_worth_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    idle_N, ahead_N = rng.standard_normal(1000), rng.normal(-0.5, 1.0, 1000)
    for gain_of in (worth_of, safety_of):
        assert gain_of(np.stack([np.zeros(1000), ahead_N]), [idle_N])[0] == 0
    sure_FN = np.stack([np.zeros(1000), -1.0 + 0.01 * idle_N])  # it moves the lead but never turns it
    assert worth_of(sure_FN, [idle_N])[0] == 0
    assert worth_of(sure_FN[:1], [idle_N]) == (0.0, 0.0)


def test_knowing_keeps_the_low_end_up_as_theory_says() -> None:
    """theta ~ N(2, 1) or another plan at 1.5 that fails in a seventh of the worlds: the other is taken where theta is
    low, so that the P10 comes to nearly 1.5; taken alone, either plan's is lower."""
    theta_N = np.random.default_rng(3).standard_normal(20_000) + 2.0
    other_N = np.full_like(theta_N, 1.5)
    other_N[::7] = -3.0
    alone = float(np.quantile(theta_N, 0.1))
    gain, error = safety_of(np.stack([theta_N, other_N]), [normal_scores(theta_N)])
    assert 0.5 * (1.5 - alone) < gain <= 1.5 - alone + 4 * error
    assert (
        safety_of(np.stack([theta_N, np.full_like(theta_N, alone - 0.1)]), [normal_scores(theta_N)])[0] == 0
    )


def test_the_value_of_information_is_of_the_chosen_objective(answer: Answer) -> None:
    for objective in ("mean", "p10"):
        question = replace(answer.question, objective=objective)
        utility_FN = np.stack([one.utility_N for one in answer.finalists])
        best_N = utility_FN.max(axis=0)
        wanted = question.value(best_N) - max(question.value(row_N) for row_N in utility_FN)
        assert perfect(question, answer.finalists) == pytest.approx(float(wanted))


def test_the_safer_plan_is_ahead_under_p10_however_often_it_is_behind(answer: Answer) -> None:
    """A plan that is a little worse in most worlds and never bad: a mean's loser is a risk-averse asker's winner."""
    risky, safe = answer.finalists[0], answer.finalists[1]
    draws = len(risky.utility_N)
    risky_N = np.where(np.arange(draws) % 5 == 0, 0.2, 0.8)
    risky, safe = replace(risky, utility_N=risky_N), replace(safe, utility_N=np.full(draws, 0.6))
    mean, low = (replace(answer.question, objective=objective) for objective in ("mean", "p10"))
    assert probability_better(mean, safe, risky) == pytest.approx(0.2)
    assert probability_better(low, safe, risky) == 1.0
    assert verdict(low, safe, risky) == safe.plan.label
    assert verdict(low, risky, safe) == safe.plan.label
    assert probability_better(low, safe, safe) == 0.5


@pytest.mark.slow
def test_the_recommended_of_an_averse_asker_is_ahead_by_its_own_measure() -> None:
    found = plan(_question(objective="p10", conflict={"sort>reverse": [-1.5, 1.0]}))
    assert found.runner_up is not None
    assert all(
        probability_better(found.question, one, found.recommended) <= 0.5 for one in found.finalists[1:]
    )


def test_reasons_add_up_to_the_lead(answer: Answer) -> None:
    for objective in ("mean", "worst"):
        question = replace(answer.question, objective=objective)
        judged = [
            replace(one, utility_N=question.utility(one.forecast.scores_DN)) for one in answer.finalists
        ]
        found = reasons(question, judged)
        families = {one.plan.family for one in judged} - {judged[0].plan.family}
        assert len(found) == len(families) > 0
        for reason in found:
            rival = next(one for one in judged if one.plan.label == reason.against)
            lead = float(judged[0].utility_N.mean() - rival.utility_N.mean())
            assert reason.points == pytest.approx(100 * lead, abs=1e-9)
            assert reason.against in reason.sentence and "_" not in reason.sentence


def test_being_wrong_costs_what_the_best_choice_would_win(answer: Answer) -> None:
    wrong = regret(answer.finalists)  # of the recommended plan, which may be so much below the best
    assert wrong["probability"] * wrong["loss"] <= perfect(answer.question, answer.finalists) + FLOOR
    assert 0 <= wrong["probability"] <= 1 and wrong["loss"] >= 0
    assert regret(answer.finalists[:1]) == {"probability": 0.0, "loss": 0.0}


def test_every_uncertain_number_has_a_plain_phrase(answer: Answer) -> None:
    names = [*calibration.CONSTANTS, *parameters(answer.recommended.forecast.world)]
    phrases = {name: parameter(name) for name in names}
    assert set(CONSTANTS) == set(calibration.default_calibration().parameters)
    assert len(set(phrases.values())) == len(set(names))
    assert not any("_" in phrase or ":" in phrase.replace("below 0:", "") for phrase in phrases.values())
    for name in GROUPS:
        assert "_" not in group(name) and len(group(name)) > len(name)


def test_the_text_names_the_largest_doubts_and_counts_the_others(answer: Answer) -> None:
    one = {
        "parameter": "forgetting",
        "what": parameter("forgetting"),
        "at": "p10",
        "value": 2.0,
        "to": "x",
        "gain": 0.01,
    }
    document = {**answer.to_document(), "undecided_by": [one] * 9}
    tips = [tip["condition"] for tip in document["flip_points"] if tip["condition"]]
    doubt = Change(condition=f"if {one['what']} is {ENDS['p10']}", plan="x", gain=0.01)
    assert [change.condition for change in changes(document)[: len(tips)]] == tips
    assert changes(document)[len(tips) :] == [doubt] * 9
    assert answer_text({**document, "flip_points": []}).count(f"  {doubt.condition}: x, +1.0 points") == 4
    assert answer_text(document, details=True).count("a model forgets") >= 6
    assert "and 3 more unknowns" in answer_text(document, details=True)
    assert len(answer_text(document).splitlines()) <= 25


def test_a_parameter_that_no_finalist_reads_has_neither_worth_nor_flip(answer: Answer) -> None:
    read_by_none = {"fidelity_pairs", "preference_share"}  # no finalist has a reward model or pairs
    assert not read_by_none & {flip.parameter for flip in answer.flips}
    rows = parameters(answer.recommended.forecast.world)
    assert "conflict:sort>sort" not in rows and "conflict:sort>reverse" in rows
    assert all(np.ptp(row) > 0 for row in rows.values())


def test_normal_scores_are_quantiles() -> None:
    scores_N = normal_scores(np.exp(np.random.default_rng(1).standard_normal(1001)))
    assert np.quantile(scores_N, 0.9) == pytest.approx(P90, abs=0.01)


def test_a_lone_finalist_hangs_on_nothing() -> None:
    question = _question(families=["mixed_rl"])
    judged = finalists(question, explore(question))
    assert len(judged) == 1 and flips(question, judged) == []
    assert plan(question).headline.endswith("no other kind was asked for.")


def test_flip_points_are_bisected() -> None:
    at, to = first_change(lambda x: "b" if x > 0.37 else "a", 0.0, [0.1, 0.2, 0.5], halvings=12)
    assert to == "b" and at == pytest.approx(0.37, abs=0.3 / 2**12)
    assert first_change(lambda x: "a", 0.0, [0.1, 1.0]) == (None, None)
    at, to = first_change(lambda x: "abc"[(x < -0.2) + (x < -0.21)], 0.0, [-1.0], halvings=14)
    assert to == "b" and at == pytest.approx(-0.2, abs=1e-3)  # the nearest change, not the first one tried


def test_conflict_and_teacher_quality_shift_the_world_they_name(answer: Answer) -> None:
    world = answer.recommended.forecast.world
    moved = world.shifted(conflict=0.3, gap=0.02)
    assert moved.conflict_DDN[0, 1] == pytest.approx(world.conflict_DDN[0, 1] + 0.3)
    assert (moved.conflict_DDN[0, 0] == 0).all()
    assert moved.further_gap == pytest.approx(0.02)


PRICED = {"domains": ["math", "code"], "gpu": "H100", "gpus": 16, "budget_usd": 1e5, "deadline_days": 30}


@pytest.mark.parametrize("asked", [{}, PRICED], ids=["own runs", "published"])
def test_students_further_below_their_teachers_lose_to_plans_without(asked: dict[str, Any]) -> None:
    """Whether our own runs say what a student keeps of its teachers, or published studies."""
    question = _question(**{**asked, "families": ["mixed_rl", "mopd"], "conflict_shift": -1.0})
    found = explore(question)
    judged = finalists(question, found)
    assert judged[0].plan.family == "mopd"
    (tip,) = (one for one in tips(question, found, judged) if one.what == GAP)
    assert tip.to == "one RL run on all domains" and tip.changes_at is not None and 0 < tip.changes_at < 0.2


def test_a_strategy_that_a_study_saw_lose_is_contradicted_by_it() -> None:
    """2606.30406, six benchmarks: a cascade is 1.32 points below MOPD, which lost to nobody there."""
    (cascade,) = losses("cascade_rl")
    assert (cascade.study, cascade.to, cascade.benchmarks) == ("2606.30406", "mopd", 6)
    assert cascade.by == pytest.approx(1.32, abs=0.01) and 0 < cascade.low < cascade.by < cascade.high
    assert cascade.sentence.startswith(
        "Published against it: in 2606.30406 (Qwen3-30B-A3B) MOPD beat a cascade by 1.3"
    )
    assert all(loss.study != "2606.30406" for loss in losses("mopd")) and losses("") == []


def test_tiny_domains_are_contradicted_by_no_published_study(answer: Answer) -> None:
    assert answer.contradicted_by == [] and answer.to_document()["contradicted_by"] == []


def test_every_flip_point_changes_the_best_finalist(answer: Answer) -> None:
    """Checked again from nothing, on either side of the point: the recommended plan is as good, then no longer."""
    for tip in answer.tips:
        if tip.changes_at is None or tip.what != SHIFT:
            continue
        for conflict, as_good in ((tip.changes_at * 0.9, True), (tip.changes_at, False)):
            values = {
                one.plan.label: float(
                    one.utility_in(answer.question, one.forecast.world.shifted(conflict=conflict)).mean()
                )
                for one in answer.finalists
            }
            best = max(values, key=values.__getitem__)
            assert (values[answer.recommended.plan.label] >= values[best] - FLOOR) == as_good
            assert as_good or best == tip.to


@pytest.mark.parametrize(
    ("what", "now", "at", "said"),
    [
        (SHIFT, 0.0, -0.2, "if K of every pair were 0.2 lower (they hurt each other more)"),
        (SHIFT, 0.0, 0.2, "if K of every pair were 0.2 higher (domains help each other more)"),
        (GAP, 0.0, 0.034, "if students stayed 3.4 points further below their teachers"),
        (PRICE, 4.5, 16.5, "at $16.5 a GPU-hour (now $4.5)"),
        (POOL, 512, 768, "with 768 GPUs (now 512)"),
        (POOL, 512, None, None),
    ],
)
def test_a_flip_point_is_the_if_part_of_a_sentence(
    what: str, now: float, at: float | None, said: str | None
) -> None:
    assert Tip(what=what, now=now, changes_at=at, to=None, range=[now, now]).condition == said


def test_no_two_finalists_differ_only_in_which_domains_share_a_teacher(answer: Answer) -> None:
    shorts = [one.plan.short for one in answer.finalists]
    assert len(set(shorts)) == len(shorts) > 1


def test_sobol_indices_of_a_sum_are_variance_shares(answer: Answer) -> None:
    """y = 3 forgetting' + 1 companion_lift' in standard normals: shares .9 and .1, first order and total alike."""
    from mopdsim.belief.calibration import default_calibration
    from mopdsim.forecast.stage_draws import world_of

    made = answer.recommended.forecast.scenario
    one, other = (world_of(replace(made, seed=seed, draws=4096), default_calibration()) for seed in (1, 2))

    def value(world: Any) -> np.ndarray:
        z = [np.log(world.constants[name]) for name in ("forgetting", "companion_lift")]
        scale = [np.log(one.constants[name]).std() for name in ("forgetting", "companion_lift")]
        return np.asarray(3 * z[0] / scale[0] + z[1] / scale[1])

    found = indices(value, one, other)
    assert set(found) == {"forgetting", "companion_lift"}
    for name, share in (("forgetting", 0.9), ("companion_lift", 0.1)):
        assert found[name] == pytest.approx((share, share), abs=0.06)


def test_sensitivity_names_inputs_that_move_the_plan(answer: Answer) -> None:
    totals = [row["total"] for row in answer.sensitivity]
    assert totals == sorted(totals, reverse=True)
    assert sum(row["first"] for row in answer.sensitivity) < 1.3  # at most 1, but for the estimators' error
    assert sum(totals) > 0.7  # at least 1, likewise
    assert all(row["what"] == group(row["input"]) for row in answer.sensitivity)


def test_pilots_cost_something_and_name_known_parameters(answer: Answer) -> None:
    known = set(parameters(answer.recommended.forecast.world))
    found = pilots(answer.question, explore(_question(families=["mixed_rl"])).evaluator.stock)
    assert {"rl:sort", "rl:reverse", "pair:sort+reverse", "distillation", "merge", "base scores"} <= {
        pilot.name for pilot in found
    }
    price = answer.question.usd_per_gpu_hour
    for pilot in found:
        assert pilot.usd == pytest.approx(pilot.gpu_hours * price)
        assert pilot.gpu_hours > 0 and set(pilot.parameters) <= known


def test_a_year_retrains_only_the_changed_teacher(answer: Answer) -> None:
    taught = next(
        one for one in answer.finalists if one.plan.family in ("mopd", "merge") and len(one.plan.groups) == 2
    )
    first, one, both = releases(taught.forecast, answer.question.portfolio)
    hours = taught.forecast.stage_gpu_hours
    last = taught.forecast.scenario.recipe.output
    assert set(one.stages) == {"teacher_sort", last}
    assert one.gpu_hours_N == pytest.approx(hours["teacher_sort"] + hours[last])
    assert both.gpu_hours_N == pytest.approx(first.gpu_hours_N)
    mixed = next(one for one in answer.finalists if one.plan.family == "mixed_rl")
    assert releases(mixed.forecast, [["sort"]])[1].gpu_hours_N == pytest.approx(mixed.forecast.gpu_hours_N)
    assert answer.portfolio is not None
    totals = [row["gpu_hours"]["p50"] for row in answer.portfolio["plans"]]
    assert totals == sorted(totals) and "single" not in {row["label"] for row in answer.portfolio["plans"]}


def test_the_verb_prints_one_document_and_writes_both_files(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(verb)
    file = tmp_path / "q.toml"
    file.write_text('domains = ["sort", "reverse"]\ndeadline_days = 0.02\nmax_rounds = 1\n')
    out, recipe = tmp_path / "plan.toml", tmp_path / "recipe.toml"
    arguments = [
        str(file),
        "--json",
        "--domains",
        "sort,shift",
        "--draws",
        "16",
        "--seed",
        "4",
        "--write",
        str(out),
        "--recipe",
        str(recipe),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    document = json.loads(result.stdout)
    assert scenario.load(out).recipe == recipe_file.load(recipe)
    assert scenario.load(out).seed == 4 and scenario.load(out).recipe.domains == ("sort", "shift")
    assert document["recommended"]["scenario"] == out.read_text()
