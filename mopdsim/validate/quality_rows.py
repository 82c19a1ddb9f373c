"""The table of published scores per strategy: which rows can be predicted, which cannot, which contradict
themselves.

Leaves out: the predictions (`mopdsim.validate.quality`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.facts.domains import aliases
from mopdsim.validate.tables import published, read_rows

COLUMNS = ("study", "model", "method", "trained_on", "domain", "start", "teacher", "score", "unit")
UNITS = ("percent", "normalised", "points")
_BENCHMARKS: Mapping[str, tuple[str, ...]] = {  # by domain, without version or year
    "math": ("aime", "hmmt", "hmmt_feb", "math", "math500", "amc", "gsm8k", "olympiadbench", "minerva", "beyondaime"),
    "code": ("livecodebench", "lcb", "humaneval", "humaneval_plus", "mbpp", "mbpp_plus", "codeforces"),
    "if": ("ifbench", "ifeval", "multichallenge"),
    "knowledge": ("mmlu", "mmlu_pro", "mmlu_redux", "gpqa", "gpqa_d", "gpqa_diamond", "supergpqa", "hle", "simpleqa"),
    "chat": ("arena_hard", "arena_hard_prompt", "arena_hard_creative", "alpacaeval", "mt_bench", "wildbench"),
    "swe": ("swe", "swe_v", "swe_verified", "swe_bench", "swe_bench_verified", "swe_multilingual", "terminal_bench"),
    "tool_use": (
        "tau_bench", "tau_airline", "tau_retail", "tau_telecom", "tau2", "tau2_bench", "tau2_airline", "tau2_retail",
        "tau2_telecom", "bfcl",
    ),
    "search": ("browsecomp", "browsecomp_zh", "gaia", "xbench_deepsearch"),
    "puzzle": ("kk", "knights_and_knaves", "zebralogic", "countdown", "arc_agi"),
    "long_context": ("ruler", "longbench", "mrcr"),
}  # fmt: skip
_DOMAIN_OF = {name: domain for domain, names in _BENCHMARKS.items() for name in names}
_VERSION = re.compile(r"_?v?\d+$")
_EVERYTHING = ("math", "code", "if", "swe", "tool_use", "search", "knowledge", "chat")
ZERO, ONE = 0.40, 0.55  # where a normalised 0 and 1 are put: the median headroom of the percent rows

METHODS: Mapping[str, str] = {  # method of the table -> the strategy whose recovery it shows
    "single_domain": "single_domain",
    "mixed_rl": "mixed_rl",
    "cascade_rl": "cascade_rl",
    "off_policy": "off_policy",
    "merge_average": "merge_average",
    "merge_task_arithmetic": "merge_sum",
    "mopd": "mopd",
    "mopd_topk64": "mopd",
    "mopd_balanced": "mopd_balanced",
    "mopd_second_round": "mopd_second_round",
    "mopd_teacher_rl": "mopd",
    "mopd_teacher_sft": "mopd",
    "mopd_teacher_self": "mopd",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row, scores as probabilities (normalised ones put between `ZERO` and `ONE`)."""

    line: int
    study: str
    model: str
    method: str
    trained: tuple[str, ...]
    domain: str
    start: float
    teacher: float
    score: float
    unit: str
    benchmark: str

    @property
    def in_set(self) -> bool:
        return self.domain in self.trained

    @property
    def scale(self) -> float:
        """Points of a percent row, or recovery of a normalised one, per unit of probability."""
        return 100.0 if self.unit == "percent" else 1.0 / (ONE - ZERO)


def domain_of(benchmark: str, trained: Sequence[str] = ()) -> str:
    """The domain that a benchmark belongs to, by any usual spelling of its name, as `trained` or the table of domains
    calls it. UsageError for a name that nobody knows: it must not pass for a domain that was not trained."""
    plain = re.sub(r"[-\s.]+", "_", benchmark.strip().lower())
    known = aliases()
    for name in (benchmark, plain, _VERSION.sub("", plain)):
        if name in trained:
            return name
        if name in _DOMAIN_OF:
            return _DOMAIN_OF[name]
        if name in known:
            own = [each for each in trained if known.get(each) == known[name]]
            return own[0] if own else name
    raise UsageError(
        f"domain {benchmark!r}: no domain or benchmark that mopd knows{did_you_mean(plain, [*_DOMAIN_OF, *known])}; "
        "give the name of its domain, such as math"
    )


def read(path: Path | None = None) -> tuple[list[Score], list[dict[str, Any]], list[dict[str, Any]]]:
    """Complete rows, rows that lack an input or have no recipe, and rows that break their own identity."""
    rows: list[Score] = []
    incomplete: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    known: dict[tuple[str, str, str], tuple[float, float]] = {}
    for line, row in read_rows(path or published("quality"), COLUMNS):
        label = {"line": line, **{key: row[key] for key in ("study", "method", "trained_on", "domain")}}
        try:
            found = _score(line, row)
        except UsageError as error:
            refused.append({**label, "reason": str(error)})
            continue
        if isinstance(found, str):
            incomplete.append({**label, "reason": found})
            continue
        ends = known.setdefault((found.study, row["model"], found.benchmark), (found.start, found.teacher))
        if ends != (found.start, found.teacher):
            refused.append(
                {**label, "reason": "start or teacher differ from the study's other rows of this domain"}
            )
        elif found.method == "single_domain" and found.in_set and found.score != found.teacher:
            refused.append({**label, "reason": "a specialist's own score is not the teacher's"})
        else:
            rows.append(found)
    return rows, incomplete, refused


def _score(line: int, row: Mapping[str, str]) -> Score | str:
    """A row's value, or the reason why it cannot be predicted. UsageError where a number is impossible."""
    if row["unit"] not in UNITS:
        raise UsageError(f"unit {row['unit']!r}: must be one of {', '.join(UNITS)}")
    if row["unit"] == "points":
        return "gains in points without the level they start from"
    if row["method"] not in METHODS:
        return f"no recipe for the method {row['method']!r}"
    if not (row["start"] and row["teacher"] and row["score"]):
        return "start, teacher or score is empty"
    numbers = []
    for key in ("start", "teacher", "score"):
        try:
            number = float(row[key])
        except ValueError:
            raise UsageError(f"{key} {row[key]!r}: must be a number") from None
        limits = (0.0, 100.0) if row["unit"] == "percent" else (-5.0, 5.0)
        if not (math.isfinite(number) and limits[0] <= number <= limits[1]):
            raise UsageError(f"{key} {row[key]}: must be from {limits[0]:g} to {limits[1]:g}")
        numbers.append(number / 100 if row["unit"] == "percent" else ZERO + (ONE - ZERO) * number)
    trained = _EVERYTHING if row["trained_on"] == "all" else tuple(row["trained_on"].split("+"))
    named = "all" if row["domain"] == "all" else domain_of(row["domain"], trained)
    return Score(
        line=line,
        study=row["study"],
        model=row["model"],
        method=row["method"],
        trained=trained,
        domain=trained[0] if named == "all" else named,
        start=numbers[0],
        teacher=numbers[1],
        score=numbers[2],
        unit=row["unit"],
        benchmark=row["domain"],
    )
