"""A run: one recipe carried out into a directory of plain files, and read back.

config.toml     the recipe          resolved.json  model, settings, workers, store
manifest.json   versions, hardware, git revision, argv, times     STATUS   running, done, failed, interrupted
metrics.jsonl   all stages' metrics          summary.json   scores, FLOPs, seconds by stage
weights/        the final model in Hugging Face layout       tables/ plots/   from `mopd train show`
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mopdsim import recipe_file
from mopdsim.errors import Interrupted, NotFoundError, UsageError
from mopdsim.recipe import BASE, AnyStage, Distill, Recipe
from trainer.atomic import explained, verified, write_json, write_text
from trainer.execute import Progress, execute
from trainer.meter import PHASES
from trainer.models import check_device, tensors_sha256
from trainer.plan import TINY, Plan, model_directory, plan
from trainer.routing import teacher_names
from trainer.settings import Settings
from trainer.store import Store
from trainer.tasks import task

SCHEMA_VERSION = 1


def run_recipe(
    recipe: Recipe,
    *,
    model: str,
    settings: Settings,
    out: Path,
    store_root: Path | None = None,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Carry the recipe out; returns the run's summary (also in summary.json)."""
    check(recipe, model=model, settings=settings)
    if model != TINY and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().resolve())
    store = Store(root=store_root.resolve() if store_root else out / "store")
    _open(out, recipe, model, settings, store, workers)
    start = time.perf_counter()
    try:
        planned = plan({recipe.name: recipe}, model=model, settings=settings, store=store)
        summaries = execute(planned, store, workers=workers, progress=progress)
        summary = _summary(recipe, planned, summaries, store, out)
        summary["seconds"] = time.perf_counter() - start
        _publish(recipe, planned, store, out, summary)
    except (Interrupted, KeyboardInterrupt):
        write_text(out / "STATUS", "interrupted\n")
        raise
    except Exception:
        write_text(out / "STATUS", "failed\n")
        raise
    write_text(out / "STATUS", "done\n")
    return summary


def check(recipe: Recipe, *, model: str, settings: Settings) -> None:
    """What would otherwise fail only hours later: the device, the model's directory, too few prompts to score."""
    check_device(settings.device)
    if model != TINY:
        model_directory(model)
    for spec in (*recipe.domains, *settings.probes):
        task(spec).fixed("validation", settings.validation_items)
        task(spec).fixed("test", settings.test_items)


