"""Forecast: cost, calendar and quality of one scenario, over common draws, with grades and warnings.

Every draw fixes one world: domains, interference, lengths, the time model's error, failures and reruns. Draws
depend on names and the seed alone, so two recipes meet the same worlds and their difference is sharper than
either (`mopdsim.forecast.compare`). Numbers are P10, P50 and P90 over draws; a grade is that of the weakest input.
Leaves out: the search for a better recipe (`mopdsim.plan.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.belief.calibration import Calibration, default_calibration, form_error, moved, standard_normal
from mopdsim.cost.stage_cost import Bill
from mopdsim.facts.domains import GRADES, Domain, Grade, within_bound
from mopdsim.facts.hardware import Gpu, gpu
from mopdsim.facts.model import title
from mopdsim.forecast.caveats import caveats
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.schedule import Job, Timeline, place
from mopdsim.forecast.stage_draws import (
    bills_of,
    effort_of,
    length_of,
    machine_of,
    overhead_of,
    relative_amount,
    seconds_of,
    taken_gpus,
    with_gpus,
    world_of,
)
from mopdsim.quality.step import Effort, State
from mopdsim.quality.walk import Products, products, walk
from mopdsim.quality.world import World
from mopdsim.recipes.stage import needs

HOUR, DAY = 3600.0, 86_400.0
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a scenario comes to. Axes: J stage in the order of placing, D domain, N draw."""

    scenario: Scenario
    domains: Mapping[str, Domain]
    bills: Mapping[str, Bill]
    timeline: Timeline
    usd_per_gpu_hour: float
    efforts: Mapping[str, Effort]
    products: Products
    world: World
    grades: Mapping[str, Grade]
    error_DN: Array | None = None

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of the numbers; worked out when asked for, since it takes bills of its own."""
        idle = float(np.median(self.idle_share_N))
        return caveats(self.scenario, self.domains, self.efforts, self.world, self.bills, idle)

    @property
    def states(self) -> Mapping[str, State]:
        """The policies that stages leave, roots included."""
        return self.products.states

    @cached_property
    def stage_flops(self) -> dict[str, Array]:
        """FLOPs of each stage's sampling, scoring and gradient; evaluation and reruns not counted. (N,)"""
        return {
            name: found.steps
            * (length_of(self.scenario, found, self.world) * relative_amount(self.scenario, name))
            * found.step_flops
            for name, found in self.bills.items()
        }

    @cached_property
    def stage_gpu_hours(self) -> dict[str, Array]:
        """GPU-hours allocated to each stage, reruns, sweeps and failures included. (N,)"""
        return {job.name: job.seconds_N * job.gpus / HOUR for job in self.timeline.jobs}

    @cached_property
    def gpu_hours_N(self) -> Array:
        return sum(self.stage_gpu_hours.values(), np.zeros(self.scenario.draws))

    @property
    def usd_N(self) -> Array:
        """What busy GPUs cost."""
        return self.gpu_hours_N * self.usd_per_gpu_hour

    @property
    def reserved_gpu_hours_N(self) -> Array:
        """GPU-hours of the pools from the first start to the last end, busy or not. (N,)"""
        return self.timeline.makespan_N / HOUR * sum(self.scenario.pools.values())

    @property
    def idle_share_N(self) -> Array:
        """Share of the reserved GPU-hours that no stage takes. (N,)"""
        return np.maximum(1 - self.gpu_hours_N / np.maximum(self.reserved_gpu_hours_N, 1e-12), 0.0)

    @property
    def days_N(self) -> Array:
        return self.timeline.makespan_N / DAY

    @property
    def output(self) -> State:
        """The state of the recipe's last word."""
        return self.states[self.scenario.recipe.output]

    @property
    def scores_DN(self) -> Array:
        """Of the recipe's last word, the model form taken for granted: what plans are compared by."""
        return self.output.score_DN

    @cached_property
    def likely_DN(self) -> Array:
        """The scores with the error of the model form added, if it is known: the range in which a real run's
        score is expected, on rivals no more than one model can reach. Every interval of a score that is printed is one
        of these draws."""
        return within_bound(moved(self.scores_DN, self.error_DN), self.world.rivals)

    @property
    def score_intervals(self) -> dict[str, dict[str, float]]:
        """P10, P50 and P90 of the score on every domain."""
        return self._quantiles(self.likely_DN)

    @property
    def mean_score(self) -> dict[str, float]:
        """P10, P50 and P90 of the mean over domains."""
        return quantiles(self.likely_DN.mean(axis=0))

    @property
    def worst_score(self) -> dict[str, float]:
        """P10, P50 and P90 of the score on the domain that is lowest in each draw."""
        return quantiles(self.likely_DN.min(axis=0))

    @property
    def waterfall(self) -> dict[str, dict[str, float]]:
        """Mean over draws, by domain: start, the causes of the change, final. Start and causes add up to
        final.
        """
        state = self.output
        assert state.waterfall is not None
        steps: dict[str, Array] = {"start": self.states[state.root].score_DN}
        steps |= {str(cause): row_DN for cause, row_DN in state.waterfall.items()}
        steps["final"] = state.score_DN
        means = {cause: row_DN.mean(axis=1).tolist() for cause, row_DN in steps.items()}
        return {
            name: {cause: row[place] for cause, row in means.items()}
            for place, name in enumerate(self.world.names)
        }

    @cached_property
    def uncertainty(self) -> dict[str, dict[str, float]]:
        """Standard deviation of each score: in all, and from seeds alone (other numbers fixed). Scores are
        true pass rates: what a finite test adds is not in it."""
        calm = self.world.without_seeds()
        fixed = walk(self.scenario.recipe, calm, self.efforts, explain=False)[
            self.scenario.recipe.output
        ].score_DN
        return {
            name: {
                "sd": float(self.likely_DN[place].std()),
                "seed_sd": float(np.sqrt(np.mean((self.scores_DN[place] - fixed[place]) ** 2))),
            }
            for place, name in enumerate(self.world.names)
        }

    def step_seconds_N(self, stage: str) -> Array:
        """Seconds of one step of a stage: no evaluation, failures, reruns or overhead of a project. (N,)"""
        bill = self.bills[stage]
        noise_N = standard_normal("time_model", self.scenario.seed, self.scenario.draws)
        return bill.step_seconds_at(length_of(self.scenario, bill, self.world), noise_N)

    def retraining(self, *domains: str) -> tuple[tuple[str, ...], Array, Array]:
        """What a change of some domains costs after the project, alone on the pool: the stages to rerun, GPU-hours
        and days, (N,).
        """
        recipe = self.scenario.recipe
        for domain in domains:
            if domain not in recipe.domains:
                raise UsageError(
                    f"domain {domain!r} is not the recipe's{did_you_mean(domain, recipe.domains)}"
                )
        stale = {name for domain in domains for name in recipe.affected_by(domain)}
        names = tuple(name for name in recipe.stage if name in stale)
        jobs = [
            replace(job, needs=tuple(name for name in job.needs if name in names))
            for job in self.timeline.jobs
            if job.name in names
        ]
        zero_N = np.zeros(self.scenario.draws)
        if not jobs:
            return (), zero_N, zero_N
        hours_N = sum((self.stage_gpu_hours[name] for name in names), zero_N)
        timeline = place(jobs, self.scenario.pools, teams=self.scenario.teams)
        return names, hours_N, timeline.makespan_N / DAY

    def to_document(self) -> dict[str, Any]:
        """The forecast as plain data, for JSON."""
        scenario = self.scenario
        return {
            "recipe": scenario.recipe.name,
            "amounts": scenario.recipe.amounts_name,
            "model": title(scenario.model),
            "gpu": scenario.gpu,
            "pools": dict(scenario.pools),
            "stack": scenario.stack,
            "draws": scenario.draws,
            "seed": scenario.seed,
            "gpu_hours": quantiles(self.gpu_hours_N),
            "usd": quantiles(self.usd_N),
            "reserved": {
                "gpu_hours": quantiles(self.reserved_gpu_hours_N),
                "usd": quantiles(self.reserved_gpu_hours_N * self.usd_per_gpu_hour),
                "idle_share": quantiles(self.idle_share_N),
            },
            "flops": quantiles(sum(self.stage_flops.values(), np.zeros(scenario.draws))),
            "days": quantiles(self.days_N),
            "project_overhead": quantiles(overhead_of(scenario)),
            "usd_per_gpu_hour": self.usd_per_gpu_hour,
            "fits": True,
            "within_budget": _share(self.usd_N, scenario.budget_usd),
            "within_deadline": _share(self.days_N, scenario.deadline_days),
            "critical_path": list(self.timeline.critical_path),
            "stages": [self._stage(place) for place in range(len(self.timeline.jobs))],
            "scores": self.score_intervals,
            "mean_score": self.mean_score,
            "worst_score": self.worst_score,
            "side_outputs": {
                name: self._quantiles(self.states[name].score_DN) for name in scenario.recipe.side_outputs
            },
            "waterfall": self.waterfall,
            "uncertainty": self.uncertainty,
            "retraining": {name: self._retraining(name) for name in self.world.names},
            "grades": dict(self.grades),
            "warnings": list(self.warnings),
        }

    def _stage(self, place: int) -> dict[str, Any]:
        job = self.timeline.jobs[place]
        found = self.bills[job.name]
        hours_N = self.stage_gpu_hours[job.name]
        return {
            "name": job.name,
            "kind": self.scenario.recipe.stage[job.name].kind,
            "pool": job.pool,
            "gpus": found.gpus,
            "steps": found.steps,
            "gpu_hours": quantiles(hours_N),
            "usd": quantiles(hours_N * self.usd_per_gpu_hour),
            "start_day": quantiles(self.timeline.start_JN[place] / DAY),
            "end_day": quantiles(self.timeline.end_JN[place] / DAY),
            "hours_by_phase": {phase: seconds / HOUR for phase, seconds in found.seconds.items()},
            "flops": quantiles(self.stage_flops[job.name]),
            "flops_by_phase": dict(found.flops),
            "generated_tokens": found.generated_tokens,
            "scored_tokens": found.scored_tokens,
            "trained_tokens": found.trained_tokens,
            "layout": found.layout,
            "memory_gb": found.memory_bytes / 1e9,
            "stored_gb": found.stored_bytes / 1e9,
            "grade": stage_grade(self.scenario, found),
            **self._product(job.name),
        }

    def _product(self, name: str) -> dict[str, Any]:
        """Medians of what a stage leaves: a policy's scores, a reward model's fidelity, the scores of kept samples."""
        made = self.products
        if name in made.judges:
            return {"scores": {}, "fidelity": self._medians(made.judges[name].fidelity_DN)}
        if name in made.datasets:
            return {"scores": {}, "kept": self._medians(made.datasets[name].kept_DN)}
        return {"scores": self._medians(made.states[name].score_DN)}

    def _medians(self, values_DN: Array) -> dict[str, float]:
        return dict(zip(self.world.names, np.median(values_DN, axis=1).tolist(), strict=True))

    def _quantiles(self, values_DN: Array) -> dict[str, dict[str, float]]:
        return {name: quantiles(row) for name, row in zip(self.world.names, values_DN, strict=True)}

    def _retraining(self, domain: str) -> dict[str, Any]:
        names, hours_N, days_N = self.retraining(domain)
        return {"stages": list(names), "gpu_hours": quantiles(hours_N), "days": quantiles(days_N)}


