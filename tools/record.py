"""What the simulator says, written down: the answers to the command lines of `tests/recorded/questions.toml`.

    python tools/record.py                       # ask every question and write the answers again
    python tools/record.py plan_tiny_pair        # only this one, the other answers stay
    python tools/record.py --compare             # print each number that changed, write nothing

An answer is the document that a command prints with `--json`, whole, its numbers unrounded. Two things are changed.
What varies between runs is left out: the `seconds` that a plan took. The scenario of a recommended plan is TOML in a
string: it is read, so that its numbers are compared as numbers. The program is reached by its command line alone, so
its modules may move. `tests/test_recorded.py` compares every answer with the recorded one.
Leaves out: whether an answer is right.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mopdsim.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = ROOT / "tests" / "recorded" / "questions.toml"
ANSWERS = QUESTIONS.with_name("answers.json.gz")
RELATIVE, ABSOLUTE = 1e-12, 1e-15  # numbers closer than either are the same
VARYING = {"plan": ("seconds",)}  # by verb: keys of its document that differ from run to run
ABSENT = "(absent)"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A place of a document where two answers differ."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        moved = ""
        if _is_number(self.before) and _is_number(self.after) and self.before:
            moved = f"  ({self.after / self.before - 1:+.3g})"
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}{moved}"


def questions() -> dict[str, str]:
    """All command lines by their names, in the order of their file."""
    rows: dict[str, str] = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]
    return rows


def answers() -> dict[str, Any]:
    """The recorded answers by the question's name; none where nothing is recorded."""
    if not ANSWERS.is_file():
        return {}
    found: dict[str, Any] = json.loads(gzip.decompress(ANSWERS.read_bytes()))
    return found


def ask(command: str) -> Any:
    """Today's answer. RuntimeError where the command fails."""
    with contextlib.chdir(ROOT):
        result = CliRunner().invoke(app, [*shlex.split(command), "--json"])
    if result.exit_code:
        raise RuntimeError(f"mopd {command}: {result.exception or result.stderr}") from result.exception
    document = json.loads(result.stdout)
    for key in VARYING.get(command.split()[0], ()):
        document.pop(key, None)
    return _with_scenarios_read(document)


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Where two documents differ, in the order of the first."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            place = f"{path}.{key}" if path else str(key)
            yield from changes(before.get(key, ABSENT), after.get(key, ABSENT), place)
    elif isinstance(before, list) and isinstance(after, list):
        for number, (old, new) in enumerate(zip_longest(before, after, fillvalue=ABSENT)):
            yield from changes(old, new, f"{path}[{number}]")
    elif not _same(before, after):
        yield Change(path=path, before=before, after=after)


def write(found: Mapping[str, Any]) -> None:
    """The answers' file: the same bytes for the same answers."""
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), allow_nan=False)
    ANSWERS.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes, or with --compare prints; then 1 where anything changed."""
    parser = argparse.ArgumentParser(
        description="Record what the simulator says, or compare with the record."
    )
    parser.add_argument("names", nargs="*", help="questions, by name [default: all]")
    parser.add_argument("--compare", action="store_true", help="print what changed; write nothing")
    given = parser.parse_args(arguments)
    asked = questions()
    for name in given.names:
        if name not in asked:
            parser.error(f"no question {name!r} in {QUESTIONS.relative_to(ROOT)}")
    chosen = {name: asked[name] for name in given.names or asked}
    return _compare(chosen) if given.compare else _record(chosen, list(asked))


def _record(chosen: Mapping[str, str], known: Sequence[str]) -> int:
    found = {name: answer for name, answer in answers().items() if name in known}
    for name, command in chosen.items():
        found[name] = ask(command)
    write(found)
    print(f"{len(chosen)} answers written to {ANSWERS.relative_to(ROOT)}: {ANSWERS.stat().st_size:,} bytes")
    return 0


def _compare(chosen: Mapping[str, str]) -> int:
    recorded = answers()
    count = 0
    for name, command in chosen.items():
        for change in changes(recorded.get(name, ABSENT), ask(command)):
            print(f"{name}: {change}")
            count += 1
    print(f"{len(chosen)} questions asked, {count} changes", file=sys.stderr)
    return 1 if count else 0


def _with_scenarios_read(document: Any) -> Any:
    if isinstance(document, dict):
        return {
            key: tomllib.loads(value)
            if key == "scenario" and isinstance(value, str)
            else _with_scenarios_read(value)
            for key, value in document.items()
        }
    return [_with_scenarios_read(value) for value in document] if isinstance(document, list) else document


def _same(before: Any, after: Any) -> bool:
    if _is_number(before) and _is_number(after):
        return math.isclose(before, after, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(before) is type(after) and before == after


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value in a line; of a table or a list only its size."""
    if isinstance(value, dict | list):
        return f"({'table' if isinstance(value, dict) else 'list'} of {len(value)})"
    return repr(value) if _is_number(value) or value is None or isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
