"""balance: does evening out the domains' share of the gradient help a student of several teachers?

Three domains whose answers are short, middling and long, so that the naive token mean gives the short one little.
Every way of balancing is run at the same two learning rates and two budgets.
"""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE, Balance
from studies.designs.builders import (
    STUDENT,
    TEACHER,
    at_best,
    kept,
    mean_where,
    means,
    of_runs,
    over,
    paired,
    run,
    spending,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, predicted

SHORT = "reverse?length=4"
WORLD = (SHORT, "rotate", "sort_long")
WAYS: tuple[Balance, ...] = get_args(Balance)
RATES = (1e-3, 2e-3)
BUDGETS = {"small": 0.25, "large": 1.0}  # of the usual student's steps
SEEDS = (0, 1, 2)
HELD_OUT_SEED = 2


def design() -> list[Run]:
    """Every way at every rate and budget, on the same teachers."""
    return [
        _run(way, rate, budget, seed)
        for seed, budget, rate, way in itertools.product(SEEDS, BUDGETS, RATES, WAYS)
    ]


def _run(way: Balance, rate: float, budget: str, seed: int) -> Run:
    student = STUDENT.scaled(BUDGETS[budget]).model_copy(update={"learning_rate": rate})
    recipe = over(spending(catalogue.mopd(WORLD, balance=way), rl=TEACHER, distill=student), WORLD)
    factors = {"balance": way, "learning_rate": rate, "budget": budget}
    unseen = seed == HELD_OUT_SEED
    return run(f"{budget}/rate{rate:g}/{way}", recipe, seed, factors, held_out=unseen, cut=int(unseen))


def _row(found: Observations, name: str) -> dict[str, Any]:
    start, student = found.scores(name, BASE), found.scores(name)
    teacher = {d: found.scores(name, f"teacher_{place}")[d] for place, d in enumerate(WORLD, start=1)}
    headroom = {d: max(teacher[d] - start[d], 0.01) for d in WORLD}
    gains = {d: student[d] - start[d] for d in WORLD}
    rows = found.diagnostics
    short = rows[(rows.key == found.key(name)) & (rows.domain == SHORT)].groupby("quantity").value.mean()
    return {
        "recovery": sum(gains.values()) / sum(headroom.values()),
        "worst_recovery": min(gains[d] / headroom[d] for d in WORLD),
        **{
            f"short_{share}": short.get(share)
            for share in ("token_share", "effective_share", "gradient_share")
        },
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Recovery of the teachers' headroom, each way at the learning rate that was best on the other seeds."""
    best = at_best(rows, of=("budget", "balance"), setting="learning_rate", score="recovery")
    shares = "short_token_share short_effective_share short_gradient_share"
    shown = means(rows, "budget balance learning_rate", f"recovery worst_recovery {shares}")
    return Analysis(
        quantities=_quantities(rows, best),
        findings=_findings(best),
        tables=(Table(title="Recovery of the teachers' mean headroom, mean of seeds", frame=shown),),
        charts=(
            Chart(
                name="recovery", title="Recovery by way of balancing and learning rate, mean of seeds",
                frame=shown.assign(rate=shown.learning_rate.map("{:g}".format)),
                x="balance", y="recovery", colour="rate", panel="budget", mark="point",
            ),
        ),
        limits=("Answers differ in length by a factor of about three; published sets differ by ten and more.",),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame, best: pd.DataFrame) -> dict[str, Quantity]:
    def against_none(way: str, budget: str, column: str = "recovery") -> Quantity | None:
        return paired(best, column, {"balance": way}, {"balance": "none"}, budget=budget)

    others = [way for way in WAYS if way != "none"]
    return kept(
        naive_short_share=mean_where(rows, "short_effective_share", balance="none"),
        token_share_short_share=mean_where(rows, "short_effective_share", balance="token_share"),
        **{f"{way}_minus_none_{budget}": against_none(way, budget) for way in others for budget in BUDGETS},
        token_share_worst_domain=against_none("token_share", "small", "worst_recovery"),
    )


def _findings(best: pd.DataFrame) -> tuple[str, ...]:
    found = best.groupby(["budget", "balance"]).recovery.mean()
    sentences = []
    for budget in BUDGETS:
        if budget in found.index:
            own = found.loc[budget].sort_values(ascending=False)
            shown = ", ".join(f"{way} {value:.0%}" for way, value in own.items())
            sentences.append(f"Recovery at each way's best rate, {budget} budget: {shown}.")
    return tuple(sentences)


STUDY = Study(
    name="balance",
    question="Does evening out the domains' share of the gradient help a student of several teachers?",
    prediction=predicted(
        "Left alone, the short domain gets well under a third of the gradient; equal token share brings it near a "
        "third. At a small budget that lifts the worst domain without changing the mean much; at a large budget "
        "all four ways are within three points of recovery.",
        """
        naive_short_share             <= 0.3         short domain's effective share, naive
        token_share_short_share       0.2 to 0.45    the same with equal token share
        token_share_worst_domain      >= 0.0         worst domain, token share less none
        token_share_minus_none_small  >= -0.03       recovery, small budget
        token_share_minus_none_large  -0.03 to 0.03  recovery, large budget
        dispersion_minus_none_large   -0.03 to 0.03  dispersion, large budget
        """,
    ),
    observed="test scores on 500 prompts of each domain; shares of tokens and of the gradient every 12 steps",
    held_out=f"seed {HELD_OUT_SEED}: the other seeds choose each way's learning rate",
    design=design,
    analyse=analyse,
)
