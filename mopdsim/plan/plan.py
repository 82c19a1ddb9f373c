"""The planner: which recipe, which teachers for which domains, how much compute for each, under limits and doubt.

`plan(question)` searches (`mopdsim.plan.explore`), judges the best few plans again over more draws, and says why
the recommended one leads and how sure that is: the runner-up and how often it is better in the same worlds, what being
wrong costs, the parameters at whose P10 or P90 another plan would be best ("undecided", with the cheapest pilot that
decides it), flip points, Sobol indices, and what each pilot is worth. The recommended plan's file is a scenario, the
same numbers in `mopd forecast`. Leaves out: how it is printed (`mopdsim.cli.plan_command`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mopdsim.base.numbers import count, duration, points, score, share, usd
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.compare import TIE
from mopdsim.forecast.forecast import quantiles
from mopdsim.forecast.why import assumptions, basis
from mopdsim.plan import words
from mopdsim.plan.candidate import first_of_each
from mopdsim.plan.evaluation import Outcome
from mopdsim.plan.explore import explore
from mopdsim.plan.finalists import (
    Finalist,
    at_equal_dollars,
    finalists,
    frontier,
    infeasible,
    probability_better,
    verdict,
)
from mopdsim.plan.information import Flip, Value, deciding, flips, perfect, pilots, values
from mopdsim.plan.portfolio import portfolio
from mopdsim.plan.question import Question
from mopdsim.plan.reasons import Loss, Reason, losses, reasons, regret, strategy_of
from mopdsim.plan.tipping import Tip, sensitivity, tips

SHOWN_PILOTS = 12
MOST_WORDS = 25  # of a verdict
ROUGH_DRAWS = 16  # of the search for a rough answer
STEPS = (
    "searching recipes, groupings and steps",
    "judging the best plans over more worlds",
    "looking for what would change the answer",
    "pricing what to measure",
    "seeing what the score hangs on",
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the planner says. finalists: the recommended plan first; equals: by column, for what that plan costs;
    frontier: cheapest first."""

    question: Question
    finalists: Sequence[Finalist]
    equals: Mapping[str, Finalist]
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
    def assumptions(self) -> str:
        """What was asked, every default put in and marked."""
        line = assumptions(self.question.base, chosen=True)
        hours = self.question.budget_gpu_hours
        return line if hours is None else f"budget {count(hours)} GPU-hours; {line}"

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
    def contradicted_by(self) -> list[Loss]:
        """Published comparisons that the recommended strategy lost; none for tiny domains, which no paper has."""
        return [] if self.question.base.scope == "tiny" else losses(strategy_of(self.recommended.plan))

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
        """The verdict in at most 25 words, for somebody who knows GPUs and money, not the simulator's parameters."""
        return words.capital(self._decided() if self.decision == "decided" else self._open())

    def _decided(self) -> str:
        best, other = self.recommended, self.runner_up
        made, question = best.forecast, self.question
        counts = words.OBJECTIVES[question.objective].format(score(self._value(best)))
        days, price = duration(float(np.median(made.days_N))), usd(float(np.median(made.usd_N)))
        plan = f"{best.plan.short}: {counts} for {price} in {days}"
        if other is None:
            return f"{plan}; no other kind {'keeps the limits' if len(question.families) > 1 else 'was asked for'}."
        sure = share(1 - probability_better(question, other, best))
        behind = points(self._value(best) - self._value(other)).removeprefix("+")
        return f"{plan}. {words.capital(other.plan.short)} is {behind} behind, {sure} sure."

    def _open(self) -> str:
        """Which plans cannot be told apart, and what to measure first: as much of it as the words allow."""
        best, pilot = self.recommended, self.pilot
        said = [best, *self._rivals()]
        told = ""
        for many, measure in ((3, True), (2, True), (3, False), (2, False)):
            shown = said[:many]
            plans = ", ".join(
                f"{one.plan.short} {usd(float(np.median(one.forecast.usd_N)))}" for one in shown
            )
            apart = max(abs(self._value(one) - self._value(best)) for one in shown)
            told = f"Too close to call: {plans}, within {max(100 * apart, 0.1):.1f} points."
            if measure and pilot is not None:
                told += f" Measure first: {pilot.pilot.short}, {usd(pilot.pilot.usd)}."
            if len(told.split()) <= MOST_WORDS:
                break
        return told

    def _rivals(self) -> list[Finalist]:
        """The best of each other kind that ties with the recommended one, or that an unknown would put ahead."""
        ahead = {flip.to for flip in self.flips}
        close = (
            one
            for one in self.finalists
            if one.plan.family != self.recommended.plan.family
            and (one.plan.label in ahead or verdict(self.question, self.recommended, one) == TIE)
        )
        return first_of_each(close, lambda one: one.plan.family) or list(self.finalists[1:2])

    def _value(self, one: Finalist) -> float:
        return float(self.question.value(one.utility_N))

    def to_document(self) -> dict[str, Any]:
        """The answer as plain data, for JSON."""
        best, other = self.recommended, self.runner_up
        return {
            "headline": self.headline,
            "assumptions": self.assumptions,
            "basis": basis(self.question.base),
            "decision": self.decision,
            "contradicted_by": [loss.to_document() for loss in self.contradicted_by],
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
            "equal_dollars": self._equal_dollars(),
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
            "flip_points": [{**asdict(tip), "condition": tip.condition} for tip in self.tips],
            "sensitivity": list(self.sensitivity),
            "value_of_information": {
                "perfect": self.perfect,
                "pilots": [worth.to_document() for worth in self.worths[:SHOWN_PILOTS]],
            },
            "portfolio": self.portfolio,
            "evaluated": self.evaluated,
            "seconds": self.seconds,
        }

    def _equal_dollars(self) -> list[dict[str, Any]]:
        """A row a column, with the chances of keeping the deadline and of being the best of the columns."""
        best_N = np.max([one.utility_N for one in self.equals.values()], axis=0)
        deadline = self.question.base.deadline_days
        return [
            {
                "column": column,
                **self._finalist(one),
                "within_deadline": None
                if deadline is None
                else float(np.mean(one.forecast.days_N <= deadline)),
                "probability_best": float(np.mean(one.utility_N >= best_N)),
            }
            for column, one in self.equals.items()
        ]

    def _finalist(self, one: Finalist) -> dict[str, Any]:
        made = one.forecast
        return {
            "name": one.plan.short,
            **one.plan.to_document(),
            "value": self._value(one),
            "utility": quantiles(self.question.utility(made.likely_DN)),
            "gpu_hours": quantiles(made.gpu_hours_N),
            "usd": quantiles(made.usd_N),
            "usd_reserved": quantiles(
                made.days_N * 24.0 * self.question.pool * self.question.usd_per_gpu_hour
            ),
            "days": quantiles(made.days_N),
            "scores": made.score_intervals,
            "mean_score": made.mean_score,
            "worst_score": made.worst_score,
        }


