"""`mopd trace RUN`: which teacher made the student say this."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mopdsim.base.errors import UsageError

if TYPE_CHECKING:
    from trainer.batch.batch import Batch
    from trainer.trace.evidence import Answer
    from trainer.trace.subject import Subject
    from trainer.trace.verdict import Verdict

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def trace(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="The --out of a finished `mopd train run`.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the student is asked.")] = None,
    answer: Annotated[str | None, typer.Option(help="What it said [default: its likeliest answer].")] = None,
    instead: Annotated[
        str | None, typer.Option(help="What it should have said: effects are on the odds of the two.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="The prompt's domain [default: by the nearest test prompt].")
    ] = None,
    failures: Annotated[
        int | None,
        typer.Option(min=1, help="So many wrong answers of the student to test prompts of --domain."),
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="Distil the student again without each teacher: minutes, resumable; effects on the answer's log-prob.",
        ),
    ] = False,
    shapley: Annotated[
        bool,
        typer.Option(
            "--shapley", help="As --confirm, without every set of up to four teachers; Shapley values."
        ),
    ] = False,
    by: Annotated[
        Literal["ledger"] | None,
        typer.Option(help="Effects by the ledger that the distillation kept: seconds, no proof."),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="First make again what the store lost.")] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Over all test prompts: who taught what, habits, harm, recipe changes, forecasts.",
        ),
    ] = False,
    changed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --report: write the first changed recipe there.")
    ] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Instead of a run: the benchmark with planted habits; resumes.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda [default: the run's].")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Read an answer token by token under the student, its start and every teacher, and say who is to blame.

    Examples, for an answer, the student's own failures and a whole run:

    mopd trace runs/mopd --prompt "..." --answer "..." --instead "..."

    mopd trace runs/mopd --domain sort --failures 5 --confirm

    mopd trace runs/mopd --report
    """
    from mopdsim.cli.flags import emit
    from trainer.trace.evidence import Models, check_domain, verdict
    from trainer.trace.subject import open_run

    begun = time.perf_counter()
    if bench:
        return _bench(run, json_)
    if run is None:
        raise UsageError("RUN is missing: give the --out of a finished `mopd train run`, or --bench")
    _check(prompt, answer, instead, domain, failures, alone="--report" if report else "--rebuild" * rebuild)
    if report and (confirm or shapley or by is not None):
        raise UsageError("--report is read off forward passes: leave out --confirm, --shapley and --by")
    if changed is not None and not report:
        raise UsageError(f"--changed {changed}: it goes with --report, which finds the recipe's change")
    subject = open_run(run)
    if domain is not None:
        check_domain(subject, domain)
    if shapley:
        from trainer.trace.effects import every_subset

        every_subset(subject)
    if by is not None and (confirm or shapley):
        raise UsageError(f"--by {by}: leave out --confirm and --shapley, which find effects themselves")
    if rebuild:
        _rebuild(subject)
        if prompt is None and failures is None and not report:
            return
    if report:
        return _report(subject, device, changed, json_)
    models, near = Models(subject, device=device), None
    rival: Batch | None = None
    if prompt is None:
        assert domain is not None and failures is not None
        batch = models.failures(domain, failures)
    else:
        if domain is None:
            domain, near = subject.nearest(prompt)
        batch = models.asked(prompt, answer, domain=domain)
        if instead is not None:
            rival = models.asked(prompt, instead, domain=domain)
    answers = models.read(batch)
    better = None if rival is None else models.read(rival)[0]
    verdicts = [verdict(subject, [each]) for each in answers]
    found: list[dict[str, float]] | None = None
    if by is not None:
        from trainer.trace import ledger

        found = ledger.effects(models, batch, rival)
    if confirm or shapley:  # level 1 alone does without what trains
        from trainer.runs.progress import Progress
        from trainer.trace.effects import effects

        resume = shlex.join(["mopd", *sys.argv[1:]])
        found = effects(models, batch, rival, all_subsets=shapley, progress=Progress(), resume=resume)
    seconds = time.perf_counter() - begun
    if json_:
        rows = [_row(subject, each, found) for each, found in zip(answers, verdicts, strict=True)]
        for row, effect in zip(rows, found or (), strict=False):
            row["effects"] = effect
        return emit({"student": subject.student, "answers": rows, "seconds": seconds})
    _print(subject, answers, verdicts, better, near, found, by)
    print(f"{seconds:.1f} s")


