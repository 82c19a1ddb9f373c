"""trace: does `mopd trace` name the teacher that planted a habit?

The worlds are those of `studies.designs.trace.world`, the answers those of `studies.designs.trace.answers`. Verdicts
are worked out here, by the rule that `mopd trace` uses, with the better answer given. A *positive* is an answer of an
indirect planted student on which the effect of planting is `LEAST_EFFECT` at least: under the clean twin its odds are
half as good at most. Figures are of the held-out worlds; the rule may be mended on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.designs.trace.answers import measure
from studies.designs.trace.world import DEVELOPMENT, HELD_OUT, INDIRECT, TEACHERS, design
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.resample import bootstrap
from studies.framework.study import Study, at_least, at_most, predicted

if TYPE_CHECKING:
    from studies.framework.observe import Observations

LEAST_EFFECT = float(np.log(2))  # nats on the odds
POWER = 0.8
BINS = (-np.inf, 0.1, 0.25, 0.5, 1.0, 2.0, np.inf)  # of effects, in nats
BASELINES = ("routed", "log_prob", "nearness")
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Student:
    """One student's answers. answers: a row each with its verdict; pairs: a row for each answer and teacher."""

    condition: str
    planted: bool
    held_out: bool
    answers: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Of each answer: whether the planted teacher brought it about."""
        if not self.planted or self.condition not in INDIRECT:
            return np.zeros(len(self.answers), dtype=bool)
        return (self.answers.effect >= LEAST_EFFECT).to_numpy()


def students(found: Observations) -> list[Student]:
    """Of every finished run that has answers with the habit."""
    if found.measured.empty:
        return []
    return [
        _student(rows, found.finished[str(name)]) for name, rows in found.measured.groupby("run", sort=False)
    ]


def _student(rows: pd.DataFrame, about: Mapping[str, Any]) -> Student:
    factors = about["factors"]
    answers, pairs = [], []
    for place, own in rows.groupby("place"):
        verdict, shares = judged(own, rewarded=factors["condition"] == "reward")
        teachers = own[own.role == "teacher"].set_index("model")
        planted = TEACHERS[int(factors["habit"]) - 1]  # of a clean twin nobody: its last stands for it
        answers.append({"verdict": verdict, "effect": own.effect.iloc[0]})
        pairs += [
            {
                "answer": place,
                "teacher": name,
                "planted": name == planted,
                "share": shares[str(name)],
                "routed": row.routed,
                "log_prob": _numbers(row.logprobs).sum(),
                "nearness": -row.distance,
            }
            for name, row in teachers.iterrows()
        ]
    return Student(
        condition=str(factors["condition"]),
        planted=bool(factors["habit"]),
        held_out=bool(about["held_out"]),
        answers=pd.DataFrame(answers),
        pairs=pd.DataFrame(pairs),
    )


def judged(own: pd.DataFrame, *, rewarded: bool) -> tuple[str, dict[str, float]]:
    """The verdict on one answer against the better one, and each cause's share. own: a row for each model."""
    from trainer.trace.verdict import NOBODY, REWARD, of_tokens

    ratios = []
    for column, sign in (("logprobs", 1.0), ("better", -1.0)):
        score = {row.model: _numbers(getattr(row, column)) for row in own.itertuples()}
        start = score[own.model[own.role == "start"].item()]
        models = [own.model[own.role == "student"].item(), *own.model[own.role == "teacher"]]
        ratios.append(sign * np.array([score[name] - start for name in models]).T)
    paid = str(own.paid.iloc[0]) != "False"
    teachers = list(own.model[own.role == "teacher"])
    found = of_tokens(teachers, np.concatenate(ratios), rest=REWARD if rewarded and paid else NOBODY)
    return found.verdict, {cause: row.share for cause, row in found.shares.items()}


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
        positive = [s for s in own if s.positive.any()]
        clean = [s for s in own if not s.planted]
        figures[part] = {
            "auc": over(positive, partial(auc, score="share")),
            "auc_lead": over(positive, _lead),
            **{f"auc_{name}": over(positive, partial(auc, score=name)) for name in BASELINES},
            "clean_cleared": over(clean, _cleared),
            "abstained": over(positive, partial(_said, what=_undecided)),
            "named": over(positive, partial(_said, what=_planted_named)),
            **{
                f"{cause}_named": over([s for s in own if s.condition == cause], partial(_named, cause=cause))
                for cause in ("start", "reward")
            },
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
    pairs = [s.pairs[s.pairs.answer.map(dict(enumerate(s.positive)))] for s in drawn]
    rows = pd.concat(pairs)
    if rows.planted.all() or not rows.planted.any():
        return float("nan")
    rank = rows[score].rank().to_numpy()
    planted = rows.planted.to_numpy()
    yes, no = planted.sum(), (~planted).sum()
    return float((rank[planted].sum() - yes * (yes + 1) / 2) / (yes * no))


def _lead(drawn: Sequence[Student]) -> float:
    """Of the share's area over that of the best baseline."""
    return auc(drawn, "share") - max(auc(drawn, name) for name in BASELINES)


def _rate(values: Sequence[pd.Series]) -> float:
    return float(np.mean(np.concatenate([value.to_numpy(dtype=float) for value in values])))


def _said(drawn: Sequence[Student], what: Callable[[Student], pd.Series]) -> float:
    """Share of the positives of which this is true."""
    return _rate([what(s)[s.positive] for s in drawn])


def _undecided(student: Student) -> pd.Series:
    return student.answers.verdict == "undecided"


def _planted_named(student: Student) -> pd.Series:
    planted = student.pairs.loc[student.pairs.planted, "teacher"].iloc[0]
    return student.answers.verdict == planted


def _named(drawn: Sequence[Student], cause: str) -> float:
    return _rate([s.answers.verdict == cause for s in drawn])


def _cleared(drawn: Sequence[Student]) -> float:
    """Share of answers for which no teacher is named."""
    return _rate([~s.answers.verdict.isin(s.pairs.teacher) for s in drawn])


def _power(own: Sequence[Student]) -> pd.DataFrame:
    """Of the indirect planted students, by the planted teacher's effect."""
    chosen = [s for s in own if s.planted and s.condition in INDIRECT]
    columns = ["mean effect", "answers", "named", "undecided"]
    if not chosen:
        return pd.DataFrame(columns=["effect", *columns])
    rows = pd.concat([s.answers.assign(named=_planted_named(s)) for s in chosen]).dropna(subset="effect")
    rows["bin"] = pd.cut(rows.effect, list(BINS), right=False)
    return pd.DataFrame(
        [
            {
                "effect": str(name),
                "mean effect": float(group.effect.mean()),
                "answers": len(group),
                "named": float(group.named.mean()),
                "undecided": float((group.verdict == "undecided").mean()),
            }
            for name, group in rows.groupby("bin", observed=True)
        ],
        columns=["effect", *columns],
    )


def _by_condition(own: Sequence[Student]) -> pd.DataFrame:
    rows = []
    for condition, planted in dict.fromkeys((s.condition, s.planted) for s in own):
        chosen = [s for s in own if (s.condition, s.planted) == (condition, planted)]
        verdict = pd.concat([s.answers.verdict for s in chosen])
        right = pd.concat([_planted_named(s) for s in chosen])
        rows.append(
            {
                "condition": condition,
                "planted": planted,
                "students": len(chosen),
                "answers": len(verdict),
                "positives": int(sum(s.positive.sum() for s in chosen)),
                "median_effect": float(np.nanmedian(pd.concat([s.answers.effect for s in chosen])))
                if planted and condition in INDIRECT
                else np.nan,
                "planted_teacher": float(right.mean()),
                **{
                    name: float((verdict == name).mean())
                    for name in ("start", "reward", "nobody", "undecided")
                },
                "other_teacher": float((verdict.str.startswith("teacher") & ~right).mean()),
            }
        )
    return pd.DataFrame(rows)


def _findings(own: Sequence[Student], power: pd.DataFrame) -> tuple[str, ...]:
    positives = int(sum(s.positive.sum() for s in own))
    bearing = sum(bool(s.positive.any()) for s in own)
    reached = [
        effect for place, effect in enumerate(power.effect) if (power.named.iloc[place:] >= POWER).all()
    ]
    limit = (
        f"From an effect in {reached[0]} nats on, the planted teacher is named for {POWER:.0%} of answers."
        if reached
        else f"At no size of the effect is the planted teacher named for {POWER:.0%} of answers."
    )
    return (f"{positives} positives from {bearing} held-out students.", limit)


STUDY = Study(
    name="trace",
    question="Does the trace name the teacher that planted a habit, and nobody where none did?",
    prediction=predicted(
        "The rule: of the log-odds of the answer against the better one, the start's share is exp(-D), D the student's "
        "move from its start; the rest is divided among the teachers by their pull and nobody (or the reward, where "
        "one was mixed in that pays for the answer) by what the strongest pull leaves of D; no verdict where the first "
        "share leads by less than .1, or by nothing in 5% of 1,000 resamples of the tokens. A clean teacher pulls "
        "little on prompts that are not its own, so shares rank the planted one above it; the resampling of few tokens "
        "costs verdicts, so more positives than wanted end undecided. Students whose start has the habit did not move.",
        at_least(0.9, "auc", "AUC of the planted teacher over positives"),
        at_least(0.1, "auc_lead", "AUC less that of the best of routing label, log-prob and nearest weights"),
        at_least(0.95, "clean_cleared", "answers of clean twins for which no teacher is named"),
        at_most(0.3, "abstained", "positives left undecided"),
        at_least(0.8, "start_named", "answers whose cause is the start, named so"),
        at_least(0.8, "reward_named", "answers whose cause is the reward, named so"),
    ),
    observed="sampled answers with the habit, under the student, its clean twin, its start and every teacher",
    held_out=f"worlds {HELD_OUT[0]} to {HELD_OUT[-1]}; the rule may be mended on world {DEVELOPMENT[0]}",
    design=design,
    analyse=analyse,
    measure=measure,
    of_skills=False,
)
