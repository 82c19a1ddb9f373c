"""What a recipe is, whatever it is called: its strategy by how it ends, the domains it was trained on, and what the
simple rules see of it.

Leaves out: what it was run for (`studies.framework.study`).
"""

from __future__ import annotations

from collections.abc import Mapping

from mopdsim.recipes.recipe import Distill, Merge, Recipe, Rl
from studies.honest.baselines import Cell


def strategy_of(recipe: Recipe) -> str:
    """A name of the catalogue, or `mopd_then_rl`; a recipe that ends otherwise is called by its last stage's kind."""
    last = recipe.stage[recipe.output]
    if isinstance(last, Merge):
        return "merge"
    if isinstance(last, Distill):
        return "mopd" if last.on_policy else "off_policy"
    if not isinstance(last, Rl):
        return last.kind
    earlier = [recipe.stage[name] for name in recipe.ancestors(recipe.output) if name in recipe.stage]
    if any(isinstance(stage, Distill) for stage in earlier):
        return "mopd_then_rl"
    if any(isinstance(stage, Rl) for stage in earlier):
        return "cascade_rl"
    return "mixed_rl" if len(last.domains) > 1 else "single_domain"


def trained(recipe: Recipe) -> tuple[str, ...]:
    """The domains that the output or what it was made from was trained on, in the recipe's order."""
    lineage = {recipe.output, *recipe.ancestors(recipe.output)}
    touched = {
        d for name in lineage & recipe.stage.keys() for d in getattr(recipe.stage[name], "domains", {})
    }
    return tuple(domain for domain in recipe.domains if domain in touched)


def cell_of(
    recipe: Recipe,
    domain: str,
    *,
    start: Mapping[str, float],
    specialist: Mapping[str, Mapping[str, float]],
    last: float | None = None,
) -> Cell:
    """One domain's score at the end of a recipe, as a rule sees it; measured scores as in `Cell`."""
    output = recipe.stage[recipe.output]
    return Cell(
        strategy=strategy_of(recipe),
        domain=domain,
        trained=trained(recipe),
        start=start,
        specialist=specialist,
        merge_scale=output.scale if isinstance(output, Merge) else None,
        last=last,
    )
