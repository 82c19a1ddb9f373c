"""The simulator's FLOPs of a stage against what the trainer meters for the same stage, given the lengths it sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import SETTINGS, job_of, write_domains, write_model

from mopdsim.cost.stage_cost import SIGNAL_SHARE, bill
from mopdsim.cost.stage_seconds import Machine
from mopdsim.facts.domains import domain
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import from_config, model
from mopdsim.recipes.stage import BASE, AnyStage, Distill, Preference, RejectionSampling, Rl, Sft, Teacher
from trainer.batch.batch import draw, sample
from trainer.model.loading import load_policy
from trainer.model.tiny import init_model
from trainer.runs.plan import BUILT_IN
from trainer.runs.worker import run_stage
from trainer.tasks import task

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS, STEPS = 16, 2
TEACHERS = (Teacher(stage="teacher", domains=("it",)),)
IT = {"it": 1.0}
STAGES: dict[str, tuple[AnyStage, int]] = {
    "sft": (Sft(name="s", domains=IT), 1),
    "grpo": (Rl(name="s", domains=IT, zero_signal="keep", kl_coefficient=0.1), 4),
    "ppo": (Rl(name="s", domains=IT, algorithm="ppo", clip_high=0.2, kl_coefficient=0.1), 4),
    "mixed": (Rl(name="s", domains=IT, zero_signal="keep", demonstration_mix=0.5), 4),
    "distill": (Distill(name="s", domains=IT, teachers=TEACHERS), 1),
    "off-policy": (Distill(name="s", domains=IT, teachers=TEACHERS, on_policy=False, loss="sample_nll"), 4),
    "rejection": (RejectionSampling(name="s", domains=IT), 4),
    "dpo": (Preference(name="s", domains=IT), 4),
}
SHOWN = ("sft", "mixed")  # they need demonstrations


@pytest.mark.parametrize("name", STAGES)
def test_flops_are_those_that_the_trainer_meters(name: str, tmp_path: Path) -> None:
    spec = "sort" if name in SHOWN else write_domains(tmp_path)["even"]
    shape = write_model(tmp_path / "model", seed=1)
    stage, rollouts = STAGES[name]
    renamed = stage.model_validate_json(stage.model_dump_json().replace('"it"', f'"{spec}"'))
    job = job_of(
        renamed,
        {BASE: shape, "teacher": shape},
        tmp_path / "run",
        domains=[spec],
        settings=SETTINGS,
        steps=STEPS,
        prompts_per_step=PROMPTS,
        rollouts_per_prompt=rollouts,
        learning_rate=0.0 if name == "rejection" else 1e-5,
    )
    summary = run_stage(job, lambda done: None)
    facts = _lengths(spec, shape, shown=name == "sft")
    machine = Machine(model=from_config(shape), gpu=gpu("CPU-2-cores"))
    found = bill(renamed, job.amounts, {spec: domain(spec).with_facts(facts)}, machine, gpus=1)
    share = summary["tokens"]["trained"].get(spec, 0) / max(found.gradient_tokens, 1.0)
    for phase in ("generation", "scoring", "training"):
        expected = found.flops[phase]
        if name == "dpo" and phase != "generation":
            expected *= share  # of pairs found to those that the forecast takes for granted
        assert summary["flops"][phase] == pytest.approx(expected, rel=0.2), phase
    if name == "dpo":
        assert 0.5 * SIGNAL_SHARE < share * SIGNAL_SHARE <= 1.05


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_catalogue_holds_the_trainers_own_models(name: str, tmp_path: Path) -> None:
    assert model(name).total_parameters == init_model(tmp_path, seed=0, **BUILT_IN[name])


def _lengths(spec: str, directory: Path, *, shown: bool) -> dict[str, float]:
    """Mean tokens of prompts and of answers: the model's, or the demonstrator's."""
    policy, own = load_policy(directory), task(spec)
    items = draw({spec: own}, {spec: 64}, {spec: 0}, split="train", seed=0)
    if shown:
        from trainer.batch.written import demonstrated

        rollouts = demonstrated(policy, {spec: own}, items, domains=[spec] * 64, seed=0).rollouts
    else:
        rollouts = sample(
            policy, {spec: own}, items, domains=[spec] * 64, rollouts_per_prompt=1, temperature=1.0, seed=0
        ).rollouts
    return {
        "prompt_tokens": float(rollouts.prompt_mask_BP.sum(1).double().mean()),
        "response_tokens": float(rollouts.present_BT.sum(1).double().mean()),
        "max_response_tokens": 64,
    }
