"""The world gate: can the tiny suite tell recipes apart? A suite in which everything saturates proves nothing.

    suite      every domain starts at 15 to 65%; its own specialist gains 25 points and reaches 85%
    conflict   the competing pair's K is two standard errors below zero at ambiguity 1, within two of zero at 0
    synergy    the synergy pair's K is two standard errors above zero
    spread     at some budget the best and the worst recipe differ by 8 points in mean score
    ceiling    which scores exceed 97%: they may not enter a fit

K_jd = log of (gain of d trained with j) / (gain of d trained alone), after the same number of updates with the same
number of d's prompts in each. Its standard error comes from the seeds. Leaves out: fitting (the studies).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts, default_amounts
from mopdsim.recipes.recipe import Recipe
from studies.designs.systems.demo import demo_recipes
from trainer.files.settings import Settings
from trainer.runs.execute import Progress, execute
from trainer.runs.plan import plan
from trainer.runs.store import Store
from trainer.tasks import COMPETING, SYNERGY

SUITE = (
    "sort",
    "sort_down",
    "sort_long",
    "reverse",
    "rotate",
    "shift",
    "shift_back",
    "brackets",
    "rle_decode",
    "swap",
    "guess",
    "program",
)
START_RANGE = (0.15, 0.65)
GAIN, REACH = 0.25, 0.85
SPREAD = 0.08
CEILING = 0.97

SUITE_TEACHER = default_amounts("tiny", "rl")
SLOW = {domain: SUITE_TEACHER.model_copy(update={"steps": 260}) for domain in ("guess", "program")}
PAIR_RL = Amounts(steps=12, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=3e-4, warmup_steps=3)
PAIR_ITEMS = 2000  # an interference of 0.1 on a gain of 15 points wants errors below a point
BUDGETS = (0.15, 0.4, 1.0)


def run_gate(*, seeds: Sequence[int], store: Store, workers: int, progress: Progress) -> dict[str, Any]:
    """Run what the store does not hold and judge; the document of `mopd study gate --json`."""
    runs = {seed: _one_seed(seed, store, workers, progress) for seed in seeds}
    suite = {
        domain: {
            "start": _mean(run["suite"]["base"][domain] for run in runs.values()),
            "teacher": _mean(run["suite"][domain][domain] for run in runs.values()),
        }
        for domain in SUITE
    }
    for row in suite.values():
        row["passed"] = (
            START_RANGE[0] <= row["start"] <= START_RANGE[1]
            and row["teacher"] >= row["start"] + GAIN
            and row["teacher"] >= REACH
        )
    pairs = {
        name: _interference([run[name] for run in runs.values()]) for name in ("dial_0", "dial_1", "synergy")
    }
    budgets = {
        str(factor): {
            name: _mean(run["budgets"][factor][name] for run in runs.values())
            for name in runs[seeds[0]]["budgets"][factor]
        }
        for factor in BUDGETS
    }
    spreads = {factor: max(row.values()) - min(row.values()) for factor, row in budgets.items()}
    saturated = sorted({cell for run in runs.values() for cell in run["saturated"]})
    checks = {
        "suite": all(row["passed"] for row in suite.values()),
        "conflict at dial 1": pairs["dial_1"]["mean"] <= -2 * pairs["dial_1"]["se"],
        "none at dial 0": abs(pairs["dial_0"]["mean"]) <= 2 * pairs["dial_0"]["se"],
        "synergy": pairs["synergy"]["mean"] >= 2 * pairs["synergy"]["se"],
        "spread": max(spreads.values()) >= SPREAD,
    }
    return {
        "seeds": list(seeds),
        "passed": all(checks.values()),
        "checks": checks,
        "suite": suite,
        "interference": pairs,
        "mean_score_by_budget": budgets,
        "spread": spreads,
        "cells_above_ceiling": saturated,
    }


def _one_seed(seed: int, store: Store, workers: int, progress: Progress) -> dict[str, Any]:
    settings = Settings(seed=seed, validation_items=100, evaluate_every=1000)

    def run(made: Mapping[str, Recipe], items: int = 400) -> dict[str, dict[str, float]]:
        chosen = settings.model_copy(update={"test_items": items})
        planned = plan(made, model="tiny", settings=chosen, store=store)
        summaries = execute(planned, store, workers=workers, progress=progress)
        scores = {}
        for label, recipe in made.items():
            for stage in ("base", recipe.output):
                found = summaries[planned.keys[label][stage]]["domains"]
                scores["base" if stage == "base" else label] = {
                    d: row["pass_rate"] for d, row in found.items()
                }
        return scores

    specialists = {
        domain: catalogue.single_domain([domain, *(d for d in SUITE if d != domain)]).with_amounts(
            {"specialist": SLOW.get(domain, SUITE_TEACHER)}
        )
        for domain in SUITE
    }
    suite = run(_over(specialists, SUITE))
    result: dict[str, Any] = {"suite": suite}
    for name, pair in _pairs().items():
        result[name] = {"pair": pair, **run(_pair_recipes(pair), PAIR_ITEMS)}
    result["budgets"] = {}
    for factor in BUDGETS:
        made = demo_recipes(("sort", "sort_down", "reverse"), factor=factor)
        scores = run(made)
        result["budgets"][factor] = {
            name: _mean(scores[name][d] for d in made[name].domains) for name in made
        }
    result["saturated"] = [f"suite/{d}" for d in SUITE if suite[d][d] > CEILING]
    return result


def _over(made: Mapping[str, Recipe], domains: Sequence[str]) -> dict[str, Recipe]:
    """The recipes with their domains in one common order, so that they share a start."""
    return {name: recipe.model_copy(update={"domains": tuple(domains)}) for name, recipe in made.items()}


def _pairs() -> dict[str, tuple[str, str]]:
    a, b = COMPETING
    return {"dial_0": (a, b), "dial_1": (f"{a}?ambiguity=1", f"{b}?ambiguity=1"), "synergy": SYNERGY}


def _pair_recipes(pair: tuple[str, str]) -> dict[str, Recipe]:
    """Each alone and both together, after the same updates with the same prompts of each domain."""
    alone = {
        name: catalogue.single_domain([domain, other]).with_amounts({"specialist": PAIR_RL})
        for name, domain, other in (("first", *pair), ("second", *reversed(pair)))
    }
    double = PAIR_RL.model_copy(update={"prompts_per_step": 2 * PAIR_RL.prompts_per_step})
    return _over({**alone, "both": catalogue.mixed_rl(pair).with_amounts({"mixed": double})}, pair)


def _interference(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """K of a pair, averaged over its two directions, by seed; mean and standard error over seeds."""
    by_seed = []
    for run in runs:
        ks = []
        for name, domain in zip(("first", "second"), run["pair"], strict=True):
            alone = run[name][domain] - run["base"][domain]
            both = run["both"][domain] - run["base"][domain]
            ks.append(math.log(max(both, 0.005) / max(alone, 0.005)))
        by_seed.append(statistics.mean(ks))
    se = statistics.stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else math.inf
    return {"pair": list(runs[0]["pair"]), "by_seed": by_seed, "mean": statistics.mean(by_seed), "se": se}


def _mean(values: Any) -> float:
    return statistics.mean(values)
