"""One stage under way: the scores it started from, the moves made so far, the cause each is booked to; and how domains
trained together, or one after the other, act on each other: shares, conflict, transfer, forgetting.

Arrays have a domain of the trained set (S), or any domain (D), first, and the draw (N) last. Conflict K is a matrix
[source j, target d], asymmetric and signed: K > 0 helps the target. Zero conflict, or one domain, is the identity
(tested).
Leaves out: what each kind of stage does (`mopdsim.quality.learning`, `mopdsim.quality.distillation`), what K is
(`mopdsim.belief.calibration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array, column, logistic, logit
from mopdsim.facts.domains import within_bound
from mopdsim.quality.world import World
from mopdsim.recipes.stage import BASE, ROOTS, AnyStage, Merge

REPLAY_HALF = 0.05  # share of old prompts that halves forgetting: a short refresh restores most (2606.02398)
COLLAPSE_KEPT = 0.6  # of a recovery, under a foreign teacher (2606.30406)


def effective_share(
    prompts_S: Array, lengths_SN: Array, dispersions_SN: Array | None = None, *, by_length: bool
) -> Array:
    """Share of the gradient that each domain gets: w_d = n_d L_d^a s_d / sum over j.

    n: prompts (with every weight on them), L: mean response length, s: dispersion of the signal where it is raw (None:
    normalised). a is 1 for a loss that is a mean over tokens and 0 over sequences.
    """
    weights_SN = np.ones_like(lengths_SN) * column(prompts_S, lengths_SN)
    if by_length:
        weights_SN = weights_SN * lengths_SN
    if dispersions_SN is not None:
        weights_SN = weights_SN * dispersions_SN
    return weights_SN / weights_SN.sum(axis=0)


def mean_conflict(conflict_SSN: Array, shares_SN: Array, apart_SSN: Array | None = None) -> Array:
    """kbar_d = (k - 1)^-1/2 sum over j != d of (k w_j) K_jd, (S, N): log of the factor on d's gain.

    A companion with few tokens counts for little. The exponent lies between a sum (0) and a mean over companions (1);
    as an unknown it did not pay. apart: 1 for pairs that do conflict, 0
    for the others and on the diagonal (none: all pairs do).
    """
    count = len(shares_SN)
    if count == 1:
        return np.zeros_like(shares_SN)
    if apart_SSN is None:
        pull_SN = np.einsum("jd...,j...->d...", conflict_SSN, shares_SN)
        pull_SN = pull_SN - np.einsum("dd...,d...->d...", conflict_SSN, shares_SN)
    else:
        pull_SN = np.einsum("jd...,jd...->d...", apart_SSN, conflict_SSN * shares_SN[:, None])
    return np.asarray(pull_SN * (count * thinned(count - 1.0)))


def thinned(count: Array | float) -> Array:
    """What a sum over so many companions is divided by, inverted: n^-1/2, 1 where there are none."""
    return np.maximum(count, 1.0) ** -0.5


def scaled_gain(before: Array, after: Array, factor: Array) -> Array:
    """The score whose gain over `before` is `factor` times that of `after`, measured in logits: stays in [0,
    1].
    """
    return logistic(logit(before) * (1 - factor) + logit(after) * factor)


def transfer(progress_SN: Array, spill_SDN: Array, lifted_DN: Array) -> tuple[Array, Array]:
    """Change in logits of untrained domains, all negative effects and the best positive one of a trained domain; and
    the best one so far, (D, N) each.

    progress: how far each trained domain's curve was climbed; spill: the effect of a whole climb; lifted: the best
    effect of earlier stages, above which this one's must lie to add to it. So domains trained one after the other lift
    an untrained one no farther than the same domains trained in one stage.
    """
    effects_SDN = progress_SN[:, None, :] * spill_SDN
    best_DN = np.maximum(effects_SDN.max(axis=0), lifted_DN)
    return best_DN - lifted_DN + np.minimum(effects_SDN, 0.0).sum(axis=0), best_DN


def retained(kl_N: Array, replay: Array, forgetting_N: Array) -> Array:
    """Share of an earlier gain that survives training on other domains: exp(-psi KL / (1 + replay / `REPLAY_HALF`))."""
    return np.exp(-forgetting_N * kl_N / (1.0 + replay / REPLAY_HALF))


Cause = Literal["gain", "interference", "cap", "shortfall", "routing", "bias", "reward", "judge", "collapse"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a stage spends, by draw: RL compute in FLOPs per active parameter, gradient tokens."""

    compute_N: Array
    tokens_N: Array


@dataclass(frozen=True, kw_only=True)
class State:
    """A policy's weights as the model sees them. root: the model they grew from; lineage: the stages since; kl_N: nats
    a token from `init`; lifted_DN: the best that training other domains has done to each so far, logits (none: 0).
    """

    score_DN: Array
    kl_N: Array
    lineage: tuple[str, ...]
    waterfall: Mapping[Cause, Array] | None
    root: str = BASE
    lifted_DN: Array | None = None


