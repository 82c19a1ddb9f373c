"""A run: one recipe carried out into a directory of plain files (`mopdsim.base.run_directory`), and read back."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mopdsim.base import run_directory as files
from mopdsim.base.documents import sha256_of
from mopdsim.base.errors import Interrupted, UsageError
from mopdsim.recipes import recipe_file
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, ROOTS, SMALLER, Distill
from trainer.files.atomic import (
    explained,
    read_json,
    read_recipe,
    read_summary,
    verified,
    write_json,
    write_text,
)
from trainer.files.settings import Settings, settings_of
from trainer.model import processes
from trainer.model.chat import Chat
from trainer.model.loading import check_device, tensors_sha256
from trainer.model.sources import model_directory
from trainer.runs.compute import check_dtype
from trainer.runs.execute import execute
from trainer.runs.plan import BUILT_IN, Plan, answers, check_tokens, models, plan
from trainer.runs.progress import Progress
from trainer.runs.store import Store
from trainer.tasks import Item, Task, task
from trainer.tasks.jsonl import LINE, JsonlTask

SCHEMA_VERSION = 1
MOST_ANSWERS = 10**9  # of a run: at 1,000 a second, which only the tiny model reaches, 12 days
_FIELDS = ("steps", "domains", "seconds", "flops", "tokens", "peak_memory_bytes", "wall_seconds")


def run_recipe(
    recipe: Recipe,
    *,
    model: str,
    smaller: str | None = None,
    settings: Settings,
    out: Path,
    store_root: Path | None = None,
    workers: int,
    progress: Progress,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Carry the recipe out; returns the run's summary (also in summary.json).

    scale: of a built-in model's start (`trainer.runs.plan.default_start`); the recipe's own amounts are scaled already.
    """
    check(recipe, model=model, smaller=smaller, settings=settings)
    model, smaller = _absolute(model), smaller and _absolute(smaller)
    store = Store(root=store_root.absolute() if store_root else out / files.STORE)
    asked = {"model": model, "smaller": smaller, "scale": scale, "settings": settings.model_dump(mode="json")}
    with processes.joined(settings.processes, settings.device):
        leads = processes.leads()
        with processes.leader_first():
            if leads:
                _open(out, recipe, asked, store, workers)
        start = time.perf_counter()
        try:
            with processes.leader_first():
                planned = plan(
                    {recipe.name: recipe},
                    model=model,
                    smaller=smaller,
                    settings=settings,
                    store=store,
                    start_scale=scale,
                )
            goes_on = f"mopd train resume {out}"
            summaries = execute(planned, store, workers=workers, progress=progress, resume=goes_on)
            summary = _summary(recipe, planned, summaries, store, out)
            summary["seconds"] = time.perf_counter() - start
            if leads:
                _publish(recipe, planned, store, out, summary)
        except BaseException as error:
            if leads and isinstance(error, (Exception, KeyboardInterrupt)):
                stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
                write_text(out / files.STATUS, (files.INTERRUPTED if stopped else files.FAILED) + "\n")
            raise
        if leads:
            write_text(out / files.STATUS, files.DONE + "\n")
    return summary


def _absolute(model: str) -> str:
    """A model as it can be given from any directory."""
    path = Path(model).expanduser()
    return str(path.resolve()) if model not in BUILT_IN and path.exists() else model


