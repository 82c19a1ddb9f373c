"""The honest test: the simulator's forecast of every held-out run, beside what it measured and what simple rules say.

A forecast knows the recipe and the start scores of the run's base, as the rules do; nothing of the run itself. Judged
are the domains that the recipe's last word was trained on. Conditions in which several recipes were run side by side
carry a factor `contest`; there the forecast has to choose. Leaves out: scoring (`studies.held_out`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mopdsim import recipe_file, scenario
from mopdsim.forecast import forecast
from mopdsim.recipe import BASE, Merge, Recipe, Rl
from studies.baselines import Cell
from studies.conduct import Work
from studies.held_out import Contest, Trial, judge
from studies.observe import Observations, read
from studies.study import Run

SEED = 20_260_102


def held_out_document(works: Sequence[Work]) -> dict[str, Any]:
    """Of all these studies together; only `n` = 0 where no held-out run has finished."""
    trials: list[Trial] = []
    contests: list[Contest] = []
    for work in works:
        found = read(work.folder)
        runs = {name: run for name, run in work.runs.items() if name in found.finished}
        trials += [
            trial for name, run in runs.items() if run.held_out for trial in trials_of(found, runs, name)
        ]
        contests += contests_of(found, runs)
    return judge(trials, contests, np.random.default_rng(SEED)) if trials else {"n": 0}


def trials_of(found: Observations, runs: Mapping[str, Run], name: str) -> list[Trial]:
    """One trial for each domain that the run trained."""
    recipe = runs[name].recipe
    start, final = found.scores(name, BASE), found.scores(name)
    ensemble_DN = forecast_of(recipe, start)
    specialists = _specialists(found, runs, name)
    output = recipe.stage[recipe.output]
    last = found.scores(name, output.init)
    return [
        Trial(
            run=name,
            cell=Cell(
                strategy=recipe.name,
                domain=domain,
                trained=trained(recipe),
                start=start,
                specialist=specialists,
                merge_scale=output.scale if isinstance(output, Merge) else None,
                last=last[domain],
            ),
            ensemble=tuple(ensemble_DN[recipe.domains.index(domain)].tolist()),
            truth=final[domain],
        )
        for domain in trained(recipe)
    ]


def contests_of(found: Observations, runs: Mapping[str, Run]) -> list[Contest]:
    """Conditions in which at least two recipes were run, by the factor `contest` and seed; the factor `recipe` names a
    run's, else the recipe's own name does."""
    groups: dict[tuple[object, int], dict[str, str]] = {}
    for name, run in runs.items():
        if "contest" in run.factors:
            label = str(run.factors.get("recipe", run.recipe.name))
            groups.setdefault((run.factors["contest"], run.settings.seed), {})[label] = name
    return [
        Contest(
            condition=f"{condition}/seed{seed}",
            predicted={
                label: _mean_forecast(found, runs[name].recipe, name) for label, name in names.items()
            },
            measured={label: _mean_measured(found, runs[name].recipe, name) for label, name in names.items()},
        )
        for (condition, seed), names in groups.items()
        if len(names) > 1
    ]


def forecast_of(recipe: Recipe, start: Mapping[str, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scores_DN of the recipe's output, from the shipped calibration and these start scores."""
    facts = {domain: {"start": start[domain]} for domain in recipe.domains}
    document = {"recipe": recipe_file.to_document(recipe), "domain": facts}
    return forecast(scenario.from_document(document)).scores_DN


def trained(recipe: Recipe) -> tuple[str, ...]:
    """The domains that the output or what it was made from was trained on, in the recipe's order."""
    lineage = {recipe.output, *recipe.ancestors(recipe.output)}
    touched = {d for name in lineage for d in getattr(recipe.stage[name], "domains", {})}
    return tuple(domain for domain in recipe.domains if domain in touched)


def _specialists(found: Observations, runs: Mapping[str, Run], name: str) -> dict[str, Mapping[str, float]]:
    """Scores of each domain's own specialist on this run's base: the run's own stage first, else of a run that is not
    held out."""
    base = found.key(name, BASE)
    specialists: dict[str, Mapping[str, float]] = {}
    for other in [name, *(n for n, run in runs.items() if not run.held_out and found.key(n, BASE) == base)]:
        recipe = runs[other].recipe
        for stage in recipe.stages:
            alone = isinstance(stage, Rl) and len(stage.domains) == 1 and stage.init == BASE
            if alone and not (other == name and stage.name == recipe.output):
                (domain,) = stage.domains  # type: ignore[union-attr]
                specialists.setdefault(domain, found.scores(other, stage.name))
    return specialists


def _mean_forecast(found: Observations, recipe: Recipe, name: str) -> float:
    median_D = np.median(forecast_of(recipe, found.scores(name, BASE)), axis=1)
    return float(np.mean([median_D[recipe.domains.index(domain)] for domain in trained(recipe)]))


def _mean_measured(found: Observations, recipe: Recipe, name: str) -> float:
    final = found.scores(name)
    return float(np.mean([final[domain] for domain in trained(recipe)]))
