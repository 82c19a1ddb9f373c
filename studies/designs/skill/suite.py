"""The suite 'skill': tiny worlds whose starts are wrong greedily too; their domains, starts, amounts and scores.

The older worlds ('sharpening') are shown demonstrations with random slips, so that greedy decoding is right 91 to 98%
of the time before any RL. Here the demonstrator has a habit: more often than not it makes the skill's one mistake,
always the same. A start that learnt from it makes that mistake greedily, though it is often right among eight samples,
as a real model is; RL has to teach it otherwise. Starts are also shorter, so that some of the skill itself is left to
learn. Every score is taken three ways: sampled at temperature 1, greedily, and as the best of eight samples. Leaves
out: whether a world is fit for a study (`studies.designs.skill.gate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Amounts
from studies.designs.builders import UNBOUNDED, at_flops
from studies.framework.observe import Figure
from studies.framework.run import Factor, Run
from studies.framework.study import Study
from trainer.files.settings import Settings

HABIT = "habit=0.6&corruption=0"  # of the demonstrator: random slips are left out
STRONG = "habit=0.7&corruption=0"  # where the skill is learnt from fewer right answers
WORLDS: Mapping[str, tuple[str, ...]] = {
    "letters": (f"sort?{HABIT}", f"brackets_two?{HABIT}"),
    "orders": (f"sort_down?{STRONG}", f"shift_back?{STRONG}"),
    "lengths": (f"sort_long?{HABIT}", f"brackets?{HABIT}&length=7-14"),
    "runs": (f"rle_encode?{HABIT}&length=2", f"shift?{HABIT}"),
}
PAIR, RIVALS = "rivals", ("sort", "sort_down")  # the world of the competing pair
EIGHT, PARTS = "eight", "parts"  # all domains at once; the two skills that `sort_then_shift` composes
JOINT: Mapping[str, tuple[str, ...]] = {
    EIGHT: tuple(domain for domains in WORLDS.values() for domain in domains),
    PARTS: (f"sort?{HABIT}", f"shift?{HABIT}"),
}
PROBE = "sort_then_shift"  # scored wherever both its skills are taught; nobody demonstrates or trains it
START = Amounts(steps=120, prompts_per_step=64, learning_rate=4e-3, warmup_steps=20)
STEPS = {  # of a world's start
    "letters": 120, "orders": 160, "lengths": 120, "runs": 160, PAIR: 120, EIGHT: 400, PARTS: 160,
}  # fmt: skip
RL = Amounts(steps=UNBOUNDED, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=4e-4, warmup_steps=3)
STUDENT = Amounts(steps=UNBOUNDED, prompts_per_step=32, learning_rate=5e-4, warmup_steps=3)
SAMPLES = STUDENT  # of fine-tuning on the specialists' samples
SHARES = {"mopd": 0.6, "off_policy": 0.9}  # of a recipe's FLOPs for distillation
FLOPS = 0.015e12  # a recipe's training FLOPs for each domain, teachers counted
FIGURES: tuple[Figure, ...] = ("pass_rate", "greedy", "pass_8")
SEEDS = (70, 71, 72)  # of the worlds; the forecasts know their starts and specialists
RIVAL_SEEDS = (80, 81, 82)
SWEPT = "letters"  # the world on which amounts were set, on a seed on which no study judges
SWEEP_SEED = 60
RECIPES = ("mixed_rl", "mopd", "off_policy", "merge", "cascade", "cascade_back")
setting = partial(
    Study, suite="skill", of_skills=False
)  # a study that sets worlds or amounts and judges no forecast


def settings(seed: int) -> Settings:
    """Scores of every stage: 30 prompts x 8 samples, and 120 prompts greedily, of each domain. A collapsed run counts
    with its score."""
    return Settings(
        seed=seed, test_items=30, samples_per_prompt=8, greedy_items=120, validation_items=1, evaluate_every=UNBOUNDED,
        diagnose_every=0, score_others="at_end", max_truncation=1.0,
    )  # fmt: skip


def rivals(dial: float) -> tuple[str, ...]:
    """The competing pair with its ambiguity dial turned up."""
    return tuple(f"{name}?ambiguity={dial:g}&{HABIT}" for name in RIVALS)


def start(world: str) -> Amounts:
    """Of a world's start."""
    return START.model_copy(update={"steps": STEPS[world]})


def recipe(
    name: str,
    domains: Sequence[str],
    *,
    flops: float = FLOPS,
    rl: Amounts = RL,
    distill: Amounts | None = None,
    share: float | None = None,
) -> Recipe:
    """One of `RECIPES` at this many training FLOPs a domain, teachers counted; with the suite's amounts, or others."""
    if name.startswith("cascade"):
        order = domains if name == "cascade" else domains[::-1]
        made = catalogue.cascade_rl(domains, order=order)
    else:
        made = catalogue.PLAIN[name](domains)
    own = SAMPLES if name == "off_policy" else STUDENT
    return at_flops(
        made,
        flops * len(domains),
        rl=rl,
        distill=distill or own,
        share=SHARES.get(name, 0.0) if share is None else share,
    )


def run(
    name: str,
    made: Recipe,
    seed: int,
    world: str,
    *,
    held_out: bool = False,
    model: str = "tiny",
    begin: Amounts | None = None,
    **factors: Factor,
) -> Run:
    """A run in a world of the suite; the seed is part of its name, the world one of its factors. begin: of a start
    that is not the world's own."""
    return Run(
        name=f"{name}/seed{seed}",
        recipe=made,
        settings=settings(seed),
        model=model,
        start=begin or start(world),
        factors={"world": world, **factors},
        held_out=held_out,
        cut=seed,
    )
