"""Every catalogue recipe for two steps on a small random model: it finishes, and all that is promised is measured.

The recipes share one store, so their common teachers run once.
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from small_world import SETTINGS, carry_out, rows_of, shrunk, timeless

from mopdsim.base.run_directory import PHASES
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Distill, Merge, Rl, Sft
from trainer.runs.progress import Progress
from trainer.runs.run import resume

pytestmark = pytest.mark.usefixtures("one_thread")

SHARES = {"low": 3.0, "high": 1.0}  # rewritten to the specs of the domains
CASES: list[tuple[str, dict[str, Any]]] = [
    ("single_domain", {}),
    ("mixed_rl", {}),
    ("mixed_rl", {"shares": SHARES}),
    ("mixed_rl", {"reward_weights": {"low": 0.5}}),
    ("mixed_rl", {"advantage_scale": "domain"}),
    ("mixed_rl", {"advantage_scale": "none"}),
    ("mixed_rl", {"curriculum": "staged"}),
    ("mixed_rl", {"curriculum": "signal"}),
    ("cascade_rl", {}),
    ("cascade_rl", {"order": ["even", "low", "high"], "replay": 0.3}),
    ("mopd", {}),
    ("mopd", {"groups": [["low", "high"], ["even"]]}),
    ("mopd", {"rounds": 2}),
    ("mopd", {"warmup": True}),
    ("mopd", {"reward_mix": 0.5}),
    ("mopd", {"reward_mix": 0.5, "loss": "sampled_token"}),
    ("mopd", {"balance": "token_share"}),
    ("mopd", {"balance": "remaining_gap"}),
    ("mopd", {"balance": "dispersion"}),
    ("mopd", {"loss": "forward_kl"}),
    ("mopd", {"loss": "jensen_shannon"}),
    ("mopd", {"loss": "top_k_reverse_kl"}),
    ("mopd", {"loss": "sampled_token"}),
    ("mopd", {"extrapolation": 1.25}),
    ("mopd", {"misrouting": 0.4}),
    ("off_policy", {}),
    ("off_policy", {"correct_only": False}),
    ("off_policy", {"loss": "reverse_kl"}),
    ("off_policy", {"loss": "forward_kl", "correct_only": False}),
    ("merge", {"method": "average"}),
    ("merge", {"method": "task_arithmetic"}),
    ("merge", {"method": "ties"}),
]

QUICK: list[tuple[str, dict[str, Any]]] = [  # every kind of stage once
    ("single_domain", {}),
    ("mixed_rl", {}),
    ("mopd", {}),
    ("off_policy", {}),
    ("merge", {"method": "ties"}),
]


def specs_in(value: Any, specs: dict[str, str]) -> Any:
    """An option with the domains' names replaced by their specs."""
    if isinstance(value, str):
        return specs.get(value, value)
    if isinstance(value, dict):
        return {specs_in(key, specs): item for key, item in value.items()}
    return [specs_in(item, specs) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            name,
            options,
            id=f"{name}-{'-'.join(map(str, options.values()))}",
            marks=[] if (name, options) in QUICK else [pytest.mark.slow],
        )
        for name, options in CASES
    ],
)
def test_two_steps_of_every_recipe(
    name: str, options: dict[str, Any], small: dict[str, str], model: Path, shared_store: Path, tmp_path: Path
) -> None:
    chosen = {key: specs_in(value, small) for key, value in options.items()}
    recipe = shrunk(catalogue.recipe(name, list(small.values()), **chosen))
    summary = carry_out(recipe, model, tmp_path / "run", store=shared_store)
    check_summary(recipe, summary)
    check_rows(recipe, rows_of(tmp_path / "run"))


def test_every_recipe_of_the_catalogue_is_among_the_cases() -> None:
    assert {name for name, _ in CASES} == set(catalogue.PLAIN)  # the systems: test_systems_train.py


def test_fine_tuning_on_demonstrations_of_one_and_several_turns(model: Path, tmp_path: Path) -> None:
    domains = {"sort": 2.0, "guess": 1.0}
    plan = Recipe(
        name="tuned",
        domains=tuple(domains),
        amounts_name="tiny",
        stages=(Sft(name="tuned", domains=domains),),
        amounts={"tuned": {"steps": 2, "prompts_per_step": 7, "learning_rate": 1e-3}},  # type: ignore[dict-item]
        output="tuned",
    )
    summary = carry_out(plan, model, tmp_path / "run")
    check_summary(plan, summary)
    check_rows(plan, rows_of(tmp_path / "run"))


def check_summary(recipe: Recipe, summary: dict[str, Any]) -> None:
    """Scores, costs and a fingerprint of every stage."""
    everywhere = {*recipe.domains, *SETTINGS.probes}
    assert set(summary["scores"]) == everywhere
    assert len(summary["weights_sha256"]) == 64
    assert summary["flops"] > 0 and summary["seconds"] > 0
    for stage in recipe.stages:
        row = summary["stages"][stage.name]
        assert set(row["domains"]) == everywhere
        for scores in row["domains"].values():
            expected = {"pass_rate", "se", "n", "full", "length", "truncated", "entropy"}
            expected |= {"kl_start", "kl_parent"}
            assert set(scores) == expected
            assert all(math.isfinite(value) for value in scores.values())
            assert 0 <= scores["pass_rate"] <= 1 and scores["kl_start"] >= -1e-6
        assert set(row["seconds"]) == set(row["flops"]) == set(PHASES)
        assert row["flops"]["evaluation"] > 0 and row["peak_memory_bytes"] > 0
        check_tokens(stage, row)


