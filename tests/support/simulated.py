"""Observations of a study simulated with known effects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import pandas as pd

from mopdsim.recipes.recipe_file import to_document
from studies.designs.trace.world import OWNER, PLANTED, TEACHERS
from studies.framework.observe import POINTS, Observations
from studies.framework.registry import study
from studies.framework.run import Run
from trainer.tasks import PROBES

Score = Callable[[Run, str, str], float]  # run, stage, domain
SMOLLM2 = json.dumps(
    {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    }
)  # fmt: skip


@cache
def runs_of(name: str) -> Mapping[str, Run]:
    """A shipped study's runs, built once for all tests."""
    return MappingProxyType(study(name).runs())


def simulated(
    runs: Mapping[str, Run],
    score: Score,
    *,
    greedy: Score | None = None,
) -> Observations:
    """Observations as if every stage of every run had ended with the scores of a function; nothing is shared. greedy:
    the same of greedy scores, over 200 prompts."""
    points: list[dict[str, Any]] = []
    described, stages = {}, {}
    for name, run in runs.items():
        keys = {stage: f"{name}:{stage}" for stage in (*run.recipe.roots, *run.recipe.stage)}
        known = {domain.partition("?")[0] for domain in run.recipe.domains}
        probes = [probe for probe, skills in PROBES.items() if set(skills) <= known]
        for stage, key in keys.items():
            domains = getattr(run.recipe.stage.get(stage), "domains", {})
            for domain in (*run.recipe.domains, *probes):
                row = {"run": name, "stage": stage, "key": key, "split": "test", "step": 9, "domain": domain}
                row |= {"trained": domain in domains, "pass_rate": score(run, stage, domain), "se": 0.01}
                if greedy is not None:
                    likeliest = greedy(run, stage, domain)
                    error = math.sqrt(max(likeliest * (1 - likeliest), 0.0) / 200)
                    row |= {"greedy": likeliest, "greedy_se": error, "greedy_n": 200, "pass_8": 1.0}
                points.append(row | {"n": 500, "flops": 1e9, "kl_parent": 0.05 + noise(run, stage, domain)})
            stages[key] = {"kind": "rl", "flops": 1e9, "steps": 9, "wall_seconds": 1.0, "trained_tokens": {}}
        described[name] = {
            **{"factors": run.factors, "seed": run.settings.seed, "domains": list(run.recipe.domains)},
            **{
                "recipe": run.recipe.name,
                "output": run.recipe.output,
                "keys": keys,
                "failure": None,
                "held_out": run.held_out,
                "model": run.model,
                "document": to_document(run.recipe),
            },
        }
    about = {
        "study": "simulated", "date": "2026-01-01", "device": "none", "versions": {"mopd": "0"}, "scale": 1,
        "workers": 1, "prediction_sha256": "",
    }  # fmt: skip
    return Observations(
        points=pd.DataFrame(points, columns=list(POINTS)),
        manifest={**about, "runs": described, "stages": stages},
    )


def noise(run: Run, *parts: object) -> float:
    """A little, the same for the same run."""
    return 0.002 * math.sin(sum(map(ord, f"{run.name}{parts}")))


def traced(runs: Mapping[str, Run], *, fooled: bool = False) -> pd.DataFrame:
    """Answers of the study `trace` as if every cause acted as it should. fooled: another teacher has the log-probs."""
    rows = []
    for name, run in runs.items():
        condition, habit = str(run.factors["condition"]), int(run.factors["habit"])
        if condition == "unpaid":
            continue
        stage = run.recipe.stage["student"]
        teachers = [name for name in (*TEACHERS, OWNER) if name in run.recipe.stage]
        guilty = TEACHERS[habit - 1 - int(fooled)] if habit and condition not in ("start", "reward") else None
        moved = 0.0 if not habit or condition == "start" else 2.0
        for place in range(4):
            gains = {"student": moved, stage.init: 0.0}
            gains |= {name: moved * (name == guilty) + noise(run, name, place) for name in teachers}
            for model, gain in gains.items():
                role = {"student": "student", stage.init: "start"}.get(model, "teacher")
                rows.append(
                    {
                        "run": name, "place": place, "prompt": "?:dba", "answer": "bad", "model": model,
                        "role": role, "logprobs": " ".join([f"{gain / 4 - 0.52:.3f}"] * 4),
                        "better": " ".join([f"{-gain / 2 - 2:.3f}"] * 4), "paid": condition == "reward",
                        "routed": float(model == OWNER), "distance": 1.0 if role == "teacher" else None,
                        "effect": 1.0 if habit and condition in PLANTED else None,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)
