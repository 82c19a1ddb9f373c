"""Rows of a log as steps in our columns: merged, restarts undone, warm-up and evaluation told apart, units checked.

    one step       rows that follow each other with the same step are one (prime-rl writes several)
    restart        a step that is not after the last one: what was logged from it on is superseded, and counted
    warm-up        the first step of a run and after a restart, those after it above 1.5 times the median, at most 5;
                   a run of one step has none
    evaluation     a step whose seconds hold an evaluation or a checkpoint; its scores are kept, its seconds left out
    waits          never work: an asynchronous trainer's `generation` goes to wait_s

What each engine calls our columns stands in its key map. Units: seconds, tokens, tokens a second and GPU,
probabilities, nats. Several keys of a column are added (phases) or tried in order (everything else). Sources: verl
0.9.1 `trainer/ppo/metric_utils.py`; NeMo-RL 7ea279abf `algorithms/grpo.py`, `algorithms/utils.py`; TRL 1.16
`grpo_trainer.py`, `distillation_trainer.py`; tinker-cookbook 9dfcc3a2 `rl/metrics.py`, `rl/train.py`; prime-rl 559b4477
`trainer/rl/train.py`, `orchestrator/orchestrator.py`. Leaves out: the forecast (`mopdsim.exchange.importing`).
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mopdsim.base.errors import UsageError
from mopdsim.exchange.containers import Entry, Log


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


PHASES = ("generation_s", "old_logprob_s", "reference_s", "update_s", "reward_s", "sync_s")
MEASURES = ("prompt_tokens", "mean_tokens", "tokens_per_s_per_gpu", "step_tokens", "score", "kl", "entropy")
COLUMNS = ("step_s", *PHASES, "wait_s", *MEASURES)
WARM_ABOVE = 1.5
MOST_WARM = 5
LONGEST_STEP_S = 1e6
UNITS = 30.0  # tokens over rate x GPUs x seconds, either way, beyond which a unit is wrong
Kind = Literal["work", "warm-up", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One training step: its number, what kind of step its seconds are of, our columns."""

    step: int
    kind: Kind
    values: Mapping[str, float]


@dataclass(kw_only=True)
class Steps:
    """A run's steps in order. scores: by step, evaluation scores under the engine's keys. dropped: rows and values left
    out, by reason. asynchronous: whether the trainer waits for samples that others make."""

    engine: str
    steps: list[Step] = field(default_factory=list)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    asynchronous: bool = False

    @property
    def work(self) -> list[Step]:
        """The steps whose seconds are those of training alone; all where there is no other."""
        found = [step for step in self.steps if step.kind == "work"]
        return found or [step for step in self.steps if step.kind == "warm-up"]

    def median(self, column: str) -> float | None:
        """Of the working steps."""
        found = [step.values[column] for step in self.work if column in step.values]
        return statistics.median(found) if found else None


def steps_of(
    logs: Sequence[Log], *, engine: str = "auto", gpus: int | None = None, asynchronous: bool = False
) -> Steps:
    """The steps of one run's logs. UsageError where no row has step seconds, or the keys are of no engine."""
    where = logs[0].path if len(logs) == 1 else f"{logs[0].path} and {len(logs) - 1} more"
    rows = [entry for log in logs for entry in log.entries]
    own = engine_of((row.values for row in rows), where) if engine == "auto" else KEY_MAPS[engine]
    found = Steps(engine=own.engine)
    for log in logs:
        found.dropped.update(log.dropped)
    merged, starts = _merged(_own_rows(_numbered(rows, own), own, found.dropped), own, found.dropped)
    found.asynchronous = asynchronous or any(
        key.startswith(own.asynchronous) for row in merged.values() for key in row if own.asynchronous
    )
    before: tuple[int, float] | None = None
    for number, row in sorted(merged.items()):
        scores = {
            key: value for key, value in row.items() if own.evaluation and key.startswith(own.evaluation)
        }
        if scores:
            found.scores[number] = scores
        values = _values(row, own, found)
        if own.total_tokens in row:
            total = row[own.total_tokens]
            if before is not None and number > before[0] and total > before[1] and "step_s" in values:
                values["step_tokens"] = (total - before[1]) / (number - before[0])
            before = (number, total)
        if "step_s" not in values:
            if not scores and not any(key in row for key in own.step):
                found.dropped["row without step seconds"] += 1
            continue
        if gpus and "step_tokens" in values and "tokens_per_s_per_gpu" not in values:
            values["tokens_per_s_per_gpu"] = values["step_tokens"] / values["step_s"] / gpus
        mixed = any(key in row for key in own.not_training)
        found.steps.append(Step(step=number, kind="evaluation" if mixed else "work", values=values))
    if not found.steps:
        raise UsageError(
            f"{where}: no row has the seconds of a step ({' or '.join(own.step)} in {own.engine}'s logs): log them and "
            f"import again"
        )
    found.steps = _warmed(found.steps, starts)
    return found


def _numbered(rows: Sequence[Entry], own: KeyMap) -> Iterator[Entry]:
    """Rows with a step each: where the log counts none, a row with step seconds begins the next."""
    counted = 0
    for row in rows:
        if row.step is not None:
            yield row
            continue
        counted += any(key in row.values for key in own.step)
        yield Entry(step=counted, values=row.values)


