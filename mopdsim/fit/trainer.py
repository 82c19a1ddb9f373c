"""Fits what a step of this project's own trainer takes to its phases, as `mopd train pace --out FILE` times them.

Weighted least squares of relative errors on the equation of `mopdsim.cost.own_trainer`, no constant negative, errors
beyond a tenth counting less. Every size is also left out and predicted by the others. What ships is one processor's;
the stages of four studies, run on another one and by an older trainer, then give that processor's factor and nothing
else. On a GPU the steps are also set against the time model, which gives the factor of this trainer as a stack.
Leaves out: evaluation and loading (a stage's `seconds` are those of its steps).

    python -m mopdsim.fit.trainer        writes mopdsim/data/trainer.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from mopdsim.base.arrays import Array
from mopdsim.base.documents import DATA, json_document, write_document
from mopdsim.base.errors import NotFoundError
from mopdsim.cost.constants import MECHANISMS, NORMAL_80, OWN, shipped
from mopdsim.cost.own_trainer import KINDS, WORKS, Kind, Work, phase_s
from mopdsim.cost.stage_seconds import Batch, Machine, step_seconds
from mopdsim.facts.hardware import Gpu, gpu
from mopdsim.facts.layers import Model
from mopdsim.facts.model import from_config, model
from mopdsim.fit.forest import RESULTS
from mopdsim.validate.measured import Measured, stack_document

ROWS = RESULTS / "pace" / "cpu.json"
STUDIES = ("throughput", "size", "size_again", "size_fresh")  # 0.17, 0.65, 2.6 and 10 M parameters
STUDIED = "tiny"  # the model of a run that names none
SHARES: Mapping[Kind, Mapping[Work, int]] = {  # of a step's FLOPs, where a run tells their sum alone
    "sft": {"sft": 3},
    "rl": {"generation": 1, "rl": 3},
    "distill": {"generation": 1, "scoring": 1, "distill": 3},
}
FAR, ROUNDS = 0.1, 6
_UNIT = 1e9  # FLOPs, so that constants are of one order


@dataclass(frozen=True, kw_only=True)
class PhaseRow:
    """One phase of a step: what it computed in how many passes of the model, and its seconds."""

    work: Work
    size: str
    model: Model
    flops: float
    passes: float
    seconds: float


def phases(found: Mapping[str, Any]) -> list[PhaseRow]:
    """Every phase of a bench's rows."""
    shapes = {name: from_config(config, name=name) for name, config in found["models"].items()}
    rows = []
    for row in found["rows"]:
        passes = {"generation": row["longest"], "scoring": row["teachers"], "training": 1}
        for phase, seconds in row["seconds"].items():
            rows.append(
                PhaseRow(
                    work=row["kind"] if phase == "training" else phase,
                    size=row["model"],
                    model=shapes[row["model"]],
                    flops=row["flops"][phase],
                    passes=float(passes[phase]),
                    seconds=seconds,
                )
            )
    return rows


def design(rows: Sequence[PhaseRow]) -> Array:
    """(rows, constants): by work a, w and e of `mopdsim.cost.own_trainer`, and c; FLOPs in units of 1e9."""
    made = []
    for row in rows:
        flops = row.flops / _UNIT
        terms = [
            row.passes * row.model.layers,
            row.passes * row.model.total_parameters,
            flops / row.model.hidden,
        ]
        made.append([*(term * (row.work == work) for work in WORKS for term in terms), flops])
    return np.array(made)


def fit(rows: Sequence[PhaseRow]) -> Array:
    """The constants, in the order of `design`."""
    seconds = np.array([row.seconds for row in rows])
    relative = design(rows) / seconds[:, None]
    size = relative.max(axis=0)  # so that each column counts alike in the solver
    size = np.where(size > 0, size, 1.0)
    weight = np.ones(len(rows))
    for _ in range(ROUNDS):
        found, _ = nnls(relative / size * weight[:, None], weight)
        weight = (1 + (np.log(relative @ (found / size)) / FAR) ** 2) ** -0.25
    return np.asarray(found / size)


