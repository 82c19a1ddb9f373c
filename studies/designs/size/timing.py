"""Seconds and memory of a GRPO step of this trainer, phase by phase, for model shapes with random weights.

Every sample has exactly `max_tokens` tokens, so that nothing hangs on what random weights say. The file has the columns
of `rl_steps.csv`, so `mopd calibrate cost --data FILE` and `mopd validate rl_steps --data FILE` read the rows of
catalogued models and GPUs; further columns say more:

    generation_s, old_logprob_s, update_s   medians of repeats: sampling; a scoring pass (that of a teacher); gradient
                                            and optimiser. step_s is their sum
    prompt_tokens, threads                  of each prompt; of the CPU
    peak_memory_bytes                       on a GPU of this cell; on a CPU of the process so far
A cell that does not fit into the memory is kept with an empty step_s and a note. Leaves out: several GPUs, the command
(`studies.cli.measure`).
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.facts.hardware import gpus
from studies.designs.size.shapes import config, described
from trainer.batch.meter import peak_memory_bytes
from trainer.batch.rollout import Rollouts, generate
from trainer.batch.update import accumulate_gradients, hidden_states
from trainer.bench.bench import GrpoStep, Step, timed
from trainer.files.atomic import explained
from trainer.model.loading import check_device
from trainer.model.policy import Policy
from trainer.model.tiny import byte_tokenizer, random_model
from trainer.runs.run import manifest

COLUMNS = (
    "source", "framework", "algorithm", "model", "gpu", "precision", "gpus", "mode", "max_tokens", "mean_tokens",
    "samples_per_step", "generation_s", "old_logprob_s", "update_s", "step_s", "note", "prompt_tokens",
    "peak_memory_bytes", "parameters", "threads", "date", "device", "versions",
)  # fmt: skip
KEY = ("model", "device", "precision", "max_tokens", "samples_per_step", "prompt_tokens", "threads")
SAMPLES = {"tiny": (64, 256, 1024), "large": (32, 128, 512)}
TOKENS = {"tiny": (8, 32), "large": (64, 256, 1024)}
PROMPT_TOKENS = {"tiny": 12, "large": 128}
LARGEST_FLOPS = 6e15  # of a step: above it four of them take minutes even at the speed of an H100
GROUP = 8
WARM_UP, REPEATS = 1, 3
BYTES_A_PARAMETER = 16  # weights, gradient and two moments in float32
PRECISIONS = {"float32": "FP32", "bfloat16": "BF16"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: of `samples` answers of `tokens` tokens each, in groups of eight, to prompts of `prompt`."""

    shape: str
    samples: int
    tokens: int
    prompt: int

    @property
    def flops(self) -> float:
        """Of sampling, scoring and training, attention left out."""
        tokens = self.samples * (self.tokens + self.prompt / GROUP)
        return 5.0 * described(self.shape).forward_flops_per_token * tokens

    @property
    def least_bytes(self) -> int:
        """Without activations, the optimiser's state included."""
        return BYTES_A_PARAMETER * described(self.shape).total_parameters


def cells(shape: str) -> list[Cell]:
    """What is measured of a shape, cheap cells first."""
    kind = "tiny" if shape == "tiny" else "large"
    found = [
        Cell(shape=shape, samples=samples, tokens=tokens, prompt=PROMPT_TOKENS[kind])
        for samples in SAMPLES[kind]
        for tokens in TOKENS[kind]
    ]
    return sorted((cell for cell in found if cell.flops <= LARGEST_FLOPS), key=lambda cell: cell.flops)


