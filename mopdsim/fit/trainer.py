"""Fits what a step of this project's own trainer takes on two CPU cores to the stages of its studies.

Rows are the stages of studies that ran alone on their machine, over a factor of 60 in parameters; weighted least
squares of relative errors, no constant negative, errors beyond a tenth counting less. Every size is also left out and
predicted by the others. Leaves out: evaluation and loading (a stage's `seconds` are those of its steps); phases of a
step, which runs do not record.

    python -m mopdsim.fit.trainer        writes mopdsim/data/trainer.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from mopdsim.base.arrays import Array
from mopdsim.cost.own_trainer import KINDS, Kind
from mopdsim.facts.model import model

RESULTS = Path(__file__).resolve().parents[2] / "studies" / "results"
STUDIES = ("throughput", "size", "size_again", "size_fresh")  # 0.17, 0.65, 2.6 and 10 M parameters
STUDIED = "tiny"  # the model of a run that names none
FAR, ROUNDS = 0.1, 6


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage that was run: FLOPs and seconds of a step."""

    kind: Kind
    model: str
    flops: float
    seconds: float


def stages(results: Path = RESULTS) -> list[StageRun]:
    """Every trained stage of the studies."""
    found = []
    for study in STUDIES:
        manifest = json.loads((results / study / "manifest.json").read_text(encoding="utf-8"))
        owner = {
            key: run.get("model") or STUDIED
            for run in manifest["runs"].values()
            for key in run["keys"].values()
        }
        for key, row in manifest["stages"].items():
            if row["kind"] in KINDS and row["steps"]:
                found.append(
                    StageRun(
                        kind=row["kind"],
                        model=owner[key],
                        flops=row["flops"] / row["steps"],
                        seconds=row["seconds"] / row["steps"],
                    )
                )
    return found


def design(rows: Sequence[StageRun]) -> Array:
    """(rows, constants): layers by kind, FLOPs, FLOPs over width by kind; FLOPs in units of 1e9."""
    made = []
    for row in rows:
        shape, own = model(row.model), [float(row.kind == kind) for kind in KINDS]
        work = row.flops / 1e9
        made.append([*(one * shape.layers for one in own), work, *(one * work / shape.hidden for one in own)])
    return np.array(made)


def fit(rows: Sequence[StageRun]) -> Array:
    """The constants, in the order of `design`."""
    seconds = np.array([row.seconds for row in rows])
    relative = design(rows) / seconds[:, None]
    weight = np.ones(len(rows))
    for _ in range(ROUNDS):
        found, _ = nnls(relative * weight[:, None], weight)
        weight = (1 + (np.log(relative @ found) / FAR) ** 2) ** -0.25
    return np.asarray(found)


def document(rows: Sequence[StageRun]) -> dict[str, Any]:
    """The file that ships."""
    constants = fit(rows)
    left_out: dict[str, dict[str, Any]] = {}
    logs: list[float] = []
    for name in sorted({row.model for row in rows}, key=lambda name: model(name).total_parameters):
        others, own = [row for row in rows if row.model != name], [row for row in rows if row.model == name]
        told = np.log(design(own) @ fit(others) / np.array([row.seconds for row in own]))
        logs += told.tolist()
        left_out[name] = {
            kind: {"rows": len(errors), "median_error": round(float(np.median(np.expm1(np.abs(errors)))), 3)}
            for kind in KINDS
            if len(errors := told[[row.kind == kind for row in own]])
        }
    count = len(KINDS)
    return {
        "source": f"{len(rows)} stages of the studies {', '.join(STUDIES)}",
        "seconds_per_flop": float(f"{constants[count] / 1e9:.4g}"),
        "kinds": {
            kind: {
                "layer_s": float(f"{constants[place]:.4g}"),
                "narrow_s_per_flop": float(f"{constants[count + 1 + place] / 1e9:.4g}"),
            }
            for place, kind in enumerate(KINDS)
        },
        "log_sd": round(math.sqrt(float(np.mean(np.square(logs)))), 3),
        "left_out": left_out,
    }


def main() -> None:
    """Writes the file that ships."""
    path = Path(str(files("mopdsim").joinpath("data", "trainer.json")))
    path.write_text(json.dumps(document(stages()), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
