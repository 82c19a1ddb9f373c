"""Writes the logs under tests/mopdsim/exchange/logs, each with its engine's own logger where that can be had.

    python tests/support/write_logs.py verl          with verl, orjson on the path: its file and console loggers
    python tests/support/write_logs.py tensorboard   with verl and tensorboard: verl's logger, NeMo-RL's keys
    python tests/support/write_logs.py tinker        with tinker_cookbook: its JSON logger
    python tests/support/write_logs.py by_hand       NeMo-RL's console, prime-rl's file: from the published format

The numbers are made up: GRPO of an 8 B model on 16 GPUs, 512 samples a step, 8 steps, two evaluations. TRL's logs are
those that TRL itself wrote (two_teachers.toml, run).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from pathlib import Path

LOGS = Path(__file__).parents[1] / "mopdsim" / "exchange" / "logs"
STEPS, GPUS, SAMPLES = 8, 16, 512


def measured(step):
    """Seconds by phase, lengths and scores of a step; the first is slow."""
    rng = random.Random(step)
    slow = 3.0 if step == 1 else 1.0

    def near(middle):
        return middle * (1 + 0.04 * rng.uniform(-1, 1))

    found = {
        "gen": near(31.0) * slow,
        "old": near(6.0) * slow,
        "ref": near(5.5),
        "update": near(17.0) * slow,
        "sync": near(1.5),
        "length": near(1210.0),
        "prompt": near(150.0),
        "score": min(0.99, 0.3 + 0.04 * step),
        "kl": near(1.2e-3),
        "entropy": near(0.31),
    }
    found["step"] = sum(found[name] for name in ("gen", "old", "ref", "update", "sync")) + 2.0
    found["tokens"] = SAMPLES * (found["length"] + found["prompt"])
    found["rate"] = found["tokens"] / found["step"] / GPUS
    return found


def of_verl(step, number=float):
    """A row as verl's trainer passes it to its loggers."""
    m = measured(step)
    row = {
        "actor/entropy": m["entropy"], "actor/ppo_kl": m["kl"], "actor/lr": 1e-6, "critic/score/mean": m["score"],
        "critic/rewards/mean": m["score"], "response_length/mean": m["length"], "prompt_length/mean": m["prompt"],
        "timing_s/gen": m["gen"], "timing_s/old_log_prob": m["old"], "timing_s/ref": m["ref"],
        "timing_s/update_actor": m["update"], "timing_s/update_weights": m["sync"], "timing_s/adv": 0.3,
        "timing_s/step": m["step"], "timing_per_token_ms/gen": 1e3 * m["gen"] / m["tokens"],
        "perf/total_num_tokens": m["tokens"], "perf/time_per_step": m["step"], "perf/throughput": m["rate"],
    }  # fmt: skip
    if step % 4 == 0:
        row |= {"timing_s/testing": 40.0, "val-core/math/reward/mean@1": m["score"] - 0.02}
        row["timing_s/step"] += 40.0
        row["perf/time_per_step"] += 40.0
    return {key: number(value) for key, value in row.items()}


def verl():
    import numpy as np
    from verl.utils.logger import LocalLogger
    from verl.utils.tracking import FileLogger

    os.environ["VERL_FILE_LOGGER_PATH"] = str(LOGS / "verl.jsonl")
    log = FileLogger("project", "experiment")
    log.log({"val-core/math/reward/mean@1": 0.28}, 0)
    for step in range(1, STEPS + 1):
        log.log(of_verl(step, np.float64), step)
    log.finish()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for step in range(1, STEPS + 1):
            LocalLogger().log(of_verl(step, np.float64), step)
    prefix = "\x1b[36m(TaskRunner pid=21734)\x1b[0m "  # as Ray puts before what a worker prints
    noise = f"{prefix}Training Progress:  12%|#2        | 1/8 [01:02<07:14, 62.1s/it]\n"
    (LOGS / "verl_console.log").write_text(
        "".join(f"{noise}{prefix}{line}\n" for line in said.getvalue().splitlines())
    )


