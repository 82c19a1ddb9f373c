"""The simulator's verbs: `mopd gpus | models | forecast | compare | validate | calibrate`, and what they print.

Imports of the simulator stay inside the functions, so that each verb pays for what it uses. Leaves out: the root and
its exit codes (`mopdsim.cli.main`), options and scenarios (`mopdsim.cli.flags`), all arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mopdsim.base.documents import write_document
from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import count, duration, score, share, three, usd
from mopdsim.cli.compare_command import compare
from mopdsim.cli.flags import (
    Details,
    Json,
    Keys,
    emit,
    new_file,
    published_scenario,
    scenario_flags,
    scenario_of,
)

LINES = 25  # of an answer without --details
_IDLE = 0.02  # of the pool, from which on its price is another than that of the busy GPUs
_STAGES, _DOMAINS, _CAUTIONS = 4, 3, 2  # shown of many


def forecast_text(document: Mapping[str, Any], assumed: str, *, details: bool = False) -> str:
    """A forecast for people: what was asked, totals, stages, scores with intervals, warnings; of a long recipe the
    dearest stages and the weakest domains, unless details are asked for."""
    head = [
        assumed,
        f"{document['recipe']}, {len(document['stages'])} stages: P10 / P50 / P90 of {count(document['draws'])} draws",
        *_totals(document),
    ]
    whole = [*head, *_stages(document["stages"]), *_all_scores(document)]
    whole += [f"warning: {warning}" for warning in document["warnings"]]
    if details or len(whole) <= LINES:
        return "\n".join(whole)
    return "\n".join([*head, *_shortened(document)])


def _totals(document: Mapping[str, Any]) -> Iterator[str]:
    """Cost and calendar, each with its grade, and how surely limits are kept."""
    for name, label, unit in (
        ("gpu_hours", "GPU-hours", count),
        ("usd", "cost", usd),
        ("days", "calendar", duration),
    ):
        yield f"  {label:<10} {three(document[name], unit)}  ({document['grades'][name]})"
    reserved = document["reserved"]
    if reserved["idle_share"]["p50"] > _IDLE:
        yield (
            f"  {'reserved':<10} {three(reserved['usd'], usd)} for the whole pool until the end, "
            f"{share(reserved['idle_share']['p50'])} of it idle"
        )
    if document["project_overhead"]["p90"] > 1:
        yield (
            f"  {'overhead':<10} {three(document['project_overhead'])} times, of the project and in all of these"
        )
    for name, label in (("within_budget", "within budget"), ("within_deadline", "within deadline")):
        if document[name] is not None:
            yield f"  {label}: {share(document[name])} of draws"


def _stages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a stage."""
    return ["stages", *(_stage(row) for row in rows)]


def _stage(row: Mapping[str, Any]) -> str:
    hours = f"{three(row['gpu_hours'])} GPU-hours"
    return f"  {row['name']:<20} {row['kind']:<18} {hours:<36} {row['layout'] or ''}".rstrip()


def _all_scores(document: Mapping[str, Any]) -> list[str]:
    """A line a domain, then their mean and the worst; of side outputs too."""
    means = {"mean of domains": document["mean_score"], "worst domain": document["worst_score"]}
    shown = document["scores"] if len(document["scores"]) == 1 else {**document["scores"], **means}
    lines = ["scores", *_score_lines(shown)]
    for title, scores in document["side_outputs"].items():
        lines += [f"scores of {title}", *_score_lines(scores)]
    return lines


