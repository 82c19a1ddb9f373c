"""What an analysis hands to a report: quantities with intervals, tables, charts, findings.

Leaves out: how they are computed (`studies.designs`), how they are shown (`studies.framework.report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd


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
