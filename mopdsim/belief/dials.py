"""For a domain spec with dials: the studied specs of the same domain whose dials are nearest to it; its rivals; and
what no model can score on two of these.

A dial is an option of a spec ("sort?ambiguity=0.5"); one that a spec leaves out is at 0. Between two studied settings
what is known is taken in proportion to the inverse of the distance. Two rival domains ask the same prompts and want
different answers; the dial `ambiguity`, d from 0 to 1, is the probability that a prompt does not say which is meant,
and then no answer is right for both. Over the two domains in equal shares one model therefore scores at most 1 - d / 2,
whatever it was trained on; on one of them alone it may score 1. Every model of a walk is held to this bound in every
draw, and where nothing exceeds it nothing moves. Leaves out: domains of another name, and how much less than the bound
training reaches (`mopdsim.belief.calibration`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.facts.domains import Domain

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
_ASKED = (AMBIGUITY, "length")  # the options that change prompts; the others change teaching and judging
NEAREST = 2  # settings between which an unseen one lies
_SAME = 1e-9  # a nearer setting is the studied one
Rivals = tuple[tuple[int, int, float], ...]  # places of two rival domains, and the dial that both reach
TOLERANCE = 0.05  # of two measured starts' mean above the bound: a finite test's


def nearest(wanted: str, studied: Iterable[str]) -> dict[str, float]:
    """The studied specs of the same domains as `wanted` (one spec, or a pair "a>b") that are nearest, with weights that
    add up to 1; the spec itself alone where it was studied, none where no setting of its domains was. Starts taught by
    a demonstrator with a habit are other skills to learn, so that they are near to one another only."""
    alike = [spec for spec in studied if (HABIT in spec) == (HABIT in wanted)]
    apart = sorted((distance, spec) for spec in alike if (distance := _distance(wanted, spec)) is not None)[
        :NEAREST
    ]
    if apart and apart[0][0] < _SAME:
        return {apart[0][1]: 1.0}
    whole = sum(1 / distance for distance, _ in apart)
    return {spec: 1 / distance / whole for distance, spec in apart}


def by_domains(specs: Iterable[str]) -> dict[str, list[str]]:
    """The specs by their domains without dials: only those of one group can be near each other."""
    found: dict[str, list[str]] = {}
    for spec in specs:
        found.setdefault(undialled(spec), []).append(spec)
    return found


def undialled(spec: str) -> str:
    """A spec, or a pair "a>b", without its dials."""
    return ">".join(_row(part) for part in spec.split(">"))


def between(weights: Mapping[str, float], drawn: Mapping[str, Array], *, positive: bool = False) -> Array:
    """The weighted mean of draws, of their logarithms where they are positive by nature. (N,)"""
    if positive:
        return np.exp(sum(weight * np.log(drawn[name]) for name, weight in weights.items()))
    return np.asarray(sum(weight * drawn[name] for name, weight in weights.items()))


def ambiguity(spec: str) -> float:
    """The ambiguity of a spec, 0 where it has none. UsageError where it is not a number from 0 to 1."""
    text = _dials(spec).get(AMBIGUITY, "0")
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
    if dial == 0 or not any({_row(one), _row(other)} == set(pair) for pair in RIVALS):
        return 0.0
    asked = [
        {key: value for key, value in _dials(spec).items() if key in _ASKED[1:]} for spec in (one, other)
    ]
    return dial if asked[0] == asked[1] else 0.0


def unambiguous(spec: str) -> str:
    """The spec with every prompt marked."""
    options = [f"{key}={value}" for key, value in _dials(spec).items() if key != AMBIGUITY]
    return "?".join([_row(spec), *(["&".join(options)] if options else [])])


def _distance(one: str, other: str) -> float | None:
    """Sum of the dials' differences; None between other domains."""
    parts = list(zip(one.split(">"), other.split(">"), strict=False))
    if one.count(">") != other.count(">") or any(_row(a) != _row(b) for a, b in parts):
        return None
    return sum(_apart(_dials(a), _dials(b)) for a, b in parts)


def _apart(one: dict[str, str], other: dict[str, str]) -> float:
    return sum(_step(one.get(key, "0"), other.get(key, "0")) for key in one.keys() | other.keys())


def _step(one: str, other: str) -> float:
    try:
        return abs(float(one) - float(other))
    except ValueError:  # a range, a word
        return float(one != other)


def _row(spec: str) -> str:
    return spec.partition("?")[0]


def _dials(spec: str) -> dict[str, str]:
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
