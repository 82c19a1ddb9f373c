"""Rows of published reinforcement-learning steps (columns of rl_steps.csv).

Complete rows name model, GPU, samples, mean and maximum length and the seconds of the step. Identity of a
row: mean length x samples = rate x GPUs x step seconds within 0.8 to 1.05 where the note gives the rate. A
row that lacks lengths or samples is predicted over a stated spread of them and reported apart.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import UNKNOWN, DecodeConstants, RlConstants, TrainConstants, stack
from mopdsim.cost.generation import Lengths, Replica, Speculation, smallest_replica
from mopdsim.cost.rlstep import Overlap, RlStep, fastest_split, rl_step_s
from mopdsim.cost.training import TrainLayout, fitting_training_layouts
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Model
from mopdsim.validate.tables import Row, Table, family, number, quantity, read_rows, sort_rows

COLUMNS = (
    "framework", "model", "gpu", "precision", "gpus", "mode", "max_tokens", "mean_tokens",
    "samples_per_step", "step_s",
)  # fmt: skip
OPTIONAL_COLUMNS = (
    "source", "algorithm", "note", "generation_parallel", "train_parallel", "prompt_tokens",
)  # fmt: skip
IDENTITY = (0.8, 1.05)
ASSUMED = {"max_tokens": 8192.0, "samples_per_step": 1024.0}
ASSUMED_DRAWS = 48
PROMPT_TOKENS = 200.0
MEAN_SHARE = (0.02, 0.75)  # of the maximum length: P0 and P100 of a log-uniform prior


_STACKS = {
    "verl": "verl", "slime": "verl", "skyrl": "verl", "openrlhf": "fsdp", "prime-rl": "fsdp", "nemo": "megatron",
    "trl": "hugging_face",
}  # fmt: skip
# DAPO in NeMo-RL's recipes (examples/configs/recipes/llm/performance/dapo-deepseek-v3-64n8g.yaml): dynamic sampling
# draws three batches for one, and no reference model scores.
_BATCH_MULTIPLIER = 3.0


def stack_of(framework: str) -> str:
    """The class of software that a framework belongs to."""
    return next((name for part, name in _STACKS.items() if part in framework.lower()), UNKNOWN)


def _degrees(text: str) -> list[int]:
    try:
        found = json.loads(text.replace("n/a", "1")) if text.startswith("[") else []
        degrees = [int(value) for value in found]
    except (ValueError, TypeError):
        degrees = []
    if any(degree < 1 for degree in degrees):
        raise UsageError(f"train_parallel is {text!r}: every degree must be a whole number from 1")
    return degrees


def _pools(mode: str, gpus: int) -> tuple[Overlap, int, int]:
    """How phases overlap, generation GPUs, training GPUs; an unnamed split is half and half."""
    mode = mode.lower()
    split = re.search(r"(\d+)\s*:\s*(\d+)", mode)
    pools = (int(split[1]), int(split[2])) if split else (max(gpus // 2, 1), max(gpus - gpus // 2, 1))
    if min(pools) < 1 or (split and sum(pools) > gpus):
        raise UsageError(
            f"mode is {mode!r}: sampling and training need at least one GPU each, and at most {gpus} in all"
        )
    if "fully async" in mode or re.search(r"\d-step off", mode):
        return "asynchronous", *pools
    if "one-step" in mode:
        return "one_step_off", *pools
    return "synchronous", gpus, gpus


def _layout(
    row: dict[str, str], model: Model, gpu: Gpu, gpus: int, precision: str, length: float
) -> TrainLayout:
    """train_parallel starts [TP, CP, EP, PP, VPP]; longer lists carry PP second to last. Otherwise the
    smallest."""
    degrees = _degrees(row["train_parallel"])
    if len(degrees) < 5:
        return fitting_training_layouts(model, gpu, gpus, length=length, precision=precision).at(0)
    tensor, context, expert, pipeline = degrees[0], degrees[1], degrees[2], degrees[-2]
    return TrainLayout(
        gpus=gpus, tensor=tensor, context=context, expert=expert, pipeline=pipeline, precision=precision
    )


def _prompt(row: dict[str, str], gpu: Gpu, response: float) -> float:
    """Tokens of a prompt: the row's, or a prior: those of a question in words, on a CPU as many as the answer has."""
    if row.get("prompt_tokens"):
        return quantity(row["prompt_tokens"], "prompt_tokens")
    return response if gpu.is_cpu else PROMPT_TOKENS


