"""What one stage of a recipe costs: its sequences, tokens, FLOPs, memory and seconds at central values, from domains
and amounts.

A batch of several domains is the mixture of theirs: it has the mean length and the wider spread, and waits for the
slowest environment. A pass over some of the sequences is a fraction of a pass.
Axes: none (central values); in `seconds_after` C stage, N draw.
Leaves out: a step's seconds (`mopdsim.cost.stage_seconds`), failures, reruns and waiting for GPUs
(`mopdsim.forecast.schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.cost.constants import Fitted, shipped
from mopdsim.cost.stage_seconds import (
    Batch,
    Machine,
    Phase,
    TestSet,
    evaluation_seconds,
    forward,
    step_flops,
    step_seconds,
    time_together,
)
from mopdsim.cost.training import stored_bytes
from mopdsim.facts.domains import P90, Domain
from mopdsim.recipes import stage as kinds

EVALUATIONS = 5  # per stage; prior
MERGE_SECONDS = 600.0  # prior: read the inputs, write the result
EVALUATION_ITEMS = 500  # per domain; prior
SIGNAL_SHARE = 0.75  # of rollouts, in groups of both rewards; prior: published runs threw up to .55 away


@dataclass(frozen=True, kw_only=True)
class Bill:
    """A stage's cost at central values.

    batch: what a step is (None of a merge). tokens: generated, scored by other passes, trained, and the response
    tokens that carry gradient. flops: model FLOPs by phase, evaluation apart, and with it
    the answers that normalise a reward model. seconds: by phase, over all steps; once_seconds: of those, what does not
    grow with steps. longer_seconds: at twice the mean length. stored_bytes: of a
    checkpoint.
    log_sd: of the time model's error.
    """

    name: str
    gpus: int
    batch: Batch | None
    steps: int
    generated_tokens: float = 0.0
    scored_tokens: float = 0.0
    trained_tokens: float = 0.0
    gradient_tokens: float = 0.0
    flops: Mapping[Phase, float]
    seconds: Mapping[Phase, float]
    mean_length: float
    longer_seconds: float
    once_seconds: float
    log_sd: float
    grade: str
    layout: str
    memory_bytes: float = 0.0
    stored_bytes: float
    shares: Mapping[str, float]

    @property
    def training_run_flops(self) -> float:
        """FLOPs of sampling, scoring and gradient; evaluation is not counted, as in a run's `max_flops`."""
        return sum(value for phase, value in self.flops.items() if phase != "evaluation")

    @property
    def step_flops(self) -> float:
        """`training_run_flops` of one step."""
        return self.training_run_flops / self.steps

    @property
    def pace(self) -> tuple[float, float, float, float]:
        """What `seconds_after` grows from: `once_seconds`, seconds of a step, those at twice the length, `log_sd`."""
        once, total = self.once_seconds, sum(self.seconds.values())
        return once, (total - once) / self.steps, (self.longer_seconds - once) / self.steps, self.log_sd

    def step_seconds_at(self, relative_length_N: Array, noise_N: Array) -> Array:
        """Seconds of one step by draw, without evaluation."""
        share = 1 - self.once_seconds / sum(self.seconds.values())
        (seconds_N,) = seconds_after([self], [self.steps], relative_length_N, noise_N)
        return seconds_N * share / self.steps


def seconds_after(
    bills: Sequence[Bill],
    steps_C: Sequence[int],
    relative_length_CN: Array,
    noise_N: Array,
    relative_amount_CN: Array | float = 1.0,
) -> Array:
    """Seconds of stages, one a bill, each after so many steps, (C, N).

    From the mean length relative to the central one, a standard normal of the time model's error, and what steps
    spend relative to the bill's amounts. Seconds grow with a power of the length: the one that twice the length
    shows.
    """
    once_C1, step_C1, longer_step_C1, log_sd_C1 = np.array([found.pace for found in bills]).T[..., None]
    steps_C1 = np.asarray(steps_C, dtype=float)[:, None]
    growing_C1 = steps_C1 * step_C1
    power_C1 = np.log2((once_C1 + steps_C1 * longer_step_C1) / (once_C1 + growing_C1))
    grown_CN = np.exp(power_C1 * np.log(relative_length_CN) + log_sd_C1 * noise_N)
    return np.asarray((once_C1 + growing_C1 * relative_amount_CN) * grown_CN)


