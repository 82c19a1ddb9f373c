"""The verb `mopd plan [FILE]`, and its answer in plain text: at most 25 lines, the rest as details. Leaves out: all
arithmetic (`mopdsim.plan.plan`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import count, duration, points, score, share, three, usd
from mopdsim.cli.flags import Details, Json, Keys, emit, in_columns, new_file, scenario_flags
from mopdsim.plan import words


@scenario_flags(without=["amounts"])
def plan(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A question (TOML); see studies/questions [default: the flags alone]."
        ),
    ] = None,
    *,
    keys: Keys,
    details: Details = False,
    rough: Annotated[
        bool, typer.Option("--rough", help="A first answer: one round, few draws, not what would change it.")
    ] = False,
    write: Annotated[
        Path | None,
        new_file("Save the recommended plan here, as a scenario for `mopd forecast`."),
    ] = None,
    recipe: Annotated[Path | None, new_file("Save its recipe alone here, for `mopd train run`.")] = None,
    json_: Json = False,
) -> None:
    """Recommend a recipe under limits: which teachers for which domains, how much compute, and how sure that is.

    Flags override what the file says. --draws are those of the search [default: 200]. --details adds partitions,
    reasons, every doubt, sensitivities and the frontier.

    Example: mopd plan studies/questions/eight_domains.toml --gpus 256 --write plan.toml
    """
    from mopdsim.forecast import scenario
    from mopdsim.plan.plan import plan as run
    from mopdsim.plan.question import from_document
    from mopdsim.recipes import recipe_file

    question = from_document(question_document(file, keys), source="flags" if file is None else str(file))
    answer = run(question, rough=rough, told=say)
    chosen = answer.recommended.forecast.scenario
    if write is not None:
        write.write_text(scenario.dump(chosen), encoding="utf-8")
    if recipe is not None:
        recipe.write_text(recipe_file.dump(chosen.recipe), encoding="utf-8")
    found = answer.to_document()
    emit(found) if json_ else print(answer_text(found, details=details))


def say(line: str) -> None:
    """A step of long work, beside the answer."""
    print(line, file=sys.stderr, flush=True)


def question_document(file: Path | None, keys: Keys) -> dict[str, Any]:
    """The question of a file with the flags on top, or of the flags alone, which must name the domains."""
    from mopdsim.base.documents import read_toml
    from mopdsim.plan.question import REMEDY

    if file is None and "domains" not in keys:
        raise UsageError(f"--domains is missing: name them, or {REMEDY}")
    return {**({} if file is None else read_toml(file, remedy=REMEDY)), **keys}


_PLANS, _CHANGES, _PILOTS = 8, 4, 3  # lines of each part
_POINTS = 12  # of the frontier
_DOUBTS = 6  # unknowns that turn the recommendation, the largest
_WIDTHS = {"score": 7, "80% range": 14, "cost": 8, "calendar": 10, "better than the first": 0}


def answer_text(document: Mapping[str, Any], *, details: bool = False) -> str:
    """What was asked, the verdict, the plans side by side, what would change it, and what to measure."""
    lines = [document["assumptions"], document["headline"]]
    lines += [loss["sentence"] for loss in document["contradicted_by"][:1]]
    lines.append(f"basis: {document['basis']}")
    lines += _table(document)
    lines.append(_equal_dollars(document))
    lines += _short_changes(document)
    lines += _short_pilots(document)
    tried = f"{document['evaluated']:,} plans tried in {document['seconds']:.0f} s"
    if not details:
        return "\n".join(
            [*lines, f"{tried}; --details says which domains share a teacher, why, and how sure"]
        )
    return "\n".join([*lines, *_details(document), "", tried])


def _table(document: Mapping[str, Any]) -> list[str]:
    """A line a plan, the recommended one first."""
    plans = words.finalists(document)[:_PLANS]
    widths = {"plan": max(len(row["name"]) for row in plans), **_WIDTHS}
    return in_columns(map(words.cells, plans), widths)


def _equal_dollars(document: Mapping[str, Any]) -> str:
    """The best of three kinds for no more than the recommended plan costs."""
    price = usd(document["recommended"]["usd"]["p50"])
    told = [
        f"{row['name']} {score(row['value'])} (best in {share(row['probability_best'])} of worlds)"
        for row in document["equal_dollars"]
    ]
    return f"for at most {price}: {', '.join(told)}"


def _short_changes(document: Mapping[str, Any]) -> list[str]:
    """The nearest flip points and the largest doubts."""
    found = [
        f"  {change.condition}: {change.plan}" + ("" if change.gain is None else f", {points(change.gain)}")
        for change in words.changes(document)
    ]
    if not found:
        tried = "nothing that was tried" if document["flip_points"] else "not looked for with --rough"
        return [f"what would change this: {tried}"]
    return ["what would change this", *found[:_CHANGES]]


def _short_pilots(document: Mapping[str, Any]) -> list[str]:
    """What a pilot is worth, the most a dollar first."""
    worth = [pilot for pilot in document["value_of_information"]["pilots"] if pilot["gain"] > 0]
    if not worth:
        looked = document["value_of_information"]["pilots"]
        told = "no single pilot can be told from worthless" if looked else "not looked for with --rough"
        return [f"measure first: {told}"]
    return [
        "measure first",
        *(f"  {pilot['short']}, {usd(pilot['usd'])}: {points(pilot['gain'])}" for pilot in worth[:_PILOTS]),
    ]


def _details(document: Mapping[str, Any]) -> list[str]:
    """Partitions, reasons, every doubt and pilot, sensitivities, frontier, the year."""
    best = document["recommended"]
    lines = ["", "plans in full (P10 / P50 / P90)"]
    for row in words.finalists(document):
        lines.append(f"  {row['name']}: {row['label']}")
        lines.append(
            f"    score {three(row['utility'], score)}, {three(row['usd'], usd)}, {three(row['days'], duration)}"
        )
    lines += _reason_lines(document)
    lines += ["", f"scores of {best['name']}"]
    lines += [f"  {name:<24} {three(row, score)}" for name, row in best["scores"].items()]
    lines += _change_lines(document)
    lines += _information_lines(document["value_of_information"])
    lines += ["", "what moves the score (share of its variance: alone, and with all it acts through)"]
    lines += [
        f"  {row['first']:5.2f} {row['total']:5.2f}  {row['what']}"
        for row in document["sensitivity"]
        if row["total"] >= 0.01
    ]
    lines += ["", "frontier: cost, calendar, score"]
    lines += [
        f"  {usd(point['usd']):<9} {duration(point['days']):<10} {score(point['value'])}  {point['plan']['label']}"
        for point in document["frontier"][:: max(1, len(document["frontier"]) // _POINTS)]
    ]
    if document["portfolio"] is not None:
        lines += ["", "the year's releases, GPU-hours in all"]
        lines += [f"  {three(row['gpu_hours'])}  {row['label']}" for row in document["portfolio"]["plans"]]
    return lines


def _reason_lines(document: Mapping[str, Any]) -> list[str]:
    """Why the recommended plan leads, and what it costs if it is the wrong one."""
    lines = ["", "why (points of the mean over all simulated worlds)"] if document["reasons"] else []
    lines += [f"  {reason['sentence']}" for reason in document["reasons"]]
    wrong = document["cost_of_being_wrong"]
    return [
        *lines,
        f"  if it is the wrong choice (probability {share(wrong['probability'])}), it loses "
        f"{100 * wrong['loss']:.1f} points on average",
    ]


def _change_lines(document: Mapping[str, Any]) -> list[str]:
    """Flip points, then what is too little known."""
    lines = ["", "the recommendation changes"]
    for tip in document["flip_points"]:
        moved = f"{count(tip['now'])} to {count(tip['range'][1])}"
        where = f"at {count(tip['changes_at'])}: {tip['to']}" if tip["changes_at"] is not None else "nowhere"
        lines.append(f"  {tip['what']}, {moved}: {where}")
    for flip in document["undecided_by"][:_DOUBTS]:
        end = f"{words.ENDS[flip['at']]} ({count(flip['value'])})"
        lines.append(f"  if {flip['what']} is {end}: {flip['to']}, by {100 * flip['gain']:.1f} points")
    more = len(document["undecided_by"]) - _DOUBTS
    return [*lines, f"  and {more} more unknowns that would, by less"] if more > 0 else lines


def _information_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["", f"worth knowing before deciding (all of it: {points(found['perfect'])})"]
    for pilot in found["pilots"]:
        if pilot["gain"] > 0:
            price = f"{count(pilot['gpu_hours'])} GPU-hours, {usd(pilot['usd'])}"
            lines.append(
                f"  {100 * pilot['gain']:+.2f} points for {price}: {pilot['title']} ({pilot['measures']})"
            )
    return lines if len(lines) > 2 else [*lines, "  no single pilot can be told from worthless"]
