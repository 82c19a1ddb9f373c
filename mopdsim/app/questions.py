"""The planner's question as the app asks it: of the choice at hand, and of an own file; one text for one question.

Leaves out: what a question may say (`mopdsim.plan.question`), the fields (`mopdsim.app.pages.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

import tomli_w

from mopdsim.app.choice import Choice, without_files
from mopdsim.app.uploads import toml_document
from mopdsim.base.documents import parse_toml, table
from mopdsim.base.errors import UsageError
from mopdsim.forecast.scenario import Scenario, dump, measured_table
from mopdsim.forecast.schedule import Reliability
from mopdsim.plan.candidate import Plan, scenario_of
from mopdsim.plan.question import OWN_KEYS, PASSED_KEYS, Question, loads

SOURCE = "question"
_TABLES = (
    "model",
    "gpu",
    "gpus",
    "measured",
    "overhead",
    "reliability",
    "domain",
    "conflict",
)  # that are not plain
_PLAIN = tuple(key for key in PASSED_KEYS if key not in _TABLES)
WISHES = tuple(key for key in OWN_KEYS if key != "domains")


@lru_cache(maxsize=64)
def of_choice(choice: Choice) -> str:
    """The question that a choice poses, as TOML. UsageError where it is not sound, as without any limit."""
    return checked({**of_scenario(choice.scenario()), **wishes(choice)})


def of_scenario(scenario: Scenario) -> dict[str, Any]:
    """The question that a scenario's machine, limits and knowledge pose, whatever its recipe; what is a default there
    is left to be one."""
    found: dict[str, Any] = {"domains": list(scenario.recipe.domains)}
    found |= {key: getattr(scenario, key) for key in ("model", "gpu") if key in scenario.stated}
    if scenario.stated & {"gpus", "pools"}:
        found["gpus"] = sum(scenario.pools.values())
    plain = {row.name: row.default for row in fields(Scenario) if row.name in _PLAIN}
    values = {key: getattr(scenario, key) for key in plain}
    found |= {key: value for key, value in values.items() if value is not None and value != plain[key]}
    if scenario.factor is not None:
        found["measured"] = measured_table(scenario.stack, scenario.factor)
    if scenario.overhead is not None:
        found["overhead"] = list(scenario.overhead)
    if scenario.reliability != Reliability():
        found["reliability"] = asdict(scenario.reliability)
    if scenario.facts:
        found["domain"] = {name: dict(row) for name, row in scenario.facts.items()}
    if scenario.conflict:
        found["conflict"] = {pair: list(ends) for pair, ends in scenario.conflict.items()}
    return found


@lru_cache(maxsize=64)
def wishes(choice: Choice) -> Mapping[str, Any]:
    """What counts, further limits and later releases, of the domains that are asked for. UsageError where they are not
    sound, whatever the limits are."""
    found = parse_toml(choice.wishes, source=SOURCE)
    for key in found:
        if key not in WISHES:
            raise UsageError(f"{SOURCE}: {key}: belongs to the scenario, not to what is wished of it")
    scenario = choice.scenario()
    names = scenario.recipe.domains
    for key in ("weights", "minimum"):
        if isinstance(found.get(key), Mapping):
            found[key] = {name: value for name, value in found[key].items() if name in names}
    if found.get("objective") == "weighted":
        found["weights"] = dict.fromkeys(names, 1.0) | dict(
            table(found.get("weights", {}), f"{SOURCE}: weights")
        )
    if isinstance(found.get("portfolio"), list):
        releases = [
            [name for name in release if name in names] if isinstance(release, list) else release
            for release in found.pop("portfolio")
        ]
        if any(releases):
            found["portfolio"] = [release for release in releases if release]
    checked({**of_scenario(scenario), "deadline_days": 1.0, **found})
    return found


def wished(choice: Choice, **changes: Any) -> str:
    """The wishes with some of them changed, as a choice keeps them; None or an empty value takes one away."""
    found = {**parse_toml(choice.wishes, source=SOURCE), **changes}
    return tomli_w.dumps({key: value for key, value in found.items() if value not in (None, [], {}, "")})


def to_choice(text: str) -> Choice:
    """The choice that poses an own question. UsageError or NotFoundError, one sentence, where it is not sound."""
    document = toml_document(text, source=SOURCE)
    checked(document)
    names = document.get("domains", list(document.get("domain", {})))
    scenario = {key: value for key, value in document.items() if key not in OWN_KEYS}
    wished_for = {key: document[key] for key in WISHES if key in document}
    own = tomli_w.dumps({"recipe": "mopd", "domains": names, **scenario})
    return Choice(own=own, wishes=tomli_w.dumps(wished_for))


def checked(document: Mapping[str, Any]) -> str:
    """The question as TOML text. UsageError or NotFoundError, one sentence, where it is not sound."""
    without_files(document, source=SOURCE, command="plan")
    text = tomli_w.dumps(dict(document))
    loads(text, source=SOURCE)
    return text


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
