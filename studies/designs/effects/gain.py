"""gain: which curve does a domain follow under RL alone, and how well do its first points predict its tail?

Three rival forms, fitted alike and judged on the tail:

    hill         q0 + (A - q0) / (1 + (C_mid / C)^B)            ScaleRL, 2510.13786
    exponential  q0 + (A - q0) (1 - exp(-ln 2 C / C_mid))
    power        A - (A - q0) (1 + C / s)^-B                    C_mid = s (2^(1/B) - 1)
In all three C_mid is the compute of half the gain. Residuals are divided by each point's standard error; soft-L1 loss,
several starts, the best kept. Leaves out: priors, joint fits of several domains (`mopdsim.fit.quality`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mopdsim.base.errors import UsageError
from mopdsim.recipes.amounts import Amounts
from studies.designs.builders import CEILING, FOURTH, WORLD, alone, kept
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.run import Run
from studies.framework.study import Study, predicted
from trainer.files.settings import Settings

Array = NDArray[np.float64]
LEAST_SE = 0.01  # of a score, so that a lucky 0 or 1 does not rule the fit
HIGHEST_STEEPNESS = 6.0
STEPS = {"sort": 60, "sort_down": 60, "reverse": 144, "rotate": 60}  # about 3 C_mid each
RL = Amounts(
    steps=60, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=5e-4, final_learning_rate_fraction=1.0
)
SEEDS = (0, 1)
FITTED_SHARE = 0.5  # of a run's compute, from its start
LEAST_LENGTH = 3.0  # of a run, in C_mid, for its asymptote to be identified


def design() -> list[Run]:
    """Each domain alone, at a constant learning rate: a decaying one would bend the curve by itself."""
    return [_run(domain, seed) for seed in SEEDS for domain in WORLD]


def _run(domain: str, seed: int) -> Run:
    return Run(
        name=f"{domain}/seed{seed}",
        recipe=alone(domain, WORLD, RL.model_copy(update={"steps": STEPS[domain]})),
        settings=Settings(
            seed=seed, validation_items=200, test_items=500, evaluate_every=6, diagnose_every=1000
        ),
        factors={"domain": domain},
        held_out=domain == FOURTH,
        cut=seed,
    )


def analyse(found: Observations) -> Analysis:
    """Fit the first half of every run, predict the second; then fit whole runs for the parameters."""
    tails, whole, curves = [], [], []
    for name in found.runs():
        points = curve(found, name)
        tails += _tail_errors(name, found.factor(name, "domain"), points)
        full = fit("hill", points.flops, points.pass_rate, points.se) if len(points) >= 4 else None
        if full is not None:
            whole.append({"run": name, "domain": found.factor(name, "domain"), **_parameters(full, points)})
        curves.append(_drawn(name, points, full))
    errors, parameters = pd.DataFrame(tails), pd.DataFrame(whole)
    return Analysis(
        quantities=_quantities(errors, parameters),
        findings=_findings(errors, parameters),
        tables=(
            Table(title="Mean error of each form on the second half of a run", frame=errors),
            Table(title="Hill on whole runs", frame=parameters),
        ),
        charts=(
            Chart(
                name="curves",
                title="Scores (points) and Hill fitted to whole runs (lines), by training GFLOP",
                frame=pd.concat(curves) if curves else pd.DataFrame(),
                x="GFLOP", y="pass_rate", colour="what", panel="run", mark="point", fitted="Hill",
            ),
        ),
        fitted={row["run"]: {k: v for k, v in row.items() if k != "run"} for row in whole},
        limits=(
            "Two seeds a domain: a parameter's spread over seeds is itself uncertain by a factor of two.",
            f"Scores above {CEILING:.0%} are left out, which hides how the last points are gained.",
        ),
    )  # fmt: skip


def curve(found: Observations, name: str) -> pd.DataFrame:
    """A run's points of its own domain below the ceiling, by FLOPs."""
    rows = found.stage(name)
    rows = rows[(rows.domain == found.factor(name, "domain")) & (rows.pass_rate <= CEILING)]
    return rows.sort_values("flops")[["flops", "pass_rate", "se"]]


