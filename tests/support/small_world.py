"""A world small enough to run recipes in tests: a random model whose samples vary, three domains it gets about half
right, and ways to run a recipe and read what it left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import ROOTS, Amounts, AnyStage, Distill, Merge, RejectionSampling, Sft
from trainer.batch.batch import Batch
from trainer.batch.written import SAMPLES
from trainer.files.settings import Settings
from trainer.model.loading import tensors_sha256
from trainer.runs.plan import Node
from trainer.runs.progress import Progress
from trainer.runs.run import run_recipe
from trainer.runs.store import Store
from trainer.runs.worker import run_stage
from trainer.stages import preflight
from trainer.stages.loop import Job, Trainee
from trainer.tasks import Item

VERDICTS = {  # verifiers that a random model passes about half the time, each in its own way
    "low": r"(?s)[ -N].*|",
    "high": r"(?s)[O-~\n].*",
    "even": "(?s)(..)*",
}
NEW_TOKENS = 6
CLOCK = (
    "seconds",
    "cpu_seconds",
    "wall_seconds",
    "peak_memory_bytes",
    "run",
)  # what differs between equal runs
SETTINGS = Settings(
    test_items=8,
    validation_items=4,
    evaluate_every=2,
    diagnose_every=1,
    checkpoint_every=1,
    max_truncation=1.0,
    probes=("sort_then_shift",),
)
UNSCORED = SETTINGS.model_copy(update={"test_items": 1, "validation_items": 1, "probes": ()})
"""Where a stage's steps are looked at, not its scores."""


