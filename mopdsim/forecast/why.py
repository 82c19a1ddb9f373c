"""What a forecast was asked and what its numbers rest on, in words.

`assumptions` is the question once every default was put in: one line, defaults marked. The same line stands above every
answer, so that two answers that differ show where they were asked differently. `why` says of each score its start, its
ceiling and its speed; of each parameter what studies of another scale changed; and how far the scores move when those
studies are left out. Leaves out: costs (each stage of a forecast carries the grade of its constants), where a forecast
leaves what is known (`mopdsim.forecast.caveats`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mopdsim.base.numbers import count, duration, usd
from mopdsim.belief.calibration import CONSTANTS, Calibration, Parameter, default_calibration, form_error_kind
from mopdsim.facts.domains import Domain, Estimate
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import title
from mopdsim.forecast.forecast import Forecast, forecast
from mopdsim.forecast.scenario import Scenario

_ROLES = {"start": "starts at", "asymptote": "tends to", "midpoint": "is half learned after"}
LEAST = 0.0005  # of a score: a smaller move is none


def why(found: Forecast, calibration: Calibration | None = None) -> list[str]:
    """Sentences, the scores' first. found: a forecast by this calibration (the shipped one where absent)."""
    calibration = calibration or default_calibration()
    scenario = found.scenario
    return [
        *(_of_domain(scenario, row, calibration) for row in found.domains.values()),
        *_of_strategies(found, calibration),
        _of_form(found, calibration),
        *_of_studies(found, calibration),
    ]


def _of_domain(scenario: Scenario, row: Domain, calibration: Calibration) -> str:
    parts = []
    for key, verb in _ROLES.items():
        own: Estimate = getattr(row, key)
        studied = None if own.grade == "measured" else calibration.fact(row, key, scenario.scope)
        known = studied or own
        unit = " FLOPs a parameter of RL" if key == "midpoint" else ""
        parts.append(f"{verb} {known.value:.3g}{unit} ({known.grade}: {known.source})")
    return f"{row.name} {'; '.join(parts)}."


def _of_strategies(found: Forecast, calibration: Calibration) -> Iterator[str]:
    """What says how much of the specialists' gain is kept."""
    if not found.world.recovery:
        yield (
            f"How domains act on each other, and how a student follows its teachers, was fitted to runs at this scope "
            f"({found.scenario.scope})."
        )
        return
    row, unseen = (calibration.parameters[name].prior for name in ("recovery", "recovery_unseen"))
    spread = math.hypot(row.sd, calibration.parameters["recovery_common"].prior.sd)
    yield (
        f"Of the specialists' gain, any strategy keeps {row.value:.2f} (sd {spread:.2f}, {row.grade}: {row.source}); "
        f"one that fewer than two studies have (cascades, second rounds) has sd {math.hypot(spread, unseen.sd):.2f}."
    )


def _of_form(found: Forecast, calibration: Calibration) -> str:
    """What is known of the error of the model's form here."""
    scenario = found.scenario
    kind = form_error_kind(
        calibration, scenario.scope, bold=scenario.recipe.output in scenario.recipe.bold_beyond(())
    )
    if kind is None:
        return (
            f"How far scores at this scope ({scenario.scope}) lie from the model's form was never measured: intervals "
            "hold what its parameters leave open, and no more."
        )
    row = calibration.parameters[kind].studies[scenario.scope]
    return f"Scores lie {row.value:.2g} logits from the model's form ({row.grade}: {row.source}); intervals hold that."


def _of_studies(found: Forecast, calibration: Calibration) -> Iterator[str]:
    """What studies change: parameter by parameter, then in the scores."""
    scenario, moved = found.scenario, 0
    for name in CONSTANTS:
        parameter = calibration.parameters[name]
        if not parameter.studies:
            continue
        if scenario.scope in parameter.studies:
            moved += 1
            continue
        sentence = _transferred(name, parameter)
        if sentence:
            moved += 1
            yield sentence
    if not moved:
        yield "Studies of tiny models change nothing here."
        return
    plain = forecast(scenario, calibration.unfitted())
    shift = found.mean_score["p50"] - plain.mean_score["p50"]
    wider = _width(found) - _width(plain)
    if max(abs(shift), abs(wider)) < LEAST:
        yield "Left out, the studies would change the mean score by nothing that shows."
        return
    yield (
        f"Left out, the studies would move the median of the mean score by {-shift:+.3f} and make its P10 to P90 "
        f"{abs(wider):.3f} {'narrower' if wider > 0 else 'wider'}."
    )


