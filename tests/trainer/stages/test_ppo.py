"""PPO: advantages and controllers by hand, the gradient row by row, the analytic optimum where it can be counted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_models import QUICK, states, with_random_head
from small_world import (
    UNSCORED,
    distance,
    gradient_of,
    job_of,
    logprobs_of,
    plain_model,
    rows_of,
    run_watched,
    steps_in,
    timeless,
    write_model,
    written_rows,
)
from stopping import Stop, stop_after
from torch import Tensor

from mopdsim.recipes.stage import BASE, Amounts, RewardModel, Rl
from trainer.batch.heads import load_reward_model, scores
from trainer.files.settings import Settings
from trainer.losses.feedback import adapted, advantages_over_time, clipped_value, explained_variance, whitened
from trainer.model.loading import load_policy
from trainer.model.policy import Policy
from trainer.stages import reward_model, rl
from trainer.stages.job import Job
from trainer.stages.loop import Trainee
from trainer.stages.rl import at_the_end
from trainer.tasks.jsonl import JsonlTask

pytestmark = pytest.mark.usefixtures("one_thread")


# Formulas.


def test_advantages_of_three_tokens_by_hand() -> None:
    """discount .9, lambda .5; rewards 1, 0, 2; values .5, 1, -1; after the end 0."""
    delta = [1 + 0.9 * 1 - 0.5, 0 + 0.9 * -1 - 1, 2 + 0.9 * 0 - -1]  # 1.4, -1.9, 3
    third = delta[2]
    second = delta[1] + 0.45 * third  # -0.55
    first = delta[0] + 0.45 * second  # 1.1525
    advantage, returns = advantages_over_time(
        torch.tensor([[1.0, 0.0, 2.0]]),
        torch.tensor([[0.5, 1.0, -1.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        discount=0.9,
        gae_lambda=0.5,
    )
    assert advantage[0].tolist() == pytest.approx([1.1525, -0.55, 3.0]) == [first, second, third]
    assert returns[0].tolist() == pytest.approx([1.6525, 0.45, 2.0])


@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_the_double_sum(seed: int) -> None:
    """Row by row over the trained tokens alone: what is observed between turns and behind the end takes no time."""
    noise = torch.Generator().manual_seed(seed)
    reward_BT, value_BT = (torch.randn(6, 9, generator=noise, dtype=torch.float64) for _ in range(2))
    trained_BT = torch.rand(6, 9, generator=noise) < 0.6
    trained_BT[:, 0] = True
    discount, decay = 0.5 + 0.1 * seed, 0.25 * seed
    advantage_BT, return_BT = advantages_over_time(
        reward_BT, value_BT, trained_BT, discount=discount, gae_lambda=decay
    )
    for b in range(6):
        places = trained_BT[b].nonzero().squeeze(1).tolist()
        r, v = ([float(x[b, t]) for t in places] for x in (reward_BT, value_BT))
        delta = [r[t] + discount * (v[t + 1] if t + 1 < len(v) else 0.0) - v[t] for t in range(len(v))]
        for t, place in enumerate(places):
            truth = sum((discount * decay) ** step * delta[t + step] for step in range(len(v) - t))
            assert float(advantage_BT[b, place]) == pytest.approx(truth)
            assert float(return_BT[b, place]) == pytest.approx(truth + v[t])
    assert not bool(advantage_BT[~trained_BT].any()) and not bool(return_BT[~trained_BT].any())


def test_the_reward_comes_with_the_last_trained_token() -> None:
    trained = torch.tensor(
        [[True, True, False, False], [True, False, True, True], [True, False, False, False]]
    )
    reward_BT = at_the_end(torch.tensor([2.0, -1.0, 0.5]), trained)
    assert reward_BT.tolist() == [[0, 2, 0, 0], [0, 0, 0, -1], [0.5, 0, 0, 0]]


def test_a_value_that_strayed_is_not_pulled_further_by_hand() -> None:
    """clip .2. Near: (1.1 - 2)^2 / 2. Too far towards the return: the clipped error (1.2 - 2)^2 / 2, no gradient.
    Too far away from it: its own error (.5 - 2)^2 / 2."""
    value = torch.tensor([1.1, 1.5, 0.5], requires_grad=True)
    old, returns = torch.ones(3), torch.full((3,), 2.0)
    weights = torch.tensor([0.5, 0.25, 0.25])
    loss, metrics = clipped_value(value, old, returns, weights, clip=0.2)
    assert float(loss.detach()) == pytest.approx(0.5 * 0.405 + 0.25 * 0.32 + 0.25 * 1.125)
    assert float(metrics["value_loss_sum"]) == pytest.approx(0.405 + 0.32 + 1.125)
    assert int(metrics["value_clip_count"]) == 1
    (gradient,) = torch.autograd.grad(loss, value)
    assert gradient.tolist() == pytest.approx([0.5 * -0.9, 0.0, 0.25 * -1.5])


def test_the_controller_by_hand() -> None:
    """Ziegler et al.: relative error clipped to 20%, a tenth of it on the coefficient."""
    assert adapted(0.2, kl=6.6, target=6.0) == pytest.approx(0.2 * (1 + 0.1 * 0.1))
    assert adapted(0.2, kl=60.0, target=6.0) == pytest.approx(0.2 * 1.02)
    assert adapted(0.2, kl=-1.0, target=6.0) == pytest.approx(0.2 * 0.98)
    assert adapted(0.2, kl=6.0, target=6.0) == 0.2


def test_whitening_and_explained_variance_see_trained_tokens_alone() -> None:
    x = torch.tensor([[1.0, 3.0, 100.0], [5.0, -100.0, 7.0]])
    trained = torch.tensor([[True, True, False], [True, False, True]])
    white = whitened(x, trained)
    scale = 5**0.5  # deviations -3, -1, 1, 3
    assert white[trained].tolist() == pytest.approx([-3 / scale, -1 / scale, 1 / scale, 3 / scale])
    assert not bool(white[~trained].any())
    assert not bool(whitened(torch.full((2, 3), 4.0), trained).any())
    half = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 4.0]])
    assert explained_variance(half, x, trained) == pytest.approx(1 - 1.25 / 5)
    assert explained_variance(x, x, trained) == 1 and explained_variance(half, x * 0, trained) == 0


# The stage.


def ppo_job(specs: Sequence[str], model: Path, directory: Path, **changes: Any) -> Job:
    """`changes` of the stage, the amounts or the settings; `weights` of other stages."""
    settings, amounts = (
        {key: changes.pop(key) for key in list(changes) if key in kind.model_fields}
        for kind in (Settings, Amounts)
    )
    weights = {BASE: model, **changes.pop("weights", {})}
    return job_of(
        Rl(name="trained", algorithm="ppo", domains=dict.fromkeys(specs, 1.0), **changes),
        weights,
        directory,
        domains=list(specs),
        settings=UNSCORED.model_copy(update=settings),
        **{"prompts_per_step": 12, **amounts},
    )


def log_ratios(now: Any, start: Any, prompt: list[int], response: list[int]) -> Tensor:
    chosen = torch.tensor(response)[:, None]
    own_T, start_T = (logprobs_of(m, prompt, response).gather(1, chosen)[:, 0] for m in (now, start))
    return (own_T - start_T).detach()


def test_the_gradient_is_that_of_the_surrogate_and_the_value_loss(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second step, away from the start, from a random value head: rewards, advantages and both losses worked
    out row by row with the model's own forward."""
    beta, discount, decay, coefficient = 0.6, 0.95, 0.8, 0.3
    weights = {small["high"]: 2.0}
    job = ppo_job(
        list(small.values()),
        model,
        tmp_path,
        kl_coefficient=beta,
        discount=discount,
        gae_lambda=decay,
        value_coefficient=coefficient,
        reward_weights=weights,
        steps=2,
        learning_rate=2e-2,
    )
    monkeypatch.setattr(rl, "WITH_VALUE", rl.Hooks(prepare=with_random_head, finish=rl.WITH_VALUE.finish))
    caught: dict[str, Tensor] = {}
    own = Trainee.update

    def before(trainee: Trainee, *arguments: Any, **named: Any) -> Any:
        caught.update({name: value.clone() for name, value in trainee.policy.model.state_dict().items()})
        return own(trainee, *arguments, **named)

    monkeypatch.setattr(Trainee, "update", before)
    (_, step), rows = run_watched(job)
    start, now = plain_model(model), plain_model(model)
    now.add_module("value_head", torch.nn.Linear(16, 1))
    now.load_state_dict(caught)
    found = []
    for b, (_, prompt, response, _) in enumerate(written_rows(step.batch)):
        value_T = now.value_head(states(now, prompt, response)[:-1]).squeeze(1)
        ratio_T = log_ratios(now, start, prompt, response)
        reward_T = -beta * ratio_T
        reward_T[-1] += step.batch.reward_B[b]
        v, length = [*value_T.tolist(), 0.0], len(response)
        delta = [float(reward_T[t]) + discount * v[t + 1] - v[t] for t in range(length)]
        advantage_T = torch.tensor(
            [sum((discount * decay) ** (u - t) * delta[u] for u in range(t, length)) for t in range(length)]
        )
        found.append((prompt, response, value_T, ratio_T, advantage_T))
    every = torch.cat([row[-1] for row in found])
    loss = torch.zeros((), dtype=torch.float64)
    span = step.batch.spans[small["high"]]
    for b, (prompt, response, value_T, _, advantage_T) in enumerate(found):
        factor = 2.0 if span.start <= b < span.stop else 1.0
        white_T = factor * (advantage_T - every.mean()) / every.std(correction=0)
        logprob_T = logprobs_of(now, prompt, response).gather(1, torch.tensor(response)[:, None])[:, 0]
        error_T = value_T - (advantage_T + value_T.detach())
        loss = loss + (-white_T * logprob_T + coefficient * error_T.square() / 2).sum() / len(every)
    assert distance(step.gradient, gradient_of(loss, now)) < 1e-4
    _, row = steps_in(rows)
    kl = float(torch.cat([row[3] for row in found]).mean())
    assert row["reference_kl"] == pytest.approx(kl, rel=1e-3) and abs(kl) > 1e-3
    assert row["kl_coefficient"] == beta and row["clip"] == 0
    assert set(row["domains"]) == set(small.values())
    assert {"reward", "reference_kl"} <= set(row["domains"][small["low"]])
    assert "value_head.weight" not in load_policy(job.directory / "weights").model.state_dict()


