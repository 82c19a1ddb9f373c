"""What the published systems have in common: equal shares, usual domains, amounts. Leaves out: their structures."""

from __future__ import annotations

from collections.abc import Sequence

from mopdsim.base.errors import UsageError
from mopdsim.recipes import published
from mopdsim.recipes.amounts import Amounts, AmountsName
from mopdsim.recipes.parts import SpendingStage, assemble, named_amounts
from mopdsim.recipes.recipe import AnyStage, Recipe

_SHARED_BY = 3  # domains that the named sets' steps suffice for


def equal_shares(domains: Sequence[str]) -> dict[str, float]:
    """The same share for each domain."""
    return dict.fromkeys(domains, 1.0)


def chosen(
    option: str, given: Sequence[str] | None, domains: Sequence[str], usual: Sequence[str], count: int
) -> list[str]:
    """The domains of an option: as given, else the usual ones among `domains`, else its last `count`."""
    if given is None:
        return [domain for domain in domains if domain in usual] or list(domains[len(domains) - count :])
    for domain in given:
        if domain not in domains:
            raise UsageError(f"{option} names {domain!r}: must be among {', '.join(domains)}")
    return list(given)


def system_of(
    name: str,
    domains: Sequence[str],
    amounts: AmountsName,
    stages: Sequence[AnyStage],
    *,
    side_outputs: Sequence[str] = (),
) -> Recipe:
    """The system over these domains: the named set's steps stretched with the domains of a stage, or published ones."""

    def amounts_of(stage: SpendingStage, amounts: AmountsName) -> Amounts:
        if amounts == "published":
            return published.amounts(name, stage.name)
        return named_amounts(stage, amounts).scaled(max(1.0, len(stage.domains) / _SHARED_BY))

    return assemble(name, domains, amounts, stages, amounts_of=amounts_of, side_outputs=side_outputs)
