"""The planner: which recipe, which teachers for which domains, how much compute for each, under limits and doubt.

`plan(question)` searches (`mopdsim.planning.explore`), judges the best few plans again over more draws, and says how
sure the recommendation is: the runner-up and how often it is better in the same worlds, the parameters at whose P10 or
P90 another plan would be best ("undecided", with the cheapest pilot that decides it), flip points, Sobol indices, and
what each pilot is worth. The recommended plan's file is a scenario, the same numbers in `mopd forecast`.
Leaves out: how it is printed (`mopdsim.plan_command`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim import scenario as scenarios
from mopdsim.calibration import Calibration
from mopdsim.compare import TIE
from mopdsim.forecast import quantiles
from mopdsim.planning.evaluation import Outcome
from mopdsim.planning.explore import explore
from mopdsim.planning.finalists import Finalist, finalists, probability_better, verdict
from mopdsim.planning.frontier import frontier
from mopdsim.planning.infeasible import infeasible
from mopdsim.planning.information import Flip, Value, deciding, flips, perfect, values
from mopdsim.planning.pilots import pilots
from mopdsim.planning.portfolio import portfolio
from mopdsim.planning.question import Question
from mopdsim.planning.sensitivity import sensitivity
from mopdsim.planning.tipping import Tip, tips

SHOWN_PILOTS = 12


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the planner says. finalists: the recommended plan first; frontier: cheapest first."""

    question: Question
    finalists: Sequence[Finalist]
    frontier: Sequence[Outcome]
    flips: Sequence[Flip]
    tips: Sequence[Tip]
    worths: Sequence[Value]
    perfect: float
    sensitivity: Sequence[dict[str, Any]]
    portfolio: dict[str, Any] | None
    evaluated: int
    seconds: float

    @property
    def recommended(self) -> Finalist:
        return self.finalists[0]

    @property
    def runner_up(self) -> Finalist | None:
        """The best plan of another structure; None where there is none."""
        return self.finalists[1] if len(self.finalists) > 1 else None

    @property
    def pilot(self) -> Value | None:
        """The cheapest pilot that measures what the recommendation hangs on."""
        return deciding(self.flips, self.worths)

    @property
    def decision(self) -> str:
        """`undecided`, `tie` or `decided`."""
        if self.flips:
            return "undecided"
        if self.runner_up is not None and verdict(self.recommended, self.runner_up) == TIE:
            return TIE
        return "decided"

    @property
    def headline(self) -> str:
        """One sentence."""
        best = self.recommended
        made = best.forecast
        value = float(self.question.value(best.utility_N))
        price, days = float(f"{np.median(made.usd_N):.3g}"), float(np.median(made.days_N))
        facts = f"{self.question.objective} {value:.3f}, ${price:,.0f} and {days:.3g} days at the median"
        if self.decision == "undecided":
            flip, pilot = self.flips[0], ""
            if self.pilot is not None:
                measured = self.pilot.pilot
                flip = next(flip for flip in self.flips if flip.parameter in measured.parameters)
                pilot = (
                    f"; cheapest pilot that decides it: {measured.name}, {measured.gpu_hours:,.3g} GPU-hours"
                )
            return (
                f"undecided: {best.plan.label} ({facts}) is best as far as is known, but {flip.to} leads by "
                f"{flip.gain:.3f} where {flip.parameter} is at its {flip.end.upper()} ({flip.value:.3g}){pilot}"
            )
        if self.runner_up is None:
            return f"decided: {best.plan.label} ({facts}); no plan of another kind keeps the limits"
        other = self.runner_up.plan.label
        probability = probability_better(self.runner_up, best)
        if self.decision == TIE:
            return f"tie: {best.plan.label} ({facts}) and {other}, which is better with probability {probability:.2f}"
        return f"decided: {best.plan.label} ({facts}); {other} is better with probability {probability:.2f}"

    def to_document(self) -> dict[str, Any]:
        """The answer as plain data, for JSON."""
        best, other = self.recommended, self.runner_up
        return {
            "headline": self.headline,
            "decision": self.decision,
            "recommended": {**self._finalist(best), "scenario": scenarios.dump(best.forecast.scenario)},
            "runner_up": None
            if other is None
            else {**self._finalist(other), "verdict": verdict(best, other)},
            "probability_better": None if other is None else probability_better(other, best),
            "alternatives": [
                {
                    **self._finalist(one),
                    "probability_better": probability_better(one, best),
                    "verdict": verdict(best, one),
                }
                for one in self.finalists[1:]
            ],
            "undecided_by": [flip.to_document() for flip in self.flips],
            "deciding_pilot": None if self.pilot is None else self.pilot.to_document(),
            "frontier": [
                {
                    "plan": o.plan.to_document(),
                    "value": o.value,
                    "usd": o.median["usd"],
                    "days": o.median["days"],
                }
                for o in self.frontier
            ],
            "flip_points": [tip.to_document() for tip in self.tips],
            "sensitivity": list(self.sensitivity),
            "value_of_information": {
                "perfect": self.perfect,
                "pilots": [worth.to_document() for worth in self.worths[:SHOWN_PILOTS]],
            },
            "portfolio": self.portfolio,
            "evaluated": self.evaluated,
            "seconds": self.seconds,
        }

    def _finalist(self, one: Finalist) -> dict[str, Any]:
        made = one.forecast
        rows = zip(made.world.names, made.scores_DN, strict=True)
        return {
            **one.plan.to_document(),
            "value": float(self.question.value(one.utility_N)),
            "utility": quantiles(one.utility_N),
            "gpu_hours": quantiles(made.gpu_hours_N),
            "usd": quantiles(made.usd_N),
            "days": quantiles(made.days_N),
            "scores": {name: quantiles(row_N) for name, row_N in rows},
        }


def plan(question: Question, calibration: Calibration | None = None) -> Answer:
    """The planner's answer. InfeasibleError with the nearest feasible limits where no plan keeps them."""
    started = time.perf_counter()
    found = explore(question, calibration)
    judged = finalists(question, found, calibration)
    if not judged:
        raise infeasible(question, found, calibration)
    feasible = [outcome for outcome in found.outcomes if found.evaluator.feasible(outcome)]
    return Answer(
        question=question,
        finalists=judged,
        frontier=frontier(feasible),
        flips=flips(judged),
        tips=tips(question, found, judged, calibration),
        worths=values(judged, pilots(question, found.evaluator.stock)),
        perfect=perfect(judged),
        sensitivity=sensitivity(question, judged[0], calibration),
        portfolio=portfolio(question, judged),
        evaluated=len(found.outcomes),
        seconds=time.perf_counter() - started,
    )