def tensorboard():
    from torch.utils.tensorboard import SummaryWriter
    from verl.utils.tracking import _TensorboardAdapter

    os.environ["TENSORBOARD_DIR"] = str(LOGS / "verl_tensorboard")
    log = _TensorboardAdapter("project", "experiment")
    for step in range(1, STEPS + 1):
        log.log(of_verl(step), step)
    log.finish()
    writer = SummaryWriter(str(LOGS / "nemo_rl_tensorboard"))
    for step in range(1, STEPS + 1):
        for key, value in of_nemo_rl(step).items():
            writer.add_scalar(key, value, step)
    writer.close()


def of_nemo_rl(step):
    """A step under NeMo-RL's keys, in the order of its calls."""
    m = measured(step)
    return {
        "train/reward": m["score"], "train/kl_penalty": m["kl"], "train/approx_entropy": m["entropy"],
        "train/mean_gen_tokens_per_sample": m["length"], "performance/tokens_per_sec_per_gpu": m["rate"],
        "timing/train/generation": m["gen"], "timing/train/policy_and_reference_logprobs": m["old"] + m["ref"],
        "timing/train/policy_training": m["update"], "timing/train/prepare_for_generation/total": m["sync"],
        "timing/train/total_step_time": m["step"],
    }  # fmt: skip


def tinker():
    from tinker_cookbook.utils.ml_log import JsonLogger

    (LOGS / "metrics.jsonl").unlink(missing_ok=True)
    log = JsonLogger(LOGS)
    for step in range(STEPS):
        m = measured(step + 1)
        row = {
            "progress/batch": step, "time/total": m["step"], "time/sample": m["gen"], "time/train": m["update"],
            "env/all/ac_tokens_per_turn": m["length"], "env/all/reward/total": m["score"], "teacher_kl": 10 * m["kl"],
            "optim/entropy": m["entropy"],
        }  # fmt: skip
        log.log_metrics(row, step=step)
    (LOGS / "metrics.jsonl").rename(LOGS / "tinker.jsonl")


def by_hand():
    lines = []
    for step in range(STEPS):
        m = measured(step + 1)
        trainer = {
            "time/step": m["step"], "time/wait_for_batch": 0.4 * m["step"], "time/forward_backward": m["update"],
            "time/broadcast_weights": m["sync"], "perf/throughput": GPUS * m["rate"],
            "perf/throughput_per_gpu": m["rate"],
            "mismatch_kl/all/mean": m["kl"], "entropy/all/mean": m["entropy"],
        }  # fmt: skip
        orchestrator = {
            "time/step": m["step"] + 3.0, "time/wait_for_policy": 1.0, "reward/mean": m["score"],
            "progress/tokens": m["tokens"], "progress/rollouts": SAMPLES,
        }  # fmt: skip
        lines += [
            json.dumps({"step": step, "time": 1.7e9 + 60 * step, **row}) for row in (trainer, orchestrator)
        ]
    (LOGS / "prime_rl.jsonl").write_text("\n".join(lines) + "\n")
    said = []
    for step in range(1, STEPS + 1):
        m = measured(step)
        said += [
            f"\n{'=' * 25} Step {step}/{STEPS} {'=' * 25}", "▶ Generating responses for batch...", "",
            "📊 Training Results:", "  • Loss: 0.0123", "  • Generation KL Error: 0.0004",
            f"  • Avg Reward: {m['score']:.4f}", f"  • Mean Generation Length: {m['length']:.4f}", "", "⏱️  Timing:",
            f"  • Total step time: {m['step']:.2f}s",
            *(
                f"  • {name}: {value:.2f}s ({100 * value / m['step']:.1f}%)"
                for name, value in [
                    ("generation", m["gen"]), ("policy_training", m["update"]),
                    ("policy_and_reference_logprobs", m["old"] + m["ref"]), ("prepare_for_generation/total", m["sync"]),
                ]
            ),
        ]  # fmt: skip
    (LOGS / "nemo_rl_console.log").write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    {"verl": verl, "tensorboard": tensorboard, "tinker": tinker, "by_hand": by_hand}[sys.argv[1]]()