def bill(
    stage: kinds.AnyStage,
    amounts: kinds.Amounts | None,
    domains: Mapping[str, Domain],
    machine: Machine,
    *,
    gpus: int,
    response_tokens: float | None = None,
) -> Bill:
    """The cost of a stage on `gpus` GPUs. InfeasibleError where the model fits no layout on them.

    response_tokens: the stage's own mean length, where it is not its domains'.
    """
    if isinstance(stage, kinds.Merge) or amounts is None:
        return _merge(stage, machine)
    overlapped = machine.overlap != "synchronous"
    batch = batch_of(stage, amounts, domains, overlapped=overlapped, response_tokens=response_tokens)
    seconds, layout, memory = step_seconds(batch, machine, gpus)
    longer, _, _ = step_seconds(batch.longer(), machine, gpus)
    tested, evaluation = _evaluation(stage, domains, machine, gpus)
    responses = batch.sequences * batch.response_tokens * batch.generates
    flops = step_flops(batch, machine)
    steps = steps_within(amounts, sum(flops.values()))
    fitted = (
        None
        if machine.gpu.is_cpu
        else shipped()["train_throughput" if isinstance(stage, kinds.Sft) else "rl_steps"]
    )
    return Bill(
        name=stage.name,
        gpus=gpus,
        batch=batch,
        steps=steps,
        generated_tokens=steps * responses,
        scored_tokens=steps * batch.sequences * batch.sequence_tokens * batch.scoring_passes,
        trained_tokens=steps * batch.trained_sequences * batch.sequence_tokens,
        gradient_tokens=steps * batch.trained_sequences * batch.response_tokens,
        flops={**{phase: steps * value for phase, value in flops.items()}, "evaluation": tested},
        seconds={**{phase: steps * value for phase, value in seconds.items()}, "evaluation": evaluation},
        mean_length=batch.response_tokens,
        longer_seconds=steps * sum(longer.values()) + evaluation,
        once_seconds=evaluation,
        log_sd=_log_sd(fitted, machine),
        grade="prior" if fitted is None else fitted.grade,
        layout=layout,
        memory_bytes=memory,
        stored_bytes=stored_bytes(machine.model, lora=machine.lora) * bool(batch.trained_sequences),
        shares=dict(zip(stage.domains, batch.prompt_shares, strict=True)),
    )


def bill_together(
    stages: Sequence[tuple[kinds.SpendingStage, kinds.Amounts, float | None]],
    domains: Mapping[str, Domain],
    machine: Machine,
    *,
    gpus: int,
) -> None:
    """Works out the steps of many stages side by side, so that `bill` of each is fast. stages: each with its amounts
    and its own mean length, if it has one."""
    overlapped = machine.overlap != "synchronous"
    batches = [
        batch_of(stage, amounts, domains, overlapped=overlapped, response_tokens=length)
        for stage, amounts, length in stages
    ]
    time_together([*batches, *(batch.longer() for batch in batches)], machine, gpus)


