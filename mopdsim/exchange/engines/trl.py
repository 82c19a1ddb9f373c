"""Stages for TRL 1.16: SFTTrainer, GRPOTrainer, DistillationTrainer, one process a GPU under accelerate.

A job's config.json holds the arguments of the trainer's configuration class; the exported train.py reads it. Leaves
out: kinds that sample their own pairs or data, several teachers (TRL's stable trainer takes one).
"""

from __future__ import annotations

import json
from typing import Any

from mopdsim.exchange.engines import parts
from mopdsim.exchange.engines.parts import Job, Request, template
from mopdsim.recipes.stage import Amounts, AnyStage, Distill, Rl, Sft

ENGINE = "trl"
VERSION = "1.16.0"
KINDS = {"sft": "SFTTrainer", "rl": "GRPOTrainer", "distill": "DistillationTrainer"}
BETA = {"reverse_kl": 1.0, "forward_kl": 0.0}
MOST_ROWS = 8  # of a micro-batch on a GPU; on a CPU the whole batch is one


def job(request: Request, stage: AnyStage) -> Job:
    """The stage's job. UsageError where TRL cannot say it."""
    amounts = parts.checked(request, stage, ENGINE, KINDS, on_cpu=True)
    assert isinstance(stage, Sft | Rl | Distill)
    match stage:
        case Sft():
            rows, updates, own, differs = amounts.prompts_per_step, 1, _sft(request, stage), [parts.WARM_UP]
        case Rl():
            rows, updates, own, differs = _rl(request, stage, amounts)
        case Distill():
            rows, updates, own, differs = _distill(request, stage, amounts)
    arguments = _common(request, stage, amounts, rows, updates) | own
    trainer = KINDS[stage.kind]
    config = {
        "trainer": trainer,
        "model": request.weights_of(stage.init),
        **({"teacher": request.weights_of(stage.teachers[0].stage)} if isinstance(stage, Distill) else {}),
        "rows": f"../data/{stage.name}.jsonl",
        "arguments": arguments,
    }
    gpus = request.gpus(stage.name)
    launch = (
        "${PYTHON:-python} train.py"
        if gpus == 1
        else f"${{PYTHON:-python}} -m accelerate.commands.launch --num_processes {gpus} train.py"
    )
    return Job(
        stage=stage.name,
        engine=ENGINE,
        files={"config.json": json.dumps(config, indent=1) + "\n", "train.py": template("train_trl.py")},
        command=launch,
        gpus=gpus,
        nodes=request.nodes(stage.name),
        differs=tuple(differs),
        data=parts.data_of(
            request, stage, repeats=amounts.rollouts_per_prompt if isinstance(stage, Distill) else 1
        ),
        needs_verifier=isinstance(stage, Rl),
    )


# rows of an update, updates of a batch, arguments, what differs
Said = tuple[int, int, dict[str, Any], list[str]]


def _sft(request: Request, stage: Sft) -> dict[str, Any]:
    prompt, response = request.lengths(stage)
    return {"max_length": prompt + response, "completion_only_loss": True, "packing": False}


def _rl(request: Request, stage: Rl, amounts: Amounts) -> Said:
    updates = parts.updates_of(stage, amounts, ENGINE)
    group = amounts.rollouts_per_prompt
    own = {
        "num_generations": group,
        "num_iterations": 1,
        "epsilon": stage.clip_low,
        "epsilon_high": stage.clip_high,
        "beta": stage.kl_coefficient,
        "scale_rewards": stage.advantage_scale,
        "loss_type": "dapo" if stage.normalizer == "token" else "grpo",
        "mask_truncated_completions": False,
        **_sampling(request, stage),
    }
    return (
        amounts.prompts_per_step * group // updates,
        updates,
        own,
        [parts.WARM_UP, *parts.rl_differs(stage, amounts)],
    )


def _distill(request: Request, stage: Distill, amounts: Amounts) -> Said:
    if len(stage.teachers) > 1:
        raise parts.refused(
            stage.name, "teachers", f"{len(stage.teachers)} stages", ENGINE,
            "DistillationTrainer takes one teacher: export it to verl, or distil from one teacher after the other",
        )  # fmt: skip
    if stage.reward_mix:
        raise parts.refused(
            stage.name, "reward_mix", stage.reward_mix, ENGINE, "set it to 0, or export it to verl"
        )
    if stage.normalizer != "token":
        raise parts.refused(stage.name, "normalizer", stage.normalizer, ENGINE, 'use "token"')
    beta = stage.jensen_shannon_beta if stage.loss == "jensen_shannon" else BETA.get(stage.loss)
    if beta is None:
        raise parts.refused(
            stage.name, "loss", stage.loss, ENGINE, "use reverse_kl, forward_kl or jensen_shannon"
        )
    rows = amounts.prompts_per_step * amounts.rollouts_per_prompt
    return rows, 1, {"beta": beta, **_sampling(request, stage)}, [parts.WARM_UP]


def _sampling(request: Request, stage: Rl | Distill) -> dict[str, Any]:
    """One distribution on both sides: temperature 1, nothing cut off."""
    own = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_completion_length": request.lengths(stage)[1],
        "use_vllm": not request.machine.is_cpu,
        "shuffle_dataset": False,
    }
    return own if request.machine.is_cpu else {**own, "vllm_mode": "colocate"}


def _common(
    request: Request, stage: Sft | Rl | Distill, amounts: Amounts, rows: int, updates: int
) -> dict[str, Any]:
    """Arguments of every trainer. rows: of one update; updates: of one batch of samples."""
    gpus = request.gpus(stage.name)
    if rows % gpus:
        raise parts.refused(
            stage.name, "gpus", gpus, ENGINE,
            f"an update's {rows} rows must be a multiple of the GPUs: change prompts_per_step or gpus_of",
        )  # fmt: skip
    own = rows // gpus
    size = own if request.machine.is_cpu else max(n for n in range(1, MOST_ROWS + 1) if own % n == 0)
    steps = amounts.steps * updates
    return {
        "output_dir": "checkpoints",
        "max_steps": steps,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": own // size,
        **({"steps_per_generation": own // size * updates} if isinstance(stage, Rl) else {}),
        "learning_rate": amounts.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": amounts.final_learning_rate_fraction},
        "warmup_steps": parts.warmup_steps(amounts) * updates,
        "adam_beta1": parts.BETAS[0],
        "adam_beta2": parts.BETAS[1],
        "weight_decay": amounts.weight_decay,
        "max_grad_norm": amounts.max_grad_norm,
        "seed": request.seed,
        "bf16": not request.machine.is_cpu,
        "use_cpu": request.machine.is_cpu,
        "gradient_checkpointing": not request.machine.is_cpu,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": max(1, steps // parts.CURVE_POINTS),
        "save_total_limit": 1,
        "report_to": [],
        "disable_tqdm": True,
    }
