"""What a forest should have scored at given unknowns: the walk that forecasts, at every point of evaluation.

Axes: M observation, L unknown, N member. An observation is a score in logits, or the ln of nats a token.
Leaves out: noise (`mopdsim.fit.posterior`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array, logit
from mopdsim.fit.forest import Point, Tree
from mopdsim.fit.latents import Latents
from mopdsim.quality.step import Effort, State
from mopdsim.quality.walk import Products, perform, products
from mopdsim.quality.world import World
from mopdsim.recipes.stage import BASE, AnyStage, parents

CEILING = 0.97  # a score above only says that it is above
_EDGE = 1e-4  # predictions are told apart down to here
KL_SD = 0.4  # of the ln of a measured distance
_LEAST_KL = 1e-4
_STEP = 1e-3  # of a finite difference, in prior standard deviations


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Observations in the order of `predict`. censored: only known to lie above y; series: which stage and domain, -1
    for a distance; bold: of a series, whether RL at a bold rate led to it."""

    y_M: Array
    variance_M: Array
    censored_M: NDArray[np.bool_]
    series_M: NDArray[np.intp]
    series: tuple[str, ...]
    bold_E: NDArray[np.bool_]


def observed(trees: tuple[Tree, ...]) -> Observed:
    """The scores of a forest in logits, with the variance of their finite tests; distances in ln."""
    rows: list[tuple[float, float, bool, int]] = []
    series: dict[str, int] = {}
    bold: list[bool] = []
    for place, tree in enumerate(trees):
        for point in ordered(tree):
            for score in point.scores:
                name = f"{place}/{point.stage}/{score.domain}"
                rate = (score.passed + 0.5) / (score.n + 1)
                censored = score.passed > CEILING * score.n
                shown = CEILING if censored else rate
                variance = 1 / (score.n * shown * (1 - shown))
                place_of = -1 if point.stage == BASE else series.setdefault(name, len(series))
                if place_of == len(bold):
                    bold.append(point.stage in tree.recipe.bold)
                rows.append((float(logit(shown)), variance, censored, place_of))
            if point.kl is not None:
                rows.append((float(np.log(max(point.kl, _LEAST_KL))), KL_SD**2, False, -1))
    table = np.array(rows, dtype=float)
    return Observed(
        y_M=table[:, 0],
        variance_M=table[:, 1],
        censored_M=table[:, 2] > 0,
        series_M=table[:, 3].astype(np.intp),
        series=tuple(series),
        bold_E=np.array(bold, dtype=bool),
    )


def predict(latents: Latents, x_LN: Array) -> Array:
    """Every observation at every member, (M, N)."""
    found = [_of_tree(latents, place, x_LN) for place in range(len(latents.trees))]
    return np.concatenate(found)


def linearised(latents: Latents, x_L: Array, step_L: Array | None = None) -> tuple[Array, Array]:
    """The observations at x, (M,), and their slopes by finite differences to both sides, (M, L): one walk of a tree for
    all. step_L: their half-widths; a wide one sees the curve that an unknown's uncertainty spans."""
    values, slopes = [], []
    step_L = _STEP * latents.sd_L if step_L is None else step_L
    for place in range(len(latents.trees)):
        chosen = latents.of_tree(place)
        count = len(chosen)
        x_LN = np.repeat(x_L[:, None], 2 * count + 1, axis=1)
        x_LN[chosen, np.arange(count)] += step_L[chosen]
        x_LN[chosen, np.arange(count, 2 * count)] -= step_L[chosen]
        found_MN = _of_tree(latents, place, x_LN)
        slope_ML = np.zeros((len(found_MN), len(x_L)))
        slope_ML[:, chosen] = (found_MN[:, :count] - found_MN[:, count:-1]) / (2 * step_L[chosen])
        values.append(found_MN[:, -1])
        slopes.append(slope_ML)
    return np.concatenate(values), np.concatenate(slopes)


def ordered(tree: Tree) -> list[Point]:
    """Points at the end of stages first, then those on the way, stage by stage."""
    ends = [point for point in tree.points if point.effort is None]
    return ends + [point for point, _ in _on_the_way(tree)]


def _on_the_way(tree: Tree) -> Iterator[tuple[Point, int]]:
    for stage in tree.recipe.stages:
        own = [point for point in tree.points if point.stage == stage.name and point.effort is not None]
        yield from ((point, place) for place, point in enumerate(own))


def _of_tree(latents: Latents, place: int, x_LN: Array) -> Array:
    tree, world = latents.trees[place], latents.world(place, x_LN)
    index = world.index
    rows: list[Array] = []
    made = products(tree.recipe, world, tree.efforts, explain=False)
    for point in tree.points:
        if point.effort is None:
            rows += _rows(point, made.states[point.stage], 0, index)
    partial: dict[str, State] = {}
    for point, turn in _on_the_way(tree):
        if point.stage not in partial:
            partial[point.stage] = _partial(tree, world, made, point.stage)
        rows += _rows(point, partial[point.stage], turn, index)
    return np.stack(rows)


def _partial(tree: Tree, world: World, made: Products, name: str) -> State:
    """A stage at each of its points on the way, which take the place of the axis of one."""
    own = [point.effort for point in tree.points if point.stage == name and point.effort is not None]
    effort = Effort(
        compute_N=np.stack([one.compute_N for one in own]), tokens_N=np.stack([one.tokens_N for one in own])
    )
    stage = tree.recipe.stage[name]
    before = {known: _repeated(made.states[known], len(own)) for known in _lineages(stage, made)}
    given = Products(states=before, judges=made.judges, datasets=made.datasets)
    amounts = tree.recipe.amounts.get(name)
    state = perform(stage, amounts, tree.recipe.amounts_name, world, effort, given)
    assert isinstance(state, State)  # only policies are evaluated on their way
    return state


def _lineages(stage: AnyStage, made: Products) -> set[str]:
    """The models that a stage starts or learns from, and all that those grew from."""
    direct = [name for name in parents(stage) if name in made.states]
    return {BASE, *direct, *(name for parent in direct for name in made.states[parent].lineage)}


def _repeated(state: State, count: int) -> State:
    """The state at every point: (D, P, N)."""
    domains, _, members = state.score_DN.shape
    return replace(
        state,
        score_DN=np.broadcast_to(state.score_DN, (domains, count, members)),
        kl_N=np.broadcast_to(state.kl_N, (count, members)),
    )


def _rows(point: Point, state: State, turn: int, index: dict[str, int]) -> Iterator[Array]:
    """A point's predictions, (N,) each."""
    for score in point.scores:
        score_N = state.score_DN[index[score.domain], turn]
        yield logit(np.clip(score_N, _EDGE, 1 - _EDGE))
    if point.kl is not None:
        yield np.log(np.maximum(state.kl_N[turn], _LEAST_KL))
