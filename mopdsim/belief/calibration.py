"""Calibration: every parameter of the quality model with its uncertainty, grade, source and scope, and its draws.

A parameter's draws come from a stream of random numbers that depends on its name and the seed alone, so that two
recipes see the same world (common random numbers), a new parameter shifts no other, and a longer draw begins with the
shorter. What studies of one scope found holds there; in another scope it moves centre and width of a parameter marked
`shape` together, after its variance is inflated by the spread between public studies, or widens it where the two
conflict. Everything else keeps its prior.

The error of the model form is how far the model's forecasts miss scores of runs that its fit has not seen: Student's t
with four degrees of freedom, in logits, of the scale `model_error` that a calibration holds for a scope: that of the
fit, and that of small open models, which no fit has seen and studies have measured. At a lab's scale nobody has, and a
forecast carries none. What RL at a bold rate led to has a scale of its own where bold rates were measured,
`bold_error`; so have scores decoded greedily, `greedy_error`, which studies ask for where the start and specialists
were scored greedily too. All are of bases whose start was scored. Where the start of a base that nobody scored is taken
from studies of other bases, the error is `unscored_factor` times as wide.

Leaves out: draws put together for a recipe (`mopdsim.quality.world`), fitting (`mopdsim.fit.quality`) and finding the
error's scales, cost constants (`mopdsim.cost`), the table of domains (`mopdsim.facts.domains`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.base.documents import DATA, json_document, known_keys, number, table
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.domains import (
    GRADES,
    SCOPES,
    Domain,
    Estimate,
    Scope,
    between,
    nearest,
    rivalry,
    unambiguous,
)

Distribution = Literal["normal", "lognormal", "logit", "student"]
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)

SHIPPED = DATA / "calibration.json"
SCHEMA_VERSION = 2
CONFLICTING = 2.0  # standard deviations between a prior and what another scope's studies found
Transfer = Literal["nothing", "moved", "widened"]
CONSTANTS = (
    "batch_exponent", "size_exponent", "size_slope", "start_slope", "staleness_cost", "seed_sd",
    "breaking_rate", "breaking_power", "breaking_size",
    "conflict_share", "ambiguity_conflict", "ambiguity_spill", "climb_kl", "forgetting",
    "companion_lift", "inherited_bias", "reward_gain", "extrapolation_benefit", "collapse_middle",
    "merge_exponent",
    "fidelity_pairs", "overoptimisation_kl", "kl_coefficient_at_peak", "best_of_peak_kl", "prompt_spread",
    "imitated_choice", "preference_share",
)  # fmt: skip
# of rivals
ALONG_THE_DIAL: Mapping[str, str] = {"conflict": "ambiguity_conflict", "spill": "ambiguity_spill"}
# in two studies or more
PUBLISHED_STRATEGIES = ("merge_average", "merge_sum", "mixed_rl", "mopd", "off_policy")
FACTS: Mapping[str, Distribution] = {  # of domains, that studies find
    "start": "logit",
    "asymptote": "logit",
    "demonstrated": "logit",
    "midpoint": "lognormal",
    "steepness": "lognormal",
    "distill_tokens": "lognormal",
}
MODEL_ERROR = "model_error"
BOLD_ERROR = "bold_error"
GREEDY_ERROR = "greedy_error"
FORM_ERRORS = (MODEL_ERROR, BOLD_ERROR)
UNSCORED = "unscored_factor"
_EDGE = 1e-4  # as near to 0 and 1 as the fit tells scores apart
_UNIT = Estimate(value=0.0, sd=1.0, grade="prior", source="")
DEGREES = 4  # of Student's t


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How the errors of parameters go together: streams in an order, and the correlation matrix of that order."""

    names: tuple[str, ...]
    matrix_KK: Array

    @cached_property
    def _mixture(self) -> dict[str, Array]:
        """By name, weights of the streams up to it: a row of the Cholesky factor. Rounding may have left the matrix a
        little below positive definite: the diagonal is then raised."""
        least = float(np.linalg.eigvalsh(self.matrix_KK)[0])
        matrix_KK = self.matrix_KK + max(0.0, 1e-9 - least) * np.eye(len(self.names))
        factor_KK = np.linalg.cholesky(matrix_KK / matrix_KK[0, 0])
        return {name: factor_KK[place, : place + 1] for place, name in enumerate(self.names)}

    def noise(self, name: str, seed: int, draws: int) -> Array:
        """Standard normal draws of a parameter, (N,), correlated with the others'; of its own stream if unknown."""
        if name not in self._mixture:
            return standard_normal(name, seed, draws)
        weights = self._mixture[name]
        streams = (standard_normal(each, seed, draws) for each in self.names)
        return sum(
            (weight * stream_N for weight, stream_N in zip(weights, streams, strict=False)), np.zeros(draws)
        )


