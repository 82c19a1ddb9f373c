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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts, default_amounts
from mopdsim.recipes.recipe import BASE, Recipe
from studies.designs.builders import CEILING, alone, over
from studies.designs.systems.demo import DOMAINS, demo_recipes
from studies.designs.systems.side_by_side import Engine, Finished
from studies.framework.run import Run
from trainer.files.settings import Settings
from trainer.tasks import COMPETING, SYNERGY

SUITE = (
    "sort", "sort_down", "sort_long", "reverse", "rotate", "shift", "shift_back", "brackets", "rle_decode", "swap",
    "guess", "program",
)  # fmt: skip
_RIVALS = (f"{COMPETING[0]}?ambiguity=1", f"{COMPETING[1]}?ambiguity=1")
PAIRS = {"dial_0": COMPETING, "dial_1": _RIVALS, "synergy": SYNERGY}
START_RANGE = (0.15, 0.65)
GAIN, REACH = 0.25, 0.85
SPREAD = 0.08

SUITE_TEACHER = default_amounts("tiny", "rl")
SLOW = {domain: SUITE_TEACHER.model_copy(update={"steps": 260}) for domain in ("guess", "program")}
PAIR_RL = Amounts(steps=12, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=3e-4, warmup_steps=3)
PAIR_ITEMS = 2000  # an interference of 0.1 on a gain of 15 points wants errors below a point
BUDGETS = (0.15, 0.4, 1.0)


def run_gate(*, seeds: Sequence[int], engine: Engine) -> dict[str, Any]:
    """Run what the store does not hold and judge; the document of `mopd study gate --json`."""
    found = engine.carry_out(run for seed in seeds for run in _runs(seed))
    scores = [_Scores(seed=seed, found=found) for seed in seeds]
    suite = {domain: _judged(domain, scores) for domain in SUITE}
    pairs = {name: _interference(pair, scores, name) for name, pair in PAIRS.items()}
    budgets = {
        str(factor): {
            name: statistics.mean(own.mean(f"x{factor:g}/{name}") for own in scores)
            for name in demo_recipes(DOMAINS, factor=factor)
        }
        for factor in BUDGETS
    }
    spreads = {factor: max(row.values()) - min(row.values()) for factor, row in budgets.items()}
    checks = {
        "suite": all(row["passed"] for row in suite.values()),
        "conflict at dial 1": pairs["dial_1"]["mean"] <= -2 * pairs["dial_1"]["se"],
        "none at dial 0": abs(pairs["dial_0"]["mean"]) <= 2 * pairs["dial_0"]["se"],
        "synergy": pairs["synergy"]["mean"] >= 2 * pairs["synergy"]["se"],
        "spread": max(spreads.values()) >= SPREAD,
    }
    above = {d for own in scores for d in SUITE if own.after(f"suite/{d}")[d] > CEILING}
    return {
        "seeds": list(seeds),
        "passed": all(checks.values()),
        "checks": checks,
        "suite": suite,
        "interference": pairs,
        "mean_score_by_budget": budgets,
        "spread": spreads,
        "cells_above_ceiling": sorted(f"suite/{domain}" for domain in above),
    }


def _runs(seed: int) -> Iterator[Run]:
    """Every specialist of the suite, the pairs apart and together, the demo's recipes at every budget."""
    made = {f"suite/{domain}": _specialist(domain) for domain in SUITE}
    for name, pair in PAIRS.items():
        made |= {f"{name}/{label}": recipe for label, recipe in _pair_recipes(pair).items()}
    for factor in BUDGETS:
        made |= {f"x{factor:g}/{n}": recipe for n, recipe in demo_recipes(DOMAINS, factor=factor).items()}
    for name, recipe in made.items():
        items = PAIR_ITEMS if name.partition("/")[0] in PAIRS else 400
        settings = Settings(seed=seed, validation_items=100, evaluate_every=1000, test_items=items)
        yield Run(name=f"seed{seed}/{name}", recipe=recipe, settings=settings)


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """The scores of one seed's runs."""

    seed: int
    found: Mapping[str, Finished]

    def after(self, run: str, stage: str | None = None) -> Mapping[str, float]:
        """By domain, after a run's stage (its output where absent)."""
        return self.found[f"seed{self.seed}/{run}"].scores(stage)

    def mean(self, run: str) -> float:
        """Over the demo's domains."""
        return statistics.mean(self.after(run)[d] for d in DOMAINS)


def _judged(domain: str, runs: Sequence[_Scores]) -> dict[str, Any]:
    """A domain's start and specialist, means of seeds, and whether they pass."""
    start = statistics.mean(own.after(f"suite/{domain}", BASE)[domain] for own in runs)
    teacher = statistics.mean(own.after(f"suite/{domain}")[domain] for own in runs)
    passed = START_RANGE[0] <= start <= START_RANGE[1] and teacher >= max(start + GAIN, REACH)
    return {"start": start, "teacher": teacher, "passed": passed}


def _specialist(domain: str) -> Recipe:
    recipe = catalogue.single_domain([domain])
    return over(recipe.with_amounts({"specialist": SLOW.get(domain, SUITE_TEACHER)}), SUITE)


def _pair_recipes(pair: tuple[str, str]) -> dict[str, Recipe]:
    """Each alone and both together, after the same updates with the same prompts of each domain."""
    double = PAIR_RL.model_copy(update={"prompts_per_step": 2 * PAIR_RL.prompts_per_step})
    both = catalogue.mixed_rl(pair).with_amounts({"mixed": double})
    return {"first": alone(pair[0], pair, PAIR_RL), "second": alone(pair[1], pair, PAIR_RL), "both": both}


def _interference(pair: tuple[str, str], runs: Sequence[_Scores], name: str) -> dict[str, Any]:
    """K of a pair, averaged over its two directions, by seed; mean and standard error over seeds."""
    by_seed = []
    for own in runs:
        start, both = own.after(f"{name}/both", BASE), own.after(f"{name}/both")
        ks = []
        for label, domain in zip(("first", "second"), pair, strict=True):
            single = own.after(f"{name}/{label}")[domain] - start[domain]
            ks.append(math.log(max(both[domain] - start[domain], 0.005) / max(single, 0.005)))
        by_seed.append(statistics.mean(ks))
    se = statistics.stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else math.inf
    return {"pair": list(pair), "by_seed": by_seed, "mean": statistics.mean(by_seed), "se": se}
