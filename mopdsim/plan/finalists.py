"""What is left of the search: the few plans that are compared at the end, the frontier, or why there is none.

The search selects on few draws and so flatters its winner; here the best structures, and the best of each family, meet
a longer row of the same worlds, each with the forecast of its scenario, and are ranked again. Of plans that are as
good, the cheapest is taken. Where no plan keeps the limits, an error says what binds, and the nearest limits that one
keeps. Axes: F finalist, N draw, P point. Leaves out: the search itself; models that fit no layout, which the cost model
refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.forecast.compare import MEASURES, SURE, TIE
from mopdsim.forecast.forecast import Forecast, efforts_of, forecast
from mopdsim.plan.candidate import Plan, first_of_each, scenario_of
from mopdsim.plan.evaluation import Outcome
from mopdsim.plan.explore import Found, explore
from mopdsim.plan.question import JUDGING_DRAWS, Question
from mopdsim.quality.step import Effort
from mopdsim.quality.walk import walk
from mopdsim.quality.world import World

FLOOR = MEASURES["mean_score"].floor  # differences of score below it are nothing
NOTHING = 0.002  # by so much less of the objective, the cheaper plan of a structure is taken
COLUMNS = ("mixed RL", "best MOPD", "best other")  # that stand side by side at equal dollars
_SHAPES = 5
_TRIES = 6  # plans of a structure whose forecast is made until one keeps the limits


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A plan with its forecast; utility_N: what counts, by draw."""

    plan: Plan
    forecast: Forecast
    utility_N: Array

    def utility_in(self, question: Question, world: World, *, same: Collection[str] = ()) -> Array:
        """What counts if the world were this one, (N,); costs do not depend on it. same: the stages that leave what
        they leave in the forecast."""
        recipe = self.forecast.scenario.recipe
        done = {name: replace(self.forecast.states[name], waterfall=None) for name in same}
        state = walk(recipe, world, self.efforts_in(world), explain=False, done=done)[recipe.output]
        return question.utility(state.score_DN)

    def efforts_in(self, world: World) -> Mapping[str, Effort]:
        """What the stages learn from in this world: of all it holds, the cost of stale samples alone acts on it."""
        made = self.forecast
        if world.constants["staleness_cost"] is made.world.constants["staleness_cost"]:
            return made.efforts
        scenario = replace(made.scenario, draws=world.start_DN.shape[-1])
        return efforts_of(scenario, made.bills, world)


def finalists(question: Question, found: Found) -> list[Finalist]:
    """The best plan of each of the best shapes (teachers of so many domains, whichever) and of each family that keeps
    the limits: the recommended one, which is the cheapest of those that tie with the best and come within `FLOOR` of
    it, then the others, best first."""
    shapes = first_of_each(found.feasible, lambda outcome: outcome.plan.short)
    families = first_of_each(found.feasible, lambda outcome: outcome.plan.family)
    wanted = dict.fromkeys(outcome.plan.structure for outcome in [*shapes[:_SHAPES], *families])
    alike: dict[object, list[Outcome]] = {structure: [] for structure in wanted}
    for outcome in found.feasible:
        if outcome.plan.structure in alike:
            alike[outcome.plan.structure].append(outcome)
    tried = (_keeping(question, _worth_trying(outcomes)) for outcomes in alike.values())
    judged = [one for one in tried if one is not None]
    values = {one.plan: float(question.value(one.utility_N)) for one in judged}
    judged.sort(key=lambda one: -values[one.plan])
    as_good = [
        one
        for one in judged
        if values[one.plan] >= values[judged[0].plan] - FLOOR and verdict(question, judged[0], one) == TIE
    ]
    cheapest = min(as_good, key=lambda one: float(np.median(one.forecast.gpu_hours_N)), default=None)
    return [one for one in judged if one is cheapest] + [one for one in judged if one is not cheapest]


