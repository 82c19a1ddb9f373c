"""What each engine calls our columns. Units: seconds, tokens, tokens a second and GPU, probabilities, nats.

Several keys of a column are added (phases) or tried in order (everything else). Waits stand apart: in asynchronous runs
the trainer's 'generation' is how long it waited. Sources: verl 0.9.1 `trainer/ppo/metric_utils.py`; NeMo-RL 7ea279abf
`algorithms/grpo.py`, `algorithms/utils.py`; TRL 1.16 `grpo_trainer.py`, `distillation_trainer.py`; tinker-cookbook
9dfcc3a2 `rl/metrics.py`, `rl/train.py`; prime-rl 559b4477 `trainer/rl/train.py`, `orchestrator/orchestrator.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mopdsim.base.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """An engine's keys. phases: by our column, added up. firsts: by our column, the first that a row has.

    evaluation: beginnings of keys of evaluation rows. not_training: keys whose presence makes a step's seconds those of
    something else as well (an evaluation or a checkpoint within it). owner: where rows of one step disagree, the row
    with this key wins. only: keys that tell the engine.
    """

    engine: str
    step: tuple[str, ...]
    phases: Mapping[str, tuple[str, ...]]
    firsts: Mapping[str, tuple[str, ...]]
    waits: tuple[str, ...] = ()
    asynchronous: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    not_training: tuple[str, ...] = ()
    total_tokens: str = ""
    owner: str = ""
    only: tuple[str, ...]


VERL = KeyMap(
    engine="verl",
    step=("timing_s/step", "perf/time_per_step"),
    phases={
        "generation_s": ("timing_s/gen",),
        "old_logprob_s": ("timing_s/old_log_prob",),
        "reference_s": ("timing_s/ref", "timing_s/values"),
        "update_s": ("timing_s/update_actor", "timing_s/update_critic"),
        "reward_s": ("timing_s/reward",),
        "sync_s": ("timing_s/update_weights",),
    },
    firsts={
        "mean_tokens": ("response_length/mean",),
        "prompt_tokens": ("prompt_length/mean",),
        "tokens_per_s_per_gpu": ("perf/throughput",),
        "step_tokens": ("perf/total_num_tokens",),
        "score": ("critic/score/mean",),
        "kl": ("distillation/abs_loss", "actor/kl_loss", "actor/ppo_kl"),
        "entropy": ("actor/entropy",),
    },
    asynchronous=("timing_s/param_sync", "fully_async/", "timing_s/wait_for_enough_samples"),
    evaluation=("val-core/", "val-aux/", "val/"),
    not_training=("timing_s/testing", "timing_s/save_checkpoint"),
    only=("timing_s/", "critic/score/", "actor/", "val-core/", "distillation/"),
)
NEMO_RL = KeyMap(
    engine="nemo-rl",
    step=("timing/train/total_step_time",),
    phases={
        "generation_s": ("timing/train/generation",),
        "old_logprob_s": ("timing/train/policy_and_reference_logprobs",),
        "update_s": ("timing/train/policy_training",),
        "reward_s": ("timing/train/reward_calculation",),
        "sync_s": ("timing/train/prepare_for_generation/total", "timing/train/weight_sync"),
    },
    firsts={
        "mean_tokens": ("train/mean_gen_tokens_per_sample",),
        "tokens_per_s_per_gpu": ("performance/tokens_per_sec_per_gpu",),
        "score": ("train/reward",),
        "kl": ("train/kl_penalty",),
        "entropy": ("train/approx_entropy",),
    },
    waits=("timing/train/exposed_generation",),
    asynchronous=("timing/train/exposed_generation",),
    evaluation=("validation/", "timing/validation/"),
    not_training=("timing/train/checkpointing", "timing/train/idle/validation"),
    only=("timing/train/", "train/", "performance/", "validation/"),
)
TRL = KeyMap(
    engine="trl",
    step=("step_time",),
    phases={},
    firsts={
        "mean_tokens": ("completions/mean_length",),
        "score": ("reward",),
        "kl": ("kl",),
        "entropy": ("entropy",),
    },
    evaluation=("eval_",),
    total_tokens="num_tokens",
    only=("step_time", "completions/", "num_tokens", "train_runtime", "eval_", "grad_norm"),
)
TINKER = KeyMap(
    engine="tinker",
    step=("time/total",),
    phases={
        "generation_s": ("time/sample", "time/sampling_time_max"),
        "update_s": ("time/train", "time/train_step"),
    },
    firsts={
        "mean_tokens": ("env/all/ac_tokens_per_turn",),
        "score": ("env/all/reward/total",),
        "kl": ("teacher_kl", "optim/kl_sample_train_v2"),
        "entropy": ("optim/entropy",),
    },
    evaluation=("test/",),
    not_training=("time/run_evals", "time/evals"),
    only=("time/total", "env/all/", "progress/batch", "optim/kl_sample_train_v1"),
)
PRIME_RL = KeyMap(
    engine="prime-rl",
    step=("time/step",),
    phases={"update_s": ("time/forward_backward",), "sync_s": ("time/broadcast_weights",)},
    firsts={
        "tokens_per_s_per_gpu": ("perf/throughput_per_gpu",),
        "step_tokens": ("progress/tokens",),
        "score": ("reward/mean", "train/all/reward/mean"),
        "kl": ("mismatch_kl/all/mean",),
        "entropy": ("entropy/all/mean",),
    },
    waits=("time/wait_for_batch",),
    asynchronous=("time/wait_for_batch",),
    evaluation=("eval/",),
    not_training=(),
    owner="time/forward_backward",
    only=(
        "time/wait_for_batch",
        "mismatch_kl/",
        "time/wait_for_policy",
        "perf/throughput_per_gpu",
        "progress/rollouts",
    ),
)
KEY_MAPS: Mapping[str, KeyMap] = {one.engine: one for one in (VERL, NEMO_RL, TRL, TINKER, PRIME_RL)}


def speaks(own: KeyMap, keys: Iterable[str]) -> int:
    """How many keys are an engine's own."""
    return sum(key.startswith(own.only) for key in keys)


def engine_of(rows: Iterable[Iterable[str]], where: str) -> KeyMap:
    """The engine whose keys most rows have. UsageError where no row has any."""
    votes = dict.fromkeys(KEY_MAPS, 0)
    for keys in rows:
        found = {name: speaks(own, keys) for name, own in KEY_MAPS.items()}
        best = max(found, key=lambda name: found[name])
        votes[best] += found[best] > 0
    chosen = max(votes, key=lambda name: votes[name])
    if not votes[chosen]:
        raise UsageError(
            f"{where}: its keys are of none of {', '.join(KEY_MAPS)}: name the engine with --engine"
        )
    return KEY_MAPS[chosen]
