"""interference: how do domains trained together change each other's gain, and does an early gradient foretell it?

K_jd = log of (gain of d trained with j) / (gain of d alone), after the same number of updates with the same number of
d's prompts in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mopdsim import recipes
from mopdsim.amounts import Amounts
from studies.analysis import Analysis, Chart, Quantity, Table
from studies.designs.builders import TRAINED, alone, ambiguous, gain, kept, over
from studies.observe import Observations
from studies.resample import bootstrap, mean_quantity
from studies.study import Claim, Prediction, Run, Study
from trainer.settings import Settings

DIALS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNSEEN_DIAL = 0.75
SYNERGY_WORLD = ("sort", "sort_long", "reverse")
SEEDS = (0, 1, 2)
PROMPTS = 16  # of each domain in an update, in every run
RL = Amounts(steps=12, prompts_per_step=PROMPTS, rollouts_per_prompt=8, learning_rate=3e-4, warmup_steps=3)
LEAST_GAIN = 0.005
EARLY_STEP = 10
BOOTSTRAP_SEED = 5


def design() -> list[Run]:
    """At dial 0 every subset of three domains; at the other dials, and of the synergy pair, both alone and together."""
    runs = []
    for seed in SEEDS:
        for dial in DIALS:
            world = ambiguous(TRAINED, dial)
            sets = subsets(world) if dial == 0 else subsets(world[:2])
            for chosen in sets:
                runs.append(_run(f"dial{dial:g}", world, chosen, seed, dial=dial))
        for chosen in subsets(SYNERGY_WORLD[:2]):
            runs.append(_run("synergy", SYNERGY_WORLD, chosen, seed))
    return runs


def subsets(domains: Sequence[str]) -> list[tuple[str, ...]]:
    """All that are not empty, small ones first."""
    return [chosen for size in range(1, len(domains) + 1) for chosen in combinations(domains, size)]


def _run(
    world_name: str, world: Sequence[str], chosen: tuple[str, ...], seed: int, *, dial: float = 0.0
) -> Run:
    amounts = RL.model_copy(update={"prompts_per_step": PROMPTS * len(chosen)})
    recipe = (
        alone(chosen[0], world, amounts)
        if len(chosen) == 1
        else over(recipes.mixed_rl(chosen).with_amounts({"mixed": amounts}), world)
    )
    label = "-".join(domain.partition("?")[0] for domain in chosen)
    return Run(
        name=f"{world_name}/{label}/seed{seed}",
        recipe=recipe,
        settings=Settings(
            seed=seed, validation_items=50, test_items=1500, evaluate_every=1000, diagnose_every=EARLY_STEP
        ),
        factors={"world": world_name, "dial": dial, "trained": " ".join(chosen)},
        held_out=dial == UNSEEN_DIAL,
        cut=seed,
    )


def analyse(found: Observations) -> Analysis:
    """K of every pair and triple, by direction and seed, with the early predictors beside it."""
    rows = pd.DataFrame(
        [row for name in found.runs() for row in _directions(found, name)],
        columns=[
            "run",
            "world",
            "dial",
            "seed",
            "size",
            "domain",
            "companions",
            "K",
            "cosine",
            "log_update_ratio",
        ],
    )
    pairs = rows[rows["size"] == 2]
    by_world = pd.DataFrame(
        [
            {
                "world": world,
                "dial": own.dial.iloc[0],
                "value": q.value,
                "low": q.low,
                "high": q.high,
                "n": q.n,
            }
            for world, own in competing(pairs).groupby("world")
            if (q := mean_quantity(own.groupby("run").K.mean())) is not None
        ]
    )
    dials = by_world[by_world.world != "synergy"] if len(by_world) else by_world
    return Analysis(
        quantities=_quantities(rows, pairs),
        findings=_findings(by_world),
        tables=(
            Table(title="K of the competing and the synergy pair, mean of both directions", frame=by_world),
            Table(title="K by direction and seed", frame=rows.drop(columns="run")),
        ),
        charts=(
            Chart(
                name="dial", title="K of the competing pair by ambiguity, with 80% intervals over seeds",
                frame=dials, x="dial", y="value", low="low", high="high",
            ),
            Chart(
                name="predictors", title="K by the gradient cosine at step 10: each pair, direction and seed",
                frame=pairs.dropna(subset=["cosine"]), x="cosine", y="K", colour="world", mark="point",
            ),
        ),
        fitted={"K": {row["world"]: row for row in by_world.to_dict("records")}} if len(by_world) else {},
        limits=(
            "Short runs at one learning rate: K of the first gains, not of asymptotes.",
            "Heterogeneous domains and a squeezed capacity are not in this design.",
        ),
    )  # fmt: skip


def competing(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of two sorting domains."""
    return pairs[pairs.companions.str.startswith("sort") & pairs.domain.str.startswith("sort")]


