"""`python -m tools.engines_table`: draws the table of recipes and engines in docs/engines.md anew, from the code."""

from __future__ import annotations

from pathlib import Path

from mopdsim.exchange.table import markdown

PAGE = Path(__file__).parents[1] / "docs" / "engines.md"
START, END = "<!-- table: python -m tools.engines_table -->\n", "<!-- end of table -->"


def drawn(text: str) -> str:
    """The page with the table as the code draws it now."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{markdown()}\n{END}{after}"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE.name)


if __name__ == "__main__":
    main()
