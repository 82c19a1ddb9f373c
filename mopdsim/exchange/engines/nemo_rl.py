"""Stages for NeMo-RL: GRPO and distillation from several teachers, verified in NeMo Gym. Not validated by its own code.

NeMo-RL cannot be installed on a plain machine, so that nothing here was run: the keys are those of its examples at the
commit in `VERSION`, and a test refuses any other. A domain's agent is its NeMo Gym agent, named in the tasks file; the
agent's own server verifies. Leaves out: SFT, PPO, models that do not train on one node (Megatron's degrees stay at its
defaults).
"""

from __future__ import annotations

from typing import Any

from mopdsim.exchange.engines import parts
from mopdsim.exchange.engines.parts import Job, Request, dump
from mopdsim.recipes.stage import Amounts, AnyStage, Distill, Rl

ENGINE = "nemo-rl"
VERSION = "7ea279abfbeb698b092856d0dab61e7cf39bc909"
KINDS = {"rl": "grpo", "distill": "opd"}
NOT_VALIDATED = f"not validated by its own code: keys of NeMo-RL at {VERSION[:9]}"
BASE_CONFIG = "examples/configs/grpo_math_1B.yaml"
ROOT = "${oc.env:EXPORT_ROOT}"
Config = dict[str, Any]


def job(request: Request, stage: AnyStage) -> Job:
    """The stage's job. UsageError where NeMo-RL cannot say it."""
    amounts = parts.checked(request, stage, ENGINE, KINDS, agents=True)
    assert isinstance(stage, Rl | Distill)
    for name in stage.domains:
        if not request.tasks[name].agent:
            raise parts.refused(
                stage.name, "domains", name, ENGINE, "NeMo Gym verifies: name its agent in --tasks"
            )
    own, differs = _rl(stage, amounts) if isinstance(stage, Rl) else _distill(request, stage)
    return Job(
        stage=stage.name,
        engine=ENGINE,
        files={"config.yaml": dump(parts.merged(_common(request, stage, amounts), own))},
        command=(
            'here=$PWD; cd "${NEMO_RL:?the checkout of NeMo-RL}"; cp ' + BASE_CONFIG + ' "$here/base.yaml"; '
            'EXPORT_ROOT="$here/.." uv run examples/nemo_gym/run_grpo_nemo_gym.py --config "$here/config.yaml" '
            '"env.nemo_gym.config_paths=${NEMO_GYM_CONFIG_PATHS:?a list, as [a.yaml,b.yaml]}"'
        ),
        after='ln -sfn "$(ls -d checkpoints/step_* | sort -V | tail -1)/policy/weights/model/consolidated" weights',
        gpus=request.gpus(stage.name),
        nodes=request.nodes(stage.name),
        differs=(NOT_VALIDATED, *differs),
        data=parts.data_of(request, stage),
    )


