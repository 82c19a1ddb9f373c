"""The planner's question as the app asks it: from the choice of What if, a form, or an own file, to TOML text.

Leaves out: what a question may say (`mopdsim.plan.question`), the form's widgets (`mopdsim.app.pages.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from mopdsim.base.errors import UsageError
from mopdsim.facts.domains import Estimate
from mopdsim.facts.model import model
from mopdsim.forecast.scenario import Scenario, dump, from_document
from mopdsim.forecast.schedule import Reliability
from mopdsim.plan.question import Question, loads
from mopdsim.plan.search.candidate import Plan, scenario_of
from mopdsim.recipes.recipe_file import parse_toml

SOURCE = "question"
FIELDS = (
    "start", "asymptote", "midpoint", "steepness", "distill_tokens", "prompt_tokens", "response_tokens",
    "environment_seconds", "max_response_tokens", "turns",
)  # fmt: skip
_ZERO_IS_NONE = ("teams", "budget_usd", "deadline_days")
_MACHINE = ("model", "gpu", *_ZERO_IS_NONE)
_CARRIED = ("usd_per_gpu_hour", "overlap", "precision", "speculative_factor", "conflict_shift", "seed")
_WHOLE = ("max_response_tokens", "turns")
_CONFIDENCE = 0.8


def of_scenario(scenario: Scenario) -> dict[str, Any]:
    """The question that a scenario's machine, limits and knowledge pose, whatever its recipe."""
    found: dict[str, Any] = {"domains": list(scenario.recipe.domains), "gpus": sum(scenario.pools.values())}
    found |= {key: getattr(scenario, key) for key in _MACHINE if getattr(scenario, key) is not None}
    found["model"] = model(scenario.model).name
    defaults = {row.name: row.default for row in fields(Scenario)}
    found |= {key: getattr(scenario, key) for key in _CARRIED if getattr(scenario, key) != defaults[key]}
    if scenario.reliability != Reliability():
        found["reliability"] = asdict(scenario.reliability)
    if scenario.facts:
        found["domain"] = {name: dict(row) for name, row in scenario.facts.items()}
    if scenario.conflict:
        found["conflict"] = {pair: list(ends) for pair, ends in scenario.conflict.items()}
    return found


def form_of(scenario: Scenario) -> dict[str, Any]:
    """What the form's fields begin with. asked: the scenario's own question, which they change."""
    asked = of_scenario(scenario)
    return {
        "asked": asked,
        "domains": asked["domains"],
        "model": asked["model"],
        "gpu": asked["gpu"],
        "gpus": asked["gpus"],
        "teams": asked.get("teams", 0),
        "budget_usd": float(asked.get("budget_usd", 0)),
        "deadline_days": float(asked.get("deadline_days", 0)),
        "objective": "mean",
        "least": 0.0,
        "confidence": _CONFIDENCE,
        "wishes": pd.DataFrame(),
        "facts": pd.DataFrame(),
        "releases": 0,
        "portfolio": [],
    }


def of_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """The question that the fields ask, without the limits that are none."""
    names: list[str] = list(values["domains"])
    found = {**values["asked"], **{key: values[key] for key in ("domains", "gpus", *_MACHINE, "objective")}}
    found = {key: value for key, value in found.items() if value != 0 or key not in _ZERO_IS_NONE}
    if "conflict" in found:
        pairs = found["conflict"].items()
        found["conflict"] = {pair: ends for pair, ends in pairs if set(pair.split(">")) <= set(names)}
    known = _with_facts(_domain_tables(values), values)
    found.pop("domain", None)
    if known:
        found["domain"] = known
    if values["confidence"] != _CONFIDENCE:
        found["confidence"] = float(values["confidence"])
    rows = values["wishes"].to_dict("index")
    if found["objective"] == "weighted":
        found["weights"] = {name: float(rows.get(name, {}).get("weight", 1.0)) for name in names}
    lowest = {name: rows.get(name, {}).get("least") for name in names}
    minimum = {
        name: float(values["least"] if least is None or pd.isna(least) else least)
        for name, least in lowest.items()
    }
    if any(minimum.values()):
        found["minimum"] = {name: least for name, least in minimum.items() if least}
    releases = [[name for name in release if name in names] for release in values["portfolio"]]
    if any(releases):
        found["portfolio"] = [release for release in releases if release]
    return found


def checked(document: Mapping[str, Any]) -> str:
    """The question as TOML text. UsageError or NotFoundError, one sentence, where it is not sound."""
    name = document.get("model")
    if isinstance(name, str) and (name.endswith(".json") or Path(name).is_dir()):
        raise UsageError(
            f"{SOURCE}: model = {name!r}: the app reads no files; use `mopd plan` for a model of your own"
        )
    text = tomli_w.dumps(dict(document))
    loads(text, source=SOURCE)
    return text


def wishes(names: Sequence[str]) -> pd.DataFrame:
    """Weight and lowest acceptable score of each domain, as they are where nobody has said anything."""
    rows = {"weight": 1.0, "least": float("nan")}
    return pd.DataFrame(rows, index=pd.Index(list(names), name="domain"))


def facts(values: Mapping[str, Any]) -> pd.DataFrame:
    """What is known of each domain of the form: central values of ten fields, a row a domain."""
    names = list(values["domains"])
    document = {"recipe": "mixed_rl", "domains": names, "domain": _domain_tables(values)}
    rows = from_document(document, source=SOURCE).domains if names else {}
    table = {
        name: [
            value.value if isinstance(value := getattr(row, field), Estimate) else float(value)
            for field in FIELDS
        ]
        for name, row in rows.items()
    }
    return pd.DataFrame.from_dict(table, orient="index", columns=list(FIELDS)).rename_axis("domain")


def _domain_tables(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the scenario says of the chosen domains."""
    given = values["asked"].get("domain", {})
    return {name: dict(row) for name, row in given.items() if name in values["domains"]}


def _with_facts(known: dict[str, dict[str, Any]], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same with the numbers of the table that somebody has typed over."""
    typed = values["facts"]
    plain = facts(values) if len(typed) else typed
    for name in plain.index.intersection(typed.index):
        for field in FIELDS:
            value = typed.at[name, field]
            if pd.notna(value) and value != plain.at[name, field]:
                known.setdefault(name, {})[field] = int(value) if field in _WHOLE else float(value)
    return known


def with_budget(question: str, usd: float) -> str:
    """The same question with this much money."""
    return tomli_w.dumps({**parse_toml(question, source=SOURCE), "budget_usd": float(usd)})


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
