"""The few plans that are compared at the end, each with the forecast of its scenario over more draws.

The search selects on few draws and so flatters its winner; here the best structures, and the best of each family, meet
a longer row of the same worlds, and are ranked again. Of plans that are as good, the cheapest is taken.
Axes: F finalist, N draw. Leaves out: the search itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import Calibration
from mopdsim.forecast.compare import MEASURES, SURE, TIE
from mopdsim.forecast.forecast import Forecast, efforts_of, forecast
from mopdsim.plan.question import JUDGING_DRAWS, Question
from mopdsim.plan.search.candidate import Plan, scenario_of
from mopdsim.plan.search.evaluation import Outcome
from mopdsim.plan.search.explore import Found
from mopdsim.quality.walk import Effort, State, walk
from mopdsim.quality.world import World
from mopdsim.recipes.recipe import ROOTS, AnyStage, Distill, Rl

FLOOR = MEASURES["mean_score"].floor  # differences of score below it are nothing
NOTHING = 0.002  # by so much less of the objective, the cheaper plan of a structure is taken
COLUMNS = ("mixed RL", "best MOPD", "best other")  # that stand side by side at equal dollars
_STRUCTURES = 5
_TRIES = 6  # plans of a structure whose forecast is made until one keeps the limits


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A plan with its forecast; utility_N: what counts, by draw."""

    plan: Plan
    forecast: Forecast
    utility_N: Array

    def utility_in(self, question: Question, world: World, made: Mapping[str, State] | None = None) -> Array:
        """What counts if the world were this one, (N,); costs do not depend on it. made: states that are the same in
        it."""
        recipe = self.forecast.scenario.recipe
        state = walk(recipe, world, self.efforts_in(world), explain=False, made=made)[recipe.output]
        return question.utility(state.score_DN)

    @cached_property
    def alone(self) -> Mapping[str, State]:
        """What RL on one domain leaves that starts from a root: neither conflict nor what students lose acts on it."""
        return self._made_by(
            lambda stage: isinstance(stage, Rl) and len(stage.domains) == 1 and stage.init in ROOTS
        )

    @cached_property
    def before_students(self) -> Mapping[str, State]:
        """What stages leave that learn from no student: what students lose does not act on it."""
        recipe = self.forecast.scenario.recipe
        taught = {stage.name for stage in recipe.stages if isinstance(stage, Distill)}
        return self._made_by(lambda stage: not taught & {stage.name, *recipe.ancestors(stage.name)})

    def _made_by(self, wanted: Callable[[AnyStage], bool]) -> Mapping[str, State]:
        made = self.forecast
        return {stage.name: made.states[stage.name] for stage in made.scenario.recipe.stages if wanted(stage)}

    def efforts_in(self, world: World) -> Mapping[str, Effort]:
        """What the stages learn from in this world: of all it holds, the cost of stale samples alone acts on it."""
        made = self.forecast
        if world.constants["staleness_cost"] is made.world.constants["staleness_cost"]:
            return made.efforts
        scenario = replace(made.scenario, draws=world.start_DN.shape[-1])
        return efforts_of(scenario, made.bills, world)


def finalists(question: Question, found: Found, calibration: Calibration | None = None) -> list[Finalist]:
    """The best plan of each of the best structures and of each family that keeps the limits: the recommended one, which
    is the cheapest of those that tie with the best and come within `FLOOR` of it, then the others, best first."""
    best = found.by_structure(found.feasible)
    families: dict[object, Plan] = {}
    for outcome in best:
        families.setdefault(outcome.plan.family, outcome.plan)
    wanted = dict.fromkeys(
        [*(o.plan.structure for o in best[:_STRUCTURES]), *(p.structure for p in families.values())]
    )
    alike: dict[object, list[Outcome]] = {structure: [] for structure in wanted}
    for outcome in found.feasible:
        if outcome.plan.structure in alike:
            alike[outcome.plan.structure].append(outcome)
    judged = []
    for outcomes in alike.values():
        one = _keeping(question, _worth_trying(outcomes), calibration)
        if one is not None:
            judged.append(one)
    values = {one.plan: float(question.value(one.utility_N)) for one in judged}
    judged.sort(key=lambda one: -values[one.plan])
    as_good = [
        one
        for one in judged
        if values[one.plan] >= values[judged[0].plan] - FLOOR and verdict(question, judged[0], one) == TIE
    ]
    cheapest = min(as_good, key=lambda one: float(np.median(one.forecast.gpu_hours_N)), default=None)
    return [one for one in judged if one is cheapest] + [one for one in judged if one is not cheapest]


def at_equal_dollars(
    question: Question, found: Found, recommended: Finalist, calibration: Calibration | None = None
) -> dict[str, Finalist]:
    """The best of one mixed run, of distillation from several teachers and of all other kinds among the plans that keep
    the limits and cost no more than the recommended one, which stands in its own column."""
    dollars = float(np.median(recommended.forecast.usd_N))
    chosen = {_column(recommended.plan): recommended}
    for outcome in found.feasible:
        column = _column(outcome.plan)
        if column not in chosen and outcome.median["usd"] <= dollars:
            made = forecast(scenario_of(question, outcome.plan, draws=JUDGING_DRAWS), calibration)
            chosen[column] = Finalist(
                plan=outcome.plan, forecast=made, utility_N=question.utility(made.scores_DN)
            )
    return {column: chosen[column] for column in COLUMNS if column in chosen}


def _column(plan: Plan) -> str:
    return {"mixed_rl": COLUMNS[0], "mopd": COLUMNS[1]}.get(plan.family, COLUMNS[2])


def _worth_trying(outcomes: Sequence[Outcome]) -> list[Plan]:
    """A structure's outcomes (given best first) in the order to try them: those that tie with the best,
    cheapest first, then the rest."""
    alike = [outcome for outcome in outcomes if outcome.value >= outcomes[0].value - NOTHING]
    alike.sort(key=lambda outcome: outcome.median["usd"])
    return [outcome.plan for outcome in [*alike[:_TRIES], *outcomes[:_TRIES]]]


def _keeping(question: Question, plans: Sequence[Plan], calibration: Calibration | None) -> Finalist | None:
    """The first plan whose longer forecast keeps the limits too."""
    for plan in plans:
        made = forecast(scenario_of(question, plan, draws=JUDGING_DRAWS), calibration)
        if keeps(question, made):
            return Finalist(plan=plan, forecast=made, utility_N=question.utility(made.scores_DN))
    return None


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
