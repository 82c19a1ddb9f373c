"""How much of its specialists' headroom a strategy recovers, from published tables: one hierarchical model.

In logits, a row's gain over the start is its specialist's gain h times a recovery, plus noise:

    logit q - logit q0 = (m + k + u_study + v_study,strategy) h + e,   h = logit Q_T - logit q0

m is common to all strategies, v a deviation of the strategy within its study: normal, of the scale in `SCALES`. A mean
for each strategy was tried and dropped: studies left out are predicted no better with it. k is of the teacher's kind,
RL or fine-tuning, where the table knows it. u, of a study, and e have Student's tails with four degrees of freedom: one
study whose students recover half pulls the others little, and the next study may be another such one. The size of e is
found. A strategy that fewer than two studies have is **not identified**, and its interval is wider. Domains that a
strategy was not trained on keep their start, with a spread of their own.

    whole = fit(rows)                                the model of all rows
    whole.drawn(row, seed=0, draws=2000)             what it says of a row of another study, (N,)

Its priors were set with the shipped table in sight; k alone comes from elsewhere. `parameters` is what ships of it.
Leaves out: how a recovery acts in a recipe (`mopdsim.quality`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.belief.calibration import DEGREES, sample, standard_normal
from mopdsim.facts.domains import Estimate
from mopdsim.validate.quality_rows import METHODS, Score

MEAN = (0.9, 0.1)  # of m: most published students come within a tenth of their teachers' headroom
SCALES = {"study": 0.07, "within": 0.1}  # priors, in recovery
UNSEEN = 0.2  # more, of a strategy that fewer than two studies have
# method -> k, its mean and sd: Train4Merge has 1.15 against .44
TEACHERS: Mapping[str, tuple[str, float, float]] = {
    "mopd_teacher_rl": ("rl_teacher", 0.15, 0.15),
    "mopd_teacher_sft": ("sft_teacher", -0.4, 0.2),
}
_KINDS = {name: (mean, sd) for name, mean, sd in TEACHERS.values()}
LEAST_NOISE = 0.03  # logits
_TURNS = 60
_EDGE = 0.005


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The fitted model. names: its unknowns; mean_K, covariance_KK: of them; noise: scale of e; aside: the same of
    domains that were not trained; seen: by strategy the studies that have it."""

    names: tuple[str, ...]
    mean_K: Array
    covariance_KK: Array
    noise: float
    aside: float
    seen: Mapping[str, frozenset[str]]

    def identified(self, strategy: str) -> bool:
        """Whether two studies of the fit have the strategy: one alone cannot tell it from itself."""
        return len(self.seen.get(strategy, ())) > 1

    def drawn(self, row: Score, *, seed: int, draws: int) -> Array:
        """The row's score as a probability, (N,). Unknowns, study and noise have streams of their own, so that two
        strategies of one study share what they have in common."""

        def tailed(name: str, scale: float) -> Array:
            unit = Estimate(value=0.0, sd=scale, grade="fitted", source="")
            return sample(unit, "student", f"recovery:{name}", seed=seed, draws=draws)

        start = float(logit(np.clip(row.start, _EDGE, 1 - _EDGE)))
        own = f"{row.study}:{row.line}"
        if not row.in_set:
            return logistic(start + tailed(own, self.aside))
        strategy = METHODS[row.method]
        noise_KN = np.stack([standard_normal(f"recovery/{name}", seed, draws) for name in self.names])
        deviation_KN = np.linalg.cholesky(self.covariance_KK + 1e-12 * np.eye(len(self.names))) @ noise_KN
        own_names = {"mean", TEACHERS.get(row.method, ("",))[0]}
        weight_K = np.array([float(name in own_names) for name in self.names])
        recovery_N = weight_K @ (self.mean_K[:, None] + deviation_KN) + tailed(row.study, SCALES["study"])
        if not self.identified(strategy):
            recovery_N = recovery_N + UNSEEN * standard_normal(f"recovery/{strategy}", seed, draws)
        within_N = standard_normal(f"recovery/within:{row.study}/{strategy}", seed, draws)
        recovery_N = recovery_N + SCALES["within"] * within_N
        return logistic(start + recovery_N * headroom(row) + tailed(own, self.noise))


