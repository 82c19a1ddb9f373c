"""Merging models of one shape by their weights: average, task arithmetic, TIES.

`merge_directories` works on Hugging Face folders of safetensors, one tensor at a time: its peak memory is about thirty
times the largest tensor, whatever the number of tensors and models.
Types may differ (a bfloat16 base, specialists trained in float32): arithmetic runs in float64 where any of them is
float32 and else in float32, and results have the widest type. A head that is stored beside the embeddings it is tied to
does not count.
Leaves out: models of different shape, finding the best scale, and the checks of a merge's settings
(`mopdsim.recipes.stage.Merge`).
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.files.atomic import MANIFEST
from trainer.model.adapters import base_directory, change, is_adapter, read_adapter

Load = Callable[[], Tensor]  # one tensor of one model, read when asked for
Combine = Callable[[Tensor, Sequence[Load]], Tensor]  # base's and models' values of one tensor -> merged
Layout = tuple[str, list[int]]  # type and shape

WEIGHTS = "model.safetensors"
HEAD = "lm_head.weight"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NOT_COPIED = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", MANIFEST)
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def average(weights: Sequence[float]) -> Combine:
    """sum_i w_i model_i / sum_i w_i; the base is not used. Exact where all models are equal."""
    total = sum(weights)

    def combine(base: Tensor, models: Sequence[Load]) -> Tensor:
        (_, load_first), *others = zip(weights, models, strict=True)
        first = load_first()
        return first + sum(w / total * (load() - first) for w, load in others)

    return combine


def task_arithmetic(scale: float, weights: Sequence[float]) -> Combine:
    """base + scale * sum_i w_i (model_i - base)  (2212.04089)."""
    return lambda base, models: (
        base + scale * sum(w * (load() - base) for w, load in zip(weights, models, strict=True))
    )


def ties(scale: float, density: float, weights: Sequence[float]) -> Combine:
    """TIES (2306.01708): base + scale * mean of the changes that agree with the elected sign.

    Trim: each model's changes outside the largest fraction `density` of a TENSOR become zero (equals of the
    smallest are kept; the paper ranks over the whole model, which one pass cannot). Elect: the sign of the
    weighted sum of trimmed changes. Disjoint mean: weighted, over the models whose trimmed change is not zero
    and of that sign.
    """

    def combine(base: Tensor, models: Sequence[Load]) -> Tensor:
        rise, fall, rising, falling = (torch.zeros_like(base) for _ in range(4))
        for w, load in zip(weights, models, strict=True):
            change = _trimmed(load() - base, density)
            rise.add_(change.clamp(min=0), alpha=w)
            fall.add_(change.clamp(max=0), alpha=w)
            rising.add_(change > 0, alpha=w)
            falling.add_(change < 0, alpha=w)
        elected = rise + fall
        mean = torch.where(elected > 0, rise / rising, fall / falling)
        return base + scale * mean.where(elected != 0, 0)

    return combine


def _trimmed(change: Tensor, density: float) -> Tensor:
    size = change.abs()
    dropped = size.numel() - max(1, int(density * size.numel()))  # int, as mergekit counts
    threshold = np.partition(size.flatten().cpu().numpy(), dropped)[dropped]  # 10 times the speed of kthvalue
    return change * (size >= float(threshold))


def merge_directories(combine: Combine, base: Path, models: Sequence[Path], output: Path) -> None:
    """Merge Hugging Face folders into `output` (one model.safetensors), reading and writing tensor by tensor.

    The configuration and tokenizer are the base's. Raises NotFoundError for a folder without safetensors,
    UsageError where tensors differ or `output` already holds weights.
    """
    if list(output.glob("*.safetensors")):
        raise UsageError(f"{output} holds weights, but a merge never overwrites any: choose another output")
    with ExitStack() as stack:
        first, *others = folders = [_Folder(path, stack) for path in (base, *models)]
        layouts = [folder.layouts() for folder in folders]
        _same_layouts(layouts)
        output.mkdir(parents=True, exist_ok=True)
        for path in (base_directory(base) if is_adapter(base) else base).iterdir():
            if path.is_file() and not path.name.endswith(NOT_COPIED):
                shutil.copyfile(path, output / path.name)
        widest = {
            name: (_widest([layout[name][0] for layout in layouts]), shape)
            for name, (_, shape) in layouts[0].items()
        }
        widest_first = sorted(widest.items(), key=lambda item: (-BYTES[item[1][0]], item[0]))
        merged = (
            _merged(combine, name, first.tensor(name), [partial(folder.tensor, name) for folder in others])
            for name, _ in widest_first
        )
        _write(output / WEIGHTS, dict(widest_first), merged)


def _same_layouts(layouts: Sequence[Mapping[str, Layout]]) -> None:
    base, *models = layouts
    for place, model in enumerate(models, start=1):
        for name in sorted({*base, *model}):
            if _comparable(base.get(name)) != _comparable(model.get(name)):
                here, there = (str(own.get(name, "absent")) for own in (base, model))
                raise UsageError(
                    f"tensor {name!r} is {there} in model {place} but {here} in the base: merge models of one base"
                )


def _comparable(layout: Layout | None) -> tuple[str, list[int]] | None:
    """What must agree: all types of real numbers count as one."""
    if layout is None:
        return None
    return ("real" if layout[0] in FLOATS else layout[0]), layout[1]


def _widest(types: Sequence[str]) -> str:
    """The type that holds every value of all of these."""
    if types[0] not in FLOATS:
        return types[0]
    widest = functools.reduce(torch.promote_types, (FLOATS[name] for name in types))
    return next(name for name, dtype in FLOATS.items() if dtype == widest)


def _merged(combine: Combine, name: str, base: Tensor, models: Sequence[Load]) -> Tensor:
    if not base.is_floating_point():
        if any(not torch.equal(load(), base) for load in models):
            raise UsageError(
                f"tensor {name!r} holds {base.dtype} values that differ between models, but only real "
                "numbers can be merged: merge models of one base"
            )
        return base
    widest = functools.reduce(torch.promote_types, (load().dtype for load in models), base.dtype)
    exact = torch.float64 if widest.itemsize >= 4 else torch.float32

    def exactly(load: Load) -> Tensor:
        return load().to(exact)

    return combine(base.to(exact), [partial(exactly, load) for load in models]).to(widest)


class _Folder:
    """The tensors of a folder's safetensors files, read when asked for; an adapter's with its base's."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.files: dict[str, Any] = {}
        self.path, self.maps = path, read_adapter(path).maps if is_adapter(path) else {}
        path = base_directory(path) if self.maps else path
        config = path / "config.json"
        self.tied = config.is_file() and bool(json.loads(config.read_text()).get("tie_word_embeddings"))
        for file in sorted(path.glob("*.safetensors")):
            handle = stack.enter_context(safe_open(file, framework="pt"))
            self.files.update(dict.fromkeys(handle.keys(), handle))
        if not self.files:
            raise NotFoundError(
                f"{path} holds no *.safetensors, but a model is merged from them: save it as such"
            )

    def tensor(self, name: str) -> Tensor:
        value: Tensor = self.files[name].get_tensor(name)
        module = name.removesuffix(".weight")
        if module in self.maps:
            return (value.float() + change(self.path, module, self.maps[module], value)).to(value.dtype)
        return value

    def layouts(self) -> dict[str, Layout]:
        views = {name: handle.get_slice(name) for name, handle in self.files.items()}
        for name, view in views.items():
            if view.get_dtype() not in BYTES:
                raise UsageError(
                    f"tensor {name!r} has type {view.get_dtype()}, but only {', '.join(BYTES)} can be "
                    "merged: save the models in one of them"
                )
        found = {name: (view.get_dtype(), view.get_shape()) for name, view in views.items()}
        if HEAD in found and self.tied:
            del found[HEAD]
        return found


def _write(path: Path, layouts: Mapping[str, Layout], tensors: Iterable[Tensor]) -> None:
    """A safetensors file (length of header, JSON header, values) whose tensors are made one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in layouts.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            tensor.contiguous().view(-1).view(torch.uint8).numpy().tofile(file)
    os.replace(partial, path)
