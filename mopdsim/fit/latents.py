"""The unknowns of a fit: what each is called, its prior, and how it enters the world of a tree.

Each is normal on its own scale (plain, ln or logit). Pairs have a mean in common and deviations whose spread is
fitted, as have the seeds' shifts of asymptotes and the errors of the model form: with few runs a pair then leans on
the others. Axes: L unknown, D domain, N member. Leaves out: constants that no walk of a forest can tell (`LEFT_OUT`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.belief.calibration import CONSTANTS, Calibration, Distribution, in_logits
from mopdsim.belief.dials import rivalry, unambiguous
from mopdsim.facts.domains import Domain, Estimate
from mopdsim.fit.forest import Tree
from mopdsim.quality.ambiguity import rivals_of
from mopdsim.quality.world import World, from_start, sized
from mopdsim.recipes.recipe import Distill, Merge, Rl

Group = Literal["conflict", "spill", "error"]
SPREADS: Mapping[Group, tuple[float, float]] = {  # prior of a group's spread: middle, sd of its ln
    "conflict": (0.25, 0.5),
    "spill": (0.3, 0.5),
    "error": (0.15, 0.7),
}
LEFT_OUT = (
    "seed_sd",  # part of the errors of the model form
    "distill_rate",  # only its ratio to distill_tokens enters
    "collapse_middle", "collapse_width", "collapse_kept",  # happens or not: no slope
    "breaking_rate", "breaking_power", "broken_share", "breaking_size",
    "size_slope",  # of models of a second size
    "staleness_cost",  # all runs of ours are synchronous
    "ambiguity_conflict", "ambiguity_power",  # from replicates alone (`mopdsim.fit.ambiguity`)
)  # fmt: skip
SCORES = ("asymptote", "demonstrated")
SPEEDS = ("midpoint", "steepness", "distill_tokens")
START_SD = 3.0  # logits: a base's score is measured, so that its prior does not matter


@dataclass(frozen=True, kw_only=True)
class Latent:
    """One unknown. mean, sd: its prior on its own scale; in a group, sd is the starting value of the group's
    spread. domains: it enters the trees that have all of them. tree: if given, it enters only the tree at
    this index."""

    name: str
    mean: float
    sd: float
    distribution: Distribution = "normal"
    group: Group | None = None
    domains: tuple[str, ...] = ()
    tree: int | None = None

    def value(self, x: Array) -> Array:
        """From its own scale to the quantity's."""
        if self.distribution == "lognormal":
            return np.exp(x)
        return logistic(x) if self.distribution == "logit" else x


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

    def of_group(self, group: Group) -> NDArray[np.intp]:
        """Places of a group's unknowns."""
        return np.array(
            [place for place, latent in enumerate(self.entries) if latent.group == group], dtype=np.intp
        )

    def prior_sd(self, spreads: Mapping[Group, float]) -> Array:
        """The prior's standard deviations, (L,), with these spreads of groups."""
        sd_L = self.sd_L.copy()
        for group, spread in spreads.items():
            sd_L[self.of_group(group)] = spread
        return sd_L

    def of_tree(self, place: int) -> NDArray[np.intp]:
        """Places of the unknowns that a tree's scores can depend on."""
        known = set(self.trees[place].domains)
        return np.array(
            [
                index
                for index, latent in enumerate(self.entries)
                if (latent.tree is None or latent.tree == place) and known >= set(latent.domains)
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
            mean_N = value(kind)
            pairs_DDN = np.zeros((len(names), len(names), 1, count))
            for (i, source), (j, target) in permutations(enumerate(names), 2):
                pair = _marked(source, target) if kind == "conflict" else (source, target)
                deviation_N = value(f"{kind}:{'>'.join(pair)}")
                if mean_N is not None and deviation_N is not None:
                    pairs_DDN[i, j] = mean_N + deviation_N
                if kind == "conflict" and (dial := rivalry(source, target)) > 0:
                    pairs_DDN[i, j] -= constants["ambiguity_conflict"] * dial ** constants["ambiguity_power"]
            return pairs_DDN

        facts = {key: rows(key, _facts(tree, key)) for key in (*SCORES, *SPEEDS)}
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
            dispersion_DN=rows("dispersion", dict.fromkeys(names, 1.0)),
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
        *_pairs(trees, calibration),
        *(latent for place, tree in enumerate(trees) for latent in _of_tree(place, tree)),
    ]
    return Latents(trees=tuple(trees), calibration=calibration, entries=tuple(entries))


def _constant(name: str, calibration: Calibration) -> Latent:
    parameter = calibration.parameters[name]
    return _latent(name, parameter.prior, parameter.distribution)


def _latent(name: str, prior: Estimate, distribution: Distribution, domains: tuple[str, ...] = ()) -> Latent:
    mean = prior.value
    if distribution == "lognormal":
        mean = math.log(prior.value)
    elif distribution == "logit":
        mean = float(logit(prior.value))
    return Latent(name=name, mean=mean, sd=prior.sd, distribution=distribution, domains=domains)


def _of_domain(row: Domain) -> Iterator[Latent]:
    own = (row.name,)
    for key in SCORES:
        yield _latent(f"{key}:{row.name}", in_logits(getattr(row, key)), "logit", own)
    for key in SPEEDS:
        yield _latent(f"{key}:{row.name}", getattr(row, key), "lognormal", own)


def _pairs(trees: Sequence[Tree], calibration: Calibration) -> Iterator[Latent]:
    """Conflicts of domains trained together, transfer to domains left out, dispersion of what is distilled."""
    together = {pair for tree in trees for pair in _met(tree, inside=True)}
    apart = {pair for tree in trees for pair in _met(tree, inside=False)}
    kinds: tuple[tuple[Group, set[tuple[str, str]]], ...] = (("conflict", together), ("spill", apart))
    for kind, pairs in kinds:
        if not pairs:
            continue
        prior = calibration.parameters[kind].prior
        yield Latent(name=kind, mean=prior.value, sd=prior.sd)
        dialled = {_marked(*pair) for pair in pairs if rivalry(*pair)} if kind == "conflict" else set()
        marked = {_marked(*pair) for pair in pairs} if kind == "conflict" else pairs
        for source, target in sorted(marked):
            yield Latent(
                name=f"{kind}:{source}>{target}",
                mean=0.0,
                sd=SPREADS[kind][0],
                group=kind,
                domains=() if (source, target) in dialled else (source, target),
            )
    for name in sorted({name for pair in together for name in pair}):
        prior = calibration.parameters["dispersion"].prior
        yield _latent(f"dispersion:{name}", prior, "lognormal", (name,))


def _marked(source: str, target: str) -> tuple[str, str]:
    """The pair itself, of ambiguous rivals the pair with every prompt marked: the dial's own curve is the rest."""
    return (unambiguous(source), unambiguous(target)) if rivalry(source, target) else (source, target)


def _met(tree: Tree, *, inside: bool) -> Iterator[tuple[str, str]]:
    for stage in tree.recipe.stages:
        if inside and isinstance(stage, Rl | Distill):
            yield from permutations(stage.domains, 2)
        elif not inside and isinstance(stage, Rl):
            yield from ((a, b) for a in stage.domains for b in tree.domains if b not in stage.domains)


def _of_tree(place: int, tree: Tree) -> Iterator[Latent]:
    for name, row in tree.domains.items():
        mean = float(logit(row.start.value))
        yield Latent(
            name=f"start{place}:{name}",
            mean=mean,
            sd=START_SD,
            distribution="logit",
            domains=(name,),
            tree=place,
        )


def _trained(tree: Tree) -> set[str]:
    return {name for stage in tree.recipe.stages if not isinstance(stage, Merge) for name in stage.domains}


def _facts(tree: Tree, key: str) -> dict[str, float]:
    return {name: getattr(row, key).value for name, row in tree.domains.items()}
