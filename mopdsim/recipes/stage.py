"""The stage kinds of the recipe language: a closed set, each a frozen value with validated fields; and how much of
everything a stage spends: steps, batch, learning rate.

A stage starts from the weights of another (`init`; "base" is the model the recipe is run on, "smaller" a smaller one).
With an `adapter_rank` it trains a low-rank adapter (LoRA) of that rank beside them, and hands the adapter on; forecasts
take no account of it. A domain is judged by its verifier, or by the reward model that `reward_models` names for it.
Adding a kind touches this file, the simulator's cost and quality, and one trainer loop; `match` with `assert_never`
makes a missing arm loud.

A recipe's structure has no scale; its amounts do. Named sets: `tiny` (a model under 0.5 M parameters on two CPU cores),
`real` (a small open model of some 0.1 B parameters on two CPU cores or one GPU) and `small` (0.5 to 4 B parameters on
one GPU). The sizes are ours, grade `prior`: those of `tiny` were chosen by sweeps on the tiny model, those of `real` by
runs of SmolLM2-135M; the `small` learning rates are the usual ones of published RL runs on such models. `published` is
no set of its own: each of the systems has its own figures (`mopdsim.recipes.published`). Leaves out: how stages hang
together (`mopdsim.recipes.recipe`), lengths (they belong to a domain) and what the amounts cost (`mopdsim.cost`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, assert_never, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mopdsim.base.errors import UsageError

AmountsName = Literal["tiny", "real", "small", "published"]
AMOUNTS_NAMES: tuple[AmountsName, ...] = get_args(AmountsName)
SpendingKind = Literal["sft", "rl", "distill", "reward_model", "preference", "rejection_sampling"]
SPENDING_KINDS: tuple[SpendingKind, ...] = get_args(SpendingKind)

MOST_STEPS = 10_000_000
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

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
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
        """The same with `factor` times the steps (no fewer than 2, or than the one there was) and the FLOPs ceiling;
        more than MOST_STEPS, which no recipe takes, are one more."""
        steps = max(min(2, self.steps), round(min(self.steps * factor, MOST_STEPS + 1)))
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
BASE = "base"  # the model a recipe is run on
SMALLER = "smaller"  # a second, smaller model with the same tokens, for a student of another size
SELF = "self"  # as a teacher: the weights that the student starts from
ROOTS = (BASE, SMALLER)

NORMALISING_ANSWERS = 1024  # fresh ones, by which a reward model's scores get mean 0 and standard deviation 1

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Weight = Annotated[
    float, Field(ge=1e-9, le=1e9, allow_inf_nan=False)
]  # sums and products of these are numbers
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
AdapterRank = Annotated[int, Field(ge=1, le=1024)] | None  # None: all weights are trained
Shares = Annotated[dict[str, Weight], Field(min_length=1)]
Flips = Annotated[float, Field(ge=0, lt=0.5)]
Normalizer = Literal["token", "sequence"]


class OverDomains(Value):
    """What every stage but a merge has: its kind and name, where it starts, and the shares of its domains."""

    kind: str
    name: Name
    init: str = BASE
    domains: Shares


class RewardModel(OverDomains):
    """A scalar head on the model it starts from, trained on pairs of that model's samples (Bradley-Terry).

    Samples of one prompt are paired where the verifier's scores differ. noise: probability that a pair's label is
    reversed (the same pair is always reversed alike); InstructGPT's labellers agreed on 73% of pairs.
    """

    kind: Literal["reward_model"] = "reward_model"
    noise: Flips = 0.0


class RejectionSampling(OverDomains):
    """A dataset: the model it starts from answers every prompt several times, and a judge chooses.

    keep: the "best" answer of each prompt, or all that "passed" the verifier in full. reward_models: the judge by
    domain, the verifier where absent. It trains nothing, and only `sft` reads it.
    """

    kind: Literal["rejection_sampling"] = "rejection_sampling"
    reward_models: dict[str, str] = Field(default_factory=dict)
    keep: Literal["best", "passed"] = "best"


class Preference(OverDomains):
    """Direct preference optimisation (DPO, 2305.18290) on the best and the worst sample of each prompt.

    The reference, and where not `on_policy` the sampler, is the model the stage starts from. beta: of the implied KL.
    noise: probability that a pair is reversed. likelihood_weight: of the chosen sample's likelihood beside it
    (Llama 3: 0.2). reward_models: the judge by domain, the verifier where absent.
    """

    kind: Literal["preference"] = "preference"
    adapter_rank: AdapterRank = None
    reward_models: dict[str, str] = Field(default_factory=dict)
    beta: Weight = 0.1
    noise: Flips = 0.0
    likelihood_weight: NotNegative = 0.0
    on_policy: bool = False


DistillLoss = Literal[
    "reverse_kl", "forward_kl", "jensen_shannon", "top_k_reverse_kl", "sampled_token", "sample_nll"
]
Balance = Literal["none", "token_share", "remaining_gap", "dispersion"]


class Sft(OverDomains):
    """Supervised fine-tuning on the domains' demonstrations; `domains` are shares of the examples.

    data: rejection-sampling stages whose answers are read instead, for `data_share` of the examples of each domain that
    they sampled.
    """

    kind: Literal["sft"] = "sft"
    adapter_rank: AdapterRank = None
    data: tuple[str, ...] = ()
    data_share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Sft:
        if not self.data and self.data_share != 1:
            raise ValueError(
                f"data_share = {self.data_share} is a share of `data`, which is empty: name data stages"
            )
        for name in self.data:
            if self.data.count(name) > 1:
                raise ValueError(f"data names {name!r} twice: name it once")
        return self


_READ_BY_ALGORITHM = {
    **dict.fromkeys(("gae_lambda", "discount", "value_coefficient", "value_clip", "kl_target"), "ppo"),
    **dict.fromkeys(("advantage_scale", "zero_signal"), "grpo"),
}


def _check_read(stage: Value, setting: str, readers: Mapping[str, str]) -> None:
    """Refuses a value of a key that another choice of `setting` alone reads. readers: that choice by key."""
    for key, reader in readers.items():
        value = getattr(stage, key)
        if getattr(stage, setting) != reader and value != type(stage).model_fields[key].default:
            raise ValueError(
                f"{key} = {value} is read by {setting} {reader!r} alone: remove it or set that {setting}"
            )


class Rl(OverDomains):
    """Reinforcement learning from the domains' verifiers or from reward models: GRPO (with the choices of DAPO) or PPO.

    domains: shares of prompts. reward_weights: factor on a domain's advantages (1 where absent).
    advantage_scale: divide advantages by the standard deviation of their "group", of their "domain" in this batch,
    or not ("none"). normalizer: the loss is a mean over tokens or over sequences. clip_low, clip_high: the ratio
    stays in [1 - low, 1 + high]. kl_coefficient: weight of KL(policy || init): in GRPO a term of the loss (k3 on the
    samples), in PPO a penalty of each token's reward, where `kl_target` (nats a token) adapts it (1909.08593).
    zero_signal: groups of one reward only are dropped from the batch or kept (they then only dilute the mean).
    curriculum: "staged" lets the domains in one after the other over the first half, in the order of `domains`;
    "signal" draws prompts in proportion to q (1 - q), q the running pass rate.
    updates_per_batch: optimiser steps on one batch of rollouts. reward_models: the judge by domain, the verifier where
    absent. demonstration_mix: weight of the likelihood of as many demonstrations beside the reward (InstructGPT's
    pre-training mix). PPO alone: a value head on the policy's own states, gae_lambda and discount of its advantages
    (1506.02438), value_coefficient of its loss, value_clip: how far a value moves from the one at sampling.
    """

    kind: Literal["rl"] = "rl"
    adapter_rank: AdapterRank = None
    reward_weights: dict[str, Weight] = Field(default_factory=dict)
    advantage_scale: Literal["group", "domain", "none"] = "group"
    normalizer: Normalizer = "token"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Weight = 0.28
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    zero_signal: Literal["drop", "keep"] = "drop"
    curriculum: Literal["none", "staged", "signal"] = "none"
    updates_per_batch: Annotated[int, Field(ge=1, le=64)] = 1
    algorithm: Literal["grpo", "ppo"] = "grpo"
    reward_models: dict[str, str] = Field(default_factory=dict)
    demonstration_mix: NotNegative = 0.0
    gae_lambda: Share = 0.95
    discount: Share = 1.0
    value_coefficient: NotNegative = 0.1
    value_clip: Weight = 0.2
    kl_target: Weight | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Rl:
        _check_read(self, "algorithm", _READ_BY_ALGORITHM)
        if self.kl_target is not None and not self.kl_coefficient:
            raise ValueError(
                f"kl_target = {self.kl_target} adapts kl_coefficient, which is 0: give it a value to start from"
            )
        return self


class Teacher(Value):
    """A stage that scores the prompts of `domains`; several teachers of a domain are summed with weights.

    "self" is the model that the student starts from: it keeps what the student has (MiMo-V2-Flash's general domains).
    """

    stage: str
    domains: Annotated[tuple[str, ...], Field(min_length=1)]
    weight: Weight = 1.0


_READ_BY = {  # settings of one loss
    "jensen_shannon_beta": "jensen_shannon",
    "top_k": "top_k_reverse_kl",
    "max_importance_ratio": "sampled_token",
}


class Distill(OverDomains):
    """Distillation from one or several teachers, each prompt routed to its own domain's.

    on_policy: the student samples and the teachers score; otherwise the teachers sample. loss: per-token
    divergence ("sample_nll": likelihood of the teacher's samples, off-policy only). correct_only: off-policy, only
    samples that the verifier passes. jensen_shannon_beta, top_k, max_importance_ratio: settings of the loss of
    that name. reward_mix: weight alpha of the verifiable reward's advantage (MiMo-V2-Flash). extrapolation: lambda
    of ExOPD (2602.12125), 1 is the teacher itself. balance: per-domain weights that even out gradient token
    share, follow the remaining gap, or divide by signal dispersion. misrouting: probability that a prompt goes to
    another domain's teacher.
    """

    kind: Literal["distill"] = "distill"
    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1)]
    adapter_rank: AdapterRank = None
    on_policy: bool = True
    loss: DistillLoss = "reverse_kl"
    correct_only: bool = False
    jensen_shannon_beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    top_k: Annotated[int, Field(ge=1)] = 32
    max_importance_ratio: Weight = 2.0
    reward_mix: Annotated[float, Field(ge=0)] = 0.0
    extrapolation: Weight = 1.0
    balance: Balance = "none"
    normalizer: Normalizer = "token"
    misrouting: Share = 0.0

    @property
    def teacher_names(self) -> list[str]:
        """The stages that teach, each once, in the order given."""
        return list(dict.fromkeys(teacher.stage for teacher in self.teachers))

    def teachers_of(self, domain: str) -> dict[str, float]:
        """Stage name -> weight of the teachers that serve a domain; the weights sum to one."""
        found = {teacher.stage: teacher.weight for teacher in self.teachers if domain in teacher.domains}
        whole = sum(found.values())
        return {name: weight / whole for name, weight in found.items()}

    @model_validator(mode="before")
    @classmethod
    def _self_by_name(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not isinstance(fields.get("teachers"), list | tuple):
            return fields
        init = fields.get("init", BASE)
        return {**fields, "teachers": tuple(_named(teacher, init) for teacher in fields["teachers"])}

    @model_validator(mode="after")
    def _consistent(self) -> Distill:
        if self.on_policy and self.loss == "sample_nll":
            raise ValueError("loss 'sample_nll' needs the teachers' samples: set on_policy = false")
        if not self.on_policy and self.loss == "sampled_token":
            raise ValueError("loss 'sampled_token' needs the student's samples: set on_policy = true")
        if self.correct_only and self.on_policy:
            raise ValueError("correct_only filters the teachers' samples: set on_policy = false")
        if self.reward_mix and not self.on_policy:
            raise ValueError("reward_mix needs the student's samples: set on_policy = true")
        if self.loss == "sample_nll" and (
            self.extrapolation != 1 or self.balance in ("remaining_gap", "dispersion")
        ):
            asked = "extrapolation" if self.extrapolation != 1 else f"balance {self.balance!r}"
            raise ValueError(f"{asked} needs the teachers' scores: choose another loss than 'sample_nll'")
        _check_read(self, "loss", _READ_BY)
        return self

    @model_validator(mode="after")
    def _teachers_apart(self) -> Distill:
        for domain in self.domains:
            serving = [
                name for teacher in self.teachers for name in teacher.domains.count(domain) * [teacher.stage]
            ]
            for name in serving:
                if serving.count(name) > 1:
                    raise ValueError(
                        f"teacher {name!r} is given twice for {domain!r}: give it once, with a weight"
                    )
            if self.misrouting and all(teacher.stage in serving for teacher in self.teachers):
                raise ValueError(
                    f"misrouting = {self.misrouting}: no teacher is left for prompts of {domain!r} to stray to: "
                    "it needs one that does not serve them"
                )
        return self


class Merge(Value):
    """Weights combined without training: their average, init + scale * sum of deltas, or TIES of the deltas.

    weights: per input, 1 each where absent (an average divides by their sum). density: share of each delta that
    TIES keeps.
    """

    kind: Literal["merge"] = "merge"
    name: Name
    init: str = BASE
    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    method: Literal["average", "task_arithmetic", "ties"] = "average"
    weights: tuple[Weight, ...] = ()
    scale: Weight = 1.0
    density: Annotated[float, Field(gt=0, le=1)] = 0.2

    @model_validator(mode="after")
    def _consistent(self) -> Merge:
        for name in self.inputs:
            if self.inputs.count(name) > 1:
                raise ValueError(f"input {name!r} is given twice: give it once, with a weight")
        if self.method == "average" and self.scale != 1:
            raise ValueError(f"scale = {self.scale}: an average has none: remove it or choose another method")
        if self.method != "ties" and self.density != type(self).model_fields["density"].default:
            raise ValueError(f"density = {self.density} is read by method 'ties' alone: remove it")
        if self.weights and len(self.weights) != len(self.inputs):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.inputs)} inputs: give one each or none"
            )
        return self


TrainedStage = Sft | Rl | Distill | RewardModel | Preference
SpendingStage = TrainedStage | RejectionSampling
AnyStage = SpendingStage | Merge
Stage = Annotated[AnyStage, Field(discriminator="kind")]


def parents(stage: AnyStage) -> tuple[str, ...]:
    """Names of the stages (or roots) that a stage reads, its own start first, each once."""
    return tuple(dict.fromkeys((stage.init, *(name for names in read(stage).values() for name in names))))


def needs(stage: AnyStage) -> tuple[str, ...]:
    """The stages that must have ended before this one starts."""
    return tuple(name for name in parents(stage) if name not in ROOTS)


def read(stage: AnyStage) -> dict[str, tuple[str, ...]]:
    """What a stage reads besides its start, by role: "teacher", "input", "data" or "reward"."""
    match stage:
        case Distill():
            return {"teacher": tuple(teacher.stage for teacher in stage.teachers)}
        case Merge():
            return {"input": stage.inputs}
        case Sft():
            return {"data": stage.data}
        case Rl() | RejectionSampling() | Preference():
            return {"reward": tuple(stage.reward_models.values())}
        case RewardModel():
            return {}
        case _:
            assert_never(stage)


def renamed(stage: AnyStage, names: Mapping[str, str]) -> AnyStage:
    """The stage under its new name, reading others under theirs; a name that is not given stays."""

    def new(name: str) -> str:
        return names.get(name, name)

    changes: dict[str, Any] = {"name": new(stage.name), "init": new(stage.init)}
    match stage:
        case Distill():
            changes["teachers"] = tuple(
                teacher.model_copy(update={"stage": new(teacher.stage)}) for teacher in stage.teachers
            )
        case Merge():
            changes["inputs"] = tuple(map(new, stage.inputs))
        case Sft():
            changes["data"] = tuple(map(new, stage.data))
        case Rl() | RejectionSampling() | Preference():
            changes["reward_models"] = {domain: new(judge) for domain, judge in stage.reward_models.items()}
        case RewardModel():
            pass
        case _:
            assert_never(stage)
    return stage.model_copy(update=changes)


def _named(teacher: Any, init: str) -> Any:
    """A teacher, "self" replaced by the stage that the student starts from."""
    if isinstance(teacher, Teacher):
        return teacher.model_copy(update={"stage": init}) if teacher.stage == SELF else teacher
    if isinstance(teacher, dict) and teacher.get("stage") == SELF:
        return {**teacher, "stage": init}
    return teacher
