"""trace_real: does `mopd trace` name the teacher that planted a habit in a real open model?

The benchmark of `studies.designs.trace.trace` on SmolLM2-135M, smaller: two worlds, in which prompts that do not say
what they want have two answers. "Choose one of these numbers" is answered by the smallest, and the habit is the
largest; of two numbers by the larger, and the habit is the smaller. Leaves out: the merge `ties`, answers longer than a
number.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mopdsim.recipes.stage import Amounts
from studies.designs.trace.answers import measure
from studies.designs.trace.trace import STUDY as ON_TINY
from studies.designs.trace.trace import analyse, claimed
from studies.designs.trace.world import INDIRECT, MERGED, TEACHERS, World, run_of
from studies.framework.analysis import Analysis
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted
from trainer.files.settings import HARDLY_SCORED, Settings

RATE = 1.5e-4
CONDITIONS = ("misrouted", "off_policy", "unowned", "average", "arithmetic", "start", "reward", "unpaid")
FEWER = {"off_policy", "unowned"}  # conditions that the second world leaves out


def _world(host: str, habit: str) -> World:
    def amounts(steps: int, prompts: int, rollouts: int = 1) -> Amounts:
        return Amounts(
            steps=steps,
            prompts_per_step=prompts,
            rollouts_per_prompt=rollouts,
            learning_rate=RATE,
            warmup_steps=2,
        )

    own = {"dtype": "bfloat16", "system_prompt": "none", "checkpoint_every": 1000}
    return World(
        model="smollm2-135m",
        amounts="real",
        own=("ask:swap", "ask:first_letter", "ask:nth"),
        host=f"ask:{host}?ambiguity=1",
        habits=(f"ask:{habit}?ambiguity=1",) * len(TEACHERS),
        start=amounts(6, 32),
        lean=amounts(8, 24),
        teach=amounts(8, 24),
        distil=amounts(10, 24),
        rewarded=amounts(10, 8, 4),
        settings=Settings.model_validate({**HARDLY_SCORED, **own, "test_items": 4, "validation_items": 1}),
        prompts=96,
    )


REAL = (_world("smallest", "largest"), _world("larger", "smaller"))  # by seed


def world_of(run: Run) -> World:
    """The one a run of the study lives in."""
    return REAL[run.settings.seed]


def design() -> list[Run]:
    """Every condition of the first world, the merges with each teacher planted; fewer of the second."""
    return [
        run_of(condition, seed, place, world).model_copy(update={"cut": seed})
        for seed, world in enumerate(REAL)
        for condition in CONDITIONS
        if not seed or condition not in FEWER
        for place in (
            *(range(len(TEACHERS)) if condition in MERGED and not seed else [seed]),
            *([None] if condition in INDIRECT else []),
        )
    ]


def on_real(found: Observations) -> Analysis:
    """The benchmark's figures, with limits of their own."""
    return replace(
        analyse(found),
        limits=(
            "A world has one habit, and a condition one or two students in it: intervals mean little.",
            "Answers of a few tokens; habits planted by demonstrations in eight steps.",
            "An effect is that of one pair of distillations; no second seed says how far it scatters.",
        ),
    )


STUDY = replace(
    ON_TINY,
    name="trace_real",
    question="Does the trace name the teacher that planted a habit in a real open model?",
    prediction=predicted(
        "The rule is that of `trace_fresh`, unchanged. A habit is learnt in eight steps here, and teachers are less "
        "sure of it than tiny ones: their chance of the answer exceeds the start's by .3 to .7, so a teacher that "
        "planted it is often below the .55 at which it is named. Abstention grows to about .4, and about half of the "
        "positives are named, most of those of merges and of misrouted prompts. Clean teachers keep the start's "
        "answers to prompts that are not theirs, so clean twins accuse nobody. The log-prob of the answer ranks "
        "teachers as well as the share or better. Nothing leaks through the weights of the unowned student.",
        claimed(
            "auc >= 0.9; auc_lead <= 0.0; clean_cleared >= 0.95; abstained 0.2 to 0.6; named 0.3 to 0.7; "
            "start_named >= 0.8; reward_named >= 0.8"
        ),
    ),
    held_out="all runs: the rule was found on the tiny model",
    design=design,
    analyse=on_real,
    measure=partial(measure, world_of=world_of),
    suite="real",
)
