"""The table of docs/engines.md is what the code draws."""

from __future__ import annotations

from tools.engines_table import END, PAGE, START, drawn


def test_the_page_shows_what_the_code_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert START in text and END in text
    assert drawn(text) == text, "run python -m tools.engines_table"