def at_equal_dollars(question: Question, found: Found, recommended: Finalist) -> dict[str, Finalist]:
    """The best of one mixed run, of distillation from several teachers and of all other kinds among the plans that keep
    the limits and cost no more than the recommended one, which stands in its own column."""
    dollars = float(np.median(recommended.forecast.usd_N))
    chosen = {_column(recommended.plan): recommended}
    for outcome in found.feasible:
        column = _column(outcome.plan)
        if column not in chosen and outcome.median["usd"] <= dollars:
            chosen[column] = _judged(question, outcome.plan)
    return {column: chosen[column] for column in COLUMNS if column in chosen}


def _column(plan: Plan) -> str:
    return {"mixed_rl": COLUMNS[0], "mopd": COLUMNS[1]}.get(plan.family, COLUMNS[2])


def _worth_trying(outcomes: Sequence[Outcome]) -> list[Plan]:
    """A structure's outcomes (given best first) in the order to try them: those that tie with the best,
    cheapest first, then the rest."""
    alike = [outcome for outcome in outcomes if outcome.value >= outcomes[0].value - NOTHING]
    alike.sort(key=lambda outcome: outcome.median["usd"])
    return [outcome.plan for outcome in [*alike[:_TRIES], *outcomes[:_TRIES]]]


def _keeping(question: Question, plans: Sequence[Plan]) -> Finalist | None:
    """The first plan whose longer forecast keeps the limits too."""
    judged = (_judged(question, plan) for plan in plans)
    return next((one for one in judged if keeps(question, one.forecast)), None)


def _judged(question: Question, plan: Plan) -> Finalist:
    made = forecast(scenario_of(question, plan, draws=JUDGING_DRAWS))
    return Finalist(plan=plan, forecast=made, utility_N=question.utility(made.scores_DN))


def keeps(question: Question, made: Forecast) -> bool:
    """Whether a forecast keeps every limit and minimum with the asked confidence."""
    costs = {"gpu_hours": made.gpu_hours_N, "usd": made.usd_N, "days": made.days_N}
    within = [np.mean(costs[name] <= limit) for name, limit in question.limits.items()]
    index = made.world.index
    within += [np.mean(made.scores_DN[index[name]] >= least) for name, least in question.minimum.items()]
    return all(share >= question.confidence for share in within)


def probability_better(question: Question, one: Finalist, other: Finalist) -> float:
    """`how_often` of two finalists."""
    return how_often(question, one.utility_N, other.utility_N)


def how_often(question: Question, one_N: Array, other_N: Array) -> float:
    """How often `one` is better in the same world; equal counts half. Under objective p10: how often it is `one` that
    stays above the bar between the two plans' P10, of the worlds in which only one of the two does.
    """
    if question.objective == "p10":
        bar = (question.value(one_N) + question.value(other_N)) / 2
        apart_N = (one_N >= bar) != (other_N >= bar)
        return float(np.mean(one_N[apart_N] >= bar)) if apart_N.any() else 0.5
    return float(np.mean(one_N > other_N) + np.mean(one_N == other_N) / 2)


def verdict(question: Question, recommended: Finalist, other: Finalist) -> str:
    """`tie` unless one is better in most worlds, by more than the floor; else the better one's label."""
    probability = probability_better(question, other, recommended)
    if question.objective == "p10":
        ahead = float(question.value(other.utility_N) - question.value(recommended.utility_N))
    else:
        ahead = float(np.median(other.utility_N - recommended.utility_N))
    if max(probability, 1 - probability) < SURE or abs(ahead) < FLOOR:
        return TIE
    return other.plan.label if probability > 0.5 else recommended.plan.label


MOST = 40  # points shown
_DIGITS = 3  # of the objective: a smaller difference is none


def undominated(points_PX: Array) -> list[int]:
    """Places of the points that no other point equals or betters in every column (less is better), and betters in
    one; of equal points the first."""
    left_P = np.lexsort(points_PX.T[::-1])  # no point is beaten by a later one
    left_XP = points_PX[left_P].T
    kept: list[int] = []
    while left_P.size:
        kept.append(int(left_P[0]))
        unbeaten_P = (left_XP < left_XP[:, :1]).any(axis=0)
        left_P, left_XP = left_P[unbeaten_P], left_XP[:, unbeaten_P]
    return kept


