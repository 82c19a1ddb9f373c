"""What the commands of a study do: plan it, run it, read what it left, analyse and report.

A study at full scale keeps its results beside the code, to be committed; one at another scale is a rehearsal, with a
folder of its own below OUT and a prediction record of its own. Leaves out: printing (`studies.cli.main`). What
computes is loaded by `run` alone, so that a list of studies is there at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mopdsim.base.documents import json_document
from mopdsim.base.errors import Interrupted, UsageError
from studies.framework import forecasts, observe, prediction, report
from studies.framework.analysis import Analysis
from studies.framework.forecasts import Foreteller
from studies.framework.ledger import Ledger, ledger
from studies.framework.observe import Observations
from studies.framework.registry import RESULTS
from studies.framework.registry import study as study_of
from studies.framework.run import Run, planned
from studies.framework.study import Study
from trainer.files.atomic import write_json
from trainer.runs.plan import Plan
from trainer.runs.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from trainer.runs.execute import Outcome

QUICK_SCALE = 0.01
Executor = Literal["local", "ray"]
Judge = Callable[[Observations, Mapping[str, Any]], Analysis]  # of observations and the forecasts on record


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
        return Store(root=(self.out / "store").absolute())

    @cached_property
    def runs(self) -> dict[str, Run]:
        return self.study.runs(scale=self.factor, device=self.device, quick=self.quick)

    @cached_property
    def planned(self) -> Plan:
        return planned(self.runs, self.store, scale=self.factor)

    @cached_property
    def ledger(self) -> Ledger:
        return ledger(self.runs, self.planned, self.store, finished=self.done())

    def observed(self) -> Observations | None:
        """The observations so far, of this machine or of another whose results were committed. None where there are
        none."""
        return observe.read(self.folder) if files(self)["observations.csv"] else None

    def ended(self) -> set[str]:
        """Names of the runs that have been observed to their end, as they are now planned, and their twins with
        them."""
        found, keys = self.observed(), self.planned.keys
        rows = {} if found is None else found.finished
        same = {name for name in self.runs if name in rows and rows[name]["keys"] == keys[name]}
        return {name for name in same if self._twin(name) in same}

    def missing(self) -> Plan:
        """The stages of the other runs and of their twins. What the store lacks of them is to be run; what was observed
        is run again where its weights are gone and another run needs them."""
        left = self.runs.keys() - self.ended()
        left |= {self._twin(name) for name in left}
        return self.planned.only(key for name in left for key in self.planned.needed(name))

    def _twin(self, name: str) -> str:
        """The run that is measured together with this one; itself where the study has none."""
        twin = self.study.twin(name)
        return twin if twin in self.runs else name

    def done(self) -> set[str]:
        """Keys of the stages that need not be run."""
        missing = self.missing().node
        return {key for key in self.planned.node if key not in missing or self.store.finished(key)}

    def record(self) -> dict[str, Any]:
        """The prediction on record. UsageError where it was changed after the first run, its record replaced or not, or
        where a world has not passed its gate."""
        self.study.admit()
        found = prediction.record(self.study, self.runs, self.folder, today=today())
        if files(self)["observations.csv"]:
            _same(observe.read(self.folder), found)
        return found


def named(name: str, *, out: Path, scale: float = 1.0, device: str = "cpu", quick: bool = False) -> Work:
    """The study of this name. NotFoundError where there is none; UsageError where quick is given a scale."""
    if quick and scale != 1:
        raise UsageError(f"--quick has a scale of its own, {QUICK_SCALE:g}: leave --scale {scale:g} out")
    return Work(study=study_of(name), out=out, scale=scale, device=device, quick=quick)


def run(work: Work, *, executor: Executor, workers: int, foreteller: Foreteller | None = None) -> Outcome:
    """Run what is missing and write the observations. Interrupted where it was stopped: those of the finished stages
    are written, and the same call goes on. foreteller: of a study that foretells. UsageError where the model was
    changed since its forecasts, or where something was run before them."""
    from trainer.model.loading import check_device
    from trainer.runs.execute import run_on
    from trainer.runs.progress import Progress
    from trainer.runs.run import check_prompts

    check_device(work.device)
    asked = {(r.recipe.domains, r.settings.model_dump_json()): r for r in work.runs.values()}
    for own in asked.values():
        check_prompts((*own.recipe.domains, *own.settings.probes), own.settings)
    record = work.record()
    prediction.begin(work.folder, today=today())

    def carry_out(plan: Plan) -> Outcome:
        """Run what is missing of some stages of the study."""
        return run_on(
            executor,
            workers,
            plan.only(work.missing().node),
            work.store,
            Progress(),
            raising=False,
            resume=f"mopd study run {work.study.name}",
            seconds_of=work.ledger.seconds_of,
        )

    def so_far() -> Observations:
        return _collect(work, finished(work), record, workers)

    try:
        if foreteller is not None:
            _foretell(work, foreteller, carry_out, so_far)
        outcome = carry_out(work.planned)
    except Interrupted:
        observe.write(so_far(), work.folder)
        raise
    observe.write(_collect(work, outcome, record, workers), work.folder)
    return outcome


def finished(work: Work) -> Outcome:
    """What the store holds of the study so far."""
    from trainer.runs.execute import Outcome

    keys = [key for key in work.planned.node if work.store.finished(key)]
    return Outcome(summaries={key: work.store.summary(key) for key in keys}, failures={})


def _foretell(
    work: Work,
    foreteller: Foreteller,
    carry_out: Callable[[Plan], Outcome],
    collect: Callable[[], Observations],
) -> None:
    """Condition by condition: run what a forecast may know, put the forecasts on record, run the rest, and write the
    observations. A condition may share stages with those before it, of which nothing is told either."""
    name, folder, whole = work.study.name, work.folder, work.planned
    forecasts.check(name, foreteller, folder)
    on_record = forecasts.read(folder)["conditions"] if files(work)[forecasts.FILE] else {}
    before: set[str] = set()
    for condition, runs in forecasts.conditions(work.runs).items():
        own = whole.only(key for run in runs for key in whole.needed(run))
        if condition not in on_record:
            first = forecasts.known(own)
            judged = [node for node in own.nodes if node.key not in first.node]
            done = work.done()
            if early := [node for node in judged if node.key in done - before]:
                raise UsageError(
                    f"study {name!r}: {len(early)} of its stages, {early[0].label} among them, were run before their "
                    f"forecasts were put on record: restore {folder / forecasts.FILE}, or give another --out"
                )
            carry_out(first)
            forecasts.add(name, condition, runs, collect(), foreteller, folder, today=today())
        carry_out(own)
        observe.write(collect(), folder)
        before |= own.node.keys()


def _collect(work: Work, outcome: Outcome, record: Mapping[str, Any], workers: int) -> Observations:
    from trainer.runs.run import manifest

    about = {key: value for key, value in manifest(work.device).items() if key != "argv"}
    about |= {
        "study": work.study.name,
        "date": today(),
        "scale": work.factor,
        "workers": workers,
        "prediction_sha256": record["sha256"],
    }
    found = observe.collect(work.runs, work.planned, outcome, work.store, about, work.observed())
    return found if work.study.measure is None else replace(found, measured=_measured(work, found))


def _measured(work: Work, found: Observations) -> pd.DataFrame:
    """The study's own table, of the finished runs; what was measured of those that had ended stays."""
    import pandas as pd

    assert work.study.measure is not None
    before, ended = work.observed(), work.ended()
    finished = {name: work.runs[name] for name in found.finished if name not in ended}
    rows = work.study.measure(finished, work.planned, work.store)
    if before is None or before.measured.empty:
        return rows
    kept = before.measured[before.measured.run.isin(ended)]
    return pd.concat([kept, rows], ignore_index=True) if len(rows) else kept


