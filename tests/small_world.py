"""A world small enough to run recipes in tests: a random model whose samples vary, three domains it gets about half
right, and ways to run a recipe and read what it left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopdsim.amounts import Amounts
from mopdsim.recipe import Distill, Recipe, Rl, Sft
from trainer.execute import Progress
from trainer.plan import Node
from trainer.runs import run_recipe
from trainer.settings import Settings

VERDICTS = {  # verifiers that a random model passes about half the time, each in its own way
    "low": r"(?s)[ -N].*|",
    "high": r"(?s)[O-~\n].*",
    "even": "(?s)(..)*",
}
NEW_TOKENS = 6
CLOCK = ("seconds", "wall_seconds", "peak_memory_bytes", "run")  # what differs between equal runs
SETTINGS = Settings(
    test_items=8,
    validation_items=4,
    evaluate_every=2,
    diagnose_every=1,
    checkpoint_every=1,
    max_truncation=1.0,
    probes=("sort_then_shift",),
)


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
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.tiny import init_model

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
        if not isinstance(stage, Sft | Rl | Distill):
            continue
        sampled = isinstance(stage, Rl) or (isinstance(stage, Distill) and stage.reward_mix > 0)
        values = {
            "steps": 2,
            "prompts_per_step": 7,
            "rollouts_per_prompt": 4 if sampled else 1,
            "learning_rate": 1e-3,
            **changes,
        }
        amounts[stage.name] = Amounts(**values)
    return recipe.with_amounts(amounts)


class Recorder(Progress):
    """Which stages ran, and which came from the store, by label."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.ran: list[str] = []
        self.cached: list[str] = []

    def finish(self, node: Node, summary: Mapping[str, Any], *, cached: bool) -> None:
        (self.cached if cached else self.ran).append(node.label.rpartition("/")[2])


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


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, or of a run directory's."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    return [json.loads(line) for line in file.read_text().splitlines()]


def timeless(value: Any) -> Any:
    """A document without what the clock, the memory and the place of a run change."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, list) else value
