"""The report of an honest test in words, section by section, as a referee would want to read it.

Leaves out: the numbers (`studies.honest.honest`), the files (`studies.honest.report`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mopdsim.recipes.stage import BOLD
from studies.framework.report import markdown
from studies.honest.held_out import CANDIDATES, LEAST_SPREAD, POINTS, TIE
from studies.honest.reading import PROSPECTIVE
from studies.honest.reading import TIE as READING_TIE

FIGURE = "predicted_against_measured"
LOOKS = 13  # versions of this report in the repository: each was read before the model was changed


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of a document of `studies.honest.report`, as Markdown."""
    held = found["held_out"]
    yield from ("# The honest test: runs that no fit has seen", "")
    yield from _looks(found)
    yield from _reading(found["reading"])
    yield from ("## All held-out scores together", "", *_verdict(held), "")
    yield from (f"![held-out scores]({FIGURE}.svg)", "")
    yield from ("*Held-out scores, predicted with 80% intervals against measured; dashed: equal.*", "")
    yield from _fitted(found["fit"])
    yield from _held_out(found["trials"])
    yield from _rules(held)
    yield from ("## By strategy and by study", "", _table(found["by_strategy"], "strategy"), "")
    yield from (_table(found["by_study"], "study"), "")
    yield from _losses(found)
    yield from _choices(held, found["contests"])
    yield from _left_out(found["left_out"])
    yield from _published(found["published"])
    yield from _limits()


def _looks(found: Mapping[str, Any]) -> Iterator[str]:
    """What stands on top: how fresh the test is."""
    judged = (
        "that ships" if found["fit"]["is_shipped"] else "of an earlier fit, **not** the one that ships now"
    )
    yield (
        f"Judged is the calibration {judged}. The test was looked at {LOOKS} times while the model was made, so that "
        "all but the newest studies had a say in its form, though not in its numbers. Runs given to the fit after "
        "they had been judged:"
    )
    yield ""
    for name, why in found["released"].items():
        yield f"- `{name}`, {why}."
    yield "- Scores are pass rates at temperature 1; decoded greedily, the starts are near the ceiling already."
    yield ""


def _reading(found: Mapping[str, Any]) -> Iterator[str]:
    """New studies, near repeats, differences and regret; each row with its winner."""
    yield from (
        "## New studies first",
        "",
        f"New studies ({', '.join(PROSPECTIVE)}) ask under conditions that no fit has seen. Rates above {BOLD:g} "
        "times the usual one are bold. Errors in points, beside each domain's own specialist.",
        "",
        markdown(pd.DataFrame(found["scores"])),
        "",
        "## Differences between recipes",
        "",
        f"Mean scores in held-out conditions that ran both; a difference up to {READING_TIE:g} point is none. Beyond 2 "
        "errors are those that are larger than two standard errors over prompts.",
        "",
        markdown(pd.DataFrame(found["differences"])),
        "",
        "## Points lost by each way to choose",
        "",
        markdown(pd.DataFrame(found["regret"])),
        "",
    )


def _verdict(held: Mapping[str, Any]) -> Iterator[str]:
    low, high = held["skill_interval"]
    yield (
        f"{held['n']} scores of {held['runs']} runs in {held['conditions']} conditions, on domains that the recipe was "
        f"trained on: mean absolute error **{held['mae_points']:.1f} points**; the best simple rule "
        f"({held['best_baseline']}, chosen with hindsight) has {held['best_baseline_mae_points']:.1f}. Skill "
        f"{held['skill']:.2f} (80% interval over runs {low:.2f} to {high:.2f}). CRPS {held['crps_points']:.1f} points."
    )
    parts = []
    for level in (50, 80, 90):
        ends = held[f"coverage_{level}_interval"]
        width = held[f"coverage_{level}_mean_width_points"]
        share = held[f"coverage_{level}"]
        parts.append(
            f"{level}%: {share:.0%} (exact 95% interval {ends[0]:.0%} to {ends[1]:.0%}), {width:.0f} points wide"
        )
    yield f"Intervals held the truth as follows. {'; '.join(parts)}."
    outside = held["out_of_set"]
    if outside["n"]:
        yield (
            f"Domains that the recipe was not trained on: {outside['n']} scores, error {outside['mae_points']:.1f} "
            f"points (no change: {outside['no_change_mae_points']:.1f}), {outside['coverage_80']:.0%} within 80%."
        )
    if held["seed_to_seed_points"] is not None:
        yield (
            f"The same run with another seed, which changes its base too, differs by a standard deviation of "
            f"{held['seed_to_seed_points']:.1f} points ({held['seed_to_seed_median_points']:.1f} at the median score), "
            f"over {held['seed_to_seed_conditions']} conditions."
        )
    rerun = held["rerun"]
    if rerun["pairs"]:
        yield (
            f"Two runs of one condition with different seeds lie {rerun['mae_points']:.1f} points apart on average "
            f"({rerun['pairs']} pairs of scores): so much errs who has run it once and expects the same again. On the "
            f"same scores the simulator errs by {rerun['forecast_mae_points']:.1f}."
        )


