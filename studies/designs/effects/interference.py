"""interference: how do domains trained together change each other's gain, and does an early gradient foretell it?

One pair, ascending and descending sort, under three kinds of conflict (K: `studies.designs.effects.coupling`):

    ambiguity      prompts lose their marker with the dial's probability, so that both domains ask the same
    heterogeneity  one of the two becomes unlike the other: rarer success (corrupted demonstrations), smaller rewards
                   and a verifier that errs, as in `HETEROGENEOUS`
    capacity       the same long training on the tiny model and on one of half its width with a layer less
Beside them every subset of three domains without conflict, and a pair with synergy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import BASE, SMALLER, Recipe
from studies.designs.builders import TEACHER, TRAINED, alone, ambiguous, kept, over, paired, rebuilt
from studies.designs.effects.coupling import EARLY_STEP, by_world, directions, rank_correlation, sorting
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import bootstrap, mean_quantity
from studies.framework.run import Run
from studies.framework.study import Study, predicted
from trainer.files.settings import Settings

DIALS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNSEEN_DIAL = 0.75
UNLIKE_DIALS = (0.5, 1.0)  # at 0: the world without conflict
SYNERGY_WORLD = ("sort", "sort_long", "reverse")
SIZES = {"wide": BASE, "narrow": SMALLER}  # the root that is trained
SEEDS = (0, 1, 2)
FEWER = SEEDS[:2]  # of worlds with a start of their own; three seeds of the dial's end: studies/results/gate
PROMPTS = 16  # of each domain in an update, in every run
RL = Amounts(steps=12, prompts_per_step=PROMPTS, rollouts_per_prompt=8, learning_rate=3e-4, warmup_steps=3)
BOOTSTRAP_SEED = 5


def design() -> list[Run]:
    """At dial 0 every subset of three domains; of every other world its pair, each alone and both together."""
    runs = []
    for dial in DIALS:
        world, seeds = ambiguous(TRAINED, dial), FEWER if dial else SEEDS
        sets = subsets(world[:2] if dial else world)
        runs += _runs(f"dial{dial:g}", world, seeds, sets, kind="ambiguity", dial=dial)
    for dial in UNLIKE_DIALS:
        world = (unlike("sort", dial), *TRAINED[1:])
        runs += _runs(f"unlike{dial:g}", world, FEWER, subsets(world[:2]), kind="heterogeneity", dial=dial)
    pair = subsets(SYNERGY_WORLD[:2])
    runs += _runs("synergy", SYNERGY_WORLD, FEWER, pair, kind="synergy")
    for size, root in SIZES.items():
        pair = subsets(TRAINED[:2])
        runs += _runs(size, TRAINED, SEEDS, pair, kind="capacity", root=root, amounts=TEACHER)
    return runs


def subsets(domains: Sequence[str]) -> list[tuple[str, ...]]:
    """All that are not empty, small ones first."""
    return [chosen for size in range(1, len(domains) + 1) for chosen in combinations(domains, size)]


def unlike(domain: str, dial: float) -> str:
    """The domain, at 1 with the corruption, reward scale and verifier's errors of the hard one of `HETEROGENEOUS`."""
    return f"{domain}?corruption={0.5 + 0.4 * dial:g}&reward_scale={1 - 0.9 * dial:g}&reward_noise={0.05 * dial:g}"


def _runs(
    name: str,
    world: Sequence[str],
    seeds: Sequence[int],
    sets: Sequence[tuple[str, ...]],
    *,
    kind: str,
    dial: float = 0.0,
    root: str = BASE,
    amounts: Amounts = RL,
) -> list[Run]:
    """One world's runs: each set of its domains on every seed."""
    return [
        Run(
            name=f"{name}/{'-'.join(domain.partition('?')[0] for domain in chosen)}/seed{seed}",
            recipe=_grown_from(root, _recipe(world, chosen, amounts)),
            settings=Settings(
                seed=seed, validation_items=50, test_items=1000, evaluate_every=1000, diagnose_every=EARLY_STEP
            ),
            factors={"world": name, "kind": kind, "dial": dial, "trained": " ".join(chosen)},
            held_out=kind == "ambiguity" and dial == UNSEEN_DIAL,
            cut=seed,
        )
        for seed in seeds
        for chosen in sets
    ]  # fmt: skip


def _recipe(world: Sequence[str], chosen: tuple[str, ...], amounts: Amounts) -> Recipe:
    """RL on the chosen domains, the same prompts of each whatever their number."""
    if len(chosen) == 1:
        return alone(chosen[0], world, amounts)
    joint = amounts.model_copy(update={"prompts_per_step": PROMPTS * len(chosen)})
    return over(catalogue.mixed_rl(chosen).with_amounts({"mixed": joint}), world)


def _grown_from(root: str, recipe: Recipe) -> Recipe:
    stages = tuple(stage.model_copy(update={"init": root}) for stage in recipe.stages)
    return rebuilt(recipe, stages=stages)


