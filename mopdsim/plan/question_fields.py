"""The rules of a question's keys: each breach is one sentence with the field, the value, the rule and the remedy.

Leaves out: keys that a scenario file has too (`mopdsim.forecast.scenario_checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopdsim.base.checks import number, table
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.domains import domain
from mopdsim.forecast.scenario import Scenario


def new_domains(given: Any, source: str) -> None:
    """A domain of one's own says which of the table it resembles."""
    for name, row in table(given, f"{source}: domain").items():
        if isinstance(row, Mapping) and "like" not in row:
            try:
                domain(name)
            except NotFoundError as error:
                raise NotFoundError(
                    f'{source}: [domain.{name}]: {error}; for a new one add like = "NAME" of one that it resembles'
                ) from None


def one_of(document: Mapping[str, Any], key: str, known: tuple[Any, ...], default: str, source: str) -> Any:
    value = document.get(key, default)
    if value not in known:
        raise UsageError(f"{source}: {key} = {value!r}: no such {key}{did_you_mean(str(value), known)}")
    return value


def by_domain(
    document: Mapping[str, Any], key: str, base: Scenario, source: str, *, most: float, above: bool = False
) -> dict[str, float]:
    given = document.get(key, {})
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{source}: {key} = {given!r}: must be a table by domain: [{key}], then {base.recipe.domains[0]} = 0.5"
        )
    for name, value in given.items():
        if name not in base.recipe.domains:
            raise UsageError(
                f"{source}: {key}.{name}: no such domain{did_you_mean(name, base.recipe.domains)}"
            )
        number(value, f"{source}: {key}.{name}", least=0.0, most=most, above=above)
    return dict(given)


def releases(document: Mapping[str, Any], base: Scenario, source: str) -> tuple[tuple[str, ...], ...]:
    given = document.get("portfolio", [])
    shape = (
        f'{source}: portfolio = {given!r}: must be a list of releases, such as [["math"], ["code", "swe"]]'
    )
    if not isinstance(given, list) or not all(isinstance(release, list) and release for release in given):
        raise UsageError(shape)
    for release in given:
        for name in release:
            if name not in base.recipe.domains:
                raise UsageError(
                    f"{source}: portfolio: no domain {name!r}{did_you_mean(str(name), base.recipe.domains)}"
                )
    return tuple(tuple(release) for release in given)