def forecast(
    scenario: Scenario,
    calibration: Calibration | None = None,
    *,
    known: Mapping[str, Mapping[str, float]] | None = None,
) -> Forecast:
    """Cost, schedule and quality of a scenario. known: scores that were measured after stages, by stage and domain.
    InfeasibleError where the model fits no layout."""
    calibration = calibration or default_calibration()
    scenario = with_gpus(scenario)
    world = world_of(scenario, calibration)
    recipe, machine = scenario.recipe, gpu(scenario.gpu)
    bills = bills_of(scenario)
    lengths_CN = np.stack([length_of(scenario, found, world) for found in bills.values()])
    steps_C = [found.steps for found in bills.values()]
    seconds_CN = seconds_of(scenario, [*bills], [*bills.values()], steps_C, lengths_CN)
    jobs = [
        Job(
            name=name,
            seconds_N=seconds_N,
            gpus=taken_gpus(scenario, recipe.stage[name], found),
            needs=needs(recipe.stage[name]),
            pool=scenario.pool(name),
            priority=scenario.priority.get(name, 0.0),
        )
        for (name, found), seconds_N in zip(bills.items(), seconds_CN, strict=True)
    ]
    efforts = efforts_of(scenario, bills, world)
    domains = scenario.domains
    return Forecast(
        scenario=scenario,
        domains=domains,
        bills=bills,
        timeline=place(jobs, scenario.pools, teams=scenario.teams),
        usd_per_gpu_hour=scenario.price,
        efforts=efforts,
        products=products(recipe, world, efforts, known=known),
        world=world,
        error_DN=form_error(
            calibration,
            scenario.scope,
            recipe.output,
            world.names,
            seed=scenario.seed,
            draws=scenario.draws,
            scored=all(row.start.grade == "measured" for row in domains.values()),
            bold=recipe.output in recipe.bold_beyond(known or {}),
        ),
        grades=_grades(scenario, domains, bills, machine),
    )


