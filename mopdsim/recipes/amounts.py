"""How much of everything a stage spends: steps, batch, learning rate. A recipe's structure has no scale; this does.

Named sets: `tiny` (a model under 0.5 M parameters on two CPU cores), `real` (a small open model of some 0.1 B
parameters on two CPU cores or one GPU) and `small` (0.5 to 4 B parameters on one GPU). The sizes are ours, grade
`prior`: those of `tiny` were chosen by sweeps on the tiny model, those of `real` by runs of SmolLM2-135M; the `small`
learning rates are the usual ones of published RL runs on such models. `published` is no set of its own: each of the
seven systems has its own figures (`mopdsim.recipes.systems`). Leaves out: lengths (they belong to a domain) and what
the amounts cost (`mopdsim.cost`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from mopdsim.base.errors import UsageError

AmountsName = Literal["tiny", "real", "small", "published"]
AMOUNTS_NAMES: tuple[AmountsName, ...] = get_args(AmountsName)
SpendingKind = Literal["sft", "rl", "distill", "reward_model", "preference", "rejection_sampling"]
SPENDING_KINDS: tuple[SpendingKind, ...] = get_args(SpendingKind)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Value(BaseModel):
    """A frozen value without unknown keys and without numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Amounts(Value):
    """What one stage spends.

    steps: optimiser steps (for `rejection_sampling`: batches). prompts_per_step: prompts (for `sft`:
    demonstrations) of one step. rollouts_per_prompt: samples of each prompt (the group of GRPO, the n of
    best-of-n). learning_rate: peak (0 where nothing is trained); warmed up linearly over `warmup_steps`, then
    decayed by a cosine to `final_learning_rate_fraction` of it. max_flops: where given, the stage ends with the
    step that reaches this many training FLOPs (generation, scoring and gradient; evaluation not counted) and the
    schedule follows FLOPs; `steps` is then only a ceiling. max_grad_norm: global gradient clipping.
    weight_decay: decoupled (AdamW). ledger: of a distillation, whether it keeps what each teacher did to the weights,
    for `mopd trace --by ledger`.
    """

    steps: Annotated[int, Field(ge=1, le=10_000_000)]
    prompts_per_step: Annotated[int, Field(ge=1, le=1_000_000)]
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=4096)] = 1
    learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    final_learning_rate_fraction: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    max_flops: Positive | None = None
    ledger: bool = False

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the ledger where none is kept: keys and files from before it stay what they are."""
        found: dict[str, Any] = handler(self)
        return found if self.ledger else {name: value for name, value in found.items() if name != "ledger"}

    def scaled(self, factor: float) -> Amounts:
        """The same with `factor` times the steps (no fewer than 2, or than the one there was) and the FLOPs ceiling."""
        steps = max(min(2, self.steps), round(self.steps * factor))
        flops = None if self.max_flops is None else self.max_flops * factor
        return self.model_copy(update={"steps": steps, "max_flops": flops})


BOLD = 1.5  # times the usual learning rate of RL: above, runs of ours broke, larger models first


def default_amounts(name: AmountsName, kind: SpendingKind) -> Amounts:
    """The named set's amounts of a stage of this kind. UsageError for `published`, which depends on the system."""
    if name == "published":
        raise UsageError(
            "amounts = 'published': only the published systems have such amounts (`mopd recipes`), and a file must "
            "give every stage its own in [amounts_of.STAGE]; use tiny, real or small"
        )
    return _AMOUNTS[name, kind]


_SETS: dict[SpendingKind, tuple[tuple[int, int, int, float, int], ...]] = {
    # of tiny, real and small: steps, prompts a step, rollouts a prompt, learning rate, warm-up steps
    "sft": ((200, 64, 1, 1e-3, 20), (10, 44, 1, 6e-5, 2), (400, 64, 1, 1e-5, 20)),
    "rl": ((80, 32, 8, 1.5e-3, 10), (40, 8, 8, 5e-5, 3), (200, 64, 8, 1e-6, 10)),
    "distill": ((200, 32, 1, 1e-3, 10), (40, 32, 1, 8e-5, 3), (200, 128, 1, 2e-6, 10)),
    "reward_model": ((180, 32, 8, 1e-3, 10), (30, 16, 4, 3e-5, 10), (200, 64, 4, 5e-6, 10)),
    "preference": ((120, 32, 8, 1e-3, 10), (30, 16, 8, 5e-6, 10), (200, 64, 8, 5e-7, 10)),
    "rejection_sampling": ((16, 64, 8, 0, 0), (4, 64, 8, 0, 0), (100, 256, 8, 0, 0)),
}
_COLUMNS = ("steps", "prompts_per_step", "rollouts_per_prompt", "learning_rate", "warmup_steps")
_AMOUNTS: dict[tuple[str, SpendingKind], Amounts] = {
    (name, kind): Amounts.model_validate(dict(zip(_COLUMNS, row, strict=True)))
    for kind, rows in _SETS.items()
    for name, row in zip(("tiny", "real", "small"), rows, strict=True)
}
