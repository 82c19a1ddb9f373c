"""Domains: where a base starts, how far RL can take it, how fast, and how long answers are, each with its evidence;
the dials of a domain's spec; which domains are rivals, and what no model can score on two of these.

`domain("math")` reads the sourced table `data/domains.toml`; a trainer's spec such as "sort?length=4-7" finds
the row of its name. What a user knows better replaces a field (`Domain.with_facts`). Scores and speeds belong
to their domain and scope ("tiny", "small", "frontier") and are never carried to another.

A dial is an option of a spec ("sort?ambiguity=0.5"); one that a spec leaves out is at 0. Between two studied settings
what is known is taken in proportion to the inverse of the distance. Two rival domains ask the same prompts and want
different answers; the dial `ambiguity`, d from 0 to 1, is the probability that a prompt does not say which is meant,
and then no answer is right for both. Over the two domains in equal shares one model therefore scores at most 1 - d / 2,
whatever it was trained on; on one of them alone it may score 1. Every model of a walk is held to this bound in every
draw, and where nothing exceeds it nothing moves.
Leaves out: how domains act on each other (`mopdsim.quality.step`), how much less than the bound training reaches and
the draws of an estimate (`mopdsim.belief.calibration`).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from mopdsim.base.arrays import Array
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
    table = _table()
    return {
        name: _from_row(name, {**table["default"][row["scope"]], **row})
        for name, row in table["domain"].items()
    }


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((DATA / "domains.toml").read_text(encoding="utf-8"))


@cache
def aliases() -> dict[str, str]:
    """The table's name of a domain by every name it goes by."""
    return {alias: name for name, row in domains().items() for alias in (name, *row.aliases)}


def domain(spec: str) -> Domain:
    """The domain of a spec, called by the spec. NotFoundError with the nearest name where the table has
    none, or its row no such kind; UsageError for a dial that its task has not, or a value outside its range.
    """
    name = undialled(spec)
    scheme, colon, kind = name.partition(":")
    found = aliases().get(scheme + colon)
    if found is None:
        raise NotFoundError(f"domain {name!r} is not in the table{did_you_mean(name, aliases())}")
    row = domains()[found]
    if row.kinds and kind not in row.kinds:
        raise NotFoundError(f"domain {name!r}: {scheme} has no task {kind!r}{did_you_mean(kind, row.kinds)}")
    if "?" in spec:
        _check_dials(spec)
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
    }
    for key, value in row.items():
        if key in _ESTIMATES:
            number, sd, grade, source = value
            values[key] = Estimate(value=float(number), sd=float(sd), grade=grade, source=source)
        elif key not in (*values, "dials", "note"):
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


AMBIGUITY = "ambiguity"
HABIT = "habit="
RIVALS = (
    ("sort", "sort_down"),
    ("reverse", "rotate"),
    ("shift", "shift_back"),
    ("ask:smallest", "ask:largest"),
    ("ask:larger", "ask:smaller"),
    ("ask:capitals", "ask:small_letters"),
    ("ask:short", "ask:explained"),
)  # as the trainer's tasks have them
NEAREST = 2  # settings between which an unseen one lies
_SAME = 1e-9  # a nearer setting is the studied one
Rivals = tuple[tuple[int, int, float], ...]  # places of two rival domains, and the dial that both reach
TOLERANCE = 0.05  # of two measured starts' mean above the bound: a finite test's


def nearest(wanted: str, studied: Iterable[str]) -> dict[str, float]:
    """The studied specs of the same domain as `wanted` that are nearest, with weights that add up to 1; the spec itself
    alone where it was studied, none where no setting of its domain was. Starts taught by a demonstrator with a habit
    are other skills to learn, so that they are near to one another only."""
    alike = [
        spec
        for spec in studied
        if undialled(spec) == undialled(wanted) and (HABIT in spec) == (HABIT in wanted)
    ]
    apart = sorted((_apart(dials(wanted), dials(spec)), spec) for spec in alike)[:NEAREST]
    if apart and apart[0][0] < _SAME:
        return {apart[0][1]: 1.0}
    whole = sum(1 / distance for distance, _ in apart)
    return {spec: 1 / distance / whole for distance, spec in apart}


def between(weights: Mapping[str, float], drawn: Mapping[str, Array], *, positive: bool = False) -> Array:
    """The weighted mean of draws, of their logarithms where they are positive by nature. (N,)"""
    if positive:
        return np.exp(sum(weight * np.log(drawn[name]) for name, weight in weights.items()))
    return np.asarray(sum(weight * drawn[name] for name, weight in weights.items()))


def dials_of(name: str) -> dict[str, tuple[float, float]]:
    """Least and most of each dial of a task: its own, and those of all tasks of the trainer. None for a domain that the
    trainer has no task of. Tasks of `OPEN` have more than these."""
    scheme, colon, kind = name.partition(":")
    row = _table()["domain"].get(aliases().get(scheme + colon), {})
    if "dials" not in row and not colon:
        return {}
    kinds = row.get("kinds", {})
    own = row.get("dials", kinds.get(kind, {}) if isinstance(kinds, Mapping) else {})
    return {key: (least, most) for key, (least, most) in {**_table()["dials"], **own}.items()}


