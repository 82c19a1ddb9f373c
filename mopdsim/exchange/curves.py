"""Learning curves of an import as a study's observations: scores by step and domain, and what had been spent by then.

Held-out scores where the engine evaluates (verl's `val-core/DOMAIN/.../mean@K`), or else the training reward of a stage
that trains one domain and has no such score, both only where they are rates from 0 to 1. The last point of a stage is
its test. FLOPs and tokens are the forecast's, in proportion to the steps. Leaves out: the fit (`mopdsim.fit`).
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mopdsim.base.documents import write_document
from mopdsim.exchange.steps import Steps
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import bill_of
from mopdsim.recipes.recipe_file import to_document
from mopdsim.recipes.stage import BASE, Distill, Rl, Sft

POINTS = (
    "study", "run", "recipe", "stage", "key", "seed", "split", "step", "domain", "trained", "pass_rate", "se", "n",
    "length", "flops", "gradient_tokens", "kl_start", "kl_parent",
)  # fmt: skip
# prompts of a domain that an export writes; fewer where a small file has fewer, then n is too large
HELD_OUT = 64
_VERL = re.compile(r"val-core/(.+?)/(?:reward|acc|score)/mean@(\d+)$")


def write(folder: Path, scenario: Scenario, runs: Mapping[str, Steps]) -> Path | None:
    """The folder's observations.csv and manifest.json; None where no stage has a score."""
    recipe = scenario.recipe
    keys = {BASE: "base", **{name: _key(scenario, name) for name in recipe.stage}}
    rows = [row for name, found in runs.items() for row in _points(scenario, name, found, keys[name])]
    if not rows:
        return None
    folder.mkdir(exist_ok=True)
    run = {
        "failure": None,
        "held_out": False,
        "seed": scenario.seed,
        "model": scenario.model,
        "document": to_document(recipe),
        "keys": keys,
    }
    document = {
        "study": "imported",
        "date": datetime.date.today().isoformat(),
        "runs": {recipe.name: run},
        "stages": {
            "base": {"kind": BASE, "flops": 0.0, "trained_tokens": {}},
            **{keys[name]: _stage(scenario, name) for name in recipe.amounts},
        },
    }
    (folder / "observations.csv").write_text(csv_of(POINTS, rows), encoding="utf-8")
    write_document(folder / "manifest.json", document)
    return folder / "observations.csv"


def csv_of(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows under these columns; what a row lacks, and None, is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _key(scenario: Scenario, name: str) -> str:
    text = json.dumps([to_document(scenario.recipe), scenario.model, name], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _stage(scenario: Scenario, name: str) -> dict[str, Any]:
    stage = scenario.recipe.stage[name]
    bill = bill_of(scenario, stage, gpus=scenario.stage_gpus(name))
    tokens = {domain: bill.gradient_tokens * share for domain, share in bill.shares.items()}
    return {"kind": stage.kind, "flops": bill.training_run_flops, "trained_tokens": tokens}


def _points(scenario: Scenario, name: str, found: Steps, key: str) -> Iterator[dict[str, Any]]:
    """The rows of a stage's curve."""
    stage = scenario.recipe.stage[name]
    amounts = scenario.recipe.amounts.get(name)
    if amounts is None or not isinstance(stage, Sft | Rl | Distill):
        return
    spent = _stage(scenario, name)
    scores = dict(_scores(scenario, name, found))
    for step, by_domain in sorted(scores.items()):
        share = min(step / amounts.steps, 1.0)
        for domain, (rate, count) in by_domain.items():
            yield {
                "study": "imported",
                "run": scenario.recipe.name,
                "recipe": scenario.recipe.name,
                "stage": name,
                "key": key,
                "seed": scenario.seed,
                "split": "test" if step >= amounts.steps else "validation",
                "step": step,
                "domain": domain,
                "trained": domain in stage.domains,
                "pass_rate": rate,
                "se": math.sqrt(rate * (1 - rate) / count),
                "n": count,
                "flops": share * spent["flops"],
                "gradient_tokens": share * spent["trained_tokens"].get(domain, 0.0),
            }


def _scores(
    scenario: Scenario, name: str, found: Steps
) -> Iterator[tuple[int, dict[str, tuple[float, int]]]]:
    """(step, pass rate and prompts by domain)."""
    stage, amounts = scenario.recipe.stage[name], scenario.recipe.amounts[name]
    held_out = False
    for step, row in found.scores.items():
        points = {}
        for key, value in row.items():
            match = _VERL.match(key)
            if match and match[1] in scenario.recipe.domains and 0 <= value <= 1:
                points[match[1]] = (value, HELD_OUT * int(match[2]))
        if points:
            held_out = True
            yield step, points
    domains = [] if not isinstance(stage, Rl) else list(stage.domains)
    if held_out or len(domains) != 1:
        return
    rates = {one.step: one.values["score"] for one in found.steps if "score" in one.values}
    if all(0 <= rate <= 1 for rate in rates.values()):
        samples = amounts.prompts_per_step * amounts.rollouts_per_prompt
        for step, rate in rates.items():
            yield step, {domains[0]: (rate, samples)}
