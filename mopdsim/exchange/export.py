"""A recipe as a folder that engines run: one folder a stage, in the order of the graph.

    OUT/  run_all.sh        every stage in order; those with a file DONE are passed over
          slurm.sh          the same as Slurm jobs that wait for each other, where a stage has several nodes
          prepare_data.py   writes data/ from each stage's data.json
          reward.py  tasks.json             the verifiers that stand alone
          manifest.json  scenario.toml      what `mopd import` reads, and the forecast's question
          STAGE/  the engine's configuration, run.sh, data.json; when run: console.log, weights/, DONE

Each stage goes to the first of the named engines that has its kind. Either the whole folder is written or nothing.
Leaves out: running anything.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mopdsim.base.errors import MopdError, NotFoundError, UsageError, did_you_mean
from mopdsim.exchange.engines import mergekit, nemo_rl, trl, verl
from mopdsim.exchange.engines.parts import Job, Request, carried, template
from mopdsim.forecast import scenario as scenarios
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import AnyStage, Merge, needs

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SCENARIO = "scenario.toml"
DONE = "DONE"
ENGINES: Mapping[str, Any] = {module.ENGINE: module for module in (verl, trl, nemo_rl, mergekit)}


def known_engines(names: Sequence[str]) -> Sequence[str]:
    """The names, all of them engines. NotFoundError for one that is none."""
    for name in names:
        if name not in ENGINES:
            raise NotFoundError(f"--to {name}: no such engine{did_you_mean(name, ENGINES)}")
    return names


def jobs_of(request: Request, engines: Sequence[str], stages: Sequence[str] = ()) -> list[Job]:
    """A job for each stage (of `stages`, where named) in order. UsageError for the first that no engine can say."""
    for name in stages:
        if name not in request.recipe.stage:
            raise NotFoundError(f"--stages: no stage {name!r}{did_you_mean(name, request.recipe.stage)}")
    chosen = [stage for stage in request.recipe.stages if not stages or stage.name in stages]
    return [job_of(request, stage, engines) for stage in chosen]


def job_of(request: Request, stage: AnyStage, engines: Sequence[str]) -> Job:
    """The stage's job on the first engine that has its kind."""
    able = [ENGINES[name] for name in engines if stage.kind in ENGINES[name].KINDS]
    job: Job = (able or [ENGINES[engines[0]]])[0].job(request, stage)
    return job