def _evaluation(
    stage: kinds.AnyStage, domains: Mapping[str, Domain], machine: Machine, gpus: int
) -> tuple[float, float]:
    """FLOPs and seconds of a stage's tests: a dataset has none, and a reward model is tested once, at its end, after
    fresh answers of its own domains were sampled and read to normalise its scores. On a GPU reading them takes no time
    beside sampling them."""
    if isinstance(stage, kinds.RejectionSampling):
        return 0.0, 0.0
    tests = 1 if isinstance(stage, kinds.RewardModel | kinds.Sft) else EVALUATIONS
    tests = tests if machine.evaluations is None else machine.evaluations
    flops = seconds = 0.0
    if tests:
        test = test_set(domains)
        flops = tests * _test_flops(test, machine)
        seconds = tests * evaluation_seconds(test, machine, gpus)
    if isinstance(stage, kinds.RewardModel):
        own = test_set({name: domains[name] for name in stage.domains})
        fresh = replace(own, sequences=float(kinds.NORMALISING_ANSWERS))
        flops += 2 * _test_flops(fresh, machine)
        seconds += (2 if machine.gpu.is_cpu else 1) * evaluation_seconds(fresh, machine, gpus)
    return flops, seconds


def _test_flops(test: TestSet, machine: Machine) -> float:
    return forward(machine.model, test.prompt_tokens + test.response_tokens) * test.sequences


def _merge(stage: kinds.AnyStage, machine: Machine) -> Bill:
    seconds = MERGE_SECONDS * (0.001 if machine.gpu.is_cpu else 1.0)
    return Bill(
        name=stage.name,
        gpus=1,
        batch=None,
        steps=1,
        flops={},
        seconds={"fixed": seconds},
        mean_length=1.0,
        longer_seconds=seconds,
        once_seconds=seconds,
        log_sd=0.5,
        grade="prior",
        layout="host memory",
        stored_bytes=stored_bytes(machine.model),
        shares={},
    )


def _log_sd(fitted: Fitted | None, machine: Machine) -> float:
    """Standard deviation of the time model's log error, the stack's spread included; a factor of 2 on a CPU, since
    the two processors that were timed differ by 1.9."""
    if fitted is None:
        return math.log(2.0)
    width = fitted.half_width(moe=machine.model.is_moe, model=machine.model.name, gpu=machine.gpu.name)
    return math.hypot(width / P90, machine.stack.log_sd)


def steps_within(amounts: kinds.Amounts, flops_per_step: float) -> int:
    """Steps until the stage ends: its own number, or the step that reaches its ceiling of FLOPs."""
    if amounts.max_flops is None:
        return amounts.steps
    return max(1, min(amounts.steps, math.ceil(amounts.max_flops / flops_per_step)))


def batch_of(
    stage: kinds.SpendingStage,
    amounts: kinds.Amounts,
    domains: Mapping[str, Domain],
    *,
    overlapped: bool,
    response_tokens: float | None = None,
) -> Batch:
    """One step of a stage. `response_tokens`: the stage's own mean length, where it is not its domains'."""
    total = sum(stage.domains.values())
    shares = tuple(share / total for share in stage.domains.values())
    rows = [domains[name] for name in stage.domains]

    def mean(values: list[float]) -> float:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    lengths = [row.response_tokens.value for row in rows]
    logs = [math.log(length) for length in lengths]
    between = mean([(value - mean(logs)) ** 2 for value in logs])
    within = mean([row.length_sigma.value**2 for row in rows])
    waiting = [row.turns * row.environment_seconds.value for row in rows]
    longest = float(max(row.max_response_tokens for row in rows))
    length = mean(lengths) if response_tokens is None else response_tokens
    return Batch(
        sequences=float(amounts.prompts_per_step * amounts.rollouts_per_prompt),
        prompt_tokens=mean([row.prompt_tokens.value + row.tool_tokens for row in rows]),
        response_tokens=length,
        max_response_tokens=longest if response_tokens is None else max(longest, 2 * length),
        log_spread=math.sqrt(between + within),
        environment_seconds=max(waiting) if _waits(stage) else 0.0,
        generates=not isinstance(stage, kinds.Sft),
        by_teacher=isinstance(stage, kinds.Distill) and not stage.on_policy,
        ahead=_ahead(stage),
        group=amounts.rollouts_per_prompt,
        trained_group=2 if isinstance(stage, kinds.Preference) else amounts.rollouts_per_prompt,
        prompt_shares=shares,
        valued=isinstance(stage, kinds.Rl) and stage.algorithm == "ppo",
        **_passes(stage, amounts, shares, overlapped=overlapped),
    )