def _own_rows(rows: Iterator[Entry], own: KeyMap, dropped: Counter[str]) -> Iterator[Entry]:
    """The rows in this engine's keys."""
    for row in rows:
        mine = speaks(own, row.values) or any(
            key in row.values for keys in own.firsts.values() for key in keys
        )
        if mine:
            yield row
            continue
        others = [name for name, other in KEY_MAPS.items() if other is not own and speaks(other, row.values)]
        dropped[f"row of another engine ({others[0]})" if others else "row without a known key"] += 1


def _merged(
    rows: Iterator[Entry], own: KeyMap, dropped: Counter[str]
) -> tuple[dict[int, dict[str, float]], set[int]]:
    """One row a step, and the steps at which a run began."""
    found: dict[int, dict[str, float]] = {}
    starts: set[int] = set()
    last: int | None = None
    for row in rows:
        assert row.step is not None
        if last is None:
            starts.add(row.step)
        elif row.step == last:
            _join(found[last], row.values, own, dropped)
            continue
        elif row.step < last:
            lost = [number for number in found if number >= row.step]
            dropped["step logged again after a restart"] += len(lost)
            for number in lost:
                del found[number]
            starts.add(row.step)
        found[row.step] = dict(row.values)
        last = row.step
    return found, starts


def _join(into: dict[str, float], row: Mapping[str, float], own: KeyMap, dropped: Counter[str]) -> None:
    """Puts a row to those of its step. Where they disagree the owner's stands, or else the later."""
    owned = bool(own.owner) and own.owner in into
    for key, value in row.items():
        if key in into and into[key] != value:
            if own.owner and own.owner not in row and not owned:
                dropped["value logged twice in a step"] += 1
            elif not own.owner and key in own.step:
                dropped["step logged twice"] += 1
            if owned and own.owner not in row:
                continue
        into[key] = value


def _values(row: Mapping[str, float], own: KeyMap, found: Steps) -> dict[str, float]:
    """Our columns of a row; what is out of range is counted and left out."""
    values: dict[str, float] = {}
    step_s = next((row[key] for key in own.step if key in row), None)
    if step_s is not None:
        if 0 < step_s <= LONGEST_STEP_S:
            values["step_s"] = step_s
        else:
            found.dropped["step seconds of zero, below it or above a million"] += 1
    phases = {}
    for column, keys in own.phases.items():
        present = [row[key] for key in keys if key in row]
        if present and min(present) >= 0:
            phases[column] = sum(present)
        elif present:
            found.dropped["phase seconds below zero"] += 1
    waits = [row[key] for key in own.waits if key in row]
    if found.asynchronous and "generation_s" in phases and not waits:
        waits = [phases.pop("generation_s")]
    elif found.asynchronous and waits:
        phases.pop("generation_s", None)
    if waits:
        values["wait_s"] = sum(waits)
    if "step_s" in values and sum(phases.values()) > 1.1 * values["step_s"]:
        found.dropped["phases longer than their step"] += 1
        phases = {}
    values |= phases
    for column, keys in own.firsts.items():
        value = next((row[key] for key in keys if key in row), None)
        if value is None:
            continue
        if column.endswith(("tokens", "per_gpu")) and value <= 0:
            found.dropped[f"{column} of zero or below"] += 1
        else:
            values[column] = value
    return values


def _warmed(steps: list[Step], starts: set[int]) -> list[Step]:
    """The same steps, those of the start of a run called warm-up."""
    usual = statistics.median(step.values["step_s"] for step in steps)
    found, left = [], 0
    for place, step in enumerate(steps):
        first = place == 0 or step.step in starts
        left = MOST_WARM if first else left
        warm = len(steps) > 1 and left > 0 and (first or step.values["step_s"] > WARM_ABOVE * usual)
        left = left - 1 if warm else 0
        kind: Kind = "warm-up" if warm and step.kind == "work" else step.kind
        found.append(Step(step=step.step, kind=kind, values=step.values))
    return found


def check_units(found: Steps, *, gpus: float, samples: float, max_tokens: float, where: str) -> None:
    """UsageError where lengths, samples, GPUs, rate and seconds contradict each other by the size of a unit."""
    mean, rate, seconds = (found.median(name) for name in ("mean_tokens", "tokens_per_s_per_gpu", "step_s"))
    if mean is not None and mean > 1.02 * max_tokens:
        raise UsageError(
            f"{where}: mean response of {mean:,.0f} tokens, but at most {max_tokens:,.0f} are allowed: the log is of "
            f"another recipe, or the length is in characters"
        )
    if mean is None or rate is None or seconds is None or not gpus:
        return
    made = samples * (mean + (found.median("prompt_tokens") or 0.0))
    ratio = made / (rate * gpus * seconds)
    if not 1 / UNITS < ratio < UNITS:
        raise UsageError(
            f"{where}: {made:,.0f} tokens a step, but {rate:,.4g} a second and GPU on {gpus:,.0f} GPUs for "
            f"{seconds:,.4g} s make {rate * gpus * seconds:,.4g}: a unit is wrong (milliseconds for seconds?) or the "
            f"manifest is another's"
        )
