"""Comparisons of systems: best-of-n by enumeration, fits of known curves, a micro run."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mopdsim.base.errors import UsageError
from mopdsim.recipes.stage import Amounts
from studies.cli.main import app
from studies.designs.systems.compare import comparable, compare_text, disagreement, run_compare
from studies.designs.systems.overoptimisation import DOMAINS, expected_best, fit, ppo_curve
from studies.designs.systems.side_by_side import Engine
from studies.framework.run import Run
from trainer.files.settings import Settings
from trainer.runs.progress import Progress
from trainer.runs.store import Store


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(0)
    value_UN, proxy_UN = rng.random((2, 3, 5))
    wanted = np.mean(
        [
            value_UN[u, max(subset, key=lambda place: proxy_UN[u, place])]
            for u in range(3)
            for subset in itertools.combinations(range(5), n)
        ]
    )
    assert expected_best(value_UN, proxy_UN, n) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("method", ["ppo", "best_of_n"])
def test_the_fit_recovers_a_known_curve_and_its_peak(method: str) -> None:
    alpha, beta = 0.5, 0.2
    d_N = np.linspace(0, 8 if method == "ppo" else 3, 12)

    def gain(d: float) -> float:
        return d * (alpha - beta * (math.log(d) if method == "ppo" else d)) if d else 0.0

    points = [{"d": d, "gold": 0.3 + gain(d)} for d in d_N.tolist()]
    found = fit(points, method)
    peak = math.exp(alpha / beta - 1) if method == "ppo" else alpha / (2 * beta)
    assert found["alpha"] == pytest.approx(alpha)
    assert found["beta"] == pytest.approx(beta)
    assert found["peak"] == pytest.approx(peak)
    assert fit(points[:4], method)["peak"] is None  # beyond the data


def test_a_runs_curve_is_read_from_its_log(tmp_path: Path) -> None:
    row = {"kl_start": 0.2, "length": 5.0, "pass_rate": 0.6}
    domains = dict.fromkeys(DOMAINS, row) | {"probe": {**row, "pass_rate": 0.0}}
    rows = [
        {"kind": "evaluation", "split": "validation", "step": 0, "domains": domains},
        {"kind": "step", "step": 0, "judged_reward": 1.5},
        {"kind": "evaluation", "split": "test", "step": 1, "domains": domains},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("\n".join(map(json.dumps, rows)))
    (point,) = ppo_curve(log)
    assert point == pytest.approx({"d": 1.0, "gold": 0.6, "judged": 1.5, "step": 0})


def test_disagreement_counts_cells_and_names_the_largest() -> None:
    told = {"p10": 0.4, "p50": 0.5, "p90": 0.6}
    rows = {
        "first": {"mean": 0.55, "scores": {"a": 0.55}, "forecast": {"scores": {"a": told}, "mean": told}},
        "second": {"mean": 0.9, "scores": {"a": 0.9}, "forecast": {"scores": {"a": told}, "mean": told}},
    }
    found = disagreement(rows)
    assert found["inside_80"] == 0.5 and found["cells"] == 2
    assert found["mean_error"] == pytest.approx((0.05 + 0.4) / 2)
    assert found["largest"]["recipe"] == "second" and found["ranking_measured"] == ["second", "first"]


def test_recipes_are_scaled_to_one_budget() -> None:
    made = comparable(["mixed_rl", "mopd"], ["sort", "reverse"], model="tiny", scale=0.5, own=False)
    whole = comparable(["mixed_rl", "mopd"], ["sort", "reverse"], model="tiny", scale=1.0, own=True)
    assert made["mopd"].amounts["student"].steps == whole["mopd"].amounts["student"].steps / 2
    assert made["mixed_rl"].amounts["mixed"].steps > whole["mixed_rl"].amounts["mixed"].steps
    with pytest.raises(UsageError, match="scale = nan: must be a finite number above 0"):
        comparable(["mopd"], ["sort"], model="tiny", scale=math.nan, own=False)


@pytest.mark.slow
def test_a_comparison_counts_every_stage_and_forecasts_the_same_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = comparable(["single_domain", "mixed_rl"], ["sort", "reverse"], model="tiny", scale=0.03, own=True)
    settings = Settings(validation_items=8, test_items=16, evaluate_every=1000)
    start = Amounts(steps=20, prompts_per_step=32, learning_rate=4e-3)
    progress = Progress(quiet=True)
    document = run_compare(
        [Run(name=name, recipe=recipe, settings=settings, start=start) for name, recipe in made.items()],
        Engine(store=Store(root=tmp_path), workers=1, progress=progress),
    )
    minutes = (
        sum(progress.weights.values()) / 60
    )  # what is left is told by the seconds that stages usually take
    assert f"about {minutes:.0f} min where 1 core(s) are idle" in capsys.readouterr().err
    assert json.loads(json.dumps(document)) == document and set(document["recipes"]) == set(made)
    mixed = document["recipes"]["mixed_rl"]
    assert mixed["flops"] == pytest.approx(sum(row["flops"] for row in mixed["stages"].values()))
    assert (
        0.2 < mixed["flops"] / mixed["forecast"]["flops"] < 5
    )  # an untrained start answers at other lengths
    assert mixed["worst"] == min(mixed["scores"].values()) and mixed["cap"] is None
    assert "mixed_rl" in compare_text(document)


@pytest.mark.parametrize("arguments", [[], ["mopd", "--all"]])
def test_compare_wants_names_or_all(arguments: list[str]) -> None:
    found = CliRunner().invoke(app, ["compare", *arguments])
    assert isinstance(found.exception, UsageError) and "--all" in str(found.exception)
