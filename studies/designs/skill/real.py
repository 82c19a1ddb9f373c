"""real: which recipe comes first on a small open model, and do forecasts of it beat simple rules?

SmolLM2-135M answers short questions. Five recipes spend the same training FLOPs, teachers counted: mixed RL, MOPD,
off-policy fine-tuning, merging, and a cascade that replays (a step without replay forgets what came before). All but
the cascade are those of the demo on this model (`studies.designs.systems.demo`) at a part of its budget. Three
worlds of four domains: one without rivals, one with a competing pair at ambiguity .5, and one held out. Domains were
picked on a seed that judges nothing: of those whose specialist gained most there.

Runs stand in the order of their worth, so that a study stopped half way answers something: the first seed of the first
budget, the world held out, the larger budget, the budget held out, then the other seeds. All runs are forecast before
they are made, a world, a budget and a seed at a time. Leaves out: sweeps of amounts (the demo's), bold rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import default_amounts
from studies.designs.builders import UNBOUNDED, kept, paired
from studies.designs.skill.contest import FAILED, compared, judging, lead, rows_of, share_failed
from studies.designs.skill.gate import table_of_domains, teachers_of
from studies.designs.systems.real_recipes import DISTILL_FLOPS, TEACHER_FLOPS, real_recipes
from studies.framework.analysis import Analysis
from studies.framework.observe import Observations
from studies.framework.run import Factor, Run
from studies.framework.study import predicted
from trainer.files.settings import FOR_REAL, Settings

MODEL = "smollm2-135m"
PAIR = ("ask:smallest?ambiguity=0.5", "ask:largest?ambiguity=0.5")
WORLDS: Mapping[str, tuple[str, ...]] = {
    "mixture": ("ask:smallest", "ask:swap", "ask:small_letters", "ask:nth"),
    "rivals": (*PAIR, "ask:swap", "ask:nth"),
    "unseen": ("ask:smallest?count=4", "ask:larger", "ask:longer", "ask:before"),
}
UNSEEN = "unseen"
SMALL, UNSEEN_BUDGET, LARGE = 0.3, 0.45, 0.6  # times the demo's FLOPs
SEEDS = (100, 101, 102)
REPLAY = 0.25
RATE = default_amounts("real", "rl").learning_rate
SETTINGS = Settings.model_validate(
    {
        **FOR_REAL, "dtype": "bfloat16", "test_items": 8, "greedy_items": 48, "validation_items": 1,
        "evaluate_every": UNBOUNDED, "checkpoint_every": UNBOUNDED, "score_others": "never", "max_truncation": 1.0,
    }
)  # fmt: skip
FEW_PROMPTS = (
    f"{SETTINGS.greedy_items} prompts a domain greedily: a score's standard error is up to .07, that of a mean of four "
    "domains .036."
)


def run(name: str, made: Recipe, seed: int, cut: int, contest: str, **factors: Factor) -> Run:
    """A run on the real model, by the settings of this study. cut: its batch's place. contest: recipes side by side;
    those of one seed are forecast together."""
    return Run(
        name=f"{name}/seed{seed}",
        recipe=made,
        settings=SETTINGS.model_copy(update={"seed": seed}),
        model=MODEL,
        factors={**factors, "contest": contest, "batch": f"{contest}/seed{seed}"},
        held_out=True,
        cut=cut,
    )


def design() -> list[Run]:
    """Every recipe in every world, batch by batch."""
    return [
        run(
            f"{world}/x{budget:g}/{name}", made, seed, cut, f"real/{world}/x{budget:g}",
            world=world, budget=budget, recipe=name, rate=RATE,
        )
        for cut, (seed, world, budget) in enumerate(batches())
        for name, made in recipes(WORLDS[world], budget).items()
    ]  # fmt: skip


def batches() -> list[tuple[int, str, float]]:
    """Seed, world and budget, the most valuable first."""
    first, *others = SEEDS
    seen = [world for world in WORLDS if world != UNSEEN]
    whole = [(first, world, SMALL) for world in WORLDS]
    whole += [(first, world, LARGE) for world in seen]
    whole += [(first, seen[0], UNSEEN_BUDGET)]
    whole += [(seed, world, budget) for budget in (SMALL, LARGE) for seed in others for world in seen]
    return [*whole, (others[0], UNSEEN, SMALL)]


def recipes(domains: Sequence[str], budget: float) -> dict[str, Recipe]:
    """The five at this part of the demo's FLOPs."""
    cascade = catalogue.cascade_rl(domains, amounts="real", replay=REPLAY)
    each = budget * (TEACHER_FLOPS + DISTILL_FLOPS / len(domains))
    step = default_amounts("real", "rl").model_copy(update={"steps": UNBOUNDED, "max_flops": each})
    spent = cascade.with_amounts({stage.name: step for stage in cascade.stages})
    return {**real_recipes(domains, factor=budget), "cascade": spent}


