"""What the answers of a test are worth: several samples of one prompt count as fewer answers than as many prompts.

Leaves out: tests themselves (`trainer.batch.evaluate`), their errors in a fit (`mopdsim.fit.predict`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def samples_count(rows: Sequence[Mapping[str, Any]]) -> float:
    """For how many answers, each to a prompt of its own, the samples of one prompt count in these rows: the variance
    of a test with one answer a prompt, q (1 - q) / n, over the squared standard errors that were measured. 1 where
    every prompt had one sample."""
    tested = [(float(row["pass_rate"]), int(row["n"]), float(row.get("se") or 0.0)) for row in rows]
    alone = sum(q * (1 - q) / n for q, n, _ in tested)
    measured = sum(se**2 for *_, se in tested)
    return max(alone / measured, 1.0) if measured > 0 else 1.0
