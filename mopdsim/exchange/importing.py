"""Logs of a run back as observations: which stage they are of, a row of measurements each, beside the forecast.

    observations.csv          a row a stage in the columns of rl_steps.csv: `mopd calibrate cost`, `check-step`
    observations.steps.csv    every step in our columns, with its kind
    observations.scores/      scores by step as a study's observations, for `mopd calibrate quality`

What a log does not say (model, GPUs, samples of a step) comes from the manifest that an export left, or from a
scenario. The forecast of a stage is its bill: seconds by phase at central values, times a lognormal error of the time
model. The response length is the log's where it has one, so that what is compared is time, not length. Place: the share
of the forecast's draws that are shorter; below .1 and above .9 the measurement lies outside P10 to P90. A phase has the
step's spread, for which nobody has fitted another. Leaves out: reading logs (`mopdsim.exchange.containers`,
`mopdsim.exchange.steps`), learning curves (`mopdsim.exchange.curves`), what usually causes a difference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.base.numbers import count, share, three
from mopdsim.cost.constants import UNKNOWN
from mopdsim.exchange import curves
from mopdsim.exchange.containers import Log, found_in, read
from mopdsim.exchange.curves import csv_of
from mopdsim.exchange.export import MANIFEST, SCENARIO
from mopdsim.exchange.steps import COLUMNS, KEY_MAPS, PHASES, Steps, check_units, steps_of
from mopdsim.facts.domains import P90
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import bill_of
from mopdsim.recipes.stage import Distill, Rl, Sft
from mopdsim.validate.intervals import lognormal
from mopdsim.validate.rl_rows import COLUMNS as NEEDED
from mopdsim.validate.rl_rows import OPTIONAL_COLUMNS, stack_of

OURS = {
    "generation": ("generation_s", "reward_s"),
    "scoring": ("old_logprob_s", "reference_s"),
    "training": ("update_s",),
}


def compared(scenario: Scenario, stage: str, found: Steps) -> dict[str, Any]:
    """P10, P50 and P90 of the stage's step and phases, what was measured, and its place. Empty for a stage that is not
    timed in steps."""
    amounts = scenario.recipe.amounts.get(stage)
    if amounts is None:
        return {}
    length = found.median("mean_tokens")
    at_length = _at_length(_on_stack(scenario, found.engine), stage, length)
    own = bill_of(at_length, scenario.recipe.stage[stage], gpus=scenario.stage_gpus(stage))
    seconds = {phase: value / own.steps for phase, value in own.seconds.items() if phase != "evaluation"}
    measured: dict[str, float | None] = {"step": found.median("step_s")}
    for phase, columns in OURS.items():
        parts = [found.median(column) for column in columns]
        if parts[0] is not None:
            measured[phase] = sum(part for part in parts if part is not None)
    if "generation" not in measured and found.median("wait_s") is not None:
        measured["wait"] = found.median("wait_s")
    rows = {}
    for name, value in (("step", sum(seconds.values())), *seconds.items()):
        rows[name] = _beside(value, own.log_sd, measured.get(name))
    return {
        "stack": at_length.stack,
        "mean_tokens": own.mean_length,
        "log_sd": own.log_sd,
        "rows": rows,
        **({"wait_s": measured["wait"]} if "wait" in measured else {}),
    }


def totals_of(runs: Sequence[Run], scenario: Scenario | None) -> dict[str, Any]:
    """GPU-hours of all stages by the forecast's middle, and the same with the measured steps in place of its own; empty
    where no scenario is known."""
    if scenario is None:
        return {}
    found = {run.stage: run.found for run in runs}
    forecast_s = measured_s = 0.0
    timed = []
    for stage in scenario.recipe.stages:
        gpus = scenario.stage_gpus(stage.name)
        own = bill_of(scenario, stage, gpus=gpus)
        seconds = sum(own.seconds.values())
        forecast_s += own.gpus * seconds
        step = found[stage.name].median("step_s") if stage.name in found else None
        if step is not None:
            timed.append(stage.name)
            seconds = own.steps * step + own.seconds.get("evaluation", 0.0)
        measured_s += own.gpus * seconds
    return {
        "forecast_gpu_hours": forecast_s / 3600,
        "measured_gpu_hours": measured_s / 3600,
        "measured_stages": timed,
    }


def _on_stack(scenario: Scenario, engine: str) -> Scenario:
    """The scenario on the log's own software, where nobody says which."""
    told = scenario.stack != UNKNOWN or scenario.measured is not None
    return scenario if told else replace(scenario, stack=stack_of(engine))


def _at_length(scenario: Scenario, stage: str, length: float | None) -> Scenario:
    """The scenario with the stage's own mean response length, exactly."""
    if length is None:
        return scenario
    return replace(scenario, ranges={**scenario.ranges, f"{stage}.response_tokens": (length, length)})


def _beside(middle: float, log_sd: float, measured: float | None) -> dict[str, float | None]:
    place = NormalDist().cdf(math.log(measured / middle) / log_sd) if measured and middle else None
    return {**lognormal(middle, P90 * log_sd), "measured": measured, "place": place}


