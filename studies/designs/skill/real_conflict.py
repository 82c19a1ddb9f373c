"""real_conflict: does the ambiguity dial make conflict in a real open model, and nothing but the dial?

SmolLM2-135M learns to name the smallest of three numbers, the largest, or both in one run with as many prompts of each
and as many updates. With the dial at 1 both questions read alike and their rewards oppose. A specialist of one domain
forgets the other in either case: that is no conflict, and K does not count it:

    K_jd = log of (gain of d trained with j) / (gain of d alone)    after as many updates with as many of d's prompts

Leaves out: other recipes and pairs (`conflict` has them on tiny models).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mopdsim.facts.domains import undialled
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, default_amounts
from studies.designs.builders import kept, over, table
from studies.framework.analysis import Analysis, Chart, Table, mean_quantity
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, predicted
from trainer.files.settings import FOR_REAL, Settings

MODEL = "smollm2-135m"
PAIR = ("ask:smallest", "ask:largest")
DIALS = (0, 1)
SEEDS = (0, 1, 2)
LEAST_GAIN = 0.005
RL = default_amounts("real", "rl").model_copy(update={"steps": 18})
SETTINGS = Settings.model_validate(
    {**FOR_REAL, "dtype": "bfloat16", "validation_items": 8, "evaluate_every": 1000, "checkpoint_every": 50}
)


def design() -> list[Run]:
    """Each domain alone and both together, at both ends of the dial."""
    return [
        Run(
            name=f"dial{dial}/{'-'.join(undialled(domain).partition(':')[2] for domain in chosen)}/seed{seed}",
            recipe=_recipe(world, chosen),
            settings=SETTINGS.model_copy(update={"seed": seed}),
            model=MODEL,
            factors={"world": f"dial{dial}", "kind": "ambiguity", "dial": dial, "trained": " ".join(chosen)},
            cut=seed,
        )
        for seed in SEEDS
        for dial in DIALS
        for world in [tuple(f"{domain}?ambiguity=1" if dial else domain for domain in PAIR)]
        for chosen in [world[:1], world[1:], world]
    ]


def _recipe(world: Sequence[str], chosen: Sequence[str]) -> Recipe:
    """RL on the chosen domains, the same prompts of each whatever their number."""
    if len(chosen) == 1:
        own = catalogue.single_domain(chosen, amounts="real").with_amounts({"specialist": RL})
        return over(own, world)
    joint = RL.model_copy(update={"prompts_per_step": RL.prompts_per_step * len(chosen)})
    return over(catalogue.mixed_rl(chosen, amounts="real").with_amounts({"mixed": joint}), world)


def _directions(found: Observations, name: str) -> list[dict[str, Any]]:
    """Of a run of both domains: K of each against its own run alone."""
    trained = str(found.factor(name, "trained")).split()
    rows = []
    for domain in trained if len(trained) > 1 else ():
        alone = found.runs(world=found.factor(name, "world"), trained=domain)
        single = next((run for run in alone if found.seed(run) == found.seed(name)), None)
        if single is not None:
            together, apart = (
                found.scores(r)[domain] - found.scores(r, BASE)[domain] for r in (name, single)
            )
            k = math.log(max(together, LEAST_GAIN) / max(apart, LEAST_GAIN))
            rows.append({"domain": domain, "K": k})
    return rows


def analyse(found: Observations) -> Analysis:
    """K by direction and seed, and what every run scored."""
    pairs = table(found, _directions)
    if pairs.empty:
        return Analysis(quantities={})
    k = {dial: mean_quantity(pairs[pairs.dial == dial].groupby("seed").K.mean()) for dial in DIALS}
    dials = [
        {"dial": dial, "K": q.value, "low": q.low, "high": q.high} for dial, q in k.items() if q is not None
    ]
    shown = ", ".join(f"dial{r['dial']} {r['K']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for r in dials)
    scores = [
        {
            "world": found.factor(name, "world"),
            "seed": found.seed(name),
            "trained": found.factor(name, "trained"),
        }
        | {"domain": domain, "start": found.scores(name, BASE)[domain], "score": score}
        for name in found.runs()
        for domain, score in found.scores(name).items()
        if undialled(domain) in PAIR
    ]
    return Analysis(
        quantities=kept(K_dial_0=k[0], K_dial_1=k[1]),
        findings=(f"K, mean of both directions, 80% interval over seeds: {shown}.",),
        tables=(
            Table(title="K by direction and seed", frame=pairs[["world", "seed", "domain", "K"]]),
            Table(title="Scores at temperature 1, 40 prompts x 8 samples", frame=pd.DataFrame(scores)),
        ),
        charts=(
            Chart(
                name="dial", title="K at both ends of the dial, with 80% intervals over seeds",
                frame=pd.DataFrame(dials), x="dial", y="K", low="low", high="high", mark="point",
            ),
        ),
        limits=(
            "One pair of one model after 18 updates of 8 prompts x 8 samples of each domain: K of the first gains.",
        ),
    )  # fmt: skip


STUDY = Study(
    name="real_conflict",
    question="Does the ambiguity dial make conflict in a real open model, and nothing but the dial?",
    prediction=predicted(
        "At dial 0 the question names its task, and one run learns both as each alone: K is zero. At dial 1 one model "
        "can be right on half of the prompts, where a specialist is right on all: with starts near .3, K is about "
        "log((.5 - .3) / (.9 - .3)), which is -1.1.",
        """
        K_dial_0  -0.3 to 0.3  K at ambiguity 0
        K_dial_1  <= -0.5      K at ambiguity 1
        """,
    ),
    observed="test scores on 40 prompts x 8 samples at temperature 1 after 18 updates",
    held_out="nothing: two conditions, judged against the prediction",
    design=design,
    analyse=analyse,
    suite="real",
)
