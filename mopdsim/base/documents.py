"""JSON documents in files, the errors of those that are absent or broken, their hash, and where the package's own data
lie. Leaves out: what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopdsim.base.errors import NotFoundError, UsageError

DATA = Path(__file__).parents[1] / "data"


def json_document(path: Path, *, missing: str, remedy: str) -> dict[str, Any]:
    """The document in a file. NotFoundError, which says `missing`, where there is none; UsageError, which ends with the
    remedy, where it is not JSON."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(missing) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): {remedy}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error}): {remedy}") from None
    return found


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """The document as a file for people to read too, its keys in their order."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def sha256_of(document: Mapping[str, Any]) -> str:
    """Of its canonical JSON: keys in order, no white space."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
