"""The app's files: hostile uploads get one sentence each, tables carry no formulas out."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import hostile
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from mopdsim.app import questions, uploads, views
from mopdsim.app.choice import Choice
from mopdsim.app.pages import calibration
from mopdsim.app.state import from_token
from mopdsim.base.errors import MopdError

ROOT = Path(__file__).parents[3]


def own(data: bytes) -> None:
    Choice(own=uploads.scenario_text(data)).scenario()


def refit(data: bytes) -> None:
    calibration.check_refit("rl_steps", uploads.csv_text(data))


def asked(data: bytes) -> None:
    questions.checked(uploads.toml_document(uploads.scenario_text(data), source="question"))


def linked(data: bytes) -> None:
    view = from_token(data.decode())
    for choice in (view.choice, *view.pinned.values()):
        choice.scenario()


def own_config(data: bytes) -> None:
    uploads.config_text(data)


def own_steps(data: bytes) -> None:
    uploads.factor_of_steps(data, "unknown")


def own_log(data: bytes) -> None:
    uploads.factor_of_log(data, "run.jsonl", Choice().scenario(), "teacher_1")


def own_question(data: bytes) -> None:
    questions.of_choice(questions.to_choice(uploads.scenario_text(data)))


CASES: list[tuple[str, Callable[[bytes], None], bytes]] = [
    *((f"scenario {name}", own, data) for name, data in hostile.scenarios()),
    *((f"table {name}", refit, data) for name, data in hostile.tables()),
    *((f"question {name}", asked, data) for name, data in hostile.questions()),
    *((f"own question {name}", own_question, data) for name, data in hostile.questions()),
    *((f"config {name}", own_config, data) for name, data in hostile.configs()),
    *((f"steps {name}", own_steps, data) for name, data in hostile.tables()),
    *((f"log {name}", own_log, data) for name, data in hostile.BINARY.items()),
    *((f"link {name}", linked, text.encode()) for name, text in hostile.tokens()),
]


def test_there_are_a_hundred_and_more() -> None:
    assert len(CASES) >= 250


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
    for take in (own, refit, asked, own_config, own_steps, own_question):
        with pytest.raises(MopdError):
            take(data)


@given(text=some.text(max_size=80))
def test_no_text_leaves_as_a_formula(text: str) -> None:
    assert not str(views.harmless(text)).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert str(views.harmless(text)).endswith(text)


def test_tables_keep_numbers_and_lose_formulas() -> None:
    frame = pd.DataFrame(
        {"=name": ["=1+1", "plain", "@x", "+y", "-z"], "value": [-1.5, math.pi, 0.0, 1.0, 2.0]}
    )
    rows = list(csv.reader(io.StringIO(views.csv_bytes(frame).decode())))
    assert rows[0] == ["'=name", "value"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "plain", "'@x", "'+y", "'-z"]
    assert float(rows[1][1]) == -1.5
    with zipfile.ZipFile(io.BytesIO(views.xlsx_bytes({"one": frame, "two": frame}))) as book:
        sheets = [name for name in book.namelist() if name.startswith("xl/worksheets/sheet")]
        assert len(sheets) == 2
        assert all(b"<f>" not in book.read(name) for name in sheets)
        assert b"'=1+1" in book.read("xl/sharedStrings.xml")


def test_a_step_a_table_and_a_log_say_how_fast_a_stack_is() -> None:
    scenario = Choice(gpus=64).scenario()
    slow, fast = (uploads.factor_of_step(scenario, seconds=s, samples=1024, tokens=2000) for s in (200, 100))
    assert slow[0] - fast[0] == pytest.approx(math.log(2), abs=0.15)  # drawn a little to what stacks are like
    assert slow[1] < scenario.software.log_sd
    table = (ROOT / "mopdsim" / "data" / "published" / "rl_steps.csv").read_bytes()
    assert uploads.factor_of_steps(table, "unknown")[1] < slow[1]
    log = (ROOT / "tests" / "mopdsim" / "exchange" / "logs" / "verl.jsonl").read_bytes()
    assert uploads.factor_of_log(log, "verl.jsonl", scenario, "teacher_1")[1] < scenario.software.log_sd


def test_a_file_that_is_no_log_is_named_without_its_path() -> None:
    with pytest.raises(MopdError) as caught:
        uploads.factor_of_log(b"hello", "../../x.jsonl", Choice().scenario(), "teacher_1")
    assert "/tmp" not in str(caught.value)
