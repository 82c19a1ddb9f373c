"""Which type a run computes in: what the processor multiplies fast, and whether the model is wide enough to gain.

bfloat16 pays where the processor has products of it (AMX or AVX-512 BF16 on a CPU, tensor cores on a GPU). Elsewhere a
CPU emulates it. Leaves out: how it is computed (`trainer.model`).
"""

from __future__ import annotations

import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mopdsim.base.errors import UsageError
from mopdsim.facts.hardware import WIDE
from trainer.files.atomic import read_json
from trainer.model.sources import model_directory
from trainer.runs.plan import BUILT_IN

Dtype = Literal["float32", "bfloat16"]
CPUINFO = Path("/proc/cpuinfo")
# Flags of a CPU; with the second alone SmolLM2 trains 1.7 times as fast.
PRODUCTS = {"amx_bf16", "avx512_bf16"}


def resolve_dtype(asked: Literal["auto"] | Dtype, *, model: str, device: str) -> Dtype:
    """The type that `auto` stands for on this machine and model; another is kept. Built-in models stay in float32."""
    if asked != "auto":
        return asked
    if model in BUILT_IN or not multiplies_bfloat16(device):
        return "float32"
    return "bfloat16" if width_of(model_directory(model)) >= WIDE else "float32"


def width_of(directory: Path) -> int:
    """The hidden width that a model's config.json states, 0 where it states none."""
    config = read_json(directory / "config.json")
    config = config.get("text_config") or config
    return int(config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or 0)


def multiplies_bfloat16(device: str, *, cpuinfo: Path = CPUINFO) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware: asked, never assumed."""
    if device != "cpu":
        import torch

        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and not PRODUCTS.isdisjoint(line.split()) for line in lines)


@lru_cache
def emulation_cost() -> float:
    """Seconds of a bfloat16 product over those of a float32 one, measured now: the best of five."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        a, b = (torch.ones(256, WIDE, dtype=dtype) for _ in range(2))
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            a @ b.t()
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.bfloat16) / seconds(torch.float32)


def check_dtype(dtype: Dtype, device: str) -> None:
    """UsageError for bfloat16 on a GPU that lacks it; where a CPU emulates it, what it costs, on stderr."""
    if dtype != "bfloat16" or multiplies_bfloat16(device):
        return
    if device != "cpu":
        raise UsageError(f"dtype bfloat16: the device {device!r} does not compute in it: use --dtype float32")
    print(
        f"warning: dtype bfloat16: this processor has no products of it, and one takes {emulation_cost():.1f} times as "
        "long as in float32: --dtype float32 is right here",
        file=sys.stderr,
    )
