"""What an honest test judges: the forecast of every run left out of a fit, beside what it measured.

A forecast knows the recipe and the start scores of the run's base; an informed one also what the simple rules know: the
run's own specialists, and of each domain the longest trained specialist of the same base; nothing else of the run.
A forecast is of true pass rates and takes the form of the model for granted. A measured score differs from it by the
error of that form (Student's t with four degrees of freedom, in logits, of the scale `model_error` that the fit found)
and by the draw of the test's prompts (binomial); prompts that a run shares with its start are not told apart.
Conditions in which several recipes were run side by side carry a factor `contest`; there the forecast has to choose.
Leaves out: the fit (`studies.honest.refit`), scoring (`studies.honest.held_out`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import FORM_ERRORS, GREEDY_ERROR, MODEL_ERROR, Calibration, tested
from mopdsim.facts.model import models
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts, AmountsName, Rl
from studies.framework.forecasts import is_specialist
from studies.framework.ledger import CPU
from studies.framework.observe import Figure, Observations
from studies.framework.run import sizes_of
from studies.honest.baselines import Cell, cell_of, strategy_of, trained
from studies.honest.held_out import POINTS, Contest, Trial
from studies.honest.refit import Leave

Studies = Mapping[str, Observations]


@dataclass(frozen=True, kw_only=True)
class Forecaster:
    """Ensembles of measured scores by one calibration, each made once. form_error: whether they carry the error of the
    model form. informed: whether they know the scores of the run's own specialists, as the simple rules do."""

    studies: Studies
    calibration: Calibration
    form_error: bool = True
    informed: bool = False
    made: dict[tuple[str, str], dict[str, Array]] = field(default_factory=dict)

    def of(self, study: str, name: str) -> dict[str, Array]:
        """Draws of a run's final scores by domain, (N,)."""
        found = self.studies[study]
        if (study, name) not in self.made:
            self.made[study, name] = drawn_of(
                found,
                name,
                self.calibration,
                items=found.answers(name),
                key=f"{study}/{name}",
                best=longest(found, name) if self.informed else None,
                form_error=self.form_error,
            )
        return self.made[study, name]


def own_specialists(recipe: Recipe) -> list[str]:
    """Names of a recipe's specialists, its last word left out: what is known before the rest is run."""
    return [stage.name for stage in recipe.stages if stage.name != recipe.output and is_specialist(stage)]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A domain's specialist: its scores on the domains that it was scored on, its FLOPs, amounts and their set's
    name."""

    scores: Mapping[str, float]
    flops: float
    amounts: Amounts
    amounts_name: AmountsName

    def measured(self, domain: str) -> dict[str, float]:
        """As a scenario says it, which knows of tiny amounts alone how rate and batch set the pace."""
        pace = ("learning_rate", "prompts_per_step", "rollouts_per_prompt")
        own = {key: getattr(self.amounts, key) for key in pace if self.amounts_name == "tiny"}
        return {"score": self.scores[domain], "flops": self.flops, **own}


def longest(found: Observations, name: str) -> dict[str, Trained]:
    """Each domain's specialist: the run's own, else the one on its start that was trained longest. Never the run's own
    last word."""
    rank: dict[str, float] = {}
    chosen: dict[str, Trained] = {}
    for run in found.manifest["runs"]:
        if found.key(run, BASE) != found.key(name, BASE):
            continue
        recipe = found.recipe(run)
        for stage in recipe.stages:
            if not (isinstance(stage, Rl) and is_specialist(stage) and found.has(run, stage.name)):
                continue
            if (key := found.key(run, stage.name)) == found.key(name):
                continue
            (domain,) = stage.domains
            flops = found.manifest["stages"][key]["flops"]
            spent = math.inf if run == name else flops
            if spent > rank.get(domain, 0.0):
                rank[domain] = spent
                chosen[domain] = Trained(
                    scores=found.scores(run, stage.name),
                    flops=flops,
                    amounts=recipe.amounts[stage.name],
                    amounts_name=recipe.amounts_name,
                )
    return chosen


def drawn_of(
    found: Observations,
    name: str,
    calibration: Calibration,
    *,
    items: Mapping[str, int],
    key: str,
    best: Mapping[str, Trained] | None,
    form_error: bool = True,
    figure: Figure = "pass_rate",
) -> dict[str, Array]:
    """Draws of each domain's measured score at the end of a run, (N,), told the scores of its base.

    found: seen in the figure that all these scores are of. items: how many prompts the test has. key: names the run's
    own streams of errors. best: the longest trained specialists of the same start, told together with what the run's
    own score; None: neither is known. form_error: whether the form's error is among them.
    """
    row, scores = found.manifest["runs"][name], found.scores(name, BASE)
    start = {domain: scores[domain] for domain in row["domains"]}
    specialists = {domain: one.measured(domain) for domain, one in (best or {}).items()}
    asked = scenario_of(row["document"], start, model=sizes_of(row["model"]), specialists=specialists)
    rows = dict(calibration.parameters)
    if figure == "greedy" and asked.scope in rows[GREEDY_ERROR].studies:
        rows[MODEL_ERROR] = rows[GREEDY_ERROR]
    if not form_error:
        rows = {name: row for name, row in rows.items() if name not in FORM_ERRORS}
    own = () if best is None else own_specialists(found.recipe(name))
    known = {  # of probes nothing is told
        stage: {domain: score for domain, score in found.scores(name, stage).items() if domain in start}
        for stage in own
    }
    made = forecast(asked, replace(calibration, parameters=rows), known=known)
    return {
        domain: tested(score_N, items[domain], key=f"{key}:{domain}")
        for domain, score_N in zip(made.world.names, made.likely_DN, strict=True)
    }


def scenario_of(
    recipe: Mapping[str, Any],
    start: Mapping[str, float],
    *,
    model: str,
    specialists: Mapping[str, Mapping[str, float]] | None,
) -> Scenario:
    """The question of a run, FLOPs counted as this project's trainer counts them."""
    return scenario.from_document(
        {
            "recipe": recipe,
            "model": model,
            "gpu": CPU,
            "domain": {
                domain: {"start": score}
                | ({"specialist": specialists[domain]} if specialists and domain in specialists else {})
                for domain, score in start.items()
            },
        }
    )


