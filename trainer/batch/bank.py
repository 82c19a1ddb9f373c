"""The other models a stage reads: teachers and references, at most one large one in memory at a time.

Small models stay loaded. Large ones are loaded, used and let go; of a teacher that scored a batch only the last hidden
states and the head stay (DeepSeek-V4), from which logits are rebuilt where the loss wants them. Peak memory is then the
student and the largest other model, however many teachers there are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trainer.batch.rollout import Rollouts
from trainer.batch.score import Scored, score
from trainer.model.policy import Policy

RESIDENT_BYTES = 256 * 2**20  # all of a stage's other models together


class Bank:
    """Models by stage name, loaded when asked for."""

    def __init__(self, directories: dict[str, Path], load: Callable[[str], Policy]) -> None:
        self._load = load
        sizes = {path: _weight_bytes(path) for path in set(directories.values())}
        self._resident = sum(sizes.values()) <= RESIDENT_BYTES
        self._directories = directories
        self._held: dict[Path, Policy] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[Policy]:
        """The model while the block lasts; blocks inside one another share it."""
        place = self._directories[name]
        if place in self._held:
            yield self._held[place]
            return
        self._held[place] = self._load(name)
        try:
            yield self._held[place]
        finally:
            if not self._resident:
                del self._held[place]

    def mapping(self, names: Sequence[str]) -> Mapping[str, Policy]:
        """The models by name, each loaded when it is looked up."""
        return _Lazy(self, names)

    def score(self, name: str, rollouts: Rollouts, *, micro_batch_rows: int | None = None) -> Scored:
        """The model's last hidden states on these rollouts (no gradient), and a head to rebuild logits with."""
        with self.open(name) as policy:
            scored = score(policy, rollouts, micro_batch_rows=micro_batch_rows)
            head = copy.copy(policy)
            if not self._resident:
                # The loaded weight may be a view that keeps its whole file in memory.
                head.head = copy.deepcopy(policy.head)
            head.model = head.head
            del head.backbone
            return replace(scored, logits=head.logits)


class _Lazy(Mapping[str, Policy]):
    def __init__(self, bank: Bank, names: Sequence[str]) -> None:
        self._bank, self._names = bank, names

    def __getitem__(self, name: str) -> Policy:
        with self._bank.open(name) as policy:
            return policy

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
