"""Forecasts of a study's runs, made before them and judged after them: sampled and greedy, against rules listed before.

A forecast knows a run's start and its own specialists, in the figure that it speaks of. So do the rules, which also
know the best trained specialists that other runs have on the same start. All of it stands on record before anything
else is run (`studies.framework.forecasts`). The model was fitted to scores sampled at temperature 1: of greedy scores
it is told greedy starts and specialists. Leaves out: fits, and runs that were forecast after the fact
(`studies.honest.honest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import Calibration, default_calibration
from mopdsim.recipes.stage import BASE
from studies.designs.skill.contest import SWITCH, failed, mopd_from
from studies.framework.analysis import Analysis, Quantity, Table, bootstrap
from studies.framework.forecasts import Foreteller, told
from studies.framework.observe import Figure, Observations
from studies.honest.baselines import (
    Cell,
    Rule,
    cell_of,
    constant_recovery,
    no_change,
    own_expert,
    recovered,
    said,
    trained,
)
from studies.honest.held_out import LEAST_SPREAD, POINTS, TIE, Trial
from studies.honest.refit import shipped_path
from studies.honest.scoring import choose, exact_interval, regret
from studies.honest.trials import drawn_of, longest, own_specialists, scored

FIGURES: Final[Mapping[Figure, str]] = {"pass_rate": "temperature 1", "greedy": "greedy"}
RECOVERED = 0.70
SEED = 20_261_129
LABEL = "recipe"


RULES: Final[Mapping[str, Rule]] = {
    "start": no_change,
    "own specialist": own_expert,
    "constant .70 recovery": lambda cell: recovered(cell, RECOVERED),
    "constant recovery per strategy": constant_recovery,
}
MIXED_BUT_BOLD = f"mixed RL, but MOPD at rate {SWITCH:.0e} and above".replace("e-0", "e-")
CHOICES: Final[Mapping[str, Callable[[float], str]]] = {  # of a recipe, given RL's rate
    MIXED_BUT_BOLD: mopd_from(SWITCH),
    "always MOPD": lambda rate: "mopd",
    "always merging": lambda rate: "merge",
}


def foreteller() -> Foreteller:
    """The model as it ships, and the rules."""
    model = hashlib.sha256(shipped_path().read_bytes()).hexdigest()
    return Foreteller(model=model, rules=(*RULES, *CHOICES), tell=tell)


def tell(found: Observations) -> dict[str, Any]:
    """Of each run and trained domain, by figure: P10, P50 and P90 of the model, and what each rule says. Runs whose
    start or own specialists failed are left out."""
    views = {figure: found.seen(figure) for figure in FIGURES}
    forecasts: dict[str, Any] = {}
    for name in found.manifest["runs"]:
        if all(found.has(name, stage) for stage in (BASE, *own_specialists(found.recipe(name)))):
            forecasts[name] = {figure: _of_run(view, name, figure) for figure, view in views.items()}
    return forecasts


def afterwards(found: Observations, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the calibration that ships would write it now, told all starts and specialists that ran since: a look
    back and no forecast. Runs whose specialists failed drop out."""
    now = tell(found)
    conditions = {
        name: {**batch, "runs": {run: now[run] for run in batch["runs"] if run in now}}
        for name, batch in record["conditions"].items()
    }
    return {**record, "model": foreteller().model, "conditions": conditions}


def _of_run(found: Observations, name: str, figure: Figure) -> dict[str, dict[str, Any]]:
    drawn, cells = told_draws(found, name, default_calibration(), figure)
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        low, median, high = np.quantile(drawn[cell.domain], [0.1, 0.5, 0.9]).tolist()
        rows[cell.domain] = {
            "low": low,
            "median": median,
            "high": high,
            "rules": {name: said(rule, cell) for name, rule in RULES.items()},
        }
    return rows


def told_draws(
    found: Observations, name: str, calibration: Calibration, figure: Figure, **how: bool
) -> tuple[dict[str, Array], list[Cell]]:
    """What is known of a run before it, as a forecast on record is told: draws of its trained domains' scores, and what
    a rule sees of them. The start's answers say how many a test has."""
    recipe, start, best = found.recipe(name), found.scores(name, BASE), longest(found, name)
    key = f"{found.manifest['study']}/{name}/{figure}"
    items = found.answers(name, BASE)
    drawn = drawn_of(found, name, calibration, items=items, key=key, best=best, figure=figure, **how)
    specialists = {domain: one.scores for domain, one in best.items()}
    cells = [cell_of(recipe, domain, start=start, specialist=specialists) for domain in trained(recipe)]
    return drawn, cells


