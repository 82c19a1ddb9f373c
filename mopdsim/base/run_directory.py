"""The directory of a run, and that of a stage in a store: plain files, which the trainer writes and the app reads too.

A run, OUT/

  config.toml     the recipe          resolved.json  model, settings, workers, store
  manifest.json   versions, hardware, git revision, argv, times     STATUS   running, done, failed, interrupted
  metrics.jsonl   all stages' metrics          summary.json   scores, FLOPs, seconds by stage
  samples.jsonl   some of their samples, token by token (`trainer.stages.samples`)
  weights/        the final model in Hugging Face layout       tables/ plots/   from `mopd train show`
  side_outputs/   other models that the recipe delivers, by stage name
  store/          the stages, where no other store is given

A stage, STORE/KEY/

  STATUS  made_from.json  metrics.jsonl  samples.jsonl  summary.json  weights/ or data/  checkpoints/
  ledger.safetensors    what each teacher did to the weights, where asked for (`trainer.stages.ledger`)

A row of metrics.jsonl is of `kind` "step" or "evaluation", one of samples.jsonl "sample". Rows of a stage speak of its
teachers by their place, for recipes that share it give them other names; rows of a run by name. Leaves out: writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mopdsim.base.documents import in_words
from mopdsim.base.errors import UsageError

CONFIG, RESOLVED, MANIFEST, STATUS = "config.toml", "resolved.json", "manifest.json", "STATUS"
METRICS, SAMPLES, SUMMARY = "metrics.jsonl", "samples.jsonl", "summary.json"
WEIGHTS, DATA, SIDE_OUTPUTS, STORE = "weights", "data", "side_outputs", "store"
MADE_FROM, CHECKPOINTS, LEDGER = "made_from.json", "checkpoints", "ledger.safetensors"
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
PHASES = ("generation", "scoring", "training", "evaluation")  # that seconds and FLOPs are split into
CURVES = ("loss", "reward", "grad_norm")  # of a step


def status_of(directory: Path) -> str:
    """The word in STATUS; OSError where there is none."""
    return (directory / STATUS).read_text(errors="replace").strip()[:40]


class _Row(BaseModel):
    """What readers count on; a row may say more."""

    model_config = ConfigDict(strict=True)
    step: int


class _Step(_Row):
    loss: float = 0.0
    reward: float = 0.0
    grad_norm: float = 0.0
    seconds: dict[str, float] = {}
    prompts: dict[str, float] = {}
    gradient_cosine: dict[Annotated[str, Field(pattern=r"^[^|]+\|[^|]+$")], float] = {}


class _Score(BaseModel):
    model_config = ConfigDict(strict=True)
    pass_rate: float = 0.0
    se: float | None = None


class _Evaluation(_Row):
    domains: dict[str, _Score] = {}
    seconds: dict[str, float] = {}


_Numbers = list[float | None]


class _Sample(_Row):
    domain: str
    prompt: str
    length: int
    reward: float
    judged_reward: float = 0.0
    tokens: list[str]
    student: _Numbers
    advantage: _Numbers | None = None
    teachers: dict[str, _Numbers] | list[_Numbers] | None = None
    own: list[int] | list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> _Sample:
        """A number for each token; teachers, of which it learns from one, or an advantage."""
        taught = self.teachers.values() if isinstance(self.teachers, dict) else self.teachers or ()
        names = self.teachers if isinstance(self.teachers, dict) else range(len(self.teachers or ()))
        columns = [self.student, *taught, *([] if self.advantage is None else [self.advantage])]
        if any(len(column) != len(self.tokens) for column in columns):
            raise ValueError("it has not one number for each token")
        if self.advantage is None and not (self.own and set(self.own) <= {*names}):
            raise ValueError("it names no teacher that it learns from")
        return self


_SHAPES: Mapping[str, type[_Row]] = {"step": _Step, "evaluation": _Evaluation, "sample": _Sample}


def rows_of(path: Path, *, most: int | None = None, of_run: bool = False) -> Iterator[dict[str, Any]]:
    """Complete JSON rows of a log, of its last `most` bytes where it is longer; a line half written is left out.

    of_run: whether it is a run's log, whose rows name their stage. UsageError for a row that no trainer writes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        cut = most is not None and size > most
        file.seek(size - most if most is not None and cut else 0)
        lines = file.read().split(b"\n")
    for line in lines[1 if cut else 0 :]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or row.get("kind") not in [*_SHAPES]:
            continue
        where = f"{path}: a row of kind {row['kind']!r}"
        _check(_SHAPES[row["kind"]], row, where)
        if of_run and not isinstance(row.get("stage"), str):
            raise UsageError(f"{where}: stage = {row.get('stage')!r}: must be a name: {_CHANGED}")
        yield row


