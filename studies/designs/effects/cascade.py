"""cascade: what does RL on one domain after the other forget, and does the distance travelled say how much?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mopdsim.recipes import catalogue
from studies.designs.builders import (
    FOURTH,
    STUDENT,
    TEACHER,
    WORLD,
    kept,
    means,
    over,
    paired,
    run,
    spending,
    table,
    told,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import bootstrap
from studies.framework.run import Factor, Run
from studies.framework.study import Study, predicted

ORDERS = {
    "forward": ("sort", "reverse", FOURTH),
    "rotated": (FOURTH, "sort", "reverse"),
    "backward": (FOURTH, "reverse", "sort"),
}
UNSEEN_ORDER = "backward"
RATES = (3e-4, 1e-3)
REPLAYS = (0.0, 0.25)
SEEDS = (0, 1)
BOOTSTRAP_SEED = 6


def design() -> list[Run]:
    """Two orders with and without replay, and the unseen order without, at two rates."""
    return [
        _run(order, replay, rate, seed)
        for seed, rate, order, replay in itertools.product(SEEDS, RATES, ORDERS, REPLAYS)
        if not (order == UNSEEN_ORDER and replay)
    ]


def _run(order: str, replay: float, rate: float, seed: int) -> Run:
    amounts = TEACHER.model_copy(update={"learning_rate": rate})
    recipe = catalogue.cascade_rl(ORDERS[order], order=ORDERS[order], replay=replay)
    recipe = over(spending(recipe, rl=amounts, distill=STUDENT), WORLD)
    unseen = order == UNSEEN_ORDER
    factors: dict[str, Factor] = {"order": order, "replay": replay, "learning_rate": rate}
    name = f"{order}/replay{replay:g}/rate{rate:g}"
    return run(name, recipe, seed, factors, held_out=unseen, cut=2 * int(unseen) + seed)


def _forgetting(found: Observations, name: str) -> list[dict[str, Any]]:
    """A row for each later stage and each domain trained before it."""
    order = ORDERS[found.factor(name, "order")]
    stages = [f"step_{number}" for number in range(1, len(order) + 1)]
    rows = []
    for number, (before, after) in enumerate(pairwise(stages), start=1):
        points = found.stage(name, after)
        kl = points[points.split == "test"].set_index("domain").kl_parent
        for d in order[:number]:
            old, new = found.scores(name, before)[d], found.scores(name, after)[d]
            row = {"step": number + 1, "domain": d, "before": old, "after": new, "lost": old - new}
            rows.append(row | {"kl": float(kl[d])})
    return rows


def analyse(found: Observations) -> Analysis:
    """Each later stage: what the domains trained before lost, against the stage's KL to its parent on them."""
    steps = table(found, _forgetting)
    ends = table(found, lambda found, name: {"mean": found.mean(name, ORDERS["forward"])})
    if ends.empty:
        return Analysis(quantities={})
    lost = means(steps, "replay learning_rate", "lost kl")
    scores = means(ends, "order replay learning_rate", "mean")
    return Analysis(
        quantities=_quantities(steps, ends),
        findings=told(
            lost.assign(points=100 * lost.lost),
            "Rate {learning_rate:g}, replay {replay:g}: a later stage takes {points:+.1f} points from a domain trained "
            "before, at {kl:.3f} nats a token.",
        ),
        tables=(
            Table(title="Mean score of the three domains at the end, mean of seeds", frame=scores),
            Table(title="Lost by a domain in one later stage, and the stage's KL on it", frame=lost),
        ),
        charts=(
            Chart(
                name="forgetting", title="Score lost by a domain trained before, by the stage's KL to its parent on it",
                frame=steps.assign(rate=steps.learning_rate.map("{:g}".format)),
                x="kl", y="lost", colour="rate", panel="replay", mark="point",
            ),
        ),
        fitted=_fitted(steps),
        limits=("Stages of one length only; forgetting over many stages is not seen.",),
    )  # fmt: skip


def _quantities(steps: pd.DataFrame, ends: pd.DataFrame) -> dict[str, Quantity]:
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    by_run = [own[["kl", "lost"]].to_numpy(dtype=float) for _, own in steps[steps.replay == 0].groupby("run")]
    slow, fast = ({"learning_rate": rate} for rate in RATES)
    without, replayed = ({"replay": replay} for replay in REPLAYS)
    told = ends.assign(unseen=ends.order == UNSEEN_ORDER)
    seen, unseen = {"unseen": False}, {"unseen": True}
    forward, rotated = {"order": "forward"}, {"order": "rotated"}
    return kept(
        fast_minus_slow=paired(steps, "lost", fast, slow, by=("order", "replay", "seed")),
        replay_saves=paired(steps, "lost", without, replayed, by=("order", "learning_rate", "seed")),
        r_squared_of_kl_squared=bootstrap(by_run, r_squared, rng),
        order_effect=paired(ends, "mean", forward, rotated, by=("replay", "learning_rate", "seed")),
        unseen_order_error=paired(told, "mean", unseen, seen, by=("learning_rate", "seed"), replay=0.0),
    )


def r_squared(runs: Sequence[NDArray[np.float64]]) -> float:
    """Of the regression of the second column (lost) on the first (KL) squared, all runs together (RL's Razor,
    2509.04259: .71 on language models)."""
    both = np.concatenate(runs)
    both[:, 0] **= 2
    if len(both) < 3 or not both.std(axis=0).all():
        return math.nan
    return float(np.asarray(np.corrcoef(both.T))[0, 1] ** 2)


def _fitted(steps: pd.DataFrame) -> dict[str, Any]:
    """psi of lost = q0 psi KL: least squares through the origin, without replay."""
    own = steps[steps.replay == 0]
    weight = float((own.before * own.kl).pow(2).sum())
    return {"psi_per_nat": float((own.lost * own.before * own.kl).sum() / weight)} if weight > 0 else {}


STUDY = Study(
    name="cascade",
    question="What does RL on one domain after the other forget, and does the distance travelled say how much?",
    prediction=predicted(
        "A later stage takes more from earlier domains at the higher learning rate; a quarter of replay saves part "
        "of it. What is lost grows with the stage's KL on the domain; the order matters little at the end.",
        """
        fast_minus_slow          >= 0.02        lost at the high rate less at the low one
        replay_saves             >= 0.0         lost without less with replay
        r_squared_of_kl_squared  >= 0.3         R2 of what is lost on KL squared
        order_effect             -0.05 to 0.05  forward less rotated order
        unseen_order_error       -0.05 to 0.05  unseen order less the mean of the seen
        """,
    ),
    observed="test scores and KL to the parent stage on 500 prompts of each of four domains, after every stage",
    held_out=f"the order {UNSEEN_ORDER}",
    design=design,
    analyse=analyse,
)
