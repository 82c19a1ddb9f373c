"""Simple rules that a forecast of scores has to beat, each from what was measured before the forecast run.

A rule that does not speak of a cell says None; `said` then asks a simpler one, so that every rule can be judged on all
cells. Of a recipe a rule sees the strategy, told by how it ends and not by its name, and the domains it was trained on.
Where a rule wins, it is shipped instead, and the log says so. Leaves out: scoring them (`studies.honest.held_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Distill, Merge, Rl

RECOVERY = {"mixed_rl": 0.47, "merge": 0.65, "mopd": 0.70}  # of the specialists' headroom, published means


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A score to forecast: of `domain` after `strategy` (a catalogue name) on the domains `trained`.

    start: scores before. specialist: scores of each domain's own specialist, on all domains. merge_scale: lambda.
    last: the score of the model that the run's last stage starts from.
    """

    strategy: str
    domain: str
    trained: tuple[str, ...]
    start: Mapping[str, float]
    specialist: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    merge_scale: float | None = None
    last: float | None = None

    @property
    def known(self) -> bool:
        """Whether a specialist of every trained domain was measured."""
        return all(domain in self.specialist for domain in self.trained)

    def transfer(self, source: str) -> float:
        """T_jd: change of this domain when `source` alone was trained."""
        return self.specialist[source][self.domain] - self.start[self.domain]


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


Rule = Callable[[Cell], float | None]


def no_change(cell: Cell) -> float:
    """The score stays what it was."""
    return cell.start[cell.domain]


def own_expert(cell: Cell) -> float | None:
    """The own expert's score in the trained set, the start outside it."""
    if cell.domain not in cell.trained:
        return cell.start[cell.domain]
    return cell.specialist[cell.domain][cell.domain] if cell.domain in cell.specialist else None


def mopd_equals_teacher(cell: Cell) -> float | None:
    """A distilled student scores what its teacher scores; of nothing else does this speak."""
    return own_expert(cell) if cell.strategy == "mopd" and cell.domain in cell.trained else None


def constant_recovery(cell: Cell) -> float | None:
    """Start plus a published share of the specialist's headroom, one for each strategy."""
    return recovered(cell, RECOVERY.get(cell.strategy))


def recovered(cell: Cell, share: float | None) -> float | None:
    """Start plus a share of the specialist's headroom."""
    expert, start = own_expert(cell), cell.start[cell.domain]
    return None if expert is None or share is None else start + share * (expert - start)


def additive_transfer(cell: Cell) -> float | None:
    """q0 + sum over the trained domains j of T_jd, within [0, 1]."""
    if not cell.known:
        return None
    return _clipped(cell.start[cell.domain] + sum(map(cell.transfer, cell.trained)))


def additive_merge(cell: Cell) -> float | None:
    """Of a merge: q0 + lambda sum of T_jd, within [0, 1]."""
    if cell.strategy != "merge" or cell.merge_scale is None or not cell.known:
        return None
    return _clipped(cell.start[cell.domain] + cell.merge_scale * sum(map(cell.transfer, cell.trained)))


def last_checkpoint(cell: Cell) -> float | None:
    """The last stage changes nothing: a round or a cascade ends where the stage before it ended."""
    return cell.last


BASELINES: Mapping[str, Rule] = {
    "no change": no_change,
    "own expert in set, base otherwise": own_expert,
    "MOPD equals teacher": mopd_equals_teacher,
    "constant recovery per strategy": constant_recovery,
    "additive merge": additive_merge,
    "last checkpoint": last_checkpoint,
    "additive transfer": additive_transfer,
}


def said(rule: Rule, cell: Cell) -> float:
    """What a rule says of a cell; where it does not speak, the own expert; where none was measured, the start."""
    for each in (rule, own_expert):
        if (value := each(cell)) is not None:
            return value
    return no_change(cell)


def _clipped(value: float) -> float:
    return min(max(value, 0.0), 1.0)
