"""Bootstrap by run: checkpoints of one run move together, so that whole runs are drawn, never single points.

With two or three runs an interval is coarse; it says so by its width and its n. Leaves out: what is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from studies.framework.analysis import Quantity

LEVEL = 0.8
DRAWS = 1000

T = TypeVar("T")


def bootstrap(
    runs: Sequence[T], statistic: Callable[[Sequence[T]], float], rng: np.random.Generator
) -> Quantity | None:
    """The statistic of the runs, and the interval between its (1 - LEVEL) / 2 quantiles over resampled runs.

    None where there are fewer than two runs or the statistic is not finite. Resamples whose statistic is not finite
    are left out.
    """
    value = statistic(runs) if len(runs) > 1 else np.nan
    if not np.isfinite(value):
        return None
    picks = rng.integers(0, len(runs), size=(DRAWS, len(runs)))
    found = np.array([statistic([runs[i] for i in pick]) for pick in picks])
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if found.size else (value, value)
    return Quantity(value=float(value), low=float(low), high=float(high), n=len(runs))


def mean_quantity(values: ArrayLike) -> Quantity | None:
    """The mean of one number a run, with Student's t interval; None below two runs.

    For the few runs of a study: the bootstrap of two equal values would have no width, and of three is too narrow.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if x.size < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    mean = float(x.mean())
    return Quantity(value=mean, low=float(mean - half), high=float(mean + half), n=int(x.size))
