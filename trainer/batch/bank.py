"""The other models a stage reads: teachers and references. They stay loaded while memory has room for all of them.

Where it has not, each is loaded, used and let go; of a teacher that scored a batch only the last hidden states and the
head stay (DeepSeek-V4), from which logits are rebuilt where the loss wants them. Peak memory is then the student and
the largest other model, however many teachers there are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trainer.batch.rollout import Rollouts
from trainer.batch.score import Scored, score
from trainer.model.adapters import base_directory, is_adapter
from trainer.model.parallel import memory_bytes
from trainer.model.policy import Policy

RESIDENT_BYTES = 256 * 2**20  # of weights that always stay loaded
RESIDENT_SHARE = 0.4  # of the memory that is free when a stage starts, for more than that


class Bank:
    """Models by stage name, loaded when asked for."""

    def __init__(
        self, directories: dict[str, Path], load: Callable[[str], Policy], *, room: float | None = None
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

    def mapping(self, names: Sequence[str]) -> Mapping[str, Policy]:
        """The models by name, each loaded when it is looked up."""
        return _Lazy(self, names)

    def score(
        self,
        name: str,
        rollouts: Rollouts,
        *,
        micro_batch_rows: int | None = None,
        rows: slice | None = None,
    ) -> Scored:
        """`trainer.batch.score.score` with the model, which may be let go: its head stays."""
        with self.open(name) as policy:
            scored = score(policy, rollouts, micro_batch_rows=micro_batch_rows, rows=rows)
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
