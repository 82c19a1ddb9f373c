"""What a stage spends: seconds, FLOPs and tokens, split into generation, scoring, training and evaluation.

FLOPs follow `mopdsim.facts.model` (a multiply-add is two; matrix products and causal attention; training is three
forward passes) and count the tokens that exist: no padding, the prompt of a group once, the head at sampled tokens
only. Seconds are the clock's; cpu_seconds are the process's own, which other work on the machine lengthens far less.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from mopdsim.base.run_directory import PHASES
from mopdsim.facts.layers import Model
from mopdsim.facts.model import from_config

if TYPE_CHECKING:
    import torch

    from trainer.batch.rollout import Rollouts
    from trainer.model.policy import Policy

Phase = Literal["generation", "scoring", "training", "evaluation"]
Use = Literal["generated", "scored", "trained"]
TRAINING_PASSES = 3.0


class Meter:
    """Running totals; `state` goes into checkpoints and summaries. Its wall clock starts when it is made."""

    def __init__(self) -> None:
        self._opened = time.perf_counter()
        self._before = 0.0  # wall-clock seconds of earlier attempts, up to the checkpoint that was taken up
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.cpu_seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.flops: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.tokens: dict[str, dict[str, int]] = {"generated": {}, "scored": {}, "trained": {}}

    def after(self, state: Mapping[str, Any]) -> Meter:
        """This meter, counting on from a checkpoint's state (empty: there is none)."""
        if state:
            self._before = state["wall_seconds"]
            self.seconds, self.flops, self.tokens = (
                dict(state[name]) for name in ("seconds", "flops", "tokens")
            )
            self.cpu_seconds |= state.get("cpu_seconds", {})  # checkpoints from before it have none
        return self

    @property
    def wall_seconds(self) -> float:
        """Of all attempts; what a kill undid is not counted."""
        return self._before + time.perf_counter() - self._opened

    @contextmanager
    def phase(self, phase: Phase, device: torch.device) -> Iterator[None]:
        """Add the seconds of the block."""
        start, used = time.perf_counter(), time.process_time()
        yield
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)
        self.seconds[phase] += time.perf_counter() - start
        self.cpu_seconds[phase] += time.process_time() - used

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Seconds by phase beyond those of an earlier moment."""
        return {phase: value - before[phase] for phase, value in self.seconds.items()}

    def count(
        self, phase: Phase, policy: Policy, rollouts: Rollouts, *, passes: float = 1.0, head: bool = True
    ) -> None:
        """Add `passes` forward passes of these rollouts. head: whether through the language model's."""
        self.flops[phase] += passes * forward_flops(policy, rollouts, head=head)

    def count_tokens(self, use: Use, domain: str, tokens: int) -> None:
        self.tokens[use][domain] = self.tokens[use].get(domain, 0) + tokens

    def throughput(self) -> int:
        """Tokens generated so far, or trained where the stage generates none."""
        return sum(self.tokens["generated"].values()) or sum(self.tokens["trained"].values())

    @property
    def spent(self) -> float:
        """FLOPs so far, evaluation not counted."""
        return sum(self.flops[phase] for phase in PHASES if phase != "evaluation")

    def state(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "flops": self.flops,
            "tokens": self.tokens,
            "wall_seconds": self.wall_seconds,
        }


def forward_flops(policy: Policy, rollouts: Rollouts, *, head: bool = True) -> float:
    """FLOPs of one forward pass over the rollouts: prompts once a group, the head at trained tokens or not at all."""
    model = _shape(json.dumps(policy.model.config.to_dict(), default=str))  # type: ignore[operator, union-attr]
    prompt_U = rollouts.prompt_mask_BP[:: rollouts.group].sum(1).double()
    prompt_B = prompt_U.repeat_interleave(rollouts.group)
    response_B = rollouts.present_BT.sum(1).double()
    of_head = model.vocab * model.hidden
    body = float(prompt_U.sum() + response_B.sum()) * 2.0 * (model.matmul_parameters - of_head)
    attention = (
        model.attention_flops((prompt_B + response_B).cpu().numpy())
        - model.attention_flops(prompt_B.cpu().numpy())
        + model.attention_flops(prompt_U.cpu().numpy())
    )
    return body + attention + (2.0 * of_head * float(rollouts.trained_BT.sum()) if head else 0.0)


@lru_cache(maxsize=32)
def _shape(config: str) -> Model:
    return from_config(json.loads(config))


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: of the GPU where it computes on one, else resident."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