def _fitted(about: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{study} {count}" for study, count in about["studies"].items())
    settled = "" if about["settled"] else ", and the steps did not settle"
    seconds = "" if about["seconds"] is None else f", {about['seconds']:.0f} s"
    yield from ("## What was fitted", "")
    behind = ", ".join(f"{value:.0f}" for value in about["starts_behind"][1:])
    others = (
        f"; the others end {behind} behind it (minus twice the ln of the marginal likelihood)"
        if behind
        else ""
    )
    yield (
        f"{about['runs']} runs ({counts}), {about['observations']} observations{seconds}. Of "
        f"{about['starts']} starts {about['agreeing_starts']} came to this optimum{others}{settled}. No held-out run "
        "is among them, and no run that holds a held-out run's last stage. The calibration is "
        f"{'' if about['is_shipped'] else '**not** '}the one that ships."
    )
    for study, why in about["left_out"].items():
        yield f"- `{study}` is not in it: {why}."
    constants = [name for name in about["not_identified"] if ":" not in name]
    facts = len(about["not_identified"]) - len(constants)
    yield from (
        f"- Not identified, so at their prior: {', '.join(constants) or 'no constant'}; and {facts} facts of domains "
        "(`held_out.json` names them).",
        "",
    )


def _held_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row["condition"], set()).add(row["seed"])
    yield from ("## What was held out", "", "Declared in the designs before their first runs.", "")
    yield from (f"- {name} (seeds {', '.join(map(str, sorted(own)))})" for name, own in seeds.items())
    yield ""