def _shortened(document: Mapping[str, Any]) -> list[str]:
    """The dearest stages, mean and worst with the weakest domains, the first cautions, and how many there are more."""
    stages = sorted(document["stages"], key=lambda row: -float(row["gpu_hours"]["p50"]))
    names = sorted(document["scores"], key=lambda name: float(document["scores"][name]["p50"]))
    means = {"mean of domains": document["mean_score"], "worst domain": document["worst_score"]}
    weakest = {name: document["scores"][name] for name in names[:_DOMAINS]}
    left = {
        "stages": len(stages) - _STAGES,
        "domains": len(names) - _DOMAINS,
        "side outputs": len(document["side_outputs"]),
        "warnings": len(document["warnings"]) - _CAUTIONS,
    }
    more = ", ".join(f"{many} more {what}" for what, many in left.items() if many > 0)
    return [
        f"stages, the dearest of {len(stages)}",
        *(_stage(row) for row in stages[:_STAGES]),
        f"scores, and the weakest of {len(names)} domains",
        *_score_lines({**means, **weakest}),
        *(f"warning: {warning}" for warning in document["warnings"][:_CAUTIONS]),
        f"--details shows {more}",
    ]


def _score_lines(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"  {name:<20} {three(row, score)}" for name, row in rows.items()]


