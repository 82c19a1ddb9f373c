"""What the commands of a study do: plan it, run it, read what it left, analyse and report.

A study at full scale keeps its results beside the code, to be committed; one at another scale is a rehearsal, with a
folder of its own below OUT and a prediction record of its own. Leaves out: printing (`studies.cli.main`). What
computes is loaded by `run` alone, so that a list of studies is there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mopdsim.base.errors import UsageError
from studies.framework import observe, prediction, report
from studies.framework.ledger import Ledger, ledger
from studies.framework.observe import Observations
from studies.framework.registry import study as study_of
from studies.framework.run import Run, planned
from studies.framework.study import Study
from trainer.files.atomic import write_json
from trainer.runs.plan import Plan
from trainer.runs.store import Store

if TYPE_CHECKING:
    from trainer.runs.execute import Outcome

QUICK_SCALE = 0.01
RESULTS = Path(__file__).parents[1] / "results"
Executor = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A study at a scale, on a device, in a place. quick: one seed of it at `QUICK_SCALE`, whatever the scale. results:
    where full-scale results go."""

    study: Study
    out: Path
    scale: float = 1.0
    device: str = "cpu"
    quick: bool = False
    results: Path = RESULTS

    @cached_property
    def folder(self) -> Path:
        """Of its results."""
        if self.quick:
            return self.out / "quick" / self.study.name
        place = self.results if self.scale == 1 else self.out / f"scale-{self.scale:g}"
        return place / self.study.name

    @property
    def factor(self) -> float:
        """On every stage's steps."""
        return QUICK_SCALE if self.quick else self.scale

    @cached_property
    def store(self) -> Store:
        return Store(root=(self.out / "store").resolve())

    @cached_property
    def runs(self) -> dict[str, Run]:
        return self.study.runs(scale=self.factor, device=self.device, quick=self.quick)

    @cached_property
    def planned(self) -> Plan:
        return planned(self.runs, self.store, scale=self.factor)

    @cached_property
    def ledger(self) -> Ledger:
        return ledger(self.runs, self.planned, self.store)

    def record(self) -> dict[str, Any]:
        """The prediction on record. UsageError where it was changed after the first run, its record replaced or not."""
        found = prediction.record(self.study, self.runs, self.folder, today=today())
        if files(self)["observations.csv"]:
            _same(observe.read(self.folder), found)
        return found


def named(name: str, *, out: Path, scale: float = 1.0, device: str = "cpu", quick: bool = False) -> Work:
    """The study of this name. NotFoundError where there is none; UsageError where quick is given a scale."""
    if quick and scale != 1:
        raise UsageError(f"--quick has a scale of its own, {QUICK_SCALE:g}: leave --scale {scale:g} out")
    return Work(study=study_of(name), out=out, scale=scale, device=device, quick=quick)


def run(work: Work, *, executor: Executor, workers: int, quiet: bool = False) -> Outcome:
    """Run what is missing and write the observations. Interrupted where it was stopped: the same call goes on."""
    from trainer.model.loading import check_device
    from trainer.runs.execute import run_on
    from trainer.runs.progress import Progress
    from trainer.runs.run import manifest

    check_device(work.device)
    record = work.record()
    prediction.begin(work.folder, today=today())
    outcome = run_on(
        executor,
        workers,
        work.planned,
        work.store,
        Progress(quiet=quiet),
        raising=False,
        resume=f"mopd study run {work.study.name}",
        seconds_of=work.ledger.seconds_of,
    )
    about = {key: value for key, value in manifest(work.device).items() if key != "argv"}
    about |= {
        "date": today(),
        "scale": work.factor,
        "workers": workers,
        "prediction_sha256": record["sha256"],
    }
    found = observe.collect(work.study.name, work.runs, work.planned, outcome, work.store, about)
    observe.write(found, work.folder)
    return outcome


def fit(work: Work, *, write: bool = True) -> dict[str, Any]:
    """Analyse the observations; returns calibration.json, and writes it where asked to."""
    found = observe.read(work.folder)
    record = work.record()
    analysis = work.study.analyse(found)
    document = {
        "study": work.study.name,
        "date": found.manifest["date"],
        "prediction_sha256": record["sha256"],
        "runs": sorted(found.finished),
        "keys": sorted(found.manifest["stages"]),
        **analysis.calibration(),
        "verdicts": {
            claim.quantity: verdict
            for claim, verdict in report.verdicts(work.study.prediction.claims, analysis)
        },
    }
    if write:
        write_json(work.folder / "calibration.json", document)
    return document


def write_report(work: Work) -> list[Path]:
    """report.md and its charts."""
    found = observe.read(work.folder)
    record = work.record()
    return report.write(work.study, found, work.study.analyse(found), record, work.folder)


def status(work: Work) -> dict[str, Any]:
    """Which runs are finished, and what is on record."""
    done = {key for key in work.planned.node if work.store.finished(key)}
    runs = {
        name: (len(work.planned.needed(name) & done), len(work.planned.needed(name))) for name in work.runs
    }
    return {
        "study": work.study.name,
        "prediction": prediction.read(work.folder) if files(work)[prediction.FILE] else None,
        "runs": {
            name: {"stages": whole, "finished": ended, "held_out": work.runs[name].held_out}
            for name, (ended, whole) in runs.items()
        },
        "finished": sum(ended == whole for ended, whole in runs.values()),
        "left_seconds": work.ledger.left_seconds,
        "files": files(work),
    }


def files(work: Work) -> dict[str, bool]:
    """Which results there are."""
    names = (prediction.FILE, "observations.csv", "calibration.json", "report.md")
    return {name: (work.folder / name).is_file() for name in names}


def _same(found: Observations, record: Mapping[str, Any]) -> None:
    """Refuse observations that were made under another prediction."""
    made_under = found.manifest["prediction_sha256"]
    if made_under != record["sha256"]:
        raise UsageError(
            f"study {found.manifest['study']!r}: the observations of {found.manifest['date']} were made under another "
            f"prediction (sha256 {made_under[:12]}, on record {record['sha256'][:12]}): restore its record"
        )


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def failures(work: Work, outcome: Outcome) -> Mapping[str, str]:
    """Why runs failed, by name."""
    found = {name: outcome.failure_of(work.planned.keys[name].values()) for name in work.runs}
    return {name: why for name, why in found.items() if why is not None}