class PhasedStep(GrpoStep):
    """The benchmark's GRPO step on prompts of token ids, its phases apart."""

    def __init__(self, policy: Policy, cell: Cell) -> None:
        Step.__init__(self, policy, (), GROUP)
        self.cell = cell
        low, high = policy.vocab_size // 2, policy.vocab_size
        self.prompts = [
            [low + (7 * place + 31 * row) % (high - low) for place in range(cell.prompt)]
            for row in range(cell.samples // GROUP)
        ]

    def sample(self) -> Rollouts:
        self.count += 1
        return generate(
            self.policy,
            self.prompts,
            rollouts_per_prompt=GROUP,
            max_new_tokens=self.cell.tokens,
            min_new_tokens=self.cell.tokens,
            temperature=1.0,
            seed=self.count,
        )

    def seconds(self) -> dict[str, float]:
        """Of each phase of one step."""
        import torch

        made: dict[str, Rollouts] = {}

        def sample() -> None:
            made["rollouts"] = self.sample()
            self._wait()

        def score() -> None:
            hidden_states(self.policy, made["rollouts"])
            self._wait()

        def update() -> None:
            accumulate_gradients(self.policy, made["rollouts"], self.loss_of(made["rollouts"]))
            torch.nn.utils.clip_grad_norm_(list(self.policy.parameters()), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._wait()

        return {"generation_s": timed(sample), "old_logprob_s": timed(score), "update_s": timed(update)}

    def _wait(self) -> None:
        import torch

        if self.policy.device.type == "cuda":
            torch.cuda.synchronize(self.policy.device)


def measure(cell: Cell, policy: Policy) -> dict[str, Any]:
    """Median seconds by phase and the peak memory; `note` alone where a GPU's memory does not suffice."""
    import torch

    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(policy.device)
    try:
        step = PhasedStep(policy, cell)
        found = [step.seconds() for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    except torch.cuda.OutOfMemoryError:
        policy.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return {"note": "out of memory"}
    medians = {phase: statistics.median(row[phase] for row in found) for phase in found[0]}
    seconds = {"step_s": sum(medians.values()), **medians}
    return {**seconds, "peak_memory_bytes": peak_memory_bytes(policy.device)}


def about(cell: Cell, *, device: str, dtype: str) -> dict[str, Any]:
    """The columns of a row that are known before it is measured."""
    import torch

    here = manifest(device)
    return {
        "source": "studies.designs.size.timing",
        "framework": f"mopd {here['versions']['mopd']}",
        "algorithm": "GRPO",
        "model": described(cell.shape).name,
        "gpu": gpu_name(here["device"]) if device != "cpu" else "CPU",
        "precision": PRECISIONS[dtype],
        "gpus": 1,
        "mode": "On policy",
        "max_tokens": cell.tokens,
        "mean_tokens": cell.tokens,
        "samples_per_step": cell.samples,
        "prompt_tokens": cell.prompt,
        "parameters": described(cell.shape).total_parameters,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": here["device"],
        "versions": " ".join(f"{name}={version}" for name, version in here["versions"].items()),
    }


def gpu_name(device: str) -> str:
    """The catalogue's name of a device ("NVIDIA H100 80GB HBM3" is an H100), or what the device calls itself."""
    words = device.replace("-", " ").upper().split()
    return next((name for name in gpus() if name.upper() in words), device)


def done_cells(path: Path) -> set[tuple[str, ...]]:
    """Keys of the rows that the file holds. UsageError where it is no file of this command."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UsageError(f"{path}: its columns are not those of this command: choose another --out")
        return {tuple(row[name] for name in KEY) for row in reader}


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the file, its heading first where it is new."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)


def measure_cells(shape: str, *, out: Path, device: str, dtype: str, seconds: float) -> int:
    """Measure the cells that `out` lacks until `seconds` have passed. Returns how many are left."""
    import torch

    begun, place = time.perf_counter(), check_device(device)
    done = done_cells(out)
    rows = {cell: about(cell, device=device, dtype=dtype) for cell in cells(shape)}
    left = {cell: row for cell, row in rows.items() if tuple(str(row[name]) for name in KEY) not in done}
    if not left:
        return 0
    model = random_model(config(shape), byte_tokenizer(), seed=0).to(place)
    policy = Policy(model, byte_tokenizer(), dtype=getattr(torch, dtype))
    waiting = len(left)
    for cell, row in left.items():
        if time.perf_counter() - begun > seconds:
            break
        row |= measure(cell, policy)
        append(out, row)
        waiting -= 1
        shown = row.get("note") or f"{row['step_s']:.3g} s"
        print(
            f"  {shape}: {cell.samples} samples of {cell.tokens} tokens: {shown}", file=sys.stderr, flush=True
        )
    return waiting