def check(recipe: Recipe, *, model: str, smaller: str | None, settings: Settings) -> None:
    """What would otherwise fail only hours later, or go on for years: the device, more answers than anyone waits for,
    the models' directories and templates, too few prompts to score, prompts that are too long."""
    check_device(settings.device)
    check_dtype(settings.dtype, settings.device)
    many = answers(recipe, settings)
    if many.training + many.evaluation > MOST_ANSWERS:
        raise UsageError(
            f"recipe {recipe.name!r}: {many.training:,} answers in training and {many.evaluation:,} in evaluation: one "
            f"machine samples {MOST_ANSWERS:,} in weeks at best: lower the scale, steps, prompts or rollouts"
        )
    if smaller is not None and SMALLER not in recipe.roots:
        raise UsageError(
            f"smaller = {smaller!r}: no stage of recipe {recipe.name!r} starts from a smaller model: leave it out"
        )
    for name, amounts in recipe.amounts.items():
        if amounts.ledger and settings.processes > 1:
            raise UsageError(
                f"stage {name!r}: ledger = true: one process alone keeps one, and processes = {settings.processes}: "
                "set processes = 1"
            )
    given = models(recipe, model, smaller)
    for name in given.values():
        if name not in BUILT_IN:
            model_directory(name)
    check_tokens(given)
    check_prompts((*recipe.domains, *settings.probes), settings)
    for name in given.values():
        if name not in BUILT_IN:
            check_lengths((*recipe.domains, *settings.probes), model_directory(name), settings)


def check_prompts(domains: Iterable[str], settings: Settings) -> None:
    """UsageError where a domain has fewer distinct prompts than are to be scored."""
    for spec in domains:
        task(spec).fixed("validation", settings.validation_items)
        task(spec).fixed("test", max(settings.test_items, settings.greedy_items))


def check_lengths(specs: Sequence[str], directory: Path, settings: Settings) -> None:
    """UsageError for a prompt of which the chat template of the model in `directory` makes no token, and for the first
    that is too long, with its answer, for the model's positions; its line is named. All lines of a file are looked at,
    of generated domains the fixed prompts, whose like the others are; the length of conversations of several turns only
    sampling shows."""
    from transformers import AutoTokenizer

    config = read_json(directory / "config.json")
    config = config.get("text_config") or config
    room = config.get("max_position_embeddings") or config.get("n_positions")
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    chat = Chat(tokenizer, settings)
    for spec in specs:
        own = task(spec)
        items = _items(own, settings)
        prompts = chat.prompts([item.prompt for item in items])
        for item, prompt in zip(items, prompts, strict=True):
            new = own.max_new_tokens
            if room and len(prompt) + new > room:
                where = f", line {item.data[LINE]}" if LINE in item.data else ""
                raise UsageError(
                    f"domain {spec!r}{where}: the prompt {item.prompt[:40]!r}... is {len(prompt)} tokens "
                    f"long, and with max_new_tokens = {new} that is more than the model's {room} positions: shorten "
                    "it, or lower max_new_tokens"
                )


def _items(own: Task, settings: Settings) -> list[Item]:
    if isinstance(own, JsonlTask):
        return [item for items in own.items.values() for item in items]
    return own.fixed("validation", settings.validation_items) + own.fixed("test", settings.test_items)


def resume(out: Path, *, progress: Progress) -> dict[str, Any]:
    """Go on with a run where it stopped; a finished one is read back."""
    resolved = read_json(out / files.RESOLVED, "model", "smaller", "settings", "store", "workers", "scale")
    if (
        (out / files.STATUS).is_file()
        and (out / files.SUMMARY).is_file()
        and files.status_of(out) == files.DONE
        and verified(out / files.WEIGHTS)
    ):
        return read_summary(out)
    return run_recipe(
        read_recipe(out),
        model=resolved["model"],
        smaller=resolved["smaller"],
        settings=settings_of(resolved, out),
        out=out,
        store_root=Path(resolved["store"]) if resolved["store"] else None,
        workers=resolved["workers"],
        progress=progress,
        scale=resolved["scale"],
    )


