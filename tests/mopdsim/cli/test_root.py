"""The `mopd` command as a user meets it: documents on stdout, one sentence and an exit code for every mistake.

`main` runs in this process, as the console script would call it; one process of its own checks what is imported.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from small_world import write_domains, write_model

from mopdsim.base.errors import (
    DivergenceError,
    InfeasibleError,
    Interrupted,
    MopdError,
    NotFoundError,
    UsageError,
)
from mopdsim.cli import main
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.stage import default_amounts

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Mopd = Callable[..., Result]


@pytest.fixture
def mopd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mopd:
    """`mopd ARGUMENTS` in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["mopd", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capsys.readouterr()
        return Result(ended.value.code or 0, captured.out, captured.err)  # type: ignore[arg-type]

    return run


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands below the root, by their words."""
    yield path
    if hasattr(group, "list_commands"):
        context = typer.Context(group)
        for name in group.list_commands(context):
            yield from commands(group.get_command(context, name), (*path, name))


COMMANDS = list(commands(typer.main.get_command(main.app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(mopd: Mopd, words: tuple[str, ...]) -> None:
    found = mopd(*words, "--help")
    assert found.code == 0 and found.out.startswith("Usage: mopd") and found.err == ""
    assert len(found.out.splitlines()) > 4


def test_the_trainers_commands_are_there() -> None:
    wanted = {
        ("train", name) for name in ("init-model", "get-model", "run", "resume", "eval", "show", "bench")
    }
    assert wanted | {("recipes",), ("check",), ("demo",)} <= set(COMMANDS)


def test_without_a_command_the_help_is_shown(mopd: Mopd) -> None:
    assert "recipes" in mopd().out + mopd().err
    assert mopd("--version").out.strip()


# What works.


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Domains from files and a model, as options."""
    folder = tmp_path_factory.mktemp("world")
    specs = write_domains(folder)
    return {
        "domains": ",".join([specs["low"], specs["high"]]),
        "model": str(write_model(folder / "model", seed=1)),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


QUICK = ["test_items=8", "validation_items=4", "max_truncation=1.0", "checkpoint_every=1"]
SIZES = ["teacher_1", "teacher_2", "student"]


def run_options(world: dict[str, str], out: Path, store: Path) -> list[str]:
    """Options of a short `mopd train run mopd`."""
    found = [
        "--model",
        world["model"],
        "--domains",
        world["domains"],
        "--out",
        str(out),
        "--store",
        str(store),
    ]
    for setting in QUICK:
        found += ["--setting", setting]
    for stage in SIZES:
        found += ["--set", f"amounts_of.{stage}.steps=2", "--set", f"amounts_of.{stage}.prompts_per_step=4"]
    return [*found, "--workers", "1"]


@pytest.mark.slow
def test_a_run_from_start_to_curves(mopd: Mopd, world: dict[str, str], stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = mopd("train", "run", "mopd", *run_options(world, out, stored), "--json")
    assert done.code == 0
    assert {"run", "stages", "scores", "flops", "seconds", "weights_sha256"} <= set(done.document)
    assert "mopd on" in done.err and "mean score" in done.err

    assert mopd("train", "resume", out, "--json").document == done.document
    scored = mopd("train", "eval", out, "--items", 8, "--json")
    assert scored.document["scores"].keys() == done.document["scores"].keys()
    for domain, row in done.document["scores"].items():
        assert scored.document["scores"][domain]["pass_rate"] == row["final"]

    shown = mopd("train", "show", out)
    assert shown.code == 0 and "student" in shown.out and "±" in shown.out
    for name in ("scores.png", "training.png"):
        assert (out / "plots" / name).read_bytes().startswith(b"\x89PNG")
    with (out / "tables" / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["stage"] for row in table} == {"base", *SIZES} and len(table) == 8
    assert json.loads(mopd("train", "show", out, "--json").out)["files"]

    plain = mopd("train", "run", "mopd", *run_options(world, tmp_path / "again", stored))
    assert plain.code == 0 and "student" in plain.out and "from the store" in plain.err


def test_a_model_is_made_and_scored(mopd: Mopd, tmp_path: Path) -> None:
    sizes = ["--kind", "bytes", "--hidden", 16, "--layers", 1, "--json"]
    made, again = (
        mopd("train", "init-model", "--out", tmp_path / name, *sizes).document for name in ("m", "n")
    )
    assert made["parameters"] > 0 and len(made["weights_sha256"]) == 64
    assert again["weights_sha256"] == made["weights_sha256"]
    scored = mopd("train", "eval", tmp_path / "m", "--domains", "sort,reverse", "--items", 4)
    assert scored.code == 0 and scored.out.count("truncated") == 2
    assert scored.out.count("greedy") == scored.out.count("pass@8") == 2


def test_catalogue_and_check_are_documents(mopd: Mopd, tmp_path: Path) -> None:
    assert {row["name"] for row in mopd("recipes", "--json").document} == set(catalogue.CATALOGUE)
    assert all(name in mopd("recipes").out for name in catalogue.CATALOGUE)
    file = tmp_path / "mine.toml"
    file.write_text(recipe_file.dump(catalogue.recipe("mopd", ["sort", "reverse"])))
    assert mopd("check", file, "--json").document["name"] == "mopd"
    assert "4 stages" not in mopd("check", file).out and "3 stages" in mopd("check", file).out


def test_a_dry_run_resolves_and_writes_nothing(mopd: Mopd, world: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = run_options(world, out, tmp_path / "store")
    found = mopd(
        "train", "run", "mopd", *options, "--set", "balance=token_share", "--dry-run", "--json"
    ).document
    assert found["recipe"]["amounts_of"]["student"]["steps"] == 2
    assert found["settings"]["test_items"] == 8
    assert found["answers"].keys() == {"training", "evaluation"}
    text = mopd("train", "run", "mopd", *options, "--set", "balance=token_share", "--dry-run").out
    resolved = recipe_file.loads(text)
    assert resolved.stage["student"].balance == "token_share"  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == []


def test_defaults_then_the_file_then_flags(mopd: Mopd, tmp_path: Path) -> None:
    document = recipe_file.to_document(catalogue.recipe("mopd", ["sort"], amounts="small"))
    file = tmp_path / "mine.toml"
    import tomli_w

    file.write_text(tomli_w.dumps({key: value for key, value in document.items() if key != "amounts_of"}))
    rest = ["--out", tmp_path / "run", "--dry-run", "--json"]

    def student(*more: object) -> tuple[float, int]:
        found = mopd("train", "run", file, *more, *rest).document["recipe"]["amounts_of"]["student"]
        return found["learning_rate"], found["steps"]

    small, tiny = (default_amounts(name, "distill") for name in ("small", "tiny"))
    assert small.learning_rate != tiny.learning_rate
    assert student() == (small.learning_rate, small.steps)
    assert student("--amounts", "tiny") == (tiny.learning_rate, tiny.steps)
    changed = ["--amounts", "tiny", "--set", "amounts_of.student.steps=30"]
    assert student(*changed) == (tiny.learning_rate, 30)
    assert student(*changed, "--scale", "0.5") == (tiny.learning_rate, 15)


def test_the_small_open_model_is_one_question_to_both_engines(mopd: Mopd, tmp_path: Path) -> None:
    from mopdsim.cli.flags import scenario_of

    asked = scenario_of("mopd", {"model": "smollm2-135m"})
    run = mopd(
        "train", "run", "mopd", "--model", "smollm2-135m", "--out", tmp_path / "run", "--dry-run", "--json"
    )
    assert recipe_file.to_document(asked.recipe) == run.document["recipe"]
    assert asked.gpu == "CPU-2-cores" and asked.recipe.domains == catalogue.REAL_DOMAINS
    assert not {"domains", "amounts", "gpu"} & asked.stated


def test_cells_that_a_spreadsheet_would_run_are_escaped(tmp_path: Path) -> None:
    from mopdsim.base.run_directory import PHASES
    from trainer.runs.show import write_table

    score = dict.fromkeys(("pass_rate", "se", "n", "length", "truncated", "entropy"), -0.5)
    domains = dict.fromkeys(("=1+1", "+x", "-x", "@x", "sort"), score)
    row = {"kind": "rl", "domains": domains, "flops": dict.fromkeys(PHASES, 1.0)}
    (path,) = write_table(tmp_path, {"stages": {"trained": row}})
    with path.open() as file:
        table = list(csv.DictReader(file))
    assert [line["domain"] for line in table] == ["'=1+1", "'+x", "'-x", "'@x", "sort"]
    assert {line["entropy"] for line in table} == {"-0.5"}  # numbers stay numbers


# What does not.


def train_run(*more: object) -> list[object]:
    return ["train", "run", "mopd", "--out", "OUT", *more]


MISTAKES: dict[str, tuple[list[object], int, str]] = {
    "no such command": (["trian"], 2, "No such command"),
    "no such flag": (train_run("--domain", "sort"), 2, "--domains"),
    "no out": (["train", "run", "mopd"], 2, "--out"),
    "no such recipe": (["train", "run", "mpod", "--out", "OUT"], 3, "did you mean 'mopd'"),
    "no such file": (["train", "run", "mine.toml", "--out", "OUT"], 3, "mine.toml: no such file"),
    "plan of no file": (["plan", "mine.toml"], 3, "mine.toml: no such file; give a question (TOML)"),
    "quick with a scale": (
        ["study", "plan", "gain", "--quick", "--scale", "0.5"],
        2,
        "--quick has a scale of its own",
    ),
    "plan to nowhere": (
        ["plan", "mine.toml", "--write", "no/such/plan.toml"],
        2,
        "--write no/such/plan.toml: its directory",
    ),
    "plan to a directory": (
        ["plan", "mine.toml", "--recipe", "."],
        2,
        "--recipe .: must be a file, this is a directory",
    ),
    "check of no file": (["check", "mine.toml"], 3, "no such file"),
    "no such domain": (train_run("--domains", "sort,revers"), 3, "did you mean 'reverse'"),
    "no domain": (train_run("--domains", ","), 2, "name is empty"),
    "the same twice": (train_run("--domains", "sort,sort"), 2, "'sort' is listed twice"),
    "a dial out of range": (train_run("--domains", "sort?length=0"), 2, "length"),
    "no such model": (train_run("--model", "/no/such/model"), 3, "no such directory"),
    "no model in it": (train_run("--model", "EMPTY"), 3, "config.json is missing"),
    "no such device": (train_run("--device", "tpu"), 2, "must be cpu or cuda"),
    "no such type": (train_run("--dtype", "float16"), 2, "float32"),
    "no such amounts": (train_run("--amounts", "huge"), 2, "tiny"),
    "no such option": (train_run("--set", "ruonds=2"), 2, "did you mean 'rounds'"),
    "no such path": (train_run("--set", "amounts_of.student.stpes=2"), 2, "did you mean 'steps'"),
    "no such stage": (train_run("--set", "stages.studnet.loss=forward_kl"), 2, "did you mean 'student'"),
    "no pair": (train_run("--set", "rounds"), 2, "KEY=VALUE"),
    "no such setting": (train_run("--setting", "test_itmes=5"), 2, "did you mean 'test_items'"),
    "a bad setting": (train_run("--setting", "test_items=0"), 2, "greater than or equal to 1"),
    "no steps left": (train_run("--scale", "0"), 2, "scale = 0.0: must be a finite number above 0"),
    "no workers": (train_run("--workers", "0"), 2, "workers"),
    "a negative seed": (train_run("--seed", "-1"), 2, "'--seed': Input should be greater than or equal to 0"),
    "a demo's negative seed": (
        ["demo", "--seed", "-1"],
        2,
        "'--seed': Input should be greater than or equal to 0",
    ),
    "an empty name": (["forecast", "mopd", "--domains", "sort,,reverse"], 2, "name is empty"),
    "too few prompts": (
        train_run("--domains", "DOMAIN"),
        2,
        "distinct validation prompts asked for, 20 exist",
    ),
    "a broken line": (train_run("--domains", "BROKEN"), 2, "broken.jsonl, line 2: not JSON"),
    "no such prompts": (train_run("--domains", "jsonl:gone.jsonl"), 3, "is not a file"),
    "a file in the way": (train_run("--out", "FILE"), 1, "cannot be written"),
    "a file as parent": (train_run("--out", "FILE/run"), 1, "cannot be written"),
    "resume of nothing": (["train", "resume", "EMPTY"], 3, "no run directory"),
    "show of nothing": (["train", "show", "EMPTY"], 3, "no run directory"),
    "show of what is not finished": (["train", "show", "STOPPED"], 3, "finish it with `mopd train resume"),
    "resume of what was emptied": (
        ["train", "resume", "STOPPED"],
        2,
        "settings is missing: put the file back",
    ),
    "show of a list": (["train", "show", "LISTED"], 2, "holds [7] where a table belongs"),
    "resume of a file": (["train", "resume", "FILE"], 3, "no run directory"),
    "eval of a model that runs make": (
        ["train", "eval", "tiny", "--domains", "sort"],
        2,
        "give the --out of one",
    ),
    "more prompts than anyone waits for": (
        train_run("--setting", "test_items=7000000"),
        2,
        "equal to 100000",
    ),
    "times to where nothing can be written": (
        ["train", "pace", "--out", "/proc/times.json"],
        2,
        "choose another directory",
    ),
    "an export to where nothing can be written": (
        ["export", "mixed_rl", "--weights", "/m", "--to", "trl", "--out", "/proc/exported"],
        1,
        "--out /proc/exported: cannot be written: No such file or directory; free space or choose another",
    ),
    "a task that is none": (["compare", "mopd", "merge", "--domains", "ask:sum,ask:smal"], 3, "'ask:smal'"),
    "eval without domains": (["train", "eval", "MODEL"], 2, "--domains"),
    "eval of nothing": (["train", "eval", "EMPTY", "--domains", "sort"], 3, "config.json is missing"),
    "eval of no items": (["train", "eval", "MODEL", "--domains", "sort", "--items", "0"], 2, "greater than"),
    **{
        f"eval at temperature {value}": (
            ["train", "eval", "MODEL", "--domains", "sort", f"--temperature={value}"],
            2,
            f"temperature = {float(value)}: must be a finite number from 0",
        )
        for value in ("inf", "nan", "-1")
    },
    "a model nobody offers": (["train", "get-model", "smollm"], 3, "did you mean 'smollm2-135m'"),
    "a model over a file": (["train", "init-model", "--out", "FILE"], 2, "exists already"),
    "a model over a model": (["train", "init-model", "--out", "MODEL"], 2, "exists already"),
    "a model that does not divide": (["train", "init-model", "--out", "OUT", "--hidden", "7"], 2, "multiple"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    mopd: Mopd, mistake: str, world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    arguments, code, words = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "resolved.json").write_text("{}")
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "summary.json").write_text("[7]")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c", ')
    stand_ins = {
        "OUT": tmp_path / "out",
        "EMPTY": tmp_path / "empty",
        "STOPPED": tmp_path / "stopped",
        "LISTED": tmp_path / "listed",
        "FILE/run": tmp_path / "file" / "run",
        "FILE": tmp_path / "file",
        "MODEL": world["model"],
        "DOMAIN": world["domains"].partition(",")[0],
        "BROKEN": f"jsonl:{tmp_path / 'broken.jsonl'}",
    }
    monkeypatch.chdir(tmp_path / "empty")
    found = mopd(*(stand_ins.get(str(argument), argument) for argument in arguments))
    assert found.code == code, found.err
    assert words in found.err and found.out == "" and "Traceback" not in found.err
    assert (
        len(found.err.strip().splitlines()) == 1 or found.err.startswith("Usage:") or "mopd on" in found.err
    )
    assert (tmp_path / "file").read_text() == "precious" and not (tmp_path / "out").exists()


def test_a_gpu_without_cuda(mopd: Mopd, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = mopd(*train_run("--device", "cuda", "--out", tmp_path / "run"))
    assert found.code == 2 and "no CUDA device" in found.err and not (tmp_path / "run").exists()


def test_models_whose_parts_do_not_fit(mopd: Mopd, world: dict[str, str], tmp_path: Path) -> None:
    """A tokenizer larger than the vocabulary; weights with a tensor missing, which would be left random."""
    from safetensors.torch import load_file, save_file

    from trainer.model.tiny import init_model

    init_model(tmp_path / "large", kind="bytes", hidden=16, layers=1, heads=2)
    init_model(tmp_path / "small", kind="tiny", hidden=16, layers=1, heads=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "small" / name).write_bytes((tmp_path / "large" / name).read_bytes())
    found = mopd("train", "eval", tmp_path / "small", "--domains", "sort")
    assert found.code == 2 and re.search(
        r"the tokenizer has \d+ tokens, the model's vocabulary \d+", found.err
    )

    file = tmp_path / "large" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "q_proj" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    found = mopd("train", "eval", tmp_path / "large", "--domains", "sort")
    assert found.code == 2 and "q_proj" in found.err and "left random" in found.err

    file.write_bytes(file.read_bytes()[:100])
    found = mopd("train", "eval", tmp_path / "large", "--domains", "sort")
    assert found.code == 2 and "is damaged" in found.err


ENDS: list[tuple[BaseException, int, str]] = [
    (MopdError("it failed"), 1, "error: it failed"),
    (UsageError("bad value"), 2, "error: bad value"),
    (NotFoundError("no such thing"), 3, "error: no such thing"),
    (DivergenceError("loss nan"), 4, "error: loss nan"),
    (InfeasibleError("too little memory"), 5, "error: too little memory"),
    (Interrupted("stopped"), 75, "error: stopped"),
    (KeyboardInterrupt(), 130, "mopd train resume"),
    (OSError(28, "No space left on device", "/full/x"), 1, "/full/x: No space left on device"),
]


@pytest.mark.parametrize(("error", "code", "words"), ENDS, ids=[type(row[0]).__name__ for row in ENDS])
def test_every_end_has_its_code(
    mopd: Mopd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("trainer.runs.run.run_recipe", failing)
    found = mopd(*train_run("--out", tmp_path / "run", "--json"))
    assert (found.code, found.out) == (code, "") and words in found.err


@pytest.mark.slow
def test_an_unfinished_run_says_how_to_go_on(
    mopd: Mopd, world: dict[str, str], stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainer.runs.run.execute", interrupted)
        assert mopd("train", "run", "mopd", *run_options(world, out, stored)).code == 130
    assert (out / "STATUS").read_text() == "interrupted\n"
    found = mopd("train", "eval", out)
    assert found.code == 3 and "mopd train resume" in found.err
    assert mopd("train", "resume", out, "--json").document["recipe"] == "mopd"


def test_listing_recipes_imports_neither_torch_nor_the_trainer() -> None:
    code = (
        "import sys; from mopdsim.cli import main as cli; sys.argv = ['mopd', 'recipes', '--json']\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'trainer', 'scipy', 'pandas', 'networkx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == len(catalogue.CATALOGUE)
