"""Scores of an evaluation against what is worked out from its samples in another way."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest
from small_world import write_domains, write_model

from trainer.batch.evaluate import BEST_OF, evaluate, sampled
from trainer.batch.meter import Meter
from trainer.model.loading import load_policy
from trainer.model.policy import Policy
from trainer.tasks import Item, Task, task

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(write_model(tmp_path_factory.mktemp("model"), seed=1))


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return task(write_domains(tmp_path_factory.mktemp("domains"))["high"])


def scores(policy: Policy, domain: Task, **options: int) -> dict[str, float]:
    asked = {"split": "test", "items": 10, "temperature": 1.0, "references": {}, "meter": Meter()} | options
    return evaluate(policy, {"high": domain}, **asked)["high"]  # type: ignore[arg-type]


def test_pass_at_eight_is_the_share_of_all_choices_of_eight_samples_that_hold_a_right_one(
    policy: Policy, domain: Task
) -> None:
    count = 10
    found = scores(policy, domain, samples_per_prompt=count)
    (batch,) = sampled(
        policy, "high", domain, "test", 10, temperature=1.0, meter=Meter(), rollouts_per_prompt=count
    )
    rewards = batch.reward_B.view(-1, count).tolist()
    chosen = [
        [any(row[place] == 1 for place in places) for places in itertools.combinations(range(count), BEST_OF)]
        for row in rewards
    ]
    assert found["pass_8"] == pytest.approx(sum(sum(row) / len(row) for row in chosen) / len(rewards))
    assert found["pass_rate"] == pytest.approx(float(batch.reward_B.mean()))
    assert 0 < found["pass_rate"] < found["pass_8"]
    means = [sum(row) / count for row in rewards]
    centre = sum(means) / len(means)
    assert found["se"] == pytest.approx((sum((mean - centre) ** 2 for mean in means)) ** 0.5 / len(means))


def test_greedy_scores_are_those_at_temperature_zero(policy: Policy, domain: Task) -> None:
    found = scores(policy, domain, greedy_items=6)
    cold = scores(policy, domain, items=6, temperature=0)  # type: ignore[arg-type]
    assert (found["greedy"], found["greedy_se"], found["greedy_n"]) == (cold["pass_rate"], cold["se"], 6)
    assert found["greedy_length"] == cold["length"]


def test_one_sample_a_prompt_reports_what_it_can(policy: Policy, domain: Task) -> None:
    found = scores(policy, domain)
    assert {"pass_8", "greedy"}.isdisjoint(found)
    assert found["full"] == found["pass_rate"], "this verifier gives no partial credit"


def test_partial_credit_is_no_full_pass(
    policy: Policy, domain: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: Task, item: Item, turns: list[str]) -> float:
        return 0.5

    monkeypatch.setattr(type(domain), "grade", half)
    found = scores(policy, domain, samples_per_prompt=8)
    assert (found["pass_rate"], found["full"], found["pass_8"]) == (0.5, 0.0, 0.0)


def test_divergence_from_itself_is_none_with_many_samples_too(policy: Policy, domain: Task) -> None:
    found = scores(policy, domain, samples_per_prompt=8, references={"start": lambda: nullcontext(policy)})  # type: ignore[arg-type]
    assert found["kl_start"] == pytest.approx(0, abs=1e-6)