def _open(out: Path, recipe: Recipe, asked: Mapping[str, Any], store: Store, workers: int) -> None:
    """Make the run directory, or refuse one that holds another run than is `asked`, or whose files were changed.

    What a run was begun with is hashed in its manifest, all but `store` and `workers`, which alone may be edited.
    """
    resolved = {
        "schema_version": SCHEMA_VERSION,
        **asked,
        "store": None if store.root == out / files.STORE else str(store.root),
        "workers": workers,
    }
    config, text = out / files.CONFIG, recipe_file.dump(recipe)
    hashes = {"recipe_sha256": hashlib.sha256(text.encode()).hexdigest(), "resolved_sha256": sha256_of(asked)}
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    if config.exists():
        before = read_json(out / files.RESOLVED, "settings")
        given = {key: before.get(key) for key in asked}
        found = {
            config: ("recipe_sha256", hashlib.sha256(config.read_bytes()).hexdigest()),
            out / files.RESOLVED: ("resolved_sha256", sha256_of(given)),
        }
        begun = read_json(out / files.MANIFEST) if (out / files.MANIFEST).is_file() else {}
        for path, (name, now) in found.items():
            if begun.get(name) not in (None, now):
                raise UsageError(
                    f"{path}: was changed since the run began: bring it back, or run it with another --out"
                )
        given["settings"] = settings_of(before, out).model_dump(mode="json")  # with what came later
        if found[config][1] != hashes["recipe_sha256"] or given != asked:
            raise UsageError(f"{out}: holds a run of another recipe, model or settings; choose another --out")
    write_json(out / files.RESOLVED, resolved)
    write_text(config, text)
    about = {
        "schema_version": SCHEMA_VERSION,
        "seed": asked["settings"]["seed"],
        **hashes,
    }
    write_json(out / files.MANIFEST, about | manifest(asked["settings"]["device"]))
    write_text(out / files.STATUS, files.RUNNING + "\n")


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
    for name in [*recipe.roots, *recipe.stage]:
        found = summaries[keys[name]]
        stages[name] = {
            "key": keys[name],
            "kind": name if name in ROOTS else recipe.stage[name].kind,
            **{field: found[field] for field in _FIELDS},
        }
    own = [row for name, row in stages.items() if name not in ROOTS]
    flops = {phase: sum(row["flops"][phase] for row in own) for phase in files.PHASES}
    return {
        "run": str(out),
        "recipe": recipe.name,
        "amounts": recipe.amounts_name,
        "stages": stages,
        "scores": _scores(stages[BASE], stages[recipe.output]),
        "side_outputs": {
            name: {
                "scores": _scores(stages[recipe.root_of(name)], stages[name]),
                "weights_sha256": tensors_sha256(store.weights(keys[name])),
            }
            for name in recipe.side_outputs
        },
        "flops": sum(value for phase, value in flops.items() if phase != "evaluation"),
        "flops_by_phase": flops,
        "weights_sha256": tensors_sha256(store.weights(keys[recipe.output])),
    }


def _scores(start: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By domain what a model scores, and the one that it grew from."""
    return {
        domain: {
            "start": start["domains"][domain]["pass_rate"],
            "final": row["pass_rate"],
            "se": row["se"],
        }
        for domain, row in final["domains"].items()
    }


def _publish(recipe: Recipe, planned: Plan, store: Store, out: Path, summary: Mapping[str, Any]) -> None:
    """Metrics, summary, final weights and side outputs into the run directory."""
    keys = planned.keys[recipe.name]
    with explained(out):
        for log in (files.METRICS, files.SAMPLES):
            with (out / log).open("w") as file:
                for name in [*recipe.roots, *recipe.stage]:
                    source = store.directory(keys[name]) / log
                    stage = None if name in ROOTS else recipe.stage[name]
                    teachers = stage.teacher_names if isinstance(stage, Distill) else []
                    for row in files.rows_of(source) if source.exists() else ():
                        file.write(json.dumps({"stage": name, **files.named(row, teachers)}) + "\n")
        places = {recipe.output: out / files.WEIGHTS}
        places |= {name: out / files.SIDE_OUTPUTS / name for name in recipe.side_outputs}
        for name, place in places.items():
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(store.weights(keys[name]), place, copy_function=_link)
    write_json(out / files.MANIFEST, read_json(out / files.MANIFEST) | {"wall_seconds": summary["seconds"]})
    write_json(out / files.SUMMARY, summary)


def _link(source: str, target: str) -> str:
    """A hard link where the file system allows, else a copy."""
    try:
        os.link(source, target)
        return target
    except OSError:
        return str(shutil.copy2(source, target))
