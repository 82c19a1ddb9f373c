"""The simulator's verbs: `mopd gpus | models | forecast | compare | validate | calibrate`.

Imports of the simulator stay inside the functions, so that each verb pays for what it uses. Leaves out: the root and
its exit codes (`mopdsim.cli`), all arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mopdsim.errors import NotFoundError
from mopdsim.texts import comparison_text, forecast_text, validation_text

if TYPE_CHECKING:
    from mopdsim.scenario import Scenario

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, everything else on stderr.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="A name of `mopd models`, or a config.json's directory.")
]
GpuName = Annotated[str | None, typer.Option("--gpu", help="A name of `mopd gpus`.")]
Gpus = Annotated[int | None, typer.Option(help="GPUs of the pool.")]
Domains = Annotated[
    str | None,
    typer.Option(help="Comma-separated domains of a named recipe [default: sort,reverse,shift, tiny ones]."),
]
Teams = Annotated[int | None, typer.Option(help="Stages worked on at once [default: no limit].")]
Budget = Annotated[float | None, typer.Option(help="Dollars; the forecast says how likely it suffices.")]
Deadline = Annotated[float | None, typer.Option(help="Days; likewise.")]
Amounts = Annotated[str | None, typer.Option(help="Named set of amounts of a named recipe: tiny or small.")]
Draws = Annotated[int | None, typer.Option(help="Monte Carlo draws [default: 1000].")]
Seed = Annotated[int | None, typer.Option(help="Of the draws; common to all recipes.")]
Kind = Literal["decode", "train_throughput", "rl_steps", "quality", "project_totals"]
CostKind = Literal["decode", "train_throughput", "rl_steps"]


def emit(document: object) -> None:
    """The one JSON document of a command."""
    print(json.dumps(document, indent=1, allow_nan=False))


def gpus(json_: Json = False) -> None:
    """List the GPUs with their peaks, memory, links and prices. Example: mopd gpus --json"""
    from dataclasses import asdict

    from mopdsim.hardware import gpus as known

    rows = {name: asdict(gpu) for name, gpu in known().items()}
    if json_:
        return emit(rows)
    for name, gpu in known().items():
        price = "" if gpu.usd_per_gpu_hour is None else f"${gpu.usd_per_gpu_hour:.2f}/h ({gpu.price_date})"
        print(
            f"{name:<12} {gpu.flops_per_s() / 1e12:7.0f} TFLOP/s bf16  {gpu.memory_bytes / 1e9:5.0f} GB  {price}"
        )


def models(json_: Json = False) -> None:
    """List the models with their sizes. Example: mopd models --json"""
    from mopdsim.model import models as known

    if json_:
        return emit(
            {
                name: {
                    "total_parameters": model.total_parameters,
                    "active_parameters": model.active_parameters,
                    "forward_flops_per_token": model.forward_flops_per_token,
                    "kv_bytes_per_token": model.kv_bytes_per_token(),
                    "source": model.source,
                }
                for name, model in known().items()
            }
        )
    for name, model in known().items():
        total, active = model.total_parameters / 1e9, model.active_parameters / 1e9
        print(f"{name:<44} {total:9.3f} B  {active:8.3f} B active")


def forecast(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|FILE", help="A name of `mopd recipes`, or a TOML file.")
    ],
    model: ModelName = None,
    gpu: GpuName = None,
    gpus: Gpus = None,
    domains: Domains = None,
    teams: Teams = None,
    budget: Budget = None,
    deadline: Deadline = None,
    amounts: Amounts = None,
    draws: Draws = None,
    seed: Seed = None,
    write: Annotated[Path | None, typer.Option(help="Save the fully resolved scenario here.")] = None,
    json_: Json = False,
) -> None:
    """Forecast cost, calendar and quality: a recipe's name, a recipe file or a scenario file.

    Example: mopd forecast mopd --domains math,code --model Qwen3-30B-A3B --gpu H100 --gpus 64 --amounts small
    """
    from mopdsim.forecast import forecast as run

    flags = _flags(model, gpu, gpus, domains, teams, budget, deadline, amounts, draws, seed)
    scenario = _scenario(recipe, flags)
    if write is not None:
        from mopdsim.scenario import dump

        write.write_text(dump(scenario), encoding="utf-8")
    document = run(scenario).to_document()
    emit(document) if json_ else print(forecast_text(document))


def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE|FILE ...", help="Two or more; the first is the baseline.")
    ],
    model: ModelName = None,
    gpu: GpuName = None,
    gpus: Gpus = None,
    domains: Domains = None,
    teams: Teams = None,
    budget: Budget = None,
    deadline: Deadline = None,
    amounts: Amounts = None,
    draws: Draws = None,
    seed: Seed = None,
    json_: Json = False,
) -> None:
    """Forecast several recipes in the same worlds: differences, the probability that one is better, or a tie.

    Example: mopd compare mixed_rl mopd merge --domains math,code
    """
    from mopdsim.compare import compare as judge
    from mopdsim.forecast import forecast as run

    flags = _flags(model, gpu, gpus, domains, teams, budget, deadline, amounts, draws, seed)
    document = judge([run(_scenario(recipe, flags)) for recipe in recipes])
    emit(document) if json_ else print(comparison_text(document))


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
    document = _validation(kind, data)
    emit(document) if json_ else print(validation_text(document))


def calibrate(
    kind: Annotated[CostKind, typer.Argument(help="Which constants to fit.")],
    data: Annotated[Path, typer.Option(help="The measurements (CSV).")],
    out: Annotated[
        Path | None, typer.Option(help="Write a constants file here [default: nothing is written].")
    ] = None,
    json_: Json = False,
) -> None:
    """Fit the cost constants to measurements and report leave-one-out errors.

    Example: mopd calibrate train_throughput --data mine.csv --out constants.json
    """
    from mopdsim.fit_cost import calibrated_report
    from mopdsim.fit_cost import write as save

    entry, report = calibrated_report(kind, data)
    if out is not None:
        save(kind, entry, out)
    document = {"entry": entry, "report": report.as_json()}
    emit(document) if json_ else print(validation_text(report.as_json()))


VERBS = (gpus, models, forecast, compare, validate, calibrate)


def _flags(
    model: str | None,
    gpu: str | None,
    gpus: int | None,
    domains: str | None,
    teams: int | None,
    budget: float | None,
    deadline: float | None,
    amounts: str | None,
    draws: int | None,
    seed: int | None,
) -> dict[str, Any]:
    """The keys of a scenario file that were given as flags."""
    given = {
        "model": model,
        "gpu": gpu,
        "gpus": gpus,
        "domains": None if domains is None else [name.strip() for name in domains.split(",") if name.strip()],
        "teams": teams,
        "budget_usd": budget,
        "deadline_days": deadline,
        "options": None if amounts is None else {"amounts": amounts},
        "draws": draws,
        "seed": seed,
    }
    return {key: value for key, value in given.items() if value is not None}


def _scenario(recipe: str, flags: Mapping[str, Any]) -> Scenario:
    """A named recipe's scenario, or a file's (a scenario or a recipe), with the flags on top."""
    from mopdsim import scenario
    from mopdsim.recipe_file import read_toml
    from mopdsim.recipes import CATALOGUE, DEFAULT_DOMAINS

    if not recipe.endswith(".toml"):
        if recipe not in CATALOGUE:
            from mopdsim.errors import did_you_mean

            raise NotFoundError(
                f"no recipe {recipe!r}{did_you_mean(recipe, CATALOGUE)}; a file ends in .toml"
            )
        return scenario.of_recipe(recipe, source=recipe, **{"domains": list(DEFAULT_DOMAINS), **flags})
    document = read_toml(Path(recipe))
    if "stages" in document:
        document = {"recipe": document}
    if "gpus" in flags:
        document.pop("pools", None)
    return scenario.from_document({**document, **flags}, source=recipe)


def _validation(kind: Kind, data: Path | None) -> dict[str, Any]:
    if kind == "quality":
        from mopdsim.validate_quality import validate as of_quality

        return of_quality(data)
    if kind == "project_totals":
        from mopdsim.validate_projects import validate as of_projects

        return of_projects(data)
    from mopdsim.validate import validate as of_times

    return of_times(kind, data).as_json()