def _speculation(row: dict[str, str]) -> Speculation | None:
    """The mode names the depth, the note the tokens a step yields; None where no yield is given."""
    yielded = re.search(r"mean accepted ([\d.]+)", row["note"])
    if not yielded:
        return None
    tokens, depth = float(yielded[1]), re.search(r"depth\s*(\d+)", row["mode"])
    return Speculation(drafted=int(depth[1]) if depth else math.ceil(tokens), tokens_per_step=tokens)


def scenario(row: dict[str, str], model: Model, gpu: Gpu, values: dict[str, float]) -> RlStep:
    """The step a row describes, with `values` for its GPUs, mean and maximum length and samples."""
    gpus = int(values["gpus"])
    overlap, generation_gpus, training_gpus = _pools(row["mode"], gpus)
    precision = "fp8" if "fp8" in row["precision"].lower() else "bf16"
    generation = _degrees(row["generation_parallel"])
    context = values["max_tokens"]
    replica = (
        Replica(gpus=generation[0], precision=precision)
        if generation
        else smallest_replica(model, gpu, context=context, sequences=8, precision=precision)
    )
    ppo = row["algorithm"].upper().startswith("PPO")
    lag = re.match(r"(\d+)-step", row["mode"])
    dynamic = row["algorithm"].upper().startswith("DAPO") and "nemo-rl" in row["framework"].lower()
    step = RlStep(
        model=model,
        gpu=gpu,
        replica=replace(replica, speculation=_speculation(row)),
        generation_gpus=generation_gpus,
        layout=_layout(row, model, gpu, training_gpus, precision, values["mean_tokens"]),
        samples=values["samples_per_step"],
        lengths=Lengths(mean=values["mean_tokens"], maximum=values["max_tokens"]),
        prompt_length=_prompt(row, gpu, values["mean_tokens"]),
        overlap=overlap,
        framework=row["framework"],
        scoring_passes=3.0 if ppo else 1.0 if dynamic else 2.0,
        oversampling=_BATCH_MULTIPLIER if dynamic else 1.0,
        critic_share=1.0 if ppo else 0.0,
        lag=int(lag[1]) if lag else 1,
    )
    return _searched(step, gpus) if step.lag > 1 else step


def _searched(step: RlStep, gpus: int) -> RlStep:
    """Several steps off, the pools need not be equal: they are split as runs fastest."""
    decode, train = DecodeConstants.shipped(), TrainConstants.shipped()
    return fastest_split(step, decode, train, RlConstants(), gpus=gpus)


def broken_identity(row: dict[str, str], line: int) -> str | None:
    """Why tokens, rate, GPUs and seconds contradict each other, or None."""
    rate = re.search(r"tok/s/gpu=([\d,.]+)", row["note"])
    if not rate:
        return None
    made = number(row, "mean_tokens", line) * number(row, "samples_per_step", line)
    told = float(rate[1].replace(",", "")) * number(row, "gpus", line) * number(row, "step_s", line)
    ratio = made / told if told else float("inf")
    if IDENTITY[0] <= ratio <= IDENTITY[1]:
        return None
    return (
        f"mean_tokens x samples is {ratio:.2f} of rate x GPUs x step_s; "
        f"it must lie within {IDENTITY[0]} to {IDENTITY[1]}"
    )


def _assumed(row: dict[str, str], line: int, model: Model, gpu: Gpu) -> list[RlStep]:
    """The row's step under draws of what it does not say: mean length a log-uniform share of the maximum,
    maximum 8,192 and samples 1,024 with a factor of two either way (10 to 90%) where they are missing too."""
    rng = np.random.default_rng(line)
    steps = []
    for _ in range(ASSUMED_DRAWS):
        values = {"gpus": number(row, "gpus", line)}
        for name, central in ASSUMED.items():
            spread = 0.0 if row[name] else 0.55
            values[name] = number(row, name, line, default=central) * float(
                np.exp(spread * rng.standard_normal())
            )
        share = float(np.exp(rng.uniform(*np.log(MEAN_SHARE))))
        mean = number(row, "mean_tokens", line, default=share * values["max_tokens"])
        values["mean_tokens"] = min(mean, 0.98 * values["max_tokens"])
        steps.append(scenario(row, model, gpu, values))
    return steps