def held_out(study: str, row: Mapping[str, Any]) -> bool:
    """Whether a design declared the run held out."""
    return bool(row["held_out"])


def trials(forecaster: Forecaster, wanted: Leave = held_out) -> list[Trial]:
    """One for each domain of every finished run that is wanted and whose model the simulator knows."""
    experts = _Experts(forecaster.studies)
    return [
        trial
        for study, found in forecaster.studies.items()
        for name, row in found.finished.items()
        if wanted(study, row) and row["model"] in models()
        for trial in _trials_of(forecaster, experts, study, name)
    ]


def _trials_of(forecaster: Forecaster, experts: _Experts, study: str, name: str) -> Iterator[Trial]:
    found = forecaster.studies[study]
    recipe = found.recipe(name)
    start, last = (found.scores(name, stage) for stage in (BASE, recipe.stage[recipe.output].init))
    specialists = experts.of(study, name)
    cells = [
        cell_of(recipe, domain, start=start, specialist=specialists, last=last[domain])
        for domain in recipe.domains
    ]
    known = own_specialists(recipe) if forecaster.informed else ()
    yield from scored(found, study, name, cells, forecaster.of(study, name), known=known)


def scored(
    found: Observations,
    study: str,
    name: str,
    cells: Iterable[Cell],
    drawn: Mapping[str, Array],
    *,
    known: Collection[str],
) -> Iterator[Trial]:
    """A trial for each cell of a run, from draws by domain. known: stages of which the forecast was told."""
    recipe, final, items = found.recipe(name), found.scores(name), found.answers(name)
    for cell in cells:
        yield Trial(
            study=study,
            run=name,
            condition=condition_of(study, found.manifest["runs"][name]),
            seed=found.seed(name),
            cell=cell,
            ensemble=tuple(drawn[cell.domain].tolist()),
            truth=final[cell.domain],
            items=items[cell.domain],
            bold=recipe.output in recipe.bold_beyond(known),
            rate=rate_of(recipe),
        )


def rate_of(recipe: Recipe) -> float:
    """The highest learning rate of its RL; 0 without any."""
    rates = [recipe.amounts[stage.name].learning_rate for stage in recipe.stages if isinstance(stage, Rl)]
    return max(rates, default=0.0)


def contests(forecaster: Forecaster) -> list[Contest]:
    """Conditions in which at least two recipes were run, by the factor `contest`: means over the seeds in which every
    recipe finished. The factor `recipe` names a run's, else its strategy does."""
    made = []
    for study, found in forecaster.studies.items():
        groups: dict[str, dict[str, dict[int, str]]] = {}
        for name, row in found.finished.items():
            if "contest" in row["factors"] and row["model"] in models():
                label = str(row["factors"].get("recipe", strategy_of(found.recipe(name))))
                part = " (held out)" if row["held_out"] else ""
                own = groups.setdefault(f"{row['factors']['contest']}{part}", {})
                own.setdefault(label, {})[found.seed(name)] = name
        for condition, recipes in groups.items():
            seeds = sorted(set.intersection(*(set(runs) for runs in recipes.values())))
            if len(recipes) > 1 and seeds:
                chosen = {label: [runs[seed] for seed in seeds] for label, runs in recipes.items()}
                made.append(_contest(forecaster, study, condition, chosen, tuple(seeds)))
    return made


