"""Seconds of a distillation step and of a GRPO step, against TRL and against the arithmetic alone.

Leaves out: the steps themselves (`trainer.bench.step`), how TRL is driven (`trainer.bench.trl`).
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import torch

from trainer.batch.meter import forward_flops
from trainer.batch.update import accumulate_gradients
from trainer.bench.step import (
    REPEATS,
    SIZES,
    WARM_UP,
    Against,
    DistillStep,
    GrpoStep,
    Step,
    matmul_rate,
    size_of,
    timed,
)


def bench_distill(name: str = "0.36M", *, against: Against = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of a distillation step: medians, ratios to TRL and to the limit, warm-up apart."""
    size = size_of(name)
    step = DistillStep(size)
    if against is None:
        return _report(name, step, *_alone(step, repeats))
    from trainer.bench.trl import distill

    theirs = distill(size, step.texts, step, WARM_UP + repeats)
    fresh, batch = DistillStep(size), theirs.first_batch
    loss, _ = accumulate_gradients(fresh.policy, batch, fresh.loss_of(batch))
    compared = {"trl_first_loss": theirs.first_loss, "our_loss_on_its_batch": loss}
    return _report(name, step, theirs.between, theirs.seconds) | compared


def bench_grpo(name: str = "0.36M", *, against: Against = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of a GRPO step, as `bench_distill`."""
    size = size_of(name)
    step = GrpoStep(size)
    if against is None:
        return _report(name, step, *_alone(step, repeats))
    from trainer.bench.trl import grpo

    theirs = grpo(size, step.texts, step, WARM_UP + repeats)
    return _report(name, step, theirs.between, theirs.seconds)


def _alone(step: Step, repeats: int) -> tuple[list[float], None]:
    return [timed(step) for _ in range(WARM_UP + repeats)], None


def _report(name: str, step: Step, ours: list[float], theirs: list[float] | None) -> dict[str, Any]:
    flops = step.forward_passes * forward_flops(step.policy, step.sample())
    rate = matmul_rate(SIZES[name])
    seconds = statistics.median(ours[WARM_UP:])
    found = {
        "ours_s": seconds,
        "ours_all_s": ours[WARM_UP:],
        "warm_up_s": ours[:WARM_UP],
        "threads": torch.get_num_threads(),
        "load_1min": os.getloadavg()[0],
        "rows": len(step.texts) * step.group,
        "step_gflop": flops / 1e9,
        "matmul_gflop_per_s": rate / 1e9,
        "limit_s": flops / rate,
        "ratio_to_limit": seconds * rate / flops,
    }
    if theirs is not None:
        other = statistics.median(theirs[WARM_UP:])
        found |= {"trl_s": other, "trl_all_s": theirs[WARM_UP:], "trl_warm_up_s": theirs[:WARM_UP]}
        found["ratio_to_trl"] = seconds / other
    return found
