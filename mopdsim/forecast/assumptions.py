"""What a question came to once every default was put in: one line, defaults marked.

The same line stands above every answer, so that two answers that differ show where they were asked differently.
Leaves out: where a forecast leaves what is known (`mopdsim.forecast.caveats`).
"""

from __future__ import annotations

from mopdsim.base.numbers import count, duration, usd
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import title
from mopdsim.forecast.scenario import Scenario

DEFAULT = "*"
LEGEND = f"({DEFAULT} default)"


def assumptions(scenario: Scenario, *, chosen: bool = False) -> str:
    """Model, GPUs, price, domains, amounts, GPUs of a stage, teams, overhead, limits. chosen: a plan sets steps and
    GPUs of stages itself."""
    stated = scenario.stated

    def said(text: str, *keys: str) -> str:
        return text if any(key in stated for key in keys) else text + DEFAULT

    price = scenario.usd_per_gpu_hour or gpu(scenario.gpu).usd_per_gpu_hour
    pools = " + ".join(count(size) for size in scenario.pools.values())
    parts = [
        f"{said(title(scenario.model), 'model')} on {said(pools, 'gpus', 'pools')} x {said(scenario.gpu, 'gpu')} at "
        f"{said(usd(price), 'usd_per_gpu_hour')} a GPU-hour",
        said(f"domains {', '.join(scenario.recipe.domains)}", "domains"),
        f"{said(scenario.recipe.amounts_name, 'amounts')} amounts",
        *([] if chosen else [said(_gpus_of_stages(scenario), "gpus_per_stage", "gpus_of")]),
        said("any number of teams" if scenario.teams is None else f"{scenario.teams} teams", "teams"),
        said(f"stack {scenario.stack}", "stack", "measured") + _measured(scenario),
        said(_overhead(scenario), "overhead"),
        *_limits(scenario),
    ]
    line = "; ".join(parts)
    return f"{line} {LEGEND}" if DEFAULT in line else line


def basis(scenario: Scenario) -> str:
    """What the scores rest on: what the user measured, studies of small models, or assumptions."""
    measured = [name for name, row in scenario.domains.items() if row.start.grade == "measured"]
    if measured:
        return f"measured on your model: {', '.join(measured)}; the rest assumed"
    if scenario.scope == "tiny":
        return "fitted to runs of tiny models"
    return "assumptions, none measured on your model"


def _gpus_of_stages(scenario: Scenario) -> str:
    sizes = sorted({scenario.stage_gpus(name) for name in scenario.recipe.amounts})
    if len(sizes) == 1:
        return f"{count(sizes[0])} GPUs a stage"
    return f"{count(sizes[0])} to {count(sizes[-1])} GPUs a stage"


def _measured(scenario: Scenario) -> str:
    if scenario.factor is None:
        return ""
    return ", steps as measured" + ("" if scenario.measured is None else f" in {scenario.measured}")


def _overhead(scenario: Scenario) -> str:
    if scenario.overhead is None:
        return "no overhead" if gpu(scenario.gpu).name.startswith("CPU") else "a project's overhead"
    low, high = scenario.overhead
    return f"overhead {low:g} to {high:g} times"


def _limits(scenario: Scenario) -> list[str]:
    found = []
    if scenario.budget_usd is not None:
        found.append(f"budget {usd(scenario.budget_usd)}")
    if scenario.deadline_days is not None:
        found.append(f"deadline {duration(scenario.deadline_days)}")
    return found