def in_logits(score: Estimate) -> Estimate:
    """A score's sd carried from probability to logits."""
    slope = max(score.value * (1 - score.value), 0.01)
    return Estimate(value=score.value, sd=score.sd / slope, grade=score.grade, source=score.source)


def scaled(distribution: Distribution, value: float) -> float:
    """A value on the scale on which its sd is stated: plain, ln or logit."""
    if distribution == "lognormal":
        return math.log(value)
    return float(logit(value)) if distribution == "logit" else value


def unscaled(distribution: Distribution, x: Array) -> Array:
    """From that scale to the value's own."""
    if distribution == "lognormal":
        return np.exp(x)
    return logistic(x) if distribution == "logit" else x


def sample(estimate: Estimate, distribution: Distribution, key: str, *, seed: int, draws: int) -> Array:
    """Draws of an estimate, (N,)."""
    return transformed(estimate, distribution, standard_normal(key, seed, draws), key, seed)


def transformed(estimate: Estimate, distribution: Distribution, noise_N: Array, key: str, seed: int) -> Array:
    """An estimate's draws from standard normal ones, (N,)."""
    draws = len(noise_N)
    if estimate.sd == 0:
        return np.full(draws, estimate.value)
    if distribution == "normal":
        return estimate.value + estimate.sd * noise_N
    if distribution == "lognormal":
        return estimate.value * np.exp(estimate.sd * noise_N)
    if distribution == "logit":
        return logistic(logit(estimate.value) + estimate.sd * noise_N)
    chi_N = sum(standard_normal(f"{key}/{index}", seed, draws) ** 2 for index in range(DEGREES))
    return estimate.value + estimate.sd * noise_N / np.sqrt(chi_N / DEGREES)


@lru_cache(maxsize=8192)
def standard_normal(key: str, seed: int, draws: int) -> Array:
    """Standard normal draws, (N,), that depend on (key, seed) alone; a longer draw begins with the
    shorter.
    """
    noise_N = _stream(key, seed).standard_normal(draws)
    noise_N.flags.writeable = False
    return noise_N


@lru_cache(maxsize=256)
def uniform(key: str, seed: int, draws: int) -> Array:
    """Uniform draws in [0, 1), (N,), likewise."""
    luck_N = _stream(key, seed).random(draws)
    luck_N.flags.writeable = False
    return luck_N


