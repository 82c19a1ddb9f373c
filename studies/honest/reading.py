"""What an honest test says, as a referee asks it: new studies apart from near repeats, ordinary rates apart from bold
ones, differences between recipes, and regret beside rules that need no simulator. Every row names its winner.

Leaves out: the forecasts (`studies.honest.trials`), the words (`studies.honest.text`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mopdsim.recipes.stage import BOLD, default_amounts
from studies.designs.skill.contest import SWITCH
from studies.honest.baselines import own_expert, said
from studies.honest.held_out import POINTS, Contest, Trial
from studies.honest.prospective import CHOICES, MIXED_BUT_BOLD
from studies.honest.scoring import regret

PROSPECTIVE = (
    "choice_again",
    "size_again",
    "size_fresh",
    "order",
    "order_again",
    "order_fresh",
    "conflict",
    "teachers",
    "breaking",
    "caps",
)  # new conditions
TIE = 1.0  # points: differences nearer to zero count as none
_USUAL = default_amounts("tiny", "rl").learning_rate


def read(trials: Sequence[Trial], contests: Sequence[Contest]) -> dict[str, Any]:
    """Of the scores in set and the conditions held out: rows of scores by kind and rate, differences between recipes,
    regrets. JSON."""
    kinds: Mapping[str, Callable[[Trial], bool]] = {
        "new studies": lambda trial: trial.study in PROSPECTIVE,
        "near repeats": lambda trial: trial.study not in PROSPECTIVE,
    }
    scores = []
    for kind, chosen in kinds.items():
        for regime in ("ordinary", "bold"):
            own = [
                trial
                for trial in trials
                if chosen(trial) and (trial.rate > BOLD * _USUAL) == (regime == "bold")
            ]
            if own:
                scores.append({"held out": kind, "rates": regime, **_scored(own)})
    pairs = [
        _difference(contest, one, other)
        for contest in contests
        for one, other in combinations(contest.measured, 2)
    ]
    return {
        "scores": scores,
        "differences": [
            {"difference": name, **_differed([pair for pair in pairs if pair["name"] == name])}
            for name in sorted({pair["name"] for pair in pairs})
        ]
        + [{"difference": "all", **_differed(pairs)}] * bool(pairs),
        "regret": _regrets(contests),
    }


def _scored(trials: Sequence[Trial]) -> dict[str, Any]:
    ours = POINTS * float(np.mean([abs(trial.median - trial.truth) for trial in trials]))
    rule = POINTS * float(np.mean([abs(said(own_expert, trial.cell) - trial.truth) for trial in trials]))
    ends = [trial.interval for trial in trials]
    inside = [low <= trial.truth <= high for trial, (low, high) in zip(trials, ends, strict=True)]
    return {
        "scores": len(trials),
        "simulator": ours,
        "own expert": rule,
        "winner": _winner({"simulator": ours, "own expert": rule}),
        "80% covers": float(np.mean(inside)),
        "width_points": POINTS * float(np.mean([high - low for low, high in ends])),
    }


def _difference(contest: Contest, one: str, other: str) -> dict[str, Any]:
    first, second = sorted((one, other))
    said, was = (POINTS * (of[first] - of[second]) for of in (contest.predicted, contest.measured))
    low, high = contest.gaps[f"{first} - {second}"]
    error = math.hypot(*(contest.errors.get(name, math.inf) for name in (first, second)))
    sure = abs(was) > 2 * POINTS * error
    return {
        "name": f"{first} - {second}", "said": said, "was": was, "inside": low <= was <= high, "sure": sure,
    }  # fmt: skip


def _differed(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sign, error and coverage. A difference within the tie is none. Sure are those beyond two standard errors over
    prompts; there a forecast of no difference is wrong."""
    signs = [(_sign(pair["said"]), _sign(pair["was"])) for pair in pairs]
    ours = float(np.mean([abs(pair["said"] - pair["was"]) for pair in pairs]))
    none = float(np.mean([abs(pair["was"]) for pair in pairs]))
    sure = [pair for pair in pairs if pair["sure"]]
    return {
        "conditions": len(pairs),
        "sign right": sum(said == was for said, was in signs),
        "sign wrong": sum(said * was < 0 for said, was in signs),
        "tie on one side": sum(said != was and said * was == 0 for said, was in signs),
        "beyond 2 errors": len(sure),
        "of them right": sum(_sign(pair["said"]) == _sign(pair["was"]) for pair in sure),
        "simulator": ours,
        "no difference": none,
        "winner": _winner({"simulator": ours, "no difference": none}),
        "80% covers": float(np.mean([pair["inside"] for pair in pairs])),
    }


def _sign(points: float) -> int:
    return 0 if abs(points) <= TIE else int(np.sign(points))


def _regrets(contests: Sequence[Contest]) -> list[dict[str, Any]]:
    """Mean points lost by each way to choose, over the conditions that ran both mixed RL and MOPD."""
    both = [contest for contest in contests if {"mixed_rl", "mopd"} <= contest.measured.keys()]
    if not both:
        return []
    measured = [contest.measured for contest in both]
    by_rate = f"mixed_rl, but mopd at {SWITCH:g} or more"
    ways: dict[str, Sequence[Sequence[str]]] = {
        "the simulator": [contest.choice for contest in both],
        **{f"always {name}": [[name]] * len(both) for name in sorted(set.intersection(*map(set, measured)))},
        by_rate: [[CHOICES[MIXED_BUT_BOLD](contest.rate)] for contest in both],
    }
    means = {way: POINTS * regret(chosen, measured) for way, chosen in ways.items()}
    best = _winner(means)
    return [
        {"way to choose": name, "conditions": len(both), "points lost": value, "winner": best}
        for name, value in sorted(means.items(), key=lambda pair: pair[1])
    ]


def _winner(errors: Mapping[str, float]) -> str:
    return min(errors, key=errors.__getitem__)