def _transferred(name: str, parameter: Parameter) -> str:
    """What studies of another scope do to a parameter here; empty where nothing."""
    after, how = parameter.transferred()
    if how == "nothing":
        return ""
    before, (scope, found) = parameter.prior, min(parameter.studies.items(), key=lambda pair: pair[1].sd)
    widths = f"sd {before.sd:.2g} to {after.sd:.2g}"
    if how == "moved":
        return (
            f"{name}: {scope} studies (found {found.value:.3g}) move it from {before.value:.3g} to {after.value:.3g}, "
            f"{widths}."
        )
    return (
        f"{name}: {scope} studies found {found.value:.3g}, which contradicts {before.value:.3g}: it stays there and is "
        f"less sure, {widths}."
    )


def _width(found: Forecast) -> float:
    low, high = np.quantile(found.likely_DN.mean(axis=0), [0.1, 0.9])
    return float(high - low)


DEFAULT = "*"
LEGEND = f"({DEFAULT} default)"


def assumptions(scenario: Scenario, *, chosen: bool = False) -> str:
    """Model, GPUs, price, domains, amounts, GPUs of a stage, teams, overhead, limits. chosen: a plan sets steps and
    GPUs of stages itself."""
    stated = scenario.stated

    def said(text: str, *keys: str) -> str:
        return text if any(key in stated for key in keys) else text + DEFAULT

    pools = " + ".join(count(size) for size in scenario.pools.values())
    parts = [
        f"{said(title(scenario.model), 'model')} on {said(pools, 'gpus', 'pools')} x {said(scenario.gpu, 'gpu')} at "
        f"{said(usd(scenario.price), 'usd_per_gpu_hour')} a GPU-hour",
        said(f"domains {', '.join(scenario.recipe.domains)}", "domains"),
        f"{said(scenario.recipe.amounts_name, 'amounts')} amounts",
        *([] if chosen else [said(_gpus_of_stages(scenario), "gpus_per_stage", "gpus_of")]),
        said("any number of teams" if scenario.teams is None else f"{scenario.teams} teams", "teams"),
        said(f"stack {scenario.stack}", "stack", "measured") + _measured(scenario),
        said(_overhead(scenario), "overhead"),
        *_limits(scenario),
    ]
    line = "; ".join(parts)
    return f"{line} {LEGEND}" if DEFAULT in line else line


def basis(scenario: Scenario) -> str:
    """What the scores rest on: starts that the user gave, studies of small models, or assumptions."""
    measured = [name for name, row in scenario.domains.items() if row.start.grade == "measured"]
    if measured:
        return f"starts of your own for {', '.join(measured)}; the rest assumed"
    if scenario.scope == "tiny":
        return "fitted to runs of tiny models"
    return "assumptions, nothing of your own model"


def _gpus_of_stages(scenario: Scenario) -> str:
    sizes = sorted({scenario.stage_gpus(name) for name in scenario.recipe.amounts})
    if len(sizes) == 1:
        return f"{count(sizes[0])} GPUs a stage"
    return f"{count(sizes[0])} to {count(sizes[-1])} GPUs a stage"


def _measured(scenario: Scenario) -> str:
    if scenario.factor is None:
        return ""
    return ", steps as measured" + ("" if scenario.measured is None else f" in {scenario.measured}")


def _overhead(scenario: Scenario) -> str:
    if scenario.overhead is None:
        return "no overhead" if gpu(scenario.gpu).is_cpu else "a project's overhead"
    low, high = scenario.overhead
    return f"overhead {low:g} to {high:g} times"


def _limits(scenario: Scenario) -> Iterator[str]:
    if scenario.budget_usd is not None:
        yield f"budget {usd(scenario.budget_usd)}"
    if scenario.deadline_days is not None:
        yield f"deadline {duration(scenario.deadline_days)}"
