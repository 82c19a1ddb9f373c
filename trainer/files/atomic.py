"""Directories that are complete or absent, and files that were not altered since.

`atomic_directory` fills a temporary directory beside the target, writes a sha256 manifest, forces everything to disk
and renames; `verified` checks a directory against its manifest. A kill, a full disk or a flipped byte at any moment
therefore leaves either the old state or a directory that is recognised as broken.
Leaves out: what the directories hold (`trainer.files.checkpoint`, `trainer.runs.store`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mopdsim.base.documents import json_document
from mopdsim.base.errors import MopdError
from mopdsim.base.run_directory import CONFIG, RESOLVED, SUMMARY, checked_summary
from mopdsim.recipes import recipe_file
from mopdsim.recipes.recipe import Recipe

MANIFEST = "sha256.json"
PUT_BACK = "put the file back, or run again with another --out"


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn a failure to write into a MopdError that names `target`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise MopdError(f"{target}: cannot be written: {reason}; free space or choose --out") from error


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A temporary directory that becomes `target` (replacing it) when the block ends without an exception.

    Raises MopdError with the path when the disk is full or not writable, or `target` is a file; what was there
    is then as it was.
    """
    partial = target.with_name(f".{target.name}.partial.{os.getpid()}")
    with explained(target):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.mkdir()
            yield partial
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            digests = {str(path.relative_to(partial)): sha256_of(path) for path in files}
            (partial / MANIFEST).write_text(json.dumps(digests, indent=1, sort_keys=True))
            for path in [*files, partial / MANIFEST, partial]:
                _sync(path)
            _replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, target: Path) -> None:
    replaced = target.with_name(f".{target.name}.replaced.{os.getpid()}")
    if target.exists():
        os.rename(target, replaced)
    os.rename(partial, target)
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def verified(directory: Path) -> bool:
    """Whether every file named in the directory's manifest is there, byte for byte."""
    try:
        digests = json.loads((directory / MANIFEST).read_text())
        return all(sha256_of(directory / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step, on disk when this returns."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The same of bytes."""
    partial = path.with_name(f".{path.name}.partial")
    with explained(path):
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Replace a small JSON file in one step. Numbers that are not finite are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def sweep(parent: Path) -> None:
    """Remove what a killed process left half written in `parent`."""
    for leftover in [*parent.glob(".*.partial.*"), *parent.glob(".*.replaced.*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Of a file's content, which is read again only where its size or the time of its last change is another."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file of a run directory, with these keys at least. NotFoundError where it is not one, or not finished;
    UsageError where the file was changed by hand."""
    run = path.parent
    missing = f"{run}: no run directory ({path.name} is missing); give the --out of a run"
    if (run / RESOLVED).is_file():
        missing = f"{run}: the run is not finished ({path.name} is missing): finish it with `mopd train resume {run}`"
    return json_document(path, *keys, missing=missing, remedy=PUT_BACK)


def read_recipe(run: Path) -> Recipe:
    """The recipe that a run was begun with. NotFoundError where it is gone, UsageError where it is not sound."""
    return recipe_file.load(run / CONFIG, remedy=PUT_BACK)


def read_summary(run: Path) -> dict[str, Any]:
    """A finished run's summary. NotFoundError where it has none, UsageError where it was changed by hand."""
    return checked_summary(read_json(run / SUMMARY), run / SUMMARY)
