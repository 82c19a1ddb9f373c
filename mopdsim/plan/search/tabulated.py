"""Plans of several rounds of distillation: one table of the search a structure.

Leaves out: plans of one round (`mopdsim.plan.search.assembled`), cascades (`mopdsim.plan.search.chained`), the
arithmetic (`mopdsim.plan.search.tables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration
from mopdsim.plan.question import Question
from mopdsim.plan.search.assembled import Outcomes
from mopdsim.plan.search.candidate import Plan, scenario_of
from mopdsim.plan.search.tables import Table, tabulate
from mopdsim.recipes.recipe import Distill, Rl


def table_key(plan: Plan) -> Plan:
    """The plan with what a table varies set aside: plans of one key share a table."""
    ones = (2,) * len(plan.rl_steps)
    return replace(plan, rl_steps=ones, distill_steps=2 if plan.distill_steps else 0)


class Tables:
    """Evaluates plans of one table side by side."""

    def __init__(self, question: Question, calibration: Calibration | None) -> None:
        self.question = question
        self.calibration = calibration
        self._tables: dict[Plan, Table | None] = {}

    def evaluate(self, plans: Sequence[Plan]) -> Outcomes:
        """Scores, hours and days of plans of one key."""
        key = table_key(plans[0])
        options = tuple(dict.fromkeys((key.gpus, key.student_gpus)))
        if key not in self._tables:
            self._tables[key] = self._table(key, options)
        table = self._tables[key]
        if table is None:
            return self._unfit(len(plans))
        recipe = table.scenario.recipe
        runs = [name for name in table.names if isinstance(recipe.stage[name], Rl)]
        steps_CJ = np.ones((len(plans), len(table.names)), dtype=np.int64)
        option_CJ = np.zeros_like(steps_CJ)
        for place, name in enumerate(table.names):
            if isinstance(recipe.stage[name], Distill):
                steps_CJ[:, place] = [plan.distill_steps for plan in plans]
                option_CJ[:, place] = options.index(key.student_gpus)
            else:
                group = runs.index(name) % len(key.groups)
                steps_CJ[:, place] = [plan.rl_steps[group] for plan in plans]
        found = table.evaluate(steps_CJ, option_CJ)
        return Outcomes(scores_DCN=found.scores_DCN, gpu_hours_CN=found.gpu_hours_CN, days_CN=found.days_CN)

    def _table(self, key: Plan, options: tuple[int, ...]) -> Table | None:
        """The structure's table; None where a stage fits on none of the plan's numbers of GPUs."""
        try:
            return tabulate(scenario_of(self.question, key), options, self.calibration)
        except InfeasibleError:
            return None

    def _unfit(self, count: int) -> Outcomes:
        """Plans that never end."""
        shape = (count, self.question.base.draws)
        return Outcomes(
            scores_DCN=np.zeros((len(self.question.domains), *shape)),
            gpu_hours_CN=np.full(shape, np.inf),
            days_CN=np.full(shape, np.inf),
        )
