"""Cascades put together from pieces, many side by side: RL on one domain after the other, beginnings that plans share.

Two cascades whose first steps are the same pass through the same scores; each such beginning is walked once. Steps
follow one another, so that seconds add up. Axes: D domain, C candidate, N draw. Leaves out: several rounds of
distillation (`mopdsim.plan.search.tabulated`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.forecast.forecast import DAY, HOUR
from mopdsim.plan.search.assembled import Outcomes
from mopdsim.plan.search.candidate import Plan
from mopdsim.plan.search.stock import Stock
from mopdsim.quality.walk import Products, State, perform
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import AnyStage, Recipe

Kind = tuple[object, ...]  # of a step: its place, domain, the domains before, and how it is trained
Beginning = tuple[object, ...]  # of a cascade: how it is trained, then (domain, steps) in their order


class Chains:
    """Evaluates cascades, remembering the scores after every beginning and the seconds of every step."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self._stages: dict[Kind, tuple[AnyStage, Recipe]] = {}
        self._reached: dict[Beginning, tuple[Array, Array]] = {}
        self._seconds: dict[tuple[Kind, int, int], Array | None] = {}
        count = len(stock.question.domains)
        self._world = stock.seeded(tuple(f"step_{place + 1}" for place in range(count)))

    def evaluate(self, plans: Sequence[Plan]) -> Outcomes:
        """Scores, hours and days of cascades."""
        last = len(self.stock.question.domains)
        for place in range(last):
            self._walk([plan for plan in plans if _beginning(plan, place + 1) not in self._reached], place)
            self._time(plans, place)
        hours, days = zip(*(self._costs(plan) for plan in plans), strict=True)
        return Outcomes(
            scores_DCN=np.stack([self._reached[_beginning(plan, last)][0] for plan in plans], axis=1),
            gpu_hours_CN=np.stack(hours),
            days_CN=np.stack(days),
        )

    def _walk(self, plans: Sequence[Plan], place: int) -> None:
        """The scores after the step at `place`, where those before it are known."""
        alike: dict[Kind, dict[Beginning, Plan]] = {}
        for plan in plans:
            alike.setdefault(self._kind(plan, place), {})[_beginning(plan, place + 1)] = plan
        question, world = self.stock.question, self._world
        for kind, found in alike.items():
            (stage, recipe), chosen = self._stages[kind], list(found.values())
            steps_C = np.array([plan.rl_steps[place] for plan in chosen])
            effort = self.stock.effort(stage, recipe.amounts[stage.name], steps_C, chosen[0].gpus)
            start_DN = np.broadcast_to(world.start_DN, (len(world.names), len(chosen), question.base.draws))
            scores_DCN, lifted_DCN = start_DN, np.zeros_like(start_DN)
            if place:
                before = [self._reached[_beginning(plan, place)] for plan in chosen]
                scores_DCN, lifted_DCN = (np.stack(rows, axis=1) for rows in zip(*before, strict=True))
            state = State(
                score_DN=scores_DCN,
                kl_N=np.zeros(scores_DCN.shape[1:]),
                lineage=(),
                waterfall=None,
                lifted_DN=lifted_DCN,
            )
            earlier = Products(states={stage.init: state}, judges={}, datasets={})
            after = perform(stage, recipe, world, effort, earlier)
            assert isinstance(after, State) and after.lifted_DN is not None
            for number, beginning in enumerate(found):
                self._reached[beginning] = after.score_DN[:, number], after.lifted_DN[:, number]

    def _time(self, plans: Sequence[Plan], place: int) -> None:
        """The seconds of the step at `place`."""
        wanted: dict[tuple[Kind, int], set[int]] = {}
        for plan in plans:
            kind, steps = self._kind(plan, place), plan.rl_steps[place]
            if (kind, steps, plan.gpus) not in self._seconds:
                wanted.setdefault((kind, plan.gpus), set()).add(steps)
        for (kind, gpus), counts in wanted.items():
            (stage, recipe), ordered = self._stages[kind], sorted(counts)
            seconds_CN = self.stock.seconds(stage, recipe.amounts[stage.name], np.array(ordered), gpus)
            for number, steps in enumerate(ordered):
                self._seconds[kind, steps, gpus] = None if seconds_CN is None else seconds_CN[number]

    def _costs(self, plan: Plan) -> tuple[Array, Array]:
        """GPU-hours and days, (N,); infinite where a step does not fit."""
        total_N = np.zeros(self.stock.question.base.draws)
        for place, steps in enumerate(plan.rl_steps):
            seconds_N = self._seconds[self._kind(plan, place), steps, plan.gpus]
            total_N = total_N + (np.inf if seconds_N is None else seconds_N)
        return total_N * plan.gpus / HOUR, total_N / DAY

    def _kind(self, plan: Plan, place: int) -> Kind:
        """What the step at `place` is; its stage, and the recipe with the amounts of one step, as the catalogue has
        them."""
        order = [group[0] for group in plan.groups]
        before = frozenset(order[:place]) if plan.replay else None
        kind = (place, order[place], before, plan.normalizer, plan.replay)
        if kind not in self._stages:
            question = self.stock.question
            made = catalogue.cascade_rl(
                question.domains, amounts=question.amounts_name, order=order, replay=plan.replay
            )
            one_step = {stage.name: question.amounts("rl", 1) for stage in made.stages}
            stage = made.stages[place].model_copy(update={"normalizer": plan.normalizer})
            self._stages[kind] = stage, made.with_amounts(one_step)
        return kind


def _beginning(plan: Plan, count: int) -> Beginning:
    """What fixes the scores after so many steps."""
    return plan.normalizer, plan.replay, *zip(plan.groups[:count], plan.rl_steps[:count], strict=True)
