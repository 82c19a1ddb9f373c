"""Domains: where a base starts, how far RL can take it, how fast, and how long answers are, each with its
evidence.

`domain("math")` reads the sourced table `data/domains.toml`; a trainer's spec such as "sort?length=4-7" finds
the row of its name. What a user knows better replaces a field (`Domain.with_facts`). Scores and speeds belong
to their domain and scope ("tiny", "small", "frontier") and are never carried to another.
Leaves out: how domains act on each other (`mopdsim.quality.step`) and the draws of an estimate
(`mopdsim.belief.calibration`).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args

from mopdsim.base.documents import DATA, known_keys, pair_of, whole
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean

Grade = Literal["measured", "published", "fitted", "prior"]
GRADES: tuple[Grade, ...] = get_args(Grade)
Scope = Literal["tiny", "small", "frontier"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, its standard deviation, and its evidence. The owner documents the scale of the sd
    (probability or ln)."""

    value: float
    sd: float
    grade: Grade
    source: str

    @classmethod
    def between(cls, low: float, high: float, *, grade: Grade, source: str) -> Estimate:
        """A normal through P10 and P90."""
        return cls(value=(low + high) / 2, sd=(high - low) / (2 * P90), grade=grade, source=source)

    @classmethod
    def times(cls, low: float, high: float, *, grade: Grade, source: str) -> Estimate:
        """A lognormal through P10 and P90."""
        spread = math.log(high / low) / (2 * P90)
        return cls(value=math.sqrt(low * high), sd=spread, grade=grade, source=source)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One domain, `name` as the recipe calls it and `row` as the table does. The sd of `start`, `asymptote`
    and `demonstrated` is in probability, of the others in ln.

    start: pass rate of the base. asymptote: pass rate that RL on this domain alone tends to. demonstrated:
    pass rate that imitating the demonstrations tends to. midpoint: RL compute at half of the gain, in FLOPs
    per active parameter. steepness: exponent B of the curve. distill_tokens: gradient tokens that close a
    distillation's gap to 1/e. length_sigma: shape of the lognormal of response lengths, whose mean is
    `response_tokens` (all turns). tool_tokens: what tools and environments write into an episode, all turns: read,
    scored and carried along, never sampled nor learned. environment_seconds: verifier or environment time of one turn.
    model: whose scores these are, empty where the scope's studies have one model of their own. kinds: of a row that
    stands for many tasks, the names that may follow its colon; none: any may.
    """

    name: str
    row: str
    scope: Scope
    start: Estimate
    asymptote: Estimate
    demonstrated: Estimate
    midpoint: Estimate
    steepness: Estimate
    distill_tokens: Estimate
    prompt_tokens: Estimate
    response_tokens: Estimate
    length_sigma: Estimate
    environment_seconds: Estimate
    max_response_tokens: int
    turns: int
    tool_tokens: int = 0
    model: str = ""
    aliases: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    note: str = ""

    def with_facts(self, facts: Mapping[str, Any], *, source: str = "scenario") -> Domain:
        """The same domain with fields replaced by a user's numbers: a number (exact) or [low, high], its P10
        and P90.

        Raises UsageError for an unknown field, a score outside [0, 1], an amount that is not positive, low >
        high, a mean length above the longest.
        """
        changes: dict[str, Any] = {}
        for key, value in facts.items():
            where = f"{source}: domain {self.name!r}: {key}"
            known_keys([key], FACTS, f"{source}: domain {self.name!r}")
            if key in WHOLE:
                whole(value, where)
                changes[key] = value
            elif key in _SCORES:
                ends = pair_of(value, where, least=0.0, most=1.0)
                changes[key] = Estimate.between(*ends, grade="measured", source=source)
            else:
                ends = pair_of(value, where, least=0.0, above=True)
                changes[key] = Estimate.times(*ends, grade="measured", source=source)
        domain = replace(self, **changes)
        if "start" in changes and "demonstrated" not in changes:
            domain = replace(domain, demonstrated=_demonstrated(domain.start, domain.asymptote))
        if domain.max_response_tokens < domain.response_tokens.value:
            raise UsageError(
                f"{source}: domain {self.name!r}: max_response_tokens {domain.max_response_tokens:,} is below "
                f"response_tokens {domain.response_tokens.value:,.0f}, the mean length: raise the first or give both"
            )
        if domain.asymptote.value < domain.start.value:
            raise UsageError(
                f"{source}: domain {self.name!r}: asymptote {domain.asymptote.value:g} is below start "
                f"{domain.start.value:g}; RL tends to a score of at least the start: give both"
            )
        return domain

    def of_model(self, name: str, *, ratio: float) -> Domain:
        """The domain as a model meets it of which nobody published a start: the known model's scores, lower or higher
        in logits by `BY_SIZE` ln of the ratio of their parameters, and a start that may be anything near.

        ratio: parameters of the model over those of the one whose scores these are."""
        shift = BY_SIZE * math.log(ratio)
        source = f"no published start of {name}: that of {self.model}, moved by size and widened"

        def moved(row: Estimate, sd: float | None = None) -> Estimate:
            odds = row.value / (1 - row.value) * math.exp(shift)
            value = min(max(odds / (1 + odds), 1e-3), 1 - 1e-3)
            own = row.sd if sd is None else sd * max(value * (1 - value), 0.01)
            return Estimate(value=value, sd=own, grade="prior", source=source)

        start, asymptote = moved(self.start, UNKNOWN_START), moved(self.asymptote)
        return replace(self, start=start, asymptote=asymptote, demonstrated=_demonstrated(start, asymptote))


BY_SIZE = 0.4  # logits for each e-fold of parameters: the prior of `size_slope`
# sd in logits: models of one size differ by as much as 2507.17512's and MiMo's on one benchmark
UNKNOWN_START = 1.2
_SCORES = ("start", "asymptote", "demonstrated")
WHOLE = ("max_response_tokens", "turns", "tool_tokens")
_ESTIMATES = tuple(field.name for field in fields(Domain) if field.type == "Estimate")
FACTS = (*_ESTIMATES, *WHOLE)
P90 = 1.2815515655446004  # standard normal quantile: turns P10 to P90 into a standard deviation


@cache
def domains() -> dict[str, Domain]:
    """Every domain of the table by name; "ask:", "reasoning_gym:" and "jsonl:" stand for all specs that start
    so."""
    text = (DATA / "domains.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return {
        name: _from_row(name, {**table["default"][row["scope"]], **row})
        for name, row in table["domain"].items()
    }


@cache
def aliases() -> dict[str, str]:
    """The table's name of a domain by every name it goes by."""
    return {alias: name for name, row in domains().items() for alias in (name, *row.aliases)}


