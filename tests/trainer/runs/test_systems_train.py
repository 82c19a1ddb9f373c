"""Every published system for two steps a stage on a small random model: it runs to its end, and every stage leaves what
its kind makes. The recipes share one store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import SETTINGS, check_stages, shrunk, write_model

from mopdsim.base.run_directory import PHASES
from mopdsim.recipes import catalogue
from mopdsim.recipes.catalogue import SYSTEMS
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import ROOTS
from trainer.model.loading import tensors_sha256
from trainer.runs.plan import plan
from trainer.runs.progress import Progress
from trainer.runs.run import run_recipe
from trainer.runs.show import FIGURES, figure_of, mean_figure, summary_text, write_table
from trainer.runs.store import Store
from trainer.tasks.jsonl import JsonlTask

DEMONSTRATIONS = ("AbCd", "xyzw", "12")  # what the verifiers pass and fail, in place of demonstrations
CASES: list[tuple[str, int, dict[str, Any]]] = [
    *((name, 3, {}) for name in SYSTEMS),
    ("deepseek_r1", 3, {"smaller": True}),
    ("mimo_v2_flash", 6, {}),  # enough domains for a teacher of each sort
    ("deepseek_v4", 10, {}),
]


@pytest.fixture(scope="module", autouse=True)
def demonstrations() -> Iterator[None]:
    """Demonstrators for the small world's verifiers, and one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JsonlTask, "demonstrate", lambda self, item, rng: (rng.choice(DEMONSTRATIONS),))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("smaller"), seed=8)


def domains_of(specs: dict[str, str], count: int) -> list[str]:
    """As many domains; beyond three they differ in the scale of the reward alone."""
    known = list(specs.values())
    return [f"{known[n % 3]}&reward_scale={1 + n // 3}" for n in range(count)]


@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        pytest.param(
            name,
            count,
            options,
            id=f"{name}-{count}-{len(options)}",
        )
        for name, count, options in CASES
    ],
)
@pytest.mark.slow
def test_a_system_runs_to_its_end(
    name: str,
    count: int,
    options: dict[str, Any],
    small: dict[str, str],
    model: Path,
    smaller: Path,
    shared_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = shrunk(catalogue.recipe(name, domains_of(small, count), **options))
    second = str(smaller) if "smaller" in recipe.roots else None
    summary = run_recipe(
        recipe,
        model=str(model),
        smaller=second,
        settings=SETTINGS,
        out=tmp_path / "run",
        store_root=shared_store,
        workers=1,
        progress=Progress(),
    )
    store = Store(root=shared_store)
    made = plan({name: recipe}, model=str(model), smaller=second, settings=SETTINGS, store=store)
    check_stages(recipe, made.keys[name], store, {"base": model, "smaller": smaller})
    check_shown(recipe, summary, tmp_path / "run", capsys.readouterr().err)
    assert set(summary["side_outputs"]) == set(recipe.side_outputs)
    for side, row in summary["side_outputs"].items():
        assert row["weights_sha256"] == tensors_sha256(tmp_path / "run" / "side_outputs" / side)
    if "smaller" in options:
        assert list(summary["side_outputs"]) == ["distilled"]


def check_shown(recipe: Recipe, summary: dict[str, Any], run: Path, heard: str) -> None:
    """Every stage has a line of its own figure while it runs, in the table and in the file."""
    text, (table,) = summary_text(summary), write_table(run, summary)
    kinds = {"reward_model": "accuracy", "rejection_sampling": "best_score"}
    for name, row in summary["stages"].items():
        key = figure_of(row["domains"])
        assert key == kinds.get(row["kind"], "pass_rate")
        line = next(line for line in text.splitlines() if line.startswith(f"{name:<18} "))
        assert line.split()[1] == FIGURES[key].split()[0]
        assert name in ROOTS or any(
            f"{recipe.name}/{name} " in line and mean_figure(row["domains"]) in line
            for line in heard.splitlines()
        )
        assert all(f"{name},{row['kind']},{domain}," in table.read_text() for domain in row["domains"])


def test_a_figure_that_could_not_be_measured_is_a_dash(tmp_path: Path) -> None:
    """A reward model without a comparison in a domain has no accuracy there."""
    rows = {
        "a": {"accuracy": None, "se": None, "n": 0, "correlation": None},
        "b": {"accuracy": 0.75, "se": 0.1, "n": 9, "correlation": 0.4},
    }
    assert mean_figure(rows) == "mean accuracy 0.750"
    assert mean_figure({"a": rows["a"]}) == "mean accuracy -"
    spent = {"flops": dict.fromkeys(PHASES, 0.0), "wall_seconds": 1.0, "kind": "reward_model"}
    stages = {"judge": {"domains": rows, **spent}}
    text = summary_text({"stages": stages, "run": "r", "seconds": 1.0, "weights_sha256": "0" * 64})
    assert text.splitlines()[1].split()[1:5] == ["accuracy", "-", "0.750", "±0.100"]
    (table,) = write_table(tmp_path, {"stages": stages})
    assert table.read_text().splitlines()[1].startswith("judge,reward_model,a,,,,,0,")
