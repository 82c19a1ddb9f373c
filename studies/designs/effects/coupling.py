"""K of domains trained together, from a study's observations, with what an early gradient said of it.

K_jd = log of (gain of d trained with j) / (gain of d alone), after the same number of updates with the same number of
d's prompts in each. Leaves out: the design (`studies.designs.effects.interference`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mopdsim.recipes.recipe import BASE, SMALLER
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity

LEAST_GAIN = 0.005
EARLY_STEP = 10
COLUMNS = (
    "run", "world", "kind", "dial", "seed", "size", "domain", "companions", "K", "cosine", "log_update_ratio",
)  # fmt: skip


def directions(found: Observations) -> pd.DataFrame:
    """Of every run of several domains: K of each of them against its own run alone, and the early predictors."""
    rows = [row for name in found.runs() for row in _of_run(found, name)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def sorting(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of two sorting domains."""
    return pairs[pairs.companions.str.startswith("sort") & pairs.domain.str.startswith("sort")]


def by_world(pairs: pd.DataFrame) -> pd.DataFrame:
    """K of each world's pair, mean of both directions, with its interval over seeds."""
    rows = []
    for (world, kind, dial), own in pairs.groupby(["world", "kind", "dial"]):
        k = mean_quantity(own.groupby("run").K.mean())
        if k is not None:
            rows.append(
                {"world": world, "kind": kind, "dial": dial, "K": k.value, "low": k.low, "high": k.high, "n": k.n}
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["world", "kind", "dial", "K", "low", "high", "n"])


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


def _of_run(found: Observations, name: str) -> list[dict[str, Any]]:
    trained = str(found.factor(name, "trained")).split()
    world, seed = found.factor(name, "world"), found.seed(name)
    start = SMALLER if SMALLER in found.finished[name]["keys"] else BASE
    rows = []
    for domain in trained if len(trained) > 1 else ():
        single = next((r for r in found.runs(world=world, trained=domain) if found.seed(r) == seed), None)
        if single is None:
            continue
        together, apart = (
            found.scores(run)[domain] - found.scores(run, start)[domain] for run in (name, single)
        )
        others = [other for other in trained if other != domain]
        cosines = [
            _early(found, name, "gradient_cosine", *sorted((domain, other), key=trained.index))
            for other in others
        ]
        inner, own = (_early(found, run, "update_inner", domain) for run in (name, single))
        rows.append(
            {
                **{factor: found.factor(name, factor) for factor in ("world", "kind", "dial")},
                "run": name, "seed": seed, "size": len(trained), "domain": domain, "companions": " ".join(others),
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
