"""Domains read from JSONL files, good and broken."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import UsageError
from trainer.tasks import SPLITS, task


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in records))
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    records = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in range(20) for b in range(20)]
    return write(tmp_path / "sums.jsonl", *records)


def test_hashed_splits_hold_every_line_once(sums: Path) -> None:
    domain = task(f"jsonl:{sums}")
    seen: Counter[str] = Counter()
    for split in SPLITS:
        size = len(domain.items[split])  # type: ignore[attr-defined]
        epochs = [item.prompt for item in domain.stream(split, 0, 3 * size, seed=1)]
        assert all(count == 3 for count in Counter(epochs).values()), "each epoch drops none and repeats none"
        assert epochs[:size] != epochs[size : 2 * size], "each epoch has its own order"
        assert (
            domain.stream(split, size - 2, 4, seed=1)
            == domain.stream(split, 0, 3 * size, seed=1)[size - 2 : size + 2]
        )
        seen.update(epochs[:size])
    assert len(seen) == sum(seen.values()) == 400


def test_fixed_items_and_values(sums: Path) -> None:
    domain = task(f"jsonl:{sums}?verifier=numeric&corruption=0.5")
    items = domain.fixed("test", 40)
    assert items[:10] == domain.fixed("test", 10)
    assert len({item.prompt for item in items}) == 40
    assert pickle.loads(pickle.dumps(domain)) == domain == task(domain.spec)
    with pytest.raises(UsageError, match=r"400 distinct test prompts asked for, \d+ exist"):
        domain.fixed("test", 400)
    rng = random.Random(0)
    scores = [
        domain.grade(item, domain.demonstrate(item, rng)) for item in domain.stream("train", 0, 1000, seed=0)
    ]
    assert sum(scores) / 1000 == pytest.approx(0.5, abs=0.07)


def test_a_changed_file_is_another_task(sums: Path) -> None:
    before = task(f"jsonl:{sums}")
    assert before.fingerprint == task(f"jsonl:{sums}").fingerprint
    sums.write_text(sums.read_text() + '{"prompt": "new", "answer": "line"}\n')
    after = task(f"jsonl:{sums}")
    assert after.fingerprint != before.fingerprint and after != before


def test_split_field(tmp_path: Path) -> None:
    records = [{"prompt": f"p{n}", "answer": "a", "split": SPLITS[n % 3]} for n in range(9)]
    path = write(tmp_path / "field.jsonl", *records)
    domain = task(f"jsonl:{path}")
    assert {item.prompt for item in domain.fixed("validation", 3)} == {"p1", "p4", "p7"}
    asked = task(f"jsonl:{path}?split=field").fixed("test", 3)
    assert [item.prompt for item in asked] == [item.prompt for item in domain.fixed("test", 3)]
    hashed = task(f"jsonl:{path}?split=hash")
    sizes = [len(hashed.items[split]) for split in SPLITS]  # type: ignore[attr-defined]
    assert sum(sizes) == 9 and sizes != [3, 3, 3]


@pytest.mark.parametrize(
    ("verifier", "answer", "right", "wrong"),
    [
        ("exact", "ab c", ["ab c", " ab c\n"], ["abc", "AB C", "", "ab c."]),
        (
            "numeric",
            "1234.5",
            ["1234.5", "it is 1,234.50", "1 then 1234.5", "+1.2345e3"],
            ["", "none", "1234", "1234.5 or 7", "-1234.5"],
        ),
        ("numeric", "-3", ["-3", "x = -3."], ["3", "5-3"]),
        ("numeric", 7, ["7", "7.0", "so 7."], ["77", "1,7,8"]),
        ("numeric", "30000000001", ["30000000001", "30,000,000,001"], ["30000000002", "3e10"]),
        ("numeric", "876543219876", ["876 543 219 876"], ["876543219000"]),
        ("numeric", "6", ["6"], ["\u22126", "- 6", "10^300", "1e9999999"]),
        ("numeric", "-6", ["\u22126", "x=-6"], ["6"]),
        ("numeric", "1" + "0" * 350, ["1" + "0" * 350], ["9" * 350, "1e351"]),
        ("numeric", "8200", ["\\boxed{8{,}200}", "8\\,200", "8 200", "$8,200"], ["8,20", "8.2", "820"]),
        (
            "numeric",
            ".25",
            ["25%", "25\\%", "1/4", "\\frac{1}{4}", "\\dfrac{1}{4}", "0.250"],
            ["25", "1/0", "4"],
        ),
        ("regex", "(yes|no)+", ["yes", "noyes", " no "], ["y", "", "yes!"]),
    ],
)
def test_verifiers(tmp_path: Path, verifier: str, answer: Any, right: list[str], wrong: list[str]) -> None:
    path = write(tmp_path / "one.jsonl", {"prompt": "p", "answer": answer, "split": "train"})
    domain = task(f"jsonl:{path}?verifier={verifier}")
    (item,) = domain.fixed("train", 1)
    assert [domain.grade(item, [said]) for said in right] == [1.0] * len(right)
    assert [domain.grade(item, [said]) for said in wrong] == [0.0] * len(wrong)


def test_a_pattern_that_backtracks_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tasks.jsonl.SECONDS", 0.05)
    path = write(tmp_path / "endless.jsonl", {"prompt": "p", "answer": "((7|7a?)+)+y", "split": "train"})
    domain = task(f"jsonl:{path}?verifier=regex")
    (item,) = domain.fixed("train", 1)
    assert domain.grade(item, ["7y"]) == 1.0
    with pytest.raises(
        UsageError, match=r"took longer than 0\.05 s on one response: write it without nested"
    ):
        domain.grade(item, ["7" * 60])


def test_repeated_lines_stay_in_one_split(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.jsonl", *[{"prompt": f"p{n % 40}", "answer": "a"} for n in range(80)])
    domain = task(f"jsonl:{path}")
    prompts = [{item.prompt for item in domain.items[split]} for split in SPLITS]  # type: ignore[attr-defined]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 40
    assert len(domain.fixed("train", 10)) == 10


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["has no items"]),
        (["\n", "  \n"], ["has no items"]),
        ([{"prompt": "p", "answer": "a"}, '{"prompt": "q", \n'], ["line 2", "not JSON"]),
        (["[1]\n"], ["line 1", "list is not an object"]),
        ([{"prompt": "p"}], ["line 1", "answer is missing"]),
        ([{"answer": "p"}], ["line 1", "prompt is missing"]),
        ([{"prompt": "", "answer": "a"}], ["line 1", 'prompt=""']),
        ([{"prompt": "p", "answer": None}], ["line 1", "answer=null"]),
        ([{"prompt": "p", "answer": True}], ["answer=true"]),
        ([{"prompt": "p", "answer": ["a"]}], ['answer=["a"]']),
        ([{"prompt": "\ud800", "answer": "a"}], ["line 1", "prompt="]),
        ([{"prompt": "p", "answer": "a", "splitt": "test"}], ["'splitt' is unknown", "did you mean 'split'"]),
        ([{"prompt": "p", "answer": "a", "split": "dev"}], ["split='dev'", "train, validation, test"]),
        (
            [{"prompt": "p", "answer": "a", "split": "test"}, {"prompt": "q", "answer": "a"}],
            ["line 2", "split=None"],
        ),
        (
            [
                {"prompt": "p", "answer": "a", "split": "test"},
                {"prompt": "p", "answer": "a", "split": "train"},
            ],
            ["line 2", "line 1", "another split or answer"],
        ),
        (
            [{"prompt": "p", "answer": "a"}, {"prompt": "p", "answer": "b"}],
            ["line 2", "another split or answer"],
        ),
    ],
)
def test_broken_files_name_the_file_and_the_line(tmp_path: Path, lines: list[Any], words: list[str]) -> None:
    path = write(tmp_path / "broken.jsonl", *lines)
    with pytest.raises(UsageError) as raised:
        task(f"jsonl:{path}")
    for word in ["broken.jsonl", *words]:
        assert word in str(raised.value)


def test_numbers_are_kept_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    written = ["0.10", "-0", "1e400", "9" * 5000]
    path.write_text(
        "".join(f'{{"prompt": {n}, "answer": {text}, "split": "train"}}\n' for n, text in enumerate(written))
    )
    found = task(f"jsonl:{path}").fixed("train", len(written))
    assert {item.prompt: item.answer for item in found} == {str(n): text for n, text in enumerate(written)}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_no_number_for_is_no_answer(tmp_path: Path, value: str) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text(f'{{"prompt": "a", "answer": "1"}}\n{{"prompt": "b", "answer": {value}}}\n')
    with pytest.raises(UsageError, match=rf"line 2: .*{value} is no number; write it in quotes"):
        task(f"jsonl:{path}")


def test_answers_must_suit_the_verifier(tmp_path: Path) -> None:
    path = write(tmp_path / "answers.jsonl", {"prompt": "p", "answer": "(a"})
    with pytest.raises(UsageError, match=r"line 1.*regular expression"):
        task(f"jsonl:{path}?verifier=regex")
    with pytest.raises(UsageError, match=r"line 1.*must be a number"):
        task(f"jsonl:{path}?verifier=numeric")
    with pytest.raises(UsageError, match=r"verifier=nmeric.*did you mean 'numeric'"):
        task(f"jsonl:{path}?verifier=nmeric")


def test_what_cannot_be_demonstrated_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "few.jsonl", {"prompt": "p", "answer": "a", "split": "train"})
    pattern = task(f"jsonl:{path}?verifier=regex")
    alone = task(f"jsonl:{path}?corruption=1")
    for domain, words in ((pattern, "no demonstrations"), (alone, "no wrong answer")):
        with pytest.raises(UsageError, match=words):
            domain.demonstrate(domain.fixed("train", 1)[0], random.Random(0))
    with pytest.raises(UsageError, match="1 distinct test prompts asked for, 0 exist"):
        alone.stream("test", 0, 5, seed=0)


@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["prompt", "answer", "split", "x"]), inner, max_size=3)
        ),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_file_is_a_task_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
    try:
        domain = task(f"jsonl:{path}")
    except UsageError as error:
        assert "fuzz.jsonl" in str(error)
    else:
        assert any(domain.items.values())  # type: ignore[attr-defined]
