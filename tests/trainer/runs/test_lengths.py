"""Prompts that outgrow a model are found before a run starts, with the line of their file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_world import SETTINGS, carry_out, shrunk, write_model

from mopdsim.base.errors import UsageError
from mopdsim.recipes import catalogue
from trainer.runs.run import check, check_lengths

POSITIONS, NEW = 40, 4


@pytest.fixture
def short(tmp_path: Path) -> Path:
    place = write_model(tmp_path / "short", seed=0)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"max_position_embeddings": POSITIONS}))
    return place


def domain(path: Path, *, longest: int, at: int) -> str:
    """40 prompts, the one of line `at` with a given number of characters; a prompt costs two tokens more than that."""
    splits = ("train", "train", "validation", "test")
    rows = [
        {
            "prompt": f"{n:02d}" + "x" * (longest - 2 if n == at - 1 else 0),
            "answer": ".*",
            "split": splits[n % 4],
        }
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return f"jsonl:{path}?verifier=regex&max_new_tokens={NEW}"


@pytest.mark.parametrize("line", [1, 6, 39, 40])  # of each split
def test_one_long_prompt_is_named_by_its_line(short: Path, tmp_path: Path, line: int) -> None:
    fits = domain(tmp_path / "fits.jsonl", longest=POSITIONS - NEW - 2, at=line)
    check_lengths([fits], short, SETTINGS)
    over = domain(tmp_path / "over.jsonl", longest=POSITIONS - NEW - 1, at=line)
    with pytest.raises(
        UsageError, match=rf"line {line}: the prompt .* is 37 tokens long.*more than the model's 40"
    ):
        check_lengths([fits, over], short, SETTINGS)


def test_a_run_does_not_start_with_it(short: Path, tmp_path: Path) -> None:
    over = domain(tmp_path / "over.jsonl", longest=60, at=7)
    with pytest.raises(UsageError, match="line 7"):
        carry_out(shrunk(catalogue.recipe("mixed_rl", [over])), short, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nor_with_a_prompt_of_which_the_chat_template_makes_no_token(
    tmp_path: Path, small: dict[str, str]
) -> None:
    place = write_model(tmp_path / "mute", seed=0)
    (place / "chat_template.jinja").write_text("{% for message in messages %}{% endfor %}")
    with pytest.raises(UsageError, match=r"prompt '.+': the chat template makes no token of it"):
        carry_out(shrunk(catalogue.recipe("mixed_rl", list(small.values()))), place, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_answers_than_anyone_waits_for_are_refused_before_anything_runs(small: dict[str, str]) -> None:
    recipe = catalogue.recipe("mixed_rl", list(small.values()), amounts="tiny").scaled(1e5)
    with pytest.raises(UsageError, match=r"2,048,000,000 answers in training .* lower the scale"):
        check(recipe, model="tiny", smaller=None, settings=SETTINGS)