def _silent(_: str) -> None:
    """Tells nobody."""


def plan(question: Question, *, rough: bool = False, told: Callable[[str], None] = _silent) -> Answer:
    """The planner's answer. rough: of one round, few groupings and few draws, and without what would change it; for
    the time until the full answer is there. told: hears of each step as it begins, as "3/5 pricing what to measure".

    InfeasibleError with the nearest feasible limits where no plan keeps them."""
    started = time.perf_counter()
    steps = iter(enumerate(STEPS, start=1))

    def step() -> None:
        place, name = next(steps)
        told(f"{place}/{len(STEPS)} {name}")

    step()
    searched = replace(question, max_rounds=1).on(draws=ROUGH_DRAWS) if rough else question
    found = explore(searched, rough=rough)
    step()
    judged = finalists(searched, found)
    if not judged:
        raise infeasible(question, found)
    equals = at_equal_dollars(searched, found, judged[0])
    step()
    flipping = [] if rough else flips(question, judged)
    tipping = [] if rough else tips(question, found, judged)
    step()
    worths = [] if rough else values(question, judged, pilots(question, found.evaluator.stock))
    known = perfect(question, judged)
    step()
    return Answer(
        question=question,
        finalists=judged,
        equals=equals,
        reasons=reasons(question, judged),
        frontier=frontier(found.feasible),
        flips=flipping,
        tips=tipping,
        worths=worths,
        perfect=known,
        sensitivity=[] if rough else sensitivity(question, judged[0]),
        portfolio=portfolio(question, judged),
        evaluated=len(found.outcomes),
        seconds=time.perf_counter() - started,
    )
