"""Directories and files that are complete or absent, however a write ends."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
from damage import quota
from safetensors.torch import save_file

from mopdsim.base.errors import MopdError
from trainer.files import atomic
from trainer.files.atomic import MANIFEST, atomic_directory, sweep, verified, write_json, write_text


def write(target: Path, text: str) -> None:
    with atomic_directory(target) as partial:
        (partial / "sub").mkdir()
        (partial / "a.txt").write_text(text)
        (partial / "sub" / "b.txt").write_text(text * 2)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_directory_appears_with_a_manifest_and_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    write(target, "one")
    assert verified(target)
    assert set(json.loads((target / MANIFEST).read_text())) == {"a.txt", "sub/b.txt"}
    (target / "stray.txt").write_text("of the first only")
    write(target, "two")
    assert (target / "a.txt").read_text() == "two" and not (target / "stray.txt").exists()
    assert verified(target) and leftovers(target.parent) == []


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    write(target, "one")
    with pytest.raises(ZeroDivisionError), atomic_directory(target) as partial:
        (partial / "a.txt").write_text("half")
        _ = 1 / 0
    assert (target / "a.txt").read_text() == "one" and verified(target) and leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "change", ["truncated", "flipped", "longer", "gone", "no manifest", "broken manifest", "list"]
)
def test_any_alteration_is_seen(tmp_path: Path, change: str) -> None:
    target = tmp_path / "target"
    write(target, "some text")
    file, manifest = target / "sub" / "b.txt", target / MANIFEST
    content = file.read_bytes()
    match change:
        case "truncated":
            file.write_bytes(content[:-1])
        case "flipped":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "longer":
            file.write_bytes(content + b"\0")
        case "gone":
            file.unlink()
        case "no manifest":
            manifest.unlink()
        case "broken manifest":
            manifest.write_text(manifest.read_text()[:-5])
        case "list":
            manifest.write_text("[]")
    assert not verified(target)


def test_a_file_in_the_way_is_named_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    with pytest.raises(MopdError, match=r"target: cannot be written: a file of that name is in the way"):
        write(target, "one")
    assert target.read_text() == "precious" and leftovers(tmp_path) == []


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MopdError, match="cannot be written"):
        write(tmp_path / "file" / "target", "one")
    with pytest.raises(MopdError, match="cannot be written"):
        write_text(tmp_path / "file" / "status", "done")


@pytest.mark.parametrize("writer", ["text", "safetensors"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "target"
    write(target, "one")
    with quota(20_000), pytest.raises(MopdError, match=r"target: cannot be written: .*free space"):  # noqa: SIM117
        with atomic_directory(target) as partial:
            if writer == "text":
                (partial / "x.txt").write_text("x" * 50_000)
            else:
                save_file({"x": torch.zeros(50_000)}, partial / "x.safetensors")
    assert (target / "a.txt").read_text() == "one" and verified(target) and leftovers(tmp_path) == []


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), atomic_directory(tmp_path / "target"):
        raise RuntimeError("shapes do not match")


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while everything is forced to it."""

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path / "target", "one")
    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(MopdError, match="No space left on device"):
        write(tmp_path / "target", "two")
    assert (tmp_path / "target" / "a.txt").read_text() == "one" and leftovers(tmp_path) == []


def test_sweep_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "target", "one")
    for name in (".target.partial.123", ".target.replaced.123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("half")
    (tmp_path / ".lock").write_text("")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "target"]


def test_small_files_are_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"b": 1, "a": [0.1]})
    assert json.loads(path.read_text()) == {"a": [0.1], "b": 1}
    with quota(20), pytest.raises(MopdError, match=r"summary\.json: cannot be written"):
        write_json(path, {"long": "x" * 100})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": [0.1], "b": 1}
