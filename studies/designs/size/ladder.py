"""ladder: does what was learnt at 0.4 M parameters hold as size grows? One study for each rung, `ladder-5M` and on.

Every rung is the same design on a larger base: random weights, pretrained on procedural text (demonstrations of three
reasoning-gym domains, two fifths of them wrong, and of two further domains), then specialists of the three and their
student, mixed RL and the merged specialists, the last three at equal FLOPs. A rung is a study of its own, since each is
run on a device and a date of its own; `mopd study ladder` makes its base and runs it, on a GPU in calls that resume.
The rung 0.6B is two steps of every stage on one seed: that all of it works at that shape, no more, so that it is not
among the studies of `mopd study list`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from mopdsim.base.errors import NotFoundError, did_you_mean
from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import BASE, Recipe, Sft
from studies.designs.builders import at_flops, kept, means, of_runs, over, paired, rebuilt, told
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.run import Run
from studies.framework.study import Study, predicted
from trainer.files.settings import Settings

GYM = "reasoning_gym:"
TRAINED = (
    f"{GYM}chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=2&max_new_tokens=8&corruption=0.4",
    f"{GYM}spell_backward?max_word_len=7&max_new_tokens=10&corruption=0.4",
    f"{GYM}products?max_terms=2&max_digits=2&max_new_tokens=8&corruption=0.4",
)
OTHERS = (f"{GYM}gcd?min_numbers=2&max_numbers=2&max_value=200&max_new_tokens=8", "rotate")
WORLD = (*TRAINED, *OTHERS)
PRETRAINED = "pretrained"
ARMS = ("mopd", "mixed_rl", "merge")
SEEDS = (0, 1, 2)
HELD_OUT_SEED = 2
MODELS = "runs/models"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A size (`studies.designs.size.shapes`) and what is spent on it. flops: of each recipe after pretraining, None:
    as many steps as the amounts say."""

    pretrain: Amounts
    rl: Amounts
    distill: Amounts
    flops: float | None
    dtype: Literal["float32", "bfloat16"] = "float32"
    seeds: tuple[int, ...] = SEEDS
    items: int = 200


def _rung(*, steps: int, rate: float, flops: float, dtype: Literal["float32", "bfloat16"]) -> Rung:
    """Rates of RL and distillation at a tenth and a fifth of pretraining's."""
    return Rung(
        pretrain=Amounts(steps=steps, prompts_per_step=256, learning_rate=rate, warmup_steps=100),
        rl=Amounts(steps=1, prompts_per_step=32, rollouts_per_prompt=8, learning_rate=rate / 10),
        distill=Amounts(steps=1, prompts_per_step=128, learning_rate=rate / 5),
        flops=flops,
        dtype=dtype,
    )


_TWO_STEPS = Amounts(steps=2, prompts_per_step=2, rollouts_per_prompt=2, learning_rate=1e-5, warmup_steps=1)
RUNGS: Mapping[str, Rung] = {
    "5M": _rung(steps=3000, rate=2e-3, flops=3e14, dtype="float32"),
    "25M": _rung(steps=4000, rate=1e-3, flops=1.5e15, dtype="float32"),
    "100M": _rung(steps=6000, rate=6e-4, flops=6e15, dtype="bfloat16"),
    "0.6B": Rung(
        pretrain=_TWO_STEPS.model_copy(update={"rollouts_per_prompt": 1}),
        rl=_TWO_STEPS,
        distill=_TWO_STEPS.model_copy(update={"rollouts_per_prompt": 1}),
        flops=None,
        seeds=(0,),
        items=4,
    ),
}


def model_directory(rung: str) -> str:
    """Where the base of a rung lies, from the working directory."""
    return f"{MODELS}/ladder-{rung}"


def pretrained(recipe: Recipe, amounts: Amounts) -> Recipe:
    """The recipe on a base that it first trains itself, on all domains of its world."""
    first = Sft(name=PRETRAINED, domains=dict.fromkeys(recipe.domains, 1.0))
    later = (s.model_copy(update={"init": PRETRAINED}) if s.init == BASE else s for s in recipe.stages)
    return rebuilt(recipe, stages=(first, *later), amounts={PRETRAINED: amounts, **recipe.amounts})


def _recipe(arm: str, rung: Rung) -> Recipe:
    recipe = getattr(catalogue, arm)(TRAINED)
    if rung.flops is not None:
        recipe = at_flops(recipe, rung.flops, rl=rung.rl, distill=rung.distill)
    else:
        kinds = {"rl": rung.rl, "distill": rung.distill}
        recipe = recipe.with_amounts({s.name: kinds[s.kind] for s in recipe.stages if s.kind in kinds})
    return pretrained(over(recipe, WORLD), rung.pretrain)


