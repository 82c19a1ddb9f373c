"""trace_fresh: does `mopd trace` name the teacher that planted a habit?

The worlds are those of `studies.designs.trace.world`, the answers those of `studies.designs.trace.answers`. Verdicts
are worked out here, by the rule that `mopd trace` uses. A *positive* is an answer of an indirect planted student, or of
a rewarded one, on which the effect of planting is `LEAST_EFFECT` at least: under the twin its odds are half as good at
most. Figures are of runs that are held out.

`trace` judged a rule that drew tokens again, `trace_again` one by probabilities that did not look at the student. Both
rules are gone, and so both studies are retired: the rule of today was found on their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.designs.trace.answers import measure
from studies.designs.trace.world import INDIRECT, MERGED, PLANTED, TEACHERS, WORLDS, design, twin
from studies.framework.analysis import Analysis, Chart, Quantity, Table, bootstrap
from studies.framework.study import Study, predicted

if TYPE_CHECKING:
    from studies.framework.observe import Observations
    from trainer.trace.verdict import Verdict

LEAST_EFFECT = float(np.log(2))  # nats on the odds
POWER = 0.8
BINS = (-np.inf, 0.0, 0.35, 0.7, 1.0, 1.5, 2.0, 3.0, np.inf)  # of effects, in nats
BASELINES = ("routed", "log_prob", "nearness")
SCORES = ("share", *BASELINES)
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Student:
    """One student's answers U: the effect of what was planted on each, whether that is a positive, and whether the
    verdict names what was planted (a teacher, the start or the reward), some teacher (accused) or nothing. named,
    accused: of the verdict over all answers, one element. scores: by name of `SCORES`, of the positives: the planted
    teacher's, and the other teachers'."""

    condition: str
    planted: bool
    held_out: bool
    effect_U: Floats
    verdict_U: NDArray[np.str_]
    positive_U: Flags
    named_U: Flags
    accused_U: Flags
    named: Flags
    accused: Flags
    scores: Mapping[str, tuple[Floats, Floats]]

    @property
    def undecided_U(self) -> Flags:
        return np.asarray(self.verdict_U == "undecided")


def students(found: Observations) -> list[Student]:
    """Of every finished run that has answers with the habit."""
    if found.measured.empty:
        return []
    return [
        _student(rows, found.finished[str(name)]) for name, rows in found.measured.groupby("run", sort=False)
    ]


def _student(rows: pd.DataFrame, about: Mapping[str, Any]) -> Student:
    factors = about["factors"]
    condition, habit = str(factors["condition"]), int(factors["habit"])
    judge = partial(judged, rewarded=condition == "reward")
    verdicts, effects, pairs = [], [], []
    teachers: tuple[str, ...] = ()
    for place, (_, own) in enumerate(rows.groupby("place")):
        found = judge(own)
        verdicts.append(found.verdict)
        effects.append(float(own.effect.iloc[0]))
        read = own[own.role == "teacher"]
        teachers = tuple(map(str, read.model))
        pairs += [
            {
                "answer": place,
                "teacher": str(row.model),
                "share": found.shares[str(row.model)].share,
                "routed": float(str(row.routed)),
                "log_prob": _numbers(str(row.logprobs)).sum(),
                "nearness": -float(str(row.distance)),
            }
            for row in read.itertuples()
        ]
    guilty = "" if not habit else TEACHERS[habit - 1] if condition in INDIRECT else condition
    verdict_U, whole, effect_U = np.array(verdicts), np.array([judge(rows).verdict]), np.array(effects)
    positive_U = (effect_U >= LEAST_EFFECT) & bool(habit) & (condition in PLANTED)
    table = pd.DataFrame(pairs)
    bearing, planted = positive_U[table.answer.to_numpy()], (table.teacher == guilty).to_numpy()
    values = {name: table[name].to_numpy(dtype=float) for name in SCORES}
    return Student(
        condition=condition,
        planted=bool(habit),
        held_out=bool(about["held_out"]),
        effect_U=effect_U,
        verdict_U=verdict_U,
        positive_U=positive_U,
        named_U=verdict_U == guilty,
        accused_U=np.isin(verdict_U, teachers),
        named=whole == guilty,
        accused=np.isin(whole, teachers),
        scores={name: (own[bearing & planted], own[bearing & ~planted]) for name, own in values.items()},
    )


def judged(rows: pd.DataFrame, *, rewarded: bool) -> Verdict:
    """The verdict on answers of one student, one or several. rows: one for each answer and model."""
    from trainer.trace.verdict import judge

    (student,), (start,) = (rows.model[rows.role == role].unique() for role in ("student", "start"))
    teachers = [str(name) for name in rows.model[rows.role == "teacher"].unique()]
    sums = rows.logprobs.map(lambda text: _numbers(str(text)).sum())
    wide = rows.assign(logprob=sums).pivot(index="place", columns="model", values="logprob")
    paid_U = [str(paid) != "False" for paid in rows.groupby("place").paid.first()] if rewarded else None
    return judge(teachers, wide[[student, start, *teachers]].to_numpy(dtype=float), paid_U=paid_U)


def _numbers(text: str) -> Floats:
    return np.array(text.split(), dtype=float)


def analyse(found: Observations) -> Analysis:
    """Figures of the held-out students; the same of the others stand in a table."""
    every = students(found)
    parts = {
        "held out": [s for s in every if s.held_out],
        "development": [s for s in every if not s.held_out],
    }
    rng = np.random.default_rng(0)

    def over(own: Sequence[Student], statistic: Callable[[Sequence[Student]], float]) -> Quantity | None:
        return bootstrap(own, statistic, rng) if len(own) > 1 else None

    figures: dict[str, dict[str, Quantity | None]] = {}
    for part, own in parts.items():
        positive = _bearing(own)
        rewarded = [s for s in own if s.condition == "reward" and s.positive_U.any()]
        clean = [s for s in own if not s.planted]
        figures[part] = {
            "auc": over(positive, partial(auc, score="share")),
            "auc_lead": over(positive, _lead),
            **{f"auc_{name}": over(positive, partial(auc, score=name)) for name in BASELINES},
            "clean_cleared": over(clean, lambda drawn: _rate([~s.accused_U for s in drawn])),
            "abstained": over(positive, lambda drawn: _rate([s.undecided_U[s.positive_U] for s in drawn])),
            "named": over(positive, _named),
            "unmerged_named": over([s for s in positive if s.condition not in MERGED], _named),
            "start_named": over(
                [s for s in own if s.condition == "start"], lambda drawn: _rate([s.named_U for s in drawn])
            ),
            "reward_named": over(rewarded, _named),
            "students_cleared": over(clean, lambda drawn: _rate([~s.accused for s in drawn])),
            "students_named": over(positive, lambda drawn: _rate([s.named for s in drawn])),
        }
    quantities = {name: value for name, value in figures["held out"].items() if value is not None}
    table = pd.DataFrame(
        [
            {"figure": name, **{part: "" if q[name] is None else str(q[name]) for part, q in figures.items()}}
            for name in next(iter(figures.values()))
        ]
    )
    power = _power(parts["held out"])
    return Analysis(
        quantities=quantities,
        findings=_findings(parts["held out"], power),
        tables=(
            Table(title="Figures, with 80% intervals over students", frame=table),
            Table(title="By condition, held-out students", frame=_by_condition(parts["held out"])),
            Table(title="How often the planted teacher is named, by its effect on the odds", frame=power),
        ),
        charts=(
            Chart(
                name="power", title="Share of answers whose verdict is the planted teacher, by its effect in nats",
                frame=power, x="mean effect", y="named", mark="line",
            ),
        ),
        limits=(
            "Answers of four to six tokens, by models with 0.17 M parameters.",
            "One teacher is planted at a time, by demonstrations; real habits come from rewards and data.",
            "An effect is that of one pair of distillations; no second seed says how far it scatters.",
        ),
    )  # fmt: skip


def auc(drawn: Sequence[Student], score: str) -> float:
    """The chance that the planted teacher of a positive scores above another teacher of a positive; ties count half."""
    planted = np.concatenate([s.scores[score][0] for s in drawn])
    others = np.sort(np.concatenate([s.scores[score][1] for s in drawn]))
    if not len(planted) or not len(others):
        return float("nan")
    below = np.searchsorted(others, planted, "left") + np.searchsorted(others, planted, "right")
    return float(below.mean() / 2 / len(others))


def _lead(drawn: Sequence[Student]) -> float:
    """Of the share's area over that of the best baseline."""
    return auc(drawn, "share") - max(auc(drawn, name) for name in BASELINES)


