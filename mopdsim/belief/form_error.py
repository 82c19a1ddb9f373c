"""The error of the model form: how far the model's forecasts miss scores of runs that its fit has not seen.

Student's t with four degrees of freedom, in logits, of the scale `model_error` that a calibration holds for a scope:
that of the fit, and that of small open models, which no fit has seen and studies have measured. At a lab's scale nobody
has, and a forecast carries none. What RL at a bold rate led to has a scale of its own where bold rates were measured,
`bold_error`; so have scores decoded greedily, `greedy_error`, which studies ask for where the start and specialists
were scored greedily too. All are of bases whose start was scored. Where the start of a base that nobody scored is taken
from studies of other bases, the error is `unscored_factor` times as wide. Leaves out: finding the scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.belief.calibration import Calibration, sample, uniform
from mopdsim.facts.domains import Estimate, Scope

MODEL_ERROR = "model_error"
BOLD_ERROR = "bold_error"
GREEDY_ERROR = "greedy_error"
FORM_ERRORS = (MODEL_ERROR, BOLD_ERROR)
UNSCORED = "unscored_factor"
_EDGE = 1e-4  # as near to 0 and 1 as the fit tells scores apart
_UNIT = Estimate(value=0.0, sd=1.0, grade="prior", source="")


def form_error(
    calibration: Calibration,
    scope: Scope,
    stage: str,
    domains: Sequence[str],
    *,
    seed: int,
    draws: int,
    scored: bool = True,
    bold: bool = False,
) -> Array | None:
    """Draws of the error of a stage's score on every domain, in logits, (D, N); None where it was never measured.
    scored: whether the base's start was measured; bold: whether RL at a bold rate led to the stage."""
    kind = form_error_kind(calibration, scope, bold=bold)
    if kind is None:
        return None
    scale_N = calibration.draw(kind, scope, seed=seed, draws=draws)
    if not scored and scope in calibration.facts:
        scale_N = scale_N * calibration.draw(UNSCORED, scope, seed=seed, draws=draws)
    return np.stack([
        scale_N * sample(_UNIT, "student", f"{MODEL_ERROR}:{stage}/{name}", seed=seed, draws=draws)
        for name in domains
    ])  # fmt: skip


def form_error_kind(calibration: Calibration, scope: Scope, *, bold: bool) -> str | None:
    """The parameter that holds the error's scale in a scope; None where it was never measured."""
    for kind in (BOLD_ERROR, MODEL_ERROR) if bold else (MODEL_ERROR,):
        parameter = calibration.parameters.get(kind)
        if parameter is not None and scope in parameter.studies:
            return kind
    return None


def moved(score_DN: Array, error_DN: Array | None) -> Array:
    """Scores moved by an error in logits."""
    if error_DN is None:
        return score_DN
    return logistic(logit(np.clip(score_DN, _EDGE, 1 - _EDGE)) + error_DN)


def tested(score_N: Array, items: int, *, key: str) -> Array:
    """Shares of `items` prompts passed at these pass rates, (N,), with luck from the stream of this name."""
    from scipy import stats

    luck_N = uniform(f"measured:{key}", 0, len(score_N))
    return np.asarray(stats.binom.ppf(luck_N, items, np.clip(score_N, 0.0, 1.0)) / items)