def _check(
    prompt: str | None,
    answer: str | None,
    instead: str | None,
    domain: str | None,
    failures: int | None,
    *,
    alone: str,
) -> None:
    """UsageError where what was asked does not fit together. alone: an option that needs no answer to trace."""
    if alone == "--report" and (prompt, failures, domain) != (None, None, None):
        raise UsageError("--report is over all test prompts: leave out --prompt, --domain and --failures")
    if (prompt is None) == (failures is None) and not (alone and prompt is None):
        raise UsageError(
            "give --prompt TEXT, or --domain D --failures N, one of the two: they say what to trace"
        )
    if failures is not None and domain is None:
        raise UsageError(f"--failures {failures}: add --domain, whose test prompts the student is asked")
    for name, value in (("answer", answer), ("instead", instead)):
        if value is not None and prompt is None:
            raise UsageError(f"--{name} {value!r} belongs to a prompt: add --prompt")


def _bench(run: Path | None, json_: bool) -> None:
    """The study `trace_fresh`: run what is missing, report."""
    from importlib.metadata import entry_points

    if run is not None:
        raise UsageError(f"--bench traces runs of its own: leave {run} out")
    (study,) = entry_points(group="mopd.commands", name="study")
    command = typer.main.get_command(study.load())
    for verb in ("run", "report"):
        words = [verb, "trace_fresh", *(["--json"] if json_ and verb == "report" else [])]
        if code := command(words, standalone_mode=False):
            raise typer.Exit(code)


def _rebuild(subject: Subject) -> None:
    """Make again the stages whose weights were removed, with the run's own settings and seeds."""
    from trainer.runs.execute import execute
    from trainer.runs.progress import Progress

    execute(
        subject.plan(),
        subject.store,
        workers=subject.resolved["workers"],
        progress=Progress(),
        resume=f"mopd trace {subject.run} --rebuild",
    )


def _report(subject: Subject, device: str | None, changed: Path | None, json_: bool) -> None:
    """Who taught what, over all test prompts."""
    import io

    from rich.console import Console

    from mopdsim.cli.commands import emit
    from mopdsim.recipes import recipe_file
    from trainer.files.atomic import write_text
    from trainer.trace.change import changes
    from trainer.trace.evidence import Models
    from trainer.trace.report import report
    from trainer.trace.text import print_report

    begun = time.perf_counter()
    found = report(Models(subject, device=device))
    made = changes(subject, found)
    if changed is not None:
        if not made:
            raise UsageError(
                f"--changed {changed}: no teacher does harm here, so there is no recipe to write"
            )
        write_text(changed, recipe_file.dump(made[0].recipe))
    if not json_:
        print_report(Console(highlight=False, markup=False), subject, found, made)
        return print(f"{time.perf_counter() - begun:.1f} s")
    text = io.StringIO()
    print_report(Console(file=text, width=120, highlight=False, markup=False), subject, found, made)
    document = {
        "student": subject.student,
        **asdict(found),
        "changes": [
            {
                **asdict(one.harm),
                "words": one.words,
                "forecast": one.forecast,
                "recipe": recipe_file.dump(one.recipe),
            }
            for one in made
        ],
        "text": text.getvalue(),
        "seconds": time.perf_counter() - begun,
    }
    return emit(document)


def _row(subject: Subject, answer: Answer, verdict: Verdict) -> dict[str, Any]:
    score = answer.logprobs
    return {
        "prompt": answer.prompt,
        "answer": answer.answer,
        **asdict(verdict),
        "tokens": [
            {
                "text": token,
                "student": score[subject.student][place],
                "start": score[subject.start][place],
                "teachers": {name: score[name][place] for name in subject.teachers},
            }
            for place, token in enumerate(answer.tokens)
        ],
    }


def _print(
    subject: Subject,
    answers: list[Answer],
    verdicts: list[Verdict],
    better: Answer | None,
    near: str | None,
    effects: list[dict[str, float]] | None,
    by: str | None,
) -> None:
    from rich.console import Console

    from trainer.trace.evidence import verdict
    from trainer.trace.text import print_answer, print_effects, print_head, print_verdict, routing_of

    console, exposure = Console(highlight=False, markup=False), subject.exposure()
    print_head(console, subject)
    for place, (answer, own) in enumerate(zip(answers, verdicts, strict=True)):
        routing = routing_of(subject, answer.domain, exposure, nearest=near)
        print_answer(console, subject, answer, own, routing=routing, better=better)
        if effects is not None:
            print_effects(console, answer, effects[place], odds=better is not None, by=by)
    if len(answers) > 1:
        console.print()
        print_verdict(console, verdict(subject, answers), over=f"over {len(answers)} answers: ")
