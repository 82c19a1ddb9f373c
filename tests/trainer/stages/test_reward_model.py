"""Reward models: known scores are recovered, gradients are those of the formula, labels are noisy as asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import ARCHITECTURES, policy, prompts
from reward_models import QUICK, states, with_random_head
from small_world import (
    UNSCORED,
    distance,
    gradient_of,
    job_of,
    plain_model,
    rows_of,
    timeless,
    written_rows,
)
from stopping import Stop, stop_after
from torch import Tensor

from mopdsim.base.errors import MopdError, UsageError
from mopdsim.recipes.stage import BASE, RewardModel, Rl, Sft
from trainer.batch.batch import Batch, draw, sample
from trainer.batch.heads import drop_head, head_of, load_reward_model, scores, values
from trainer.batch.meter import Meter
from trainer.batch.rollout import Rollouts, generate
from trainer.losses.feedback import bradley_terry
from trainer.model.loading import load_policy, save_policy
from trainer.model.policy import Policy
from trainer.model.tiny import init_model
from trainer.stages import reward_model, sft
from trainer.stages.job import Job
from trainer.stages.loop import Trainee, trainee_of
from trainer.stages.reward_model import agreement, pairs_of
from trainer.tasks import Item, task
from trainer.tasks.jsonl import JsonlTask

pytestmark = pytest.mark.usefixtures("one_thread")
GROUP = 4
SORT = "sort?length=2-3"


# The loss.


def test_known_scores_are_recovered_from_simulated_comparisons() -> None:
    """Each answer wins with probability sigmoid(difference); the maximum of the likelihood is the scores."""
    noise = torch.Generator().manual_seed(0)
    truth = torch.tensor([-1.5, -0.6, 0.0, 0.4, 0.9, 2.0], dtype=torch.float64)
    a, b = (torch.randint(len(truth), (60_000,), generator=noise) for _ in range(2))
    a, b = a[a != b], b[a != b]
    wins = torch.rand(len(a), generator=noise, dtype=torch.float64) < torch.sigmoid(truth[a] - truth[b])
    better, worse = torch.where(wins, a, b), torch.where(wins, b, a)
    found = torch.zeros_like(truth, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss, _ = bradley_terry(found[better], found[worse], torch.full((len(better),), 1 / len(better)))
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    estimate = found.detach() - found.detach().mean()
    assert float((estimate - (truth - truth.mean())).abs().max()) < 0.05  # three standard errors


def test_ties_count_half_and_a_constant_changes_nothing() -> None:
    better, worse = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 2.0, 1.5])
    weights = torch.tensor([0.5, 0.25, 0.25])
    loss, metrics = bradley_terry(better, worse, weights)
    expected = 0.5 * math.log1p(math.exp(-1)) + 0.25 * math.log(2) + 0.25 * math.log1p(math.exp(1))
    assert float(loss) == pytest.approx(expected)
    assert float(metrics["correct_count"]) == 1.5 and float(metrics["gap_sum"]) == 0.0
    assert float(bradley_terry(better + 3, worse + 3, weights)[0]) == pytest.approx(expected, rel=1e-6)


# The head.


def sampled(of: Policy) -> Rollouts:
    return generate(of, prompts(5), rollouts_per_prompt=2, max_new_tokens=8, temperature=1.0, seed=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_score_is_read_after_the_last_token_and_a_value_before_each(architecture: str) -> None:
    """Also where a row holds observed tokens, which a score has read and a value is not asked about."""
    of = with_random_head(policy(architecture))
    rollouts = sampled(of)
    observed = rollouts.trained_BT.clone()
    observed[::3, 1:3] = False
    rollouts = Rollouts(**{**vars(rollouts), "trained_BT": observed & rollouts.present_BT})
    score_B, value_BT, head = scores(of, rollouts), values(of, rollouts), head_of(of)
    for b in range(len(score_B)):
        length = int(rollouts.present_BT[b].sum())
        prompt = rollouts.prompt_BP[b][rollouts.prompt_mask_BP[b]].tolist()
        hidden_TD = states(of.model, prompt, rollouts.response_BT[b, :length].tolist())
        truth_T = head(hidden_TD).squeeze(1).detach()
        assert float(score_B[b]) == pytest.approx(float(truth_T[-1]), rel=1e-4, abs=1e-4)
        trained_T = rollouts.trained_BT[b, :length]
        assert torch.allclose(value_BT[b, :length][trained_T], truth_T[:-1][trained_T], atol=1e-4)
        assert bool((value_BT[b][~rollouts.trained_BT[b]] == 0).all())


def test_a_reward_model_survives_the_disk_and_a_plain_model_is_refused(tmp_path: Path) -> None:
    init_model(tmp_path / "plain", seed=3, hidden=16, layers=1, heads=2)
    of = with_random_head(load_policy(tmp_path / "plain"))
    ids = [[8, 9, 10], [11, 12]]
    rollouts = generate(of, ids, rollouts_per_prompt=2, max_new_tokens=4, temperature=1.0, seed=1)
    save_policy(of, tmp_path / "judge")
    again = load_reward_model(tmp_path / "judge")
    assert torch.equal(scores(again, rollouts), scores(of, rollouts))
    assert float(scores(of, rollouts).std()) > 0
    with pytest.raises(UsageError, match=r"plain: no reward model, its weights have no 'value_head'"):
        load_reward_model(tmp_path / "plain")
    drop_head(of)
    save_policy(of, tmp_path / "dropped")
    names = [set(load_policy(tmp_path / place).model.state_dict()) for place in ("plain", "dropped")]
    assert names[0] == names[1]


# Pairs.


def batch_of(rewards: Sequence[Sequence[float]]) -> tuple[Batch, list[list[str]]]:
    """Prompts whose answers got these rewards, and the answers."""
    of, group = policy(), len(rewards[0])
    ids = prompts(len(rewards))
    rollouts = generate(of, ids, rollouts_per_prompt=group, max_new_tokens=2, temperature=1.0, seed=0)
    batch = Batch(
        items=tuple(Item(domain="d", prompt=f"p{u}", answer="") for u in range(len(rewards))),
        rollouts=rollouts,
        reward_B=torch.tensor(rewards).flatten(),
        spans={"d": slice(0, len(rewards) * group)},
    )
    return batch, [[f"answer {b % group}"] for b in range(len(rewards) * group)]


def test_every_prompt_weighs_alike_however_many_comparisons_it_has() -> None:
    batch, said = batch_of([[1, 0, 0, 0], [1, 0, 1, 0], [0.2, 0.5, 0.5, 1.0]])
    pairs = pairs_of(batch, said, noise=0)
    rewards = batch.reward_B
    expected = {
        (a, b) if rewards[a] > rewards[b] else (b, a)
        for u in range(3)
        for a, b in combinations(range(4 * u, 4 * u + 4), 2)
        if rewards[a] != rewards[b]
    }
    assert set(zip(pairs.better_P.tolist(), pairs.worse_P.tolist(), strict=True)) == expected
    by_prompt = torch.zeros(3).index_add(0, pairs.better_P // 4, pairs.weight_P)
    assert torch.allclose(by_prompt, torch.full((3,), 1 / 3)) and len(expected) == 3 + 4 + 5


def test_noise_reverses_its_share_of_labels_and_always_the_same_ones() -> None:
    """Also where the two answers come in the other order."""
    noise, count = 0.16, 2000
    batch, said = batch_of([[1, 0]] * count)
    first, again = (pairs_of(batch, said, noise=noise) for _ in range(2))
    reversed_P = first.better_P % 2 == 1
    assert torch.equal(first.better_P, again.better_P)
    spread = (noise * (1 - noise) / count) ** 0.5
    assert float(reversed_P.float().mean()) == pytest.approx(noise, abs=3 * spread)
    turned, _ = batch_of([[0, 1]] * count)
    swapped = [[text] for b in range(0, 2 * count, 2) for text in (said[b + 1][0], said[b][0])]
    other = pairs_of(turned, swapped, noise=noise)
    assert torch.equal(other.better_P % 2 == 0, reversed_P)
    assert not bool((pairs_of(batch, said, noise=0).better_P % 2).any())


def test_agreement_by_hand() -> None:
    """Three prompts: 2 of 3 comparisons right; a tie; none to compare."""
    scores_B = torch.tensor([3.0, 2.0, 1.0, 4.0, 0.0, 0.0, 5.0, 5.0, 9.0, 1.0, 1.0, 1.0])
    grades_B = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    row = agreement(scores_B, grades_B, 4)
    first = 3 / 4  # 2 against 3 wrong, 2 against 1, 4 against 3, 4 against 1 right
    second = (0.5 + 1 + 1) / 3
    assert row["n"] == 2 and row["accuracy"] == pytest.approx((first + second) / 2)
    assert row["se"] == pytest.approx(abs(first - second) / 2 / 2**0.5)
    assert row["correlation"] == pytest.approx(float(torch.corrcoef(torch.stack([scores_B, grades_B]))[0, 1]))
    assert agreement(torch.ones(4), torch.ones(4), 4) == {
        "accuracy": None,
        "se": None,
        "n": 0,
        "correlation": None,
    }


# The stage.


def rm_job(specs: dict[str, str], model: Path, directory: Path, **changes: Any) -> Job:
    stage = RewardModel(
        name="judge", domains=dict.fromkeys(specs.values(), 1.0), noise=changes.pop("noise", 0)
    )
    settings = UNSCORED.model_copy(update=changes.pop("settings", {}))
    amounts = {"rollouts_per_prompt": GROUP, "prompts_per_step": 9, **changes}
    domains = list(specs.values())
    return job_of(stage, {BASE: model}, directory, domains=domains, settings=settings, **amounts)


def run(job: Job) -> dict[str, Any]:
    assert isinstance(job.stage, RewardModel)
    return reward_model.run(job, job.stage, lambda done: None)


def watched(job: Job) -> tuple[Batch, dict[str, Tensor], dict[str, Any]]:
    """The only step's batch and gradient from a random head, and its row of the log."""
    seen: list[tuple[Batch, dict[str, Tensor]]] = []
    own = Trainee.apply

    def watching(trainee: Trainee, loss: float, batch: Batch) -> dict[str, Any]:
        named = trainee.policy.model.named_parameters()
        seen.append((batch, {name: p.grad.clone() for name, p in named if p.grad is not None}))
        return own(trainee, loss, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainee, "apply", watching)
        patch.setattr(reward_model, "add_head", with_random_head)
        run(job)
    ((batch, gradient),) = seen
    return batch, gradient, next(row for row in rows_of(job.directory) if row["kind"] == "step")


