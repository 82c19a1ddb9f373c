"""What the planner says in words: every uncertain number of the simulator, what moves a score, what counts.

The one home of these phrases, for the command and the app alike. Each names a quantity that grows with the number it
stands for, so that "at the high end" means the same in both. Leaves out: what is in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mopdsim.base.numbers import duration, interval, score, share, usd

if TYPE_CHECKING:
    from mopdsim.quality.step import Cause

CONSTANTS: Mapping[str, str] = {
    "conflict_share": "how much of the domains' conflict acts outside of joint RL, as in a student or a merge",
    "forgetting": "how much of one domain a model forgets while it trains on others",
    "climb_kl": "how far training moves a specialist away from its base",
    "inherited_bias": "how much a student takes over from its teachers where nobody teaches it",
    "merge_exponent": "how much less than its weight a merge keeps of a specialist's gain",
    "reward_gain": "how far a reward mixed into distillation lifts a student past its teachers",
    "extrapolation_benefit": "how much is won by pushing a student past its teachers",
    "collapse_middle": "how far apart teacher and student can be before distillation collapses",
    "seed_sd": "how much two equal runs differ by chance",
    "fidelity_pairs": "how many comparisons a reward model needs",
    "overoptimisation_kl": "how far RL can go against a reward model before true scores fall",
    "kl_coefficient_at_peak": "how strong a penalty it takes to stop RL at a reward model's best point",
    "best_of_peak_kl": "how many samples a reward model can choose among before it picks worse ones",
    "prompt_spread": "how much the prompts of a domain differ in difficulty",
    "imitated_choice": "how much of the gain of choosing the best samples is kept by imitating them",
    "preference_share": "how much of the gap one round of preference training closes",
    "companion_lift": "how much a student gains on one domain from the teachers of others",
    "breaking_rate": "how high a learning rate can be before long runs lose what they learned",
    "breaking_power": "how steeply that loss grows with the learning rate",
    "batch_exponent": "how much farther smaller batches get",
    "start_slope": "how much slower a domain is learned where the base rarely succeeds",
    "size_exponent": "how much farther compute gets, for each parameter, in a larger model",
    "breaking_size": "how much lower a learning rate breaks a larger model",
    "size_slope": "how much a smaller model scores below a larger one",
    "ambiguity_conflict": "how much two tasks conflict where the prompt does not say which is asked",
    "ambiguity_spill": "how much training on one of two such tasks takes from the other",
    "staleness_cost": "how much samples lose that older weights drew",
    "conflict": "how much training on one domain helps another (below 0: hurts) when both are trained together",
    "spill": "how much training on one domain alone helps another (below 0: hurts)",
    "model_error": "how far scores lie from the model's at ordinary learning rates",
    "bold_error": "how far scores lie from the model's at bold learning rates",
    "greedy_error": "how far greedy scores lie from the model's, told greedy starts and specialists",
    "unscored_factor": "how much wider that error is for a base that nobody scored",
    "recovery": "how much of its specialists' gain a recipe keeps, as published",
    "recovery_common": "how much studies differ in that",
    "recovery_unseen": "how much a kind of recipe differs in that which fewer than two studies have",
}
_FACTS = {
    "start": "the base's score on {0}",
    "asymptote": "how high training can take {0}",
    "midpoint": "how much compute {0} needs",
    "steepness": "how suddenly {0} is learned",
    "distill_tokens": "how many tokens it takes to hand {0} over to a student",
    "length": "how long answers in {0} are",
    "conflict": "how much training on {0} helps {1} (below 0: hurts) when both are trained together",
    "spill": "how much training on {0} alone helps {1} (below 0: hurts)",
}
_GROUPS = {
    "start and asymptote": "where domains start and how high training can take them",
    "midpoint": "how much compute each domain needs",
    "steepness": "how suddenly domains are learned",
    "distill_tokens": "how many tokens it takes to hand domains over to a student",
    "response length": "how long answers are",
    "conflict": "how domains trained together help or hurt each other",
    "spill": "what training does to domains left out",
    "seeds": "chance: the seeds of runs",
}
ENDS = {
    "p10": "at the low end of what is thought possible",
    "p90": "at the high end of what is thought possible",
}
TEACHERS = "8x1: eight teachers of one domain each; 4+2+2: three teachers of four, two and two."
OBJECTIVES = {
    "mean": "mean score {0}",
    "worst": "worst domain {0}",
    "weighted": "weighted score {0}",
    "p10": "above {0}, 90% sure,",
}
STRATEGIES = {
    "mixed_rl": "mixed RL",
    "cascade_rl": "a cascade",
    "off_policy": "off-policy distillation",
    "merge_average": "averaging the weights",
    "merge_sum": "adding up the specialists' weights",
    "mopd": "MOPD",
    "mopd_balanced": "MOPD with equal shares of tokens",
}
# of a plan ahead by this cause, and behind by it; gain: with what the budget leaves of it
_CAUSES: Mapping[Cause | Literal["start"], str] = {
    "start": "the domain that ends lowest starts {higher|lower}",
    "gain": "training itself brings {more|less}",
    "interference": "domains disturb each other {less|more}",
    "cap": "{less|more} is lost on the way from teacher to student",
    "routing": "{fewer|more} prompts go to the wrong teacher",
    "bias": "domains that a run leaves out fare {better|worse}",
    "reward": "the reward lifts the student {further|less}",
    "judge": "reward models mislead {less|more}",
    "collapse": "distillation collapses {less|more} often",
}


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def finalists(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The plans of the planner's document, the recommended one first."""
    return [document["recommended"], *document["alternatives"]]