def _waits(stage: kinds.SpendingStage) -> bool:
    """Whether samples wait for an environment."""
    if isinstance(stage, kinds.Distill):
        return stage.on_policy or stage.correct_only
    return not isinstance(stage, kinds.Sft)


def _passes(
    stage: kinds.SpendingStage, amounts: kinds.Amounts, shares: Sequence[float], *, overlapped: bool
) -> dict[str, Any]:
    """Who scores and what is trained. A judge's models stay in memory beside the policy, and with them the reference;
    a reference alone and teachers are loaded when their turn comes. DPO scores its pairs by policy and reference."""
    prompts, rollouts = float(amounts.prompts_per_step), amounts.rollouts_per_prompt
    sequences = prompts * rollouts
    match stage:
        case kinds.Rl():
            return _reinforced(stage, prompts, sequences, shares, overlapped=overlapped)
        case kinds.Distill():
            serving = [len(stage.teachers_of(name)) for name in stage.domains]
            scored = sum(share * count for share, count in zip(shares, serving, strict=True))
            return {
                "trained_sequences": sequences,
                "scoring_passes": 0.0 if stage.loss == "sample_nll" else scored,
                "teachers": len(stage.teacher_names),
            }
        case kinds.Sft():
            return {"trained_sequences": sequences}
        case kinds.RewardModel():
            return {"trained_sequences": SIGNAL_SHARE * sequences}
        case kinds.RejectionSampling():
            judged = _judged(stage, shares)
            return {"trained_sequences": 0.0, "scoring_passes": judged, "resident_models": _judges(stage)}
        case kinds.Preference():
            pairs = 2 * prompts * _told_apart(stage, shares)
            return {
                "trained_sequences": pairs,
                "scoring_passes": _judged(stage, shares) + 2 * pairs / sequences,
                "resident_models": _judges(stage) + 1,
            }
        case _:
            assert_never(stage)


def _reinforced(
    stage: kinds.Rl, prompts: float, sequences: float, shares: Sequence[float], *, overlapped: bool
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


def _ahead(stage: kinds.SpendingStage) -> bool:
    """Whether a model that the stage does not change draws the samples."""
    match stage:
        case kinds.Distill() | kinds.Preference():
            return not stage.on_policy
        case kinds.RewardModel() | kinds.RejectionSampling():
            return True
        case kinds.Rl() | kinds.Sft():
            return False
        case _:
            assert_never(stage)


def _judges(stage: kinds.Rl | kinds.RejectionSampling | kinds.Preference) -> int:
    return len(set(stage.reward_models.values()))


def _told_apart(stage: kinds.Rl | kinds.Preference, shares: Sequence[float]) -> float:
    """Share of the prompts whose samples differ in their reward: all where a reward model judges."""
    judged = _judged(stage, shares)
    return judged + (1 - judged) * SIGNAL_SHARE


def _judged(stage: kinds.Rl | kinds.RejectionSampling | kinds.Preference, shares: Sequence[float]) -> float:
    """Share of the samples that a reward model scores."""
    return sum(
        share for name, share in zip(stage.domains, shares, strict=True) if name in stage.reward_models
    )


def test_set(domains: Mapping[str, Domain]) -> TestSet:
    """The sequences of one evaluation on these domains."""
    rows = domains.values()
    return TestSet(
        sequences=float(EVALUATION_ITEMS * len(domains)),
        prompt_tokens=sum(row.prompt_tokens.value + row.tool_tokens for row in rows) / len(domains),
        response_tokens=sum(row.response_tokens.value for row in rows) / len(domains),
        max_response_tokens=float(max(row.max_response_tokens for row in rows)),
    )
