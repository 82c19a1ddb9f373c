"""Models from disk or a hub into a `Policy`, and back into a directory in Hugging Face layout.

One path for every causal LM that transformers knows: `AutoModelForCausalLM` and `AutoTokenizer`, code from the hub
never trusted, safetensors only. Weights are kept in float32 (the optimiser's copy); bfloat16 is a compute type.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.files.atomic import MANIFEST, atomic_directory, sha256_of
from trainer.files.settings import Settings
from trainer.model.adapters import attach, base_directory, change, is_adapter, read_adapter, save_adapter
from trainer.model.bare import bare
from trainer.model.policy import Policy

_bases: WeakValueDictionary[tuple[Path, str, str], Policy] = WeakValueDictionary()
_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def load_policy(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    chat: Settings | None = None,
    merged: bool = False,
    read_only: bool = False,
) -> Policy:
    """A policy from a directory (an adapter's too) or a hub id. NotFoundError, UsageError where it cannot be.

    chat: settings of a run, of which the chat template is told some. merged: an adapter is added to its base's weights,
    so that all of them can be trained. read_only: without the class of a Hugging Face module where the model can do
    without (`trainer.model.bare`).
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = check_device(device)
    if is_adapter(Path(source)):
        return _with_adapter(Path(source), device=device, dtype=dtype, chat=chat, merged=merged)
    if isinstance(source, Path) and not (source / "config.json").is_file():
        raise NotFoundError(
            f"{source}: no model directory (config.json is missing); `mopd train init-model` makes one"
        )
    model: Any = None
    missing: list[str] = []
    try:
        if read_only and isinstance(source, Path):
            model = bare(source, AutoConfig.from_pretrained(source, trust_remote_code=False))
        if model is None:
            model, found = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            missing = sorted(found["missing_keys"])
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotFoundError(
            f"model {str(source)!r} cannot be loaded: {reason}; give a directory in Hugging Face layout with "
            "safetensors weights, or a hub id that this machine can reach"
        ) from error
    if not hasattr(model.config, "vocab_size"):
        raise UsageError(
            f"model {str(source)!r}: {type(model).__name__} is a wrapper of several models "
            f"({model.config.model_type}); save its text model alone and give that"
        )
    if missing:
        raise UsageError(
            f"model {str(source)!r}: its weights lack {missing[0]!r} ({len(missing)} in all), which would be "
            "left random: complete the safetensors files"
        )
    if tokenizer.eos_token_id is None:
        raise UsageError(f"model {str(source)!r}: its tokenizer has no end-of-sequence token; set eos_token")
    if len(tokenizer) > model.config.vocab_size:
        raise UsageError(
            f"model {str(source)!r}: the tokenizer has {len(tokenizer)} tokens, the model's vocabulary "
            f"{model.config.vocab_size}: use the tokenizer that belongs to the model"
        )
    policy = Policy(model.to(place), tokenizer, dtype=getattr(torch, dtype), chat=chat)
    if tokenizer.chat_template:
        _ = policy.chat.close_id  # finds a template that cannot be rendered, or closes turns otherwise
    return policy


def _with_adapter(directory: Path, *, device: str, dtype: str, chat: Settings | None, merged: bool) -> Policy:
    """An adapter on its base. Policies of one base share its weights while any of them lives; `merged` ones do not."""
    adapter, base = read_adapter(directory), base_directory(directory)
    if merged:
        policy = load_policy(base, device=device, dtype=dtype, chat=chat)
        with torch.no_grad():
            for name, pair in adapter.maps.items():
                weight = policy.model.get_submodule(name).get_parameter("weight")
                weight.add_(change(directory, name, pair, weight).to(weight.device))
        return policy
    key = (base, device, dtype)
    shared = _bases.get(key)
    if shared is None:
        shared = _bases[key] = load_policy(base, device=device, dtype=dtype, chat=chat)
    policy = shared.sharing(chat)
    attach(policy.model, adapter.maps, source=str(directory))
    policy.adapter_base = base
    return policy


def save_policy(policy: Policy, directory: Path) -> None:
    """Weights, configuration and tokenizer in Hugging Face layout, complete or not at all; an adapter alone."""
    with atomic_directory(directory) as partial:
        if policy.adapter_base is not None:
            save_adapter(policy.model, policy.adapter_base, partial)
        else:
            policy.model.save_pretrained(partial, safe_serialization=True)  # type: ignore[operator]
        policy.tokenizer.save_pretrained(partial)


def check_device(device: str) -> torch.device:
    """The device, or a sentence that says why it cannot be had."""
    if device == "cpu":
        return torch.device("cpu")
    if device.partition(":")[0] != "cuda":
        raise UsageError(f"device {device!r}: must be cpu or cuda")
    if not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: no CUDA device is available to this PyTorch; use --device cpu")
    return torch.device(device)


def fingerprint(directory: Path) -> str:
    """sha256 over a model directory's weights, configuration and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in directory.glob(pattern)}):
        if path.name != MANIFEST:
            digest.update(path.name.encode())
            digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def tensors_sha256(directory: Path) -> str:
    """sha256 over the names, shapes and bytes of all tensors of a model directory, whatever its file layout."""
    digest = hashlib.sha256()
    tensors: dict[str, Any] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors.update(load_file(path))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def whole_sha256(directory: Path) -> str:
    """`tensors_sha256` of the weights that a directory stands for, where an adapter changes nothing yet: its base's."""
    if is_adapter(directory) and not any(b_OR.any() for _, b_OR, _ in read_adapter(directory).maps.values()):
        return whole_sha256(base_directory(directory))
    return tensors_sha256(directory)