def write(out: Path, request: Request, jobs: Sequence[Job]) -> dict[str, Any]:
    """Writes the folder in one step and returns its manifest. UsageError where something of that name exists."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out}: already exists: give a new folder, or remove it first")
    if not out.parent.is_dir():
        raise NotFoundError(f"--out {out}: {out.parent} does not exist: create it first")
    found = manifest(request, jobs)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.partial.", dir=out.parent, ignore_cleanup_errors=True
        ) as made:
            partial = Path(made)
            for name, text in _files(request, jobs, found).items():
                path = partial / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
                if name.endswith(".sh"):
                    path.chmod(0o755)
            partial.chmod(0o755)
            os.rename(partial, out)
    except OSError as error:
        raise MopdError(
            f"--out {out}: cannot be written: {error.strerror or error}; free space or choose another"
        ) from None
    return found


def manifest(request: Request, jobs: Sequence[Job]) -> dict[str, Any]:
    """What was exported, for the reader and for `mopd import`."""
    scenario, recipe = request.scenario, request.recipe
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.name,
        "model": scenario.model,
        "weights": dict(request.weights),
        "gpu": scenario.gpu,
        "output": recipe.output,
        "stages": {job.stage: _stage(request, job) for job in jobs},
    }


def _stage(request: Request, job: Job) -> dict[str, Any]:
    stage = request.recipe.stage[job.stage]
    amounts = request.recipe.amounts.get(job.stage)
    module = ENGINES[job.engine]
    row: dict[str, Any] = {
        "engine": job.engine,
        "engine_version": module.VERSION,
        "kind": stage.kind,
        "needs": list(needs(stage)),
        "gpus": job.gpus,
        "nodes": job.nodes,
        "differs": list(job.differs),
    }
    if amounts is not None and not isinstance(stage, Merge):
        row |= {
            "domains": dict(stage.domains),
            "steps": amounts.steps,
            "samples_per_step": amounts.prompts_per_step * amounts.rollouts_per_prompt,
            "max_tokens": max(request.tasks[name].max_response_tokens for name in stage.domains),
        }
    return row


def _files(request: Request, jobs: Sequence[Job], found: Mapping[str, Any]) -> dict[str, str]:
    """Every file of the folder by its path."""
    tasks = {
        name: {"verifier": task.verifier, "own_reward": task.own_reward, "reward_scale": task.reward_scale}
        for name, task in request.tasks.items()
    }
    verifiers = {task.verifier for task in request.tasks.values()}
    files = {
        MANIFEST: json.dumps(found, indent=1) + "\n",
        SCENARIO: scenarios.dump(request.scenario),
        "tasks.json": json.dumps(tasks, indent=1) + "\n",
        "reward.py": template("reward.py"),
        **({"numbers_in_text.py": carried("numbers.py")} if "numeric" in verifiers else {}),
        "prepare_data.py": template("prepare_data.py"),
        "run_all.sh": _run_all(request.recipe, jobs),
    }
    if any(job.nodes > 1 for job in jobs):
        files |= {"slurm.sh": _slurm(request, jobs), "ray_on_slurm.sh": template("ray_on_slurm.sh")}
    for job in jobs:
        own = {**job.files, "run.sh": _run(job)}
        if job.data:
            own["data.json"] = json.dumps({**job.data, "rewarded": job.needs_verifier}, indent=1) + "\n"
        files |= {f"{job.stage}/{name}": text for name, text in own.items()}
    return files


_PREPARE = "ls ../data/{stage}.* >/dev/null 2>&1 || ${{DATA_PYTHON:-${{PYTHON:-python}}}} ../prepare_data.py {stage}\n"


def _run(job: Job) -> str:
    return (
        f"#!/bin/bash\n# Stage {job.stage} with {job.engine}. PYTHON names the engine's interpreter, DATA_PYTHON\n"
        "# one that has the packages of prepare_data.py, where that is another.\n"
        'set -euo pipefail\ncd "$(dirname -- "$0")"\n'
        + (_PREPARE.format(stage=job.stage) if job.data else "")
        + f"{job.command} 2>&1 | tee console.log\n"
        + (f"{job.after}\n" if job.after else "")
        + f"touch {DONE}\n"
    )


def _run_all(recipe: Recipe, jobs: Sequence[Job]) -> str:
    lines = [
        "#!/bin/bash",
        f"# Recipe {recipe.name}, stage by stage. A stage whose folder holds a file {DONE} is passed over:",
        "# remove the file to run it again; `mopd export ... --changed DOMAIN` lists which.",
        "set -euo pipefail",
        'cd "$(dirname -- "$0")"',
    ]
    for job in jobs:
        before = needs(recipe.stage[job.stage])
        lines.append(
            f"[ -f {job.stage}/{DONE} ] || bash {job.stage}/run.sh"
            + (f"  # after {', '.join(before)}" if before else "")
        )
    return "\n".join(lines) + "\n"


def _slurm(request: Request, jobs: Sequence[Job]) -> str:
    """Each stage as a Slurm job after those that it needs; verl's start Ray on their nodes first."""
    lines = [template("slurm.sh").rstrip("\n")]
    names = {job.stage for job in jobs}
    for job in jobs:
        before = " ".join(name for name in needs(request.recipe.stage[job.stage]) if name in names)
        per_node = min(job.gpus, request.machine.gpus_per_node)
        script = "ray_on_slurm.sh" if job.engine == "verl" and job.nodes > 1 else f"{job.stage}/run.sh"
        size = f"--nodes={job.nodes} --gpus-per-node={per_node}" if job.gpus else "--nodes=1"
        argument = f" {job.stage}" if script == "ray_on_slurm.sh" else ""
        lines.append(
            f"[ -f {job.stage}/{DONE} ] || job_{job.stage}=$(sbatch --parsable $(after {before}) {size} "
            f"--exclusive --job-name={job.stage} --output={job.stage}/slurm.log {script}{argument})"
        )
    return "\n".join(lines) + "\n"


def to_rerun(recipe: Recipe, name: str) -> Iterator[str]:
    """The files to remove from an export that was run, a command for each stage, before run_all.sh is called again.

    Checkpoints go too, or an engine would resume the finished run; so do the rows of a stage that trains the domain.
    """
    for stage in changed(recipe, name):
        own = recipe.stage[stage]
        data = f" data/{stage}.* data/{stage}_held_out.*" if name in getattr(own, "domains", ()) else ""
        yield f"rm -rf {stage}/{DONE} {stage}/checkpoints {stage}/weights{data}"


def changed(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The stages to run again when a domain's data or verifier changed, or a stage was replaced (itself left out)."""
    if name in recipe.domains:
        return recipe.affected_by(name)
    if name in recipe.stage:
        return tuple(stage.name for stage in recipe.stages if name in recipe.ancestors(stage.name))
    hint = did_you_mean(name, [*recipe.domains, *recipe.stage])
    raise NotFoundError(f"--changed {name}: neither a domain nor a stage of the recipe{hint}")


def attempts(request: Request, engine: str) -> dict[str, Job | str]:
    """For each stage of the recipe the engine's job, or the sentence that refuses it."""
    found: dict[str, Job | str] = {}
    for stage in request.recipe.stages:
        try:
            found[stage.name] = ENGINES[engine].job(request, stage)
        except UsageError as error:
            found[stage.name] = str(error)
    return found


def described(job: Job) -> dict[str, Any]:
    """A job as plain data, its files by name only."""
    return {**asdict(job), "files": sorted(job.files), "data": None if not job.data else "data.json"}
