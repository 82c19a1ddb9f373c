"""What an engine needs to know of a domain: where its rows come from, who verifies, how long its answers are.

Verifiers that stand alone, each a few lines in the exported reward.py:

    same     the response equals the one right answer     tiny domains that have one
    exact, numeric, regex                                 files of JSON lines, as in `trainer.tasks.jsonl`
    reasoning_gym                                         the library's own grader
    own      a function of the user's                     any domain, named in a tasks file

A tasks file (TOML) says what the table of domains cannot know:

    [math]
    data = "/data/math.parquet"            # or .jsonl: rows with prompt and answer
    reward = "/rewards/math.py:grade"      # grade(response, answer, row) -> float
    [swe]
    agent = "swe_agent"                    # the agent loop that verl knows by this name

Leaves out: making rows (the exported prepare_data.py does, with this package's tasks or the user's file).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mopdsim.base.documents import known_keys, read_toml, whole
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.domains import Domain, dials, undialled

ONE_ANSWER: Final = frozenset(
    [
        "sort", "sort_down", "sort_long", "reverse", "rotate", "shift", "shift_back", "compare", "swap", "dedup",
        "rle_decode", "rle_encode", "sort_then_shift", "reverse_then_shift",
    ]
)  # fmt: skip
"""Tiny domains with exactly one right answer to each prompt, so that comparing with it is their verifier."""
REPAIRED: Final = frozenset(
    [
        "binary_matrix", "boxnet", "coin_flip", "complex_arithmetic", "countdown", "game_of_life",
        "intermediate_integration", "n_queens", "polynomial_equations", "polynomial_multiplication",
        "prime_factorization", "puzzle24", "simple_integration", "spiral_matrix", "string_insertion",
    ]
)  # fmt: skip
"""Families of reasoning-gym whose graders `trainer.tasks.gym` repairs: they evaluate what the model wrote, raise on
what they cannot read, or can be pleased by a constant reply. An engine would call the library's own."""
JSONL_VERIFIERS: Final = ("exact", "numeric", "regex")
_KEYS: Final = ("data", "reward", "agent", "max_prompt_tokens", "max_response_tokens")
PROMPT_ROOM = 4  # longest prompt over the mean one, where nobody says
PROMPT_STEP = 64


@dataclass(frozen=True, kw_only=True)
class Task:
    """A domain for an engine. source: "mopd" (this package's task of the specification `spec`) or a file. verifier: one
    of the module's, or None with the reason in `why_not`. own_reward: PATH:FUNCTION. Paths are absolute."""

    spec: str
    source: str
    verifier: str | None
    why_not: str = ""
    own_reward: str = ""
    agent: str = ""
    turns: int = 1
    max_prompt_tokens: int
    max_response_tokens: int
    reward_scale: float = 1.0


def tasks_of(domains: Mapping[str, Domain], told: Mapping[str, Mapping[str, Any]]) -> dict[str, Task]:
    """The tasks of a scenario's domains, with what a tasks file says of them."""
    for name in told:
        if name not in domains:
            raise UsageError(f"--tasks: [{name}] is no domain of the recipe{did_you_mean(name, domains)}")
    return {name: _with(_known(name, row), told.get(name, {})) for name, row in domains.items()}


def read_tasks(path: Path | None) -> dict[str, Mapping[str, Any]]:
    """A tasks file; nothing where none is given."""
    if path is None:
        return {}
    try:
        document = read_toml(path, remedy="give a TOML file with a table for each domain")
    except (NotFoundError, UsageError) as error:
        raise type(error)(f"--tasks {error}") from None
    for name, row in document.items():
        if not isinstance(row, Mapping):
            raise UsageError(f"--tasks {path}: {name} = {row!r} must be a table, as in [math]")
        for key, value in row.items():
            _check_key(f"--tasks {path}: [{name}]", key, value)
    return {name: _placed(row, path.resolve().parent) for name, row in document.items()}


def _placed(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The row with paths seen from the tasks file made absolute: an engine runs elsewhere."""
    return {key: str(folder / value) if key in ("data", "reward") else value for key, value in row.items()}


def _check_key(where: str, key: str, value: Any) -> None:
    known_keys([key], _KEYS, where)
    if key.startswith("max_"):
        whole(value, f"{where}: {key}")
    elif not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {key} = {value!r} must be text in quotes")
    elif key == "reward" and ":" not in value:
        raise UsageError(
            f'{where}: reward = {value!r} must name a file and a function, as in "/rewards/math.py:grade"'
        )
    elif key == "data" and not value.endswith((".jsonl", ".parquet")):
        raise UsageError(f"{where}: data = {value!r} must be a .jsonl or .parquet file")


def _with(task: Task, told: Mapping[str, Any]) -> Task:
    changes: dict[str, Any] = {key: told[key] for key in _KEYS[3:] if key in told}
    if "data" in told:
        changes["source"] = told["data"]
    if "reward" in told:
        changes |= {"verifier": "own", "own_reward": told["reward"]}
    if "agent" in told:
        changes |= {"agent": told["agent"], "turns": 1}
    return replace(task, **changes)


def _known(name: str, row: Domain) -> Task:
    """What the name and the table say."""
    bare, given = undialled(name), dials(name)
    scheme, colon, argument = bare.partition(":")
    verifier: str | None = None
    why_not = f"no verifier of {bare!r} is known"
    source = ""
    if colon and scheme == "jsonl":
        source, verifier = "mopd", given.get("verifier", JSONL_VERIFIERS[0])
    elif colon and scheme == "reasoning_gym":
        source, verifier = "mopd", "reasoning_gym"
        if argument in REPAIRED:
            verifier, why_not = None, f"the grader of {bare!r} is only safe as this trainer repairs it"
    elif row.scope == "tiny":
        source, verifier = "mopd", "same" if bare in ONE_ANSWER else None
        why_not = f"{bare!r} has several right answers or turns, which its verifier here knows"
    if float(given.get("reward_noise", "0")):
        verifier, why_not = None, "reward_noise is drawn by this trainer"
    mean = row.prompt_tokens.value
    spec = f"jsonl:{Path(argument).resolve()}{name[len(bare) :]}" if scheme == "jsonl" else name
    return Task(
        spec=spec,
        source=source,
        verifier=verifier,
        why_not=why_not,
        turns=row.turns,
        max_prompt_tokens=PROMPT_STEP * max(1, -(-int(PROMPT_ROOM * mean) // PROMPT_STEP)),
        max_response_tokens=int(given.get("max_new_tokens", row.max_response_tokens)),
        reward_scale=float(given.get("reward_scale", "1")),
    )
