"""Run by tests/trainer/runs/test_resume.py in a process of its own: kill runs of a recipe many times, resume them.

Everything heavy is imported once here; every attempt is a fork that runs or resumes the recipe and is killed with
SIGKILL, either by this process after a random time or by itself in the middle of a save.

    python kill_script.py MODEL OUT RECIPE.toml SEED
Prints one JSON object: what happened in each attempt, and the run directories below OUT.
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
from small_world import carry_out
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from mopdsim.recipes import recipe_file
from trainer.files import atomic, checkpoint
from trainer.runs import run, store
from trainer.runs.progress import Progress
from trainer.stages import loop

MID_SAVE: dict[str, tuple[Any, str, int]] = {  # the process ends itself at the n-th call of a function
    "before the weights of a checkpoint": (checkpoint, "save_file", 3),
    "before its optimizer": (checkpoint, "_save", 2),
    "while it is forced to disk": (atomic, "_sync", 6),
    "before it gets its name": (atomic, "_replace", 2),
    "while old ones are removed": (shutil, "rmtree", 5),
    "before the final weights": (loop, "save_policy", 1),
    "before the summary of a stage": (store, "write_json", 2),
    "before a stage is marked as done": (store, "write_text", 2),
    "while the run is published": (run, "_publish", 1),
    "half through publishing": (run, "_link", 2),
}
LONGEST = 0.6  # seconds before an attempt is killed, at most


def attempt(model: Path, out: Path, file: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork; the child runs or resumes the recipe. Returns the child's process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        prepare()
        if (out / "config.toml").exists():
            run.resume(out, progress=Progress(quiet=True))
        else:
            carry_out(recipe_file.load(file), model, out)
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


def main(model: Path, folder: Path, file: Path, seed: int) -> None:
    rng = random.Random(seed)
    happened: list[tuple[str, int]] = []
    outs = [folder / "0"]

    def wait(what: str, child: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        happened.append((what, code))
        if code == 0:  # it ended before it was killed: go on with another run
            outs.append(folder / str(len(outs)))

    for what in rng.sample(sorted(MID_SAVE), len(MID_SAVE)):
        place, name, call = MID_SAVE[what]
        wait(what, attempt(model, outs[-1], file, lambda p=place, n=name, c=call: die_at(p, n, c)))  # type: ignore[misc]
        child = attempt(model, outs[-1], file)
        time.sleep(rng.uniform(0.0, LONGEST))
        os.kill(child, signal.SIGKILL)
        wait("at a random moment", child)
    wait("to the end", attempt(model, outs[-1], file))
    print(json.dumps({"happened": happened, "outs": [str(out) for out in outs[:-1]]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