_CHANGED = "the file was changed since it was written: bring it back, or run again"
_Figures = dict[str, dict[str, float | None]]


def _check(shape: type[BaseModel], found: Any, where: object) -> None:
    try:
        shape.model_validate(found)
    except ValidationError as error:
        raise UsageError(f"{where}: {in_words(error)}: {_CHANGED}") from None


class _Stage(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    domains: _Figures
    flops: dict[str, float]
    peak_memory_bytes: int
    seconds: dict[str, float]
    steps: int
    tokens: dict[str, dict[str, float]]
    wall_seconds: float

    @model_validator(mode="after")
    def _whole(self) -> _Stage:
        """Every phase is counted, and a domain has the figures that another has."""
        if not {*PHASES} <= self.flops.keys() & self.seconds.keys():
            raise ValueError(f"flops and seconds are not those of {', '.join(PHASES)}")
        if len({frozenset(row) for row in self.domains.values()}) != 1:
            raise ValueError("its domains have not the same figures")
        return self


class _Done(_Stage):
    kind: str


class _Outcome(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    start: float
    final: float
    se: float | None


class _Summary(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    run: str
    seconds: float
    weights_sha256: str
    stages: Annotated[dict[str, _Done], Field(min_length=1)]
    scores: dict[str, _Outcome]


def checked_summary(found: Any, path: Path) -> dict[str, Any]:
    """A finished run's summary, read from `path`. UsageError for one that no trainer writes."""
    _check(_Summary, found, path)
    return dict(found)


def checked_stage(found: Any, path: Path) -> dict[str, Any]:
    """A finished stage's summary, read from `path`. UsageError for one that no trainer writes."""
    _check(_Stage, found, path)
    return dict(found)


def named(row: Mapping[str, Any], teachers: Sequence[str]) -> dict[str, Any]:
    """A stage's row with what it says of its teachers by these names; None of one: nothing of it."""
    found = dict(row)
    if len(teachers) < len(row.get("teachers", ())):
        raise UsageError(f"{MADE_FROM}: names {len(teachers)} teachers of {len(row['teachers'])}: {_CHANGED}")
    for key in {"teacher_kl", "teachers"} & row.keys():
        pairs = zip(teachers, row[key], strict=True)
        found[key] = {name: value for name, value in pairs if value is not None}
    return found | ({"own": [teachers[place] for place in row["own"]]} if "own" in row else {})


def scores_in(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, str, float, float]]:
    """(stage, step, domain, pass rate, its standard error) of a run's evaluations."""
    return [
        (row["stage"], row["step"], domain, score["pass_rate"], score.get("se", 0.0))
        for row in rows
        if row["kind"] == "evaluation"
        for domain, score in row.get("domains", {}).items()
        if "pass_rate" in score
    ]


def curves_in(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, str, float]]:
    """(stage, step, quantity, value) of a run's steps: loss, reward, gradient norm."""
    return [
        (row["stage"], row["step"], quantity, row[quantity])
        for row in rows
        if row["kind"] == "step"
        for quantity in CURVES
        if quantity in row
    ]


class _Ran(BaseModel):
    model_config = ConfigDict(strict=True)
    failure: str | None
    held_out: bool
    keys: dict[str, str]
    model: str
    document: dict[str, Any]


class _Trained(BaseModel):
    model_config = ConfigDict(strict=True)
    kind: str
    flops: float
    trained_tokens: dict[str, float]


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)
    study: str
    date: str
    runs: Mapping[str, _Ran]
    stages: Mapping[str, _Trained]


class _StudyRan(_Ran):
    domains: list[str]
    factors: dict[str, Any]
    output: str
    recipe: str
    seed: int


class _StudyTrained(_Trained):
    steps: int
    wall_seconds: float


class _Study(_Manifest):
    device: str
    workers: int
    scale: float
    versions: dict[str, str]
    prediction_sha256: str
    runs: Mapping[str, _StudyRan]
    stages: Mapping[str, _StudyTrained]


def checked_manifest(found: Any, path: Path, *, of_study: bool) -> dict[str, Any]:
    """The manifest beside observations, read from `path`. of_study: one that a study wrote, which says more than
    `mopd import` knows. UsageError for one that does not hold what its readers count on."""
    _check(_Study if of_study else _Manifest, found, path)
    return dict(found)
