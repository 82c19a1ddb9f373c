"""What knowing more would be worth: by parameter and by pilot, and whether the recommendation hangs on it.

The value of a pilot is the expected rise of the objective if its parameters were known before choosing among the
finalists: E[max_f E(u_f | theta)] - max_f E[u_f], the inner expectation fitted by regression over the draws (Strong,
Oakley and Brennan 2014) on one half of them and paid out on the other, so that fitted noise earns nothing. It is an
upper bound, since a pilot measures with error. A recommendation hangs on a parameter where the fit at its P10 or P90
puts another finalist ahead by more than the floor and three standard errors. Under objective p10 both are still of the
mean over draws, for a quantile has no conditional expectation to fit.
Axes: F finalist, N draw, X feature. Leaves out: what is known once costs are (money and time are taken as forecast).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim.interference import Array
from mopdsim.planning.finalists import FLOOR, Finalist
from mopdsim.planning.pilots import Pilot
from mopdsim.world import World

P90 = 1.2815515655446004
_FACTS = ("start", "asymptote", "midpoint", "steepness", "distill_tokens", "length", "dispersion")
_SURE = 2.0  # standard errors below which a value counts as nothing
_FLIP_ERRORS = 3.0
_RIDGE = 1e-6


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
            "measures": self.pilot.what,
            "gain": self.gain,
            "standard_error": self.error,
            "gpu_hours": self.pilot.gpu_hours,
            "gain_per_1000_gpu_hours": 1000 * per_hour,
        }


@dataclass(frozen=True, kw_only=True)
class Flip:
    """At this end of a parameter's prior, another plan is ahead."""

    parameter: str
    end: str
    value: float
    to: str
    gain: float

    def to_document(self) -> dict[str, Any]:
        return {
            "parameter": self.parameter,
            "at": self.end,
            "value": self.value,
            "to": self.to,
            "gain": self.gain,
        }


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


def values(finalists: Sequence[Finalist], pilots: Sequence[Pilot]) -> list[Value]:
    """What each pilot is worth, the most a GPU-hour first."""
    known = {name: normal_scores(row) for name, row in parameters(finalists[0].forecast.world).items()}
    ahead_FN = _ahead(finalists)
    found = []
    for pilot in pilots:
        gain, error = gain_of(ahead_FN, [known[name] for name in pilot.parameters if name in known])
        found.append(Value(pilot=pilot, gain=gain, error=error))
    return sorted(found, key=lambda one: (-one.gain / max(one.pilot.gpu_hours, 1e-9), one.pilot.gpu_hours))


def gain_of(ahead_FN: Array, known: Sequence[Array]) -> tuple[float, float]:
    """Expected rise from choosing by what is known, and its standard error. ahead: utility over the recommended
    plan's, whose own row is 0."""
    if not known or len(ahead_FN) < 2:
        return 0.0, 0.0
    features_NX = np.column_stack([np.ones_like(known[0]), *known, *(row**2 - 1 for row in known)])
    halves = np.arange(ahead_FN.shape[1]) % 2
    earned_N = np.zeros(ahead_FN.shape[1])
    for half in (0, 1):
        fit, pay = halves != half, halves == half
        expected_FN = _regress(features_NX[fit], ahead_FN[:, fit]) @ features_NX[pay].T
        chosen_N = expected_FN.argmax(axis=0)
        plain = int(ahead_FN[:, fit].mean(axis=1).argmax())
        paid_FN = ahead_FN[:, pay]
        earned_N[pay] = paid_FN[chosen_N, np.arange(len(chosen_N))] - paid_FN[plain]
    gain, error = float(earned_N.mean()), float(earned_N.std() / np.sqrt(len(earned_N)))
    return (gain, error) if gain > _SURE * error else (0.0, error)


def perfect(finalists: Sequence[Finalist]) -> float:
    """Expected rise of the objective if everything were known before choosing among the finalists."""
    ahead_FN = _ahead(finalists)
    return float(ahead_FN.max(axis=0).mean() - ahead_FN.mean(axis=1).max())


def flips(finalists: Sequence[Finalist]) -> list[Flip]:
    """The parameters at whose P10 or P90 another finalist is ahead, the largest lead first."""
    found = []
    ahead_FN = _ahead(finalists)
    for name, row_N in parameters(finalists[0].forecast.world).items():
        z_N = normal_scores(row_N)
        features_NX = _curve(z_N)
        fitted_FX = _regress(features_NX, ahead_FN)
        rest_FN = ahead_FN - fitted_FX @ features_NX.T
        inverse_XX = np.linalg.inv(features_NX.T @ features_NX)
        for end, z, share in (("p10", -P90, 0.1), ("p90", P90, 0.9)):
            at_X = _curve(np.array([z]))[0]
            lead_F = fitted_FX @ at_X
            error_F = rest_FN.std(axis=1) * np.sqrt(at_X @ inverse_XX @ at_X)
            best = int(lead_F.argmax())
            if lead_F[best] >= FLOOR and lead_F[best] >= _FLIP_ERRORS * error_F[best]:
                found.append(
                    Flip(
                        parameter=name,
                        end=end,
                        value=float(np.quantile(row_N, share)),
                        to=finalists[best].plan.label,
                        gain=float(lead_F[best]),
                    )
                )
    return sorted(found, key=lambda flip: -flip.gain)


def deciding(flipped: Sequence[Flip], worths: Sequence[Value]) -> Value | None:
    """The cheapest pilot that measures a parameter on which the recommendation hangs, one of worth before others."""
    names = {flip.parameter for flip in flipped}
    able = [one for one in worths if names & set(one.pilot.parameters)]
    return min(able, key=lambda one: (one.gain == 0, one.pilot.gpu_hours), default=None)


def normal_scores(row_N: Array) -> Array:
    """Ranks as standard normal quantiles: parameters of any distribution on one scale."""
    from scipy.special import ndtri

    ranks_N = np.argsort(np.argsort(row_N, kind="stable"), kind="stable")
    return np.asarray(ndtri((ranks_N + 0.5) / len(row_N)))


def _ahead(finalists: Sequence[Finalist]) -> Array:
    """Utility over the first finalist's, (F, N)."""
    return np.stack([one.utility_N - finalists[0].utility_N for one in finalists])


def _curve(z_N: Array) -> Array:
    return np.column_stack([np.ones_like(z_N), z_N, z_N**2 - 1, z_N**3 - 3 * z_N])


def _regress(features_NX: Array, targets_FN: Array) -> Array:
    """Least squares of every target on the features, barely ridged: (F, X)."""
    square_XX = features_NX.T @ features_NX
    square_XX += _RIDGE * len(features_NX) * np.eye(len(square_XX))
    return np.asarray(np.linalg.solve(square_XX, features_NX.T @ targets_FN.T).T, dtype=float)
