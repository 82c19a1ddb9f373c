"""What was fitted: constants of the time models, and factors of software stacks, with spread and where they come from.

A set of constants holds one value per physical effect; of a spread of lengths it may hold many, of steps side by side,
over which every time function broadcasts. They stand in `data/cost_constants.json`, written by `mopd calibrate`.

The time model is fitted to vendor-tuned runs and to NeMo-RL. A stack's bias is the factor on all its seconds that its
published runs show, shrunk towards the mean of all stacks (`mopdsim.fit.stacks` writes `data/stacks.json`); its spread
is that of one more run. `unknown` is any stack: the mean, and the spread between stacks as well.
What differs by mechanism is not in the bias: whether sequences are packed, how weights are sharded, and launches.
Leaves out: a project's restarts and evaluation (`mopdsim.forecast.stage_draws.overhead_of`); hardware.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.documents import DATA, json_document
from mopdsim.base.errors import UsageError, did_you_mean

NORMAL_80 = 1.2816  # half-width of an 80% interval in standard deviations
Value = float | NDArray[np.float64]
Set = TypeVar("Set", bound="ConstantSet")
UNKNOWN, OWN = "unknown", "trainer"
MEASURED_SCHEMA = 1
MOST_LOG = 20.0  # of a measured factor and its spread: e^20 is 5e8 times


@dataclass(frozen=True)
class ConstantSet:
    """Base of the three sets; moves between fields and vectors of logarithms (all constants are positive).

    Defaults are the textbook values that fits start from and are held to by their prior.
    """

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_log(cls: type[Set], logs: Any) -> Set:
        return cls(**dict(zip(cls.names(), np.exp(np.asarray(logs, dtype=float)), strict=True)))

    @classmethod
    def shipped(cls: type[Set], *, without: str = "") -> Set:
        """The constants of this class that come with the package. without: a model that they must not have seen, so
        that leaving it out of a fit is strict."""
        fitted = shipped()[next(kind for kind, known in KINDS.items() if known is cls)]
        part = fitted.held_out["leave one model out"].get(without)
        found = part.constants if part else fitted.constants
        assert isinstance(found, cls)
        return found

    def log(self) -> NDArray[np.float64]:
        return np.log(np.array([getattr(self, name) for name in self.names()], dtype=float))


@dataclass(frozen=True)
class DecodeConstants(ConstantSet):
    """One decode step. Efficiencies are of peak; seconds are per layer, per doubling of GPUs, or per sequence.
    `wide_layer_s`: dispatch and combine of an expert layer spread over more than a node's GPUs; `cross_node_s`: of
    reductions between nodes, per layer and doubling of nodes, on top of `reduce_latency_s`."""

    bandwidth_efficiency: Value = 0.7
    flops_efficiency: Value = 0.4
    prefill_efficiency: Value = 0.5
    layer_s: Value = 70e-6
    moe_layer_s: Value = 50e-6
    reduce_latency_s: Value = 12e-6
    reduce_bytes: Value = 2.0
    sequence_s: Value = 36e-6
    wide_layer_s: Value = 100e-6
    cross_node_s: Value = 15e-6


@dataclass(frozen=True)
class TrainConstants(ConstantSet):
    """One training step. `precision_power`: a format k times faster on paper is k**power times faster.

    `expert_overhead`: routed-expert FLOPs count this many times. `elementwise_passes`: reads and writes of a
    hidden vector per layer and token, forward and backward. `tensor_`, `data_traffic`: bytes against the
    textbook count on those links. `microbatch_layer_s`: launches of a layer, forward and backward, of one microbatch.
    All-to-all and launches of experts are inside `expert_overhead`: as terms of
    their own they made left-out models worse.
    """

    flops_efficiency: Value = 0.7
    precision_power: Value = 0.85
    attention_efficiency: Value = 0.35
    expert_overhead: Value = 2.0
    elementwise_passes: Value = 60.0
    tensor_traffic: Value = 1.0
    data_traffic: Value = 1.0
    microbatch_layer_s: Value = 5e-4


def _version_field(framework: str) -> str:
    return "version_" + "".join(c if c.isalnum() else "_" for c in framework.lower())


@dataclass(frozen=True)
class RlConstants(ConstantSet):
    """What a reinforcement-learning loop adds to decode and training (their constants are taken as they are).

    `decode_overhead`, `train_overhead`: per-layer decode latencies and training time against tuned engines.
    `length_sigma`: of the log response length. `fixed_s`: reward, data and bookkeeping per step; `refit_s`: new weights
    to the rollout engine, per billion parameters (its prior: 47 to 55 s for the 671 B of DeepSeek-V3, pull requests 638
    and 686 of NVIDIA-NeMo/RL). `cross_node_s`: as in decoding.
    `faster_gpu_power`: a GPU k times faster than an H100 trains in the loop only k**(1 - power) times faster, because
    what the host does stays. `microbatch_overhead`: launches of a microbatch against a tuned run. `version_*`: one
    factor per release.
    """

    decode_overhead: Value = 2.0
    train_overhead: Value = 1.5
    expert_train_overhead: Value = 1.0
    length_sigma: Value = 0.6
    fixed_s: Value = 10.0
    refit_s: Value = 0.075
    cross_node_s: Value = 30e-6
    faster_gpu_power: Value = 0.3
    microbatch_overhead: Value = 4.0
    version_nemo_rl_v0_4: Value = 1.0
    version_nemo_rl_v0_5: Value = 1.0
    version_nemo_rl_v0_6: Value = 1.0

    def knows(self, framework: str) -> bool:
        return _version_field(framework) in self.names()

    def version(self, framework: str) -> Value:
        """The factor of a framework release; an unknown one gets the geometric mean of all."""
        if self.knows(framework):
            return getattr(self, _version_field(framework))
        known = [value for name, value in vars(self).items() if name.startswith("version_")]
        return np.exp(np.mean(np.log(known), axis=0))


KINDS: dict[str, type[ConstantSet]] = {
    "decode": DecodeConstants,
    "train_throughput": TrainConstants,
    "rl_steps": RlConstants,
}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Constants fitted without the rows whose `key` is one of `values`; `log_error_80` (dense, moe) is the
    interval half-width in log that the errors of the other left-out parts gave.
    """

    key: str
    values: tuple[str, ...]
    constants: ConstantSet
    log_error_80: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One fitted set. `log_error_80`: half-width in log of an 80% interval of a prediction, by 'dense|moe' and
    'seen|new model|new gpu': it contains the error of the form, which is far larger than that of the constants (the
    file has their covariance). `held_out`: by scheme and name of the part left out.
    """

    constants: ConstantSet
    log_error_80: Mapping[str, Mapping[str, float]]
    models: tuple[str, ...]
    gpus: tuple[str, ...]
    held_out: Mapping[str, Mapping[str, HeldOut]]
    grade: str
    provenance: str

    def half_width(self, *, moe: bool, model: str, gpu: str) -> float:
        """Half-width in log of the 80% interval for this model on this GPU; wider where either was never
        fitted."""
        widths = self.log_error_80["moe" if moe else "dense"]
        new = [widths["seen"]]
        if model not in self.models:
            new.append(widths["new model"])
        if gpu not in self.gpus:
            new.append(widths["new gpu"])
        return max(new)


def parse(kind: str, found: Mapping[str, Any]) -> Fitted:
    """A kind's entry of the constants file, as `mopdsim.fit.cost.calibrate` makes it."""
    cls = KINDS[kind]
    held_out = {
        scheme: {
            name: HeldOut(**{**part, "values": tuple(part["values"]), "constants": cls(**part["constants"])})
            for name, part in parts.items()
        }
        for scheme, parts in found["held_out"].items()
    }
    return Fitted(
        constants=cls(**found["constants"]),
        held_out=held_out,
        models=tuple(found["models"]),
        gpus=tuple(found["gpus"]),
        log_error_80=found["log_error_80"],
        grade=found["grade"],
        provenance=found["provenance"],
    )


@cache
def shipped() -> dict[str, Fitted]:
    """The constants that come with the package."""
    kinds = json.loads((DATA / "cost_constants.json").read_text(encoding="utf-8"))["kinds"]
    return {kind: parse(kind, kinds[kind]) for kind in KINDS}


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
    found = json_document(
        path,
        missing=f"measured = {str(path)!r}: no such file: `mopd calibrate cost --data mine.csv --out FILE` writes one",
        remedy="it must be what `mopd calibrate cost --out` wrote",
    )
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
    if not (abs(log_bias) <= MOST_LOG and 0 < log_sd <= MOST_LOG):
        raise UsageError(
            f"{where}: log_bias = {log_bias:g} must be within -{MOST_LOG:g} and {MOST_LOG:g}, and log_sd = {log_sd:g} "
            f"above 0 and at most {MOST_LOG:g}: calibrate again"
        )
    stack(name)
    return name, (log_bias, log_sd)
