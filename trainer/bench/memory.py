"""Peak memory of a distillation step with one teacher and with several, each in a fresh process.

Whole teachers lie on disk and `trainer.batch.score`, given no room, loads them one at a time; each scores its own share
of the prompts and leaves its last hidden states and its head behind. Adapters of one base all stay loaded. Linux only.
Leaves out: memory on an accelerator.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mopdsim.base.errors import MopdError
from trainer.batch.rollout import Rollouts
from trainer.batch.score import Bank
from trainer.batch.update import LossOf
from trainer.bench.step import STUDENT, TEACHER, Step, reverse_kl, size_of
from trainer.model.adapters import adapted, attach_new
from trainer.model.loading import load_policy, save_policy
from trainer.model.parallel import row_spans


def bench_memory(name: str = "100M", *, teachers: Sequence[int] = (1, 4)) -> dict[str, Any]:
    """Peak resident bytes of two steps above the level after the imports, and the ratio of most to fewest teachers."""
    size, peaks = size_of(name), {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(max(teachers) + 1):
            save_policy(size.policy(seed), Path(folder) / str(seed))
        for count in teachers:
            names = [str(seed) for seed in range(1, count + 1)]
            peaks[count] = _measured(name, folder, names, room=0)["peak_bytes"]
    return {
        "size": name,
        "above_imports_bytes": {str(count): peak for count, peak in peaks.items()},
        "ratio": peaks[max(teachers)] / peaks[min(teachers)],
    }


def bench_adapters(name: str = "smollm2-135m", *, teachers: int = 10, rank: int = 16) -> dict[str, Any]:
    """Ten teachers that are adapters of the student's own start against one whole teacher, all of them staying loaded:
    ratios of peak resident bytes above the imports, and of CPU-seconds of a step."""
    size = size_of(name)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / str(STUDENT)
        save_policy(size.policy(STUDENT), base)
        save_policy(size.policy(TEACHER), Path(folder) / "whole")
        names = [f"adapter_{number}" for number in range(teachers)]
        for number, adapter in enumerate(names):
            policy = load_policy(base)
            attach_new(policy.model, rank, seed=number)
            noise = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for part in adapted(policy.model).values():
                    part.lora_B.copy_(1e-3 * torch.randn(part.lora_B.shape, generator=noise))
            policy.frozen_base(base)
            save_policy(policy, Path(folder) / adapter)
        found = {
            "whole": _measured(name, folder, ["whole"], room=None),
            "adapters": _measured(name, folder, names, room=None),
        }
    return {
        **found,
        "teachers": teachers,
        "rank": rank,
        "peak_ratio": found["adapters"]["peak_bytes"] / found["whole"]["peak_bytes"],
        "step_ratio": found["adapters"]["step_cpu_s"] / found["whole"]["step_cpu_s"],
    }


def _measured(name: str, folder: str, names: Sequence[str], *, room: int | None) -> dict[str, float]:
    """What `child` says in a fresh process."""
    code = "import sys; from trainer.bench.memory import child; child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, name, folder, ",".join(names), "" if room is None else str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MopdError(f"measuring {len(names)} teachers failed: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(name: str, folder: str, names: str, room: str) -> None:
    """In the fresh process: three steps, then one line of JSON with the peak and the fastest step but the first."""
    import transformers.models.llama.modeling_llama
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    before = _resident("VmRSS")
    step = _BankStep(name, Path(folder), names.split(","), room=int(room) if room else None)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    print(json.dumps({"peak_bytes": _resident("VmHWM") - before, "step_cpu_s": min(seconds[1:])}))


class _BankStep(Step):
    def __init__(self, name: str, folder: Path, names: Sequence[str], *, room: int | None) -> None:
        size = size_of(name)
        dtype = str(size.dtype).removeprefix("torch.")
        super().__init__(load_policy(folder / str(STUDENT), dtype=dtype), size.texts(size.prompts), 1)
        self.names = names
        self.bank = Bank(
            {n: folder / n for n in names}, lambda n: load_policy(folder / n, dtype=dtype), room=room
        )

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        spans = row_spans(len(rollouts.prompt_BP), parts=len(self.names))
        scored = [self.bank.score(n, rollouts.rows(s)) for n, s in zip(self.names, spans, strict=True)]
        return reverse_kl(rollouts, scored)


def _resident(field: str) -> int:
    """Bytes of this process alone (`ru_maxrss` would start at its parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise MopdError(f"/proc/self/status has no {field}: the memory benchmark needs Linux")
