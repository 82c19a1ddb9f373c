"""What an honest test says, as a referee asks it: new studies apart from near repeats, ordinary rates apart from bold
ones, differences between recipes, and regret beside rules that need no simulator. Every row names its winner.

Of a document of `studies.honest.report`, with the highest RL rate of each run and condition. Leaves out: the forecasts
(`studies.honest.trials`), the words (`studies.honest.text`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mopdsim.recipes.recipe import Rl
from mopdsim.recipes.stage import BOLD, default_amounts
from studies.framework.observe import Observations
from studies.honest.held_out import POINTS
from studies.honest.prospective import BOLD_RATE, CHOICES, MIXED_BUT_BOLD
from studies.honest.scoring import lost

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
Rates = Mapping[tuple[str, str], float]  # by study and run


def rates_of(studies: Mapping[str, Observations]) -> dict[tuple[str, str], float]:
    """The highest learning rate of RL in each finished run."""
    found = {}
    for study, own in studies.items():
        for name in own.finished:
            recipe = own.recipe(name)
            rates = [recipe.amounts[s.name].learning_rate for s in recipe.stages if isinstance(s, Rl)]
            found[study, name] = max(rates, default=0.0)
    return found


def contest_rates(studies: Mapping[str, Observations], rates: Rates) -> dict[str, float]:
    """The highest rate among a condition's runs, by the condition's name without its mark of being held out."""
    found: dict[str, float] = {}
    for study, own in studies.items():
        for name, row in own.finished.items():
            if "contest" in row["factors"]:
                condition = str(row["factors"]["contest"])
                found[condition] = max(found.get(condition, 0.0), rates[study, name])
    return found


def read(document: Mapping[str, Any], rates: Rates, by_contest: Mapping[str, float]) -> dict[str, Any]:
    """Rows of scores by kind and rate, differences between recipes, regrets. JSON."""
    trials = [row for row in document["trials"] if row["in_set"]]
    contests = [row for row in document["contests"] if row["held_out"]]
    kinds: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
        "new studies": lambda row: row["study"] in PROSPECTIVE,
        "near repeats": lambda row: row["study"] not in PROSPECTIVE,
    }
    scores = []
    for kind, chosen in kinds.items():
        for regime in ("ordinary", "bold"):
            own = [
                row
                for row in trials
                if chosen(row) and (rates[row["study"], row["run"]] > BOLD * _USUAL) == (regime == "bold")
            ]
            if own:
                scores.append({"held out": kind, "rates": regime, **_scored(own)})
    pairs = [
        _difference(row, one, other) for row in contests for one, other in combinations(row["measured"], 2)
    ]
    return {
        "scores": scores,
        "differences": [
            {"difference": name, **_differed([pair for pair in pairs if pair["name"] == name])}
            for name in sorted({pair["name"] for pair in pairs})
        ]
        + [{"difference": "all", **_differed(pairs)}] * bool(pairs),
        "regret": _regrets(contests, by_contest),
    }


def _scored(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ours, rule = (
        POINTS * float(np.mean([abs(row[key] - row["measured"]) for row in rows]))
        for key in ("predicted", "own_expert")
    )
    inside = [row["low"] <= row["measured"] <= row["high"] for row in rows]
    return {
        "scores": len(rows),
        "simulator": ours,
        "own expert": rule,
        "winner": _winner({"simulator": ours, "own expert": rule}),
        "80% covers": float(np.mean(inside)),
        "width_points": POINTS * float(np.mean([row["high"] - row["low"] for row in rows])),
    }


def _difference(row: Mapping[str, Any], one: str, other: str) -> dict[str, Any]:
    first, second = sorted((one, other))
    said, was = (POINTS * (row[key][first] - row[key][second]) for key in ("predicted", "measured"))
    ends = row.get("gaps", {}).get(f"{first} - {second}")
    inside = None if ends is None else ends[0] <= was <= ends[1]
    error = math.hypot(*(row["errors"].get(name, math.inf) for name in (first, second)))
    sure = abs(was) > 2 * POINTS * error
    return {"name": f"{first} - {second}", "said": said, "was": was, "inside": inside, "sure": sure}


def _differed(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sign, error and, where the forecast held its draws, coverage. A difference within the tie is none. Sure are those
    beyond two standard errors over prompts; there a forecast of no difference is wrong."""
    signs = [(_sign(pair["said"]), _sign(pair["was"])) for pair in pairs]
    ours = float(np.mean([abs(pair["said"] - pair["was"]) for pair in pairs]))
    none = float(np.mean([abs(pair["was"]) for pair in pairs]))
    inside = [pair["inside"] for pair in pairs if pair["inside"] is not None]
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
        "80% covers": float(np.mean(inside)) if inside else "not recorded",
    }


def _sign(points: float) -> int:
    return 0 if abs(points) <= TIE else int(np.sign(points))


def _regrets(contests: Sequence[Mapping[str, Any]], by_contest: Mapping[str, float]) -> list[dict[str, Any]]:
    """Mean points lost by each way to choose, over the conditions that ran both mixed RL and MOPD."""
    both = [row for row in contests if {"mixed_rl", "mopd"} <= row["measured"].keys()]
    if not both:
        return []

    def by_rate(row: Mapping[str, Any]) -> list[str]:
        rate = by_contest.get(row["condition"].removesuffix(" (held out)"), 0.0)
        return [CHOICES[MIXED_BUT_BOLD](rate)]

    common = sorted(set.intersection(*(set(row["measured"]) for row in both)))
    ways = {
        "the simulator": [POINTS * lost(row["choice"], row["measured"]) for row in both],
        **{f"always {name}": [POINTS * lost([name], row["measured"]) for row in both] for name in common},
        f"mixed_rl, but mopd at {BOLD_RATE:g} or more": [
            POINTS * lost(by_rate(row), row["measured"]) for row in both
        ],
    }
    means = {name: float(np.mean(values)) for name, values in ways.items()}
    best = _winner(means)
    return [
        {"way to choose": name, "conditions": len(both), "points lost": value, "winner": best}
        for name, value in sorted(means.items(), key=lambda pair: pair[1])
    ]


def _winner(errors: Mapping[str, float]) -> str:
    return min(errors, key=errors.__getitem__)