OPEN = ("reasoning_gym:", "jsonl:")  # whose tasks have dials that only they know
_SPAN = "length"  # the dial that may be a range, low-high


def _check_dials(spec: str) -> None:
    """As the trainer checks them."""
    name, given = undialled(spec), dials(spec)
    known = dials_of(name)
    if len(given) < len(spec.partition("?")[2].split("&")) and not spec.endswith("?"):
        raise UsageError(
            f"domain {spec!r}: a dial is given twice, or is empty: write NAME?key=value&key=value"
        )
    for key, text in given.items():
        where = f"domain {spec!r}: {key}"
        if key not in known:
            if name.startswith(OPEN):
                continue
            hint = (
                did_you_mean(key, known) or f": give a domain of your own another name, and like = {name!r}"
            )
            raise UsageError(f"{where} is not a dial of {name}{hint}")
        least, most = known[key]
        ends = text.split("-") if key == _SPAN else [text]
        try:
            values = [type(least)(end) for end in ends]
        except ValueError:
            values = []
        if len(values) not in (1, 2) or not least <= values[0] <= values[-1] <= most:
            what = "a whole number" if isinstance(least, int) else "a number"
            ranged = (
                f", or a range low-high within them, such as {key}={least}-{most}" if key == _SPAN else ""
            )
            raise UsageError(f"{where}={text} must be {what} from {least:g} to {most:g}{ranged}")


def ambiguity(spec: str) -> float:
    """The ambiguity of a spec, 0 where it has none. UsageError where it is not a number from 0 to 1."""
    text = dials(spec).get(AMBIGUITY, "0")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UsageError(
            f"domain {spec!r}: ambiguity = {text}: must be a number from 0 to 1, the share of unmarked prompts"
        )
    return value


def rivalry(one: str, other: str) -> float:
    """The ambiguity between two specs, the lesser one's: 0 where their domains are no rivals or ask other prompts."""
    dial = min(ambiguity(one), ambiguity(other))
    if dial == 0 or not any({undialled(one), undialled(other)} == set(pair) for pair in RIVALS):
        return 0.0
    lengths = {dials(spec).get(_SPAN) for spec in (one, other)}  # the other dials change teaching and judging
    return dial if len(lengths) == 1 else 0.0


def unambiguous(spec: str) -> str:
    """The spec with every prompt marked."""
    options = [f"{key}={value}" for key, value in dials(spec).items() if key != AMBIGUITY]
    return "?".join([undialled(spec), *(["&".join(options)] if options else [])])


def _apart(one: dict[str, str], other: dict[str, str]) -> float:
    """Sum of the dials' differences."""
    return sum(_step(one.get(key, "0"), other.get(key, "0")) for key in one.keys() | other.keys())


def _step(one: str, other: str) -> float:
    try:
        return abs(float(one) - float(other))
    except ValueError:  # a range, a word
        return float(one != other)


def undialled(spec: str) -> str:
    """A spec without its dials."""
    return spec.partition("?")[0]


def dials(spec: str) -> dict[str, str]:
    """The dials of a spec, NAME?key=value&key=value."""
    options = spec.partition("?")[2]
    return dict(option.partition("=")[::2] for option in options.split("&") if option)


def rivals_of(domains: Sequence[Domain]) -> Rivals:
    """The rival pairs among these domains. UsageError where a dial is not from 0 to 1."""
    found = []
    for place, one in enumerate(domains):
        for other_place in range(place):
            dial = rivalry(domains[other_place].name, one.name)
            if dial > 0:
                found.append((other_place, place, dial))
    return tuple(found)


def bound(dial: float) -> float:
    """The best mean score of one model over two rivals in equal shares: 1 - d / 2."""
    return 1.0 - dial / 2.0


def within_bound(score_DN: Array, rivals: Rivals, holding: Sequence[int] = ()) -> Array:
    """The scores, lowered where a pair's mean lies above its bound: those of `holding` (what a stage trained) stay and
    their rivals yield; where both or neither hold, both yield alike. Stays in [0, 1]."""
    if not rivals:
        return score_DN
    held_DN = np.array(score_DN)
    for one, other, dial in rivals:
        excess_N = np.maximum(held_DN[one] + held_DN[other] - 2 * bound(dial), 0.0)
        share = 0.5 * (1.0 + (other in holding) - (one in holding))
        held_DN[one] = held_DN[one] - share * excess_N
        held_DN[other] = held_DN[other] - (1.0 - share) * excess_N
    return held_DN


def check_starts(domains: Sequence[Domain], rivals: Rivals) -> None:
    """UsageError where the user's own start scores of two rivals are more than any model can have."""
    for one, other, dial in rivals:
        pair = domains[one], domains[other]
        if any(row.start.grade != "measured" for row in pair):
            continue
        mean = sum(row.start.value for row in pair) / 2
        if mean > bound(dial) + TOLERANCE:
            raise UsageError(
                f"domain.{pair[1].name}: start = {pair[1].start.value:g}, with {pair[0].start.value:g} of its rival "
                f"{pair[0].name!r}: their mean is at most {bound(dial):g} at ambiguity {dial:g}, whatever the model: "
                "lower one of the two"
            )
