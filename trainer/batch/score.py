"""What models give to tokens that are there already: their states, and from them logits, log-probs and KL.

The form in which a scored batch is kept is the last hidden states and the head (DeepSeek-V4); logits are rebuilt for
the positions that are asked for, a block of them at a time. A `Bank` holds the other models that a stage reads,
teachers and references, while memory has room for all of them; where it has not, each is loaded, used and let go, so
that peak memory is the student and the largest other model, however many there are. Leaves out: gradients
(`trainer.batch.update`).

Axes: B rows, T response length, M = B * T places, N trained positions (flat index b * T + t), D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.batch.rollout import Rollouts
from trainer.batch.update import hidden_states
from trainer.losses.losses import reverse_kl
from trainer.model import processes
from trainer.model.adapters import base_directory, is_adapter
from trainer.model.parallel import logits_at_once, memory_bytes
from trainer.model.policy import Policy

RESIDENT_BYTES = 256 * 2**20  # of weights that always stay loaded
RESIDENT_SHARE = 0.4  # of the memory that is free when a stage starts, for more than that
CPU_LOGITS = (
    1 << 23
)  # read at once on a CPU: 170 positions of a vocabulary of 49,152, a third faster than 680
Opened = Callable[[], AbstractContextManager[Policy]]  # a model while a block lasts


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What is kept of a model that scored rollouts: hidden_MD over all rows and tokens, and its head."""

    hidden_MD: Tensor
    logits: Callable[..., Tensor]  # of a `Policy`
    vocab_size: int
    rows: slice  # that this process scored; hidden_MD is 0 elsewhere

    @torch.no_grad()
    def at(self, index_N: Tensor, temperature: float = 1.0) -> Tensor:
        """logits_NV of trained positions, without gradient."""
        return self.logits(self.hidden_MD[index_N], temperature=temperature)

    def blocks(self, rollouts: Rollouts) -> tuple[Tensor, ...]:
        """The trained positions in pieces whose logits may be held at once."""
        width = rollouts.trained_BT.shape[1]
        index_M = rollouts.trained_BT[self.rows].flatten().nonzero().squeeze(1) + self.rows.start * width
        held = logits_at_once(index_M.device)
        held = min(held, CPU_LOGITS) if index_M.device.type == "cpu" else held
        return index_M.split(max(1, held // self.vocab_size))


def score(
    policy: Policy,
    rollouts: Rollouts,
    *,
    micro_batch_rows: int | None = None,
    rows: slice | None = None,
) -> Scored:
    """The model reads the rollouts, without gradient; of several processes each reads its share, or the rows named."""
    rows = processes.share_of(len(rollouts.prompt_BP), rollouts.group) if rows is None else rows
    hidden_BTD = hidden_states(policy, rollouts, rows=rows, micro_batch_rows=micro_batch_rows)
    return Scored(
        hidden_MD=hidden_BTD.flatten(0, 1), logits=policy.logits, vocab_size=policy.vocab_size, rows=rows
    )


@torch.no_grad()
def logprobs(
    scored: Scored, rollouts: Rollouts, *, temperature: float, valid_V: Tensor | None = None
) -> Tensor:
    """logprob_BT of the tokens, 0 where not trained. valid_V: the ids that the distribution is over; None: all."""
    token_M = rollouts.response_BT.flatten()
    if valid_V is not None:
        token_M = (valid_V.cumsum(0) - 1)[token_M]
    logprob_M = torch.zeros_like(rollouts.logprob_BT).flatten()
    for index_N in scored.blocks(rollouts):
        logits_NV = scored.at(index_N, temperature)
        if valid_V is not None:
            logits_NV = logits_NV[:, valid_V.nonzero().squeeze(1)]
        logprob_M[index_N] = -F.cross_entropy(logits_NV, token_M[index_N], reduction="none")
    processes.add_up([logprob_M])
    return logprob_M.view_as(rollouts.logprob_BT)


@torch.no_grad()
def kl_sum(own: Scored, other: Scored, rollouts: Rollouts, *, temperature: float) -> float:
    """Sum over trained tokens of KL(own || other) over the full vocabulary."""
    total = 0.0
    for index_N in own.blocks(rollouts):
        own_NV, other_NV = own.at(index_N, temperature), other.at(index_N, temperature)
        total += float(reverse_kl(own_NV, other_NV, own_NV.new_ones(len(index_N)))[0])
    return sum(processes.gathered(total))


class Bank:
    """Models by stage name, loaded when asked for."""

    def __init__(
        self, directories: Mapping[str, Path], load: Callable[[str], Policy], *, room: float | None = None
    ) -> None:
        """room: bytes of weights that may stay loaded [default: a share of what is free at the first look-up]."""
        self._load = load
        places = set(directories.values())
        bases = {base_directory(path) for path in places if is_adapter(path)}  # once, however many adapters
        self._size, self._room = sum(map(_weight_bytes, places | bases)), room
        self._resident = False
        self._directories = directories
        self._held: dict[Path, Policy] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[Policy]:
        """The model while the block lasts; blocks inside one another share it."""
        place = self._directories[name]
        if place in self._held:
            yield self._held[place]
            return
        policy = self._held[place] = self._load(name).frozen()
        if self._room is None:
            self._room = max(RESIDENT_BYTES, RESIDENT_SHARE * memory_bytes(policy.device, free=True))
        self._resident = self._size <= self._room
        try:
            yield policy
        finally:
            if not self._resident:
                del self._held[place]

    def score(
        self,
        name: str,
        rollouts: Rollouts,
        *,
        micro_batch_rows: int | None = None,
        rows: slice | None = None,
    ) -> Scored:
        """`score` with the model, which may be let go: its head stays."""
        with self.open(name) as policy:
            scored = score(policy, rollouts, micro_batch_rows=micro_batch_rows, rows=rows)
            head = copy.copy(policy)
            if not self._resident:
                # The loaded weight may be a view that keeps its whole file in memory.
                head.head = copy.deepcopy(policy.head)
            head.model = head.head
            del head.backbone
            return replace(scored, logits=head.logits)


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
