"""The table of published scores per strategy: which rows can be predicted, which cannot, which contradict
themselves.

Leaves out: the predictions (`mopdsim.validate.quality`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.validate.cost import published
from mopdsim.validate.tables import read_rows

COLUMNS = ("study", "model", "method", "trained_on", "domain", "start", "teacher", "score", "unit")
UNITS = ("percent", "normalised", "points")
_BENCHMARK_OF = {
    "aime25": "math", "aime26": "math", "hmmt_feb25": "math", "livecodebench": "code", "ifbench": "if",
    "ifeval": "if", "mmlu_pro": "knowledge", "gpqa_diamond": "knowledge", "hle": "knowledge",
    "arena_hard_prompt": "chat", "arena_hard_creative": "chat", "swe_verified": "swe",
    "swe_bench_verified": "swe", "tau2_bench": "tool_use", "tau2_telecom": "tool_use", "browsecomp": "search",
}  # fmt: skip
_EVERYTHING = ("math", "code", "if", "swe", "tool_use", "search", "knowledge", "chat")
ZERO, ONE = 0.40, 0.55  # where a normalised 0 and 1 are put: the median headroom of the percent rows

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "single_domain": ("single_domain", {}),
    "mixed_rl": ("mixed_rl", {}),
    "cascade_rl": ("cascade_rl", {}),
    "off_policy": ("off_policy", {}),
    "merge_average": ("merge", {"method": "average"}),
    "merge_task_arithmetic": ("merge", {"method": "task_arithmetic", "scale": 1.0}),
    "mopd": ("mopd", {}),
    "mopd_topk64": ("mopd", {"loss": "top_k_reverse_kl"}),
    "mopd_balanced": ("mopd", {"balance": "token_share"}),
    "mopd_second_round": ("mopd", {"rounds": 2}),
    "mopd_teacher_rl": ("mopd", {"reward_mix": 1.0}),
    "mopd_teacher_sft": ("mopd", {"reward_mix": 1.0}),
    "mopd_teacher_self": ("mopd", {"reward_mix": 1.0}),
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
    named = _BENCHMARK_OF.get(row["domain"], row["domain"])
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