def told_trials(
    studies: Mapping[str, Observations],
    calibration: Calibration,
    wanted: Callable[[str, Mapping[str, Any]], bool],
    *,
    figure: Figure,
) -> list[Trial]:
    """The scores of finished runs that are wanted, told as a forecast on record is, without the error of the form; of
    studies that scored greedily too."""
    return [
        trial
        for study, seen in studies.items()
        if seen.points.greedy.notna().any()
        for found in [seen.seen(figure)]
        for name, row in found.finished.items()
        if wanted(study, row)
        for drawn, cells in [told_draws(found, name, calibration, figure, form_error=False)]
        for trial in scored(found, study, name, cells, drawn, known=own_specialists(found.recipe(name)))
    ]


def judged(found: Observations, record: Mapping[str, Any], *, failures_count: bool = False) -> Analysis:
    """The forecasts on record beside what was measured: errors, intervals, signs of differences, what choices lose; of
    the runs that finished and, unless failures count, whose distillation did not fail."""
    lost = set() if failures_count else set(failed(found))
    model = f"by model {record['model'][:8]}"
    rows = pd.DataFrame(
        [
            row
            for name, by_figure in told(record).items()
            if name in found.finished and name not in lost
            for figure, rows in by_figure.items()
            for row in _rows(found.seen(figure), name, figure, rows)
        ]
    )
    if rows.empty:
        return Analysis(quantities={})
    rng = np.random.default_rng(SEED)
    tables, findings = [], []
    for figure, words in FIGURES.items():
        own = rows[rows.figure == figure]
        errors, lead = _errors(own, rng)
        tables.append(
            Table(
                title=f"Forecasts made before the runs {model}, {words}: mean error in points", frame=errors
            )
        )
        findings.append(_finding(own, errors, lead, f"{words}, {model}"))
        means = _means(own)
        tables.append(
            Table(title=f"Signs of differences between recipes {model}, {words}", frame=_signs(means))
        )
        tables.append(Table(title=f"What a choice loses {model}, {words}", frame=_losses(means, own)))
    return Analysis(quantities={}, findings=tuple(findings), tables=tuple(tables))


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each run: the mean over its domains of what was measured and of every forecast, and the standard error of the
    former over prompts."""
    by_run = rows.groupby(["condition", "seed", LABEL], as_index=False)
    found = by_run[["truth", "model", *RULES]].mean()
    spread = by_run.error.agg(lambda errors: float(np.sqrt((errors**2).sum()) / len(errors)))
    return found.assign(error=spread.error)


def _rows(found: Observations, name: str, figure: str, forecast: Mapping[str, Any]) -> list[dict[str, Any]]:
    measured, errors, factors = found.scores(name), found.errors(name), found.finished[name]["factors"]
    return [
        {
            "run": name, "seed": found.seed(name), "figure": figure, "domain": domain,
            "condition": factors["contest"], LABEL: factors[LABEL], "rate": factors.get("rate", 0.0),
            "truth": measured[domain], "error": errors[domain],
            "model": row["median"], "low": row["low"], "high": row["high"], **row["rules"],
        }
        for domain, row in forecast.items()
    ]  # fmt: skip


def _errors(rows: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, Quantity | None]:
    """Mean absolute error of the model and of each rule, with the interval over conditions; and the best rule's error
    less the model's, the rule chosen with hindsight."""
    names = ("model", *RULES)
    error = {name: POINTS * (rows[name] - rows.truth).abs().to_numpy() for name in names}
    groups = list(rows.groupby("condition").indices.values())

    def over_conditions(values: Array) -> Quantity | None:
        def mean(picked: Sequence[Any]) -> float:
            return float(values[np.concatenate(list(picked))].mean())

        return bootstrap(groups, mean, rng)

    found = []
    for name in names:
        spread = over_conditions(error[name])
        bias = POINTS * float((rows[name] - rows.truth).mean())
        ends = (np.nan, np.nan) if spread is None else (spread.low, spread.high)
        found.append(
            {"forecast": name, "error": error[name].mean(), "low": ends[0], "high": ends[1], "bias": bias}
        )
    best = min(RULES, key=lambda name: float(error[name].mean()))
    return pd.DataFrame(found), over_conditions(error[best] - error["model"])


