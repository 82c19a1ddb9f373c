"""The planner: which recipe, which teachers for which domains, how much compute for each, under limits and doubt.

`plan(question)` searches (`mopdsim.plan.search.explore`), judges the best few plans again over more draws, and says why
the recommended one leads and how sure that is: the runner-up and how often it is better in the same worlds, what being
wrong costs, the parameters at whose P10 or P90 another plan would be best ("undecided", with the cheapest pilot that
decides it), flip points, Sobol indices, and what each pilot is worth. The recommended plan's file is a scenario, the
same numbers in `mopd forecast`. Leaves out: how it is printed (`mopdsim.cli.plan_command`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim.belief.calibration import Calibration
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.compare import TIE
from mopdsim.forecast.forecast import quantiles
from mopdsim.plan.answer import words
from mopdsim.plan.answer.finalists import Finalist, finalists, probability_better, verdict
from mopdsim.plan.answer.frontier import frontier
from mopdsim.plan.answer.infeasible import infeasible
from mopdsim.plan.answer.information import Flip, Value, deciding, flips, perfect, values
from mopdsim.plan.answer.pilots import pilots
from mopdsim.plan.answer.portfolio import portfolio
from mopdsim.plan.answer.reasons import Reason, reasons, regret
from mopdsim.plan.answer.sensitivity import sensitivity
from mopdsim.plan.answer.tipping import Tip, tips
from mopdsim.plan.question import Question
from mopdsim.plan.search.evaluation import Outcome
from mopdsim.plan.search.explore import explore

SHOWN_PILOTS = 12


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the planner says. finalists: the recommended plan first; frontier: cheapest first."""

    question: Question
    finalists: Sequence[Finalist]
    reasons: Sequence[Reason]
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
        if self.runner_up is not None and verdict(self.question, self.recommended, self.runner_up) == TIE:
            return TIE
        return "decided"

    @property
    def headline(self) -> str:
        """One sentence for somebody who knows GPUs and money, not the simulator's parameters."""
        best = self.recommended
        made, objective = best.forecast, self.question.objective
        usd, days = float(np.median(made.usd_N)), float(np.median(made.days_N))
        counts = words.OBJECTIVES[objective].format(float(self.question.value(best.utility_N)))
        plan = f"{best.plan.label} ({counts} for ${words.digits(usd)} in {words.duration(days)})"
        if self.decision == "undecided":
            return f"undecided: {plan} {self._standing()} as far as is known, {self._doubt()}"
        if self.runner_up is None:
            why = "keeps the limits" if len(self.question.families) > 1 else "was asked for"
            return f"decided: {plan}; no plan of another kind {why}"
        other = self.runner_up.plan.label
        share = probability_better(self.question, self.runner_up, best)
        is_better = f"is {'safer' if objective == 'p10' else 'better'} with probability {share:.2f}"
        if self.decision == TIE:
            ratio = float(np.median(self.runner_up.forecast.gpu_hours_N) / np.median(made.gpu_hours_N))
            return f"tie: {plan} and {other}, which {is_better}, at {ratio:.2g} times the cost"
        return f"decided: {plan}; {other} {is_better}"

    def _standing(self) -> str:
        """How the recommended plan stands beside the others."""
        values = [float(self.question.value(one.utility_N)) for one in self.finalists]
        return "is best" if values[0] == max(values) else "is as good as the best, for less,"

    def _doubt(self) -> str:
        """What would turn the recommendation, and the cheapest pilot that decides it."""
        flip, cheapest = self.flips[0], self.pilot
        if cheapest is not None:
            flip = next(flip for flip in self.flips if flip.parameter in cheapest.pilot.parameters)
        doubt = f"but {flip.to} would be {100 * flip.gain:.1f} points better if {flip.what}"
        if cheapest is None:
            return f"{doubt}; no small pilot measures that"
        pilot = cheapest.pilot
        price = f"{words.digits(pilot.gpu_hours)} GPU-hours, ${words.digits(pilot.usd)}"
        return f"{doubt}; the cheapest pilot that decides it: {pilot.title} ({price})"

    def to_document(self) -> dict[str, Any]:
        """The answer as plain data, for JSON."""
        best, other = self.recommended, self.runner_up
        return {
            "headline": self.headline,
            "decision": self.decision,
            "recommended": {**self._finalist(best), "scenario": scenarios.dump(best.forecast.scenario)},
            "runner_up": None
            if other is None
            else {**self._finalist(other), "verdict": verdict(self.question, best, other)},
            "probability_better": None if other is None else probability_better(self.question, other, best),
            "reasons": [reason.to_document() for reason in self.reasons],
            "cost_of_being_wrong": regret(self.finalists),
            "alternatives": [
                {
                    **self._finalist(one),
                    "probability_better": probability_better(self.question, one, best),
                    "verdict": verdict(self.question, best, one),
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
                    "usd_at_confidence": o.surely["usd"],
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
        return {
            **one.plan.to_document(),
            "value": float(self.question.value(one.utility_N)),
            "utility": quantiles(one.utility_N),
            "gpu_hours": quantiles(made.gpu_hours_N),
            "usd": quantiles(made.usd_N),
            "days": quantiles(made.days_N),
            "scores": made.score_intervals,
            "mean_score": made.mean_score,
            "worst_score": made.worst_score,
        }


def plan(question: Question, calibration: Calibration | None = None) -> Answer:
    """The planner's answer. InfeasibleError with the nearest feasible limits where no plan keeps them."""
    started = time.perf_counter()
    found = explore(question, calibration)
    judged = finalists(question, found, calibration)
    if not judged:
        raise infeasible(question, found, calibration)
    return Answer(
        question=question,
        finalists=judged,
        reasons=reasons(question, judged),
        frontier=frontier(found.feasible),
        flips=flips(question, judged),
        tips=tips(question, found, judged, calibration),
        worths=values(question, judged, pilots(question, found.evaluator.stock)),
        perfect=perfect(question, judged),
        sensitivity=sensitivity(question, judged[0], calibration),
        portfolio=portfolio(question, judged),
        evaluated=len(found.outcomes),
        seconds=time.perf_counter() - started,
    )