MODES = {"synchronous": "On policy", "one_step_off": "1-step Off", "asynchronous": "Fully async"}
STEP_COLUMNS = ("stage", "engine", "step", "kind", *COLUMNS)
TIMED = ("generation_s", "old_logprob_s", "reference_s", "update_s")  # of rl_steps.csv


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is known besides the log. stages: by name, as a manifest describes them (empty without one)."""

    scenario: Scenario | None = None
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipe: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One stage's steps with what they were measured on; `about` is empty where no manifest or scenario says it."""

    stage: str
    paths: tuple[str, ...]
    containers: tuple[str, ...]
    found: Steps
    about: Mapping[str, Any]
    forecast: Mapping[str, Any]

    def row(self) -> dict[str, Any] | None:
        """The stage's measurement as a row of rl_steps.csv: medians over working steps. None where it is not known what
        it was measured on, and for supervised stages, whose steps sample nothing."""
        if not self.about or self.about["algorithm"] == "SFT":
            return None
        median = self.found.median
        values: dict[str, Any] = {
            "source": "; ".join(self.paths),
            "framework": self.about["framework"],
            "algorithm": self.about["algorithm"],
            "model": self.about["model"],
            "gpu": self.about["gpu"],
            "precision": self.about["precision"],
            "gpus": self.about["gpus"],
            "mode": MODES["asynchronous" if self.found.asynchronous else self.about["overlap"]],
            "max_tokens": self.about["max_tokens"],
            "mean_tokens": median("mean_tokens"),
            "samples_per_step": self.about["samples_per_step"],
            **{name: median(name) for name in TIMED},
            "step_s": median("step_s"),
            "note": f"stage {self.stage}: median of {len(self.found.work)} steps",
        }
        return {
            name: values.get(name) for name in dict.fromkeys((*NEEDED, *OPTIONAL_COLUMNS, *TIMED, *values))
        }

    def to_document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        kinds = [step.kind for step in self.found.steps]
        return {
            "stage": self.stage,
            "engine": self.found.engine,
            "logs": list(self.paths),
            "containers": list(dict.fromkeys(self.containers)),
            "steps": {kind: kinds.count(kind) for kind in ("work", "warm-up", "evaluation")},
            "asynchronous": self.found.asynchronous,
            "dropped": dict(sorted(self.found.dropped.items())),
            "median": {name: value for name in COLUMNS if (value := self.found.median(name)) is not None},
            "about": dict(self.about),
            "forecast": dict(self.forecast),
        }


def context_of(path: Path, manifest: Path | None, scenario: Path | None) -> Context:
    """What a manifest or a scenario says; the export's own manifest where the path lies in an export."""
    if manifest is not None and scenario is not None:
        raise UsageError("--manifest and --scenario: give one of them")
    if scenario is not None:
        return Context(scenario=scenarios.load(scenario), recipe="scenario")
    if manifest is None:
        inside = [
            place / MANIFEST
            for place in (path.resolve(), *path.resolve().parents)
            if (place / SCENARIO).is_file()
        ]
        manifest = next((place for place in inside if place.is_file()), None)
    if manifest is None:
        return Context()
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        stages = {str(name): dict(row) for name, row in document["stages"].items()}
    except FileNotFoundError:
        raise NotFoundError(
            f"--manifest {manifest}: no such file; give the {MANIFEST} of an export"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"--manifest {manifest}: not a manifest of `mopd export` ({error!r})") from None
    return Context(
        scenario=scenarios.load(manifest.with_name(SCENARIO)),
        stages=stages,
        recipe=str(document.get("recipe", "")),
    )


def imported(path: Path, context: Context, *, engine: str = "auto", stage: str | None = None) -> list[Run]:
    """The runs in a log or a folder. One sentence as an error where nothing can be read, or it does not fit."""
    if engine not in ("auto", *KEY_MAPS):
        raise NotFoundError(f"--engine {engine}: no such engine{did_you_mean(engine, ['auto', *KEY_MAPS])}")
    places = _places(path, context, stage)
    return [_run(name, read(place), context, engine) for name, place in places.items()]


def _places(path: Path, context: Context, stage: str | None) -> dict[str, Path]:
    """Where each stage's logs lie: the named one's here, or those of the stages that the path belongs to."""
    known = list(context.stages) or ([] if context.scenario is None else list(context.scenario.recipe.stage))
    if stage is not None:
        if known and stage not in known:
            raise NotFoundError(
                f"--stage {stage}: no stage of {context.recipe!r}{did_you_mean(stage, known)}"
            )
        return {stage: path}
    if not known:
        return {path.stem if path.is_file() else path.name: path}
    below = {name: path / name for name in known if path.is_dir() and (path / name).is_dir()}
    ran = {name: place for name, place in below.items() if found_in(place)}
    if ran:
        return ran
    within = [name for name in known if name in path.resolve().parts]
    if within:
        return {within[-1]: path}
    trained = [name for name in known if context.scenario is None or name in context.scenario.recipe.amounts]
    if len(trained) == 1:
        return {trained[0]: path}
    raise UsageError(
        f"{path}: of none of the stages {', '.join(known)} of {context.recipe!r}: name one with --stage, or give the "
        f"manifest of the export that made this log"
    )


