"""Software stacks: how much slower than the time model a framework runs, how sure that is, and how it lays work out.

The time model is fitted to vendor-tuned runs and to NeMo-RL. A stack's bias is the factor on all its seconds that its
published runs show, shrunk towards the mean of all stacks (`mopdsim.fit.stacks` writes `data/stacks.json`); its spread
is that of one more run. `unknown` is any stack: the mean, and the spread between stacks as well.
What differs by mechanism is not in the bias: whether sequences are packed, how weights are sharded, and launches.
Leaves out: a project's restarts and evaluation (`mopdsim.forecast.stage_draws.overhead_of`); hardware.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mopdsim.base.documents import DATA
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean

UNKNOWN, OWN = "unknown", "trainer"
MEASURED_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Stack:
    """log_bias, log_sd: of the factor on seconds. packs: fine-tuning fills microbatches with several sequences. tuned:
    launches and layouts as in vendors' runs; otherwise `launch_layer_s` for every layer of a microbatch, forward and
    backward. sharded: weights are always fully sharded (FSDP, ZeRO-3)."""

    name: str
    title: str
    packs: bool = False
    tuned: bool = False
    sharded: bool = False
    log_bias: float = 0.0
    log_sd: float = 0.5
    launch_layer_s: float = 5e-3

    def measured(self, log_bias: float, log_sd: float) -> Stack:
        """The same mechanisms with a factor of its own."""
        return replace(self, log_bias=log_bias, log_sd=log_sd)


MECHANISMS: Mapping[str, Stack] = {
    row.name: row
    for row in (
        Stack(name=UNKNOWN, title="any stack"),
        Stack(name="megatron", title="tuned Megatron: NeMo, Megatron-LM, in-house", packs=True, tuned=True),
        Stack(name="verl", title="verl, slime, SkyRL and kin", packs=True),
        Stack(name="fsdp", title="FSDP or DeepSpeed: open-instruct, prime-rl, OpenRLHF", sharded=True),
        Stack(name="hugging_face", title="plain Hugging Face: TRL, LLaMA-Factory", sharded=True),
        Stack(name=OWN, title="this trainer", packs=True),
    )
}


@cache
def fitted() -> Mapping[str, Any]:
    """What was fitted: by stack, `log_bias` and `log_sd`, all runs used and each project left out."""
    found: dict[str, Any] = json.loads((DATA / "stacks.json").read_text(encoding="utf-8"))
    return found


def stack(name: str, *, without: str | None = None) -> Stack:
    """A stack by name. `without`: a project whose runs its factor must not have seen ("stack:NAME" and "gpu:NAME" leave
    out more); one that no fit has seen leaves out nothing. UsageError for another stack."""
    if not isinstance(name, str) or name not in MECHANISMS:
        raise UsageError(f"stack = {name!r}: no class of software{did_you_mean(str(name), MECHANISMS)}")
    found = fitted()["without"].get(without, fitted()["all"]) if without else fitted()["all"]
    return replace(MECHANISMS[name], launch_layer_s=found["launch_layer_s"], **found["stacks"][name])


def read_measured(path: Path) -> tuple[str, tuple[float, float]]:
    """Stack, and mean and spread of its log factor, from a file that `mopd calibrate cost` wrote. NotFoundError or
    UsageError with one sentence."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(
            f"measured = {str(path)!r}: no such file: `mopd calibrate cost --data mine.csv --out FILE` writes one"
        ) from None
    except (OSError, ValueError, RecursionError):
        found = None
    return measured_of(found, f"measured = {str(path)!r}")


def measured_of(found: Any, where: str) -> tuple[str, tuple[float, float]]:
    """The same from the file's content, which a scenario may hold itself; other keys of it are not read."""
    try:
        version, name = found["schema_version"], found["stack"]
        log_bias, log_sd = float(found["log_bias"]), float(found["log_sd"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{where}: not a measured stack: it must be what `mopd calibrate cost --out` wrote"
        ) from None
    if version != MEASURED_SCHEMA:
        raise UsageError(
            f"{where}: schema_version {version!r}: this mopd reads {MEASURED_SCHEMA}: calibrate again"
        )
    if not (math.isfinite(log_bias) and math.isfinite(log_sd) and log_sd > 0):
        raise UsageError(f"{where}: log_bias and log_sd must be finite and log_sd above 0: calibrate again")
    stack(name)
    return name, (log_bias, log_sd)
