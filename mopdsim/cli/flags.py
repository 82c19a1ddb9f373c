"""What commands share: groups, options, the JSON document, and the scenario that arguments and flags describe.

Leaves out: the verbs (`mopdsim.cli.commands`, `mopdsim.cli.compare_command`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import update_wrapper
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mopdsim.base.errors import UsageError

if TYPE_CHECKING:
    from mopdsim.forecast.scenario import Scenario

Keys = dict[str, Any]  # of a scenario file
Verb = Callable[..., None]
TINY = "tiny"  # the built-in models, for which domains have a default, are called so

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, everything else on stderr.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="A name of `mopd models`, or a config.json's directory.")
]
GpuName = Annotated[str | None, typer.Option("--gpu", help="A name of `mopd gpus`.")]
Gpus = Annotated[int | None, typer.Option(help="GPUs of the pool.")]
Domains = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated domains of a named recipe [default for tiny models: sort,reverse,shift]."
    ),
]
Teams = Annotated[int | None, typer.Option(help="Stages worked on at once [default: no limit].")]
Budget = Annotated[float | None, typer.Option(help="Dollars; the forecast says how likely it suffices.")]
Deadline = Annotated[float | None, typer.Option(help="Days; likewise.")]
Amounts = Annotated[
    str | None, typer.Option(help="Named set of amounts of a named recipe: tiny, real, small or published.")
]
Draws = Annotated[int | None, typer.Option(help="Monte Carlo draws [default: 1000].")]
Measured = Annotated[
    Path | None,
    typer.Option("--measured", help="Your own stack's seconds, from `mopd calibrate cost --out`."),
]
StackName = Annotated[
    str | None,
    typer.Option("--stack", help="Software: megatron, verl, fsdp, hugging_face or unknown [default]."),
]
Seed = Annotated[int | None, typer.Option(help="Of the draws; common to all recipes.")]
Details = Annotated[
    bool, typer.Option("--details", help="All of a long answer, in place of its first lines.")
]
RunSeed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights, prompts and samples.")]

Workers = Annotated[int | None, typer.Option(min=1, help="Stages side by side [default: one a core].")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]


def group(text: str | None = None, **more: Any) -> typer.Typer:
    """A group of commands, as all of ours look. text: its line of help."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **more,
    )


def listed(text: str | None, field: str) -> list[str]:
    """The names of a comma-separated option `field`, none where it was not given; an empty one is refused."""
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if "" in names:
        raise UsageError(f"{field} = {text!r}: a name is empty: separate names by single commas")
    return names


def new_file(text: str) -> Any:
    """An option that names a file to write; what cannot be one is refused before any work is done. text: its help."""
    return typer.Option(help=text, callback=_writable)


def _writable(param: typer.CallbackParam, value: Path | None) -> Path | None:
    if value is not None and value.is_dir():
        raise UsageError(f"--{param.name} {value}: must be a file, this is a directory: add a name")
    if value is not None and not value.parent.is_dir():
        raise UsageError(f"--{param.name} {value}: its directory does not exist: create {value.parent} first")
    if value is not None:
        try:
            tempfile.TemporaryFile(dir=value.parent).close()
        except OSError as error:
            reason = f"nothing can be written there ({error.strerror})"
            raise UsageError(f"--{param.name} {value}: {reason}: choose another directory") from None
    return value


def in_columns(rows: Iterable[Mapping[str, str]], widths: Mapping[str, int]) -> list[str]:
    """A line of names, then a line a row. widths: of the columns that are shown."""
    whole = [dict(zip(widths, widths, strict=True)), *rows]
    return ["  ".join(f"{row[name]:<{width}}" for name, width in widths.items()).rstrip() for row in whole]


def emit(document: object) -> None:
    """The one JSON document of a command."""
    print(json.dumps(document, indent=1, allow_nan=False))