@pytest.mark.parametrize("by_domain, micro_batch_rows", [(True, None), (False, None), (False, 1)])
def test_the_gradient_is_that_of_all_comparisons_of_each_prompt(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_domain: bool,
    micro_batch_rows: int | None,
) -> None:
    """Worked out row by row with the model's own forward: InstructGPT's equation 1, answers of a prompt together."""
    own = Trainee.update
    monkeypatch.setattr(
        Trainee, "update", lambda *given, **named: own(*given, **{**named, "diagnosed": by_domain})
    )
    job = rm_job(small, model, tmp_path, settings={"micro_batch_rows": micro_batch_rows})
    batch, gradient, row = watched(job)
    truth = plain_model(model)
    truth.add_module("value_head", head_of(with_random_head(load_policy(model))))
    found = [
        truth.value_head(states(truth, prompt, response)[-1]).squeeze()
        for _, prompt, response, _ in written_rows(batch)
    ]
    loss, right, pairs = torch.zeros(()), 0, 0
    for u in range(len(batch.items)):
        rows = range(u * GROUP, (u + 1) * GROUP)
        own = [(a, b) for a in rows for b in rows if batch.reward_B[a] > batch.reward_B[b]]
        gaps = torch.stack([found[a] - found[b] for a, b in own])
        loss = loss - torch.nn.functional.logsigmoid(gaps).mean() / len(batch.items)
        right, pairs = right + int((gaps > 0).sum()), pairs + len(own)
    expected = gradient_of(loss, truth)
    assert distance(gradient, expected) < 1e-4
    assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert row["pairs"] == pairs and row["accuracy"] == pytest.approx(right / pairs)
    assert sum(d["pairs"] for d in row["domains"].values()) == pairs
    assert row["skipped"] == 9 - len(batch.items) == sum(d["skipped"] for d in row["domains"].values())