def write_domains(folder: Path) -> dict[str, str]:
    """Task specs of three domains from files, by name."""
    specs = {}
    for name, verdict in VERDICTS.items():
        path = folder / f"{name}.jsonl"
        splits = ("train", "train", "validation", "test")
        lines = [
            {"prompt": f"{name[0]}{number:02d}", "answer": verdict, "split": splits[number % 4]}
            for number in range(80)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        specs[name] = f"jsonl:{path}?verifier=regex&max_new_tokens={NEW_TOKENS}"
    return specs


def write_model(directory: Path, *, seed: int, kind: str = "tiny", sharpness: float = 4.0) -> Path:
    """A random model with sharper logits than a fresh one, as if it had been trained."""
    from transformers import AutoModelForCausalLM

    from trainer.model.tiny import init_model

    init_model(directory, kind=kind, seed=seed, hidden=16, layers=1, heads=2)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        model.model.norm.weight.mul_(sharpness)
    model.save_pretrained(directory)
    return directory


def shrunk(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with a few short steps a stage; `changes` are of all stages' amounts."""
    amounts = {}
    for stage in recipe.stages:
        if isinstance(stage, Merge):
            continue
        alone = isinstance(stage, Sft) or (isinstance(stage, Distill) and not stage.reward_mix)
        values = {
            "steps": 2,
            "prompts_per_step": 7,
            "rollouts_per_prompt": 1 if alone else 4,
            "learning_rate": 1e-3,
            **changes,
        }
        if isinstance(stage, RejectionSampling):
            values["learning_rate"] = 0
        amounts[stage.name] = Amounts(**values)
    return recipe.with_amounts(amounts)


class Recorder(Progress):
    """Which stages ran, and which came from the store, by label."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.ran: list[str] = []
        self.stored: list[str] = []

    def cached(self, node: Node, summary: Mapping[str, Any]) -> None:
        self.stored.append(node.label.rpartition("/")[2])

    def finish(self, node: Node, summary: Mapping[str, Any]) -> None:
        super().finish(node, summary)
        self.ran.append(node.label.rpartition("/")[2])


def carry_out(
    recipe: Recipe,
    model: Path | str,
    out: Path,
    *,
    settings: Settings = SETTINGS,
    store: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a recipe in this process (or its workers)."""
    return run_recipe(
        recipe,
        model=str(model),
        settings=settings,
        out=out,
        store_root=store,
        workers=workers,
        progress=progress or Progress(quiet=True),
    )


class Made(dict[str, Path]):
    """Folders by name, each filled when it is first asked for."""

    def __init__(self, make: Callable[[str], Path]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> Path:
        self[name] = self.make(name)
        return self[name]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, or of a run directory's."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_stages(recipe: Recipe, keys: Mapping[str, str], store: Store, roots: Mapping[str, Path]) -> None:
    """Every stage logged two steps and changed its weights, or kept samples. roots: weights by name."""
    for stage in recipe.stages:
        place = store.directory(keys[stage.name])
        rows = rows_of(place)
        steps = [row for row in rows if row["kind"] == "step"]
        assert len(steps) == (0 if isinstance(stage, Merge) else 2)
        for row in steps:
            assert (row.get("domains") or row["pairs"] == 0) and row["flops"] > 0
        if isinstance(stage, RejectionSampling):
            lines = (store.data(keys[stage.name]) / SAMPLES).read_text().splitlines()
            assert {json.loads(line)["domain"] for line in lines} == set(stage.domains)
            continue
        assert any(row["kind"] == "evaluation" and row["split"] == "test" for row in rows)
        before = roots[stage.init] if stage.init in ROOTS else store.weights(keys[stage.init])
        assert tensors_sha256(store.weights(keys[stage.name])) != tensors_sha256(before), stage.name


def timeless(value: Any) -> Any:
    """A document without what the clock, the memory and the place of a run change."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, list) else value


# One stage by itself, with a key that does not depend on paths.


def job_of(
    stage: AnyStage,
    weights: Mapping[str, Path],
    directory: Path,
    *,
    domains: Sequence[str],
    settings: Settings = UNSCORED,
    key: str = "fixed",
    data: Mapping[str, Path] | None = None,
    **amounts: Any,
) -> Job:
    """A stage to run in `directory`, whose seeds depend on `key` alone: other weights then see the same batches."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {"steps": 1, "prompts_per_step": 6, "learning_rate": 1e-3, **amounts}
    return Job(
        key=key,
        stage=stage,
        amounts=None if isinstance(stage, Merge) else Amounts(**values),
        settings=settings,
        domains=tuple(domains),
        weights=weights,
        directory=directory,
        data=data or {},
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """What an optimiser step was given."""

    loss: float
    batch: Batch
    gradient: dict[str, Tensor]  # by parameter


def run_watched(job: Job) -> tuple[list[Step], list[dict[str, Any]]]:
    """Run a stage; what its optimiser steps were given, and its log."""
    seen: list[Step] = []
    own = Trainee.apply

    def watching(trainee: Trainee, loss: float, batch: Batch) -> dict[str, Any]:
        named = trainee.policy.model.named_parameters()
        gradient = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}
        seen.append(Step(loss=loss, batch=batch, gradient=gradient))
        return own(trainee, loss, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainee, "apply", watching)
        patch.setattr(preflight, "NEW_TOKENS", NEW_TOKENS)  # as short as the answers
        run_stage(job, lambda done: None)
    log = job.directory / "metrics.jsonl"
    return seen, rows_of(log) if log.exists() else []


def steps_in(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["kind"] == "step"]


# The truth, worked out row by row with the model's own forward.


def plain_model(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory)


def logprobs_of(
    model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """logprob_TV of a response's tokens, one unpadded row, differentiable."""
    tokens = torch.tensor([[*prompt, *response]])
    logits_TV = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits_TV.double() / temperature, -1)


def written_rows(batch: Batch) -> list[tuple[Item, list[int], list[int], list[bool]]]:
    """(item, prompt, response, trained) of every row, without padding."""
    rollouts = batch.rollouts
    found = []
    for b in range(len(rollouts.prompt_BP)):
        prompt = rollouts.prompt_BP[b][rollouts.prompt_mask_BP[b]].tolist()
        present_T = rollouts.present_BT[b]
        response, trained = (
            rollouts.response_BT[b][present_T].tolist(),
            rollouts.trained_BT[b][present_T].tolist(),
        )
        found.append((batch.items[b // batch.group], prompt, response, trained))
    return found


def gradient_of(loss: Tensor, model: Any) -> dict[str, Tensor]:
    """By parameter; tied weights once."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: value for name, value in zip(named, found, strict=True) if value is not None}


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Relative distance of two gradients."""
    assert set(a) == set(b)
    whole = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a)
    scale = max(sum(float(x.double().square().sum()) for x in each.values()) for each in (a, b))
    return (whole / scale) ** 0.5