def resume(out: Path, *, progress: Progress) -> dict[str, Any]:
    """Go on with a run where it stopped; a finished one is read back."""
    resolved = read_json(out / "resolved.json")
    status = out / "STATUS"
    if status.is_file() and status.read_text().strip() == "done" and verified(out / "weights"):
        return read_json(out / "summary.json")
    return run_recipe(
        recipe_file.load(out / "config.toml"),
        model=resolved["model"],
        settings=Settings.model_validate(resolved["settings"]),
        out=out,
        store_root=Path(resolved["store"]) if resolved["store"] else None,
        workers=resolved["workers"],
        progress=progress,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run directory. NotFoundError where it is not one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotFoundError(
            f"{path.parent}: no run directory ({path.name} is missing); give the --out of a run"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON: {error}; the run directory is damaged") from None
    return found


def _open(out: Path, recipe: Recipe, model: str, settings: Settings, store: Store, workers: int) -> None:
    """Make the run directory, or refuse one that holds another run."""
    resolved = {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "settings": settings.model_dump(mode="json"),
        "store": None if store.root == out / "store" else str(store.root),
        "workers": workers,
    }
    config, text = out / "config.toml", recipe_file.dump(recipe)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        before = read_json(out / "resolved.json") if config.exists() else resolved
        other = config.exists() and config.read_text(encoding="utf-8") != text
    if other or any(before[key] != resolved[key] for key in ("model", "settings")):
        raise UsageError(f"{out}: holds a run of another recipe, model or settings; choose another --out")
    write_json(out / "resolved.json", resolved)
    write_text(config, text)
    about = {
        "schema_version": SCHEMA_VERSION,
        "seed": settings.seed,
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    write_json(out / "manifest.json", about | manifest(settings.device))
    write_text(out / "STATUS", "running\n")


def manifest(device: str) -> dict[str, Any]:
    """Versions, hardware and where the code stood."""
    import torch

    return {
        "argv": sys.argv[1:],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("mopd", "torch", "transformers", "tokenizers", "numpy")
        },
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "device": torch.cuda.get_device_name()
        if device != "cpu"
        else platform.processor() or platform.machine(),
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Revision, and a hash of what the tree changes of it (None: nothing); None outside a checkout."""

    def output(*arguments: str) -> str:
        command = ["git", *arguments]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return found.stdout.strip()

    try:
        revision, changes = output("rev-parse", "HEAD"), output("diff", "HEAD")
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
        return None
    return {
        "revision": revision,
        "dirty_sha256": hashlib.sha256(changes.encode()).hexdigest() if changes else None,
    }


def _summary(
    recipe: Recipe, planned: Plan, summaries: Mapping[str, Mapping[str, Any]], store: Store, out: Path
) -> dict[str, Any]:
    keys = planned.keys[recipe.name]
    stages = {}
    for name in [BASE, *(stage.name for stage in recipe.stages)]:
        found = summaries[keys[name]]
        stages[name] = {
            "key": keys[name],
            "kind": "base" if name == BASE else recipe.stage[name].kind,
            **{
                field: found[field]
                for field in ("steps", "domains", "seconds", "flops", "tokens", "peak_memory_bytes")
            },
            "wall_seconds": found["wall_seconds"],
        }
    own = [row for name, row in stages.items() if name != BASE]
    flops = {phase: sum(row["flops"][phase] for row in own) for phase in PHASES}
    return {
        "run": str(out),
        "recipe": recipe.name,
        "amounts": recipe.amounts_name,
        "stages": stages,
        "scores": {
            domain: {
                "start": stages[BASE]["domains"][domain]["pass_rate"],
                "final": row["pass_rate"],
                "se": row["se"],
            }
            for domain, row in stages[recipe.output]["domains"].items()
        },
        "flops": sum(value for phase, value in flops.items() if phase != "evaluation"),
        "flops_by_phase": flops,
        "weights_sha256": tensors_sha256(store.weights(keys[recipe.output])),
    }


def _publish(recipe: Recipe, planned: Plan, store: Store, out: Path, summary: Mapping[str, Any]) -> None:
    """Metrics, summary and final weights into the run directory."""
    keys = planned.keys[recipe.name]
    with explained(out):
        with (out / "metrics.jsonl").open("w") as file:
            for name in [BASE, *(stage.name for stage in recipe.stages)]:
                source = store.directory(keys[name]) / "metrics.jsonl"
                for line in source.read_text().splitlines() if source.exists() else []:
                    row = {"stage": name, **json.loads(line)}
                    if "teacher_kl" in row:
                        row["teacher_kl"] = _named(row["teacher_kl"], recipe.stage[name])
                    file.write(json.dumps(row) + "\n")
        shutil.rmtree(out / "weights", ignore_errors=True)
        shutil.copytree(store.weights(keys[recipe.output]), out / "weights", copy_function=_link)
    write_json(out / "manifest.json", read_json(out / "manifest.json") | {"wall_seconds": summary["seconds"]})
    write_json(out / "summary.json", summary)


def _named(values: Sequence[float | None], stage: AnyStage) -> dict[str, float]:
    """One value a teacher, by the names that this recipe gives them."""
    assert isinstance(stage, Distill)
    named = zip(teacher_names(stage), values, strict=True)
    return {name: value for name, value in named if value is not None}


def _link(source: str, target: str) -> str:
    """A hard link where the file system allows, else a copy."""
    try:
        os.link(source, target)
        return target
    except OSError:
        return str(shutil.copy2(source, target))
