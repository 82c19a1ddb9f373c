"""`python -m tools.quality_table`: draws the table of parameters in docs/quality.md anew, from the calibration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mopdsim.belief.calibration import Parameter, default_calibration
from mopdsim.facts.domains import Estimate
from mopdsim.plan.words import parameter as in_words

PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
START, END = "<!-- table: python -m tools.quality_table -->\n", "<!-- end of table -->"
_SCALES = {"normal": "", "student": "", "lognormal": " (ln)", "logit": " (logit)"}


def rows() -> Iterator[str]:
    """The table, a line a parameter: name, meaning, prior, what studies of tiny models found, grade, source."""
    yield "| parameter | what it says | prior (sd) | tiny studies found (sd) | grade | the prior rests on |"
    yield "|---|---|---|---|---|---|"
    for name, row in default_calibration().parameters.items():
        found = row.studies.get("tiny")
        told = "not identified" if found is None else _shown(found, row)
        cells = (f"`{name}`", in_words(name), _shown(row.prior, row), told, row.prior.grade, row.prior.source)
        yield f"| {' | '.join(cells)} |"


def _shown(estimate: Estimate, row: Parameter) -> str:
    return f"{estimate.value:.3g} ({estimate.sd:.2g}{_SCALES[row.distribution]})"


def drawn(text: str) -> str:
    """The page with the table as the calibration has it now."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{chr(10).join(rows())}\n\n{END}{after}"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE.name)


if __name__ == "__main__":
    main()