@pytest.mark.parametrize(("steps", "idle", "logged"), [(20, 10, 9), (2, 2, 2)])
def test_ten_steps_without_a_comparison_or_none_at_all_stop_the_stage(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    idle: int,
    logged: int,
) -> None:
    monkeypatch.setattr(JsonlTask, "reward", lambda task, item, said: 1.0)
    job = rm_job({"low": small["low"]}, model, tmp_path, steps=steps)
    said = rf"'judge': no prompt of {idle} steps in a row .*raise rollouts_per_prompt"
    with pytest.raises(MopdError, match=said):
        run(job)
    rows = [row for row in rows_of(tmp_path) if row["kind"] == "step"]
    assert len(rows) == logged and all(row["pairs"] == 0 and row["skipped"] == 9 for row in rows)


@pytest.fixture(scope="module")
def judge(small: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of "low" and "high", trained for a moment."""
    place = tmp_path_factory.mktemp("judge")
    specs = {name: small[name] for name in ("low", "high")}
    run(rm_job(specs, model, place, steps=6, settings={"evaluate_every": 9}))
    return place / "weights"


def answers(small: dict[str, str], model: Path, *names: str) -> Batch:
    """What the model that a reward model starts from answers, on other prompts than it was trained on."""
    tasks = {small[name]: task(small[name]) for name in names}
    items = draw(tasks, dict.fromkeys(tasks, 60), dict.fromkeys(tasks, 0), split="test", seed=5)
    domains = [name for name in tasks for _ in range(60)]
    of = load_policy(model)
    return sample(of, tasks, items, domains=domains, rollouts_per_prompt=4, temperature=1.0, seed=11)


def test_scores_of_fresh_answers_have_mean_0_and_standard_deviation_1(
    small: dict[str, str], model: Path, judge: Path
) -> None:
    score_B = scores(load_reward_model(judge), answers(small, model, "low", "high").rollouts)
    assert float(score_B.mean()) == pytest.approx(0, abs=0.25)
    assert float(score_B.std()) == pytest.approx(1, abs=0.2)


def test_a_judge_replaces_rewards_in_its_domains_alone(
    small: dict[str, str], model: Path, judge: Path, tmp_path: Path
) -> None:
    names, judges = list(small.values()), {small["low"]: "judge", small["even"]: "judge"}
    stage = Rl(name="rl", domains=dict.fromkeys(names, 1.0), reward_models=judges)
    job = job_of(stage, {BASE: model, "judge": judge}, tmp_path, domains=names)
    batch, meter = answers(small, model, *small), Meter()
    judged = trainee_of(job, load_policy(model), None, meter, {}).judged(batch)
    score_B = scores(load_reward_model(judge), batch.rollouts)
    for name, span in batch.spans.items():
        truth_B = batch.reward_B if name == small["high"] else score_B
        assert torch.allclose(judged.reward_B[span], truth_B[span], atol=1e-5)
    assert meter.flops["scoring"] > 0 and meter.seconds["scoring"] > 0
    tokens = int(batch.rollouts.trained_BT[batch.spans[small["low"]]].sum())
    assert meter.tokens["scored"][small["low"]] == tokens and small["high"] not in meter.tokens["scored"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that sorts two or three letters right about one time in five."""
    place = tmp_path_factory.mktemp("started")
    init_model(place / "tiny", seed=0, hidden=32, layers=2, heads=2)
    stage = Sft(name="start", domains={SORT: 1.0})
    amounts = {"steps": 80, "prompts_per_step": 48, "learning_rate": 6e-3}
    job = job_of(stage, {BASE: place / "tiny"}, place, domains=[SORT], settings=QUICK, **amounts)
    sft.run(job, stage, lambda done: None)
    return place / "weights"


@pytest.mark.slow
def test_it_learns_a_built_in_verifier_and_noise_harms_it(started: Path, tmp_path: Path) -> None:
    """Accuracy of comparisons against the true verifier, on prompts that were not trained on; chance is .5."""
    found = {}
    for noise in (0.0, 0.4):
        job = rm_job(
            {"sort": SORT},
            started,
            tmp_path / str(noise),
            noise=noise,
            settings={**QUICK.model_dump(), "test_items": 60},
            steps=30,
            prompts_per_step=16,
            rollouts_per_prompt=6,
            learning_rate=6e-3,
        )
        found[noise] = run(job)["domains"][SORT]
    assert found[0.0]["accuracy"] > 0.5 + 3 * found[0.0]["se"] and found[0.0]["correlation"] > 0.15
    assert found[0.4]["accuracy"] < found[0.0]["accuracy"] - 0.1


@pytest.mark.slow
def test_a_killed_stage_ends_as_if_unbroken(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    for place in ("straight", "split"):
        job = rm_job(small, model, tmp_path / place, steps=4, noise=0.2)
        if place == "split":
            with monkeypatch.context() as patch:
                stop_after(patch, 2)
                with pytest.raises(Stop):
                    run(job)
        summary = run(job)
        weights = (tmp_path / place / "weights" / "model.safetensors").read_bytes()
        left.append((timeless(summary), timeless(rows_of(tmp_path / place)), weights))
    assert left[0] == left[1]