def fit(work: Work, *, write: bool = True) -> dict[str, Any]:
    """Analyse the observations; returns calibration.json, and writes it where asked to. Of a retired study the one that
    there is."""
    if work.study.retired:
        path = work.folder / "calibration.json"
        return json_document(path, missing=f"{path}: not there: restore it", remedy="restore it")
    found = observe.read(work.folder)
    record = work.record()
    analysis = work.study.analysis(found)
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


def write_report(work: Work, *, judge: Judge | None = None) -> list[Path]:
    """report.md and its charts; of a retired study those that there are. judge: of the forecasts on record, of a study
    that foretells."""
    if work.study.retired:
        prediction.read(work.folder)
        return [work.folder / "report.md", *sorted(work.folder.glob("*.svg"))]
    found = observe.read(work.folder)
    record = work.record()
    analysis = work.study.analysis(found)
    if judge is not None:
        for each in forecasts.read_all(work.folder):
            analysis = analysis.with_more(judge(found, each))
    return report.write(work.study, found, analysis, record, work.folder)


def status(work: Work) -> dict[str, Any]:
    """Which runs are finished, and what is on record."""
    done, ended = work.done(), work.ended()
    needs = {name: work.planned.needed(name) for name in work.runs}
    runs = {name: (len(keys if name in ended else keys & done), len(keys)) for name, keys in needs.items()}
    return {
        "study": work.study.name,
        "prediction": prediction.read(work.folder) if files(work)[prediction.FILE] else None,
        "runs": {
            name: {"stages": whole, "finished": count, "held_out": work.runs[name].held_out}
            for name, (count, whole) in runs.items()
        },
        "finished": sum(count == whole for count, whole in runs.values()),
        "left_seconds": work.ledger.left_seconds,
        "files": files(work),
    }


def files(work: Work) -> dict[str, bool]:
    """Which results there are."""
    names = (prediction.FILE, forecasts.FILE, "observations.csv", "calibration.json", "report.md")
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
