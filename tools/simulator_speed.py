"""How fast the simulator is on this machine: a cold forecast, a warm one, and candidates a second in the
search.

`python -m tools.simulator_speed` prints the figures as JSON. Seconds are wall time, medians of several runs, one
thread.
Leaves out: the trainer's speed (`mopd train bench`).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import of_recipe
from mopdsim.plan.candidate import Plan
from mopdsim.plan.evaluation import Evaluator
from mopdsim.plan.question import from_document
from mopdsim.plan.stock import Stock

_DOMAINS = ["math", "code", "swe", "tool_use", "search", "if", "knowledge", "chat"]
_ROUNDS: dict[str, Any] = {
    "domains": _DOMAINS[:6],
    "options": {"rounds": 2},
    "gpus": 512,
    "model": "MiMo-V2-Flash",
    "gpu": "H200",
}
_COLD = (
    "import json; from mopdsim.forecast.forecast import forecast; from mopdsim.forecast.scenario import of_recipe; "
    f"json.dumps(forecast(of_recipe('mopd', **{_ROUNDS!r})).to_document())"
)


def measure(*, repeats: int = 5, candidates: int = 8000) -> dict[str, Any]:
    """The figures: two rounds of six teachers on six domains; a search over nine stages on eight domains."""
    two_rounds = of_recipe("mopd", **_ROUNDS)
    return {
        "cold_forecast_s": _median(_cold, repeats),
        "warm_forecast_s": _median(lambda: forecast(two_rounds), repeats, warm=True),
        "warm_document_s": _median(lambda: forecast(two_rounds).to_document(), repeats, warm=True),
        "draws": two_rounds.draws,
        **_search(repeats, candidates),
    }


def _search(repeats: int, candidates: int) -> dict[str, Any]:
    question = from_document({"domains": _DOMAINS, "gpu": "H200", "gpus": 64, "budget_usd": 1e6, "draws": 1})
    rng = np.random.default_rng(0)
    plans = [
        Plan(
            family="mopd",
            groups=tuple((name,) for name in _DOMAINS),
            rl_steps=tuple(rng.integers(2, 600, len(_DOMAINS)).tolist()),
            distill_steps=int(rng.integers(2, 600)),
            gpus=int(rng.choice([16, 32, 64])),
            student_gpus=64,
        )
        for _ in range(candidates)
    ]
    stock = Stock(question)
    Evaluator(question, stock=stock).evaluate(plans)  # the pieces that all share
    seconds = _median(lambda: Evaluator(question, stock=stock).evaluate(plans), repeats)
    half = _median(lambda: Evaluator(question, stock=stock).evaluate(plans[::2]), repeats)
    return {
        "search_stages": len(_DOMAINS) + 1,
        "search_domains": len(_DOMAINS),
        "search_evaluations_per_s": candidates / seconds,
        "search_growth_when_doubled": seconds / half,
    }


def _cold() -> None:
    subprocess.run([sys.executable, "-c", _COLD], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _median(run: Callable[[], object], repeats: int, *, warm: bool = False) -> float:
    if warm:
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
