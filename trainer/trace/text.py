"""A traced answer as people read it: its tokens coloured by who pulls, a table of log-probs, the verdict.

Leaves out: every number in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mopdsim.base.numbers import interval, points
from mopdsim.base.numbers import score as number
from mopdsim.recipes.stage import Distill
from trainer.trace.change import Change
from trainer.trace.evidence import Answer
from trainer.trace.report import Report
from trainer.trace.subject import Subject
from trainer.trace.verdict import ACCUSED, INTERVAL, UNDECIDED, Array, Share, Verdict

COLOURS = (
    "green",
    "cyan",
    "magenta",
    "yellow",
    "blue",
    "red",
    "bright_green",
    "bright_cyan",
    "bright_magenta",
)
PULLS = 0.5  # nats of a token's log-ratio from which its teacher colours it
DISAGREE = 1.0  # nats between the highest and the lowest teacher of a token, from which it is marked
LETTERS = 200  # of a prompt
LONG = 16  # letters of a column's title on one line, where its numbers take no more
RARE = 0.01  # the student's chance of an answer below which there is little to explain


def colours(subject: Subject) -> dict[str, str]:
    """Each teacher's."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(subject.teachers)}


def print_head(console: Console, subject: Subject) -> None:
    legend = Text.assemble(
        f"student {subject.student} of recipe {subject.recipe.name}, from {subject.start}; teachers: "
    )
    for place, (name, colour) in enumerate(colours(subject).items()):
        legend.append(", " * (place > 0)).append(name, style=colour)
    console.print(legend, soft_wrap=True)


def print_answer(
    console: Console,
    subject: Subject,
    answer: Answer,
    verdict: Verdict,
    *,
    routing: Sequence[str],
    better: Answer | None,
) -> None:
    """One answer: the prompt, the coloured answer, where its prompts went, its tokens, who is to blame.

    better: the answer whose pulls are taken off, where one is given.
    """
    pull_TK = answer.ratios(subject)[:, 1:]
    console.print(Text(f"\nprompt   {answer.prompt[:LETTERS]!r}"), soft_wrap=True)
    shown = Text("answer   ")
    for token, pull_K in zip(answer.tokens, pull_TK, strict=True):
        shown.append(token.replace("\n", "\\n"), style=_style(subject, pull_K))
    console.print(shown, soft_wrap=True)
    for line in routing:
        console.print(Text(line), soft_wrap=True)
    _print_tokens(console, subject, answer, pull_TK, better)
    if better is not None:
        console.print(Text(f"odds     against {better.answer!r}"), soft_wrap=True)
    print_verdict(console, verdict)
    if np.exp(sum(answer.logprobs[subject.student])) < RARE:
        said = f"the student gives this answer in less than {RARE:.0%} of cases, so that its verdict means little"
        console.print(Text(f"note     {said}: ask about its beginning, or use --confirm"), soft_wrap=True)


def _print_tokens(
    console: Console, subject: Subject, answer: Answer, pull_TK: Array, better: Answer | None
) -> None:
    """A column for each model; those that find no room stand below the others."""
    names = (subject.student, subject.start, *subject.teachers)
    rows: list[tuple[Text, list[str], str]] = []  # the first cell, a cell for each model, the row's style
    for place, (token, pull_K) in enumerate(zip(answer.tokens, pull_TK, strict=True)):
        mark = " *" if len(pull_K) > 1 and np.ptp(pull_K) >= DISAGREE else ""
        head = Text(repr(token)[1:-1] + mark, style=_style(subject, pull_K))
        rows.append((head, [f"{answer.logprobs[name][place]:.2f}" for name in names], ""))
    pull_K = pull_TK.sum(0)
    summed = {"pull": pull_K}
    if better is not None:
        summed["of the odds"] = pull_K - better.ratios(subject)[:, 1:].sum(0)
    chances = [f"{np.exp(sum(answer.logprobs[name])):.2f}" for name in names]
    rows.append((Text("chance"), chances, "bold"))
    for title, value_K in summed.items():
        rows.append((Text(title), ["", "", *[f"{value:+.2f}" for value in value_K]], "bold"))
    _columns(console, "token", names, rows)