def _run(name: str, rung: Rung, arm: str, seed: int) -> Run:
    few = rung.flops is None
    return Run(
        name=f"{arm}/seed{seed}",
        recipe=_recipe(arm, rung),
        settings=Settings(
            seed=seed,
            dtype=rung.dtype,
            validation_items=max(2, rung.items // 4),
            test_items=rung.items,
            evaluate_every=1000,
            diagnose_every=1000,
            checkpoint_every=1000 if few else 200,
            max_truncation=1.0,
            probes=(),
        ),
        model=model_directory(name),
        factors={"arm": arm, "rung": name, "contest": f"ladder/{name}", "recipe": arm},
        held_out=seed == HELD_OUT_SEED,
        cut=int(seed == HELD_OUT_SEED),
    )


def _row(found: Observations, name: str) -> dict[str, Any]:
    start, final = found.scores(name, PRETRAINED), found.scores(name)
    own = [found.scores(name, f"teacher_{n}")[d] for n, d in enumerate(TRAINED, 1) if _teaches(found, name)]
    spent = found.manifest["stages"][found.key(name, PRETRAINED)]["flops"]
    return {
        "start": found.mean(name, TRAINED, PRETRAINED),
        "specialists": sum(own) / len(own) if own else float("nan"),
        "trained": found.mean(name, TRAINED),
        "others": sum(final[d] - start[d] for d in OTHERS) / len(OTHERS),
        "tflops": (found.flops(name) - spent) / 1e12,
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Mean scores on the trained and the other domains, by recipe, against the specialists."""
    shown = means(rows, "arm", "start specialists trained others tflops")
    return Analysis(
        quantities=_quantities(rows),
        findings=told(
            shown,
            "{arm}: trained domains {start:.3f} to {trained:.3f}, its specialists {specialists:.3f}, the others "
            "{others:+.3f}.",
        ),
        tables=(Table(title="Mean of seeds; others: change on the domains that RL does not train", frame=shown),),
        charts=(
            Chart(
                name="recipes", title="Mean score of the trained domains by recipe and seed", frame=rows, x="arm",
                y="trained", colour="seed", mark="point",
            ),
        ),
        limits=("Learning rates follow from the size by rule; they were not swept at this one.",),
    )  # fmt: skip


def _teaches(found: Observations, name: str) -> bool:
    return "teacher_1" in found.finished[name]["keys"]


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    student = rows[rows.arm == "mopd"]
    recovered = (student.trained - student.start) / (student.specialists - student.start).clip(lower=0.01)
    return kept(
        specialists_gain=mean_quantity(student.specialists - student.start),
        student_minus_specialists=mean_quantity(student.trained - student.specialists),
        recovery=mean_quantity(recovered),
        mixed_rl_minus_mopd=paired(rows, "trained", {"arm": "mixed_rl"}, {"arm": "mopd"}),
        merge_minus_mopd=paired(rows, "trained", {"arm": "merge"}, {"arm": "mopd"}),
        others_mopd_minus_mixed_rl=paired(rows, "others", {"arm": "mopd"}, {"arm": "mixed_rl"}),
    )


PREDICTION = predicted(
    "What holds at 0.4 M parameters holds here: specialists gain at least ten points on their domains, their "
    "student ends within five points of them, mixed RL at the same FLOPs is not behind it, the merge is, and the "
    "domains that RL does not train fare no worse under MOPD than under mixed RL.",
    """
    specialists_gain            >= 0.1         gain of the specialists on their domains
    student_minus_specialists   -0.05 to 0.05  student less specialists
    mixed_rl_minus_mopd         >= 0.0         mixed RL less MOPD, trained domains
    merge_minus_mopd            <= 0.0         merge less MOPD, trained domains
    others_mopd_minus_mixed_rl  >= -0.02       the other domains, MOPD less mixed RL
    """,
)


def study_of(rung: str) -> Study:
    """The study of a rung. NotFoundError where there is none."""
    if rung not in RUNGS:
        raise NotFoundError(f"rung {rung!r} does not exist{did_you_mean(rung, RUNGS)}")
    chosen = RUNGS[rung]
    return Study(
        name=f"ladder-{rung}",
        question=f"Does what was learnt at 0.4 M parameters hold at {rung}?",
        prediction=PREDICTION,
        observed=f"test scores on {chosen.items} prompts of three trained and two other domains",
        held_out=f"seed {HELD_OUT_SEED}, all recipes" if HELD_OUT_SEED in chosen.seeds else "nothing",
        design=lambda: [_run(rung, chosen, arm, seed) for seed in chosen.seeds for arm in ARMS],
        analyse=analyse,
    )


STUDIES = tuple(study_of(rung) for rung, chosen in RUNGS.items() if chosen.flops is not None)
