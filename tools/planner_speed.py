"""How fast the planner is on this machine: seconds of a search over eight domains, and plans a second.

`python -m tools.planner_speed` prints the figures as JSON: `search` alone, and the whole answer with its flip
points, sensitivities and worths. Leaves out: the simulator's speed (`tools.simulator_speed`).
"""

from __future__ import annotations

import json
import time
from typing import Any

from mopdsim.plan.explore import explore
from mopdsim.plan.plan import plan
from mopdsim.plan.question import Question, from_document

QUESTION: dict[str, Any] = {
    "domains": ["math", "code", "swe", "tool_use", "search", "if", "knowledge", "chat"],
    "model": "Qwen3-30B-A3B",
    "gpu": "H200",
    "gpus": 512,
    "teams": 5,
    "budget_usd": 3e6,
    "deadline_days": 84,
}


def measure(question: Question) -> dict[str, Any]:
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


if __name__ == "__main__":
    print(json.dumps(measure(from_document(QUESTION)), indent=1))
