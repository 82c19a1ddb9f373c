"""Pilots, what each costs and measures, and the worth of knowing more: whether the recommendation depends on it.

Pilots are small studies; their costs are medians of the stages' own bills on the fewest GPUs on which they fit. The
value of a pilot is the expected rise of the objective if its parameters were known before choosing among the
finalists: E[max_f E(u_f | theta)] - max_f E[u_f], the inner expectation fitted by regression over the draws (Strong,
Oakley and Brennan 2014) on one half of them and paid out on the other, so that fitted noise earns nothing. It is an
upper bound, since a pilot measures with error. A recommendation hangs on a parameter where the fit at its P10 or P90
puts another finalist ahead by more than the floor and three standard errors. Under objective p10 what is known serves
to keep the result's own P10 up: chosen is the finalist least likely to fall below the bar that the choices themselves
reach (regressions of falling below it), and the value is the rise of the P10 over all draws. For the flips, the spread
around the fit is taken to be the same everywhere. Axes: F finalist, N draw, X feature. Leaves out: what is known once
costs are (money and time are taken as forecast); pilots for the collapse of a student, which needs the full scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.stage_cost import EVALUATIONS, bill
from mopdsim.facts.domains import P90
from mopdsim.forecast.forecast import HOUR
from mopdsim.plan import words
from mopdsim.plan.candidate import Group
from mopdsim.plan.evaluation import splits
from mopdsim.plan.finalists import FLOOR, Finalist
from mopdsim.plan.question import Question
from mopdsim.plan.stock import STUDENT, Kind, Run, Stock, equal_shares, rl_kind
from mopdsim.quality.world import World
from mopdsim.recipes.stage import Distill, Teacher

IDENTIFIED = 3.0  # midpoints until an asymptote is identified (science: standard error .017 at three)
_FOLDS = 2.0  # of the distillation's gap: to 1/e^2


@dataclass(frozen=True)
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
            ("conflict_share", "inherited_bias", *tokens),
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
    stage = _rl(question.domains).stage
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
        return Pilot(name, short, title, what, parameters, gpu_hours, usd)

    def rl(self, group: Group, midpoints: float) -> float:
        """RL until every domain of the group has had so many midpoints of compute."""
        kind = _rl(group)
        rows = [self.stock.domains[name].midpoint.value for name in group]
        per_step = self.stock.one_step(kind).compute_N
        return self._hours(group, kind, max(2, round(midpoints * sum(rows) / float(np.median(per_step)))))

    def distillation(self, group: Group) -> float:
        """Distillation of a group until its gaps are closed to 1/e^2."""
        teachers = tuple(Teacher(stage=f"pilot_{place}", domains=(name,)) for place, name in enumerate(group))
        kind = Kind(Distill(name=STUDENT, domains=dict.fromkeys(group, 1.0), teachers=teachers))
        tokens = sum(self.stock.domains[name].distill_tokens.value for name in group)
        per_step = self.stock.one_step(kind).tokens_N
        return self._hours(group, kind, max(2, round(_FOLDS * tokens / float(np.median(per_step)))))

    def _hours(self, group: Group, kind: Kind, steps: int) -> float:
        """Median GPU-hours on the fewest GPUs that it fits on; it does on the pool, or there would be no plan."""
        for gpus in reversed(splits(self.question.pool)):
            (timed,) = self.stock.seconds([(Run(kind, steps), gpus)])
            if np.isfinite(timed.median):
                return timed.median * gpus / HOUR
        raise InfeasibleError(f"a pilot of {', '.join(group)} does not fit on {self.question.pool} GPUs")


def _rl(group: Group) -> Kind:
    """RL of a pilot on these domains."""
    return rl_kind("pilot", equal_shares(group), "token")


_FACTS = ("start", "asymptote", "midpoint", "steepness", "distill_tokens", "length")
_SURE = 2.0  # standard errors below which a value counts as nothing
_FLIP_ERRORS = 3.0
_RIDGE = 1e-6
_LOW = 0.1  # the quantile of objective p10
_BARS = 3  # times that the bar is moved to where the choices put it
_RESAMPLES = 200
_BLOCKS = 10


@dataclass(frozen=True, kw_only=True)
class Value:
    """A pilot's worth. gain: expected rise of the objective, 0 where it cannot be told from 0; error: its standard
    error."""

    pilot: Pilot
    gain: float
    error: float

    def to_document(self) -> dict[str, Any]:
        per_hour = self.gain / self.pilot.gpu_hours if self.pilot.gpu_hours else 0.0
        return {
            "pilot": self.pilot.name,
            "short": self.pilot.short,
            "title": self.pilot.title,
            "measures": self.pilot.what,
            "gain": self.gain,
            "standard_error": self.error,
            "gpu_hours": self.pilot.gpu_hours,
            "usd": self.pilot.usd,
            "gain_per_1000_gpu_hours": 1000 * per_hour,
        }


@dataclass(frozen=True, kw_only=True)
class Flip:
    """At this end of a parameter's prior, another plan is ahead by `gain`."""

    parameter: str
    at: str
    value: float
    to: str
    gain: float

    def to_document(self) -> dict[str, Any]:
        return {**asdict(self), "what": words.parameter(self.parameter)}


