"""The planner's question as the app asks it: from the choice of What if, a form, or an own file, to TOML text.

Leaves out: what a question may say (`mopdsim.planning.question`), the form's widgets (`mopdsim.ui.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import tomli_w

from mopdsim.domains import Domain, Estimate
from mopdsim.planning.candidate import Plan, scenario_of
from mopdsim.planning.question import Question, loads
from mopdsim.scenario import Scenario, dump

SOURCE = "question"
FIELDS = (
    "start", "asymptote", "midpoint", "steepness", "distill_tokens", "prompt_tokens", "response_tokens",
    "environment_seconds", "max_response_tokens", "turns",
)  # fmt: skip
MACHINE = ("model", "gpu", "teams", "budget_usd", "deadline_days")


def of_scenario(scenario: Scenario) -> dict[str, Any]:
    """The question that a scenario's machine, limits and knowledge pose, whatever its recipe."""
    found: dict[str, Any] = {"domains": list(scenario.recipe.domains), "gpus": sum(scenario.pools.values())}
    found |= {key: getattr(scenario, key) for key in MACHINE if getattr(scenario, key) is not None}
    if scenario.facts:
        found["domain"] = {name: dict(row) for name, row in scenario.facts.items()}
    if scenario.conflict:
        found["conflict"] = {pair: list(ends) for pair, ends in scenario.conflict.items()}
    return found


def checked(document: Mapping[str, Any]) -> str:
    """The question as TOML text. UsageError or NotFoundError, one sentence, where it is not sound."""
    text = tomli_w.dumps(dict(document))
    loads(text, source=SOURCE)
    return text


def facts(rows: Mapping[str, Domain]) -> pd.DataFrame:
    """What is known of each domain: central values of ten fields, a row a domain."""
    table = {
        name: [
            value.value if isinstance(value := getattr(row, field), Estimate) else float(value)
            for field in FIELDS
        ]
        for name, row in rows.items()
    }
    return pd.DataFrame.from_dict(table, orient="index", columns=list(FIELDS)).rename_axis("domain")


def with_facts(document: Mapping[str, Any], edited: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The question with fields of domains replaced by numbers that somebody knows."""
    known = {name: dict(row) for name, row in document.get("domain", {}).items()}
    for name, cells in edited.items():
        for field, value in cells.items():
            if field in FIELDS and value is not None and name in document["domains"]:
                whole = field in ("max_response_tokens", "turns")
                known.setdefault(name, {})[field] = int(value) if whole else float(value)
    return {**document, "domain": known} if known else dict(document)


def plan_of(document: Mapping[str, Any]) -> Plan:
    """The plan that the planner's document describes."""
    fields = {key: value for key, value in document.items() if key in Plan.__dataclass_fields__}
    groups = tuple(tuple(group) for group in fields.pop("groups"))
    steps = tuple(fields.pop("rl_steps"))
    return Plan(groups=groups, rl_steps=steps, **{"student_gpus": fields["gpus"], **fields})


def scenario_text(question: str, plan: Mapping[str, Any]) -> str:
    """The scenario of a plan of the frontier, as `mopd forecast` takes it."""
    asked: Question = loads(question, source=SOURCE)
    return dump(scenario_of(asked, plan_of(plan)))
