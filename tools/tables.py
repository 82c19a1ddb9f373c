"""`python -m tools.tables`: draws two tables anew: of parameters in docs/quality.md, from the calibration, and of
recipes and engines in docs/engines.md, from the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mopdsim.base.numbers import count
from mopdsim.belief.calibration import Parameter, default_calibration
from mopdsim.exchange.table import markdown
from mopdsim.facts.domains import Estimate
from mopdsim.plan.words import parameter as in_words

DOCS = Path(__file__).parents[1] / "docs"
START, END = "<!-- table: python -m tools.tables -->\n", "<!-- end of table -->"
_SCALES = {"normal": "", "student": "", "lognormal": " (ln)", "logit": " (logit)"}


def parameters() -> str:
    """A line a parameter: name, meaning, prior, what studies found, of tiny models and of small open ones, grade,
    source."""
    return "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    yield "| parameter | what it says | prior (sd) | studies found (sd): tiny; small | grade | the prior rests on |"
    yield "|---|---|---|---|---|---|"
    for name, row in default_calibration().parameters.items():
        shown = [_shown(row.studies[scope], row) for scope in ("tiny", "small") if scope in row.studies]
        told = "; ".join(shown) or "not identified"
        cells = (f"`{name}`", in_words(name), _shown(row.prior, row), told, row.prior.grade, row.prior.source)
        yield f"| {' | '.join(cells)} |"


def _shown(estimate: Estimate, row: Parameter) -> str:
    return f"{count(estimate.value)} ({estimate.sd:.2g}{_SCALES[row.distribution]})"


TABLES: Mapping[str, Callable[[], str]] = {"quality.md": parameters, "engines.md": markdown}


def drawn(page: str) -> str:
    """A page with its table as it is now."""
    before, _, rest = (DOCS / page).read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{TABLES[page]()}\n{END}{after}"


def main() -> None:
    """Writes the pages."""
    for page in TABLES:
        (DOCS / page).write_text(drawn(page), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