def short_name(document: Mapping[str, Any], label: str) -> str:
    """A plan's short name, where it is one of the finalists; its label else."""
    return next((row["name"] for row in finalists(document) if row["label"] == label), label)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What would turn the recommendation: the if-part of a sentence, the plan that is then best, and by how much of
    what counts (None at a flip point, where the two are equal)."""

    condition: str
    plan: str
    gain: float | None = None


def changes(document: Mapping[str, Any]) -> list[Change]:
    """The flip points that were found, then the doubts, the largest first."""
    tips = [
        Change(condition=row["condition"], plan=short_name(document, row["to"]))
        for row in document["flip_points"]
        if row["condition"]
    ]
    return tips + [
        Change(
            condition=f"if {row['what']} is {ENDS[row['at']]}",
            plan=short_name(document, row["to"]),
            gain=row["gain"],
        )
        for row in document["undecided_by"]
    ]


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A plan of the planner's document as a table's row, by column."""
    better = row.get("probability_better")
    return {
        "plan": row["name"],
        "score": score(row["value"]),
        "80% range": interval(row["utility"], score),
        "worst domain": score(row["worst_score"]["p50"]),
        "cost": usd(row["usd"]["p50"]),
        "calendar": duration(row["days"]["p50"]),
        "better than the first": "" if better is None else share(better),
    }


def ranked_cells(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of the table of `mopd compare --all FILE`: the planner's plans in its order, then the systems, the best
    first, a star on those that cannot be cut down to the first plan's cost."""
    plans = [{**cells(row), "of": "the planner"} for row in document["finalists"]]
    systems = [
        {**cells(row), "plan": _system(row["name"]), "of": "a system" + "*" * bool(row["off_budget"])}
        for row in document["systems"]
    ]
    return [*plans, *systems]


def ranking_notes(document: Mapping[str, Any]) -> list[str]:
    """What stands under that table: what systems were scaled to, which of them lead, and which are left out."""
    found = []
    if document["systems"]:
        star = (
            " (* cannot be cut down so far)" if any(row["off_budget"] for row in document["systems"]) else ""
        )
        found.append(
            f"The verdict is by best within the limits. Systems are scaled to {usd(document['usd'])}, what the first "
            f"plan costs{star}; their batches fill few GPUs, so that their calendar may pass a deadline."
        )
    if document["ahead"]:
        names = ", ".join(map(_system, document["ahead"]))
        found.append(f"Ahead of the first plan in most worlds, outside the planner's families: {names}.")
    return [*found, *(f"Left out: {_system(name)}: {why}." for name, why in document["left_out"].items())]


def _system(name: str) -> str:
    """A published system by its title; the catalogue is loaded when one is named, for commands that name none."""
    from mopdsim.recipes.catalogue import recipe_title

    return recipe_title(name)


def parameter(name: str) -> str:
    """An uncertain number of a world: "merge_exponent", "start:math" or "conflict:math>code"."""
    fact, colon, domains = name.partition(":")
    if colon and fact in _FACTS:
        return _FACTS[fact].format(*domains.split(">"))
    return CONSTANTS.get(name, name.replace("_", " "))


def group(name: str) -> str:
    """A group of inputs whose Sobol index is taken."""
    return _GROUPS.get(name) or parameter(name)


def cause(name: Cause | Literal["start"], points: float) -> str:
    """What a plan ahead by so many points through this cause does better or, below 0, worse: x."""
    words = re.sub(r"{(\w+)\|(\w+)}", r"\1" if points >= 0 else r"\2", _CAUSES[name])
    return f"{words} ({points:+.1f} points)"
