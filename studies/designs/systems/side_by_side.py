"""Runs carried out together: what each stage scored and cost, and the forecast of the same recipe beside it.

The demonstration, the gate, the comparison and the questions of cost and reward share it. FLOPs and seconds are those
of a recipe's own stages, teachers and data included, the common start and evaluation not; stages that two runs share
are run once and count in both. Leaves out: what is asked of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import Forecast, forecast, quantiles
from mopdsim.recipes import recipe_file
from mopdsim.recipes.recipe import Recipe
from studies.framework.ledger import ledger
from studies.framework.run import Run, planned
from trainer.runs.execute import default_workers, execute
from trainer.runs.plan import Node
from trainer.runs.progress import Progress
from trainer.runs.run import manifest
from trainer.runs.store import Store


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run with the nodes and summaries of its stages, the roots among them, by stage."""

    run: Run
    nodes: Mapping[str, Node]
    summaries: Mapping[str, Mapping[str, Any]]

    def domains(self, stage: str | None = None) -> Mapping[str, Mapping[str, float]]:
        """Test scores by domain, probes among them, after a stage (the output where absent)."""
        found: Mapping[str, Mapping[str, float]] = self.summaries[stage or self.run.recipe.output]["domains"]
        return found

    def scores(self, stage: str | None = None) -> dict[str, float]:
        """Pass rates alone."""
        return {domain: row["pass_rate"] for domain, row in self.domains(stage).items() if "pass_rate" in row}

    @cached_property
    def flops(self) -> dict[str, float]:
        """Of each of the recipe's own stages."""
        spent = {stage.name: self.summaries[stage.name]["flops"] for stage in self.run.recipe.stages}
        return {
            stage: float(sum(value for phase, value in phases.items() if phase != "evaluation"))
            for stage, phases in spent.items()
        }

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the recipe's own stages, one after the other."""
        return float(sum(self.summaries[stage.name]["wall_seconds"] for stage in self.run.recipe.stages))


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where stages are kept, and how those are run that the store does not hold."""

    store: Store
    workers: int
    progress: Progress

    def carry_out(self, runs: Iterable[Run]) -> dict[str, Finished]:
        """All runs by name, each distinct stage run once; first says how long it takes. Raises the first failure."""
        named = {run.name: run for run in runs}
        found = planned(named, self.store)
        due = ledger(
            named, found, self.store, finished={key for key in found.node if self.store.finished(key)}
        )
        print(
            f"about {due.left_seconds / self.workers / 60:.0f} min where {self.workers} core(s) are idle",
            file=sys.stderr,
        )
        summaries = execute(
            found, self.store, workers=self.workers, progress=self.progress, resume="the same command",
            seconds_of=due.seconds_of,
        )  # fmt: skip
        return {
            name: Finished(
                run=run,
                nodes={stage: found.node[key] for stage, key in found.keys[name].items()},
                summaries={stage: summaries[key] for stage, key in found.keys[name].items()},
            )
            for name, run in named.items()
        }


def engine(out: Path, workers: int | None) -> Engine:
    """Runs stages into OUT/store."""
    print(f"into {out}, which keeps every finished stage", file=sys.stderr)
    return Engine(
        store=Store(root=out / "store"), workers=workers or default_workers("cpu"), progress=Progress()
    )


def told(recipe: Recipe, model: str = "tiny") -> Forecast:
    """What the simulator says of a recipe, knowing nothing of its run."""
    return forecast(scenario.from_document({"recipe": recipe_file.to_document(recipe), "model": model}))


def forecast_row(recipe: Recipe, model: str = "tiny") -> dict[str, Any]:
    """What a run is likely to score, cost and take, one process after the other: p10, p50, p90 of all but FLOPs."""
    found = told(recipe, model)
    return {
        "scores": found.score_intervals,
        "mean": found.mean_score,
        "worst": found.worst_score,
        "flops": sum(bill.training_run_flops for bill in found.bills.values()),
        "seconds": quantiles(found.gpu_hours_N * 3600),
    }


def about(device: str, begun: float) -> dict[str, Any]:
    """What a document says of its making: the device, versions, and the seconds since `begun`."""
    here = manifest(device)
    seconds = time.perf_counter() - begun
    return {"device": here["device"], "versions": here["versions"], "seconds": seconds}
