"""Pilots: small studies, the parameters that each measures, and what it costs in GPU-hours and money.

Costs are medians of the stages' own bills on the fewest GPUs on which they fit. Leaves out: what a pilot is worth
(`mopdsim.plan.answer.information`), pilots for the collapse of a student, which needs the full scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.stage_cost import EVALUATIONS, bill
from mopdsim.forecast.forecast import HOUR
from mopdsim.plan.question import Question
from mopdsim.plan.search.candidate import Group
from mopdsim.plan.search.evaluation import splits
from mopdsim.plan.search.stock import STUDENT, Stock, equal_shares, run_kind, stage_of
from mopdsim.recipes.recipe import Distill, Rl, Teacher, TrainedStage

IDENTIFIED = 3.0  # midpoints until an asymptote is identified (science: standard error .017 at three)
_FOLDS = 2.0  # of the distillation's gap: to 1/e^2


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """A study: its name, what is run (short: in at most six words) and what that tells, the parameters it measures, and
    its price."""

    name: str
    short: str
    title: str
    what: str
    parameters: tuple[str, ...]
    gpu_hours: float
    usd: float


def pilots(question: Question, stock: Stock) -> list[Pilot]:
    """All pilots that the question's domains allow."""
    domains = question.domains
    shop = _Prices(question, stock)
    found = [_base_scores(shop)]
    for name in domains:
        facts = tuple(f"{fact}:{name}" for fact in ("start", "asymptote", "midpoint", "steepness", "length"))
        spills = tuple(f"spill:{name}>{other}" for other in domains if other != name)
        found.append(
            shop.pilot(
                f"rl:{name}",
                f"longer RL on {name}",
                f"a longer RL run on {name} alone",
                "how high and how fast it climbs, and what that does to the other domains",
                (*facts, *spills),
                shop.rl((name,), IDENTIFIED),
            )
        )
    if len(domains) == 1:
        return found
    for name in domains:
        found.append(
            shop.pilot(
                f"handover:{name}",
                f"distilling one {name} teacher",
                f"a small teacher of {name} distilled into one student",
                "how many tokens it takes to hand the domain over",
                (f"distill_tokens:{name}",),
                shop.rl((name,), 1.0) + shop.distillation((name,)),
            )
        )
    for one, other in combinations(domains, 2):
        found.append(
            shop.pilot(
                f"pair:{one}+{other}",
                f"short RL on {one} and {other}",
                f"a short RL run on {one} and {other} together",
                "whether they help or hurt each other",
                (f"conflict:{one}>{other}", f"conflict:{other}>{one}"),
                shop.rl((one, other), 1.0),
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
    tokens = tuple(f"distill_tokens:{name}" for name in pair)
    found = [
        shop.pilot(
            "distillation",
            "two small teachers",
            f"small teachers of {joined} distilled into one student",
            "how fast and how close a student follows, and how much conflict comes back",
            ("conflict_share", "cap_gap", "inherited_bias", *tokens),
            teachers + student,
        ),
        shop.pilot(
            "distillation with reward",
            "two small teachers with reward",
            f"small teachers of {joined} distilled into one student, with and without a reward mixed in",
            "how far the reward lifts a student past its teachers",
            ("reward_gain",),
            teachers + 2 * student,
        ),
        shop.pilot(
            "merge",
            "merging two small specialists",
            f"small specialists of {joined} merged at several scales",
            "how much less than its weight a merge keeps of a specialist's gain",
            ("merge_exponent",),
            teachers,
        ),
        shop.pilot(
            "cascade",
            "a short cascade",
            f"short RL runs on {joined} one after the other, with and without old prompts mixed in",
            "how much is forgotten, and how far training moves the weights",
            ("forgetting", "climb_kl"),
            2 * teachers,
        ),
    ]
    return found


def _base_scores(shop: _Prices) -> Pilot:
    """The base, scored on every domain: one of the evaluations that any stage is billed for."""
    question, stock = shop.question, shop.stock
    stage = _run(question.domains)
    seconds = bill(
        stage, question.amounts("rl", 2), stock.domains, stock.machine, gpus=question.pool
    ).seconds["evaluation"]
    return shop.pilot(
        "base scores",
        "scoring the base",
        "the base scored on every domain",
        "where each domain starts",
        tuple(f"start:{name}" for name in question.domains),
        seconds / EVALUATIONS * question.pool / HOUR,
    )


class _Prices:
    """GPU-hours of pilot runs."""

    def __init__(self, question: Question, stock: Stock) -> None:
        self.question = question
        self.stock = stock

    def pilot(
        self, name: str, short: str, title: str, what: str, parameters: tuple[str, ...], gpu_hours: float
    ) -> Pilot:
        """A pilot with its price in money."""
        usd = gpu_hours * self.question.usd_per_gpu_hour
        return Pilot(
            name=name,
            short=short,
            title=title,
            what=what,
            parameters=parameters,
            gpu_hours=gpu_hours,
            usd=usd,
        )

    def rl(self, group: Group, midpoints: float) -> float:
        """RL until every domain of the group has had so many midpoints of compute."""
        stage = _run(group)
        rows = [self.stock.domains[name].midpoint.value for name in group]
        amounts = self.question.amounts("rl", 1)
        per_step = self.stock.effort(_key(stage), stage, amounts, np.array([1])).compute_N
        steps = max(2, round(midpoints * sum(rows) / float(np.median(per_step))))
        return self._hours(stage, steps)

    def distillation(self, group: Group) -> float:
        """Distillation of a group until its gaps are closed to 1/e^2."""
        teachers = tuple(Teacher(stage=f"pilot_{place}", domains=(name,)) for place, name in enumerate(group))
        stage = Distill(name=STUDENT, domains=dict.fromkeys(group, 1.0), teachers=teachers)
        tokens = sum(self.stock.domains[name].distill_tokens.value for name in group)
        amounts = self.question.amounts("distill", 1)
        per_step = self.stock.effort(_key(stage), stage, amounts, np.array([1])).tokens_N
        return self._hours(stage, max(2, round(_FOLDS * tokens / float(np.median(per_step)))))

    def _hours(self, stage: TrainedStage, steps: int) -> float:
        """Median GPU-hours on the fewest GPUs that it fits on; it does on the pool, or there would be no plan."""
        amounts = self.question.amounts(stage.kind, 1)
        for gpus in reversed(splits(self.question.pool)):
            seconds_CN = self.stock.seconds(_key(stage), stage, amounts, np.array([steps]), gpus)
            if seconds_CN is not None:
                return float(np.median(seconds_CN)) * gpus / HOUR
        raise InfeasibleError(
            f"a pilot of {', '.join(stage.domains)} does not fit on {self.question.pool} GPUs"
        )


def _run(group: Group) -> Rl:
    """RL of a pilot on these domains."""
    return stage_of(run_kind("pilot", equal_shares(group), "token"))


def _key(stage: TrainedStage) -> tuple[str, tuple[str, ...]]:
    """What tells the stages of pilots apart."""
    return f"pilot {stage.kind}", tuple(stage.domains)