def parameters(rows: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """What a calibration holds of the model of these rows: "recovery", of any strategy in a new study,
    "recovery_common", the deviation that all strategies of a study share, and "recovery_unseen", the further one of a
    strategy that is not identified."""
    whole = fit(rows)
    place = whole.names.index("mean")
    common = float(whole.covariance_KK[place, place]) + SCALES["study"] ** 2 * DEGREES / (DEGREES - 2)
    studies = sorted({study for own in whole.seen.values() for study in own})
    source = f"recovery of the specialists' headroom: {', '.join(studies)}"

    def row(value: float, variance: float, grade: str, words: str) -> dict[str, Any]:
        sd = float(f"{variance**0.5:.4g}")
        about = {"distribution": "normal", "shape": False, "between_sd": 0.0}
        return {"value": float(f"{value:.4g}"), "sd": sd, "grade": grade, "source": words, **about}

    return {
        "recovery_common": row(0.0, common, "fitted", source),
        "recovery": row(float(whole.mean_K[place]), SCALES["within"] ** 2, "fitted", source),
        "recovery_unseen": row(0.0, UNSEEN**2, "prior", "a strategy that fewer than two studies have"),
    }


def headroom(row: Score) -> float:
    """The specialist's gain in logits."""
    ends = np.clip([row.start, row.teacher], _EDGE, 1 - _EDGE)
    return float(np.diff(logit(ends))[0])


def gain(row: Score) -> float:
    """The row's own gain in logits."""
    ends = np.clip([row.start, row.score], _EDGE, 1 - _EDGE)
    return float(np.diff(logit(ends))[0])


def fit(rows: Sequence[Score]) -> Recovery:
    """The model of these rows: of domains in the trained set for recovery, of the others for their spread."""
    inside = [row for row in rows if row.in_set and row.method != "single_domain" and row.benchmark != "all"]
    whole = [row for row in rows if row.in_set and row.method != "single_domain" and row.benchmark == "all"]
    measured = {(row.study, row.method) for row in inside}
    inside += [row for row in whole if (row.study, row.method) not in measured]
    seen: dict[str, set[str]] = {}
    for row in inside:
        seen.setdefault(METHODS[row.method], set()).add(row.study)
    studies = sorted({row.study for row in inside})
    cells = sorted({(row.study, METHODS[row.method]) for row in inside})
    names = (
        "mean",
        *_KINDS,
        *(f"study:{name}" for name in studies),
        *(f"within:{study}/{strategy}" for study, strategy in cells),
    )
    index = {name: place for place, name in enumerate(names)}
    slope_MK = np.zeros((len(inside), len(names)))
    for place, row in enumerate(inside):
        strategy = METHODS[row.method]
        own = ["mean", f"study:{row.study}", f"within:{row.study}/{strategy}"]
        own += [TEACHERS[row.method][0]] if row.method in TEACHERS else []
        slope_MK[place, [index[name] for name in own]] = headroom(row)
    gain_M = np.array([gain(row) for row in inside])
    mean_K, covariance_KK, noise = _solved(gain_M, slope_MK, names)
    kept = [place for place, name in enumerate(names) if not name.startswith(("study:", "within:"))]
    outside = [gain(row) for row in rows if not row.in_set]
    _, _, aside = _solved(np.array(outside), np.zeros((len(outside), 1)), ("mean",))
    return Recovery(
        names=tuple(names[place] for place in kept),
        mean_K=mean_K[kept],
        covariance_KK=covariance_KK[np.ix_(kept, kept)],
        noise=noise,
        aside=aside,
        seen={name: frozenset(own) for name, own in seen.items()},
    )


def _prior(name: str) -> tuple[float, float]:
    """Mean and sd of an unknown."""
    if name == "mean":
        return MEAN
    return _KINDS.get(name) or (0.0, SCALES[name.partition(":")[0]])


def _solved(gain_M: Array, slope_MK: Array, names: Sequence[str]) -> tuple[Array, Array, float]:
    """Mean and covariance of the unknowns and the scale of e: Student's tails as normals whose variance follows their
    size (EM), and a scale that leans on four rows of .2."""
    priors = [_prior(name) for name in names]
    middle_K, prior_K = np.array([mean for mean, _ in priors]), np.array([sd for _, sd in priors]) ** 2
    tailed_K = np.array([name.startswith("study:") for name in names])
    variance_K, noise = prior_K.copy(), 0.2
    variance_M = np.full(len(gain_M), noise**2)
    for _ in range(_TURNS):
        covariance_KK = np.linalg.inv(np.diag(1 / variance_K) + (slope_MK.T / variance_M) @ slope_MK)
        mean_K = covariance_KK @ (middle_K / variance_K + (slope_MK.T / variance_M) @ gain_M)
        size_K = (mean_K - middle_K) ** 2 + np.diag(covariance_KK)
        grown_K = prior_K * (DEGREES + size_K / prior_K) / (DEGREES + 1)
        variance_K = np.where(tailed_K, grown_K, prior_K)
        size_M = (gain_M - slope_MK @ mean_K) ** 2 + np.einsum(
            "mk,kl,ml->m", slope_MK, covariance_KK, slope_MK
        )
        weight_M = (DEGREES + 1) / (DEGREES + size_M / noise**2)
        noise = max(float(np.sqrt((4 * 0.2**2 + weight_M @ size_M) / (4 + len(gain_M)))), LEAST_NOISE)
        variance_M = noise**2 / weight_M
    return mean_K, covariance_KK, noise