def _columns(
    console: Console, corner: str, names: Sequence[str], rows: Sequence[tuple[Text, list[str], str]]
) -> None:
    """A table with a column for each name; those that find no room stand below the others."""
    cells = [cell for _, own, _ in rows for cell in own]
    wide = max(min(LONG, max(map(len, names))), *map(len, cells)) + 2
    most = max(1, (console.width - max(len(head) for head, _, _ in rows)) // wide)
    for first in range(0, len(names), most):
        shown = slice(first, first + most)
        table = Table(corner, box=None, pad_edge=False, header_style="bold")
        for name in names[shown]:
            table.add_column(name, justify="right", overflow="fold", max_width=wide - 2)
        for head, own, style in rows:
            table.add_row(head, *own[shown], style=style)
        console.print(table)


def print_verdict(console: Console, verdict: Verdict, *, over: str = "") -> None:
    """Every cause's share with its interval, the largest first."""
    rows = sorted(verdict.shares.items(), key=lambda pair: -pair[1].share)
    said = ", ".join(f"{cause} {row.share:.2f} [{row.low:.2f}, {row.high:.2f}]" for cause, row in rows)
    short = "no verdict holds for more than half of them" if over else f"no teacher alone gains {ACCUSED:g}"
    why = f" ({short})" if verdict.verdict == UNDECIDED else ""
    level = INTERVAL[1] - INTERVAL[0]
    console.print(Text(f"verdict  {over}{verdict.verdict}{why}", style="bold"), soft_wrap=True)
    console.print(Text(f"shares   {said} ({level}% intervals)"), soft_wrap=True)


def print_effects(
    console: Console, answer: Answer, effects: Mapping[str, float], *, odds: bool, by: str | None
) -> None:
    """What each teacher did to the answer (or to its odds), the largest first. by: the ledger, or distilled again."""
    ranked = sorted(effects.items(), key=lambda pair: -pair[1])
    said = ", ".join(f"{name} {effect:+.2f}" for name, effect in ranked)
    console.print(
        Text(
            f"{'by ledger' if by else 'effects'}  {said} nats of {'the odds of ' * odds}{answer.answer!r}",
            style="bold",
        ),
        soft_wrap=True,
    )


def routing_of(
    subject: Subject, domain: str, exposure: Mapping[str, int], *, nearest: str | None
) -> list[str]:
    """Where the prompt's domain goes, and how often. nearest: the test prompt by which the domain was found."""
    stage = subject.stages[-1]
    sent = ", ".join(f"{name} ({weight:.0%})" for name, weight in subject.teachers_of(domain).items())
    lines = [
        f"domain   {domain}" + (f", by its nearest test prompt {nearest[:LETTERS]!r}" if nearest else "")
    ]
    if not isinstance(stage, Distill):
        return [*lines, f"routing  none: {stage.name} merges {sent}"]
    astray = f"; {stage.misrouting:.0%} of them to another teacher" if stage.misrouting else ""
    return [
        *lines,
        f"routing  {exposure.get(domain, 0):,} prompts of {domain} in training, to {sent}{astray}",
    ]


def _style(subject: Subject, pull_K: Sequence[float]) -> str:
    """The colour of the teacher that pulls most, or none where none pulls."""
    if not len(pull_K) or max(pull_K) < PULLS:
        return ""
    return list(colours(subject).values())[int(np.argmax(pull_K))]


def print_report(console: Console, subject: Subject, found: Report, made: Sequence[Change]) -> None:
    """Scores, who taught what, habits, harm, and the changes."""
    print_head(console, subject)
    domains = list(found.matrix)
    names = (subject.start, *subject.teachers, subject.student)
    _table(
        console,
        "scores of likeliest answers to test prompts",
        domains,
        {name: {d: number(x) for d, x in found.scores[name].items()} for name in names},
    )
    causes = dict.fromkeys(cause for row in found.matrix.values() for cause in row)
    shares = {
        cause: {d: _interval(row[cause]) for d, row in found.matrix.items() if cause in row}
        for cause in causes
    }
    _table(console, "share of each cause in the student's answers", domains, shares)
    lifts = {name: {d: _interval(x) for d, x in row.items()} for name, row in found.lift.items()}
    _table(console, "lift: log-prob of the right answer over the start's, nats", domains, lifts)
    console.print("\nhabits: what the student shows more or less often than its start")
    if not found.habits:
        console.print("  none")
    for habit in found.habits:
        rates = ", ".join(f"{name} {habit.rates[name]:.2f}" for name in habit.rates)
        console.print(
            Text(f"  {habit.domain}: {habit.what}: from {habit.source or 'nobody'} ({rates})"), soft_wrap=True
        )
    console.print("\nharm: a teacher whose lift is below 0 on a domain in whose failures it has a share")
    if not found.harms:
        console.print("  none")
    for harm in found.harms:
        said = f"lift {_interval(harm.lift)} nats, share of the failures {harm.share:.2f}"
        console.print(Text(f"  {harm.teacher} on {harm.domain}: {said}"), soft_wrap=True)
    for change in made:
        console.print(Text(f"  change for {change.harm.domain}: {change.words}"), soft_wrap=True)
        console.print(Text(f"    {_told(change)}"), soft_wrap=True)


def _told(change: Change) -> str:
    """The change's forecast in words."""
    if "unknown" in change.forecast:
        return f"no forecast: {change.forecast['unknown']}"
    before, after, difference, hours = (
        change.forecast[key] for key in ("before", "after", "difference", "gpu_hours_ratio")
    )
    return (
        f"forecast of {change.harm.domain}: {interval(before, number)} before, {interval(after, number)} after "
        f"({points(difference['p50'])}); {hours['p50']:.2f} times the GPU-hours"
    )


def _table(
    console: Console, title: str, domains: Sequence[str], rows: Mapping[str, Mapping[str, str]]
) -> None:
    console.print(f"\n{title}")
    cells = {name: [row.get(domain, "") for domain in domains] for name, row in rows.items()}
    _columns(console, "", domains, [(Text(name), own, "") for name, own in cells.items()])


def _interval(row: Share) -> str:
    return f"{row.share:.2f} [{row.low:.2f}, {row.high:.2f}]"