def domain(spec: str) -> Domain:
    """The domain of a spec, called by the spec. NotFoundError with the nearest name where the table has
    none, or its row no such kind.
    """
    name = spec.partition("?")[0]
    scheme, colon, kind = name.partition(":")
    found = aliases().get(scheme + colon)
    if found is None:
        raise NotFoundError(f"domain {name!r} is not in the table{did_you_mean(name, aliases())}")
    row = domains()[found]
    if row.kinds and kind not in row.kinds:
        raise NotFoundError(f"domain {name!r}: {scheme} has no task {kind!r}{did_you_mean(kind, row.kinds)}")
    return replace(row, name=spec)


def scope_of(chosen: Mapping[str, Domain]) -> Scope:
    """The widest scope among the domains: one frontier domain makes a frontier forecast."""
    return max((row.scope for row in chosen.values()), key=SCOPES.index)


def _from_row(name: str, row: Mapping[str, Any]) -> Domain:
    values: dict[str, Any] = {
        "name": name,
        "row": name,
        "aliases": tuple(row.get("aliases", ())),
        "kinds": tuple(row.get("kinds", ())),
        "note": row.get("note", ""),
    }
    for key, value in row.items():
        if key in _ESTIMATES:
            number, sd, grade, source = value
            values[key] = Estimate(value=float(number), sd=float(sd), grade=grade, source=source)
        elif key not in values:
            values[key] = value
    values.setdefault("demonstrated", _demonstrated(values["start"], values["asymptote"]))
    return Domain(**values)


def _demonstrated(start: Estimate, asymptote: Estimate) -> Estimate:
    """The score after imitation where nobody measured it: a quarter of the way from start to asymptote, with
    an sd of the same length.
    """
    gap = asymptote.value - start.value
    return Estimate(
        value=start.value + gap / 4,
        sd=gap / 4,
        grade="prior",
        source="a quarter of the gap from start to asymptote",
    )