def _common(request: Request, stage: Rl | Distill, amounts: Amounts) -> Config:
    prompt, response = request.lengths(stage)
    gpus, per_node = request.gpus(stage.name), request.machine.gpus_per_node
    if gpus > per_node and gpus % per_node:
        raise parts.refused(
            stage.name, "gpus", gpus, ENGINE, f"it wants whole nodes of {per_node}: change gpus_of"
        )
    updates = stage.updates_per_batch if isinstance(stage, Rl) else 1
    samples = amounts.prompts_per_step * amounts.rollouts_per_prompt
    if samples % updates:
        raise parts.refused(
            stage.name, "updates_per_batch", updates, ENGINE, f"{samples} samples must be a multiple of it"
        )
    every = max(1, amounts.steps // parts.CURVE_POINTS)
    data = "NemoGymDataset"
    return parts.nested({
        "defaults": "base.yaml",
        "grpo.num_prompts_per_step": amounts.prompts_per_step,
        "grpo.num_generations_per_prompt": amounts.rollouts_per_prompt,
        "grpo.max_num_steps": amounts.steps,
        "grpo.max_num_epochs": 1,
        "grpo.use_leave_one_out_baseline": False,
        "grpo.val_period": every,
        "grpo.val_at_start": True,
        "grpo.seed": request.seed,
        "loss_fn.token_level_loss": stage.normalizer == "token",
        "loss_fn.kl_input_clamp_value": None,
        "loss_fn.kl_output_clamp_value": None,
        "checkpointing.checkpoint_dir": f"{ROOT}/{stage.name}/checkpoints",
        "checkpointing.metric_name": None,
        "checkpointing.save_period": every,
        "checkpointing.save_consolidated": True,
        "policy.model_name": request.weights_of(stage.init, ROOT),
        "policy.train_global_batch_size": samples // updates,
        "policy.max_total_sequence_length": prompt + response,
        "policy.max_grad_norm": amounts.max_grad_norm,
        "policy.generation.max_new_tokens": response,
        "policy.generation.temperature": 1.0,
        "policy.generation.top_p": 1.0,
        "policy.generation.top_k": None,
        "policy.generation.vllm_cfg.async_engine": True,
        "policy.generation.vllm_cfg.expose_http_server": True,
        "policy.generation.vllm_cfg.tensor_parallel_size": parts.replica_gpus(
            request, stage.name, prompt + response, gpus
        ),
        **_optimizer(amounts, megatron=isinstance(stage, Distill)),
        "data.train": {"data_path": f"{ROOT}/data/{stage.name}.jsonl", "dataset_name": data},
        "data.validation": {"data_path": f"{ROOT}/data/{stage.name}_held_out.jsonl", "dataset_name": data},
        "data.default.dataset_name": data,
        "data.default.env_name": "nemo_gym",
        "data.default.prompt_file": None,
        "data.default.processor": "nemo_gym_data_processor",
        "env.should_use_nemo_gym": True,
        "logger": {"log_dir": f"{ROOT}/{stage.name}/logs", "tensorboard_enabled": True},
        "cluster": {"gpus_per_node": min(gpus, per_node), "num_nodes": request.nodes(stage.name)},
    })  # fmt: skip


def _optimizer(amounts: Amounts, *, megatron: bool) -> Config:
    """Adam with a linear warm-up and a cosine, in the words of PyTorch or of Megatron (teachers need the latter)."""
    warm, low = parts.warmup_steps(amounts), amounts.learning_rate * amounts.final_learning_rate_fraction
    if megatron:
        return {
            "policy.dtensor_cfg.enabled": False,
            "policy.megatron_cfg.enabled": True,
            "policy.megatron_cfg.optimizer": {
                "lr": amounts.learning_rate, "min_lr": low, "weight_decay": amounts.weight_decay,
                "adam_beta1": parts.BETAS[0], "adam_beta2": parts.BETAS[1],
            },
            "policy.megatron_cfg.scheduler": {
                "lr_decay_style": "cosine", "lr_decay_iters": amounts.steps, "lr_warmup_iters": warm,
                "lr_warmup_init": 0.0,
            },
            "policy.optimizer": None,
            "policy.scheduler": None,
        }  # fmt: skip
    schedule = "torch.optim.lr_scheduler"
    kwargs = {"lr": amounts.learning_rate, "weight_decay": amounts.weight_decay, "betas": list(parts.BETAS)}
    cosine = {
        "name": f"{schedule}.CosineAnnealingLR",
        "kwargs": {"T_max": max(1, amounts.steps - warm), "eta_min": low},
    }
    if not warm:
        return {"policy.optimizer.kwargs": kwargs, "policy.scheduler": [cosine]}
    rise = {
        "name": f"{schedule}.LinearLR",
        "kwargs": {"start_factor": 1 / warm, "end_factor": 1.0, "total_iters": warm},
    }
    return {"policy.optimizer.kwargs": kwargs, "policy.scheduler": [rise, cosine, {"milestones": [warm]}]}


def _rl(stage: Rl, amounts: Amounts) -> tuple[Config, list[str]]:
    config = {
        "grpo.normalize_rewards": stage.advantage_scale == "group",
        "loss_fn.reference_policy_kl_penalty": stage.kl_coefficient,
        "loss_fn.reference_policy_kl_type": "k3",
        "loss_fn.ratio_clip_min": stage.clip_low,
        "loss_fn.ratio_clip_max": stage.clip_high,
        "loss_fn.ratio_clip_c": None,
    }
    return parts.nested(config), parts.rl_differs(stage, amounts)


def _distill(request: Request, stage: Distill) -> tuple[Config, list[str]]:
    if stage.reward_mix:
        raise parts.refused(
            stage.name, "reward_mix", stage.reward_mix, ENGINE, "it ignores rewards: set it to 0"
        )
    differs = parts.stands_in(request, stage, ENGINE, ("sampled_token",))
    names = stage.teacher_names
    nodes, per_node = request.nodes(stage.name), request.machine.gpus_per_node
    if nodes < len(names) + 2:
        raise parts.refused(
            stage.name, "gpus", request.gpus(stage.name), ENGINE,
            f"{len(names)} teachers, generation and training want a node each, {len(names) + 2} of {per_node} GPUs",
        )  # fmt: skip
    by_agent = {
        request.tasks[domain].agent: request.weights_of(teacher, ROOT)
        for domain, teacher in parts.routes(stage).items()
    }
    apart = max(1, (nodes - len(names)) // 2)
    size = parts.replica_gpus(request, names[0], sum(request.lengths(stage)), per_node)
    opd, correction = "on_policy_distillation", "loss_fn.truncated_importance_sampling"
    config = {
        "grpo.async_grpo.enabled": True,
        "grpo.adv_estimator.name": "opd",
        "grpo.seq_logprob_error_threshold": 2.0,
        "loss_fn.reference_policy_kl_penalty": 0.0,
        "loss_fn.disable_ppo_ratio": True,
        "loss_fn.use_importance_sampling_correction": True,
        f"{correction}_type": "icepop",
        f"{correction}_ratio": 5.0,
        f"{correction}_ratio_min": 0.2,
        "policy.generation.colocated.enabled": False,
        "policy.generation.colocated.resources": {"gpus_per_node": per_node, "num_nodes": apart},
        f"{opd}.enabled": True,
        f"{opd}.teacher_model_by_agent_name": by_agent,
        f"{opd}.default_teacher_alias": next(iter(by_agent)),
        f"{opd}.strict_agent_name_match": True,
        f"{opd}.deduplicate_shared_teacher_checkpoints": True,
        f"{opd}.non_colocated_teachers.enabled": True,
        f"{opd}.non_colocated_teachers.default_teacher_cfg": {
            "tensor_model_parallel_size": size, "num_nodes": 1, "gpus_per_node": per_node,
        },
    }  # fmt: skip
    return parts.nested(config), [
        *differs,
        f"{len(names)} nodes only serve teachers, and half of the rest only generates; training is asynchronous, one "
        "step behind",
        "tokens whose importance ratio leaves [.2, 5] are dropped; ours are truncated at max_importance_ratio",
    ]
