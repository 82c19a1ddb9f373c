"""Recipe files: TOML to a recipe and back; anything else ends in one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.stage import default_amounts

FILE = """
name = "two_teachers"
domains = ["sort", "reverse"]

[[stages]]
kind = "distill"
name = "student"
domains = { sort = 2.0, reverse = 1.0 }
teachers = [
    { stage = "one", domains = ["sort"] },
    { stage = "two", domains = ["sort", "reverse"], weight = 0.5 },
]

[[stages]]
kind = "rl"
name = "one"
domains = { sort = 1.0 }

[[stages]]
kind = "rl"
name = "two"
domains = { reverse = 1.0 }

[amounts_of.one]
steps = 40
"""


def test_a_file_by_hand() -> None:
    """Stages are put in order, amounts left out come from the named set."""
    recipe = recipe_file.loads('output = "student"' + FILE + "\n[amounts_of.student]\nsteps = 3\n")
    assert [stage.name for stage in recipe.stages] == ["one", "two", "student"]
    assert recipe.amounts["one"] == default_amounts("tiny", "rl").model_copy(update={"steps": 40})
    assert recipe.amounts["two"] == default_amounts("tiny", "rl")
    assert recipe.amounts["student"].steps == 3


def test_the_last_stage_is_the_output_unless_given() -> None:
    with pytest.raises(UsageError, match="no ancestor of the output 'two'"):
        recipe_file.loads(FILE)
    assert recipe_file.loads('output = "student"' + FILE).output == "student"


def test_every_catalogue_recipe_survives_a_file(tmp_path: Path) -> None:
    for name in catalogue.CATALOGUE:
        recipe = catalogue.recipe(name, ["sort", "reverse"])
        path = tmp_path / f"{name}.toml"
        path.write_text(recipe_file.dump(recipe), encoding="utf-8")
        assert recipe_file.load(path) == recipe


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, NotFoundError, ["no such file", "mopd recipes"]),
        (b"name = \nx = 1", UsageError, ["not valid TOML", "line 1"]),
        (b"name = 'x'\nname = 'y'", UsageError, ["not valid TOML"]),
        (b"name = '\xff'", UsageError, ["byte 8 is no UTF-8 text", "mopd recipes"]),
        (b"", UsageError, ["is missing", "add it"]),
        (b"x = " + b"[" * 10_000, UsageError, ["not valid TOML"]),
        (b"amounts_of = 3", UsageError, ["amounts_of must be a table"]),
        (b"name = 'x'\ndomains = 'sort'\nstages = []", UsageError, ["domains = 'sort': must be a list"]),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, content: bytes | None, error: type[MopdError], words: list[str]
) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        recipe_file.load(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\); give a recipe's name"):
        recipe_file.load(tmp_path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(
    [
        "kind",
        "name",
        "init",
        "domains",
        "teachers",
        "stage",
        "loss",
        "sort",
        "rl",
        "student",
        "steps",
        "inputs",
    ]
)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["rl", "distill", "sft", "merge", "base", "sort", "tiny"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(recipe_file._KEYS) | st.text(max_size=3), ANYTHING, max_size=6))
def test_any_document_is_a_recipe_or_a_clear_error(document: dict[str, Any]) -> None:
    try:
        recipe = recipe_file.from_document(document)
    except UsageError as error:
        assert "\n" not in str(error).strip()
    else:
        assert recipe_file.loads(recipe_file.dump(recipe)) == recipe


@given(place=st.integers(0, len(FILE) - 1), put=st.characters(codec="utf-8"))
def test_a_file_with_one_wrong_character_never_ends_in_a_traceback(place: int, put: str) -> None:
    text = 'output = "student"' + FILE[:place] + put + FILE[place + 1 :]
    try:
        recipe_file.loads(text)
    except MopdError as error:
        assert error.exit_code == 2