class Step:
    """The scores of one stage under way: `move` changes them and books the change to a cause."""

    def __init__(self, stage: AnyStage, states: Mapping[str, State], world: World) -> None:
        self.before = states[stage.init]
        self.world = world.of(self.before.root)
        self.name = stage.name
        self.from_root = stage.init in ROOTS
        self.score_DN = self.before.score_DN
        lifted_DN = np.zeros(1) if self.before.lifted_DN is None else self.before.lifted_DN
        self.lifted_DN = np.broadcast_to(lifted_DN, self.score_DN.shape)
        self.booked = None if self.before.waterfall is None else dict(self.before.waterfall)
        shares = {} if isinstance(stage, Merge) else stage.domains
        self.trained = np.array([world.index[name] for name in shares], dtype=np.intp)
        self.shares_S = np.array(list(shares.values()))

    def shares(self, *, by_length: bool) -> Array:
        """Effective shares of the trained domains, (S, N), where signals are alike."""
        return effective_share(self.shares_S, self.world.length_DN[self.trained], by_length=by_length)

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
        self.move(cause, with_rows(self.score_DN, places, after_SN))

    def closed(self, shares_SN: Array, effort: Effort) -> Array:
        """Share of the gap to a target that each trained domain's tokens close: 1 - exp(-w D / D_d). (S, N)"""
        return -np.expm1(-shares_SN * effort.tokens_N / self.world.distill_tokens_DN[self.trained])

    def drift(self, shares_SN: Array, progress_SN: Array, *, demonstrations: float = 0.0) -> Array:
        """Nats a token that so much progress moves the model, (N,). Gains over the root decay as training on other
        domains does so; a domain's own share of the prompts, and the weight of its `demonstrations` trained beside
        them, slow the decay as replay does."""
        constants = self.world.constants
        kl_SN = constants["climb_kl"] * shares_SN * progress_SN
        if self.from_root:
            return np.asarray(kl_SN.sum(axis=0))
        others_DN = np.repeat(kl_SN.sum(axis=0, keepdims=True), len(self.score_DN), axis=0)
        others_DN[self.trained] -= kl_SN
        replay_D = np.zeros(len(self.score_DN))
        replay_D[self.trained] = self.shares_S / self.shares_S.sum() * (1 + demonstrations)
        kept_DN = retained(others_DN, column(replay_D, others_DN), constants["forgetting"])
        floor_DN = np.minimum(self.world.start_DN, self.score_DN)
        self.move("interference", floor_DN + (self.score_DN - floor_DN) * kept_DN)
        return np.asarray(kl_SN.sum(axis=0))

    def clash(self, progress_SN: Array) -> None:
        """What domains gained over the root is scaled, in logits, by the conflict with what is trained after them:
        exp(share kbar), with kbar = n^-1/2 sum of K_jd over the n domains j trained now, each as far as its curve was
        climbed. No conflict, or no gain, changes nothing; no gain grows beyond its asymptote."""
        others, world = self.untrained, self.world
        if self.from_root or len(others) == 0:
            return
        count, constants = len(self.trained), world.constants
        pull_ON = np.einsum("jo...,j...->o...", world.conflict_DDN[np.ix_(self.trained, others)], progress_SN)
        factor_ON = np.exp(constants["conflict_share"] * thinned(count) * pull_ON)
        before_ON, start_ON = self.score_DN[others], world.start_DN[others]
        scaled_ON = scaled_gain(start_ON, before_ON, factor_ON)
        scaled_ON = np.minimum(scaled_ON, np.maximum(before_ON, world.asymptote_DN[others]))
        self.move_some("interference", others, np.where(before_ON > start_ON, scaled_ON, before_ON))

    def settle(self) -> None:
        """Holds the scores to what one model can reach on rival domains."""
        if self.world.rivals:
            self.move("interference", within_bound(self.score_DN, self.world.rivals, self.trained.tolist()))

    def finish(self, kl_N: Array) -> State:
        """The state that the stage leaves."""
        self.settle()
        lineage = (*self.before.lineage, self.name)
        return State(
            score_DN=self.score_DN,
            kl_N=kl_N,
            lineage=lineage,
            waterfall=self.booked,
            root=self.before.root,
            lifted_DN=self.lifted_DN,
        )


def with_rows(all_DN: Array, places: NDArray[np.intp], rows_SN: Array) -> Array:
    """All domains, those at `places` replaced; axes of one between domain and draw are broadcast to the rows'."""
    found_DN = np.empty((len(all_DN), *np.broadcast_shapes(all_DN.shape[1:], rows_SN.shape[1:])))
    if len(places) < len(all_DN):
        found_DN[...] = all_DN
    found_DN[places] = rows_SN
    return found_DN


def recovered(step: Step, strategy: str, before_SN: Array, own_SN: Array) -> Array:
    """What a strategy keeps of its specialists' gain, in logits, as published studies of it found; all of it where the
    world knows no such share."""
    shares = step.world.recovery
    if not shares:
        return own_SN
    share_N = shares.get(strategy, shares["unknown"])
    return scaled_gain(before_SN, own_SN, share_N)


def seeded_asymptote(step: Step) -> Array:
    """Asymptotes of this run: the domain's, with the seed-to-seed spread in logits. (S, N)"""
    world = step.world
    asymptote_SN = world.asymptote_DN[step.trained]
    if step.name not in world.spread:
        return asymptote_SN
    slope_SN = np.maximum(asymptote_SN * (1 - asymptote_SN), 0.01)
    sd_SN = world.constants["seed_sd"] / slope_SN
    noisy_SN = logistic(logit(asymptote_SN) + sd_SN * world.spread[step.name][step.trained])
    return np.maximum(noisy_SN, world.start_DN[step.trained])