def parameters(world: World) -> dict[str, Array]:
    """Every uncertain number of a world by name, (N,): constants, facts of domains, pairs."""
    found = dict(world.constants)
    for fact in _FACTS:
        rows = getattr(world, f"{fact}_DN")
        found |= {f"{fact}:{name}": rows[place] for place, name in enumerate(world.names)}
    for pair, matrix in (("conflict", world.conflict_DDN), ("spill", world.spill_DDN)):
        found |= {
            f"{pair}:{source}>{target}": matrix[one, other]
            for one, source in enumerate(world.names)
            for other, target in enumerate(world.names)
            if one != other
        }
    return {name: row for name, row in found.items() if np.ptp(row) > 0}


def values(question: Question, finalists: Sequence[Finalist], pilots: Sequence[Pilot]) -> list[Value]:
    """What each pilot is worth, the most a GPU-hour first."""
    known = {name: normal_scores(row) for name, row in parameters(finalists[0].forecast.world).items()}
    utility_FN = _utilities(finalists)
    gain_of = safety_of if question.objective == "p10" else worth_of
    found = []
    for pilot in pilots:
        gain, error = gain_of(utility_FN, [known[name] for name in pilot.parameters if name in known])
        found.append(Value(pilot=pilot, gain=gain, error=error))
    return sorted(found, key=lambda one: (-one.gain / max(one.pilot.gpu_hours, 1e-9), one.pilot.gpu_hours))


def worth_of(utility_FN: Array, known: Sequence[Array]) -> tuple[float, float]:
    """Expected rise of the mean from choosing among the plans by what is known, and its standard error; 0 where it
    cannot be told from 0."""
    if not known or len(utility_FN) < 2:
        return 0.0, 0.0
    ahead_FN = utility_FN - utility_FN[0]
    features_NX = _features(known)
    earned_N = np.zeros(ahead_FN.shape[1])
    for fit, pay in _halves(ahead_FN.shape[1]):
        expected_FN = _regress(features_NX[fit], ahead_FN[:, fit]) @ features_NX[pay].T
        plain = int(ahead_FN[:, fit].mean(axis=1).argmax())
        earned_N[pay] = _of(ahead_FN[:, pay], expected_FN.argmax(axis=0)) - ahead_FN[plain, pay]
    gain, error = float(earned_N.mean()), float(earned_N.std() / np.sqrt(len(earned_N)))
    return (gain, error) if gain > _SURE * error else (0.0, error)


def safety_of(utility_FN: Array, known: Sequence[Array]) -> tuple[float, float]:
    """The same of the P10: its rise where the plan least likely to fall below the bar is chosen."""
    if not known or len(utility_FN) < 2:
        return 0.0, 0.0
    features_NX = _features(known)
    earned_N, plain_N = np.zeros((2, utility_FN.shape[1]))
    for fit, pay in _halves(utility_FN.shape[1]):
        lows_F = _low(utility_FN[:, fit])
        plain = int(lows_F.argmax())
        bar = lows_F[plain]
        best_FX = np.zeros((len(utility_FN), features_NX.shape[1]))
        best_FX[plain, 0] = -1.0  # the plain choice, until another keeps a higher bar
        for _ in range(_BARS):
            risks_FX = _regress(features_NX[fit], (utility_FN[:, fit] < bar).astype(float))
            reached = _low(_of(utility_FN[:, fit], (risks_FX @ features_NX[fit].T).argmin(axis=0)))
            if reached <= bar:
                break
            best_FX, bar = risks_FX, reached
        earned_N[pay] = _of(utility_FN[:, pay], (best_FX @ features_NX[pay].T).argmin(axis=0))
        plain_N[pay] = utility_FN[plain, pay]
    places_RN = np.random.default_rng(0).integers(0, len(plain_N), (_RESAMPLES, len(plain_N)))
    error = float(np.std(_low(earned_N[places_RN]) - _low(plain_N[places_RN])))
    gain = float(_low(earned_N) - _low(plain_N))
    return (gain, error) if gain > _SURE * error else (0.0, error)


def perfect(question: Question, finalists: Sequence[Finalist]) -> float:
    """Rise of the objective if everything were known before choosing among the finalists."""
    utility_FN = _utilities(finalists)
    return float(question.value(utility_FN.max(axis=0)) - question.value(utility_FN).max())