def _contest(
    forecaster: Forecaster, study: str, condition: str, runs: Mapping[str, list[str]], seeds: tuple[int, ...]
) -> Contest:
    found = forecaster.studies[study]
    predicted, measured, errors, drawn = {}, {}, {}, {}
    for label, names in runs.items():
        scores = [(name, domain) for name in names for domain in trained(found.recipe(name))]
        draws = [forecaster.of(study, name)[domain] for name, domain in scores]
        predicted[label] = float(np.mean([np.median(score_N) for score_N in draws]))
        drawn[label] = np.mean(draws, axis=0)
        measured[label] = float(np.mean([found.scores(name)[domain] for name, domain in scores]))
        error = math.hypot(*(found.errors(name)[domain] for name, domain in scores)) / len(scores)
        if math.isfinite(error):  # one prompt has none
            errors[label] = error
    first = found.manifest["runs"][next(iter(runs.values()))[0]]
    return Contest(
        condition=condition,
        seeds=seeds,
        held_out=bool(first["held_out"]),
        predicted=predicted,
        measured=measured,
        errors=errors,
        gaps={
            f"{one} - {other}": _ends(POINTS * (drawn[one] - drawn[other]))
            for one, other in combinations(sorted(drawn), 2)
        },
        rate=max(rate_of(found.recipe(name)) for names in runs.values() for name in names),
    )


def _ends(drawn_N: Array) -> tuple[float, float]:
    """P10 and P90."""
    low, high = np.quantile(drawn_N, [0.1, 0.9])
    return float(low), float(high)


def condition_of(study: str, row: Mapping[str, Any]) -> str:
    """What runs that differ by their seed alone have in common, in words."""
    factors = (f"{key} {value}" for key, value in row["factors"].items() if key != "contest")
    return f"{study}: {', '.join(factors)}"


def seed_variances(studies: Studies) -> dict[str, list[float]]:
    """Variances of a score between seeds, of each trained domain, by condition: of those with a held-out run and two
    seeds or more."""
    found: dict[str, list[float]] = {}
    for study, own in studies.items():
        groups: dict[str, list[str]] = {}
        for name, row in own.finished.items():
            groups.setdefault(condition_of(study, row), []).append(name)
        for condition, names in groups.items():
            if len(names) > 1 and any(own.finished[name]["held_out"] for name in names):
                finals = [own.scores(name) for name in names]
                domains = trained(own.recipe(names[0]))
                found[condition] = [float(np.var([one[d] for one in finals], ddof=1)) for d in domains]
    return found


class _Experts:
    """The specialists that all studies measured, by base."""

    def __init__(self, studies: Studies) -> None:
        self.studies = studies
        self.by_base: dict[str, list[tuple[str, str, str, str]]] = {}
        for study, found in studies.items():
            for name in found.finished:
                for stage in found.recipe(name).stages:
                    if is_specialist(stage):
                        (domain,) = stage.domains  # type: ignore[union-attr]
                        entry = (study, name, stage.name, domain)
                        self.by_base.setdefault(found.key(name, BASE), []).append(entry)

    def of(self, study: str, name: str) -> dict[str, Mapping[str, float]]:
        """Scores of each domain's specialist on this run's base: the run's own first, then those of its study, the most
        alike first, then any other. Never the run's own last word."""
        found = self.studies[study]
        factors, own_key = found.finished[name]["factors"].items(), found.key(name)

        def apart(entry: tuple[str, str, str, str]) -> tuple[bool, bool, int]:
            other = self.studies[entry[0]].finished[entry[1]]["factors"].items()
            return entry[:2] != (study, name), entry[0] != study, -len(factors & other)

        chosen: dict[str, Mapping[str, float]] = {}
        for other, run, stage, domain in sorted(self.by_base.get(found.key(name, BASE), ()), key=apart):
            scores = self.studies[other].scores(run, stage)
            if self.studies[other].key(run, stage) != own_key and scores.keys() >= found.scores(name).keys():
                chosen.setdefault(domain, scores)
        return chosen