NEEDED = ("gpus", "max_tokens", "mean_tokens", "samples_per_step", "step_s")


def _place(line: int, row: dict[str, str], model: Model, gpu: Gpu) -> Row:
    extra = 0.0 if RlConstants().knows(row["framework"]) else stack(stack_of(row["framework"])).log_sd
    missing = tuple(name for name in NEEDED if not row[name])
    if missing:
        measured = number(row, "step_s", line, default=math.nan)
        drawn = _assumed(row, line, model, gpu) if row["gpus"] else None
        own = {"framework": row["framework"]}
        return Row.of(
            line, model, gpu, measured=measured, keys=own, payload=drawn, extra_log_sd=extra, missing=missing
        )
    reason = broken_identity(row, line)
    if reason:
        raise UsageError(f"line {line}: {reason}.")
    values = {name: number(row, name, line) for name in NEEDED}
    if values["max_tokens"] < values["mean_tokens"]:
        raise UsageError(
            f"line {line}: max_tokens = {row['max_tokens']} lies below mean_tokens = {row['mean_tokens']}: the longest "
            "answer must be at least as long as the mean"
        )
    where = f"{row['gpus']} x {gpu.name} {row['mode']} {row['precision']}"
    return Row.of(
        line,
        model,
        gpu,
        label=f"{row['framework']} {row['model']} {where}",
        measured=values["step_s"],
        keys={"family": family(model.name), "framework": row["framework"]},
        configuration=f"{model.name} {where}",
        payload=scenario(row, model, gpu, values),
        extra_log_sd=extra,
    )


def load(data: Path | str) -> Table:
    """The rows of a CSV file, or of its text."""
    return sort_rows(read_rows(data, COLUMNS, OPTIONAL_COLUMNS), "gpu", _place)


def stacked(rows: list[Row]) -> list[RlStep]:
    return [row.payload for row in rows]


def predict(steps: list[RlStep], rl: RlConstants, *, factor: bool = True) -> Array:
    """Seconds of each step, with decode and training constants fitted without its model, and with the `factor` of its
    stack where the release was not fitted."""
    seconds = []
    for step in steps:
        name, known = step.model.name, rl.knows(step.framework)
        slower = 1.0 if known or not factor else float(np.exp(stack(stack_of(step.framework)).log_bias))
        decode, train = DecodeConstants.shipped(without=name), TrainConstants.shipped(without=name)
        seconds.append(slower * float(rl_step_s(step, decode, train, rl).step))
    return np.array(seconds)


def naive(steps: list[RlStep]) -> Array:
    """Roofline: decode at peak bandwidth and FLOPs for the mean length, scoring and training at MFU .4,
    summed."""
    ideal_decode = DecodeConstants(
        bandwidth_efficiency=1.0, flops_efficiency=1.0, prefill_efficiency=1.0, layer_s=0.0, moe_layer_s=0.0,
        reduce_latency_s=0.0, reduce_bytes=0.0, sequence_s=0.0, wide_layer_s=0.0, cross_node_s=0.0,
    )  # fmt: skip
    ideal_train = TrainConstants(
        flops_efficiency=0.4, precision_power=1.0, attention_efficiency=0.4, expert_overhead=1.0,
        elementwise_passes=0.0, tensor_traffic=0.0, data_traffic=0.0, microbatch_layer_s=0.0,
    )  # fmt: skip
    rl = RlConstants(
        decode_overhead=1.0, train_overhead=1.0, expert_train_overhead=1.0, length_sigma=1e-3,
        fixed_s=0.0, refit_s=0.0, cross_node_s=0.0, faster_gpu_power=0.0, microbatch_overhead=0.0,
    )  # fmt: skip
    return np.array([float(rl_step_s(step, ideal_decode, ideal_train, rl).step) for step in steps])