def _directions(found: Observations, name: str) -> list[dict[str, Any]]:
    """Of a run of several domains: K of each of them against its own run alone."""
    trained = str(found.factor(name, "trained")).split()
    world, seed = found.factor(name, "world"), found.seed(name)
    rows = []
    for domain in trained if len(trained) > 1 else ():
        single = next((r for r in found.runs(world=world, trained=domain) if found.seed(r) == seed), None)
        if single is None:
            continue
        together, apart = gain(found, name, domain), gain(found, single, domain)
        others = [other for other in trained if other != domain]
        cosines = [
            _early(found, name, "gradient_cosine", *sorted((domain, other), key=trained.index))
            for other in others
        ]
        inner, own = (
            _early(found, name, "update_inner", domain),
            _early(found, single, "update_inner", domain),
        )
        rows.append(
            {
                "run": name, "world": world, "dial": found.factor(name, "dial"), "seed": seed, "size": len(trained),
                "domain": domain, "companions": " ".join(others),
                "K": math.log(max(together, LEAST_GAIN) / max(apart, LEAST_GAIN)),
                "cosine": float(np.mean(cosines)),
                "log_update_ratio": math.log(inner / own) if inner < 0 and own < 0 else math.nan,
            }
        )  # fmt: skip
    return rows


def _early(found: Observations, name: str, quantity: str, domain: str, other: str = "") -> float:
    """A diagnostic of the newest diagnosed step up to the early one; nan where it was not taken."""
    rows = found.diagnostics
    rows = rows[(rows.key == found.key(name)) & (rows.quantity == quantity) & (rows.domain == domain)]
    rows = rows[(rows.other.fillna("") == other) & (rows.step <= EARLY_STEP)]
    return float(rows.sort_values("step").value.iloc[-1]) if len(rows) else math.nan


def _quantities(rows: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Quantity]:
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    sorts = competing(pairs)

    def k_of(world: str) -> pd.Series[float]:
        own: pd.Series[float] = sorts[sorts.world == world].groupby("seed").K.mean()
        return own

    def foretold(predictor: str) -> Quantity | None:
        by_run = [own[[predictor, "K"]].to_numpy(dtype=float) for _, own in pairs.groupby("run")]
        return bootstrap(by_run, rank_correlation, rng)

    unseen = k_of(f"dial{UNSEEN_DIAL:g}") - (k_of("dial0.5") + k_of("dial1")) / 2
    zero = rows[rows.world == "dial0"]
    triple = (
        zero[zero["size"] == 3].groupby("seed").K.mean() - zero[zero["size"] == 2].groupby("seed").K.mean()
    )
    return kept(
        K_dial_0=mean_quantity(k_of("dial0")),
        K_dial_1=mean_quantity(k_of("dial1")),
        K_synergy=mean_quantity(k_of("synergy")),
        unseen_dial_error=mean_quantity(unseen),
        triple_minus_pairs=mean_quantity(triple),
        cosine_rank_correlation=foretold("cosine"),
        update_rank_correlation=foretold("log_update_ratio"),
    )


def rank_correlation(runs: Sequence[NDArray[np.float64]]) -> float:
    """Spearman's, of the two columns of all runs together (rows with a nan left out)."""
    from scipy.stats import rankdata

    both = np.concatenate(runs)
    both = both[np.isfinite(both).all(axis=1)]
    ranks = rankdata(both, axis=0) if len(both) > 3 else both
    return (
        float(np.asarray(np.corrcoef(ranks.T))[0, 1])
        if len(both) > 3 and ranks.std(axis=0).all()
        else math.nan
    )


def _findings(by_world: pd.DataFrame) -> tuple[str, ...]:
    if by_world.empty:
        return ()
    shown = ", ".join(
        f"{r.world} {r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in by_world.itertuples()
    )
    return (f"K, mean of both directions, 80% interval over seeds: {shown}.",)


STUDY = Study(
    name="interference",
    question="How do domains trained together change each other's gain, and does an early gradient foretell it?",
    prediction=Prediction(
        text=(
            "Without ambiguity the competing pair hardly interferes; with full ambiguity it loses over half of "
            "its gain, and a dial in between lies between. Three domains interfere no more than pairs do on average. "
            "The update inner product at step 10 ranks pairs better than the gradient cosine does."
        ),
        claims=(
            Claim(quantity="K_dial_0", text="K at ambiguity 0", at_least=-0.2, at_most=0.2),
            Claim(quantity="K_dial_1", text="K at ambiguity 1", at_most=-0.7),
            Claim(quantity="K_synergy", text="K of sort and longer sort", at_least=0.0),
            Claim(
                quantity="unseen_dial_error",
                text="K at the unseen dial less the mean of its neighbours",
                at_least=-0.25,
                at_most=0.25,
            ),
            Claim(
                quantity="triple_minus_pairs",
                text="K of the triple less that of pairs",
                at_least=-0.15,
                at_most=0.15,
            ),
            Claim(quantity="cosine_rank_correlation", text="rank correlation of cosine and K", at_least=0.5),
            Claim(
                quantity="update_rank_correlation", text="the same of the update inner product", at_least=0.5
            ),
        ),
    ),
    observed="test scores on 1,500 prompts after 12 updates; gradients by domain at steps 0 and 10",
    held_out=f"ambiguity {UNSEEN_DIAL:g}, predicted from its neighbours",
    design=design,
    analyse=analyse,
)
