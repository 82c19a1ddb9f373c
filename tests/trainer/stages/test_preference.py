"""DPO through the real loop against its formula worked out row by row, and against its closed form."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import policy
from safetensors.torch import load_file
from small_world import (
    UNSCORED,
    Step,
    distance,
    gradient_of,
    job_of,
    logprobs_of,
    plain_model,
    run_watched,
    steps_in,
    written_rows,
)
from torch import Tensor

from mopdsim.base.errors import MopdError
from mopdsim.recipes.stage import BASE, Preference
from trainer.batch.batch import Batch
from trainer.batch.rollout import Rollouts
from trainer.batch.score import Bank
from trainer.batch.update import accumulate_gradients
from trainer.losses.losses import Loss, token_logprob
from trainer.runs.worker import run_stage
from trainer.stages import preference
from trainer.stages.job import Job
from trainer.tasks import Item

pytestmark = pytest.mark.usefixtures("one_thread")
GROUP = 4


def preference_job(
    domains: list[str],
    model: Path,
    directory: Path,
    *,
    steps: int = 2,
    temperature: float = 1.0,
    learning_rate: float = 5e-3,
    **changes: Any,
) -> Job:
    return job_of(
        Preference(name="preferred", domains=dict.fromkeys(domains, 1.0), **changes),
        {BASE: model},
        directory,
        domains=domains,
        settings=UNSCORED.model_copy(update={"temperature": temperature}),
        steps=steps,
        prompts_per_step=9,
        rollouts_per_prompt=GROUP,
        learning_rate=learning_rate,
    )


def response_logprobs(model: Any, step: Step, temperature: float) -> tuple[Tensor, list[int]]:
    """Log-prob of each row's trained tokens, summed, and their number."""
    found, lengths = [], []
    for _, prompt, response, trained in written_rows(step.batch):
        logprob_TV = logprobs_of(model, prompt, response, temperature)
        logprob_T = logprob_TV.gather(1, torch.tensor(response)[:, None])[:, 0]
        found.append(logprob_T[torch.tensor(trained)].sum())
        lengths.append(sum(trained))
    return torch.stack(found), lengths


@pytest.mark.parametrize(
    ("beta", "temperature", "changes"),
    [(0.1, 1.0, {}), (0.5, 0.7, {"likelihood_weight": 0.3, "noise": 0.3}), (0.5, 1.0, {"on_policy": True})],
)
def test_a_step_is_the_gradient_of_the_formula(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    beta: float,
    temperature: float,
    changes: dict[str, Any],
) -> None:
    """In the second step, where the policy has left its reference."""
    job = preference_job(list(small.values()), model, tmp_path, beta=beta, temperature=temperature, **changes)
    (_, step), rows = run_watched(job)
    moved, reference = plain_model(model), plain_model(model)
    moved.load_state_dict(load_file(tmp_path / "checkpoints/step_00000001/model.safetensors"), strict=False)
    own_B, lengths = response_logprobs(moved, step, temperature)
    reference_B = response_logprobs(reference, step, temperature)[0].detach()
    ratio_B = own_B - reference_B
    margin_P = beta * (ratio_B[0::2] - ratio_B[1::2])
    nll = -own_B[0::2].sum() / sum(lengths[0::2])
    truth = -torch.log(torch.sigmoid(margin_P)).mean() + changes.get("likelihood_weight", 0.0) * nll
    assert distance(step.gradient, gradient_of(truth, moved)) < 1e-4
    assert step.loss == pytest.approx(float(truth.detach()), rel=1e-5)
    row = steps_in(rows)[1]
    assert row["margin"] == pytest.approx(float(margin_P.detach().mean()), rel=1e-3)
    assert row["accuracy"] == pytest.approx(float((margin_P > 0).float().mean()))
    assert row["chosen_logprob"] == pytest.approx(float(own_B[0::2].detach().mean()), rel=1e-5)
    assert row["rejected_logprob"] == pytest.approx(float(own_B[1::2].detach().mean()), rel=1e-5)
    assert row["kl"] > 0 and row["pairs"] == len(margin_P) == sum(
        own["pairs"] for own in row["domains"].values()
    )


