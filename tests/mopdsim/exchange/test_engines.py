"""The engines' own code accepts what is exported: TRL's classes, mergekit's schema, verl's composition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mopdsim.cli.exchange_command import request_of
from mopdsim.exchange import export
from mopdsim.exchange.engines import mergekit, nemo_rl
from mopdsim.exchange.engines.parts import Job
from mopdsim.forecast.scenario import from_document, load, of_recipe
from tools import tables
from trainer.model import merging
from trainer.model.tiny import init_model


def jobs(engine: str, *, warm: bool = True) -> Iterator[tuple[str, Job]]:
    """What an engine is given of every recipe, losses approximated. warm: with a warm-up of the rate."""
    for name, request in tables.requests():
        if not warm:
            own = {
                key: row.model_copy(update={"warmup_steps": 0}) for key, row in request.recipe.amounts.items()
            }
            scenario = replace(request.scenario, recipe=request.recipe.with_amounts(own))
            request = replace(request, scenario=scenario)
        for stage, job in export.attempts(replace(request, approximate=True), engine).items():
            if isinstance(job, Job):
                yield f"{name}__{stage}", job


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_accepts_every_stage_that_is_said(tmp_path: Path) -> None:
    library = pytest.importorskip("trl", reason="the extra `bench` brings trl")
    seen = set()
    for name, job in jobs("trl"):
        config = json.loads(job.files["config.json"])
        own = getattr(library, config["trainer"].removesuffix("Trainer") + "Config")
        arguments = dict(
            config["arguments"], output_dir=str(tmp_path), use_cpu=True, bf16=False, use_vllm=False
        )
        arguments = {key: value for key, value in arguments.items() if key in own.__dataclass_fields__}
        assert set(config["arguments"]) <= set(own.__dataclass_fields__), name
        made = own(**arguments)
        seen.add(config["trainer"])
        assert made.max_steps == config["arguments"]["max_steps"]
    assert seen == {"SFTTrainer", "GRPOTrainer"}


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties"])
def test_mergekit_merges_as_we_do_tensor_by_tensor(tmp_path: Path, method: str) -> None:
    pytest.importorskip("mergekit", reason="the extra `dev` brings mergekit")
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from safetensors.torch import load_file

    names = ["teacher_1", "teacher_2", "teacher_3"]
    for seed, name in enumerate(["base", *names]):
        init_model(tmp_path / name, seed=seed, hidden=32, layers=2, heads=4)
    made = request_of(
        of_recipe("merge", domains=["sort", "reverse", "shift"], options={"method": method}),
        str(tmp_path / "base"),
        None,
        None,
    )
    stage = made.recipe.stage["merged"].model_copy(update={"weights": (1.0, 2.0, 0.5)})
    text = mergekit.job(made, stage).files["config.yml"]
    for name in names:
        text = text.replace(f"../{name}/weights", str(tmp_path / name))
    options = MergeOptions(quiet=True, copy_tokenizer=False)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(tmp_path / "theirs"), options)
    combine = {
        "average": lambda: merging.average(stage.weights),
        "task_arithmetic": lambda: merging.task_arithmetic(stage.scale, stage.weights),
        "ties": lambda: merging.ties(stage.scale, stage.density, stage.weights),
    }[method]()
    merging.merge_directories(
        combine, tmp_path / "base", [tmp_path / name for name in names], tmp_path / "ours"
    )
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=0, atol=1e-6, msg=lambda found, n=name: f"{n}: {found}"
        )


def checked_by_verl(folder: Path, verl: Path) -> dict[str, str | None]:
    script = Path(__file__).parents[2] / "support" / "verl_check.py"
    environment = {**os.environ, "PYTHONPATH": str(verl)}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {row["stage"]: row["wrong"] for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_verl_accepts_every_stage_that_is_said(tmp_path: Path, verl: Path) -> None:
    expected = set()
    for name, job in jobs("verl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(job.files["config.yaml"])
        expected.add(name)
    folder = Path("docs") / "engines"
    plan = request_of(load(folder / "eight_domains.toml"), "/m", None, folder / "eight_domains_tasks.toml")
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "config.yaml").write_text(export.jobs_of(plan, ["verl"])[-1].files["config.yaml"])
    init_model(
        tmp_path / "critic", seed=0, hidden=32, layers=2, heads=4
    )  # verl reads a critic's own configuration
    ppo = of_ppo(tmp_path / "critic")
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "config.yaml").write_text(ppo.files["config.yaml"])
    (tmp_path / "broken").mkdir()
    broken = ppo.files["config.yaml"].replace("cliprange_value", "clip_range_value")
    (tmp_path / "broken" / "config.yaml").write_text(broken)
    found = checked_by_verl(tmp_path, verl)
    assert "critic.clip_range_value" in str(found.pop("broken"))
    assert found == dict.fromkeys([*expected, "plan", "ppo"])


KEYS = frozenset(
    line
    for line in Path(__file__).with_name("nemo_rl_keys.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
FREE = (
    "defaults", "on_policy_distillation.teacher_model_by_agent_name", "policy.optimizer.kwargs", "policy.scheduler",
)  # fmt: skip


def unknown(config: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys of a configuration that NeMo-RL's examples do not have."""
    for key, value in config.items():
        where = f"{path}.{key}" if path else key
        if where in FREE:
            continue
        if where not in KEYS:
            yield where
        elif isinstance(value, Mapping):
            yield from unknown(value, where)


def test_nemo_rl_is_given_known_keys_alone_and_labelled() -> None:
    import yaml

    assert list(unknown({"grpo": {"num_prompts": 3}})) == ["grpo.num_prompts"]
    seen = []
    for warm in (True, False):
        for name, job in jobs("nemo-rl", warm=warm):
            seen.append((warm, "on_policy_distillation" in job.files["config.yaml"]))
            assert list(unknown(yaml.safe_load(job.files["config.yaml"]))) == [], name
            label = f"not validated by its own code: keys of NeMo-RL at {nemo_rl.VERSION[:9]}"
            assert job.differs[0] == label, name
    assert len(seen) > 20 and len(set(seen)) == 4


def of_ppo(weights: Path) -> Job:
    """PPO with an adaptive penalty, which no recipe of the table has alone."""
    stage = {
        "kind": "rl", "name": "ppo", "domains": {"math": 1.0}, "algorithm": "ppo", "kl_coefficient": 0.1,
        "kl_target": 0.1,
    }  # fmt: skip
    recipe = {"name": "ppo", "domains": ["math"], "amounts": "small", "stages": [stage]}
    scenario = from_document(
        {"recipe": recipe, "model": tables.MODEL, "gpu": tables.GPU, "gpus": tables.GPUS}
    )
    _, any_request = next(tables.requests())
    tasks = {"math": any_request.tasks["math"]}
    request = replace(any_request, scenario=scenario, tasks=tasks, weights={"base": str(weights)})
    return export.jobs_of(request, ["verl"])[0]
