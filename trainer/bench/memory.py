"""Peak memory of a distillation step with one teacher and with several, each in a fresh process.

Teachers lie on disk and `trainer.batch.bank`, given no room, loads them one at a time; each scores its own share of
the prompts and leaves its last hidden states and its head behind. Linux only. Leaves out: memory on an accelerator.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopdsim.base.errors import MopdError
from trainer.batch.bank import Bank
from trainer.batch.rollout import Rollouts
from trainer.batch.update import LossOf
from trainer.bench.step import STUDENT, Step, reverse_kl, size_of
from trainer.model.loading import load_policy, save_policy
from trainer.model.parallel import row_spans


def bench_memory(name: str = "100M", *, teachers: Sequence[int] = (1, 4)) -> dict[str, Any]:
    """Peak resident bytes of two steps above the level after the imports, and the ratio of most to fewest teachers."""
    size, peaks = size_of(name), {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(max(teachers) + 1):
            save_policy(size.policy(seed), Path(folder) / str(seed))
        for count in teachers:
            code = "import sys; from trainer.bench.memory import child; child(*sys.argv[1:])"
            command = [sys.executable, "-c", code, name, folder, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MopdError(f"measuring {count} teachers failed: {done.stderr.strip()[-500:]}")
            peaks[count] = json.loads(done.stdout.splitlines()[-1])
    return {
        "size": name,
        "above_imports_bytes": {str(count): peak for count, peak in peaks.items()},
        "ratio": peaks[max(teachers)] / peaks[min(teachers)],
    }


def child(name: str, folder: str, count: str) -> None:
    """In the fresh process: two steps, then one line of JSON."""
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    before = _resident("VmRSS")
    step = _BankStep(name, Path(folder), int(count))
    step()
    step()
    print(json.dumps(_resident("VmHWM") - before))


class _BankStep(Step):
    def __init__(self, name: str, folder: Path, count: int) -> None:
        size = size_of(name)
        super().__init__(load_policy(folder / str(STUDENT)), size.texts(size.prompts), 1)
        self.names = [str(seed) for seed in range(1, count + 1)]
        self.bank = Bank({n: folder / n for n in self.names}, lambda n: load_policy(folder / n), room=0)

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