def test_demonstrations_add_their_cross_entropy_to_every_update(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as prompts: the gradient with them less the one without is their token mean's, times the weight."""
    shown: list[Any] = []
    own = rl.demonstrated

    def watching(*given: Any, **named: Any) -> Any:
        shown.append(own(*given, **named))
        return shown[-1]

    monkeypatch.setattr(rl, "demonstrated", watching)
    mixed, rows = run_watched(
        ppo_job(
            ["sort"], model, tmp_path / "mixed", demonstration_mix=0.7, updates_per_batch=2, max_grad_norm=1e9
        )
    )
    plain, _ = run_watched(
        ppo_job(["sort"], model, tmp_path / "plain", updates_per_batch=2, max_grad_norm=1e9)
    )
    assert [len(batch.items) for batch in shown] == [6, 6] == [len(step.batch.items) for step in mixed]
    truth = plain_model(model)
    loss, tokens = torch.zeros((), dtype=torch.float64), 0
    for _, prompt, response, _ in written_rows(shown[0]):
        loss = loss - logprobs_of(truth, prompt, response).gather(1, torch.tensor(response)[:, None]).sum()
        tokens += len(response)
    added = {name: mixed[0].gradient[name] - value for name, value in plain[0].gradient.items()}
    expected = gradient_of(0.7 * loss / tokens, truth)
    assert distance({name: added[name] for name in expected}, expected) < 1e-3
    assert mixed[0].loss - plain[0].loss == pytest.approx(float(0.7 * loss.detach() / tokens), rel=1e-4)
    assert steps_in(rows)[0]["demonstration_nll"] > 0


# An optimum that can be counted.


def one_prompt(folder: Path, new_tokens: int) -> str:
    path = folder / "one.jsonl"
    lines = [{"prompt": "x", "answer": ".*", "split": "train"}]
    lines += [
        {"prompt": f"{split}{n}", "answer": ".*", "split": split}
        for split in ("test", "validation")
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"jsonl:{path}?verifier=regex&max_new_tokens={new_tokens}"


def worth(said: str) -> float:
    """A reward of what the first character is, and whether the second is of the same kind."""
    kinds = [ord(character) // 24 for character in said]
    return sum([0.3 * (kinds[:1] == [3]), 0.3 * (kinds[1:] == kinds[:1]), 0.4 * (kinds[:1] == [2])])


def sequences(policy: Policy, prompt: list[int], length: int) -> dict[tuple[int, ...], float]:
    """The probability of everything the policy can say in at most `length` tokens."""
    found, open_ = {}, {(): 1.0}
    for _ in range(length):
        heads = list(open_)
        token = torch.tensor([[*prompt, *head] for head in heads])
        with torch.no_grad():
            probability = policy.model(input_ids=token).logits[:, -1].double().softmax(-1)
        grown = {}
        for head, row in zip(heads, probability.tolist(), strict=True):
            for next_, p in enumerate(row):
                (found if next_ in policy.eos_ids else grown)[(*head, next_)] = open_[head] * p
        open_ = grown
    return found | open_


@pytest.mark.slow
@pytest.mark.parametrize(
    "length, steps, sharpness, variation_limit",
    [(1, 60, 1.0, 0.02), (2, 130, 4.0, 0.04)],
)
def test_it_reaches_the_optimum_of_reward_less_kl(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
    steps: int,
    sharpness: float,
    variation_limit: float,
) -> None:
    """pi* = pi_ref exp(r / beta) / Z, where E r - beta KL is beta log Z, over every answer of up to two tokens.

    The objective ends within 2% of that optimum; total variation from pi* within 2% (one token) or 4% (two).
    """
    beta = 0.3
    monkeypatch.setattr(JsonlTask, "reward", lambda task, item, said: worth(said[0]) if said else 0.0)
    model = write_model(tmp_path / "model", seed=1, sharpness=sharpness)
    job = ppo_job(
        [one_prompt(tmp_path, length)],
        model,
        tmp_path / "job",
        kl_coefficient=beta,
        gae_lambda=1.0,
        value_coefficient=1.0,
        clip_high=0.2,
        updates_per_batch=2,
        steps=steps,
        prompts_per_step=2,
        rollouts_per_prompt=256,
        learning_rate=5e-3,
        final_learning_rate_fraction=0.01,
        evaluate_every=999,
        checkpoint_every=999,
        diagnose_every=999,
        probes=(),
    )
    rl.run(job, job.stage, lambda done: None)  # type: ignore[arg-type]
    reference, trained = load_policy(model), load_policy(job.directory / "weights")
    (prompt,) = reference.chat.prompts(["x"])
    start, end = (sequences(of, prompt, length) for of in (reference, trained))
    assert sum(start.values()) == pytest.approx(1, abs=1e-5) == sum(end.values())
    reward = {said: worth(reference.tokenizer.decode(said, skip_special_tokens=True)) for said in start}
    tilted = {said: p * math.exp(reward[said] / beta) for said, p in start.items()}
    whole = sum(tilted.values())
    variation = sum(abs(end[said] - p / whole) for said, p in tilted.items()) / 2
    objective = sum(p * (reward[said] - beta * math.log(p / start[said])) for said, p in end.items())
    before = sum(p * reward[said] for said, p in start.items())
    best = beta * math.log(whole)
    untrained = sum(abs(start[said] - p / whole) for said, p in tilted.items()) / 2
    assert variation < variation_limit < untrained / 4
    assert 0 <= best - objective < 0.02 * best < (best - before) / 4


# Against a reward model.


@pytest.fixture(scope="module")
def judge(small: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("judge")
    stage = RewardModel(name="judge", domains={small["low"]: 1.0, small["even"]: 1.0})
    domains = [small["low"], small["even"]]
    amounts = {"steps": 15, "rollouts_per_prompt": 6, "prompts_per_step": 12, "learning_rate": 3e-3}
    job = job_of(stage, {BASE: model}, place, domains=domains, settings=QUICK, **amounts)
    reward_model.run(job, stage, lambda done: None)
    return place / "weights"


def judged_job(small: dict[str, str], model: Path, judge: Path, directory: Path, **changes: Any) -> Job:
    """PPO on three domains, of which one is judged by its verifier."""
    models = {small["low"]: "judge", small["even"]: "judge"}
    return ppo_job(
        list(small.values()),
        model,
        directory,
        weights={"judge": judge},
        reward_models=models,
        kl_coefficient=0.05,
        kl_target=0.02,
        **changes,
    )


@pytest.mark.slow
def test_it_raises_what_the_reward_model_gives_and_logs_the_true_reward_too(
    small: dict[str, str], model: Path, judge: Path, tmp_path: Path
) -> None:
    job = judged_job(
        small, model, judge, tmp_path, steps=20, prompts_per_step=30, learning_rate=5e-3, **QUICK.model_dump()
    )
    _, rows = run_watched(job)
    first, *_, last = steps_in(rows)
    for name in (small["low"], small["even"]):
        gained = last["domains"][name]["judged_reward"] - first["domains"][name]["judged_reward"]
        assert gained > 0.3 and 0 <= last["domains"][name]["reward"] <= 1
    assert "judged_reward" not in first["domains"][small["high"]]
    assert last["judged_reward"] > first["judged_reward"] + 0.3
    coefficients = [row["kl_coefficient"] for row in steps_in(rows)]
    expected = [0.05]
    for row in steps_in(rows):
        expected.append(adapted(expected[-1], row["reference_kl"], 0.02))
    assert coefficients == pytest.approx(expected[:-1]) and coefficients[-1] > coefficients[1]


def test_grpo_is_judged_by_a_reward_model_too(
    small: dict[str, str], model: Path, judge: Path, tmp_path: Path
) -> None:
    stage = Rl(name="trained", domains={small["low"]: 1.0}, reward_models={small["low"]: "judge"})
    job = job_of(
        stage, {BASE: model, "judge": judge}, tmp_path, domains=[small["low"]], rollouts_per_prompt=4
    )
    (step,), rows = run_watched(job)
    score_B = scores(load_reward_model(judge), step.batch.rollouts)
    assert torch.allclose(step.batch.reward_B, score_B, atol=1e-5)
    (row,) = steps_in(rows)
    assert row["judged_reward"] == pytest.approx(float(score_B.mean()), abs=1e-4)
    assert row["reward"] in [n / len(score_B) for n in range(len(score_B) + 1)] and row["zero_signal"] == 0


@pytest.mark.slow
def test_a_killed_stage_ends_as_if_unbroken(
    small: dict[str, str], model: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value head, its optimiser and the KL coefficient go on where they were."""
    left = []
    for place in ("straight", "split"):
        job = judged_job(small, model, judge, tmp_path / place, steps=5, updates_per_batch=2)
        if place == "split":
            with monkeypatch.context() as patch:
                stop_after(patch, 3)
                with pytest.raises(Stop):
                    run_watched(job)
        run_watched(job)
        weights = (tmp_path / place / "weights" / "model.safetensors").read_bytes()
        left.append((timeless(rows_of(tmp_path / place)), weights))
    assert left[0] == left[1]