def _run(name: str, logs: Sequence[Log], context: Context, engine: str) -> Run:
    about = _about(name, context)
    overlap = about.get("overlap", "synchronous")
    gpus = about.get("gpus")
    found = steps_of(logs, engine=engine, gpus=gpus, asynchronous=overlap != "synchronous")
    told = context.stages.get(name, {}).get("engine")
    if told is not None and told != found.engine:
        raise UsageError(
            f"{logs[0].path}: its keys are {found.engine}'s, but the manifest says that stage {name!r} of "
            f"{context.recipe!r} ran with {told}: give the manifest of the export that made this log"
        )
    if about:
        check_units(
            found,
            gpus=about["gpus"],
            samples=about["samples_per_step"],
            max_tokens=about["max_tokens"],
            where=logs[0].path,
        )
        about["framework"] = f"{found.engine} {about.pop('version')}".strip()
    return Run(
        stage=name,
        paths=tuple(log.path for log in logs),
        containers=tuple(log.container for log in logs),
        found=found,
        about=about,
        forecast={} if context.scenario is None else compared(context.scenario, name, found),
    )


def _about(name: str, context: Context) -> dict[str, Any]:
    """What a stage was measured on, by manifest and scenario; empty where there is none."""
    scenario = context.scenario
    if scenario is None:
        return {}
    stage = scenario.recipe.stage[name]
    amounts = scenario.recipe.amounts.get(name)
    if amounts is None or not isinstance(stage, Sft | Rl | Distill):
        raise UsageError(
            f"--stage {name}: kind {stage.kind!r} has no steps that are timed: name an sft, rl or distill stage"
        )
    row = context.stages.get(name, {})
    longest = max(scenario.domains[domain].max_response_tokens for domain in stage.domains)
    return {
        "version": str(row.get("engine_version", "")),
        "algorithm": (stage.algorithm if isinstance(stage, Rl) else stage.kind).upper(),
        "model": scenario.model_of(scenario.recipe.root_of(name)),
        "gpu": scenario.gpu,
        "precision": scenario.precision.upper(),
        "gpus": int(row.get("gpus") or scenario.stage_gpus(name)),
        "overlap": scenario.overlap,
        "max_tokens": int(row.get("max_tokens", longest)),
        "samples_per_step": amounts.prompts_per_step * amounts.rollouts_per_prompt,
    }


def write(out: Path, runs: Sequence[Run], context: Context) -> list[Path]:
    """The files named in the module's head; learning curves where a scenario says what they are of."""
    rows = [row for run in runs if (row := run.row()) is not None]
    written = []
    if rows:
        out.write_text(csv_of(rows[0], rows), encoding="utf-8")
        written.append(out)
    steps = [
        {"stage": run.stage, "engine": run.found.engine, "step": step.step, "kind": step.kind, **step.values}
        for run in runs
        for step in run.found.steps
    ]
    beside = out.with_name(f"{out.stem}.steps.csv")
    beside.write_text(csv_of(STEP_COLUMNS, steps), encoding="utf-8")
    written.append(beside)
    if context.scenario is not None:
        scores = curves.write(
            out.with_name(f"{out.stem}.scores"), context.scenario, {run.stage: run.found for run in runs}
        )
        written += [] if scores is None else [scores]
    return written


def text_of(runs: Sequence[Run], totals: Mapping[str, Any]) -> str:
    """The import for people."""
    lines = []
    for run in runs:
        kinds = ", ".join(f"{times} {kind}" for kind, times in run.to_document()["steps"].items() if times)
        lines.append(
            f"{run.stage} ({run.found.engine}, {', '.join(dict.fromkeys(run.containers))}): steps: {kinds}"
        )
        for reason, times in sorted(run.found.dropped.items()):
            lines.append(f"  left out: {times} x {reason}")
        rows = run.forecast.get("rows", {})
        if rows:
            lines.append(f"  forecast on the stack {run.forecast['stack']}")
            lines.append(f"  {'':<12}{'measured s':>12}{'forecast P10 / P50 / P90 s':>34}   place")
        for name, row in rows.items():
            measured = "-" if row["measured"] is None else count(row["measured"])
            ends = three(row) if row["p50"] else "none"
            lines.append(f"  {name:<12}{measured:>12}{ends:>34}   {place_in_words(row['place'])}")
        shown = [name for name in COLUMNS if not rows or name not in ("step_s", *PHASES)]
        for name in shown:
            value = run.found.median(name)
            if value is not None:
                lines.append(f"  {name:<20} {count(value)}")
    if totals:
        lines.append(
            f"all stages: {count(totals['forecast_gpu_hours'])} GPU-hours by the forecast's middle, "
            f"{count(totals['measured_gpu_hours'])} with the measured steps of {', '.join(totals['measured_stages'])}"
        )
    return "\n".join(lines)


def place_in_words(place: float | None) -> str:
    if place is None:
        return ""
    side = "below P10" if place < 0.1 else "above P90" if place > 0.9 else "within P10 to P90"
    return f"{share(place)}, {side}"
