"""The verb `mopd plan FILE`. Leaves out: all arithmetic (`mopdsim.plan.plan`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mopdsim.cli.flags import Json, emit, new_file


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A question (TOML); see studies/questions.")],
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
    seed: Annotated[int | None, typer.Option(help="Of the draws [default: the file's, or 0].")] = None,
    draws: Annotated[
        int | None, typer.Option(help="Draws of the search [default: the file's, or 200].")
    ] = None,
    json_: Json = False,
) -> None:
    """Recommend a recipe under limits: which teachers for which domains, how much compute, and how sure that is.

    Example: mopd plan studies/questions/eight_domains.toml --write plan.toml
    """
    from mopdsim.cli.plan_texts import answer_text
    from mopdsim.forecast import scenario
    from mopdsim.plan.plan import plan as run
    from mopdsim.plan.question import REMEDY, from_document
    from mopdsim.recipes import recipe_file

    flags = {"seed": seed, "draws": draws}
    given = {key: value for key, value in flags.items() if value is not None}
    document = {**recipe_file.read_toml(file, remedy=REMEDY), **given}
    answer = run(from_document(document, source=str(file)))
    chosen = answer.recommended.forecast.scenario
    if write is not None:
        write.write_text(scenario.dump(chosen), encoding="utf-8")
    if recipe is not None:
        recipe.write_text(recipe_file.dump(chosen.recipe), encoding="utf-8")
    found = answer.to_document()
    emit(found) if json_ else print(answer_text(found))
