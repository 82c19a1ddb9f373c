"""The verb `mopd plan [FILE]`. Leaves out: all arithmetic (`mopdsim.plan.plan`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mopdsim.cli.flags import Json, Keys, emit, new_file, scenario_flags


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
    details: Annotated[
        bool, typer.Option("--details", help="Partitions, reasons, every doubt, sensitivities, frontier.")
    ] = False,
    rough: Annotated[
        bool, typer.Option("--rough", help="A first answer: one round, few draws, not what would change it.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            help="Save the recommended plan here, as a scenario for `mopd forecast`.", callback=new_file
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Save its recipe alone here, for `mopd train run`.", callback=new_file),
    ] = None,
    json_: Json = False,
) -> None:
    """Recommend a recipe under limits: which teachers for which domains, how much compute, and how sure that is.

    Flags override what the file says. --draws are those of the search [default: 200].

    Example: mopd plan studies/questions/eight_domains.toml --gpus 256 --write plan.toml
    """
    from mopdsim.cli.plan_texts import answer_text
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
    """The question of a file with the flags on top, or of the flags alone."""
    from mopdsim.plan.question import REMEDY
    from mopdsim.recipes import recipe_file

    return {**({} if file is None else recipe_file.read_toml(file, remedy=REMEDY)), **keys}
