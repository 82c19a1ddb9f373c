"""What an export is made of: a request, and for each stage a job: the files of its folder and what differs.

An engine is one file of this folder with `job(request, stage) -> Job`. What it cannot say is a UsageError of one
sentence that names stage, key, engine and remedy (`refused`); what it says otherwise than this trainer is a sentence
in `Job.differs`. Scripts are carried as they are: they read the configuration that lies beside them. Leaves out:
writing the folder (`mopdsim.exchange.export`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

import yaml

from mopdsim.base.documents import DATA
from mopdsim.base.errors import UsageError
from mopdsim.cost.generation import smallest_replica
from mopdsim.exchange.tasks import Task
from mopdsim.facts.hardware import Gpu, gpu
from mopdsim.facts.layers import Model
from mopdsim.facts.model import model
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import ROOTS, Amounts, AnyStage, Distill, Rl, Sft, TrainedStage

BETAS = (0.9, 0.95)  # of this trainer's AdamW
CURVE_POINTS = 5  # evaluations of a stage, as the forecast counts them


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is exported: a scenario, the weights it starts from (a directory or a Hub name), its domains' tasks.

    approximate: whether an engine may put its nearest loss in place of one that it lacks, and say so.
    """

    scenario: Scenario
    weights: Mapping[str, str]  # by root of the recipe
    tasks: Mapping[str, Task]
    seed: int = 0
    approximate: bool = False

    @property
    def recipe(self) -> Recipe:
        return self.scenario.recipe

    @cached_property
    def machine(self) -> Gpu:
        return gpu(self.scenario.gpu)

    def model_of(self, stage: str) -> Model:
        """The model that a stage's weights belong to."""
        return model(self.scenario.model_of(self.recipe.root_of(stage)))

    def gpus(self, stage: str) -> int:
        return 1 if self.machine.is_cpu else self.scenario.stage_gpus(stage)

    def nodes(self, stage: str) -> int:
        return -(-self.gpus(stage) // self.machine.gpus_per_node)

    def weights_of(self, name: str, export: str = "..") -> str:
        """Where a stage's weights lie; a root's as they were given. export: the export's folder, seen from another
        stage's, or named where the engine's workers have another current directory."""
        return self.weights[name] if name in ROOTS else f"{export}/{name}/weights"

    def lengths(self, stage: TrainedStage) -> tuple[int, int]:
        """Longest prompt and longest response of a stage's domains, tokens."""
        own = [self.tasks[name] for name in stage.domains]
        return max(task.max_prompt_tokens for task in own), max(task.max_response_tokens for task in own)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage for one engine. files: by name in the stage's folder. differs: sentences for the reader.

    command: of `run.sh`, its output kept; after: what follows it. gpus: in whole, teachers' included. data: the
    specification that `prepare_data.py` reads. needs_verifier: whether verifiers reward it.
    """

    stage: str
    engine: str
    files: Mapping[str, str]
    command: str
    after: str = ""
    gpus: int
    differs: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    needs_verifier: bool = False
    nodes: int = 1


def refused(stage: str, key: str, value: object, engine: str, remedy: str) -> UsageError:
    """The error of what an engine cannot say."""
    shown = repr(value) if isinstance(value, str) else value
    return UsageError(f"stage {stage!r}: {key} = {shown}: {engine} cannot say this: {remedy}")


KEEP = "run this stage with `mopd train`, or change the recipe"


def checked(
    request: Request,
    stage: AnyStage,
    engine: str,
    kinds: Mapping[str, str],
    *,
    agents: bool = False,
    on_cpu: bool = False,
    ppo: bool = False,
) -> Amounts:
    """The stage's amounts. UsageError for what the engine, by its `kinds`, or none of the engines can say.

    agents: an agent of the engine's plays and judges each domain, so that turns and verifiers are its own affair.
    on_cpu: the engine runs without a GPU. ppo: it has that algorithm.
    """
    check_kind(stage, engine, kinds)
    assert isinstance(stage, Sft | Rl | Distill)
    if request.machine.is_cpu and not on_cpu:
        raise refused(stage.name, "gpu", request.scenario.gpu, engine, "it needs GPUs: name one with --gpu")
    amounts = request.recipe.amounts[stage.name]
    if amounts.max_flops is not None:
        flops = f"{amounts.max_flops:.3g}"
        raise refused(stage.name, "max_flops", flops, engine, "give steps instead of a ceiling of FLOPs")
    if not agents:
        _one_turn(request, stage, engine)
    match stage:
        case Sft():
            _check_sft(request, stage, engine)
        case Rl():
            if stage.algorithm == "ppo" and not ppo:
                raise refused(stage.name, "algorithm", "ppo", engine, "use grpo, or export it to verl")
            _check_rl(stage, engine)
        case Distill():
            _check_distill(stage, engine)
            _check_sizes(request, stage, engine)
    if not agents and (isinstance(stage, Rl) or (isinstance(stage, Distill) and stage.reward_mix)):
        _verified(request, stage, engine)
    return amounts


def _check_sft(request: Request, stage: Sft, engine: str) -> None:
    if stage.data:
        raise refused(stage.name, "data", ", ".join(stage.data), engine, "it reads samples of ours: " + KEEP)
    for name in stage.domains:
        if not request.tasks[name].source:
            remedy = "it has no demonstrations: give its data in --tasks"
            raise refused(stage.name, "domains", name, engine, remedy)


def _check_rl(stage: Rl, engine: str) -> None:
    """What none of the engines can say of reinforcement learning."""
    weighed = any(weight != 1 for weight in stage.reward_weights.values())
    _refuse(stage, engine, {
        "advantage_scale": (stage.advantage_scale == "domain", 'use "group" or "none"'),
        "curriculum": (stage.curriculum != "none", 'use "none", or one stage for each part'),
        "demonstration_mix": (stage.demonstration_mix, KEEP),
        "reward_weights": (weighed, "weigh by shares of prompts instead"),
        "reward_models": (stage.reward_models, "judge with verifiers, or " + KEEP),
    })  # fmt: skip


def _refuse(stage: AnyStage, engine: str, rules: Mapping[str, tuple[object, str]]) -> None:
    """Refuses the first key of which the engine cannot say what it says. rules: by key, whether so, and the remedy."""
    for key, (wrong, remedy) in rules.items():
        if wrong:
            raise refused(stage.name, key, getattr(stage, key), engine, remedy)


def _check_distill(stage: Distill, engine: str) -> None:
    """What none of the engines can say of distillation."""
    name = stage.name
    if not stage.on_policy:
        remedy = "sample the teachers first and use an sft stage, or " + KEEP
        raise refused(name, "on_policy", "false", engine, remedy)
    tail = "its tail bucket is missing there: choose another loss"
    _refuse(stage, engine, {
        "balance": (stage.balance != "none", 'use balance = "none"'),
        "misrouting": (stage.misrouting, "set it to 0"),
        "extrapolation": (stage.extrapolation != 1, "set it to 1"),
        "loss": (stage.loss == "top_k_reverse_kl", tail),
    })  # fmt: skip
    for domain in stage.domains:
        serving = [teacher for teacher in stage.teachers if domain in teacher.domains]
        if len(serving) != 1:
            said = f"{len(serving)} teachers of {domain!r}"
            raise refused(name, "teachers", said, engine, "give each domain one teacher")
        if serving[0].weight != 1:
            remedy = f"set the weight of {serving[0].stage!r} to 1"
            raise refused(name, "weight", serving[0].weight, engine, remedy)


def stands_in(request: Request, stage: Distill, engine: str, losses: tuple[str, ...]) -> list[str]:
    """Refuses a loss that is none of the engine's; the sentence for the reader where its sampled token stands in."""
    if stage.loss in losses:
        return []
    if stage.loss != "reverse_kl":
        raise refused(stage.name, "loss", stage.loss, engine, f"use {' or '.join(losses)}")
    if not request.approximate:
        remedy = 'use "sampled_token", whose expected gradient is the same, or give --approximate'
        raise refused(stage.name, "loss", stage.loss, engine, remedy)
    return [
        'loss = "reverse_kl": the sampled token\'s log ratio stands in for the whole vocabulary: the same gradient in '
        "expectation, a noisier one in each step"
    ]


def replica_gpus(request: Request, name: str, context: int, gpus: int) -> int:
    """GPUs of a node, a power of two, that hold the model and a few sequences of this length for generation."""
    most = min(gpus, request.machine.gpus_per_node)
    return smallest_replica(
        request.model_of(name), request.machine, context=float(context), sequences=8, most_gpus=most
    ).gpus


def _check_sizes(request: Request, stage: Distill, engine: str) -> None:
    """Teachers and student must share their tokens, which is known of one model's stages alone."""
    roots = {request.recipe.root_of(name) for name in (stage.init, *stage.teacher_names)}
    if len(roots) > 1:
        raise refused(
            stage.name, "init", stage.init, engine,
            "its teachers grew from another model, whose tokens may differ: distil within one model",
        )  # fmt: skip


def check_kind(stage: AnyStage, engine: str, kinds: Mapping[str, str]) -> None:
    """Refuses a kind that an engine lacks; `kinds` maps what it has to a word for it."""
    if stage.kind not in kinds:
        remedy = {
            "merge": "add mergekit to --to, as in --to trl,mergekit",
            "preference": "it samples its own pairs: " + KEEP,
            "reward_model": "it samples its own pairs: " + KEEP,
            "rejection_sampling": "it makes a data set: " + KEEP,
        }.get(stage.kind, "add trl or verl to --to, or leave it out with --stages")
        raise refused(stage.name, "kind", stage.kind, engine, remedy)


def _verified(request: Request, stage: TrainedStage, engine: str) -> None:
    """Every domain of a rewarded stage has a verifier that runs without this package."""
    for name in stage.domains:
        task = request.tasks[name]
        if task.verifier is None:
            raise refused(stage.name, "domains", name, engine, f"{task.why_not}: name a reward in --tasks")


def _one_turn(request: Request, stage: TrainedStage, engine: str) -> None:
    """Episodes of several turns need an agent, which the user names."""
    for name in stage.domains:
        task = request.tasks[name]
        if task.turns > 1:
            raise refused(
                stage.name, "domains", name, engine,
                f"its episodes have {task.turns} turns and no agent loop is known: export it to verl with an "
                f"agent in --tasks",
            )  # fmt: skip


def warmup_steps(amounts: Amounts) -> int:
    """As this trainer warms up: no longer than a fifth of the stage."""
    return min(amounts.warmup_steps, amounts.steps // 5)


def updates_of(stage: TrainedStage, amounts: Amounts, engine: str) -> int:
    """Updates of one batch, of whole prompts each."""
    updates = stage.updates_per_batch if isinstance(stage, Rl) else 1
    if amounts.prompts_per_step % updates:
        remedy = f"prompts_per_step = {amounts.prompts_per_step} must be a multiple of it"
        raise refused(stage.name, "updates_per_batch", updates, engine, remedy)
    return updates


def data_of(request: Request, stage: TrainedStage, *, repeats: int = 1) -> dict[str, Any]:
    """The data specification of a stage, which `prepare_data.py` reads: rows in the order of the steps.

    repeats: rows of each prompt, where the engine samples one answer of a row.
    """
    amounts = request.recipe.amounts[stage.name]
    domains = {}
    for name, share in stage.domains.items():
        task = request.tasks[name]
        domains[name] = {
            "share": share,
            "source": task.source,
            "spec": task.spec,
            "verifier": task.verifier,
            "reward_scale": task.reward_scale,
            **({"agent": task.agent} if task.agent else {}),
        }
    return {
        "steps": amounts.steps,
        "prompts_per_step": amounts.prompts_per_step,
        "repeats": repeats,
        "demonstrated": isinstance(stage, Sft),
        "seed": request.seed,
        "domains": domains,
        **({"teachers": routes(stage)} if isinstance(stage, Distill) else {}),
    }


def routes(stage: Distill) -> dict[str, str]:
    """The teacher of each domain, of which there is one."""
    return {
        domain: teacher.stage
        for teacher in stage.teachers
        for domain in teacher.domains
        if domain in stage.domains
    }


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keys with points as tables within tables: {"a.b": 1} is {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, key = path.split(".")
        place = found
        for name in tables:
            place = place.setdefault(name, {})
        place[key] = value
    return found


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two configurations, tables merged, the second's values on top."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found


def rl_differs(stage: Rl, amounts: Amounts) -> list[str]:
    """What the engines' GRPO does otherwise than ours."""
    found = [deviation_of_groups(amounts.rollouts_per_prompt)] if stage.advantage_scale == "group" else []
    if stage.zero_signal == "drop":
        found.append(
            'zero_signal = "drop": groups of one reward stay in the batch and dilute its mean, where ours leave it'
        )
    return found


def deviation_of_groups(group: int) -> str:
    """How dividing by the sample's standard deviation instead of the population's changes advantages."""
    percent = 100 * (1 - ((group - 1) / group) ** 0.5)
    return (
        "advantages are divided by the sample standard deviation of a group, ours by the population's: for a group of "
        f"{group} theirs are {percent:.1f}% smaller"
    )


WARM_UP = (
    "warm-up starts at rate 0 and the cosine begins after it; ours starts at 1/W of the rate and the cosine at "
    "step 0"
)


def dump(value: Mapping[str, Any]) -> str:
    """A mapping as YAML that readers of 1.1 and 1.2 understand alike: `1.0e-06`, not `1e-06`, and text is quoted where
    it would read as something else."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=math.inf)


def template(name: str) -> str:
    """The text of an exported script."""
    return (DATA / "exchange" / f"{name}.txt").read_text(encoding="utf-8")


def carried(name: str) -> str:
    """A module of the trainer's tasks that needs the standard library alone: read as text, not imported, so that the
    exported verifier is the trainer's own."""
    return files("trainer").joinpath("tasks", name).read_text(encoding="utf-8")
