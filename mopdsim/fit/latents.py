"""The unknowns of a fit: what each is called, its prior, and how it enters the world of a tree.

Each is normal on its own scale (plain, ln or logit). All pairs of domains have one K and one transfer, save for
rivals along their dial. Axes: L unknown, D domain, N member. Leaves out: constants that no walk of a forest can tell
(`LEFT_OUT`), what single pairs have of their own, which did not pay on conditions left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array, logit
from mopdsim.belief.calibration import (
    ALONG_THE_DIAL,
    CONSTANTS,
    FACTS,
    Calibration,
    Distribution,
    in_logits,
    scaled,
    unscaled,
)
from mopdsim.facts.domains import Domain, Estimate, rivalry, rivals_of
from mopdsim.fit.forest import Tree
from mopdsim.quality.world import World, from_start, sized
from mopdsim.recipes.stage import Merge

Group = Literal["error", "bold_error"]
SPREADS: Mapping[Group, tuple[float, float]] = {  # prior of the form's error: middle, sd of its ln
    "error": (0.15, 0.7),
    "bold_error": (0.5, 0.7),
}
PAIRED = ("conflict", "spill")
LEFT_OUT = (
    "seed_sd",  # part of the errors of the model form
    "collapse_middle",  # happens or not: no slope
    "fidelity_pairs", "overoptimisation_kl", "kl_coefficient_at_peak", "best_of_peak_kl",  # of reward models
    "preference_share",  # of chosen pairs
    "size_slope",  # of models of a second size
    "staleness_cost",  # all runs of ours are synchronous
    "ambiguity_conflict",  # from replicates alone (`mopdsim.fit.ambiguity`)
)  # fmt: skip
LEARNT = {key: how for key, how in FACTS.items() if key != "start"}  # of a domain; a start is a base's
START_SD = 3.0  # logits: a base's score is measured, so that its prior does not matter


@dataclass(frozen=True, kw_only=True)
class Latent:
    """One unknown. mean, sd: its prior on its own scale. domain: if given, it enters only the trees that have it. tree:
    if given, it enters only the tree at this index."""

    name: str
    mean: float
    sd: float
    distribution: Distribution = "normal"
    domain: str = ""
    tree: int | None = None

    def value(self, x: Array) -> Array:
        """From its own scale to the quantity's."""
        return unscaled(self.distribution, x)


@dataclass(frozen=True, kw_only=True)
class Latents:
    """All unknowns of a forest."""

    trees: tuple[Tree, ...]
    calibration: Calibration
    entries: tuple[Latent, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each unknown by name."""
        return {latent.name: place for place, latent in enumerate(self.entries)}

    @cached_property
    def mean_L(self) -> Array:
        return np.array([latent.mean for latent in self.entries])

    @cached_property
    def sd_L(self) -> Array:
        return np.array([latent.sd for latent in self.entries])

    def of_tree(self, place: int) -> NDArray[np.intp]:
        """Places of the unknowns that a tree's scores can depend on."""
        known = {"", *self.trees[place].domains}
        return np.array(
            [
                index
                for index, latent in enumerate(self.entries)
                if (latent.tree is None or latent.tree == place) and latent.domain in known
            ],
            dtype=np.intp,
        )

    def world(self, place: int, x_LN: Array) -> World:
        """The world of a tree at these unknowns: arrays (D, 1, N), an axis of one for points before the members."""
        tree, count = self.trees[place], x_LN.shape[1]
        names = tuple(tree.domains)
        constants = self._constants(x_LN)

        def value(name: str) -> Array | None:
            index = self.index.get(name)
            return None if index is None else self.entries[index].value(x_LN[index])[None]

        def rows(kind: str, plain: Mapping[str, float]) -> Array:
            found = [value(f"{kind}:{name}") for name in names]
            return np.stack(
                [
                    np.full((1, count), plain[n]) if row is None else row
                    for n, row in zip(names, found, strict=True)
                ]
            )

        def matrix(kind: str) -> Array:
            shared_N = self.entries[self.index[kind]].value(x_LN[self.index[kind]])
            pairs_DDN = np.zeros((len(names), len(names), 1, count))
            for (i, source), (j, target) in permutations(enumerate(names), 2):
                pairs_DDN[i, j] = shared_N
                if (dial := rivalry(source, target)) > 0:
                    pairs_DDN[i, j] -= constants[ALONG_THE_DIAL[kind]] * dial
            return pairs_DDN

        facts = {key: rows(key, _facts(tree, key)) for key in LEARNT}
        start_DN = rows(f"start{place}", _facts(tree, "start"))
        asymptote_DN = np.maximum(facts["asymptote"], start_DN)
        world = World(
            names=names,
            start_DN=start_DN,
            asymptote_DN=asymptote_DN,
            demonstrated_DN=facts["demonstrated"],
            midpoint_DN=from_start(
                facts["midpoint"], start_DN, tree.domains.values(), constants["start_slope"]
            ),
            steepness_DN=facts["steepness"],
            distill_tokens_DN=facts["distill_tokens"],
            length_DN=np.array(list(_facts(tree, "response_tokens").values()))[:, None, None],
            conflict_DDN=matrix("conflict"),
            spill_DDN=matrix("spill"),
            constants=constants,
            spread={},
            luck={stage.name: np.ones(1) for stage in tree.recipe.stages},  # never collapses
            rivals=rivals_of(list(tree.domains.values())),
        )
        return sized(world, tree.relative_size)

    def _constants(self, x_LN: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name in CONSTANTS:
            index = self.index.get(name)
            prior = self.calibration.parameters[name].prior.value
            found[name] = np.array([prior]) if index is None else self.entries[index].value(x_LN[index])
        return found


def latents_of(trees: Sequence[Tree], calibration: Calibration) -> Latents:
    """The unknowns of these trees with the calibration's and the domains' priors."""
    facts = {name: row for tree in trees for name, row in tree.domains.items() if name in _trained(tree)}
    entries = [
        *(_constant(name, calibration) for name in CONSTANTS if name not in LEFT_OUT),
        *(latent for row in facts.values() for latent in _of_domain(row)),
        *(_constant(kind, calibration) for kind in PAIRED),
        *(latent for place, tree in enumerate(trees) for latent in _of_tree(place, tree)),
    ]
    return Latents(trees=tuple(trees), calibration=calibration, entries=tuple(entries))


def _constant(name: str, calibration: Calibration) -> Latent:
    parameter = calibration.parameters[name]
    return _latent(name, parameter.prior, parameter.distribution)


def _latent(name: str, prior: Estimate, distribution: Distribution, domain: str = "") -> Latent:
    mean = scaled(distribution, prior.value)
    return Latent(name=name, mean=mean, sd=prior.sd, distribution=distribution, domain=domain)


def _of_domain(row: Domain) -> Iterator[Latent]:
    for key, distribution in LEARNT.items():
        prior: Estimate = getattr(row, key)
        own = in_logits(prior) if distribution == "logit" else prior
        yield _latent(f"{key}:{row.name}", own, distribution, row.name)


def _of_tree(place: int, tree: Tree) -> Iterator[Latent]:
    for name, row in tree.domains.items():
        mean = float(logit(row.start.value))
        yield Latent(
            name=f"start{place}:{name}",
            mean=mean,
            sd=START_SD,
            distribution="logit",
            domain=name,
            tree=place,
        )


def _trained(tree: Tree) -> set[str]:
    return {name for stage in tree.recipe.stages if not isinstance(stage, Merge) for name in stage.domains}


def _facts(tree: Tree, key: str) -> dict[str, float]:
    return {name: getattr(row, key).value for name, row in tree.domains.items()}
