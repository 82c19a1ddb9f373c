"""Run by tests/test_resume.py in a process of its own: kill a run many times, resume it, and let it end.

Everything heavy is imported once here; every attempt is a fork that runs or resumes the recipe and is killed with SIGKILL,
either by this process after a random time or by itself in the middle of a save.

    python kill_script.py MODEL OUT RECIPE.toml SEED
Prints one JSON object: what happened in each attempt.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.models.qwen3.modeling_qwen3  # noqa: F401  (imported before the forks, which then start fast)
from small_world import SETTINGS, carry_out
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from mopdsim import recipe_file
from trainer import atomic, checkpoint, loop, runs, store
from trainer.execute import Progress

MID_SAVE: dict[str, tuple[Any, str]] = {  # a function in the middle of a save, where the process ends itself
    "before the weights of a checkpoint": (checkpoint, "save_file"),
    "before its optimizer": (checkpoint, "_save"),
    "while it is forced to disk": (atomic, "_sync"),
    "before it gets its name": (atomic, "_replace"),
    "while old ones are removed": (shutil, "rmtree"),
    "before the final weights": (loop, "save_policy"),
    "before a status or summary": (store, "write_text"),
    "before the summary of a stage": (store, "write_json"),
    "while the run is published": (runs, "_publish"),
}
LONGEST = 0.8  # seconds that an attempt may last at most before it is killed


def attempt(model: Path, out: Path, file: Path, prepare: Callable[[], None]) -> int:
    """Fork; the child runs or resumes the recipe. Returns the child's process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        prepare()
        if (out / "config.toml").exists():
            runs.resume(out, progress=Progress(quiet=True))
        else:
            carry_out(recipe_file.load(file), model, out, settings=SETTINGS)
        code = 0
    finally:
        os._exit(code)


def die_at(place: Any, name: str, call: int) -> None:
    """Replace a function with one that ends the process at its `call`-th call."""
    own, calls = getattr(place, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*arguments, **named)

    setattr(place, name, counted)


def main(model: Path, out: Path, file: Path, seed: int) -> None:
    rng = random.Random(seed)
    happened: list[list[Any]] = []
    for what in sorted(MID_SAVE, key=lambda _: rng.random()):
        place, name = MID_SAVE[what]
        call = rng.randint(1, 3)
        child = attempt(model, out, file, lambda p=place, n=name, c=call: die_at(p, n, c))  # type: ignore[misc]
        happened.append([what, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
        child = attempt(model, out, file, lambda: None)
        time.sleep(rng.uniform(0.0, LONGEST))
        os.kill(child, signal.SIGKILL)
        happened.append(["at a random moment", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
    child = attempt(model, out, file, lambda: None)
    happened.append(["to the end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
    print(json.dumps(happened))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]), seed=int(sys.argv[4]))  # type: ignore[misc]