def _rate(flags: Sequence[Flags]) -> float:
    return float(np.hstack(flags).mean())


def _named(drawn: Sequence[Student]) -> float:
    """Of positives."""
    return _rate([s.named_U[s.positive_U] for s in drawn])


def _bearing(own: Sequence[Student]) -> list[Student]:
    """Those of a planted teacher that have positives."""
    return [s for s in own if s.condition in INDIRECT and s.positive_U.any()]


def _power(own: Sequence[Student]) -> pd.DataFrame:
    """Of the indirect planted students, by the planted teacher's effect."""
    chosen = [s for s in own if s.planted and s.condition in INDIRECT]
    columns = ["effect", "mean effect", "answers", "named", "undecided"]
    if not chosen:
        return pd.DataFrame(columns=columns)
    effect_U, named_U, undecided_U = (
        np.concatenate([getattr(s, name) for s in chosen]) for name in ("effect_U", "named_U", "undecided_U")
    )
    rows = []
    for low, high in pairwise(BINS):
        within = (effect_U >= low) & (effect_U < high)
        if within.any():
            told = [float(value[within].mean()) for value in (effect_U, named_U, undecided_U)]
            rows.append((_span(low, high), told[0], int(within.sum()), told[1], told[2]))
    return pd.DataFrame(rows, columns=columns)


