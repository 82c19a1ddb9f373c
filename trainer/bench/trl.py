"""TRL's distillation and GRPO trainers driven for a comparison: same weights, prompts and settings, step by step.

Reverse KL (beta 1), temperature 1, no truncation of the distribution, exactly 16 new tokens, the size's type
(`bf16=True` for bfloat16), no gradient checkpointing, nothing logged or saved in a step. A step is timed from
`on_step_begin` to `on_step_end`: sampling, scoring, forward, backward, clipping, AdamW. Needs the extra `bench`.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mopdsim.base.errors import UsageError
from trainer.batch.rollout import Rollouts
from trainer.bench import step


@dataclass(kw_only=True)
class Run:
    """What was measured: TRL's steps, the other trainer's steps in between, TRL's first loss and its batch."""

    seconds: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    first_loss: float = 0.0
    inputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def first_batch(self) -> Rollouts:
        """The batch of the first step, before any update."""
        mask_BT = self.inputs["completion_mask"].bool()
        return Rollouts(
            prompt_BP=self.inputs["prompt_ids"],
            prompt_mask_BP=self.inputs["prompt_mask"].bool(),
            response_BT=self.inputs["completion_ids"],
            present_BT=mask_BT,
            trained_BT=mask_BT,
            logprob_BT=torch.zeros(mask_BT.shape),
            truncated_B=torch.ones(len(mask_BT), dtype=torch.bool),
            group=1,
        )


def distill(size: step.Size, texts: Sequence[str], between: Callable[[], None], steps: int) -> Run:
    """`steps` steps of `trl.DistillationTrainer`, `between` timed after each."""
    trl, run = _trl(), Run()

    class Observed(trl.DistillationTrainer):  # type: ignore[name-defined]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **options)
            if not run.inputs:
                run.inputs, run.first_loss = dict(inputs), float(loss.detach())
            return loss

    config = trl.DistillationConfig(beta=1.0, **_common(size, len(texts), steps))
    teacher = size.model(step.TEACHER)
    return _drive(Observed, run, size, texts, between, args=config, teacher_model=teacher)


def grpo(size: step.Size, texts: Sequence[str], between: Callable[[], None], steps: int) -> Run:
    """`steps` steps of `trl.GRPOTrainer`, no KL, token-mean loss."""
    trl, run = _trl(), Run()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [step.distinct(tokens) for tokens in completion_ids]

    rows = len(texts) * size.group
    config = trl.GRPOConfig(
        num_generations=size.group,
        beta=0.0,
        loss_type="dapo",
        epsilon_high=0.28,
        **_common(size, rows, steps),
    )
    return _drive(trl.GRPOTrainer, run, size, texts, between, args=config, reward_funcs=reward)


def _common(size: step.Size, rows: int, steps: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": rows,
        "max_steps": steps,
        "learning_rate": step.LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_completion_length": step.NEW_TOKENS,
        "generation_kwargs": {"min_new_tokens": step.NEW_TOKENS},
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "bf16": size.dtype == torch.bfloat16,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _drive(
    trainer: Any,
    run: Run,
    size: step.Size,
    texts: Sequence[str],
    between: Callable[[], None],
    **options: Any,
) -> Run:
    from datasets import Dataset
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        start = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            run.seconds.append(time.perf_counter() - self.start)
            run.between.append(step.timed(between))

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        trainer(
            model=size.model(step.STUDENT),
            processing_class=size.tokenizer(),
            train_dataset=Dataset.from_dict({"prompt": list(texts)}),
            callbacks=[Clock()],
            **options,
        ).train()
    return run


def _trl() -> Any:
    try:
        import datasets  # noqa: F401
        import trl
    except ImportError as error:
        raise UsageError(
            f"--against trl needs the extra 'bench' ({error.name} is missing): "
            ".venv/bin/pip install -c constraints.txt -e '.[bench]'"
        ) from error
    return trl
