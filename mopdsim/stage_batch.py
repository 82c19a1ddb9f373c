"""One optimiser step of a stage as sequences: how many, how long, how often scored, how long their
environment takes.

A batch of several domains is the mixture of theirs. Leaves out: what it costs (`mopdsim.stage_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from mopdsim.amounts import Amounts
from mopdsim.domains import Domain
from mopdsim.recipe import Distill, Rl, Sft

EVALUATION_ITEMS = 500  # per domain; prior
SIGNAL_SHARE = 0.75  # of rollouts, in groups of both rewards; prior: published runs threw up to .55 away


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's sequences: how many, how long, scored how often, at what environment."""

    sequences: float
    trained_sequences: float
    prompt_tokens: float
    response_tokens: float
    max_response_tokens: float
    log_spread: float
    environment_seconds: float
    scoring_passes: float
    teachers: int
    generates: bool
    prompt_shares: tuple[float, ...]

    @property
    def sequence_tokens(self) -> float:
        return self.prompt_tokens + self.response_tokens

    @classmethod
    def of(
        cls, stage: Rl | Sft | Distill, amounts: Amounts, domains: Mapping[str, Domain], *, overlapped: bool
    ) -> Batch:
        total = sum(stage.domains.values())
        shares = tuple(share / total for share in stage.domains.values())
        rows = list(domains.values())

        def mean(values: list[float]) -> float:
            return sum(share * value for share, value in zip(shares, values, strict=True))

        lengths = [row.response_tokens.value for row in rows]
        logs = [math.log(length) for length in lengths]
        between = mean([(value - mean(logs)) ** 2 for value in logs])
        within = mean([row.length_sigma.value**2 for row in rows])
        sequences = float(amounts.prompts_per_step * amounts.rollouts_per_prompt)
        trained, passes, teachers, waits = sequences, 0.0, 0, False
        match stage:
            case Rl():
                trained = sequences * (SIGNAL_SHARE if stage.zero_signal == "drop" else 1.0)
                passes = float(stage.updates_per_batch > 1 or overlapped)
                passes += float(stage.kl_coefficient > 0)
                waits = True
            case Distill():
                serving = [
                    sum(name in teacher.domains for teacher in stage.teachers) for name in stage.domains
                ]
                passes = 0.0 if stage.loss == "sample_nll" else mean([float(count) for count in serving])
                teachers = len({teacher.stage for teacher in stage.teachers})
                waits = stage.on_policy or stage.correct_only
            case Sft():
                pass
            case _:
                assert_never(stage)
        waiting = [row.turns * row.environment_seconds.value for row in rows]
        return cls(
            sequences=sequences,
            trained_sequences=trained,
            prompt_tokens=mean([row.prompt_tokens.value for row in rows]),
            response_tokens=mean(lengths),
            max_response_tokens=float(max(row.max_response_tokens for row in rows)),
            log_spread=math.sqrt(between + within),
            environment_seconds=max(waiting) if waits else 0.0,
            scoring_passes=passes,
            teachers=teachers,
            generates=not isinstance(stage, Sft),
            prompt_shares=shares,
        )

    def longer(self) -> Batch:
        """The same with responses of twice the mean length."""
        length = 2 * self.response_tokens
        return replace(
            self, response_tokens=length, max_response_tokens=max(self.max_response_tokens, 2 * length)
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
            prompt_tokens=sum(row.prompt_tokens.value for row in rows) / len(domains),
            response_tokens=sum(row.response_tokens.value for row in rows) / len(domains),
            max_response_tokens=float(max(row.max_response_tokens for row in rows)),
        )