def flips(question: Question, finalists: Sequence[Finalist]) -> list[Flip]:
    """The parameters at whose P10 or P90 another finalist is ahead, the largest lead first."""
    found = []
    utility_FN = _utilities(finalists)
    ahead_FN = utility_FN - utility_FN[0]
    ends = [
        (end, _curve(np.array([z]))[0], share) for end, z, share in (("p10", -P90, 0.1), ("p90", P90, 0.9))
    ]
    middle_X = _curve(np.zeros(1))[0]
    for name, row_N in parameters(finalists[0].forecast.world).items():
        features_NX = _curve(normal_scores(row_N))
        fitted_FX = _regress(features_NX, ahead_FN)
        if question.objective != "p10" and max((fitted_FX @ at_X).max() for _, at_X, _ in ends) < FLOOR:
            continue
        rest_FN = ahead_FN - fitted_FX @ features_NX.T
        inverse_XX = np.linalg.inv(features_NX.T @ features_NX)
        low_F, low_error_F = np.zeros((2, len(finalists)))
        if question.objective == "p10":
            low_F, low_error_F = _low_ends(utility_FN, features_NX)
        for end, at_X, share in ends:
            lead_F = fitted_FX @ at_X + low_F
            error_F = np.hypot(rest_FN.std(axis=1) * np.sqrt(at_X @ inverse_XX @ at_X), low_error_F)
            best = int(lead_F.argmax())
            sure = _FLIP_ERRORS * error_F[best]
            moved = float(fitted_FX[best] @ (at_X - middle_X))  # by this parameter, whoever led before
            if lead_F[best] >= max(FLOOR, sure) and moved >= sure:
                found.append(
                    Flip(
                        parameter=name,
                        at=end,
                        value=float(np.quantile(row_N, share)),
                        to=finalists[best].plan.label,
                        gain=float(lead_F[best]),
                    )
                )
    return sorted(found, key=lambda flip: -flip.gain)


def _low_ends(utility_FN: Array, features_NX: Array) -> tuple[Array, Array]:
    """P10 of what the fit leaves of each finalist, over the first's, and its standard error from blocks of draws."""
    rest_FN = utility_FN - _regress(features_NX, utility_FN) @ features_NX.T
    low_F = _low(rest_FN)
    blocks_FB = np.stack([_low(block_FN) for block_FN in np.array_split(rest_FN, _BLOCKS, axis=1)], axis=1)
    error_F = (blocks_FB - blocks_FB[0]).std(axis=1) / np.sqrt(_BLOCKS)
    return low_F - low_F[0], error_F


def deciding(flipped: Sequence[Flip], worths: Sequence[Value]) -> Value | None:
    """The cheapest pilot that measures a parameter on which the recommendation hangs, one of worth before others."""
    names = {flip.parameter for flip in flipped}
    able = [one for one in worths if names & set(one.pilot.parameters)]
    return min(able, key=lambda one: (one.gain == 0, one.pilot.gpu_hours), default=None)


def normal_scores(row_N: Array) -> Array:
    """Ranks as standard normal quantiles: parameters of any distribution on one scale."""
    scores_N = np.empty(len(row_N))
    scores_N[np.argsort(row_N, kind="stable")] = _normal_quantiles(len(row_N))
    return scores_N


@cache
def _normal_quantiles(count: int) -> Array:
    """Quantiles of a standard normal at the middles of so many equal shares."""
    return np.array([NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)])


def _utilities(finalists: Sequence[Finalist]) -> Array:
    """What counts, by finalist and draw, (F, N)."""
    return np.stack([one.utility_N for one in finalists])


def _of(rows_FN: Array, chosen_N: NDArray[np.intp]) -> Array:
    """In every draw the chosen row's value, (N,)."""
    return np.asarray(rows_FN[chosen_N, np.arange(len(chosen_N))])


def _low(values_XN: Array) -> Array:
    return np.asarray(np.quantile(values_XN, _LOW, axis=-1))


def _halves(draws: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Every second draw to fit on and the others to be paid on, and the reverse."""
    even_N = np.arange(draws) % 2 == 0
    return [(even_N, ~even_N), (~even_N, even_N)]


def _features(known: Sequence[Array]) -> Array:
    """A constant, the normal scores of what is known, and their squares, (N, X)."""
    return np.column_stack([np.ones_like(known[0]), *known, *(row**2 - 1 for row in known)])


def _curve(z_N: Array) -> Array:
    return np.column_stack([np.ones_like(z_N), z_N, z_N**2 - 1, z_N**3 - 3 * z_N])


def _regress(features_NX: Array, targets_FN: Array) -> Array:
    """Least squares of every target on the features, barely ridged: (F, X)."""
    square_XX = features_NX.T @ features_NX
    square_XX += _RIDGE * len(features_NX) * np.eye(len(square_XX))
    return np.asarray(np.linalg.solve(square_XX, features_NX.T @ targets_FN.T).T, dtype=float)