def _stream(key: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A prior, and what studies of a scope found.

    The sd is of the value (normal, student: the scale), of its ln (lognormal) or of its logit (logit).
    `shape` parameters transfer between scopes, with `between_sd` added, the spread between public studies on
    the same scale.
    """

    prior: Estimate
    distribution: Distribution
    shape: bool = False
    between_sd: float = 0.0
    studies: Mapping[Scope, Estimate] = field(default_factory=dict)

    def at(self, scope: Scope) -> Estimate:
        """What holds at this scope: what its studies found, else the prior with what other scopes' studies say of a
        shape (`transferred`)."""
        if scope in self.studies:
            return self.studies[scope]
        return self.transferred()[0]

    def transferred(self) -> tuple[Estimate, Transfer]:
        """What another scope's studies make of the prior. A shape's centre and width move together, as the two
        estimates weigh (the found one's variance grows by that between public studies). Where they lie more than
        `CONFLICTING` standard deviations apart, the centre stays and the width grows until the found value lies at
        that distance: tiny models then say that one knows less, not what holds. Nothing else transfers."""
        if not (self.shape and self.studies) or self.prior.sd == 0:
            return self.prior, "nothing"
        found = min(self.studies.values(), key=lambda estimate: estimate.sd)
        middle, other = (scaled(self.distribution, row.value) for row in (self.prior, found))
        apart, spread = abs(other - middle), max(math.hypot(found.sd, self.between_sd), 1e-9)
        if apart > CONFLICTING * math.hypot(self.prior.sd, spread):
            wider = replace(self.prior, sd=math.hypot(self.prior.sd, apart / CONFLICTING))
            return replace(wider, source=f"{self.prior.source}; widened by {found.source}"), "widened"
        weight = spread**-2 / (self.prior.sd**-2 + spread**-2)
        value = float(unscaled(self.distribution, np.asarray(middle + weight * (other - middle))))
        sd = (self.prior.sd**-2 + spread**-2) ** -0.5
        source = f"{self.prior.source}; moved by {found.source}"
        return Estimate(value=value, sd=sd, grade=self.prior.grade, source=source), "moved"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Named parameters. "conflict" and "spill" are of any pair of domains, each pair on a stream of its own.

    facts: what studies of a scope found of domains, as `Domain` has it: by scope, domain and field.
    """

    name: str
    parameters: Mapping[str, Parameter]
    facts: Mapping[Scope, Mapping[str, Mapping[str, Estimate]]] = field(default_factory=dict)
    correlations: Mapping[Scope, Correlation] = field(default_factory=dict)

    def parameter(self, name: str) -> Parameter:
        """The parameter called `name`. NotFoundError where there is none."""
        if name not in self.parameters:
            raise NotFoundError(
                f"calibration {self.name!r} has no parameter {name!r}{did_you_mean(name, self.parameters)}"
            )
        return self.parameters[name]

    def unfitted(self) -> Calibration:
        """The priors alone, without what studies found."""
        parameters = {name: replace(row, studies={}) for name, row in self.parameters.items()}
        return replace(self, parameters=parameters, facts={}, correlations={})

    def draw(self, name: str, scope: Scope, *, seed: int, draws: int, key: str | None = None) -> Array:
        """Draws of a parameter, (N,). `key` names the stream where several share one prior (default: the
        name).
        """
        parameter, stream = self.parameter(name), key or name
        noise_N = self._noise(stream, scope, seed, draws)
        return transformed(parameter.at(scope), parameter.distribution, noise_N, stream, seed)

    def _noise(self, stream: str, scope: Scope, seed: int, draws: int) -> Array:
        """Standard normal draws of a stream, (N,), correlated with others where studies of the scope say so."""
        own = self.correlations.get(scope)
        return standard_normal(stream, seed, draws) if own is None else own.noise(stream, seed, draws)

    def draw_recoveries(self, scope: Scope, *, seed: int, draws: int) -> dict[str, Array]:
        """Draws of the share of its specialists' gain that each strategy recovers in a study, (N,), all with the
        deviation that one study's strategies share; "unknown" is of a strategy that fewer than two studies have. Empty
        where the calibration holds none."""
        if "recovery" not in self.parameters:
            return {}
        common_N = self.draw("recovery_common", scope, seed=seed, draws=draws)
        found = {
            name: common_N + self.draw("recovery", scope, seed=seed, draws=draws, key=f"recovery:{name}")
            for name in (*PUBLISHED_STRATEGIES, "unknown")
        }
        found["unknown"] = found["unknown"] + self.draw("recovery_unseen", scope, seed=seed, draws=draws)
        return found

    def fact(self, domain: Domain, key: str, scope: Scope) -> Estimate | None:
        """The value that studies of this scope found for a domain's field, or None. A dial setting that was
        not studied takes the value of the nearest one."""
        near = self._near(domain, key, scope)
        return self.facts[scope][max(near, key=near.__getitem__)][key] if near else None

    def draw_fact(self, domain: Domain, key: str, scope: Scope, *, seed: int, draws: int) -> Array | None:
        """Draws of what studies found of a domain's field, (N,): between the nearest settings of its dials."""
        near = self._near(domain, key, scope)
        if not near:
            return None
        distribution, drawn = FACTS[key], {}
        for name in near:
            stream, found = f"{key}:{name}", self.facts[scope][name][key]
            noise_N = self._noise(stream, scope, seed, draws)
            estimate = in_logits(found) if distribution == "logit" else found
            drawn[name] = transformed(estimate, distribution, noise_N, stream, seed)
        return between(near, drawn, positive=distribution == "lognormal")

    def draw_pair(
        self, kind: str, source: Domain, target: Domain, scope: Scope, *, seed: int, draws: int
    ) -> Array:
        """Draws of a pair's "conflict" or "spill", (N,): what is known of any pair, on a random stream of its own. That
        of rivals at ambiguity d is that of their marked prompts less k d, k the same for all (`ALONG_THE_DIAL`): it
        falls with the dial in every draw."""
        pair = ">".join(unambiguous(row.name) for row in (source, target))
        marked_N = self.draw(kind, scope, seed=seed, draws=draws, key=f"{kind}:{pair}")
        dial = rivalry(source.name, target.name)
        if dial == 0:
            return marked_N
        return np.asarray(marked_N - self.draw(ALONG_THE_DIAL[kind], scope, seed=seed, draws=draws) * dial)

    def pair(self, kind: str, source: Domain, target: Domain, scope: Scope) -> Estimate:
        """What is known of a pair's "conflict" or "spill": mean, sd and weakest grade of what `draw_pair` draws."""
        marked, dial = self.parameter(kind).at(scope), rivalry(source.name, target.name)
        if dial == 0:
            return marked
        fall = self.parameter(ALONG_THE_DIAL[kind]).at(scope)
        lost = fall.value * dial * math.exp(fall.sd**2 / 2)  # the mean of a lognormal k
        return Estimate(
            value=marked.value - lost,
            sd=math.hypot(marked.sd, lost * math.sqrt(math.expm1(fall.sd**2))),
            grade=max(marked.grade, fall.grade, key=GRADES.index),
            source=f"ambiguity {dial:g}: {fall.source}",
        )

    def _near(self, domain: Domain, key: str, scope: Scope) -> dict[str, float]:
        known = self.facts.get(scope, {})
        for name in (domain.name, domain.row):
            if name in known and key not in known[name]:
                return {}  # studied itself, and nothing was learned of this: no neighbour knows better
            if near := nearest(name, [spec for spec, found in known.items() if key in found]):
                return near
        return {}


@cache
def default_calibration() -> Calibration:
    """The calibration that ships."""
    return from_document(read(SHIPPED), source="the shipped calibration")


def load(path: Path) -> Calibration:
    """A calibration from a JSON file. NotFoundError or UsageError, one sentence."""
    return from_document(read(path), source=str(path))


def read(path: Path) -> dict[str, Any]:
    """What a calibration's file holds, unchecked."""
    return json_document(
        path, missing=f"{path}: no such calibration file", remedy="give a calibration in JSON"
    )


def from_document(document: Any, *, source: str) -> Calibration:
    """A validated calibration. UsageError names the parameter, the value and the rule."""
    if not isinstance(document, Mapping) or not isinstance(document.get("parameters"), Mapping):
        raise UsageError(f"{source}: not a calibration: it needs a table 'parameters'")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{source}: schema_version {version!r}: this mopd reads version {SCHEMA_VERSION}; update mopd, or refit "
            "the calibration with it"
        )
    parameters = {name: _parameter(row, f"{source}: {name}") for name, row in document["parameters"].items()}
    if missing := sorted({*CONSTANTS, "conflict", "spill"} - set(parameters)):
        raise UsageError(f"{source}: parameter {missing[0]!r} is missing: add it")
    return Calibration(
        name=str(document.get("name", source)),
        parameters=parameters,
        facts=_facts(document.get("domains", {}), source),
        correlations=_correlations(document.get("correlations", {}), source),
    )


def _by_scope(given: Any, where: str) -> Mapping[Scope, Any]:
    for scope in table(given, where):
        if scope not in SCOPES:
            raise UsageError(f"{where}: scope {scope!r}{did_you_mean(str(scope), SCOPES)}")
    return dict(given)


def _facts(given: Any, source: str) -> dict[Scope, dict[str, dict[str, Estimate]]]:
    found: dict[Scope, dict[str, dict[str, Estimate]]] = {}
    for scope, domains in _by_scope(given, f"{source}: domains").items():
        found[scope] = {}
        for name, facts in table(domains, f"{source}: domains.{scope}").items():
            where = f"{source}: domains.{scope}.{name}"
            known_keys(table(facts, where), FACTS, where)
            found[scope][name] = {
                key: _estimate(row, f"{where}.{key}", FACTS[key]) for key, row in facts.items()
            }
    return found


def _correlations(given: Any, source: str) -> dict[Scope, Correlation]:
    found = {}
    for scope, row in _by_scope(given, f"{source}: correlations").items():
        where = f"{source}: correlations.{scope}"
        names, rows = table(row, where).get("names"), row.get("rows")
        if not isinstance(names, list) or not isinstance(rows, list) or len(names) != len(rows):
            raise UsageError(f"{where}: must have as many rows as names")
        if not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
            raise UsageError(f"{where}: names must be texts, each given once")
        lower_KK = np.zeros((len(names), len(names)))
        for place, text in enumerate(rows):
            lower_KK[place, : place + 1] = _row(text, place, where)
        if names:
            found[scope] = Correlation(names=tuple(names), matrix_KK=lower_KK + np.tril(lower_KK, -1).T)
    return found


def _row(text: Any, place: int, where: str) -> Array:
    """A row of a lower triangle from its text."""
    try:
        values = np.array(str(text).split(), dtype=float)
    except ValueError as error:
        raise UsageError(f"{where}: row {place}: must be numbers: {error}") from None
    if len(values) != place + 1 or values[-1] != 1 or not (np.abs(values) <= 1).all():
        raise UsageError(
            f"{where}: row {place}: must be {place + 1} numbers from -1 to 1, the last of them 1"
        )
    return values


_KEYS = ("value", "sd", "grade", "source", "distribution", "shape", "between_sd", "studies")


def _parameter(row: Any, where: str) -> Parameter:
    known_keys(table(row, where), _KEYS, where)
    distribution = row.get("distribution", "normal")
    if distribution not in DISTRIBUTIONS:
        raise UsageError(
            f"{where}: distribution {distribution!r}{did_you_mean(str(distribution), DISTRIBUTIONS)}"
        )
    studies = _by_scope(row.get("studies", {}), f"{where}: studies")
    number(between_sd := row.get("between_sd", 0.0), f"{where}: between_sd", least=0.0)
    return Parameter(
        prior=_estimate(row, where, distribution),
        distribution=distribution,
        shape=bool(row.get("shape", False)),
        between_sd=float(between_sd),
        studies={
            scope: _estimate(found, f"{where}.{scope}", distribution) for scope, found in studies.items()
        },
    )


def _estimate(row: Any, where: str, distribution: str) -> Estimate:
    positive = distribution == "lognormal"
    number(
        table(row, where).get("value"),
        f"{where}: value",
        least=0.0 if positive else -math.inf,
        above=positive,
    )
    number(row.get("sd"), f"{where}: sd", least=0.0)
    if distribution == "logit" and not 0 < row["value"] < 1:
        raise UsageError(f"{where}: value = {row['value']}: must be inside (0, 1) for a logit parameter")
    grade = row.get("grade")
    if grade not in GRADES:
        raise UsageError(f"{where}: grade {grade!r}: must be one of {', '.join(GRADES)}")
    return Estimate(
        value=float(row["value"]), sd=float(row["sd"]), grade=grade, source=str(row.get("source", ""))
    )


def form_error(
    calibration: Calibration,
    scope: Scope,
    stage: str,
    domains: Sequence[str],
    *,
    seed: int,
    draws: int,
    scored: bool = True,
    bold: bool = False,
) -> Array | None:
    """Draws of the error of a stage's score on every domain, in logits, (D, N); None where it was never measured.
    scored: whether the base's start was measured; bold: whether RL at a bold rate led to the stage."""
    kind = form_error_kind(calibration, scope, bold=bold)
    if kind is None:
        return None
    scale_N = calibration.draw(kind, scope, seed=seed, draws=draws)
    if not scored and scope in calibration.facts:
        scale_N = scale_N * calibration.draw(UNSCORED, scope, seed=seed, draws=draws)
    return np.stack([
        scale_N * sample(_UNIT, "student", f"{MODEL_ERROR}:{stage}/{name}", seed=seed, draws=draws)
        for name in domains
    ])  # fmt: skip


def form_error_kind(calibration: Calibration, scope: Scope, *, bold: bool) -> str | None:
    """The parameter that holds the error's scale in a scope; None where it was never measured."""
    for kind in (BOLD_ERROR, MODEL_ERROR) if bold else (MODEL_ERROR,):
        parameter = calibration.parameters.get(kind)
        if parameter is not None and scope in parameter.studies:
            return kind
    return None


def moved(score_DN: Array, error_DN: Array | None) -> Array:
    """Scores moved by an error in logits."""
    if error_DN is None:
        return score_DN
    return logistic(logit(np.clip(score_DN, _EDGE, 1 - _EDGE)) + error_DN)


def tested(score_N: Array, items: int, *, key: str) -> Array:
    """Shares of `items` prompts passed at these pass rates, (N,), with luck from the stream of this name."""
    from scipy import stats

    luck_N = uniform(f"measured:{key}", 0, len(score_N))
    return np.asarray(stats.binom.ppf(luck_N, items, np.clip(score_N, 0.0, 1.0)) / items)
