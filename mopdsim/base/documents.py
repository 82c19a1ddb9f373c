"""Documents in files, JSON and TOML; the errors of those that are absent or broken; checks of the values that a user's
file holds; and where the package's own data lie.

A check raises UsageError with the field, the value and the rule. Leaves out: recipes, which pydantic validates
(`mopdsim.recipes.recipe_file`).
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean

DATA = Path(__file__).parents[1] / "data"
WANTED = "give a recipe's name (`mopd recipes`) or a TOML file"


def json_document(path: Path, *keys: str, missing: str, remedy: str) -> dict[str, Any]:
    """The document in a file. NotFoundError, which says `missing`, where there is none; UsageError, which ends with the
    remedy, where it is not JSON, no table, or lacks one of the keys."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(missing) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error}): {remedy}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: holds {found!r:.40} where a table belongs: {remedy}")
    if gone := [key for key in keys if key not in found]:
        raise UsageError(f"{path}: {gone[0]} is missing: {remedy}")
    return found


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """The document as a file for people to read too, its keys in their order."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def sha256_of(document: Mapping[str, Any]) -> str:
    """Of its canonical JSON: keys in order, no white space."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_toml(path: Path, *, remedy: str = WANTED) -> dict[str, Any]:
    """The TOML document in a file. NotFoundError, with the remedy, where there is none."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"), source=str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is no UTF-8 text; {remedy}") from None


def parse_toml(text: str, *, source: str) -> dict[str, Any]:
    """TOML text as a document. UsageError names the line."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # a number of more digits than Python reads, too
        raise UsageError(f"{source}: not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{source}: not valid TOML: tables are nested too deeply") from None


def table(value: Any, where: str) -> Mapping[str, Any]:
    """A table of keys."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} = {value!r}: must be a table")
    return value


def known_keys(given: Collection[str], known: Collection[str], where: str) -> None:
    """Keys that somebody reads."""
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")


def keys(document: Mapping[str, Any], known: Collection[str], version: int, source: str) -> None:
    """A file's keys are known, and its schema_version, where it has one, is `version`."""
    known_keys(document, known, source)
    given = document.get("schema_version", version)
    if given != version:
        raise UsageError(f"{source}: schema_version {given!r}: this mopd reads version {version}")


def whole(value: Any, where: str, *, most: int = 10_000_000) -> None:
    """A whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{where} = {value!r}: must be a whole number from 1 to {most}")


def number(
    value: Any, where: str, *, least: float = -math.inf, most: float = math.inf, above: bool = False
) -> None:
    """A finite number from `least` to `most`, or `above` the least."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not numeric or not least <= value <= most or (above and value == least):
        rule = f"above {least:g}" if above else f"from {least:g}" + f" to {most:g}" * math.isfinite(most)
        raise UsageError(f"{where} = {value!r}: must be a finite number {rule}")


def pair_of(
    value: Any, where: str, *, least: float, most: float = math.inf, above: bool = False
) -> tuple[float, float]:
    """P10 and P90 from a list of two numbers, or one number for both."""
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    for end in (low, high):
        number(end, where, least=least, most=most, above=above)
    if low > high:
        raise UsageError(f"{where} = {value!r}: P10 is above P90; give the smaller first")
    return float(low), float(high)


_PLAINER = {
    "Input should": "must",
    "Tuple should": "must",
    "a valid tuple": "a list",
    "a valid dictionary": "a table",
    "an instance of Sequence": "a list",
    " after validation": "",
}  # pydantic's words, and those of a file


def in_words(error: ValidationError) -> str:
    """One sentence for the first problem of options given by name."""
    problem = error.errors(include_url=False)[0]
    return stated(".".join(map(str, problem["loc"])), problem)


def stated(where: str, problem: Mapping[str, Any]) -> str:
    """Where, what value, which rule."""
    if problem["type"] == "missing":
        return f"{where} is missing: add it"
    message = problem["msg"].removeprefix("Value error, ")
    for said, plain in _PLAINER.items():
        message = message.replace(said, plain, 1)
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    shown = repr(problem["input"])
    return f"{where} = {shown if len(shown) < 60 else shown[:57] + '...'}: {message}"
