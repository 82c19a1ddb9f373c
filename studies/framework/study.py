"""A study: a question, a prediction written beforehand, the runs that answer it, and how they are judged.

A file of `studies/designs` holds one `Study`, or several of one design. Leaves out: which studies there are
(`studies.framework.registry`), what they cost (`studies.framework.ledger`), running them
(`trainer.runs.execute`), reading what they left (`studies.framework.observe`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mopdsim.base.documents import number
from mopdsim.recipes.stage import Value
from studies.framework.analysis import Analysis
from studies.framework.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from studies.framework.observe import Observations
    from trainer.runs.plan import Plan
    from trainer.runs.store import Store

Suite = Literal["sharpening", "skill", "real"]
SUITES: Mapping[Suite, str] = {
    "sharpening": "greedy decoding is nearly right before any RL, which then removes the noise of sampling",
    "skill": "greedy decoding starts at .5 at most, and RL teaches what the start cannot do (`studies.designs.skill`)",
    "real": "a small open model, whose greedy scores RL moves too",
}
Verdict = Literal["held", "refuted", "undecided", "not measured"]


class Claim(Value):
    """A figure that the prediction commits to: a quantity of the analysis lies within these bounds, one or both."""

    quantity: str
    text: str
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, low: float, high: float) -> Verdict:
        """Of an interval: held where all of it is within the bounds, refuted where all of it is outside."""
        least = -math.inf if self.at_least is None else self.at_least
        most = math.inf if self.at_most is None else self.at_most
        if least <= low and high <= most:
            return "held"
        return "refuted" if high < least or low > most else "undecided"

    @property
    def bounds(self) -> str:
        """In words: "at least 0.1 and at most 0.3"."""
        parts = [(self.at_least, "at least"), (self.at_most, "at most")]
        return " and ".join(f"{word} {value:g}" for value, word in parts if value is not None)


class Prediction(Value):
    """What is expected, in words and in figures that can be checked."""

    text: str
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]


_CLAIM = re.compile(
    r"(?P<quantity>\w+)\s+(?:>= (?P<least>\S+)|<= (?P<most>\S+)|(?P<low>\S+) to (?P<high>\S+))\s+(?P<text>.+)"
)


def predicted(text: str, claims: str) -> Prediction:
    """A prediction in words, and its claims, a line each: the quantity, its bounds (`>= 0.1`, `<= 0.3`, `0.1 to 0.3`),
    and what it is in words. ValueError for a line that reads otherwise."""
    found = []
    for line in claims.strip().splitlines():
        row = _CLAIM.fullmatch(line.strip())
        if row is None:
            raise ValueError(
                f"claim {line.strip()!r}: must read QUANTITY, then >= NUMBER, <= NUMBER or NUMBER to NUMBER, then words"
            )
        least, most = row["least"] or row["low"], row["most"] or row["high"]
        bounds = {name: float(value) for name, value in (("at_least", least), ("at_most", most)) if value}
        found.append(Claim(quantity=row["quantity"], text=row["text"], **bounds))
    return Prediction(text=text, claims=tuple(found))


@dataclass(frozen=True, kw_only=True)
class Study:
    """design: the runs at full scale. observed, held_out: what is measured and what is kept for judging, in words.
    analyse: from observations of a finished run or more to quantities (those of the claims among them), tables and
    charts; it may draw from
    nothing but the generator that it makes from its own fixed seed. measure: what is looked at besides scores, a table
    made from the finished runs, their plan and the store. twin: the name of the run whose weights it looks at beside a
    run's, one that may not be among the runs. of_skills: whether its scores are of skills, which
    the simulator forecasts; a study of what is planted enters neither the fit nor the honest test. released: when and
    why runs that were held out were given to the fit, having been judged once; they are judged no more. suite: what its
    worlds measure, `SUITES`. admit: raises UsageError where they have not passed the suite's gate. foretells: whether
    the model's forecasts of every run are put on record before it. failures_count: whether forecasts are judged on
    failed distillations too, because failing is what the study asks about. retired: it runs no more, and its results
    stand as they are; successor: what asks in its place, a study or a command, if anything does."""

    name: str
    question: str
    prediction: Prediction
    observed: str
    held_out: str
    design: Callable[[], Sequence[Run]]
    analyse: Callable[[Observations], Analysis]
    measure: Callable[[Mapping[str, Run], Plan, Store], pd.DataFrame] | None = None
    twin: Callable[[str], str] = lambda name: name
    of_skills: bool = True
    released: str = ""
    suite: Suite = "sharpening"
    foretells: bool = False
    failures_count: bool = False
    retired: bool = False
    successor: str = ""
    admit: Callable[[], None] = lambda: None

    def runs(self, *, scale: float = 1.0, device: str = "cpu", quick: bool = False) -> dict[str, Run]:
        """The runs by name; quick: of the lowest seed alone. UsageError where the scale is none."""
        number(scale, "scale", least=0, above=True)
        found: dict[str, Run] = {}
        design = self.design()
        if quick:
            first = min(run.settings.seed for run in design)
            design = [run for run in design if run.settings.seed == first]
        for run in design:
            chosen = run if scale == 1 else run.scaled(scale)
            settings = chosen.settings.model_copy(update={"device": device})
            found[run.name] = chosen.model_copy(update={"settings": settings})
        return found

    def analysis(self, found: Observations) -> Analysis:
        """Of what was observed so far; nothing where no run has finished."""
        return self.analyse(found) if found.finished else Analysis(quantities={})
