"""The app's files: hostile uploads get one sentence each, tables carry no formulas out."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable

import hostile
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from mopdsim.app import files, questions, uploads
from mopdsim.app.choice import Choice
from mopdsim.app.link import from_token
from mopdsim.app.pages import refits
from mopdsim.base.errors import MopdError


def own(data: bytes) -> None:
    Choice(own=uploads.scenario_text(data)).scenario()


def refit(data: bytes) -> None:
    refits.check("rl_steps", data)


def asked(data: bytes) -> None:
    questions.checked(uploads.toml_document(uploads.scenario_text(data), source="question"))


def linked(data: bytes) -> None:
    view = from_token(data.decode())
    for choice in (view.choice, *view.pinned):
        choice.scenario()


CASES: list[tuple[str, Callable[[bytes], None], bytes]] = [
    *((f"scenario {name}", own, data) for name, data in hostile.scenarios()),
    *((f"table {name}", refit, data) for name, data in hostile.tables()),
    *((f"question {name}", asked, data) for name, data in hostile.questions()),
    *((f"link {name}", linked, text.encode()) for name, text in hostile.tokens()),
]


def test_there_are_a_hundred_and_more() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize(("take", "data"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_hostile_file_gets_one_sentence(take: Callable[[bytes], None], data: bytes) -> None:
    with pytest.raises(MopdError) as caught:
        take(data)
    text = str(caught.value)
    assert 10 < len(text) < 1000
    assert "\n" not in text.strip()
    assert "Traceback" not in text
    assert "/tmp" not in text


@given(data=some.binary(max_size=400))
def test_random_bytes_are_refused_or_read(data: bytes) -> None:
    for take in (own, refit, asked):
        with pytest.raises(MopdError):
            take(data)


@given(text=some.text(max_size=80))
def test_no_text_leaves_as_a_formula(text: str) -> None:
    assert not str(files.harmless(text)).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert str(files.harmless(text)).endswith(text)


def test_tables_keep_numbers_and_lose_formulas() -> None:
    frame = pd.DataFrame(
        {"=name": ["=1+1", "plain", "@x", "+y", "-z"], "value": [-1.5, math.pi, 0.0, 1.0, 2.0]}
    )
    rows = list(csv.reader(io.StringIO(files.csv_bytes(frame).decode())))
    assert rows[0] == ["'=name", "value"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "plain", "'@x", "'+y", "'-z"]
    assert float(rows[1][1]) == -1.5
    with zipfile.ZipFile(io.BytesIO(files.xlsx_bytes({"one": frame, "two": frame}))) as book:
        sheets = [name for name in book.namelist() if name.startswith("xl/worksheets/sheet")]
        assert len(sheets) == 2
        assert all(b"<f>" not in book.read(name) for name in sheets)
        assert b"'=1+1" in book.read("xl/sharedStrings.xml")
