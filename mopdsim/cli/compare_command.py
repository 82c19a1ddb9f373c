"""The verb `mopd compare`: recipes in the same worlds, or with --all every system and rival at one budget.

Leaves out: the arithmetic (`mopdsim.forecast.compare`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.numbers import count, duration, score, share, usd, with_interval
from mopdsim.cli.flags import Json, Keys, emit, in_columns, scenario_flags, scenario_of, with_domains
from mopdsim.plan import words


@scenario_flags()
def compare(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE|FILE ...",
            help="Two or more; the first is the baseline. With --all: a planner's question (TOML), or nothing.",
        ),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option(
            "--all",
            help="All published systems and the plain rivals, at one budget of training FLOPs; of a question, the "
            "planner's finalists and the systems at equal dollars.",
        ),
    ] = False,
    budget_flops: Annotated[
        float | None,
        typer.Option(help="With --all: that budget [default: what mopd spends with its own amounts]."),
    ] = None,
    planned: Annotated[
        Path | None,
        typer.Option(
            help="With --all and a question: its answer as `mopd plan --json` printed it, so that nothing is planned "
            "anew."
        ),
    ] = None,
    *,
    keys: Keys,
    json_: Json = False,
) -> None:
    """Forecast several recipes in the same worlds: differences, the probability that one is better, or a tie.

    Example: mopd compare mixed_rl mopd merge --domains math,code
    Example: mopd compare --all studies/questions/known_conflict.toml
    """
    if planned is not None and not (all_ and recipes and recipes[0].endswith(".toml")):
        raise UsageError(f"planned = {planned}: belongs to --all FILE.toml: add those, or leave it out")
    if all_:
        from mopdsim.forecast.compare import compare_all

        if recipes and len(recipes) == 1 and recipes[0].endswith(".toml"):
            if budget_flops is not None:
                raise UsageError(
                    f"budget_flops = {budget_flops:g}: {recipes[0]} has limits of its own: leave it out"
                )
            found = ranked(Path(recipes[0]), keys, planned)
            return emit(found) if json_ else print(ranking_text(found))
        if recipes:
            raise UsageError(
                f"--all compares every recipe, and {', '.join(recipes)} is named beside it: use one"
            )
        document = compare_all(budget_flops=budget_flops, **with_domains(keys))
        return emit(document) if json_ else print(all_text(document))
    if budget_flops is not None:
        raise UsageError(f"budget_flops = {budget_flops:g}: belongs to --all: add that, or leave it out")
    from mopdsim.forecast.compare import compare as judge
    from mopdsim.forecast.forecast import forecast as run
    from mopdsim.forecast.why import assumptions

    forecasts = [run(scenario_of(recipe, keys)) for recipe in recipes or ()]
    document = judge(forecasts)
    return emit(document) if json_ else print(comparison_text(document, assumptions(forecasts[0].scenario)))


def ranked(file: Path, keys: Keys, planned: Path | None = None) -> dict[str, Any]:
    """The planner's finalists and the systems of a question with the flags on top. planned: the file that holds the
    question's answer."""
    from mopdsim.cli.plan_command import question_document, say
    from mopdsim.plan.plan import plan
    from mopdsim.plan.question import from_document
    from mopdsim.plan.ranking import ranking

    question = from_document(question_document(file, keys), source=str(file))
    answer = plan(question, told=say).to_document() if planned is None else _answer_in(planned)
    return ranking(question, answer)


def _answer_in(path: Path) -> dict[str, Any]:
    """The document that `mopd plan --json` printed into a file. NotFoundError where there is none, UsageError where it
    is no such thing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"planned = {path}: no such file: `mopd plan FILE --json` writes one") from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"planned = {path}: {error}: give the file that `mopd plan FILE --json` wrote"
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"planned = {path}: it holds no answer: give what `mopd plan FILE --json` printed")
    return found


_WIDTHS = {
    "of": 11, "score": 7, "80% range": 14, "worst domain": 14, "cost": 9, "calendar": 11, "better than the first": 0,
}  # fmt: skip


def ranking_text(document: Mapping[str, Any]) -> str:
    """The table for people: the planner's plans, then the systems at what the first plan costs."""
    lines = [document["assumptions"], document["headline"], f"basis: {document['basis']}"]
    lines += [loss["sentence"] for loss in document["contradicted_by"][:1]]
    rows = words.ranked_cells(document)
    lines += in_columns(rows, {"plan": max(len(row["plan"]) for row in rows), **_WIDTHS})
    return "\n".join([*lines, *words.ranking_notes(document)])


_DIFFERENCE = {"difference": 28, "P50": 10, "P10 to P90": 26, "better": 0}


def comparison_text(document: Mapping[str, Any], assumed: str) -> str:
    """What was asked, a line a recipe, and each against the first in every measure."""
    from mopdsim.forecast.compare import cells

    lines = [
        assumed,
        f"{'recipe':<18}{'GPU-hours':<12}{'cost':<10}{'calendar':<12}{'mean score':<12}worst domain",
    ]
    for name, found in document["forecasts"].items():
        lines.append(
            f"{name:<18}{count(found['gpu_hours']['p50']):<12}{usd(found['usd']['p50']):<10}"
            f"{duration(found['days']['p50']):<12}{score(found['mean_score']['p50']):<12}"
            f"{score(found['worst_score']['p50'])}"
        )
    for name, row in document["against_baseline"].items():
        measures = {**{key: value for key, value in row.items() if key != "scores"}, **row["scores"]}
        lines.append(f"{name} minus {document['baseline']}, in the same worlds")
        lines += in_columns(map(cells, measures, measures.values()), _DIFFERENCE)
    return "\n".join(lines)


def all_text(document: Mapping[str, Any]) -> str:
    """The table for people; a star marks a recipe that misses the budget by over 1%."""
    lines = [
        f"{document['model']} on {document['gpu']}, domains {', '.join(document['domains'])}; "
        f"{count(document['budget_flops'])} training FLOPs each; P50 (P10 to P90) of {count(document['draws'])} draws",
        f"{'recipe':<18}{'GPU-hours':>11}{'cost':>9}{'calendar':>11}  {'mean score':<20}{'worst domain':<20}"
        f"{'cap':>6}{'below start':>13}{'collapse':>10}{'stages':>8}{'teachers':>10}",
    ]
    for row in document["rows"]:
        cap = "-" if row["cap"] is None else score(row["cap"]["p50"])
        mark = "*" if row["off_budget"] else ""
        mean, worst = (with_interval(row[key], score) for key in ("mean", "worst"))
        lines.append(
            f"{row['recipe'] + mark:<18}{count(row['gpu_hours']['p50']):>11}{usd(row['usd']['p50']):>9}"
            f"{duration(row['days']['p50']):>11}  {mean:<20}{worst:<20}{cap:>6}"
            f"{share(row['risk']['below_start']):>13}{share(row['risk']['collapse']):>10}{row['stages']:>8}"
            f"{row['teachers']:>10}"
        )
    lines += [
        f"* {row['recipe']}: {count(row['flops'])} FLOPs, {row['flops'] / document['budget_flops'] - 1:+.0%}: "
        f"{row['off_budget']}"
        for row in document["rows"]
        if row["off_budget"]
    ]
    return "\n".join(lines)
