"""Fits what each stack costs beyond the time model, from whole runs and steps of many frameworks.

    r_p = m + b_s + e_p,    b_s ~ N(0, between^2),    e_p ~ N(0, within^2 + v_p^2)

r_p is a project's mean log of the measurement over the forecast with no factor, v_p its spread from what the run does
not say (lengths, amounts, the time model's own error); a project counts once however many rows it has. m has a wide
prior; `between` and `within` are integrated on a grid under half-normal priors of a factor of 1.6, and errors far out
weigh less (Student's t, four degrees). A stack's factor is the posterior of m + b_s, and one more run's spread adds
`within`. What a layer of a microbatch costs to launch is the value under which the runs agree best. 'unknown' is
fitted to the same runs forecast as users do who name no stack, and so no packing. What a source documents of pools,
epochs and value models (`documented` of scenarios.csv) is in both. Every fit is repeated without each project, stack
and GPU.
Leaves out: factors by phase; a bound is no row.

    python -m mopdsim.fit.stacks        writes mopdsim/data/stacks.json
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.documents import DATA, write_document
from mopdsim.cost.constants import MECHANISMS, NORMAL_80, OWN, UNKNOWN
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import Scenario
from mopdsim.validate import projects, rl_rows
from mopdsim.validate.scenarios import FOLDER, OPTIONAL_COLUMNS, UNITS
from mopdsim.validate.tables import published, read_rows

MEAN_SD, SPREAD_SD = 1.0, math.log(1.6)
DEGREES = 4.0
GRID = np.array([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.7, 0.9])
ROUNDS = 6
LAUNCHES = (2.5e-3, 5e-3, 7.5e-3, 10e-3)  # seconds a layer and microbatch of stacks that are not tuned
LAUNCH_PRIOR, LAUNCH_SD = 5e-3, 0.5  # prior: a few dozen kernels and hooks a layer, from Python
_NONE = 1e-6  # a spread of nothing


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement: log of it over the forecast with the stack's mechanisms, and with those of an unknown stack, at
    each of `LAUNCHES`."""

    project: str
    stack: str
    gpu: str
    own: tuple[float, ...]
    unnamed: tuple[float, ...]
    log_sd: float


def runs() -> list[Run]:
    """All published runs whose stack is known, without bounds."""
    return [*_of_scenarios(), *_of_totals(), *_of_steps()]


def _of_scenarios() -> Iterator[Run]:
    path = published("scenarios")
    for _, row in read_rows(path, ("id", "unit", "measured"), OPTIONAL_COLUMNS):
        if row["bound"]:
            continue
        given = scenario.load(path.parent / FOLDER / f"{row['id']}.toml")
        measured, unit = float(row["measured"]), UNITS[row["unit"]]
        documented = tomllib.loads(row["documented"].replace(";", "\n"))
        named = replace(given, stack=row["stack"], **documented)
        anonymous = replace(named, stack=given.stack, packed=given.packed)
        own, unnamed = (
            [np.log(measured / unit(forecast(_plain(asked, launch)))) for launch in LAUNCHES]
            for asked in (named, anonymous)
        )
        yield _run(row["project"], row["stack"], given.gpu, own, unnamed)


def _run(project: str, stack: str, gpu: str, own: Sequence[Array], unnamed: Sequence[Array]) -> Run:
    """A run from the draws of its log ratio at each of `LAUNCHES`."""
    low, high = np.quantile(own[0], [0.1, 0.9])
    middles = [tuple(float(np.median(each_N)) for each_N in each) for each in (own, unnamed)]
    spread = float(high - low) / (2 * NORMAL_80)
    return Run(project=project, stack=stack, gpu=gpu, own=middles[0], unnamed=middles[1], log_sd=spread)


def _plain(given: Scenario, launch: float) -> Scenario:
    """The scenario on its stack without any factor."""
    return replace(given, factor=(0.0, _NONE), launch_layer_s=launch)


def _of_totals() -> Iterator[Run]:
    known = projects.presets()
    for _, row in read_rows(published("project_totals"), projects.COLUMNS):
        preset = known.get((row["model"], row["stage"]))
        if preset is None or "stack" not in preset:
            continue
        total, plain = projects.measured_total(row) or 0.0, MECHANISMS[preset["stack"]].measured(0.0, _NONE)
        drawn = [
            np.log(total / projects.gpu_hours(preset, replace(plain, launch_layer_s=launch)))
            for launch in LAUNCHES
        ]
        yield _run(preset["project"], preset["stack"], preset["gpu"], drawn, drawn)


def _of_steps() -> Iterator[Run]:
    """Steps of other frameworks: what they do not say is drawn."""
    rl = rl_rows.RlConstants.shipped()
    for _, row in rl_rows.load(published("rl_steps")).incomplete:
        framework = row.keys["framework"]
        if row.payload is None or not np.isfinite(row.measured) or rl.knows(framework):
            continue
        drawn_N = np.log(row.measured / rl_rows.predict(row.payload, rl, factor=False))
        middle = (float(np.median(drawn_N)),) * len(LAUNCHES)
        yield Run(
            project=framework, stack=rl_rows.stack_of(framework), gpu=row.keys["gpu"],
            own=middle, unnamed=middle, log_sd=float(drawn_N.std()),
        )  # fmt: skip