def test_the_first_step_starts_at_the_reference(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    _, rows = run_watched(preference_job(list(small.values()), model, tmp_path, steps=1))
    (row,) = steps_in(rows)
    assert row["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert row["margin"] == row["accuracy"] == 0 and row["kl"] == pytest.approx(0, abs=1e-9)
    for own in row["domains"].values():
        assert not own["pairs"] or (own["chosen_reward"], own["rejected_reward"]) == (1, 0)


def test_off_policy_samples_are_the_references(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    """The rate makes the policy another after a step; only on-policy does that change what is sampled next."""
    low = [small["low"]]
    drawn = {}
    for on_policy in (False, True):
        for rate in (1e-3, 1e-2):
            job = preference_job(
                low, model, tmp_path / f"{on_policy}{rate}", on_policy=on_policy, learning_rate=rate, steps=3
            )
            _, rows = run_watched(job)
            drawn[on_policy, rate] = [row["reward"] for row in steps_in(rows)]
    assert drawn[False, 1e-3] == drawn[False, 1e-2] != drawn[True, 1e-2]


def test_training_prefers_the_chosen(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    """On its own samples until it passes them all, which is no failure."""
    job = preference_job([small["low"]], model, tmp_path, steps=20, on_policy=True)
    run_stage(job, lambda done: None)
    rows = steps_in([json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()])
    assert rows[1]["margin"] > 0.01 and rows[1]["accuracy"] > 0.6
    assert rows[0]["reward"] < 0.7 and rows[-1]["reward"] > 0.9
    assert sum(row["pairs"] == 0 for row in rows) >= 10


# Which answers are compared.


def batch_of(prompts: int) -> tuple[Batch, list[list[str]]]:
    """Rows that differ in one token, `GROUP` a prompt, of one domain."""
    rows = prompts * GROUP
    ones = torch.ones(rows, 1, dtype=torch.bool)
    rollouts = Rollouts(
        prompt_BP=torch.arange(prompts).repeat_interleave(GROUP)[:, None],
        prompt_mask_BP=ones,
        response_BT=torch.arange(rows)[:, None],
        present_BT=ones,
        trained_BT=ones,
        logprob_BT=torch.zeros(rows, 1),
        truncated_B=~ones[:, 0],
        group=GROUP,
    )
    items = tuple(Item(domain="d", prompt=f"p{n}", answer="") for n in range(prompts))
    batch = Batch(items=items, rollouts=rollouts, reward_B=torch.zeros(rows), spans={"d": slice(0, rows)})
    return batch, [[f"answer {row}"] for row in range(rows)]


def test_the_first_best_and_the_first_worst_are_compared_where_they_differ() -> None:
    batch, said = batch_of(4)
    said[13] = said[12]
    score_B = torch.tensor([[0.2, 0.9, 0.1, 0.9], [0.5, 0.5, 0.5, 0.5], [3.0, 1, 1, 2], [1.0, 0.0, 0.5, 0.5]])
    pairs = preference.pairs_of(batch, score_B.flatten(), said, noise=0.0)
    assert pairs is not None
    assert pairs.batch.rollouts.response_BT.flatten().tolist() == [
        1,
        2,
        8,
        9,
    ]  # the last two answers are the same
    assert [item.prompt for item in pairs.batch.items] == ["p0", "p2"] and pairs.batch.rollouts.group == 2
    assert preference.pairs_of(batch, torch.zeros(16), said, noise=0.0) is None


def test_noise_reverses_its_share_of_pairs_and_always_the_same() -> None:
    batch, said = batch_of(1000)
    score_B = torch.arange(4000.0) % GROUP
    found = [preference.pairs_of(batch, score_B, said, noise=noise) for noise in (0.2, 0.2, 0.3)]
    some, again, more = (pairs.reversed_P for pairs in found if pairs is not None)
    assert float(some.float().mean()) == pytest.approx(0.2, abs=0.04)  # 3 standard errors
    assert bool((some == again).all()) and bool((more | ~some).all()) and int(more.sum()) > int(some.sum())
    assert found[0] is not None
    token_P = found[0].batch.rollouts.response_BT[0::2, 0] % GROUP
    assert bool(((token_P == 0) == some).all())  # the worst first where reversed


def test_a_stage_without_pairs_is_stopped(model: Path, tmp_path: Path) -> None:
    """A verifier that passes everything gives nothing to compare."""
    file = tmp_path / "easy.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n:02d}", "answer": "(?s).*"}) + "\n" for n in range(80)))
    spec = f"jsonl:{file}?verifier=regex&max_new_tokens=4"
    job = preference_job([spec], model, tmp_path / "run", steps=12)
    with pytest.raises(MopdError, match="10 steps in a row"):
        run_stage(job, lambda done: None)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = steps_in([json.loads(line) for line in lines])
    assert len(rows) == 9 and all(row["pairs"] == 0 and "loss" not in row for row in rows)