def analyse(found: Observations) -> Analysis:
    """K of every pair and triple, by direction and seed, with the early predictors beside it."""
    rows = directions(found)
    pairs = rows[rows["size"] == 2]
    worlds = by_world(sorting(pairs))
    # without conflict, both dials stand at 0
    unlike_from_0 = worlds.assign(kind=worlds.kind.mask(worlds.world == "dial0", "heterogeneity"))
    dials = pd.concat([worlds, unlike_from_0[unlike_from_0.world == "dial0"]])
    return Analysis(
        quantities=_quantities(rows, pairs),
        findings=_findings(worlds),
        tables=(
            Table(title="K of the sorting pair by world, mean of both directions", frame=worlds),
            Table(title="K by direction and seed", frame=rows.drop(columns="run")),
        ),
        charts=(
            Chart(
                name="dial", title="K of the sorting pair along both dials, with 80% intervals over seeds",
                frame=dials[dials.kind.isin(["ambiguity", "heterogeneity"])], x="dial", y="K", low="low", high="high",
                colour="kind",
            ),
            Chart(
                name="capacity", title="K of the sorting pair after 48 updates by the model's size, with 80% intervals",
                frame=worlds[worlds.kind == "capacity"], x="world", y="K", low="low", high="high", mark="point",
            ),
            Chart(
                name="predictors", title="K by the gradient cosine at step 10: each pair, direction and seed",
                frame=pairs.dropna(subset=["cosine"]), x="cosine", y="K", colour="world", mark="point",
            ),
        ),
        fitted={"K": {row["world"]: row for row in worlds.to_dict("records")}} if len(worlds) else {},
        limits=(
            "Short runs at one learning rate, but for the two sizes: K of the first gains, not of asymptotes.",
            "Heterogeneity is unequal success and a verifier that errs, at a rate that both share; domains that want "
            "other rates, batches or clocks are in `turnover`.",
            "The narrow model is squeezed before RL too: it starts lower, and other room for gains moves K by itself.",
        ),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Quantity]:
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    sorts = sorting(pairs)

    def k_of(world: str) -> pd.Series[float]:
        own: pd.Series[float] = sorts[sorts.world == world].groupby("seed").K.mean()
        return own

    def less(world: str, other: str) -> Quantity | None:
        return paired(sorts, "K", {"world": world}, {"world": other})

    def foretold(predictor: str) -> Quantity | None:
        by_run = [own[[predictor, "K"]].to_numpy(dtype=float) for _, own in pairs.groupby("run")]
        return bootstrap(by_run, rank_correlation, rng)

    beside_unlike = sorts[(sorts.world == "unlike1") & (sorts.domain == TRAINED[1])]
    zero = rows[rows.world == "dial0"]
    return kept(
        K_dial_0=mean_quantity(k_of("dial0")),
        K_dial_1=mean_quantity(k_of("dial1")),
        K_synergy=mean_quantity(k_of("synergy")),
        K_beside_unlike=mean_quantity(beside_unlike.K),
        K_narrow=mean_quantity(k_of("narrow")),
        unlike_minus_alike=less("unlike1", "dial0"),
        narrow_minus_wide=less("narrow", "wide"),
        unseen_dial_error=mean_quantity(k_of(f"dial{UNSEEN_DIAL:g}") - (k_of("dial0.5") + k_of("dial1")) / 2),
        triple_minus_pairs=paired(zero, "K", {"size": 3}, {"size": 2}),
        cosine_rank_correlation=foretold("cosine"),
        update_rank_correlation=foretold("log_update_ratio"),
    )


def _findings(worlds: pd.DataFrame) -> tuple[str, ...]:
    if worlds.empty:
        return ()
    shown = ", ".join(f"{r.world} {r.K:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in worlds.itertuples())
    return (f"K, mean of both directions, 80% interval over seeds: {shown}.",)


STUDY = Study(
    name="interference",
    question="How do domains trained together change each other's gain, and does an early gradient foretell it?",
    prediction=predicted(
        "Without ambiguity the competing pair hardly interferes; with full ambiguity it loses over half of "
        "its gain, and a dial in between lies between. Three domains interfere no more than pairs do on average. "
        "A companion of rare success and a noisy verifier takes little from its neighbour in short runs, and a "
        "model of half the width shows no more conflict than the whole one: of the three kinds only ambiguity is "
        "conflict at this size. The update inner product at step 10 ranks pairs better than the cosine does.",
        """
        K_dial_0                 -0.2 to 0.2    K at ambiguity 0
        K_dial_1                 <= -0.7        K at ambiguity 1
        K_synergy                >= 0.0         K of sort and longer sort
        unlike_minus_alike       -0.25 to 0.25  K beside an unlike domain less beside an alike one
        K_beside_unlike          -0.2 to 0.2    K of the ordinary domain beside an unlike one
        narrow_minus_wide        -0.25 to 0.25  K on the narrow model less on the wide one
        unseen_dial_error        -0.25 to 0.25  K at the unseen dial less the mean of its neighbours
        triple_minus_pairs       -0.15 to 0.15  K of the triple less that of pairs
        cosine_rank_correlation  >= 0.5         rank correlation of cosine and K
        update_rank_correlation  >= 0.5         the same of the update inner product
        """,
    ),
    observed=(
        "test scores on 1,000 prompts after 12 updates (48 of the two sizes); gradients by domain at steps 0 and 10"
    ),
    held_out=f"ambiguity {UNSEEN_DIAL:g}, predicted from its neighbours",
    design=design,
    analyse=analyse,
)
