"""Domains from a file: `jsonl:PATH?verifier=exact|numeric|regex&split=field|hash`.

Each line is an object with `prompt`, `answer` and, optionally, `split` (train, validation or test). Without a
`split` option the field is used where the first line has it, a hash of the prompt otherwise.

verifier  exact    the response equals the answer, outer white space aside
          numeric  the last number in the response is the answer, exactly; how it is written does not count
                   (`trainer.tasks.numbers`)
          regex    the answer is a regular expression that matches the whole response, within SECONDS

Items are finite: a stream visits them in a seeded permutation per epoch and drops none.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import regex

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from trainer.tasks.base import SPLITS, Item, Options, Split, Task, shared_dials, split_of
from trainer.tasks.numbers import NUMBER, numbers_in

SCHEME: Final = "jsonl"
VERIFIERS: Final = ("exact", "numeric", "regex")
_KEYS: Final = ("prompt", "answer", "split")
LINE: Final = "line"  # of an item's data: where its file has it
SECONDS: Final = 2.0  # that one response may take a regular expression


@dataclass(frozen=True, kw_only=True)
class JsonlTask(Task):
    """The items of one file. `sha256` is the file's, so that a changed file is another task."""

    verifier: str
    sha256: str
    items: Mapping[Split, tuple[Item, ...]] = field(compare=False, repr=False)

    @property
    def fingerprint(self) -> str:
        return f"{self.spec}#{self.sha256}"

    def stream(self, split: Split, start: int, count: int, *, seed: int) -> list[Item]:
        items = self._of(split, 1)
        orders: dict[int, list[int]] = {}
        chosen = []
        for index in range(start, start + count):
            epoch, place = divmod(index, len(items))
            if epoch not in orders:
                orders[epoch] = _order(len(items), f"{seed}|{split}|{epoch}")
            chosen.append(items[orders[epoch][place]])
        return chosen

    def fixed(self, split: Split, count: int) -> list[Item]:
        items = self._of(split, count)
        distinct = {items[place].prompt: items[place] for place in _order(len(items), f"fixed|{split}")}
        if len(distinct) < count:
            raise self.too_few(split, count, len(distinct))
        return list(distinct.values())[:count]

    def demonstrate(self, item: Item, rng: random.Random) -> tuple[str, ...]:
        """The answer; when corrupted, that of another training item. A regex domain has none."""
        if self.verifier == "regex":
            raise UsageError(
                f"domain {self.spec!r}: verifier=regex has no demonstrations; leave it out of SFT stages"
            )
        if rng.random() >= self.corruption:
            return (item.answer,)
        others = self._of("train", 1)
        return (self.wrong_answer(item, lambda: rng.choice(others).answer),)

    def grade(self, item: Item, turns: Sequence[str]) -> float:
        (response,) = (turn.strip() for turn in turns)
        match self.verifier:
            case "exact":
                return float(response == item.answer.strip())
            case "regex":
                return float(_matches(item.answer, response))
            case _:
                return float(numbers_in(response)[-1:] == numbers_in(item.answer))

    def _of(self, split: Split, count: int) -> tuple[Item, ...]:
        items = self.items[split]
        if len(items) < count:
            raise self.too_few(split, count, len(items))
        return items


def jsonl_task(options: Options) -> JsonlTask:
    """The task of a `jsonl:` spec. Raises NotFoundError for a missing file, UsageError for a broken one."""
    path = Path(options.argument)
    if not path.is_file():
        raise NotFoundError(f"task spec {options.spec!r}: {path} is not a file; write jsonl:PATH?key=value")
    verifier = options.choice("verifier", "exact", VERIFIERS)
    split_by = options.choice("split", "", ("field", "hash"))
    dials = shared_dials(options, corruption=0.0, max_new_tokens=128)
    raw = path.read_bytes()
    items = _read(raw, path, options.spec, verifier, split_by)
    return JsonlTask(verifier=verifier, sha256=hashlib.sha256(raw).hexdigest(), items=items, **dials)


def _read(raw: bytes, path: Path, spec: str, verifier: str, split_by: str) -> dict[Split, tuple[Item, ...]]:
    """The file's items by split. Every error names the file and the line."""
    items: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    seen: dict[str, tuple[int, Split, str]] = {}
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _record(line, where)
        split_by = split_by or ("field" if "split" in record else "hash")
        prompt, answer = record["prompt"], record["answer"]
        _check_answer(answer, verifier, where)
        split = _split(record, split_by, where)
        first, *known = seen.setdefault(prompt, (number, split, answer))
        if known != [split, answer]:
            raise UsageError(
                f"{where}: the prompt of line {first} comes again with another split or answer; keep one"
            )
        items[split].append(Item(domain=spec, prompt=prompt, answer=answer, data={LINE: number}))
    if not seen:
        raise UsageError(f'{path} has no items; write one {{"prompt": ..., "answer": ...}} a line')
    return {split: tuple(found) for split, found in items.items()}


def _record(line: bytes, where: str) -> dict[str, str]:
    """One line's object, values as text; numbers as they are written."""
    try:
        record: Any = json.loads(line, parse_int=str, parse_float=str, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(record, dict):
        raise UsageError(f"{where}: a {type(record).__name__} is not an object with prompt and answer")
    for key in record:
        if key not in _KEYS:
            raise UsageError(f"{where}: key {key!r} is unknown{did_you_mean(key, _KEYS)}; remove it")
    for key in ("prompt", "answer"):
        if key not in record:
            raise UsageError(f"{where}: {key} is missing; every line needs prompt and answer")
    for key, value in record.items():
        if not isinstance(value, str) or not _is_text(value):
            raise UsageError(f"{where}: {key}={json.dumps(value)} must be a number or a text, and not empty")
    return record


def _no_number(name: str) -> str:
    """NaN and infinities, which Python reads where JSON has none."""
    raise ValueError(f"{name} is no number; write it in quotes if it is a text")


def _is_text(value: str) -> bool:
    """Is there something in `value`, and can it be written as UTF-8?"""
    return bool(value.strip()) and not any("\ud800" <= character <= "\udfff" for character in value)


def _check_answer(answer: str, verifier: str, where: str) -> None:
    if verifier == "numeric" and not (NUMBER.fullmatch(answer.strip()) and len(numbers_in(answer)) == 1):
        raise UsageError(f"{where}: answer={answer!r} must be a number; correct it or use verifier=exact")
    if verifier == "regex":
        try:
            regex.compile(answer)
        except regex.error as error:
            rule = f"must be a regular expression ({error}); correct it or use verifier=exact"
            raise UsageError(f"{where}: answer={answer!r} {rule}") from None


def _split(record: Mapping[str, str], split_by: str, where: str) -> Split:
    if split_by == "hash":
        return split_of(record["prompt"])
    for split in SPLITS:
        if record.get("split") == split:
            return split
    rule = f"must be one of {', '.join(SPLITS)}; write it in every line or use split=hash"
    raise UsageError(f"{where}: split={record.get('split')!r} {rule}")


def _matches(pattern: str, response: str) -> bool:
    """UsageError where the pattern backtracks without end."""
    try:
        return regex.fullmatch(pattern, response, timeout=SECONDS) is not None
    except TimeoutError:
        raise UsageError(
            f"the pattern {pattern!r} took longer than {SECONDS:g} s on one response: write it without nested repeats, "
            "such as (a+)+"
        ) from None


def _order(count: int, key: str) -> list[int]:
    """A permutation of range(count) fixed by `key`."""
    order = list(range(count))
    random.Random(key).shuffle(order)
    return order
