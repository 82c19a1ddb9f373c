"""What an analysis hands to a report: quantities with intervals, tables, charts, findings.

Checkpoints of one run move together, so that intervals are over whole runs, never single points. With two or three runs
an interval is coarse; it says so by its width and its n. Leaves out: what is estimated (`studies.designs`), how it is
shown (`studies.framework.report`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.8
DRAWS = 1000

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A measured number and the interval that holds it in `level` of resamples; n: the runs it comes from."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.8

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}"


def bootstrap(
    runs: Sequence[T], statistic: Callable[[Sequence[T]], float], rng: np.random.Generator
) -> Quantity | None:
    """The statistic of the runs, and the interval between its (1 - LEVEL) / 2 quantiles over resampled runs.

    None where there are fewer than two runs or the statistic is not finite. Resamples whose statistic is not finite
    are left out.
    """
    value = statistic(runs) if len(runs) > 1 else np.nan
    if not np.isfinite(value):
        return None
    picks = rng.integers(0, len(runs), size=(DRAWS, len(runs)))
    found = np.array([statistic([runs[i] for i in pick]) for pick in picks])
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if found.size else (value, value)
    return Quantity(value=float(value), low=float(low), high=float(high), n=len(runs))


def mean_quantity(values: ArrayLike) -> Quantity | None:
    """The mean of one number a run, with Student's t interval; None below two runs.

    For the few runs of a study: the bootstrap of two equal values would have no width, and of three is too narrow.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if x.size < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    mean = float(x.mean())
    return Quantity(value=mean, low=float(mean - half), high=float(mean + half), n=int(x.size))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the report."""

    title: str
    frame: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of the report: y against x, by colour, in a panel for each value of `panel`.

    mark: points, or points joined by lines. low, high: columns of the ends of each point's interval. diagonal: also
    y = x.
    """

    name: str
    title: str
    frame: pd.DataFrame
    x: str
    y: str
    colour: str | None = None
    panel: str | None = None
    low: str | None = None
    high: str | None = None
    mark: Literal["line", "point"] = "line"
    diagonal: bool = False


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """quantities: by name. findings: sentences. fitted: parameters for a calibration, as JSON. limits: what the study
    could not see."""

    quantities: Mapping[str, Quantity]
    findings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()

    def with_more(self, other: Analysis) -> Analysis:
        """This, followed by another's quantities, findings, tables, charts and limits."""
        return replace(
            self,
            quantities={**self.quantities, **other.quantities},
            findings=(*self.findings, *other.findings),
            tables=(*self.tables, *other.tables),
            charts=(*self.charts, *other.charts),
            limits=(*self.limits, *other.limits),
        )

    def calibration(self) -> dict[str, Any]:
        """What the fit found, as JSON."""
        quantities = {name: asdict(quantity) for name, quantity in self.quantities.items()}
        return {"quantities": quantities, "parameters": dict(self.fitted)}