def scenario_keys(
    *,
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
    stack: StackName = None,
    measured: Measured = None,
) -> dict[str, Any]:
    """The keys of a scenario file that were given as flags."""
    given = {
        "model": model,
        "gpu": gpu,
        "gpus": gpus,
        "domains": None if domains is None else listed(domains, "domains"),
        "teams": teams,
        "budget_usd": budget,
        "deadline_days": deadline,
        "options": None if amounts is None else {"amounts": amounts},
        "draws": draws,
        "seed": seed,
        "stack": stack,
        "measured": None if measured is None else str(measured.resolve()),
    }
    return {key: value for key, value in given.items() if value is not None}


def scenario_flags(*, without: Collection[str] = ()) -> Callable[[Verb], Verb]:
    """Decorator of a verb whose parameter `keys` is made by `scenario_keys`."""
    return options_of(scenario_keys, "keys", without=without)


def options_of(
    made: Callable[..., Any], place: str, *, without: Collection[str] = ()
) -> Callable[[Verb], Verb]:
    """Decorator of a verb: in place of its parameter `place` stand the options of the function `made`, but for those
    named in `without`, and the verb is called with what that function makes of them."""

    def decorated(verb: Verb) -> Verb:
        flags = {
            name: flag
            for name, flag in signature(made, eval_str=True).parameters.items()
            if name not in without
        }
        own = signature(verb, eval_str=True)
        shown = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY)
            for name, written in own.parameters.items()
            for parameter in (flags.values() if name == place else [written])
        ]

        def run(**given: Any) -> None:
            found = made(**{name: given.pop(name) for name in flags})
            verb(**given, **{place: found})

        update_wrapper(run, verb)
        run.__dict__["__signature__"] = own.replace(parameters=shown)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return run

    return decorated


def scenario_of(recipe: str, keys: Mapping[str, Any]) -> Scenario:
    """A named recipe's scenario, or a file's (a scenario or a recipe), with the flags on top."""
    from mopdsim.base.documents import read_toml
    from mopdsim.forecast import scenario
    from mopdsim.recipes.catalogue import DEFAULT_DOMAINS, known

    if not recipe.endswith(".toml"):
        known(recipe)
        asked = {"domains": list(DEFAULT_DOMAINS), **with_domains(keys)}
        found = scenario.of_recipe(recipe, source=recipe, **asked)
        return found if "domains" in keys else replace(found, stated=found.stated - {"domains"})
    document = read_toml(Path(recipe))
    if "stages" in document:
        document = {"recipe": document}
    if "gpus" in keys:
        document = scenario.on_one_pool(document, keys["gpus"])
    return scenario.from_document({**document, **keys}, source=recipe)


def with_domains(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys, with the domains of the small open model where it is asked without. UsageError where a model that is
    not tiny has none, NotFoundError where there is no such model."""
    from mopdsim.facts.model import model
    from mopdsim.recipes.catalogue import REAL_DOMAINS, REAL_MODEL

    name = keys.get("model", TINY)
    known = model(name).name
    if "domains" in keys or known.startswith(TINY):
        return keys
    if known == REAL_MODEL:
        return {**keys, "domains": list(REAL_DOMAINS)}
    raise UsageError(
        f"--domains is missing: model {name!r} is not asked toy domains; name its own, as in --domains math,code"
    )


def published_scenario(recipe: str, keys: Mapping[str, Any]) -> Scenario | None:
    """A published system at its published scale with the flags on top; None where the recipe is no such system, or
    the flags ask for another scale (a model, domains or other amounts)."""
    from mopdsim.forecast import scenario
    from mopdsim.recipes.catalogue import SYSTEMS

    own_scale = keys.get("options", {}).get("amounts", "published") == "published"
    if recipe not in SYSTEMS or not own_scale or "model" in keys or "domains" in keys:
        return None
    rest = {key: value for key, value in keys.items() if key != "options"}
    if "gpus" in rest:
        rest = {"gpus_per_stage": rest["gpus"], **rest}
    return scenario.from_document({**scenario.published_document(recipe), **rest}, source=recipe)