def frontier(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes that no other beats in median dollars, median days and objective at once, cheapest first; of many,
    spread evenly."""
    if not outcomes:
        return []
    points_PX = np.array([[o.median["usd"], o.median["days"], -round(o.value, _DIGITS)] for o in outcomes])
    kept = sorted(undominated(points_PX), key=lambda place: (points_PX[place, 0], points_PX[place, 2]))
    if len(kept) > MOST:
        best = min(kept, key=lambda place: points_PX[place, 2])
        spread = {kept[round(place)] for place in np.linspace(0, len(kept) - 1, MOST - 1)}
        kept = [place for place in kept if place in spread | {best}]
    return [outcomes[place] for place in kept]


_RELAXED = (4.0, 16.0, 64.0)  # limits tried, in multiples, where a minimum score is out of reach
_KEYS = {"gpu_hours": "budget_gpu_hours", "usd": "budget_usd", "days": "deadline_days"}


def infeasible(question: Question, found: Found) -> InfeasibleError:
    """The error to raise: one sentence with the binding limit and the nearest feasible one."""
    good = [outcome for outcome in found.outcomes if not _missing(question, outcome)]
    for factor in _RELAXED:
        if good:
            break
        good = [o for o in explore(relaxed(question, factor)).outcomes if not _missing(question, o)]
    if not good:
        return _out_of_reach(question, found)
    limits = question.limits.items()  # by what factor they would have to be widened for a plan
    nearest = min(good, key=lambda outcome: max(outcome.surely[name] / limit for name, limit in limits))
    binding = {name: limit for name, limit in question.limits.items() if nearest.surely[name] > limit}
    if set(binding) == {"usd"} and not question.minimum:
        return InfeasibleError(
            f"budget_usd = {binding['usd']:g} buys no plan with probability {question.confidence:g}: the least that "
            f"does is budget_usd = {_up(nearest.surely['usd']):g} ({nearest.plan.label})"
        )
    asked = " and ".join(f"{_KEYS[name]} = {limit:g}" for name, limit in binding.items())
    needed = ", ".join(f"{_KEYS[name]} = {_up(nearest.surely[name]):g}" for name in binding)
    minimum = "".join(f" with minimum.{name} = {least:g}" for name, least in question.minimum.items())
    return InfeasibleError(
        f"no plan keeps {asked}{minimum} with probability {question.confidence:g}: what binds is "
        f"{' and '.join(_KEYS[name] for name in binding)}; the nearest that one keeps is {needed} "
        f"({nearest.plan.label})"
    )


def relaxed(question: Question, factor: float) -> Question:
    """The question with every limit multiplied."""

    def times(limit: float | None) -> float | None:
        return None if limit is None else limit * factor

    base = replace(
        question.base,
        budget_usd=times(question.base.budget_usd),
        deadline_days=times(question.base.deadline_days),
    )
    return replace(question, base=base, budget_gpu_hours=times(question.budget_gpu_hours))


def _out_of_reach(question: Question, found: Found) -> InfeasibleError:
    """No budget helps: the score itself is beyond every plan."""
    name, least = min(
        question.minimum.items(), key=lambda row: max(o.lowest[row[0]] for o in found.outcomes) - row[1]
    )
    reached = max(outcome.lowest[name] for outcome in found.outcomes)
    return InfeasibleError(
        f"minimum.{name} = {least:g} is what binds: the highest score of {name} that a plan within the limits keeps "
        f"with probability {question.confidence:g} is {reached:.3f}, and limits {_RELAXED[-1]:g} times as wide do not "
        "meet all minima; lower the minimum or the confidence"
    )


def _missing(question: Question, outcome: Outcome) -> bool:
    return any(outcome.lowest[name] < least for name, least in question.minimum.items())


def _up(value: float) -> float:
    """Rounded up to three digits, so that asking again with it succeeds."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 2)
    return float(np.ceil(value / unit) * unit)