def _tail_errors(name: str, domain: str, points: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a run: mean absolute error of each form, and of the last point seen, beyond the fitted share."""
    limit = FITTED_SHARE * points.flops.max() if len(points) else 0.0
    head, tail = points[points.flops <= limit], points[points.flops > limit]
    if len(head) < 4 or tail.empty:
        return []
    row: dict[str, Any] = {"run": name, "domain": domain}
    row |= {"points_fitted": len(head), "points_judged": len(tail)}
    for form in FORMS:
        predicted = fit(form, head.flops, head.pass_rate, head.se)(tail.flops)
        row[form] = float(np.abs(predicted - tail.pass_rate).mean())
    row["last_checkpoint"] = float(np.abs(head.pass_rate.iloc[-1] - tail.pass_rate).mean())
    return [row]


def _parameters(full: Fit, points: pd.DataFrame) -> dict[str, Any]:
    length = float(points.flops.max() / full.midpoint)
    return {
        "start": full.parameters[0],
        "asymptote": full.asymptote,
        "midpoint_flops": full.midpoint,
        "steepness": full.parameters[3],
        "length_in_midpoints": length,
        "identified": length >= LEAST_LENGTH,
    }


def _drawn(name: str, points: pd.DataFrame, full: Fit | None) -> pd.DataFrame:
    """A run's points and its fitted curve, for the chart."""
    rows = pd.DataFrame({"GFLOP": points.flops / 1e9, "pass_rate": points.pass_rate, "what": "measured"})
    if full is not None:
        grid = np.linspace(0, points.flops.max(), 40)
        rows = pd.concat([rows, pd.DataFrame({"GFLOP": grid / 1e9, "pass_rate": full(grid), "what": "Hill"})])
    return rows.assign(run=name)


def _quantities(errors: pd.DataFrame, parameters: pd.DataFrame) -> dict[str, Quantity]:
    """Means over runs, the fourth domain's apart."""
    if errors.empty:
        return {}
    held = errors[errors.domain == FOURTH]
    spread = parameters.groupby("domain").asymptote.std() if len(parameters) else pd.Series(dtype=float)
    return kept(
        hill_tail_error=mean_quantity(errors.hill),
        hill_minus_exponential=mean_quantity(errors.hill - errors.exponential),
        hill_minus_power=mean_quantity(errors.hill - errors.power),
        last_checkpoint_minus_hill=mean_quantity(errors.last_checkpoint - errors.hill),
        hill_tail_error_fourth_domain=mean_quantity(held.hill),
        asymptote_seed_sd=mean_quantity(spread),
        length_in_midpoints=mean_quantity(parameters.length_in_midpoints),
    )


def _findings(errors: pd.DataFrame, parameters: pd.DataFrame) -> tuple[str, ...]:
    if errors.empty:
        return ("No run is long enough to be cut in two.",)
    means = errors[[*FORMS, "last_checkpoint"]].mean().sort_values()
    shown = ", ".join(f"{name} {100 * value:.1f} points" for name, value in means.items())
    short = ", ".join(sorted(set(parameters[~parameters.identified].run))) if len(parameters) else ""
    ends = f"Shorter than {LEAST_LENGTH:g} C_mid, so with an unidentified asymptote: {short}."
    return (f"Mean error on held-out tails: {shown}.", ends if short else "Every run reached 3 C_mid.")


def hill(compute: Array, q0: float, asymptote: float, midpoint: float, steepness: float) -> Array:
    power = (np.maximum(compute, 0.0) / midpoint) ** steepness
    return q0 + (asymptote - q0) * power / (1 + power)


def exponential(compute: Array, q0: float, asymptote: float, midpoint: float) -> Array:
    return q0 + (asymptote - q0) * -np.expm1(-np.log(2) * compute / midpoint)


def power_law(compute: Array, q0: float, asymptote: float, midpoint: float, steepness: float) -> Array:
    scale = midpoint / (2 ** (1 / steepness) - 1)
    return asymptote - (asymptote - q0) * (1 + compute / scale) ** -steepness


FORMS: dict[str, Callable[..., Array]] = {"hill": hill, "exponential": exponential, "power": power_law}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A form and its parameters: q0, asymptote, midpoint (in the compute's units) and, where it has one, steepness."""

    form: str
    parameters: tuple[float, ...]
    loss: float

    def __call__(self, compute: ArrayLike) -> Array:
        """The curve at these amounts of compute."""
        return FORMS[self.form](np.asarray(compute, dtype=float), *self.parameters)

    @property
    def asymptote(self) -> float:
        return self.parameters[1]

    @property
    def midpoint(self) -> float:
        return self.parameters[2]


def fit(form: str, compute: ArrayLike, score: ArrayLike, se: ArrayLike) -> Fit:
    """The best of several starts. UsageError for an unknown form or fewer points than parameters."""
    from scipy.optimize import least_squares

    if form not in FORMS:
        raise UsageError(f"form {form!r}: must be one of {', '.join(FORMS)}")
    x, y = np.asarray(compute, dtype=float), np.asarray(score, dtype=float)
    sigma = np.maximum(np.asarray(se, dtype=float), LEAST_SE)
    steep = form != "exponential"
    if len(x) < 3 + steep:
        raise UsageError(f"{len(x)} points for {3 + steep} parameters of {form!r}: evaluate more often")
    unit = float(x.max())
    low = [0.0, 0.0, np.log(1e-3), *([np.log(0.2)] if steep else [])]
    high = [1.0, 1.0, np.log(1e2), *([np.log(HIGHEST_STEEPNESS)] if steep else [])]

    def values(p: Array) -> tuple[float, ...]:
        return (float(p[0]), float(p[1]), float(np.exp(p[2])) * unit, *(float(np.exp(v)) for v in p[3:]))

    def residuals(p: Array) -> Array:
        return (FORMS[form](x, *values(p)) - y) / sigma

    found = []
    for midpoint in (0.1, 0.3, 1.0):
        for top in (float(y.max()), min(1.0, float(y.max()) + 0.2)):
            start = np.array([y[x.argmin()], top, np.log(midpoint), *([np.log(1.5)] if steep else [])])
            start = np.clip(start, np.array(low) + 1e-6, np.array(high) - 1e-6)
            found.append(least_squares(residuals, start, bounds=(low, high), loss="soft_l1"))
    best = min(found, key=lambda result: result.cost)
    return Fit(form=form, parameters=values(best.x), loss=float(best.cost))


STUDY = Study(
    name="gain",
    question="Which curve does a domain follow under RL alone, and does its first half predict its second?",
    prediction=predicted(
        "Hill predicts tails about as well as exponential saturation, both better than the last checkpoint; the "
        "power law is worse where runs saturate. Asymptotes of two seeds agree within five points.",
        """
        hill_tail_error             <= 0.05  Hill's mean error on tails
        hill_minus_exponential      <= 0.01  Hill's error less exponential's
        last_checkpoint_minus_hill  >= 0.0   last checkpoint's error less Hill's
        asymptote_seed_sd           <= 0.05  spread of the asymptote over seeds
        length_in_midpoints         >= 3.0   length of runs in C_mid
        """,
    ),
    observed="pass rates every 6 steps on 200 prompts and at the end on 500, of all four domains; FLOPs",
    held_out=f"the second half of every run; the domain {FOURTH}, whose error is reported apart",
    design=design,
    analyse=analyse,
)
