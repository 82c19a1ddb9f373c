"""One optimiser step of a stage as sequences: how many, how long, how often scored, how long their
environment takes.

A batch of several domains is the mixture of theirs. A pass over some of the sequences is a fraction of a pass. Leaves
out: what it costs (`mopdsim.cost.stage_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from mopdsim.facts.domains import Domain
from mopdsim.recipes.stage import (
    Amounts,
    Distill,
    Preference,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    SpendingStage,
)

EVALUATION_ITEMS = 500  # per domain; prior
SIGNAL_SHARE = 0.75  # of rollouts, in groups of both rewards; prior: published runs threw up to .55 away


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's sequences: how many, how long, scored how often, at what environment. What tools write counts as
    prompt: it is read and not sampled.

    by_teacher: a teacher samples them. ahead: no update changes their sampler, so that they need not wait for each
    other. group: samples of one prompt; trained_group: those of them that are trained on (DPO's pair). valued: PPO.
    scoring_passes: forward passes over the sequences, of the policy's or teachers' size; teachers: distinct ones that
    score; resident_models: others held as weights beside the one that is trained.
    """

    sequences: float
    trained_sequences: float
    prompt_tokens: float
    response_tokens: float
    max_response_tokens: float
    log_spread: float
    environment_seconds: float
    scoring_passes: float = 0.0
    teachers: int = 0
    resident_models: int = 0
    generates: bool
    by_teacher: bool
    ahead: bool
    group: int
    trained_group: int
    prompt_shares: tuple[float, ...]
    valued: bool = False

    @property
    def sequence_tokens(self) -> float:
        return self.prompt_tokens + self.response_tokens

    @classmethod
    def of(
        cls,
        stage: SpendingStage,
        amounts: Amounts,
        domains: Mapping[str, Domain],
        *,
        overlapped: bool,
        response_tokens: float | None = None,
    ) -> Batch:
        """`response_tokens`: the stage's own mean length, where it is not its domains'."""
        total = sum(stage.domains.values())
        shares = tuple(share / total for share in stage.domains.values())
        rows = list(domains.values())

        def mean(values: list[float]) -> float:
            return sum(share * value for share, value in zip(shares, values, strict=True))

        lengths = [row.response_tokens.value for row in rows]
        logs = [math.log(length) for length in lengths]
        between = mean([(value - mean(logs)) ** 2 for value in logs])
        within = mean([row.length_sigma.value**2 for row in rows])
        waiting = [row.turns * row.environment_seconds.value for row in rows]
        longest = float(max(row.max_response_tokens for row in rows))
        length = mean(lengths) if response_tokens is None else response_tokens
        return cls(
            sequences=float(amounts.prompts_per_step * amounts.rollouts_per_prompt),
            prompt_tokens=mean([row.prompt_tokens.value + row.tool_tokens for row in rows]),
            response_tokens=length,
            max_response_tokens=longest if response_tokens is None else max(longest, 2 * length),
            log_spread=math.sqrt(between + within),
            environment_seconds=max(waiting) if _waits(stage) else 0.0,
            generates=not isinstance(stage, Sft),
            by_teacher=isinstance(stage, Distill) and not stage.on_policy,
            ahead=_ahead(stage),
            group=amounts.rollouts_per_prompt,
            trained_group=2 if isinstance(stage, Preference) else amounts.rollouts_per_prompt,
            prompt_shares=shares,
            valued=isinstance(stage, Rl) and stage.algorithm == "ppo",
            **_passes(stage, amounts, shares, overlapped=overlapped),
        )

    def longer(self) -> Batch:
        """The same with responses of twice the mean length."""
        length = 2 * self.response_tokens
        return replace(
            self, response_tokens=length, max_response_tokens=max(self.max_response_tokens, 2 * length)
        )


def _waits(stage: SpendingStage) -> bool:
    """Whether samples wait for an environment."""
    if isinstance(stage, Distill):
        return stage.on_policy or stage.correct_only
    return not isinstance(stage, Sft)


