"""A world: one joint draw of every domain and parameter that a walk through a recipe needs.

Leaves out: what the parameters mean (`mopdsim.quality.step`, `mopdsim.quality.distillation`, `mopdsim.quality.walk`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from mopdsim.base.arrays import Array, column, logistic, logit
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import CONSTANTS, Calibration, in_logits, sample, standard_normal, uniform
from mopdsim.facts import domains as table
from mopdsim.facts.domains import Domain, Estimate, Rivals, Scope, check_starts, rivals_of, within_bound
from mopdsim.recipes.stage import BASE, SMALLER


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything a walk through a recipe needs to know, drawn: axes D domain, N draw; [source, target] in
    pairs.

    spread: multiples of the seed-to-seed sd, by stage name, (D, N); a stage not named has none. luck: uniform
    draws, (N,), that decide by stage name whether a distillation collapses.
    smaller: the same world for a smaller model, whose scores lie lower; sizes_b: billions of parameters by root,
    where there are two. rivals: pairs of domains that no model can both master.
    recovery: by strategy, what share of its specialists' gain published studies recover, (N,); empty where a scope's
    own runs say what is lost. further_gap: in score, by which students stay below what either says.
    """

    names: tuple[str, ...]
    start_DN: Array
    asymptote_DN: Array
    demonstrated_DN: Array
    midpoint_DN: Array
    steepness_DN: Array
    distill_tokens_DN: Array
    length_DN: Array
    conflict_DDN: Array
    spill_DDN: Array
    constants: Mapping[str, Array]
    spread: Mapping[str, Array] = field(default_factory=dict)
    luck: Mapping[str, Array] = field(default_factory=dict)
    smaller: World | None = None
    sizes_b: Mapping[str, float] = field(default_factory=dict)
    rivals: Rivals = ()
    recovery: Mapping[str, Array] = field(default_factory=dict)
    further_gap: float = 0.0

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each domain on axis D."""
        return {name: place for place, name in enumerate(self.names)}

    def of(self, root: str) -> World:
        """This world as the model `root` meets it. UsageError where it knows no smaller one."""
        if root == BASE:
            return self
        if self.smaller is None:
            raise UsageError(f"a stage grows from {root!r}, and this world was drawn without a second model")
        return self.smaller

    def shifted(self, *, conflict: float = 0.0, gap: float = 0.0) -> World:
        """The world with every conflict K, or the score that students stay below their teachers, moved by so much."""
        apart_DD = np.expand_dims(1.0 - np.eye(len(self.names)), tuple(range(2, self.conflict_DDN.ndim)))
        return replace(
            self,
            conflict_DDN=self.conflict_DDN + conflict * apart_DD,
            further_gap=self.further_gap + gap,
            smaller=self.smaller and self.smaller.shifted(conflict=conflict, gap=gap),
        )

    def without_seeds(self) -> World:
        """The same world where every run meets its domains' mean asymptotes."""
        smaller = None if self.smaller is None else replace(self.smaller, spread={})
        return replace(self, spread={}, smaller=smaller)


def draw_world(
    calibration: Calibration,
    domains: Mapping[str, Domain],
    stages: tuple[str, ...],
    scope: Scope,
    *,
    seed: int,
    draws: int,
    pairs: Mapping[str, Estimate] | None = None,
    sizes_b: Mapping[str, float] | None = None,
    smaller_starts: Mapping[str, Estimate] | None = None,
    relative_size: float | None = None,
) -> World:
    """A world for these domains. `pairs` are the user's own conflicts, by "source>target"; `sizes_b` the models' sizes
    by root where there is a smaller one, and `smaller_starts` what is known of its start scores; `relative_size` the
    base's parameters over those of the model that the scope's studies trained, None where they trained many.
    """

    def rows(key: str) -> Array:
        return np.stack([_known_fact(calibration, row, key, scope, seed, draws) for row in domains.values()])

    def pair(kind: str, source: Domain, target: Domain) -> Array:
        """The user's own conflict, or what the calibration knows; none of a domain with itself."""
        name = f"{source.name}>{target.name}"
        if source.name == target.name:
            return np.zeros(draws)
        if kind == "conflict" and pairs and name in pairs:
            return sample(pairs[name], "normal", f"{kind}:{name}", seed=seed, draws=draws)
        return calibration.draw_pair(kind, source, target, scope, seed=seed, draws=draws)

    def matrix(kind: str) -> Array:
        sources = targets = domains.values()
        return np.stack([np.stack([pair(kind, one, other) for other in targets]) for one in sources])

    names = tuple(domains)
    spread, luck = chances(names, stages, scope, seed=seed, draws=draws)
    rivals = rivals_of(list(domains.values()))
    check_starts(list(domains.values()), rivals)
    start_DN = within_bound(rows("start"), rivals)
    constants = {name: calibration.draw(name, scope, seed=seed, draws=draws) for name in CONSTANTS}
    world = World(
        names=names,
        start_DN=start_DN,
        asymptote_DN=rows("asymptote"),
        demonstrated_DN=rows("demonstrated"),
        midpoint_DN=from_start(rows("midpoint"), start_DN, domains.values(), constants["start_slope"]),
        steepness_DN=rows("steepness"),
        distill_tokens_DN=rows("distill_tokens"),
        length_DN=rows("response_tokens"),
        conflict_DDN=matrix("conflict"),
        spill_DDN=matrix("spill"),
        constants=constants,
        spread=spread,
        luck=luck,
        sizes_b=sizes_b or {},
        rivals=rivals,
        recovery={} if scope == "tiny" else calibration.draw_recoveries(scope, seed=seed, draws=draws),
    )
    base = world if relative_size is None else sized(world, relative_size)
    if SMALLER not in world.sizes_b:
        return base
    known = {
        name: sample(in_logits(row), "logit", f"smaller_start:{name}", seed=seed, draws=draws)
        for name, row in (smaller_starts or {}).items()
    }
    smaller = shrunk(world, known)
    if relative_size is not None:
        smaller = sized(smaller, relative_size * world.sizes_b[SMALLER] / world.sizes_b[BASE])
    return replace(base, smaller=smaller)


