"""Stages for verl 0.9.1: SFT, GRPO, PPO and distillation from several teachers, on FSDP with vLLM, started by Ray.

A job's config.yaml extends verl's own defaults (hydra finds them in the package) and holds only what differs from them.
Distillation takes the teachers' GPUs out of the stage's: whole nodes where there are several. Leaves out: Megatron,
kinds that sample their own pairs or data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mopdsim.exchange.engines import parts
from mopdsim.exchange.engines.parts import Job, Request, dump
from mopdsim.recipes.stage import Amounts, AnyStage, Distill, Rl, Sft

ENGINE = "verl"
VERSION = "0.9.1"
KINDS = {"sft": "sft_trainer_ray", "rl": "main_ppo", "distill": "main_ppo"}
NO_DUAL_CLIP = 1e9
TOKENS_PER_GPU = 16384  # of a micro-batch, or one whole sequence where that is longer
TOP_K = 128  # of forward_kl_topk: verl's default
ROOT = "${export_root}"  # Ray's workers have another current directory
COSINE = "the cosine begins after the warm-up, ours at step 0"
SAVED = ["model", "optimizer", "extra", "hf_model"]
_MEANS = {"token": "token-mean", "sequence": "seq-mean-token-mean"}
Config = dict[str, Any]


def job(request: Request, stage: AnyStage) -> Job:
    """The stage's job. UsageError where verl cannot say it."""
    amounts = parts.checked(request, stage, ENGINE, KINDS, ppo=True)
    assert isinstance(stage, Sft | Rl | Distill)
    if isinstance(stage, Sft):
        config, differs = _sft(request, stage, amounts)
    else:
        if isinstance(stage, Rl):
            own, differs = _rl(request, stage, amounts)
        else:
            own, differs = _distill(request, stage, amounts)
        config = parts.merged(
            _ppo_trainer(request, stage, amounts, student_gpus(request, stage, amounts)), own
        )
    rewarded = isinstance(stage, Rl) or (isinstance(stage, Distill) and stage.reward_mix > 0)
    actor = "" if isinstance(stage, Sft) else "/actor"
    return Job(
        stage=stage.name,
        engine=ENGINE,
        files={"config.yaml": dump(config)},
        command=(
            f"${{PYTHON:-python}} -m verl.trainer.{KINDS[stage.kind]} --config-path=$PWD --config-name=config "
            'export_root="$(cd .. && pwd)"'
        ),
        after=(
            "last=$(cat checkpoints/latest_checkpointed_iteration.txt)\n"
            f'ln -sfn "checkpoints/global_step_$last{actor}/huggingface" weights'
        ),
        gpus=request.gpus(stage.name),
        nodes=request.nodes(stage.name),
        differs=(COSINE, *differs),
        data=parts.data_of(request, stage),
        needs_verifier=rewarded,
    )


def _optimizer(amounts: Amounts) -> Config:
    return {
        "lr": amounts.learning_rate,
        "lr_warmup_steps": parts.warmup_steps(amounts),
        "lr_scheduler_type": "cosine",
        "min_lr_ratio": amounts.final_learning_rate_fraction,
        "zero_indexed_step": False,
        "total_training_steps": amounts.steps,
        "weight_decay": amounts.weight_decay,
        "betas": list(parts.BETAS),
        "clip_grad": amounts.max_grad_norm,
    }