def _rows(found: Observations) -> pd.DataFrame:
    """Of the batches whose recipes are all done, so that half of one tilts no mean; with the condition's name, which is
    the world and the budget."""
    rows = rows_of(found)
    whole = rows.groupby("batch").run.transform("size") == len(recipes(WORLDS[UNSEEN], SMALL))
    return rows.assign(condition=rows.world + " x" + rows.budget.map("{:g}".format))[whole]


def analyse(found: Observations) -> Analysis:
    """Scores by condition and recipe, leads, and which domains pass the gate's rule; how much of the study is done."""
    rows = _rows(found)
    if rows.empty:
        return Analysis(quantities={}, findings=(_how_much(found, rows),))
    made = compared(rows, "condition")
    owners = [
        owner
        for world, domains in WORLDS.items()
        for budget in (SMALL, UNSEEN_BUDGET, LARGE)
        for owner in teachers_of(
            found.runs(world=world, budget=budget, recipe="mopd"), f"{world} x{budget:g}", domains
        )
    ]
    large, small = ({"budget": budget} for budget in (LARGE, SMALL))
    plain = rows.assign(recipe=rows.recipe.str.removeprefix(FAILED))
    return Analysis(
        quantities=kept(
            mixed_minus_mopd=lead(rows, "mixed_rl", "mopd"),
            mopd_minus_merge=lead(rows, "mopd", "merge"),
            mopd_minus_off_policy=lead(rows, "mopd", "off_policy"),
            mixed_minus_cascade=lead(rows, "mixed_rl", "cascade"),
            mixed_minus_off_policy=lead(rows, "mixed_rl", "off_policy"),
            gain_of_budget=paired(plain, "greedy", large, small, by=("world", "seed", "recipe")),
            failed_mopd=share_failed(rows, "mopd", "contest"),
        ),
        findings=(_how_much(found, rows), *made.findings),
        tables=(*made.tables, table_of_domains(found, owners)),
        charts=made.charts,
        limits=(
            "One model of 135 M parameters, answers of a few tokens, the demo's amounts, and only the first learning.",
            FEW_PROMPTS,
            "A teacher is scored on its own domain alone, so that forecasts know nothing of what it does to others.",
        ),
    )  # fmt: skip


def _how_much(found: Observations, rows: pd.DataFrame) -> str:
    """Which part of the design is done, and over how many seeds."""
    done, whole = len(found.finished), len(found.manifest["runs"])
    seeds = {} if rows.empty else rows.groupby("condition", sort=False).seed.nunique().to_dict()
    each = [f"{condition} ({count} of {_seeds(str(condition))})" for condition, count in seeds.items()]
    apart = f", {done - len(rows)} of them in batches that are not, which count in no mean" * (
        done > len(rows)
    )
    return (
        f"{done} of {whole} runs are done{apart}. Seeds by condition: {', '.join(each) or 'none'}. A lead has an "
        "interval where there are two seeds at least."
    )


def _seeds(condition: str) -> int:
    """How many seeds the design has of a condition."""
    return sum(f"{world} x{budget:g}" == condition for _, world, budget in batches())


STUDY = judging(
    name="real",
    question="Which recipe comes first on a small open model, and is it foretold better than by a rule?",
    prediction=predicted(
        "As in the demo, which had three times these FLOPs, mixed RL leads MOPD, since it has more steps on each "
        "domain than a specialist; MOPD leads off-policy fine-tuning and merging. A cascade with a quarter of replay "
        "stays behind mixed RL. MOPD's student has too few steps now and then, so that a third of them fail. Twice the "
        "FLOPs add ten points to a mean greedy score.",
        """
        mixed_minus_mopd        >= 0.0   mixed RL less MOPD, greedy
        mopd_minus_merge        >= 0.0   MOPD less merging, greedy
        mopd_minus_off_policy   >= 0.0   MOPD less off-policy, greedy
        mixed_minus_off_policy  >= 0.0   mixed RL less off-policy, greedy
        mixed_minus_cascade     >= 0.03  mixed RL less a cascade with replay, greedy
        gain_of_budget          >= 0.05  twice the FLOPs less once, all recipes, greedy
        failed_mopd             <= 0.5   share of MOPD's distillations that fail
        """,
    ),
    design=design,
    analyse=analyse,
    suite="real",
    released="2026-11-30: judged once (studies/LOG.md); its scores set the error of the form at its scope",
)