def pace(rows: Sequence[PhaseRow]) -> dict[str, Any]:
    """The constants by name, and how far phases of each size were off when it was left out."""
    constants, logs, left_out = fit(rows), [], {}
    for size in dict.fromkeys(row.size for row in rows):
        others, own = [row for row in rows if row.size != size], [row for row in rows if row.size == size]
        told = np.log(design(own) @ fit(others) / np.array([row.seconds for row in own]))
        logs += told.tolist()
        left_out[size] = {
            work: {"rows": len(errors), "median_error": round(float(np.median(np.expm1(np.abs(errors)))), 3)}
            for work in WORKS
            if len(errors := told[[row.work == work for row in own]])
        }
    named = zip(WORKS, constants[:-1].reshape(-1, 3), strict=True)
    return {
        "seconds_per_flop": float(f"{constants[-1] / _UNIT:.4g}"),
        "works": {
            work: {
                "layer_s": float(f"{layer:.4g}"),
                "weight_s": float(f"{weight:.4g}"),
                "narrow_s_per_flop": float(f"{narrow / _UNIT:.4g}"),
            }
            for work, (layer, weight, narrow) in named
        },
        "log_sd": round(math.sqrt(float(np.mean(np.square(logs)))), 3),
        "left_out": left_out,
    }


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of a study: seconds of a step, and of what phases it was."""

    kind: Kind
    model: str
    phases: tuple[PhaseRow, ...]
    seconds: float


def stages(results: Path = RESULTS) -> list[StageRun]:
    """Every trained stage of the studies. Their manifests hold FLOPs and seconds of whole stages: sampling and a pass
    of all teachers count one, an update three."""
    found = []
    for study in STUDIES:
        manifest = json.loads((results / study / "manifest.json").read_text(encoding="utf-8"))
        runs = {key: run for run in manifest["runs"].values() for key in run["keys"].values()}
        for key, row in manifest["stages"].items():
            if row["kind"] in KINDS and row["steps"]:
                found.append(_stage_run(row, runs[key]))
    return found


def _stage_run(row: Mapping[str, Any], run: Mapping[str, Any]) -> StageRun:
    kind, name = row["kind"], run.get("model") or STUDIED
    shares = SHARES[kind]
    work = row["flops"] / row["steps"] / sum(shares.values())
    passes = {"generation": max(map(_longest, run["domains"])), "scoring": len(run["domains"])}
    return StageRun(
        kind=kind,
        model=name,
        phases=tuple(
            PhaseRow(
                work=own,
                size=name,
                model=model(name),
                flops=share * work,
                passes=float(passes.get(own, 1)),
                seconds=math.nan,
            )
            for own, share in shares.items()
        ),
        seconds=row["seconds"] / row["steps"],
    )


def _longest(domain: str) -> float:
    """Tokens of the longest answer in a domain of the studies, its end included: seven, or as its length says."""
    return 1.0 + float(domain.partition("length=")[2] or 6)


def elsewhere(found: Mapping[str, Any], runs: Sequence[StageRun]) -> dict[str, Any]:
    """A pace against stages that were run on another processor: that one's factor, the median of all, and the median
    error by kind and model once it is in."""
    told = np.array(
        [sum(phase_s(p.work, p.model, p.flops, p.passes, found) for p in run.phases) for run in runs]
    )
    logs = np.log([run.seconds for run in runs]) - np.log(told)
    middle = float(np.median(logs))
    return {
        "factor": round(math.exp(middle), 3),
        "median_error": {
            f"{kind} {name}": round(float(np.median(np.expm1(np.abs(off)))), 3)
            for kind in KINDS
            for name in dict.fromkeys(run.model for run in runs)
            if len(off := logs[[run.kind == kind and run.model == name for run in runs]] - middle)
        },
    }


def document(found: Mapping[str, Any], runs: Sequence[StageRun]) -> dict[str, Any]:
    """The file that ships."""
    about = ("device", "dtype", "threads", "versions")
    shipped_pace = pace(phases(found))
    return {
        **{key: found[key] for key in about},
        **shipped_pace,
        "studies": {"source": f"{len(runs)} stages of {', '.join(STUDIES)}", **elsewhere(shipped_pace, runs)},
    }


def _against_time_model(found: Mapping[str, Any], row: Mapping[str, Any], card: Gpu) -> Measured:
    """One bench row's step, and the time model's without any factor."""
    shape = from_config(found["models"][row["model"]], name=row["model"])
    taught, sampled = row["teachers"], row["kind"] != "sft"
    batch = Batch(
        sequences=float(row["sequences"]), trained_sequences=float(row["sequences"]),
        prompt_tokens=row["prompt_tokens"], response_tokens=row["response_tokens"],
        max_response_tokens=max(row["longest"], row["response_tokens"]), log_spread=0.05,
        environment_seconds=0.0, scoring_passes=float(bool(taught)), teachers=taught, resident_models=0,
        generates=sampled, by_teacher=False, ahead=False, group=row["group"], trained_group=row["group"],
        prompt_shares=(1.0,),
    )  # fmt: skip
    machine = Machine(model=shape, gpu=card, stack=MECHANISMS[OWN].measured(0.0, 1.0))
    told, _, _ = step_seconds(batch, machine, 1)
    fitted = shipped()["rl_steps" if sampled else "train_throughput"]
    width = fitted.half_width(moe=False, model=shape.name, gpu=card.name)
    return Measured(
        label=f"{row['model']} {row['kind']}, {row['sequences']} sequences a step",
        seconds=sum(row["seconds"].values()),
        forecast=sum(told.values()),
        log_sd=width / NORMAL_80,
    )


def measured(found: Mapping[str, Any]) -> dict[str, Any]:
    """A bench's document with what it gives: the pace of its phases, sizes left out, and on a GPU of the catalogue the
    factor of this trainer as a stack, which `--measured` reads from the same file."""
    whole: dict[str, Any] = {"pace": pace(phases(found))}
    if found["accelerator"]:
        card = _named_in(found["device"])
        rows = [_against_time_model(found, row, card) for row in found["rows"]] if card else []
        whole |= {"gpu": card and card.name, **(stack_document(rows, OWN) if card else {})}
    return {**found, **whole}


def text(found: Mapping[str, Any]) -> str:
    """For people: how far the pace is off on sizes left out, and the factor as a stack."""
    lines = [f"{found['device']}, {found['dtype']}: {len(found['rows'])} stages timed"]
    for size, works in found["pace"]["left_out"].items():
        errors = ", ".join(f"{work} {row['median_error']:.0%}" for work, row in works.items())
        lines.append(f"  {size} left out: {errors} off")
    if "log_bias" in found:
        middle, width = math.exp(found["log_bias"]), math.exp(NORMAL_80 * found["log_sd"])
        lines.append(
            f"  as a stack on {found['gpu']}: {middle:.2f} times the time model's seconds "
            f"({middle / width:.2f} to {middle * width:.2f})"
        )
    return "\n".join(lines)


def _named_in(device: str) -> Gpu | None:
    """The GPU of the catalogue that a word of a device's name stands for; None where there is none."""
    for word in device.split():
        with suppress(NotFoundError):
            return gpu(word)
    return None


def main() -> None:
    """Writes the file that ships."""
    rows = json_document(
        ROWS, missing=f"{ROWS}: no such file: `mopd train pace --out {ROWS}` writes one", remedy="time again"
    )
    path = DATA / "trainer.json"
    write_document(path, document(rows, stages()))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
