"""The `mopd` command: its root, exit codes, and the verbs of the recipe language.

`train`, `study`, `demo` and `trace` belong to other packages; they are found through the entry-point group
`mopd.commands` and imported only when called, so that `mopd recipes` never pays for torch.

Exit codes: 0 ok, 1 failure, 2 usage or bad file, 3 not found, 4 numerical divergence, 5 infeasible budget,
75 interrupted and resumable, 130 interrupt.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mopdsim import __version__
from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.cli.commands import VERBS
from mopdsim.cli.exchange_command import check_step, export, import_
from mopdsim.cli.flags import Json, emit, group, in_columns
from mopdsim.cli.plan_command import plan

ADDRESS = "127.0.0.1"
SCRIPT = Path(__file__).parents[2] / "app.py"


def serve(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the local server.")] = 8501,
    headless: Annotated[bool, typer.Option("--headless", help="Do not open a browser.")] = False,
) -> None:
    """Open the what-if app in the browser; it listens on this machine alone and sends nothing out.

    Example: mopd app --port 8600 --headless
    """
    arguments = command(port, headless=headless)
    os.execv(arguments[0], arguments)


def command(port: int, *, headless: bool) -> list[str]:
    """What is run. NotFoundError without streamlit or the app's script, UsageError for a port that is taken."""
    if find_spec("streamlit") is None:
        raise NotFoundError("streamlit is not installed: run `pip install streamlit`")
    if not SCRIPT.is_file():
        raise NotFoundError(
            f"{SCRIPT}: no such file: the app runs from the project's directory, not from a wheel"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            raise UsageError(
                f"port = {port}: is taken or not allowed; choose another, such as {port + 1}"
            ) from None
    return [
        sys.executable, "-m", "streamlit", "run", str(SCRIPT), f"--server.port={port}",
        f"--server.headless={str(headless).lower()}",
    ]  # fmt: skip


SUMMARIES = {
    "train": "Run a recipe for real: stages, checkpoints, scores.",
    "study": "Studies that compare runs with forecasts, and the world gate.",
    "demo": "Watch multi-teacher on-policy distillation and its rivals, on a tiny model or a small open one.",
    "trace": "Which teacher made a student say this.",
}

INTERRUPTED = 130
_CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]  # typer carries its own click


class _Root(TyperGroup):
    """The root group, with other packages' commands loaded when called, not when they are listed."""

    listing = False

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self.listing = True
        try:
            super().format_commands(ctx, formatter)
        finally:
            self.listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in SUMMARIES if name in _found())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in SUMMARIES or cmd_name not in _found():
            return super().get_command(ctx, cmd_name)
        if self.listing:
            return typer.main.get_command(_described(cmd_name))
        command = typer.main.get_command(_found()[cmd_name].load())
        command.name = cmd_name
        return command


def _described(name: str) -> typer.Typer:
    """A command's line in the root's help, without importing its package."""
    stub = typer.Typer(help=SUMMARIES[name], add_completion=False)
    stub.callback(invoke_without_command=True)(lambda: None)
    return stub


def _found() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group="mopd.commands")}


app = group(cls=_Root)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Forecast a post-training recipe, or run it for real: one recipe file, two engines.

    Start with `mopd demo`, or `mopd recipes` and `mopd train run mopd --model tiny --out runs/first`.
    """
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def recipes(json_: Json = False) -> None:
    """List the catalogue. Example: mopd recipes --json"""
    from mopdsim.recipes.catalogue import entries

    if json_:
        return emit([{"name": e.name, "summary": e.summary, "options": list(e.options)} for e in entries()])
    for entry in entries():
        print(f"{entry.name:<15} {entry.summary}")
        print(f"{'':<15} options: {', '.join(entry.options)}")


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A recipe file (TOML).")], json_: Json = False) -> None:
    """Validate a recipe file and print what it describes. Example: mopd check my_recipe.toml"""
    from mopdsim.recipes import recipe_file
    from mopdsim.recipes.graph import stage_rows

    recipe = recipe_file.load(file)
    if json_:
        return emit(recipe_file.to_document(recipe))
    print(
        f"{recipe.name}: {len(recipe.stages)} stages over {', '.join(recipe.domains)} ({recipe.amounts_name} amounts)"
    )
    rows = [
        {name: "-" if value in (None, "") else f"{value}" for name, value in row.items()}
        for row in stage_rows(recipe)
    ]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    print("\n".join(in_columns(rows, widths)))


for _verb in (*VERBS, plan, export):
    app.command()(_verb)
app.command("import")(import_)
app.command("app")(serve)
app.command("check-step")(check_step)


def main() -> None:
    """Entry point: a user's error is one sentence and an exit code, never a traceback."""
    if "NO_COLOR" in os.environ:
        os.environ.setdefault("TERM", "dumb")
    gc.freeze()  # what is imported is no garbage
    gc.set_threshold(50_000)
    try:
        code = app(standalone_mode=False, prog_name="mopd")
    except MopdError as error:
        _end(str(error), error.exit_code)
    except _CLICK_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(error.exit_code)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _end(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)
    if code == INTERRUPTED:  # typer's own way to end on Ctrl-C
        _end("interrupted; a run goes on with `mopd train resume DIR`", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _end(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