def sized(world: World, ratio: float) -> World:
    """The world as a model meets it that has `ratio` times the parameters of the one that was studied: C_mid (for each
    parameter) times ratio^-s, and the rate that breaks RL times ratio^-b, 1/2 where rates go as one over the width
    (muP, 2203.03466). A student needs as many tokens of any size."""
    if ratio == 1:
        return world
    constants = world.constants
    factor_N = ratio ** -constants["size_exponent"]
    breaking_N = constants["breaking_rate"] * ratio ** -constants["breaking_size"]
    return replace(
        world,
        midpoint_DN=world.midpoint_DN * factor_N,
        constants={**constants, "breaking_rate": breaking_N},
    )


def from_start(midpoint_DN: Array, start_DN: Array, domains: Iterable[Domain], slope_N: Array) -> Array:
    """C_mid for a model whose start differs from the table's: C_mid exp(-slope (logit q0 - logit of the
    table's start)).

    A model that rarely succeeds gets little to learn from; one that starts higher is faster."""
    usual_D = logit(np.array([table.domains()[row.row].start.value for row in domains]))
    higher_DN = logit(start_DN) - column(usual_D, start_DN)
    return np.asarray(midpoint_DN * np.exp(-slope_N * higher_DN))


def shrunk(world: World, starts: Mapping[str, Array]) -> World:
    """The world for the smaller model: every score is lower by slope ln(N / N_smaller) in logits, or by as
    much as makes its start the given one. `starts`: draws by domain, (N,).
    """
    ratio = world.sizes_b[BASE] / world.sizes_b[SMALLER]
    lower_N = world.constants["size_slope"] * np.log(max(ratio, 1.0))
    lower_DN = np.stack([
        logit(world.start_DN[place]) - logit(starts[name]) if name in starts else lower_N
        for place, name in enumerate(world.names)
    ])  # fmt: skip

    def lowered(score_DN: Array) -> Array:
        return logistic(logit(score_DN) - lower_DN)

    return replace(
        world,
        start_DN=within_bound(lowered(world.start_DN), world.rivals),
        asymptote_DN=lowered(world.asymptote_DN),
        demonstrated_DN=lowered(world.demonstrated_DN),
    )


def chances(
    names: tuple[str, ...], stages: Sequence[str], scope: Scope, *, seed: int, draws: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The chance draws of each stage, `World.spread` and `World.luck`: how far its asymptotes lie from their means, and
    whether a distillation collapses."""
    spread = {
        stage: np.stack([standard_normal(f"seed:{stage}/{name}", seed, draws) for name in names])
        for stage in stages
    }
    return spread, {stage: uniform(f"collapse:{stage}", seed, draws) for stage in stages}


def _known_fact(
    calibration: Calibration, domain: Domain, key: str, scope: Scope, seed: int, draws: int
) -> Array:
    """Draws of one field of a domain, (N,): as the user measured it, else as studies found it, else the table's."""
    estimate: Estimate = getattr(domain, key)
    found = None
    if estimate.grade != "measured":
        found = calibration.draw_fact(domain, key, scope, seed=seed, draws=draws)
    if found is None:
        return draw_fact(domain, key, seed=seed, draws=draws)
    if key == "asymptote":
        return np.maximum(found, _known_fact(calibration, domain, "start", scope, seed, draws))
    return found


def draw_fact(domain: Domain, key: str, *, seed: int, draws: int) -> Array:
    """Draws of one field of a domain, (N,). Uncertainty of the start moves the asymptote along, in logits."""
    estimate: Estimate = getattr(domain, key)
    name = f"{key}:{domain.name}"
    if key == "start":
        return sample(in_logits(estimate), "logit", name, seed=seed, draws=draws)
    if key not in ("asymptote", "demonstrated"):
        return sample(estimate, "lognormal", name, seed=seed, draws=draws)
    own = sample(in_logits(estimate), "logit", name, seed=seed, draws=draws)
    start = draw_fact(domain, "start", seed=seed, draws=draws)
    moved = logistic(logit(own) + logit(start) - logit(domain.start.value))
    return np.maximum(moved, start) if key == "asymptote" else moved