def check_tokens(stage: Any, row: dict[str, Any]) -> None:
    """Tokens and FLOPs land where the kind of stage spends them, for each of its domains."""
    uses = {
        Sft: {"trained": "training"},
        Rl: {"generated": "generation", "trained": "training"},
        Distill: {"generated": "generation", "scored": "scoring", "trained": "training"},
        Merge: {},
    }[type(stage)]
    if isinstance(stage, Distill) and stage.loss == "sample_nll":
        del uses["scored"]
    for use, counted in row["tokens"].items():
        assert set(counted) <= set(getattr(stage, "domains", {}))
        assert bool(counted) == (use in uses)
        assert all(tokens > 0 for tokens in counted.values())
    for phase in ("generation", "scoring", "training"):
        spent = phase in uses.values()
        assert (row["flops"][phase] > 0) == spent
        assert (row["seconds"][phase] > 0) == spent


def check_rows(recipe: Recipe, rows: list[dict[str, Any]]) -> None:
    """What every step and evaluation logs."""
    for stage in recipe.stages:
        own = [row for row in rows if row["stage"] == stage.name]
        evaluations = [row for row in own if row["kind"] == "evaluation"]
        splits = ["test"] if isinstance(stage, Merge) else ["validation", "test"]
        assert [row["split"] for row in evaluations] == splits
        for row in evaluations:
            assert (
                row["seconds"]["evaluation"]
                > 0
                == sum(row["seconds"].values()) - row["seconds"]["evaluation"]
            )
        steps = [row for row in own if row["kind"] == "step"]
        assert [row["step"] for row in steps] == ([] if isinstance(stage, Merge) else [0, 1])
        for row in steps:
            check_step(stage, row)


def check_step(stage: Any, row: dict[str, Any]) -> None:
    for key in ("loss", "grad_norm", "learning_rate", "entropy", "flops"):
        found = row.get(key, 0.0)  # entropy is a domain's in distillation; a batch without signal has no step
        assert math.isfinite(found)
    assert set(row["seconds"]) == set(PHASES)
    domains = row["domains"]
    assert sum(row["prompts"].values()) == 7 or isinstance(stage, Distill)
    assert set(domains) == {name for name, count in row["prompts"].items() if count}
    assert sum(domain["token_share"] for domain in domains.values()) == pytest.approx(1)
    shares = [domain["effective_share"] for domain in domains.values()]
    assert sum(shares) == pytest.approx(1) or (isinstance(stage, Rl) and row["zero_signal"] == 1)
    if not isinstance(stage, Rl) or row["updates"]:
        pulled = set(row["gradient_norm"])
        assert pulled <= set(domains)
        assert set(row["update_inner"]) == set(row["gradient_share"]) == pulled
        pairs = {f"{a}|{b}" for a, b in combinations(row["gradient_norm"], 2)}
        assert set(row["gradient_cosine"]) == pairs
        assert all(-1.0001 <= cosine <= 1.0001 for cosine in row["gradient_cosine"].values())
    if isinstance(stage, Rl):
        assert 0 <= row["zero_signal"] <= 1 and 0 <= row["truncated"] <= 1
        assert all("zero_signal" in domain and "reward" in domain for domain in domains.values())
    if isinstance(stage, Distill):
        assert ("zero_signal" in row) == (stage.reward_mix > 0)
    if isinstance(stage, Distill) and stage.loss != "sample_nll":
        assert set(row["teacher_kl"]) <= {teacher.stage for teacher in stage.teachers}
        assert row["teacher_kl"] and all(math.isfinite(value) for value in row["teacher_kl"].values())
        assert all(domain["dispersion"] > 0 for domain in domains.values())


def test_a_run_leaves_plain_files(
    small: dict[str, str], model: Path, shared_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    summary = carry_out(
        shrunk(catalogue.recipe("mopd", list(small.values()))), model, out, store=shared_store
    )
    names = {path.name for path in out.iterdir()}
    expected = {
        "config.toml",
        "resolved.json",
        "manifest.json",
        "metrics.jsonl",
        "samples.jsonl",
        "summary.json",
        "weights",
        "STATUS",
    }
    assert names == expected
    assert (out / "STATUS").read_text() == "done\n"
    about = json.loads((out / "manifest.json").read_text())
    wanted = {"argv", "seed", "versions", "cpus", "git", "recipe_sha256", "wall_seconds", "schema_version"}
    assert wanted <= set(about) and about["wall_seconds"] == summary["seconds"]
    again = resume(out, progress=Progress(quiet=True))
    assert again == summary  # read back, not run again
    (out / "summary.json").unlink()
    assert timeless(resume(out, progress=Progress(quiet=True))) == timeless(summary)  # written anew


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_in_one_process_and_in_two(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe = shrunk(catalogue.recipe("mopd", [small["low"], small["high"]]))
    first, second = (carry_out(recipe, model, tmp_path / name) for name in ("first", "second"))
    apart = carry_out(recipe, model, tmp_path / "apart", workers=2)
    assert timeless(first) == timeless(second) == timeless(apart)
    logs = [timeless(rows_of(tmp_path / name)) for name in ("first", "second", "apart")]
    assert logs[0] == logs[1] == logs[2]
    other = carry_out(recipe, model, tmp_path / "other", settings=SETTINGS.model_copy(update={"seed": 1}))
    assert other["weights_sha256"] != first["weights_sha256"]


def test_a_run_can_be_resumed_from_another_directory(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, store and run were given by relative paths."""
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model)
    recipe = shrunk(catalogue.recipe("single_domain", [small["low"]]))
    summary = carry_out(recipe, "model", Path("run"), store=Path("store"))
    (tmp_path / "run" / "STATUS").write_text("interrupted\n")
    monkeypatch.chdir("/")
    assert timeless(resume(tmp_path / "run", progress=Progress(quiet=True))) == timeless(summary)