def efforts_of(scenario: Scenario, bills: Mapping[str, Bill], world: World) -> dict[str, Effort]:
    """What every stage learns from, after as many steps as these bills have."""
    recipe = scenario.recipe
    return {
        name: effort_of(
            scenario,
            recipe.stage[name],
            recipe.amounts.get(name),
            machine_of(scenario, recipe.stage[name]),
            found.steps,
            world.constants,
        )
        for name, found in bills.items()
    }


def quantiles(values_N: Array) -> dict[str, float]:
    """P10, P50 and P90 over draws."""
    found = np.quantile(values_N, list(QUANTILES.values()))
    return {name: float(value) for name, value in zip(QUANTILES, found, strict=True)}


def _grades(
    scenario: Scenario, domains: Mapping[str, Domain], bills: Mapping[str, Bill], machine: Gpu
) -> dict[str, Grade]:
    """The weakest grade among the inputs of each number."""
    lengths: list[Grade] = [row.response_tokens.grade for row in domains.values()]
    times = [*lengths, *(stage_grade(scenario, found) for found in bills.values())]
    price = "measured" if scenario.usd_per_gpu_hour else machine.price_grade
    scores = {
        name: weakest([row.start.grade, row.asymptote.grade, row.midpoint.grade])
        for name, row in domains.items()
    }
    hours = weakest(times)
    return {
        "gpu_hours": hours,
        "usd": weakest([hours, "prior" if price == "assumed" else price]),
        "days": weakest([hours, "prior"]),
        **{f"scores.{name}": grade for name, grade in scores.items()},
    }


def stage_grade(scenario: Scenario, found: Bill) -> Grade:
    """What a stage's hours rest on: a range of its own amounts or an overhead is a prior."""
    ranged = any(key.partition(".")[0] == found.name for key in scenario.ranges)
    return weakest([found.grade, "prior" if ranged or scenario.overhead is not None else "measured"])


def weakest(grades: Sequence[str]) -> Grade:
    """The grade that rests on least."""
    order = [str(grade) for grade in GRADES]
    return GRADES[max(order.index(grade) for grade in grades)]


def _share(values_N: Array, limit: float | None) -> float | None:
    """Probability of staying within a limit."""
    return None if limit is None else float(np.mean(values_N <= limit))