def _passes(
    stage: SpendingStage, amounts: Amounts, shares: Sequence[float], *, overlapped: bool
) -> dict[str, Any]:
    """Who scores and what is trained. A judge's models stay in memory beside the policy, and with them the reference;
    a reference alone and teachers are loaded when their turn comes. DPO scores its pairs by policy and reference."""
    prompts, rollouts = float(amounts.prompts_per_step), amounts.rollouts_per_prompt
    sequences = prompts * rollouts
    match stage:
        case Rl():
            return _reinforced(stage, prompts, sequences, shares, overlapped=overlapped)
        case Distill():
            serving = [len(stage.teachers_of(name)) for name in stage.domains]
            scored = sum(share * count for share, count in zip(shares, serving, strict=True))
            return {
                "trained_sequences": sequences,
                "scoring_passes": 0.0 if stage.loss == "sample_nll" else scored,
                "teachers": len(stage.teacher_names),
            }
        case Sft():
            return {"trained_sequences": sequences}
        case RewardModel():
            return {"trained_sequences": SIGNAL_SHARE * sequences}
        case RejectionSampling():
            judged = _judged(stage, shares)
            return {"trained_sequences": 0.0, "scoring_passes": judged, "resident_models": _judges(stage)}
        case Preference():
            pairs = 2 * prompts * _told_apart(stage, shares)
            return {
                "trained_sequences": pairs,
                "scoring_passes": _judged(stage, shares) + 2 * pairs / sequences,
                "resident_models": _judges(stage) + 1,
            }
        case _:
            assert_never(stage)


def _reinforced(
    stage: Rl, prompts: float, sequences: float, shares: Sequence[float], *, overlapped: bool
) -> dict[str, Any]:
    """RL: a reference, judges, and one pass for old log-probabilities, where samples grow stale, and PPO's values."""
    ppo = stage.algorithm == "ppo"
    trained = sequences * (_told_apart(stage, shares) if stage.zero_signal == "drop" and not ppo else 1.0)
    reference = stage.kl_coefficient > 0
    scored = float(ppo or stage.updates_per_batch > 1 or overlapped) + float(reference)
    judges = _judges(stage)
    return {
        "trained_sequences": trained + prompts * (stage.demonstration_mix > 0),
        "scoring_passes": scored + _judged(stage, shares),
        "resident_models": judges + (1 if judges and reference else 0),
    }


def _ahead(stage: SpendingStage) -> bool:
    """Whether a model that the stage does not change draws the samples."""
    match stage:
        case Distill() | Preference():
            return not stage.on_policy
        case RewardModel() | RejectionSampling():
            return True
        case Rl() | Sft():
            return False
        case _:
            assert_never(stage)


def _judges(stage: Rl | RejectionSampling | Preference) -> int:
    return len(set(stage.reward_models.values()))


def _told_apart(stage: Rl | Preference, shares: Sequence[float]) -> float:
    """Share of the prompts whose samples differ in their reward: all where a reward model judges."""
    judged = _judged(stage, shares)
    return judged + (1 - judged) * SIGNAL_SHARE


def _judged(stage: Rl | RejectionSampling | Preference, shares: Sequence[float]) -> float:
    """Share of the samples that a reward model scores."""
    return sum(
        share for name, share in zip(stage.domains, shares, strict=True) if name in stage.reward_models
    )


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """The sequences of one evaluation on every domain."""

    sequences: float
    prompt_tokens: float
    response_tokens: float
    max_response_tokens: float

    @classmethod
    def of(cls, domains: Mapping[str, Domain]) -> TestSet:
        rows = domains.values()
        return cls(
            sequences=float(EVALUATION_ITEMS * len(domains)),
            prompt_tokens=sum(row.prompt_tokens.value + row.tool_tokens for row in rows) / len(domains),
            response_tokens=sum(row.response_tokens.value for row in rows) / len(domains),
            max_response_tokens=float(max(row.max_response_tokens for row in rows)),
        )
