"""Seconds of a distillation step and of a GRPO step, against TRL and against the arithmetic alone.

Leaves out: the steps themselves (`trainer.bench.step`), how TRL is driven (`trainer.bench.trl`).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from trainer.batch.meter import forward_flops
from trainer.batch.update import accumulate_gradients
from trainer.bench.step import (
    REPEATS,
    WARM_UP,
    Against,
    DistillStep,
    GrpoStep,
    Size,
    Step,
    log_probs,
    matmul_rate,
    size_of,
    timed,
)


def bench_distill(name: str = "0.36M", *, against: Against = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of a distillation step: medians, ratios to TRL and to the limit, warm-up apart."""
    found, theirs = _bench(name, DistillStep, "distill", against, repeats)
    if theirs is None:
        return found
    fresh, batch = DistillStep(size_of(name)), theirs.first_batch
    loss, _ = accumulate_gradients(fresh.policy, batch, fresh.loss_of(batch))
    return found | {"trl_first_loss": theirs.first_loss, "our_loss_on_its_batch": loss}


def bench_grpo(name: str = "0.36M", *, against: Against = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of a GRPO step, as `bench_distill`."""
    return _bench(name, GrpoStep, "grpo", against, repeats)[0]


def _bench(
    name: str, kind: Callable[[Size], Step], theirs: str, against: Against, repeats: int
) -> tuple[dict[str, Any], Any]:
    """The report of a step, and TRL's run of the same where it is asked for, each of ours timed between two of its."""
    size = size_of(name)
    step = kind(size)
    if against is None:
        return _report(name, step, [timed(step) for _ in range(WARM_UP + repeats)], None), None
    from trainer.bench import trl

    run = getattr(trl, theirs)(size, step.texts, step, WARM_UP + repeats)
    return _report(name, step, run.between, run.seconds), run


def with_threads(
    measure: Callable[..., dict[str, Any]],
    name: str,
    counts: Sequence[int],
    *,
    against: Against,
    repeats: int,
) -> dict[str, Any]:
    """The measurement at each number of threads, and each trainer's best of them set against the other's."""
    before = torch.get_num_threads()
    found = {}
    try:
        for count in dict.fromkeys(counts):
            torch.set_num_threads(count)
            found[count] = measure(name, against=against, repeats=repeats)
    finally:
        torch.set_num_threads(before)
    fastest = min(found.values(), key=lambda row: row["ours_s"])
    best = {"ours_s": fastest["ours_s"], "ours_threads": fastest["threads"]}
    best["ratio_to_limit"] = min(row["ratio_to_limit"] for row in found.values())
    if against is not None:
        best["trl_s"] = min(row["trl_s"] for row in found.values())
        best["ratio_to_trl"] = best["ours_s"] / best["trl_s"]
    return {"best": best, "by_threads": {str(count): row for count, row in found.items()}}


def bench_throughput(name: str, *, repeats: int = REPEATS) -> dict[str, Any]:
    """Tokens a CPU-second of one thread: sampling, scoring (log-probs of the samples) and training (one GRPO step
    without its sampling) of 8 prompts x 8 answers x 16 tokens; the best of `repeats`, and all of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        size = size_of(name)
        step = GrpoStep(size)
        rates: dict[str, list[float]] = {"generation": [], "scoring": [], "training": []}
        for _ in range(WARM_UP + repeats):
            rollouts = step.sample()
            tokens = int(rollouts.trained_BT.sum())
            works: dict[str, Callable[[], object]] = {
                "generation": step.sample,
                "scoring": partial(log_probs, step.policy, rollouts),
                "training": partial(step.train, rollouts),
            }
            for kind, work in works.items():
                start = time.process_time()
                work()
                rates[kind].append(tokens / (time.process_time() - start))
        found = {kind: {"best": max(own[WARM_UP:]), "all": own[WARM_UP:]} for kind, own in rates.items()}
        gflops = matmul_rate(size) / 1e9
        return {"tokens_per_cpu_second": found, "dtype": str(size.dtype), "matmul_gflop_per_s": gflops}
    finally:
        torch.set_num_threads(before)


def _report(name: str, step: Step, ours: list[float], theirs: list[float] | None) -> dict[str, Any]:
    flops = step.forward_passes * forward_flops(step.policy, step.sample())
    rate = matmul_rate(size_of(name))
    seconds = statistics.median(ours[WARM_UP:])
    found = {
        "ours_s": seconds,
        "ours_all_s": ours[WARM_UP:],
        "warm_up_s": ours[:WARM_UP],
        "threads": torch.get_num_threads(),
        "dtype": str(step.policy.dtype).removeprefix("torch."),
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