def fit(chosen: Sequence[Run]) -> dict[str, Any]:
    """launch_layer_s, and log_bias and log_sd by stack."""
    tried = []
    for place, launch in enumerate(LAUNCHES):
        answers, evidence = _factors(_by_project(chosen, "own", place))
        tried.append((evidence - 0.5 * (math.log(launch / LAUNCH_PRIOR) / LAUNCH_SD) ** 2, place, answers))
    _, best, found = max(tried, key=lambda each: each[0])
    everything, _ = _factors(_by_project(chosen, "unnamed", best))
    named = {name: found.get(name, found[""]) for name in MECHANISMS if name not in (UNKNOWN, OWN)}
    return {"launch_layer_s": LAUNCHES[best], "stacks": {**named, UNKNOWN: everything[""], OWN: found[""]}}


def _by_project(chosen: Sequence[Run], key: str, place: int) -> list[tuple[str, float, float]]:
    """Stack, mean residual and its spread of every project on each of its stacks."""
    found = []
    for name in sorted({(run.project, run.stack) for run in chosen}):
        rows = [run for run in chosen if (run.project, run.stack) == name]
        values = [getattr(run, key)[place] for run in rows]
        found.append((name[1], float(np.mean(values)), float(np.mean([run.log_sd for run in rows]))))
    return found


def _factors(rows: Sequence[tuple[str, float, float]]) -> tuple[dict[str, dict[str, float]], float]:
    """Posterior of m + b_s by stack, and under "" of any stack, b_s drawn anew; and the log evidence."""
    names = sorted({name for name, _, _ in rows})
    r_P = np.array([value for _, value, _ in rows])
    own_P = np.array([sd for _, _, sd in rows])
    member_PS = np.array([[name == other for other in names] for name, _, _ in rows], dtype=float)
    weight_P = np.ones(len(rows))
    for _ in range(ROUNDS):
        mixture = list(_posteriors(r_P, own_P, member_PS, weight_P))
        logs = np.array([each[0] for each in mixture])
        evidence = float(logs.max() + np.log(np.exp(logs - logs.max()).sum()))
        chance = np.exp(logs - evidence)
        mean_S = sum(c * each[1] for c, each in zip(chance, mixture, strict=True))
        within2 = float(sum(c * each[4] for c, each in zip(chance, mixture, strict=True)))
        off_P = (r_P - member_PS @ mean_S[1:]) ** 2 / (own_P**2 + within2)
        weight_P = (DEGREES + 1) / (DEGREES + off_P)
    answers = {}
    for place, name in enumerate(("", *names)):
        means = np.array([each[1][place] for each in mixture])
        spread = np.array([each[2][place] + each[4] + (each[3] if not place else 0.0) for each in mixture])
        mean = float(chance @ means)
        answers[name] = {
            "log_bias": round(mean, 3),
            "log_sd": round(math.sqrt(float(chance @ (spread + (means - mean) ** 2))), 3),
        }
    return answers, evidence


def _posteriors(
    r_P: Array, own_P: Array, member_PS: Array, weight_P: Array
) -> Iterator[tuple[float, Array, Array, float, float]]:
    """Over the grid of spreads: log evidence, means and variances of m and of each m + b_s, between^2, within^2."""
    projects_, stacks = member_PS.shape
    design = np.hstack([np.ones((projects_, 1)), member_PS])
    wanted = np.vstack([np.eye(1, stacks + 1), np.hstack([np.ones((stacks, 1)), np.eye(stacks)])])
    for between in GRID:
        for within in GRID:
            prior = np.diag([MEAN_SD**2, *[between**2] * stacks])
            noise = np.diag((own_P**2 + within**2) / weight_P)
            covariance = design @ prior @ design.T + noise
            gain = prior @ design.T @ np.linalg.inv(covariance)
            mean = wanted @ (gain @ r_P)
            variance = np.diag(wanted @ (prior - gain @ design @ prior) @ wanted.T)
            fit_ = -0.5 * (np.linalg.slogdet(covariance)[1] + r_P @ np.linalg.solve(covariance, r_P))
            hyper = -0.5 * (between**2 + within**2) / SPREAD_SD**2
            yield float(fit_ + hyper), mean, variance, between**2, within**2


def document() -> dict[str, Any]:
    """All runs, and each project, stack and GPU left out."""
    known = runs()
    without = {
        f"{key}{value}": fit([run for run in known if getattr(run, name) != value])
        for key, name in (("", "project"), ("stack:", "stack"), ("gpu:", "gpu"))
        for value in sorted({getattr(run, name) for run in known})
    }
    return {
        "source": f"{len(known)} rows of {len({run.project for run in known})} projects in data/published",
        "all": fit(known),
        "without": without,
        "residuals": [_shown(run) for run in known],
    }


def _shown(run: Run) -> Mapping[str, Any]:
    return {
        "project": run.project,
        "stack": run.stack,
        "gpu": run.gpu,
        "log_ratios": [round(value, 3) for value in run.own],
    }


def main() -> None:
    """Writes the file that ships."""
    path = DATA / "stacks.json"
    write_document(path, document())
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