def _rules(held: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Against simple rules", "")
    yield from (
        "The rules know every specialist measured on the run's base, the forecast those of the run itself. A rule that "
        "does not speak of a score is completed by the own expert's, or else by the start.",
        "",
    )
    rows = [
        {"rule": name, "speaks_of": row["speaks_of"], "error_points": row["mae_points"]}
        for name, row in sorted(held["baselines"].items(), key=lambda pair: pair[1]["mae_points"])
    ]
    ours = {"rule": "**the simulator**", "speaks_of": held["n"], "error_points": held["mae_points"]}
    yield from (markdown(pd.DataFrame([ours, *rows])), "")


def _table(groups: Mapping[str, Mapping[str, Any]], of: str) -> str:
    return markdown(pd.DataFrame([{of: name, **row} for name, row in groups.items()]))


def _losses(found: Mapping[str, Any]) -> Iterator[str]:
    groups = {**found["by_strategy"], **{f"study {name}": row for name, row in found["by_study"].items()}}
    lost = {name: row for name, row in groups.items() if row["mae_points"] > row["best_baseline_mae_points"]}
    yield from ("## Where a rule is better", "")
    for name, row in lost.items():
        yield (
            f"- {name}: {row['best_baseline']} errs by {row['best_baseline_mae_points']:.1f} points, the simulator by "
            f"{row['mae_points']:.1f} (n = {row['n']})."
        )
    yield from ("" if lost else "In no strategy and no study.", "")


def _choices(held: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("## Which recipe would have been chosen, at what loss", "")
    named = {
        f"held-out conditions in which {', '.join(CANDIDATES)} were all run and scores spread by "
        f"{POINTS * LEAST_SPREAD:.0f} points or more": held,
        "held-out conditions in all": held["regret_all_held_out"],
        "conditions, fitted ones among them": held["regret_fitted_too"],
    }
    for words, found in named.items():
        if found["regret_conditions"]:
            lost = f"{found['regret_points']:.1f} points lost, {_constant(found)}"
            yield f"- {found['regret_conditions']} {words}: {lost}; {found['ties']} ties called."
        else:
            yield f"- None yet of {words}."
    yield from ("", f"Mean scores within {POINTS * TIE:.0f} point count as a tie and with their mean.", "")
    if rows:
        shown = [
            {
                "condition": row["condition"],
                "predicted": _scores(row["predicted"]),
                "measured": _scores(row["measured"]),
                "choice": " or ".join(row["choice"]),
                "regret_points": row["regret_points"],
            }
            for row in rows
        ]
        yield from (markdown(pd.DataFrame(shown)), "")


def _constant(found: Mapping[str, Any]) -> str:
    if found["best_constant_rule"] is None:
        return "no recipe being common to all"
    lost = found["best_constant_rule_regret_points"]
    return f"always {found['best_constant_rule']}, the best constant rule, {lost:.1f}"


def _scores(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())


def _left_out(found: Mapping[str, Any]) -> Iterator[str]:
    if not found:
        return
    yield from ("## Leaving out more than was held out", "")
    yield from ("Each strategy forecast, all its runs, by a fit without any of them:", "")
    yield from (_table(found["strategies"], "strategy"), "")
    regret = found["contests"]
    if count := regret["regret_conditions"]:
        lost = f"{regret['regret_points']:.1f} points lost over {count} with that spread, {_constant(regret)}"
        yield from (f"Conditions forecast by a fit without their whole study: {lost}.", "")


def _published(found: Mapping[str, Any]) -> Iterator[str]:
    test = found["back_test"]
    rules = ", ".join(f"{name} {error:.1f}" for name, error in found["baseline_mean_errors"].items())
    normalised = found["normalised"]
    yield from ("## Published scores, each study left out in turn", "")
    yield (
        f"Percent rows: mean error {found['mean_error']:.1f} points ({rules}). Normalised rows: recovery errs by "
        f"{normalised['mean_error']:.2f} (best rule, {normalised['best_baseline']}: "
        f"{normalised['baseline_mean_errors'][normalised['best_baseline']]:.2f}). Of all, {found['coverage_80']:.0%} "
        "within 80% intervals."
    )
    alone = ", ".join(f"{name} ({', '.join(own)})" for name, own in found["not_identified"].items())
    worse = ", ".join(found["worse_than_rules"]) or "none"
    yield f"- Studies on which 'own expert' or 'constant .70' is better: {worse}."
    yield f"- Not identified, since one study alone has them: {alone}."
    yield from (
        "",
        f"MOPD against its rivals as published: {test['right']} of {test['comparisons']} comparisons called right, "
        f"{test['wrong']} wrong ({test['wrong_beyond']} beyond their 80% interval), {test['tie']} a tie on one side "
        "only.",
        "",
        *(f"- {sentence}." for sentence in test["against_mixed_rl"]),
        "",
    )
    columns = ("study", "mopd", "rival", "benchmarks", "unit", "predicted_lead", "measured_lead", "verdict")
    yield from (markdown(pd.DataFrame(test["rows"])[list(columns)]), "")


def _limits() -> Iterator[str]:
    yield from ("## What this test cannot say", "")
    yield "- Runs of a condition share teachers and bases: intervals that count them as independent are too narrow."
    yield (
        "- One architecture of 0.17 M parameters (`size`: 0.65 M, `size_again`: 2.6 M, `size_fresh`: 10 M) on "
        "procedural domains, scored at temperature 1: greedily their starts are near the ceiling already."
    )
    yield "- The best rule and the best constant choice are picked after the fact, in their favour."
