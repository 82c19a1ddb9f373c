"""One stage under way: the scores it started from, the moves made so far, and the cause each is booked to.

Leaves out: what each kind of stage does (`mopdsim.quality.learning`, `mopdsim.quality.distillation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mopdsim.interference import Array, column, retained
from mopdsim.recipe import BASE, AnyStage, Merge
from mopdsim.world import World

Cause = Literal["gain", "interference", "cap", "shortfall", "routing", "bias", "reward", "collapse"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a stage spends, by draw: RL compute in FLOPs per active parameter, gradient tokens."""

    compute_N: Array
    tokens_N: Array


@dataclass(frozen=True, kw_only=True)
class State:
    """A stage's weights as the model sees them. lineage: the stages they grew from; kl_N: nats a token from
    `init`.
    """

    score_DN: Array
    kl_N: Array
    lineage: tuple[str, ...]
    waterfall: Mapping[Cause, Array] | None


class Step:
    """The scores of one stage under way: `move` changes them and books the change to a cause."""

    def __init__(self, stage: AnyStage, states: Mapping[str, State], world: World) -> None:
        self.before = states[stage.init]
        self.world = world
        self.name = stage.name
        self.from_base = stage.init == BASE
        self.score_DN = self.before.score_DN
        self.booked = None if self.before.waterfall is None else dict(self.before.waterfall)
        if not isinstance(stage, Merge):
            self.trained = np.array([world.index[name] for name in stage.domains])
            self.shares_S = np.array(list(stage.domains.values()))

    @property
    def untrained(self) -> NDArray[np.intp]:
        """Indices of the domains that the stage does not train."""
        left_out = np.ones(len(self.world.names), dtype=bool)
        left_out[self.trained] = False
        return np.flatnonzero(left_out)

    def move(self, cause: Cause, after_DN: Array) -> None:
        """Every domain's score becomes `after_DN`."""
        if self.booked is not None:
            self.booked[cause] = self.booked[cause] + (after_DN - self.score_DN)
        self.score_DN = after_DN

    def move_some(self, cause: Cause, places: NDArray[np.intp], after_SN: Array) -> None:
        """The scores of the domains at `places` become `after_SN`."""
        after_DN = self.score_DN.copy()
        after_DN[places] = after_SN
        self.move(cause, after_DN)

    def forget(self, kl_SN: Array, factor_N: Array | float = 1.0) -> None:
        """Gains over the base decay with what the other domains' training moved; a share of replay slows
        it.
        """
        if self.from_base:
            return
        constants = self.world.constants
        others_DN = np.repeat(kl_SN.sum(axis=0, keepdims=True), len(self.score_DN), axis=0)
        others_DN[self.trained] -= kl_SN
        replay_D = np.zeros(len(self.score_DN))
        replay_D[self.trained] = self.shares_S / self.shares_S.sum()
        kept_DN = retained(
            others_DN,
            column(replay_D, others_DN),
            constants["forgetting"] * factor_N,
            constants["replay_half"],
        )
        floor_DN = np.minimum(self.world.start_DN, self.score_DN)
        self.move("interference", floor_DN + (self.score_DN - floor_DN) * kept_DN)

    def finish(self, kl_N: Array) -> State:
        """The state that the stage leaves."""
        lineage = (*self.before.lineage, self.name)
        return State(score_DN=self.score_DN, kl_N=kl_N, lineage=lineage, waterfall=self.booked)
