"""How fast simulator and planner are on this machine: a cold forecast, a warm one, candidates a second in the search;
then a search over eight domains from nothing, and the whole answer with its flip points, sensitivities and worths.

`python -m tools.speed` prints the figures as JSON. Seconds are wall time on one thread, of the simulator medians of
several runs. Leaves out: the trainer's speed (`mopd train bench`).
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
from mopdsim.plan.explore import explore
from mopdsim.plan.plan import plan
from mopdsim.plan.question import Question, from_document
from mopdsim.plan.stock import Stock

_DOMAINS = ["math", "code", "swe", "tool_use", "search", "if", "knowledge", "chat"]
_ROUNDS: dict[str, Any] = {
    "domains": _DOMAINS[:6],
    "options": {"rounds": 2},
    "gpus": 512,
    "model": "MiMo-V2-Flash",
    "gpu": "H200",
}
QUESTION: dict[str, Any] = {
    "domains": _DOMAINS,
    "model": "Qwen3-30B-A3B",
    "gpu": "H200",
    "gpus": 512,
    "teams": 5,
    "budget_usd": 3e6,
    "deadline_days": 84,
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


def of_planner(question: Question) -> dict[str, Any]:
    """Wall and processor seconds of the search from nothing, then of the whole answer with warm bills."""
    wall, processor = time.perf_counter(), time.process_time()
    found = explore(question)
    search = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
    wall, processor = time.perf_counter(), time.process_time()
    plan(question)
    answer = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
    evaluated = len(found.outcomes)
    return {
        "domains": len(question.domains),
        "draws": question.base.draws,
        "evaluated": evaluated,
        "search": search,
        "search_wall_s_per_10000": search["wall_s"] / evaluated * 10_000,
        "answer": answer,
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
    print(json.dumps({"simulator": measure(), "planner": of_planner(from_document(QUESTION))}, indent=1))
