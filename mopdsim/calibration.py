"""Calibration: every parameter of the quality model with its uncertainty, grade, source and scope, and its
draws.

A parameter's draws depend on its name and the seed alone, so that two recipes see the same world (common
random numbers) and a new parameter shifts no other. What studies of one scope found holds there; in another
scope it may narrow a parameter marked `shape`, after its variance is inflated by the spread between public
studies, and never moves it. Everything else keeps its prior.
Leaves out: the draws put together for a recipe (`mopdsim.world`), fitting (`mopdsim.fit`), cost constants
(`mopdsim.cost`), the facts of domains (`mopdsim.domains`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mopdsim.domains import GRADES, SCOPES, Estimate, Scope
from mopdsim.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.interference import Array, logistic, logit

SCHEMA_VERSION = 1
CONSTANTS = (
    "pair_exponent", "efficiency_shift", "distill_conflict_share", "distill_rate", "forgetting",
    "imitation_forgetting", "replay_half", "climb_kl", "inherited_bias", "cap_gap", "exposure", "merge_overlap",
    "reward_gain", "extrapolation_benefit", "collapse_middle", "collapse_width", "collapse_kept", "seed_sd",
    "fidelity_pairs", "overoptimisation_kl", "kl_coefficient_at_peak", "best_of_peak_kl", "prompt_spread",
    "imitated_choice", "preference_share", "size_slope",
)  # fmt: skip
Distribution = Literal["normal", "lognormal", "logit", "student"]
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)
_STUDENT_DEGREES = 4


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
        """What holds at this scope."""
        if scope in self.studies:
            return self.studies[scope]
        if not (self.shape and self.studies) or self.prior.sd == 0:
            return self.prior
        found = min(self.studies.values(), key=lambda estimate: estimate.sd)
        precision = self.prior.sd**-2 + 1 / (found.sd**2 + self.between_sd**2)
        source = f"{self.prior.source}; narrowed by {found.source}"
        return Estimate(value=self.prior.value, sd=precision**-0.5, grade=self.prior.grade, source=source)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Named parameters. A pair's own ("conflict:math>code") replaces the general one ("conflict")."""

    name: str
    parameters: Mapping[str, Parameter]
    provenance: tuple[str, ...] = ()

    def parameter(self, name: str) -> Parameter:
        """The parameter called `name`, or the one that its part before the colon names."""
        found = self.parameters.get(name) or self.parameters.get(name.partition(":")[0])
        if found is None:
            raise NotFoundError(
                f"calibration {self.name!r} has no parameter {name!r}{did_you_mean(name, self.parameters)}"
            )
        return found

    def draw(self, name: str, scope: Scope, *, seed: int, draws: int, key: str | None = None) -> Array:
        """Draws of a parameter, (N,). `key` names the stream where several share one prior (default: the
        name).
        """
        parameter = self.parameter(name)
        return sample(parameter.at(scope), parameter.distribution, key or name, seed=seed, draws=draws)


@lru_cache(maxsize=8192)
def sample(estimate: Estimate, distribution: Distribution, key: str, *, seed: int, draws: int) -> Array:
    """Draws of an estimate, (N,), not to be written to."""
    drawn_N = _transformed(estimate, distribution, key, seed, draws)
    drawn_N.flags.writeable = False
    return drawn_N


def _transformed(estimate: Estimate, distribution: Distribution, key: str, seed: int, draws: int) -> Array:
    if estimate.sd == 0:
        return np.full(draws, estimate.value)
    noise_N = standard_normal(key, seed, draws)
    if distribution == "normal":
        return estimate.value + estimate.sd * noise_N
    if distribution == "lognormal":
        return estimate.value * np.exp(estimate.sd * noise_N)
    if distribution == "logit":
        return logistic(logit(estimate.value) + estimate.sd * noise_N)
    chi_N = sum(standard_normal(f"{key}/{index}", seed, draws) ** 2 for index in range(_STUDENT_DEGREES))
    return estimate.value + estimate.sd * noise_N / np.sqrt(chi_N / _STUDENT_DEGREES)


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


@cache
def default_calibration() -> Calibration:
    """The calibration that ships."""
    text = files("mopdsim").joinpath("data", "calibration.json").read_text(encoding="utf-8")
    return from_document(json.loads(text), source="the shipped calibration")


def load(path: Path) -> Calibration:
    """A calibration from a JSON file. NotFoundError or UsageError, one sentence."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such calibration file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a calibration in JSON: {error}") from None
    return from_document(document, source=str(path))


def from_document(document: Any, *, source: str) -> Calibration:
    """A validated calibration. UsageError names the parameter, the value and the rule."""
    if not isinstance(document, Mapping) or not isinstance(document.get("parameters"), Mapping):
        raise UsageError(f"{source}: not a calibration: it needs a table 'parameters'")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{source}: schema_version {version!r}: this mopd reads version {SCHEMA_VERSION}; "
            "update mopd, or refit the calibration with it"
        )
    parameters = {name: _parameter(row, f"{source}: {name}") for name, row in document["parameters"].items()}
    if missing := sorted({*CONSTANTS, "conflict", "spill", "dispersion"} - set(parameters)):
        raise UsageError(f"{source}: parameter {missing[0]!r} is missing: add it")
    return Calibration(
        name=str(document.get("name", source)),
        parameters=parameters,
        provenance=tuple(map(str, document.get("provenance", ()))),
    )


_KEYS = ("value", "sd", "grade", "source", "distribution", "shape", "between_sd", "studies")


def _parameter(row: Any, where: str) -> Parameter:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: must be a table with value, sd, grade and source")
    for key in row:
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(key, _KEYS)}")
    distribution = row.get("distribution", "normal")
    if distribution not in DISTRIBUTIONS:
        raise UsageError(
            f"{where}: distribution {distribution!r}{did_you_mean(str(distribution), DISTRIBUTIONS)}"
        )
    studies = row.get("studies", {})
    for scope in studies:
        if scope not in SCOPES:
            raise UsageError(f"{where}: studies of scope {scope!r}{did_you_mean(scope, SCOPES)}")
    return Parameter(
        prior=_estimate(row, where, distribution),
        distribution=distribution,
        shape=bool(row.get("shape", False)),
        between_sd=float(row.get("between_sd", 0.0)),
        studies={
            scope: _estimate(found, f"{where}.{scope}", distribution) for scope, found in studies.items()
        },
    )


def _estimate(row: Mapping[str, Any], where: str, distribution: str) -> Estimate:
    for key in ("value", "sd"):
        number = row.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise UsageError(f"{where}: {key} = {number!r}: must be a finite number")
    if row["sd"] < 0:
        raise UsageError(f"{where}: sd = {row['sd']}: must be at least 0")
    if distribution == "lognormal" and row["value"] <= 0:
        raise UsageError(f"{where}: value = {row['value']}: must be above 0 for a lognormal parameter")
    if distribution == "logit" and not 0 < row["value"] < 1:
        raise UsageError(f"{where}: value = {row['value']}: must be inside (0, 1) for a logit parameter")
    grade = row.get("grade")
    if grade not in GRADES:
        raise UsageError(f"{where}: grade {grade!r}: must be one of {', '.join(GRADES)}")
    return Estimate(
        value=float(row["value"]), sd=float(row["sd"]), grade=grade, source=str(row.get("source", ""))
    )