# The closed form.


@pytest.mark.slow
def test_the_minimum_is_the_reference_reweighted_by_the_exponential_reward(tmp_path: Path) -> None:
    """Three one-token answers whose pairs carry labels in the shares that Bradley-Terry gives them: the policy among
    them becomes pi_ref exp(r / beta) / Z (2305.18290, eq. 4), within 2% of each probability."""
    beta, labels = 0.5, 15
    reward = [math.log(odds) for odds in (1, 2, 4)]  # all shares are then whole fifteenths
    learner, reference = policy(seed=3), policy(seed=3)
    counts: Counter[tuple[int, int]] = Counter()
    for a in range(3):
        for b in range(a):
            wins = round(labels / (1 + math.exp(reward[b] - reward[a])), ndigits=6)
            assert wins == int(wins)
            counts[a, b], counts[b, a] = int(wins), labels - int(wins)
    token_B = torch.tensor([token for pair, count in counts.items() for token in pair * count])
    rollouts = one_token_answers(token_B)
    bank = Bank({"reference": tmp_path}, lambda name: reference)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        return (weight_M[index_N] * token_logprob(logits_NV, token_B[index_N])[0]).sum(), {}

    for _ in range(200):
        scores = preference.scores_of(learner, bank, "reference", rollouts, temperature=1.0)
        margin_P = scores.margins(beta)
        weight_M = preference.weights_of(margin_P, rollouts, beta=beta, likelihood_weight=0.0).flatten()
        accumulate_gradients(learner, rollouts, loss_of)
        optimizer.step()
        optimizer.zero_grad()
    found, before = (among_three(each, rollouts) for each in (learner, reference))
    closed = before * (torch.tensor(reward) / beta).exp()
    assert float((before / (closed / closed.sum())).max()) > 2  # far from where it started
    assert found.tolist() == pytest.approx((closed / closed.sum()).tolist(), rel=0.02)


def one_token_answers(token_B: Tensor) -> Rollouts:
    """Pairs of answers to one prompt."""
    ones = torch.ones(len(token_B), 1, dtype=torch.bool)
    return Rollouts(
        prompt_BP=torch.tensor([[5, 6, 7]]).expand(len(token_B), 3),
        prompt_mask_BP=ones.expand(-1, 3),
        response_BT=token_B[:, None],
        present_BT=ones,
        trained_BT=ones,
        logprob_BT=torch.zeros(len(token_B), 1),
        truncated_B=ones[:, 0],
        group=2,
    )


def among_three(model: Any, rollouts: Rollouts) -> Tensor:
    """The probabilities of answers 0 to 2, given that it is one of them."""
    with torch.no_grad():
        hidden_BTD = model.hidden(
            rollouts.prompt_BP[:2], rollouts.prompt_mask_BP[:2], rollouts.response_BT[:2]
        )
        return torch.softmax(model.logits(hidden_BTD[0])[0, :3], -1)
