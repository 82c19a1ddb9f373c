"""skill_gate: can a world of the suite 'skill' tell recipes apart by what they teach? Judged on greedy scores.

    domain    starts at .5 at most, and its own specialist gains at least 25 points
    rivals    K of the competing pair, trained to saturation at matched updates: two standard errors below zero at
              ambiguity 1, within two of zero at ambiguity 0
    spread    the best and the worst recipe, at the suite's budget, differ by at least 8 points

K = log of (the pair's mean gain when trained together) / (its mean gain when each is trained alone), after the same
number of updates with the same number of each domain's prompts in them. Means and standard errors are over seeds. The
starts and specialists are those of `order`, which a forecast may know; recipes are spread on the sweep's seed. A study
on a world that fails is refused (`admit`). Leaves out: the older worlds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mopdsim.base.errors import UsageError
from mopdsim.facts.domains import undialled
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts
from studies.designs.builders import alone, kept
from studies.designs.skill.suite import (
    FIGURES,
    FLOPS,
    PAIR,
    RECIPES,
    RIVAL_SEEDS,
    RL,
    SEEDS,
    SWEEP_SEED,
    SWEPT,
    WORLDS,
    recipe,
    rivals,
    run,
    setting,
)
from studies.framework import observe
from studies.framework.analysis import Analysis, Chart, Quantity, Table, mean_quantity
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

RESULTS = Path(__file__).parents[2] / "results" / "skill_gate"
HIGHEST_START, LEAST_GAIN, LEAST_SPREAD = 0.5, 0.25, 0.08
LEAST_DOMAINS = 8
DIALS = (0.0, 1.0)
# of each domain of the pair; twice the suite's rate, so that 40 updates suffice
UPDATES = RL.model_copy(update={"steps": 40, "prompts_per_step": 8, "learning_rate": 8e-4})
FLOOR = 0.01  # of a mean gain, so that its logarithm exists
ERRORS = 2.0  # standard errors


def design() -> list[Run]:
    """In every world each domain's specialist; recipes side by side in one; the pair alone and together at both
    ends."""
    own = RL.model_copy(update={"max_flops": FLOPS})
    specialists = [
        run(f"{world}/{undialled(domain)}", alone(domain, domains, own), seed, world, recipe=domain)
        for seed in SEEDS
        for world, domains in WORLDS.items()
        for domain in domains
    ]
    side_by_side = [
        run(f"spread/{name}", recipe(name, WORLDS[SWEPT]), SWEEP_SEED, SWEPT, recipe=name) for name in RECIPES
    ]
    pairs = [
        run(f"{PAIR}{dial:g}/{name}", made, seed, PAIR, dial=dial, recipe=name)
        for seed in RIVAL_SEEDS
        for dial in DIALS
        for name, made in _pair(rivals(dial)).items()
    ]
    return [*specialists, *side_by_side, *pairs]


def _pair(domains: Sequence[str]) -> dict[str, Recipe]:
    """Each alone and both together, after the same updates with the same prompts of each."""
    joint: Amounts = UPDATES.model_copy(update={"prompts_per_step": 2 * UPDATES.prompts_per_step})
    first, second = (alone(domain, domains, UPDATES) for domain in domains)
    return {
        "first": first,
        "second": second,
        "both": catalogue.mixed_rl(domains).with_amounts({"mixed": joint}),
    }


Specialist = tuple[str, str, str, str | None]  # world, domain, run, stage (None: the run's output)


def specialists_of(found: Observations) -> list[Specialist]:
    """Those that were run for the gate."""
    return [
        (world, domain, name, None)
        for name, row in found.finished.items()
        for world, domain in [(row["factors"]["world"], row["factors"]["recipe"])]
        if domain in WORLDS.get(world, ())
    ]


def domains_of(found: Observations, specialists: Sequence[Specialist]) -> pd.DataFrame:
    """Of every domain of a world: greedy start and gain of its specialist, mean of the seeds that were run, and whether
    it passes on them; the other figures beside them."""
    rows: list[dict[str, Any]] = []
    for world, domain, name, after in specialists:
        scores = {
            f"{label} {figure}": found.seen(figure).scores(name, stage)[domain]
            for label, stage in (("start", BASE), ("specialist", after))
            for figure in FIGURES
        }
        rows.append({"world": world, "domain": domain, **scores})
    if not rows:
        return pd.DataFrame(columns=["world", "domain", "passed"])
    groups = pd.DataFrame(rows).groupby(["world", "domain"], as_index=False, sort=False)
    means = groups.mean().assign(seeds=groups.size()["size"])
    gain = means["specialist greedy"] - means["start greedy"]
    passed = (means["start greedy"] <= HIGHEST_START) & (gain >= LEAST_GAIN)
    return means.assign(gain=gain, passed=passed)


def teachers_of(students: Sequence[str], world: str, domains: Sequence[str]) -> list[Specialist]:
    """The teachers of some runs in a world, one a domain, numbered in the order of the domains."""
    return [
        (world, domain, name, f"teacher_{place}")
        for name in students
        for place, domain in enumerate(domains, start=1)
    ]


def table_of_domains(found: Observations, specialists: Sequence[Specialist]) -> Table:
    """The rule for domains, applied to the specialists of another study, which may be trained more shortly."""
    return Table(
        title=f"The gate's rule here: a start of {HIGHEST_START:g} greedy at most, and {100 * LEAST_GAIN:.0f} points "
        "of gain by its own teacher",
        frame=domains_of(found, specialists),
    )


def conflict_of(found: Observations) -> pd.DataFrame:
    """K of the pair by dial and seed, in the figure that is seen."""
    rows = []
    for dial in DIALS:
        runs = {(found.factor(n, "recipe"), found.seed(n)): n for n in found.runs(world=PAIR, dial=dial)}
        for seed in RIVAL_SEEDS:
            names = [runs.get((name, seed)) for name in ("first", "second", "both")]
            if any(name is None for name in names):
                continue
            first, second, both = (str(name) for name in names)
            pair = rivals(dial)
            start = found.scores(both, BASE)
            together = found.scores(both)
            single = {d: found.scores(n)[d] for d, n in zip(pair, (first, second), strict=True)}
            gains = [sum(after[d] - start[d] for d in pair) / 2 for after in (together, single)]
            k = math.log(max(gains[0], FLOOR) / max(gains[1], FLOOR))
            rows.append({"dial": dial, "seed": seed, "together": gains[0], "alone": gains[1], "K": k})
    return pd.DataFrame(rows, columns=["dial", "seed", "together", "alone", "K"])


def in_errors(values: pd.Series[float]) -> float:
    """The mean of seeds in its standard errors; nan below two seeds."""
    se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean() / max(se, 1e-9)) if math.isfinite(se) else math.nan


def spread_of(found: Observations) -> dict[str, float]:
    """Mean greedy score of the recipes that were run side by side."""
    domains = WORLDS[SWEPT]
    chosen = [n for n in found.runs(world=SWEPT) if found.factor(n, "recipe") in RECIPES]
    return {found.factor(n, "recipe"): found.seen("greedy").mean(n, domains) for n in chosen}


def refusal(found: Observations, world: str) -> str | None:
    """Why a world may not be studied, in one sentence; None where it passes."""
    domains = domains_of(found, specialists_of(found))
    own = domains[domains.world == world]
    seeds = 0 if len(own) < len(WORLDS[world]) else int(own.seeds.min())
    if seeds < len(SEEDS):
        return _not_yet(f"world {world!r}", seeds, len(SEEDS))
    for row in own[~own.passed].to_dict("records"):
        return (
            f"world {world!r} fails the gate: domain {row['domain']!r} starts at {row['start greedy']:.2f} greedy (at "
            f"most {HIGHEST_START:g}) and its specialist gains {100 * row['gain']:.0f} points (at least "
            f"{100 * LEAST_GAIN:.0f}): give it a shorter start, a harder dial or more RL"
        )
    return None


def _not_yet(what: str, seeds: int, wanted: int) -> str:
    return f"{what} has been through the gate on {seeds} of {wanted} seeds: run `mopd study run skill_gate`"


def refusal_of_rivals(found: Observations) -> str | None:
    """Why the competing pair may not be studied, in one sentence; None where it passes."""
    rows = conflict_of(found.seen("greedy"))
    for dial, passes, rule in (
        (1.0, lambda z: z <= -ERRORS, "at least two standard errors below zero"),
        (0.0, lambda z: abs(z) <= ERRORS, "within two standard errors of zero"),
    ):
        own = rows[rows.dial == dial].K
        if len(own) < len(RIVAL_SEEDS):
            return _not_yet(f"the competing pair at ambiguity {dial:g}", len(own), len(RIVAL_SEEDS))
        z = in_errors(own)
        if not passes(z):
            return (
                f"the competing pair fails the gate: at ambiguity {dial:g} K lies {z:.1f} standard errors from zero "
                f"where it must be {rule}: train it longer, or take another pair"
            )
    return None


def admit(worlds: Sequence[str] = (), *, pair: bool = False, folder: Path = RESULTS) -> None:
    """UsageError, one sentence, where one of the worlds, or the competing pair, does not pass the gate on record."""
    found = observe.read(folder)
    reasons = [refusal(found, world) for world in worlds] + ([refusal_of_rivals(found)] if pair else [])
    for reason in reasons:
        if reason is not None:
            raise UsageError(reason)


def analyse(found: Observations) -> Analysis:
    """Which domains and worlds pass, K of the pair, and how far recipes differ."""
    domains = domains_of(found, specialists_of(found))
    conflict, scores = conflict_of(found.seen("greedy")), spread_of(found)
    passed = [str(domain) for domain in domains[domains.passed.astype(bool)].domain]
    worlds = [world for world in WORLDS if refusal(found, world) is None]
    pair = refusal_of_rivals(found)
    return Analysis(
        quantities=kept(
            K_dial_0=mean_quantity(conflict[conflict.dial == 0].K),
            K_dial_1=mean_quantity(conflict[conflict.dial == 1].K),
            least_gain=_least_gain(found, domains),
        ),
        findings=(
            f"{len(passed)} domains pass on the seeds that were run ({LEAST_DOMAINS} are wanted): "
            f"{', '.join(passed) or 'none'}.",
            f"Worlds in which every domain passes on all seeds: {', '.join(worlds) or 'none'}.",
            "The competing pair passes." if pair is None else f"{pair[0].upper()}{pair[1:]}.",
            _spread_in_words(scores),
        ),
        tables=(
            Table(title="Domains: start and specialist, mean of seeds", frame=domains),
            Table(title="K of the pair, greedy", frame=conflict),
            Table(title="K of the pair, temperature 1", frame=conflict_of(found)),
            Table(title="Mean greedy score of recipes side by side", frame=pd.DataFrame([scores])),
        ),
        charts=(_chart(domains),),
        limits=("The spread of recipes is seen in one world on one seed here; `order` has more.",),
    )


def _spread_in_words(scores: Mapping[str, float]) -> str:
    if not scores:
        return "Recipes have not been run side by side yet."
    spread = max(scores.values()) - min(scores.values())
    enough = "at least" if spread >= LEAST_SPREAD else "less than"
    return (
        f"Best and worst recipe differ by {100 * spread:.0f} points greedy in world {SWEPT!r} on one seed, {enough} "
        f"the {100 * LEAST_SPREAD:.0f} that are asked."
    )


def _chart(domains: pd.DataFrame) -> Chart:
    """Start and specialist of each domain, three ways."""
    rows = [
        {"domain": row["domain"], "after": after, "figure": figure, "score": row[f"{after} {figure}"]}
        for row in domains.to_dict("records")
        for after in ("start", "specialist")
        for figure in FIGURES
    ]
    return Chart(
        name="domains", title="Start and specialist of each domain: a panel for each way of answering",
        frame=pd.DataFrame(rows), x="domain", y="score", colour="after", panel="figure", mark="point",
    )  # fmt: skip


def _least_gain(found: Observations, domains: pd.DataFrame) -> Quantity | None:
    """Over seeds, of the domain whose specialist gains least greedily."""
    if domains.empty:
        return None
    least = domains.sort_values("gain").iloc[0]
    names, greedy = found.runs(world=least.world, recipe=least.domain), found.seen("greedy")
    return mean_quantity(
        [greedy.scores(n)[least.domain] - greedy.scores(n, BASE)[least.domain] for n in names]
    )


STUDY = setting(
    name="skill_gate",
    question="Which tiny worlds measure what a recipe teaches, rather than how it sharpens?",
    prediction=predicted(
        "With a start of a third of the older one's steps, greedy scores start below .5 and specialists gain 25 "
        "points. At ambiguity 1 the pair loses over half of its gain when trained together; at 0 it loses none once "
        "both are saturated. Mixed RL and merging differ by 8 points or more somewhere.",
        f"""
        K_dial_1    <= -0.5          K of the pair at ambiguity 1, greedy
        K_dial_0    -0.15 to 0.15    K of the pair at ambiguity 0, greedy
        least_gain  >= {LEAST_GAIN}  greedy gain of the specialist that gains least
        """,
    ),
    observed="scores at temperature 1, greedy and best of eight after every stage",
    held_out="nothing: the gate judges worlds, not forecasts",
    design=design,
    analyse=analyse,
)