def _finding(rows: pd.DataFrame, errors: pd.DataFrame, lead: Quantity | None, words: str) -> str:
    inside = int(((rows.low <= rows.truth) & (rows.truth <= rows.high)).sum())
    low, high = exact_interval(inside, len(rows))
    model, rules = errors.iloc[0], errors.iloc[1:]
    best = rules.sort_values("error").iloc[0]
    beside = "" if lead is None else f", the rule's error less the model's {lead} over conditions"
    winner = "The model wins" if model.error < best.error else f"The simple rule '{best.forecast}' wins"
    if lead is not None and lead.low <= 0 <= lead.high:
        winner = "Neither wins: the interval holds 0"
    return (
        f"{words}, {len(rows)} scores of {rows.run.nunique()} runs in {rows.condition.nunique()} conditions: the model "
        f"errs by {model.error:.1f} points, the best rule ('{best.forecast}') by {best.error:.1f}{beside}. {winner}. "
        f"{inside / len(rows):.0%} (95% interval {low:.0%} to {high:.0%}) of the 80% intervals hold the score; they "
        f"are {POINTS * (rows.high - rows.low).mean():.0f} points wide."
    )


def _signs(means: pd.DataFrame) -> pd.DataFrame:
    """By forecaster: of the pairs of recipes that differ by more than two standard errors over seeds (paired) in a
    condition, how many differences it gives the right sign; none is wrong. Of a pair that one seed alone has, two
    standard errors over prompts, as if the two recipes had been asked others: too many rather than too few."""
    counted = {name: [0, 0] for name in ("model", *RULES)}
    for _, own in means.groupby("condition"):
        by_recipe = {str(label): each.set_index("seed") for label, each in own.groupby(LABEL)}
        for one, other in combinations(sorted(by_recipe), 2):
            sides = by_recipe[one], by_recipe[other]
            gap = (sides[0][["truth", *counted]] - sides[1][["truth", *counted]]).dropna()
            if gap.empty:
                continue
            mean, se = gap.truth.mean(), gap.truth.std(ddof=1) / np.sqrt(len(gap))
            if len(gap) == 1:
                se = np.hypot(*(side.error[gap.index[0]] for side in sides))
            if abs(mean) <= 2 * se:
                continue
            for name, count in counted.items():
                count[0] += 1
                count[1] += bool(np.sign(gap[name].mean()) == np.sign(mean))
    return pd.DataFrame(
        [
            {"forecast": name, "pairs": pairs, "right": right, "share": right / pairs if pairs else np.nan}
            for name, (pairs, right) in counted.items()
        ]
    )


def _losses(means: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Mean score lost by taking what a forecaster or a rule chooses, over conditions in which recipes differ by
    `LEAST_SPREAD`; in points. A rule that chooses what a study never ran is left out."""
    rate = rows.groupby("condition").rate.first()
    ran = set(means[LABEL])
    rules = {name: of for name, of in CHOICES.items() if {of(each) for each in rate} <= ran}
    chosen: dict[str, list[Sequence[str]]] = {name: [] for name in ("model", *rules)}
    measured: list[Mapping[str, float]] = []
    for condition, own in means.groupby("condition"):
        scores = own.groupby(LABEL)[["truth", "model"]].mean()
        if scores.truth.max() - scores.truth.min() < LEAST_SPREAD:
            continue
        picks = {name: [of(float(rate[condition]))] for name, of in rules.items()}
        if not all(set(pick) <= set(scores.index) for pick in picks.values()):
            continue
        measured.append({str(name): float(score) for name, score in scores.truth.items()})
        forecast = {str(name): float(score) for name, score in scores.model.items()}
        chosen["model"].append(choose(forecast, tie=TIE))
        for name, pick in picks.items():
            chosen[name].append(pick)
    if not measured:
        return pd.DataFrame()
    return pd.DataFrame(
        [
            {
                "choice": name,
                "conditions": len(measured),
                "lost points": POINTS * regret(picks, measured),
            }
            for name, picks in chosen.items()
        ]
    )
