"""Pilots: small studies, the parameters that each measures, and what it costs in GPU-hours.

Costs are medians of the stages' own bills on the fewest GPUs on which they fit. Leaves out: what a pilot is worth
(`mopdsim.planning.information`), pilots for the collapse of a student, which needs the full scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mopdsim.errors import InfeasibleError
from mopdsim.forecast import HOUR
from mopdsim.planning.candidate import Group
from mopdsim.planning.evaluation import splits
from mopdsim.planning.question import Question
from mopdsim.planning.stock import STUDENT, Stock, run_stage
from mopdsim.recipe import Distill, Teacher, TrainedStage
from mopdsim.stage_cost import EVALUATIONS, bill

IDENTIFIED = 3.0  # midpoints until an asymptote is identified (science: standard error .017 at three)
_FOLDS = 2.0  # of the distillation's gap: to 1/e^2


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """A study: its name, what it measures in words, the parameters' names, and its price."""

    name: str
    what: str
    parameters: tuple[str, ...]
    gpu_hours: float


def pilots(question: Question, stock: Stock) -> list[Pilot]:
    """All pilots that the question's domains allow."""
    domains = question.domains
    shop = _Prices(question, stock)
    found = [_base_scores(question, stock)]
    for name in domains:
        facts = tuple(f"{fact}:{name}" for fact in ("start", "asymptote", "midpoint", "steepness"))
        spills = tuple(f"spill:{name}>{other}" for other in domains if other != name)
        found.append(
            Pilot(
                name=f"rl:{name}",
                what=f"RL on {name} alone to {IDENTIFIED:g} midpoints: how high and how fast it climbs, and what it "
                "does to the others",
                parameters=(*facts, *spills),
                gpu_hours=shop.rl((name,), IDENTIFIED),
            )
        )
    if len(domains) == 1:
        return found
    for one, other in combinations(domains, 2):
        found.append(
            Pilot(
                name=f"pair:{one}+{other}",
                what=f"RL on {one} and {other} together to both midpoints: how they act on each other",
                parameters=(f"conflict:{one}>{other}", f"conflict:{other}>{one}"),
                gpu_hours=shop.rl((one, other), 1.0),
            )
        )
    return found + _mechanisms(domains, shop)


def _mechanisms(domains: Group, shop: _Prices) -> list[Pilot]:
    """Pilots of what is common to all domains, on the cheapest of them."""
    cheap = tuple(sorted(domains, key=lambda name: shop.rl((name,), 1.0))[:3])
    pair = cheap[:2]
    teachers = shop.rl(pair[:1], 1.0) + shop.rl(pair[1:], 1.0)
    student = shop.distillation(pair)
    joined = " and ".join(pair)
    tokens = tuple(f"distill_tokens:{name}" for name in domains)
    found = [
        Pilot(
            name="distillation",
            what=f"teachers of {joined} to their midpoints, distilled: how fast, how close, and with what conflict",
            parameters=("distill_rate", "distill_conflict_share", "cap_gap", "inherited_bias", *tokens),
            gpu_hours=teachers + student,
        ),
        Pilot(
            name="distillation with reward",
            what=f"the same with the verifiable reward mixed in, on {joined}",
            parameters=("reward_gain",),
            gpu_hours=teachers + 2 * student,
        ),
        Pilot(
            name="off-policy",
            what=f"teachers of {joined}, and fine-tuning on their samples",
            parameters=("exposure", "imitation_forgetting"),
            gpu_hours=teachers + student,
        ),
        Pilot(
            name="merge",
            what=f"teachers of {joined}, merged at several scales",
            parameters=("merge_overlap",),
            gpu_hours=teachers,
        ),
        Pilot(
            name="cascade",
            what=f"{joined} one after the other, with and without replay: what is forgotten",
            parameters=("forgetting", "replay_half", "climb_kl"),
            gpu_hours=2 * teachers,
        ),
    ]
    if len(cheap) > 2:
        found.append(
            Pilot(
                name="triple",
                what=f"RL on {', '.join(cheap)} together: how conflict grows with companions and slows the climb",
                parameters=("pair_exponent", "efficiency_shift"),
                gpu_hours=shop.rl(cheap, 1.0),
            )
        )
    return found


def _base_scores(question: Question, stock: Stock) -> Pilot:
    """The base, scored on every domain: one of the evaluations that any stage is billed for."""
    stage = run_stage("pilot", question.domains, "token")
    seconds = bill(
        stage, question.amounts("rl", 2), stock.domains, stock.machine, gpus=question.pool
    ).seconds["evaluation"]
    return Pilot(
        name="base scores",
        what="the base scored on every domain: where each starts",
        parameters=tuple(f"start:{name}" for name in question.domains),
        gpu_hours=seconds / EVALUATIONS * question.pool / HOUR,
    )


class _Prices:
    """GPU-hours of pilot runs."""

    def __init__(self, question: Question, stock: Stock) -> None:
        self.question = question
        self.stock = stock

    def rl(self, group: Group, midpoints: float) -> float:
        """RL until every domain of the group has had so many midpoints of compute."""
        stage = run_stage("pilot", group, "token")
        rows = [self.stock.domains[name].midpoint.value for name in group]
        amounts = self.question.amounts("rl", 1)
        per_step = self.stock.effort(stage, amounts, np.ones(1), self.question.pool).compute_N
        steps = max(2, round(midpoints * sum(rows) / float(np.median(per_step))))
        return self._hours(stage, steps)

    def distillation(self, group: Group) -> float:
        """Distillation of a group until its gaps are closed to 1/e^2."""
        teachers = tuple(Teacher(stage=f"pilot_{place}", domains=(name,)) for place, name in enumerate(group))
        stage = Distill(name=STUDENT, domains=dict.fromkeys(group, 1.0), teachers=teachers)
        tokens = sum(self.stock.domains[name].distill_tokens.value for name in group)
        amounts = self.question.amounts("distill", 1)
        per_step = self.stock.effort(stage, amounts, np.ones(1), self.question.pool).tokens_N
        return self._hours(stage, max(2, round(_FOLDS * tokens / float(np.median(per_step)))))

    def _hours(self, stage: TrainedStage, steps: int) -> float:
        """Median GPU-hours on the fewest GPUs that it fits on; it does on the pool, or there would be no plan."""
        amounts = self.question.amounts(stage.kind, steps)
        for gpus in reversed(splits(self.question.pool)):
            seconds_N = self.stock.seconds(stage, amounts, gpus)
            if seconds_N is not None:
                return float(np.median(seconds_N)) * gpus / HOUR
        raise InfeasibleError(
            f"a pilot of {', '.join(stage.domains)} does not fit on {self.question.pool} GPUs"
        )
