"""'Is my step normal?': where one measured step lies in the forecast's distribution, and which phase is off.

The step is built as a row of `rl_steps.csv`; its distribution is lognormal, of the time model's error and the stack's
factor. Phases are compared where they were measured. Causes are what most often explains such a phase, in words: they
are not inferred from the numbers. Leaves out: steps of fine-tuning; whole logs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import NORMAL_80, DecodeConstants, RlConstants, Stack, TrainConstants, shipped
from mopdsim.cost.rlstep import RlStep, rl_step_s
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model
from mopdsim.validate import rl_rows
from mopdsim.validate.intervals import lognormal
from mopdsim.validate.measured import FAR
from mopdsim.validate.tables import quantity

CLEAR = 1.5  # a phase so many times its forecast is named
PHASES = {"generation_s": "generation", "old_logprob_s": "scoring", "update_s": "training"}
CAUSES: Mapping[tuple[str, bool], str] = {
    ("generation", True): "a few long answers hold the batch (cap them, or go asynchronous); too little cache, so that "
    "requests are preempted or queue; eager mode instead of CUDA graphs; a tensor split across nodes",
    ("scoring", True): "log-probabilities in small microbatches, or in float32 over the whole vocabulary; weights "
    "gathered again for each microbatch",
    ("training", True): "samples padded instead of packed; microbatches of one sample; recomputation; full sharding "
    "across nodes; the optimizer on the host",
    ("rest", True): "new weights handed over through files or one rank; rewards or environments that run one after the "
    "other; a checkpoint or an evaluation inside the step",
    ("step", True): "padding, long answers that hold the batch, and weight transfer: give --generation-seconds and "
    "--training-seconds to tell them apart",
    ("generation", False): "shorter answers than told, prefix caching, speculative decoding, or a wait of an "
    "asynchronous run in place of the phase",
    ("step", False): "fewer or shorter samples than told, samples dropped before the update, or a phase that runs "
    "beside another",
}  # fmt: skip


def check(row: Mapping[str, str], software: Stack, called: Callable[[str], str] = str) -> dict[str, Any]:
    """The verdict on one step. row: columns of `rl_steps.csv`, and generation_s, old_logprob_s and update_s where
    measured; the longest answer is three times the mean where it is not told. called: a column's name in an error, such
    as its flag or its line. UsageError for a value that cannot be."""
    shape, card = model(row["model"]), gpu(row["gpu"])
    cells = dict.fromkeys((*rl_rows.COLUMNS, *rl_rows.OPTIONAL_COLUMNS), "") | dict(row)
    values = {
        name: quantity(cells[name], called(name))
        for name in ("gpus", "mean_tokens", "samples_per_step", "step_s")
    }
    longest = quantity(cells["max_tokens"], called("max_tokens"), default=3 * values["mean_tokens"])
    values["max_tokens"] = longest
    measured = values["step_s"]
    if values["max_tokens"] < values["mean_tokens"]:
        raise UsageError(
            f"{called('max_tokens')} = {values['max_tokens']:g} lies below {called('mean_tokens')} = "
            f"{values['mean_tokens']:g}: the longest answer must be at least as long as the mean"
        )
    known = {
        phase: quantity(cells[name], called(name), zero=True)
        for name, phase in PHASES.items()
        if cells.get(name)
    }
    for name, phase in PHASES.items():
        if known.get(phase, 0.0) > measured:
            raise UsageError(
                f"{called(name)} = {known[phase]:g} is more than {called('step_s')} = {measured:g}: a phase is part "
                "of its step; give both in seconds of one step"
            )
    _check_words(cells, called)
    phases = _phases(rl_rows.scenario(cells, shape, card, values), software)
    fitted = shipped()["rl_steps"]
    width = fitted.half_width(moe=shape.is_moe, model=shape.name, gpu=card.name) / NORMAL_80
    log_sd = math.hypot(width, software.log_sd)
    middle = phases["step"]
    if not 1 / FAR < measured / middle < FAR:
        raise UsageError(
            f"{called('step_s')} = {measured:g}: {measured / middle:.2g} times the forecast's {middle:.3g} s: "
            "it must be seconds, not milliseconds, of a whole step"
        )
    share = NormalDist().cdf(math.log(measured / middle) / log_sd)
    found = {
        "measured_s": measured,
        **lognormal(middle, NORMAL_80 * log_sd),
        "percentile": round(100 * share, 1),
        "verdict": "slow" if share > 0.9 else "fast" if share < 0.1 else "normal",
        "stack": software.name,
        "phases": _compared(known, phases, measured),
    }
    return {**found, "causes": _causes(found)}


def _check_words(cells: Mapping[str, str], called: Callable[[str], str]) -> None:
    """UsageError for a mode or a precision that would be read as the usual one."""
    rules = {
        "mode": (
            r"on.policy|sync|step.off|colocate|fsdp|megatron|epoch",
            "On policy, 1-step off, fully async 16:16",
        ),
        "precision": (r"bf16|fp16|fp8", "bf16, fp8"),
    }
    for name, (known, examples) in rules.items():
        if cells[name] and not re.search(known, cells[name], re.IGNORECASE):
            raise UsageError(f"{called(name)} = {cells[name]!r} is not known: write it as in: {examples}")


def _phases(step: RlStep, software: Stack) -> dict[str, float]:
    """Forecast seconds by phase."""
    rl = RlConstants.shipped()
    told = rl_step_s(step, DecodeConstants.shipped(), TrainConstants.shipped(), rl)
    slower = math.exp(0.0 if rl.knows(step.framework) else software.log_bias)
    return {
        "generation": slower * float(told.generation),
        "scoring": slower * float(told.scoring),
        "training": slower * float(told.training),
        "rest": slower * float(told.fixed + told.sync),
        "step": slower * float(told.step),
    }


def _compared(
    known: dict[str, float], told: Mapping[str, float], measured: float
) -> dict[str, dict[str, Any]]:
    """Each phase: forecast, and measured and their ratio where known; the rest where all phases are known."""
    if len(known) == len(PHASES) and measured > sum(known.values()):
        known = {**known, "rest": measured - sum(known.values())}
    return {
        phase: {
            "forecast_s": seconds,
            "measured_s": known.get(phase),
            "ratio": known[phase] / seconds if phase in known and seconds else None,
        }
        for phase, seconds in told.items()
        if phase != "step"
    }


def _causes(found: Mapping[str, Any]) -> list[str]:
    """What usually explains the phases that are clearly off, furthest first; the whole step where no phase is known."""
    off = sorted(
        ((abs(math.log(row["ratio"])), phase, row["ratio"] > 1)
        for phase, row in found["phases"].items()
        if row["ratio"] and not 1 / CLEAR < row["ratio"] < CLEAR),
        reverse=True,
    )  # fmt: skip
    if not off and found["verdict"] != "normal":
        off = [(0.0, "step", found["verdict"] == "slow")]
    return [f"{phase}: {CAUSES[phase, slow]}" for _, phase, slow in off if (phase, slow) in CAUSES]


def text(found: Mapping[str, Any]) -> str:
    """For people."""
    where = f"{found['percentile']:.0f} of 100 such steps would be faster"
    lines = [
        f"{found['measured_s']:.4g} s a step is {found['verdict']}: {where}",
        f"  forecast on {found['stack']!r}: {found['p50']:.4g} s ({found['p10']:.4g} to {found['p90']:.4g})",
    ]
    for phase, row in found["phases"].items():
        told = f"  {phase:<11} forecast {row['forecast_s']:8.4g} s"
        if row["ratio"]:
            told += f"   measured {row['measured_s']:8.4g} s   {row['ratio']:.2f} times"
        lines.append(told)
    lines += [f"  usually {cause}" for cause in found["causes"]]
    return "\n".join(lines)