def validation_text(document: Mapping[str, Any]) -> str:
    lines = []
    for row in document["predictions"]:
        cells = [
            f"{key} {count(value)}" if isinstance(value, float) else f"{key} {value}"
            for key, value in row.items()
        ]
        lines.append("  " + "  ".join(cells))
    for key, value in document.items():
        if key in ("predictions",):
            continue
        if isinstance(value, Mapping):
            lines.append(f"{key}:")
            lines += [f"  {name}: {_short(found)}" for name, found in value.items()]
        else:
            lines.append(f"{key}: {_short(value)}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return count(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(found)}" for key, found in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(_short(found) for found in value) or "none"
    return str(value)


Kind = Literal[
    "decode", "train_throughput", "rl_steps", "quality", "project_totals", "published", "scenarios"
]
FitKind = Literal["cost", "decode", "train_throughput", "rl_steps", "quality"]


def gpus(json_: Json = False) -> None:
    """List the GPUs with their peaks, memory, links and prices. Example: mopd gpus --json"""
    from dataclasses import asdict

    from mopdsim.facts.hardware import gpus as known

    rows = {name: asdict(gpu) for name, gpu in known().items()}
    if json_:
        return emit(rows)
    for name, gpu in known().items():
        price = "" if gpu.usd_per_gpu_hour is None else f"${gpu.usd_per_gpu_hour:.2f}/h ({gpu.price_date})"
        print(
            f"{name:<12} {gpu.flops_per_s() / 1e12:7.0f} TFLOP/s bf16  {gpu.memory_bytes / 1e9:5.0f} GB  {price}"
        )


def models(
    model: Annotated[
        str | None, typer.Option(help="Only this one: a name, a config.json or its directory.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the models with their sizes. Example: mopd models --model path/to/config.json --json"""
    from mopdsim.facts.model import model as found
    from mopdsim.facts.model import models as known

    rows = known() if model is None else {(one := found(model)).name: one}
    if json_:
        return emit(
            {
                name: {
                    "total_parameters": row.total_parameters,
                    "active_parameters": row.active_parameters,
                    "forward_flops_per_token": row.forward_flops_per_token,
                    "kv_bytes_per_token": row.kv_bytes_per_token(),
                    "source": row.source,
                    **({"assumed": list(row.assumed)} if model is not None else {}),
                }
                for name, row in rows.items()
            }
        )
    for name, row in rows.items():
        total, active = row.total_parameters / 1e9, row.active_parameters / 1e9
        print(f"{name:<44} {total:9.3f} B  {active:8.3f} B active")
        if row.assumed:
            print(f"  filled by the family's config class: {', '.join(row.assumed)}")


@scenario_flags()
def forecast(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|FILE", help="A name of `mopd recipes`, or a TOML file.")
    ],
    *,
    keys: Keys,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Fitted parameters (`mopd calibrate quality`) [default: the shipped ones]."),
    ] = None,
    write: Annotated[Path | None, new_file("Save the fully resolved scenario here.")] = None,
    why: Annotated[bool, typer.Option("--why", help="Say what each number rests on.")] = False,
    details: Details = False,
    json_: Json = False,
) -> None:
    """Forecast cost, calendar and quality: a recipe's name, a recipe file or a scenario file.

    A published system without --model, --domains and --amounts is forecast at its published scale. --details adds
    every stage, domain and warning of a long recipe.

    Example: mopd forecast mopd --domains math,code --model Qwen3-30B-A3B --gpu H100 --gpus 64 --amounts small
    """
    from mopdsim.belief.calibration import load
    from mopdsim.forecast.forecast import forecast as run
    from mopdsim.forecast.scenario import dump
    from mopdsim.forecast.why import assumptions
    from mopdsim.forecast.why import why as reasons

    scenario = published_scenario(recipe, keys) or scenario_of(recipe, keys)
    if write is not None:
        write.write_text(dump(scenario), encoding="utf-8")
    known = None if calibration is None else load(calibration)
    found = run(scenario, known)
    document = found.to_document()
    if why:
        document["why"] = reasons(found, known)
    emit(document) if json_ else print(forecast_text(document, assumptions(found.scenario), details=details))
    if why and not json_:
        print("why", *document["why"], sep="\n  ")


def validate(
    kind: Annotated[Kind, typer.Argument(help="Which model of the simulator.")],
    data: Annotated[
        Path | None, typer.Option(help="A CSV with the same columns [default: the shipped one].")
    ] = None,
    json_: Json = False,
) -> None:
    """Compare predictions with measurements: by row, model and GPU; left-out errors; a naive roofline beside.

    Example: mopd validate rl_steps --json
    """
    from mopdsim.validate import report_of

    document = report_of(kind, data)
    emit(document) if json_ else print(validation_text(document))


def calibrate(
    kind: Annotated[
        FitKind,
        typer.Argument(
            help="What to fit; cost: what your own stack's steps take, from one row up, for --measured; decode, "
            "train_throughput, rl_steps: the time model's constants, from many rows; quality: learning, interference "
            "and distillation, to a study's observations."
        ),
    ],
    data: Annotated[Path, typer.Option(help="The measurements (CSV).")],
    out: Annotated[Path | None, new_file("Write the fit here [default: nothing is written].")] = None,
    stack: Annotated[
        str,
        typer.Option(help="With cost: the class of software: megatron, verl, fsdp, hugging_face or unknown."),
    ] = "unknown",
    json_: Json = False,
) -> None:
    """Fit your own stack's seconds, the cost constants, or the quality model to measurements.

    Example: mopd calibrate cost --data mine.csv --out my_stack.json
    """
    if kind == "quality":
        from mopdsim.fit import quality

        shown = written = quality.fitted([data])
        text = quality.fit_text(shown)
    elif kind == "cost":
        from mopdsim.validate import measured

        shown = written = measured.document(cost_kind(data), data, name=stack)
        text = measured.text(shown)
    else:
        from mopdsim.cost.constants import parse
        from mopdsim.fit.cost import calibrate as refitted
        from mopdsim.fit.cost import constants_document
        from mopdsim.validate.cost import validate as judged

        entry = refitted(kind, data)
        written = constants_document(kind, entry)
        shown = {"entry": entry, "report": judged(kind, data, fitted=parse(kind, entry))}
        text = validation_text(shown["report"])
    if out is not None:
        write_document(out, written)
    emit(shown) if json_ else print(text)


VERBS = (gpus, models, forecast, compare, validate, calibrate)


def cost_kind(data: Path) -> str:
    """The kind of step that a table of own measurements is about, by its columns. UsageError where it is none."""
    from mopdsim.validate.measured import KINDS
    from mopdsim.validate.tables import read_rows

    rows = read_rows(data, ())
    if not rows:
        raise UsageError(f"data file {str(data)!r} has no rows: a line of columns, then a line a measurement")
    columns = set(rows[0][1])
    needs = {kind: tuple(loader.COLUMNS) for kind, loader in KINDS.items()}
    fitting = [kind for kind, names in needs.items() if columns >= set(names)]
    if not fitting:
        shown = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in needs.items())
        raise UsageError(
            f"data file {str(data)!r}: its columns are of no cost table: it must have those of {shown}; an "
            "engine's own log is read by `mopd import`"
        )
    return fitting[0]