def _nodes(request: Request, gpus: int) -> Config:
    per_node = request.machine.gpus_per_node
    return {"nnodes": -(-gpus // per_node), "n_gpus_per_node": min(gpus, per_node)}


def _trainer(request: Request, stage: Sft | Rl | Distill, amounts: Amounts, gpus: int) -> Config:
    return {
        "project_name": request.recipe.name,
        "experiment_name": stage.name,
        "default_local_dir": f"{ROOT}/{stage.name}/checkpoints",
        "logger": ["console", "file"],
        "total_epochs": 1,
        "total_training_steps": amounts.steps,
        "save_freq": max(1, amounts.steps // parts.CURVE_POINTS),
        "test_freq": max(1, amounts.steps // parts.CURVE_POINTS),
        **_nodes(request, gpus),
    }


def _base(defaults: str) -> Config:
    return {
        "defaults": [defaults, "_self_"],
        "hydra": {"searchpath": ["pkg://verl.trainer.config"]},
        "export_root": "???",
    }


def _data(stage: Sft | Rl | Distill, amounts: Amounts) -> Config:
    return {
        "train_files": f"{ROOT}/data/{stage.name}.parquet",
        "val_files": f"{ROOT}/data/{stage.name}_held_out.parquet",
        "train_batch_size": amounts.prompts_per_step,
    }


def _ppo_trainer(request: Request, stage: Rl | Distill, amounts: Amounts, gpus: int) -> Config:
    """What reinforcement and distillation share."""
    prompt, response = request.lengths(stage)
    updates = parts.updates_of(stage, amounts, ENGINE)
    samples = amounts.prompts_per_step * amounts.rollouts_per_prompt
    if samples % (gpus * updates):
        raise parts.refused(
            stage.name, "gpus", gpus, ENGINE,
            f"an update's {samples // updates} samples must be a multiple of the GPUs that train: change "
            f"prompts_per_step or gpus_of",
        )  # fmt: skip
    room = max(TOKENS_PER_GPU, prompt + response)
    data = {
        "max_prompt_length": prompt,
        "max_response_length": response,
        "shuffle": False,
        "seed": request.seed,
    }
    own = {
        "data": {**_data(stage, amounts), **data},
        "actor_rollout_ref.model.path": request.weights_of(stage.init, ROOT),
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.ppo_mini_batch_size": amounts.prompts_per_step // updates,
        "actor_rollout_ref.actor.ppo_epochs": 1,
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": room,
        "actor_rollout_ref.actor.clip_ratio_c": NO_DUAL_CLIP,
        "actor_rollout_ref.actor.loss_agg_mode": _MEANS[stage.normalizer],
        "actor_rollout_ref.actor.entropy_coeff": 0.0,
        "actor_rollout_ref.actor.grad_clip": amounts.max_grad_norm,
        "actor_rollout_ref.actor.optim": _optimizer(amounts),
        "actor_rollout_ref.actor.checkpoint.save_contents": SAVED,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.n": amounts.rollouts_per_prompt,
        "actor_rollout_ref.rollout.temperature": 1.0,
        "actor_rollout_ref.rollout.top_p": 1.0,
        "actor_rollout_ref.rollout.top_k": -1,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": parts.replica_gpus(
            request, stage.name, prompt + response, gpus
        ),
        "actor_rollout_ref.rollout.val_kwargs": {"do_sample": True, "temperature": 1.0, "n": 1},
        "reward.custom_reward_function": {"path": f"{ROOT}/reward.py", "name": "compute_score"},
        "trainer": {**_trainer(request, stage, amounts, gpus), "val_before_train": True},
        "ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH": f"{ROOT}/{stage.name}/metrics.jsonl",
    }
    return {**_base("ppo_trainer"), **parts.nested(own)}


def _rl(request: Request, stage: Rl, amounts: Amounts) -> tuple[Config, list[str]]:
    low, high, kl = stage.clip_low, stage.clip_high, stage.kl_coefficient
    clip = {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high}
    if stage.algorithm == "ppo":
        return _ppo(request, stage, amounts, clip)
    config = {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": stage.advantage_scale == "group",
        "algorithm.use_kl_in_reward": False,
        "actor_rollout_ref.actor": {
            **clip, "use_kl_loss": kl > 0, "kl_loss_coef": kl, "kl_loss_type": "low_var_kl",
        },
    }  # fmt: skip
    return parts.nested(config), parts.rl_differs(stage, amounts)


def _ppo(request: Request, stage: Rl, amounts: Amounts, clip: Config) -> tuple[Config, list[str]]:
    control: Config = {"type": "fixed", "kl_coef": stage.kl_coefficient}
    if stage.kl_target is not None:
        control |= {"type": "adaptive", "target_kl": stage.kl_target}
    config = {
        "algorithm.adv_estimator": "gae",
        "algorithm.gamma": stage.discount,
        "algorithm.lam": stage.gae_lambda,
        "algorithm.use_kl_in_reward": stage.kl_coefficient > 0,
        "algorithm.kl_ctrl": control,
        "actor_rollout_ref.actor": clip,
        "critic.strategy": "fsdp2",
        "critic.model.path": request.weights_of(stage.init, ROOT),
        "critic.optim": _optimizer(amounts),
        "critic.cliprange_value": stage.value_clip,
        "critic.grad_clip": amounts.max_grad_norm,
    }
    return parts.nested(config), [
        "the critic is a model of its own, trained at the policy's rate: value_coefficient has no place, and memory "
        "and training time are those of two models; ours is a head on the policy"
    ]


def student_gpus(request: Request, stage: Rl | Distill, amounts: Amounts) -> int:
    """GPUs that train and sample: all, or what the teachers leave."""
    whole = request.gpus(stage.name)
    return whole if isinstance(stage, Rl) else whole - teacher_pool(request, stage, amounts)[0]


def teacher_pool(request: Request, stage: Distill, amounts: Amounts) -> tuple[int, int]:
    """GPUs of all teachers and of one replica of one: about a quarter of the stage's, in whole nodes where it has
    several, so that a step's samples divide over the rest. UsageError where nothing is left to train on."""
    whole, per_node = request.gpus(stage.name), request.machine.gpus_per_node
    prompt, response = request.lengths(stage)
    count = len(stage.teacher_names)
    size = parts.replica_gpus(request, stage.teachers[0].stage, prompt + response + 1, whole)
    unit = per_node if whole > per_node else size
    least = -(-count * size // unit) * unit
    samples = amounts.prompts_per_step * amounts.rollouts_per_prompt
    fitting = [
        pool for pool in range(least, whole, unit) if samples % (whole - pool) == 0 and pool % size == 0
    ]
    if not fitting:
        raise parts.refused(
            stage.name, "gpus", whole, ENGINE,
            f"{count} teachers hold {least} of them, and the {samples} samples of a step must be a multiple of those "
            f"that train: change prompts_per_step or gpus_of",
        )  # fmt: skip
    return min(fitting, key=lambda pool: (abs(pool - whole / 4), pool)), size


def _distill(request: Request, stage: Distill, amounts: Amounts) -> tuple[Config, list[str]]:
    stood_in = parts.stands_in(request, stage, ENGINE, ("sampled_token", "forward_kl"))
    mixed = stage.reward_mix > 0
    pool, size = teacher_pool(request, stage, amounts)
    names = stage.teacher_names
    replicas = pool // size
    shares = [replicas // len(names) + (place < replicas % len(names)) for place in range(len(names))]
    prompt, response = request.lengths(stage)
    teachers = {
        ("teacher_model" if len(names) == 1 else f"taught_by_{name}"): {
            "key": name,
            "model_path": request.weights_of(name, ROOT),
            "num_replicas": share,
            "inference": {
                "name": "vllm",
                "tensor_model_parallel_size": size,
                "prompt_length": prompt,
                "response_length": response,
                "temperature": 1.0,
                "max_model_len": prompt + response + 1,
            },
        }
        for name, share in zip(names, shares, strict=True)
    }
    sampled = stage.loss != "forward_kl"
    loss = {
        "loss_mode": "k1" if sampled else "forward_kl_topk",
        "topk": TOP_K,
        "use_policy_gradient": sampled,
        "use_task_rewards": mixed,
        "distillation_loss_coef": 1 / stage.reward_mix if mixed else 1.0,
        "loss_max_clamp": None,
        "log_prob_min_clamp": None,
        "clip_ratio_low": 0.99,
        "clip_ratio_high": stage.max_importance_ratio - 1 if stage.max_importance_ratio > 1 else 1.0,
    }
    config = {
        "algorithm": {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": True, "use_kl_in_reward": False},
        "distillation": {
            "enabled": True,
            "teacher_key": "teacher",
            **_nodes(request, pool),
            "teacher_models": teachers,
            "distillation_loss": loss,
        },
    }
    return config, [*stood_in, *_distill_differs(stage, amounts, pool, sampled=sampled)]


def _distill_differs(stage: Distill, amounts: Amounts, pool: int, *, sampled: bool) -> Iterator[str]:
    yield f"{pool} of the stage's GPUs only serve teachers; ours load one after the other on the student's"
    if sampled:
        yield (
            "the importance ratio is clipped as in PPO, where the clip binds one sign of the signal alone; ours is "
            "truncated for both (the same while a batch is used for one update)"
        )
    else:
        yield f"the forward KL runs over the teacher's {TOP_K} likeliest tokens, ours over all"
    if stage.reward_mix:
        yield (
            f"the loss is task loss + {1 / stage.reward_mix:g} x distillation, ours distillation + "
            f"{stage.reward_mix:g} x task: the same direction, {1 / stage.reward_mix:g} times the size before clipping"
        )
        yield parts.deviation_of_groups(amounts.rollouts_per_prompt)


def _sft(request: Request, stage: Sft, amounts: Amounts) -> tuple[Config, list[str]]:
    gpus = request.gpus(stage.name)
    if amounts.prompts_per_step % gpus:
        raise parts.refused(
            stage.name, "gpus", gpus, ENGINE,
            f"prompts_per_step = {amounts.prompts_per_step} must be a multiple of the GPUs: change one or gpus_of",
        )  # fmt: skip
    prompt, response = request.lengths(stage)
    config = {
        **_base("sft_trainer_engine"),
        "data": {
            **_data(stage, amounts),
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": max(TOKENS_PER_GPU, prompt + response),
            "max_length": prompt + response,
        },
        "model": {"path": request.weights_of(stage.init, ROOT)},
        "engine": {"strategy": "fsdp2"},
        "optim": _optimizer(amounts),
        "checkpoint": {"save_contents": SAVED},
        "trainer": {**_trainer(request, stage, amounts, gpus), "seed": request.seed},
    }
    return config, ["rows are shuffled by verl's sampler"]