def _span(low: float, high: float) -> str:
    """A bin in words, open at either end."""
    if low == -np.inf:
        return f"below {high:g}"
    return f"{low:g} or more" if high == np.inf else f"{low:g} to {high:g}"


def _by_condition(own: Sequence[Student]) -> pd.DataFrame:
    rows = []
    for condition, planted in dict.fromkeys((s.condition, s.planted) for s in own):
        chosen = [s for s in own if (s.condition, s.planted) == (condition, planted)]
        verdict_U, named_U, accused_U, effect_U, positive_U = (
            np.concatenate([getattr(s, name) for s in chosen])
            for name in ("verdict_U", "named_U", "accused_U", "effect_U", "positive_U")
        )
        measured = planted and not np.isnan(effect_U).all()
        rows.append(
            {
                "condition": condition,
                "planted": planted,
                "students": len(chosen),
                "answers": len(verdict_U),
                "positives": int(positive_U.sum()),
                "median_effect": float(np.nanmedian(effect_U)) if measured else np.nan,
                "named": float(named_U[positive_U].mean()) if positive_U.any() else np.nan,
                "planted_teacher": float(named_U.mean()) if condition in INDIRECT else 0.0,
                "other_teacher": float((accused_U & ~named_U).mean()),
                **{
                    name: float((verdict_U == name).mean())
                    for name in ("start", "reward", "nobody", "undecided")
                },
            }
        )
    return pd.DataFrame(rows)


def _findings(own: Sequence[Student], power: pd.DataFrame) -> tuple[str, ...]:
    bearing = _bearing(own)
    positives = int(sum(s.positive_U.sum() for s in bearing))
    reached = [
        effect for place, effect in enumerate(power.effect) if (power.named.iloc[place:] >= POWER).all()
    ]
    limit = (
        f"From an effect of {reached[0]} nats on, the planted teacher is named for {POWER:.0%} of answers."
        if reached
        else f"At no size of the effect is the planted teacher named for {POWER:.0%} of answers."
    )
    return (f"{positives} positives from {len(bearing)} held-out students.", limit)


MEANING = {  # of what is claimed
    "auc": "AUC of the planted teacher over positives",
    "auc_lead": "AUC less that of the best of routing label, log-prob and nearest weights",
    "clean_cleared": "answers of clean twins for which no teacher is named",
    "abstained": "positives left undecided",
    "named": "positives for which the planted teacher is named",
    "start_named": "answers whose cause is the start, named so",
    "reward_named": "answers that the reward brought about, named so",
    "students_cleared": "clean students over whose answers no teacher is named",
    "students_named": "planted students over whose answers the planted teacher is named",
    "unmerged_named": "the same where nothing was merged",
}


def claimed(bounds: str) -> str:
    """The claims that quantities lie within these bounds, as `predicted` reads them."""
    return "\n".join(f"{bound} {MEANING[bound.split()[0]]}" for bound in bounds.split("; "))


STUDY = Study(
    name="trace_fresh",
    question="Does the trace, which now looks at the student too, name who planted a habit?",
    prediction=predicted(
        "The rule: a cause's gain is its probability of the whole answer less the start's; a reward that pays for the "
        "answer is a cause of probability 1; an answer that the student gives no more often than its start is the "
        "start's. One cause is named where it alone gains .55; where none does, the start or nobody if its share is "
        "the largest. Over several answers the verdict is that of more than half. On the six worlds of `trace` and "
        "`trace_again` 84% of positives were named (61% where nothing was merged), 11% left undecided, and a teacher "
        "was named for .6% of clean answers; with the effect the share named grows from 40% at none to 96% above 4 "
        "nats, past 80% at 2. Fresh worlds, with more that is not merged, give a little less. Shares of 0 cost "
        "the ranking: the answer's log-prob ranks teachers better.",
        claimed(
            "auc >= 0.9; auc_lead <= 0.0; clean_cleared >= 0.95; abstained <= 0.3; named >= 0.7; "
            "unmerged_named >= 0.5; start_named >= 0.8; reward_named >= 0.8; students_cleared >= 0.95; "
            "students_named >= 0.8"
        ),
    ),
    observed="sampled answers with the habit, under the student, its clean twin, its start and every teacher",
    held_out=f"all runs, on worlds {WORLDS[0]} to {WORLDS[-1]}; the rule was found on those of `trace` and "
    "`trace_again`",
    design=design,
    analyse=analyse,
    measure=measure,
    twin=twin,
    of_skills=False,
)
