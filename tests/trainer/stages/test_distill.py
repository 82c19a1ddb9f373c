"""Distillation through the real loop, against divergences worked out row by row with each row's own teachers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from other_models import renderer, retold, widened
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
    write_domains,
    write_model,
    written_rows,
)
from torch import Tensor

from mopdsim.base.errors import UsageError
from mopdsim.recipes.stage import BASE, Distill, Sft, Teacher
from trainer.batch.meter import Meter
from trainer.model.chat import Chat
from trainer.stages import distill
from trainer.stages.loop import Trainee
from trainer.stages.targets import routes, sampling_routes
from trainer.tasks import task

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = ("reverse_kl", "forward_kl", "jensen_shannon", "top_k_reverse_kl", "sampled_token")
every_loss = pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, marks=[] if loss == "reverse_kl" else [pytest.mark.slow]) for loss in LOSSES],
)
Served = Mapping[str, Mapping[str, float]]  # domain -> teacher -> weight, summing to one


@pytest.fixture(scope="module")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The student's start and two teachers: other random models of the same shape."""
    folder = tmp_path_factory.mktemp("teachers")
    return {BASE: model} | {
        name: write_model(folder / name, seed=seed) for name, seed in (("a", 2), ("b", 3))
    }


def student(domains: Sequence[str], teachers: Sequence[Teacher], **options: Any) -> Distill:
    return Distill(name="student", domains=dict.fromkeys(domains, 1.0), teachers=tuple(teachers), **options)


def one_each(small: Mapping[str, str], **options: Any) -> Distill:
    """Teacher a for the first domain, b for the second."""
    low, high = small["low"], small["high"]
    return student(
        [low, high], [Teacher(stage="a", domains=(low,)), Teacher(stage="b", domains=(high,))], **options
    )


def run(
    stage: Distill, weights: Mapping[str, Path], directory: Path, **changes: Any
) -> tuple[Step, dict[str, Any]]:
    """One step of a stage: what the optimiser was given, and what was logged."""
    (step,), rows = run_watched(job_of(stage, weights, directory, domains=list(stage.domains), **changes))
    return step, dict(steps_in(rows)[0])


# The truth.


def divergence(stage: Distill, student_TV: Tensor, teacher_TV: Tensor, chosen_T: Tensor) -> Tensor:
    """The stage's loss at each token, from log-probs; the sampled-token form on policy has ratio one."""
    s, t = student_TV, teacher_TV
    match stage.loss:
        case "reverse_kl":
            return (s.exp() * (s - t)).sum(-1)
        case "forward_kl":
            return (t.exp() * (t - s)).sum(-1)
        case "jensen_shannon":
            beta = stage.jensen_shannon_beta
            m = (beta * t.exp() + (1 - beta) * s.exp()).log()
            return beta * (t.exp() * (t - m)).sum(-1) + (1 - beta) * (s.exp() * (s - m)).sum(-1)
        case "top_k_reverse_kl":
            top_TK = s.topk(stage.top_k).indices
            inside = [x.gather(1, top_TK) for x in (s, t)]
            s_full, t_full = (torch.cat([x, (-x.exp().sum(1, keepdim=True)).log1p()], 1) for x in inside)
            return (s_full.exp() * (s_full - t_full)).sum(-1)
        case _:
            s_T, t_T = (x.gather(1, chosen_T[:, None])[:, 0] for x in (s, t))
            return -(t_T - s_T).detach() * s_T


def expected_loss(
    stage: Distill,
    step: Step,
    served: Served,
    start: Any,
    teachers: Mapping[str, Any],
    *,
    target: Callable[[Tensor, Tensor], Tensor] = lambda teacher_TV, start_TV: teacher_TV,
    rendered: Mapping[str, Callable[[str], list[int]]] = {},
    vocabulary: int | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Token mean of the weighted divergences of every row from the teachers of its domain."""
    rows = written_rows(step.batch)
    tokens = sum(sum(trained) for *_, trained in rows)
    total = torch.zeros((), dtype=torch.float64)
    for item, prompt, response, trained in rows:
        student_TV = logprobs_of(start, prompt, response, temperature)
        for name, weight in served[item.domain].items():
            with torch.no_grad():
                read = rendered[name](item.prompt) if name in rendered else prompt
                teacher_TV = logprobs_of(teachers[name], read, response, temperature)[:, :vocabulary]
                teacher_TV = target(torch.log_softmax(teacher_TV, -1), student_TV.detach())
            each_T = divergence(stage, student_TV, teacher_TV, torch.tensor(response))
            total = total + weight * each_T[torch.tensor(trained)].sum() / tokens
    return total


def check(stage: Distill, step: Step, served: Served, weights: Mapping[str, Path], **how: Any) -> None:
    """The loop's gradient is that of the truth, and so is its loss where the loss is a divergence."""
    start = plain_model(weights[BASE])
    teachers = {name: plain_model(path) for name, path in weights.items() if name != BASE}
    loss = expected_loss(stage, step, served, start, teachers, **how)
    assert distance(step.gradient, gradient_of(loss, start)) < 1e-4
    if stage.loss != "sampled_token":
        assert step.loss == pytest.approx(float(loss.detach()), rel=1e-4)


# Who teaches whom.


@every_loss
def test_every_row_learns_from_its_own_teacher(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, loss: str
) -> None:
    stage = one_each(small, loss=loss)
    step, row = run(stage, weights, tmp_path, prompts_per_step=7, rollouts_per_prompt=2)
    check(stage, step, {small["low"]: {"a": 1.0}, small["high"]: {"b": 1.0}}, weights)
    assert row["prompts"] == {small["low"]: 4, small["high"]: 3}  # remainders are kept
    for name, kl in zip(("low", "high"), row["teacher_kl"], strict=True):
        assert row["domains"][small[name]]["kl"] == pytest.approx(kl)


@every_loss
def test_several_teachers_of_a_domain_are_a_weighted_sum(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, loss: str
) -> None:
    low, high = small["low"], small["high"]
    teachers = [
        Teacher(stage="a", domains=(low, high), weight=1.0),
        Teacher(stage="b", domains=(low,), weight=3.0),
    ]
    stage = student([low, high], teachers, loss=loss)
    step, _ = run(stage, weights, tmp_path)
    check(stage, step, {low: {"a": 0.25, "b": 0.75}, high: {"a": 1.0}}, weights)


def test_one_teacher_of_all_domains_is_single_teacher_distillation(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    low, high = small["low"], small["high"]
    whole = student([low, high], [Teacher(stage="a", domains=(low, high))])
    split = student([low, high], [Teacher(stage="a", domains=(name,)) for name in (low, high)])
    twice = student(
        [low, high],
        [Teacher(stage=name, domains=(low, high), weight=weight) for name, weight in (("a", 1), ("c", 4))],
    )
    same = {**weights, "c": weights["a"]}
    steps = [run(stage, same, tmp_path / str(n))[0] for n, stage in enumerate((whole, split, twice))]
    assert distance(steps[0].gradient, steps[1].gradient) == 0
    assert distance(steps[0].gradient, steps[2].gradient) < 1e-5
    check(whole, steps[0], {low: {"a": 1.0}, high: {"a": 1.0}}, weights)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "reverse_kl"},
        {"reward_mix": 2.0},
        *(pytest.param({"loss": loss}, marks=pytest.mark.slow) for loss in LOSSES[1:]),
    ],
)
def test_a_different_teacher_gives_a_different_gradient(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    """The same samples, whatever the loss, a reward mixed in or not."""
    low = small["low"]
    stage = student([low], [Teacher(stage="a", domains=(low,))], **options)
    both = [weights, {**weights, "a": weights["b"]}]
    steps = [run(stage, own, tmp_path / str(n), rollouts_per_prompt=4)[0] for n, own in enumerate(both)]
    assert torch.equal(*(step.batch.rollouts.response_BT for step in steps))
    assert distance(steps[0].gradient, steps[1].gradient) > 0.1


@pytest.mark.parametrize("loss", ["reverse_kl", "sampled_token"])
def test_a_reward_is_mixed_in_as_an_advantage(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, loss: str
) -> None:
    """The gradient is the divergence's plus alpha times that of REINFORCE with a group baseline."""
    from by_hand import by_group, reinforce

    low = small["low"]
    teachers = [Teacher(stage="a", domains=(low,))]
    stage = student([low], teachers, loss=loss, reward_mix=0.5)
    step, row = run(stage, weights, tmp_path, rollouts_per_prompt=4)
    start, teacher = plain_model(weights[BASE]), plain_model(weights["a"])
    loss_value = expected_loss(stage, step, {low: {"a": 1.0}}, start, {"a": teacher})
    loss_value = loss_value + 0.5 * reinforce(start, step, by_group(step))
    assert distance(step.gradient, gradient_of(loss_value, start)) < 1e-4
    silent = step.batch.reward_B.view(-1, 4)
    assert row["zero_signal"] == pytest.approx(float((silent.amax(1) == silent.amin(1)).float().mean()))


def test_extrapolation_goes_beyond_the_teacher(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    stage = one_each(small, extrapolation=1.5)
    step, _ = run(stage, weights, tmp_path)

    def beyond(teacher_TV: Tensor, start_TV: Tensor) -> Tensor:
        return torch.log_softmax(start_TV + 1.5 * (teacher_TV - start_TV), -1)

    check(stage, step, {small["low"]: {"a": 1.0}, small["high"]: {"b": 1.0}}, weights, target=beyond)


def test_samples_and_scores_have_one_temperature(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    stage = one_each(small)
    warm = UNSCORED.model_copy(update={"temperature": 1.7})
    step, _ = run(stage, weights, tmp_path, settings=warm)
    check(stage, step, {small["low"]: {"a": 1.0}, small["high"]: {"b": 1.0}}, weights, temperature=1.7)


@pytest.mark.slow
def test_small_batches_make_the_same_gradient(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    """Divided by the trained tokens of the whole update, over all micro-batches and domains."""
    stage = one_each(small, loss="reverse_kl")
    steps = []
    for number, rows in enumerate((None, 1, 3)):
        cut = UNSCORED.model_copy(update={"micro_batch_rows": rows, "diagnose_every": 1 + number})
        steps.append(run(stage, weights, tmp_path / str(number), settings=cut, prompts_per_step=9)[0])
    assert max(distance(steps[0].gradient, step.gradient) for step in steps) < 1e-5


# Routing.


def three_teachers(misrouting: float = 0.0) -> Distill:
    teachers = [
        Teacher(stage=name, domains=(domain,)) for name, domain in (("a", "x"), ("b", "y"), ("c", "z"))
    ]
    return student(["x", "y", "z"], teachers, misrouting=misrouting)


@given(
    st.dictionaries(st.sampled_from(["x", "y", "z"]), st.integers(0, 20)), st.floats(0, 1), st.integers(0, 99)
)
def test_every_prompt_has_one_route(counts: dict[str, int], misrouting: float, seed: int) -> None:
    stage = three_teachers(misrouting)
    found = routes(stage, counts, seed=seed)
    assert found == routes(stage, counts, seed=seed)
    covered = [
        (route.domain, place) for route in found for place in range(route.prompts.start, route.prompts.stop)
    ]
    whole = [domain for domain, count in counts.items() for _ in range(count)]
    assert covered == [(domain, place) for place, domain in enumerate(whole)]
    assert all(sum(route.teachers.values()) == pytest.approx(1) for route in found)


def test_the_misrouted_share_goes_to_other_domains_teachers() -> None:
    count, wrong = 3000, Counter[str]()
    own = {"x": "a", "y": "b", "z": "c"}
    for route in routes(three_teachers(0.3), dict.fromkeys(own, count), seed=5):
        (name,) = route.teachers
        if name != own[route.domain]:
            wrong[route.domain, name] += route.prompts.stop - route.prompts.start  # type: ignore[index]
    spread = math.sqrt(3 * count * 0.3 * 0.7)
    assert abs(sum(wrong.values()) - 0.3 * 3 * count) < 4 * spread
    assert len(wrong) == 6 and min(wrong.values()) > 0.1 * count


def test_without_misrouting_nothing_strays() -> None:
    found = routes(three_teachers(), {"x": 5, "z": 2}, seed=1)
    assert [(route.domain, dict(route.teachers)) for route in found] == [("x", {"a": 1.0}), ("z", {"c": 1.0})]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_several_teachers_divide_a_domains_samples_by_weight(count: int) -> None:
    """On average even where a step has fewer prompts than there are teachers: none of them starves."""
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    stage = student(["x"], [Teacher(stage=name, domains=("x",), weight=w) for name, w in weights.items()])
    drawn: Counter[str] = Counter()
    steps = 4000
    for seed in range(steps):
        found = sampling_routes(stage, {"x": count}, seed=seed)
        assert [place for route in found for place in range(route.prompts.start, route.prompts.stop)] == list(
            range(count)
        )
        for route in found:
            (name,) = route.teachers
            drawn[name] += route.prompts.stop - route.prompts.start
    for name, weight in weights.items():
        assert drawn[name] / (steps * count) == pytest.approx(weight / 8, abs=0.03)


@given(
    shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=8),
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=30),
)
def test_no_domain_is_starved_and_no_prompt_lost(shares: list[float], counts: list[int]) -> None:
    """Each domain's prompts stay within a few of its share, and every step has as many as it should."""
    trainee = Trainee(job=None, policy=None, optimizer=None, meter=Meter(), tasks={}, bank=None)  # type: ignore[arg-type]
    wanted = {f"d{number}": share for number, share in enumerate(shares)}
    drawn = dict.fromkeys(wanted, 0)
    for step, count in enumerate(counts, start=1):
        found, start = trainee.allocate(wanted, count)
        assert sum(found.values()) == count and min(found.values()) >= 0
        assert start == drawn  # cursors run on without a gap
        drawn = {name: drawn[name] + found[name] for name in drawn}
        for name, share in wanted.items():
            exact = sum(counts[:step]) * share / sum(shares)
            assert abs(drawn[name] - exact) < max(2, len(shares) / 2)


# Vocabularies and templates.


@every_loss
def test_the_padded_tail_of_a_teachers_vocabulary_is_masked(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, loss: str
) -> None:
    padded = {**weights, "a": widened(weights["a"], tmp_path / "padded", 6)}
    stage = one_each(small, loss=loss)
    steps = [run(stage, own, tmp_path / str(n))[0] for n, own in enumerate((weights, padded))]
    assert distance(steps[0].gradient, steps[1].gradient) < 1e-5
    assert steps[0].loss == pytest.approx(steps[1].loss, rel=1e-5)


@pytest.mark.parametrize("loss", ["sample_nll", "reverse_kl"])
def test_an_off_policy_teacher_never_samples_the_padding_of_its_wider_head(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, loss: str
) -> None:
    """Its padding rows are likely, and the student has no place for their ids."""
    padded = {**weights, "a": widened(weights["a"], tmp_path / "padded", 6)}
    found, _ = run(one_each(small, on_policy=False, loss=loss), padded, tmp_path / "run", prompts_per_step=20)
    width = plain_model(weights[BASE]).config.vocab_size
    assert int(found.batch.rollouts.response_BT.max()) < width
    assert len(found.batch.reward_B) == 20 and found.loss > 0


def test_extrapolation_refuses_heads_of_unequal_width(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    padded = {**weights, "a": widened(weights["a"], tmp_path / "padded", 6)}
    with pytest.raises(UsageError, match=r"extrapolation = 1\.5 needs heads of one width"):
        run(one_each(small, extrapolation=1.5), padded, tmp_path / "run")


def test_another_tokenizer_is_refused_before_the_first_step(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    """The same size, two letters exchanged."""
    swapped = widened(weights["a"], tmp_path / "swapped", 0)
    text = (swapped / "tokenizer.json").read_text()
    vocabulary = json.loads(text)
    letters = vocabulary["model"]["vocab"]
    letters["a"], letters["b"] = letters["b"], letters["a"]
    (swapped / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UsageError, match=r"token '[ab]' has id \d+ in the student and \d+ in teacher 'a'"):
        run(one_each(small), {**weights, "a": swapped}, tmp_path / "run")


@pytest.mark.parametrize("on_policy", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_model_reads_its_own_chat_template(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, on_policy: bool
) -> None:
    """Whoever sampled: the student learns after its prompts, the teacher scores after its own, on the same ids."""
    other = {**weights, "a": retold(weights["a"], tmp_path / "retold")}
    stage = one_each(small, on_policy=on_policy, loss="forward_kl")
    step, _ = run(stage, other, tmp_path / "run")
    its_own, the_students = renderer(other["a"]), renderer(weights[BASE])
    for item, prompt, _, _ in written_rows(step.batch):
        assert prompt == the_students(item.prompt) != its_own(item.prompt)
    served = {small["low"]: {"a": 1.0}, small["high"]: {"b": 1.0}}
    check(stage, step, served, other, rendered={"a": its_own})
    straight, _ = run(stage, weights, tmp_path / "straight")
    assert distance(step.gradient, straight.gradient) > 1e-3


# Several turns.


@pytest.fixture(scope="module")
def talkers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student and a teacher that have learnt, a little, to play the guessing game of several turns."""
    folder = tmp_path_factory.mktemp("talkers")
    stage = Sft(name="tuned", domains={"guess": 1.0})
    for name, steps in ((BASE, 40), ("a", 60)):
        quick = UNSCORED.model_copy(update={"evaluate_every": 100, "diagnose_every": 100})
        amounts = {"steps": steps, "prompts_per_step": 24, "learning_rate": 1e-2}
        run_watched(job_of(stage, {BASE: model}, folder / name, domains=["guess"], settings=quick, **amounts))
    return {name: folder / name / "weights" for name in (BASE, "a")}


@pytest.mark.slow
def test_what_the_environment_says_is_read_but_never_trained(
    talkers: dict[str, Path], tmp_path: Path
) -> None:
    """Every row is the policy's turns and the replies between them; the loss is that of the turns alone."""
    from transformers import AutoTokenizer

    stage = student(["guess"], [Teacher(stage="a", domains=("guess",))])
    step, _ = run(stage, talkers, tmp_path, prompts_per_step=12)
    tokenizer, game = AutoTokenizer.from_pretrained(talkers[BASE]), task("guess")
    replies = 0
    for item, _, response, trained in written_rows(step.batch):
        said: list[str] = []
        position = 0
        while position < len(response):  # a turn ends with its end of sequence, or is the last and cut off
            end = position + 1
            while response[end - 1] != tokenizer.eos_token_id and end < len(response):
                end += 1
            assert all(trained[position:end])
            said.append(tokenizer.decode(response[position:end], skip_special_tokens=True))
            if end == len(response):
                break
            reply = game.observe(item, said)
            assert reply is not None
            ids = Chat(tokenizer, end_ids=frozenset([tokenizer.eos_token_id])).observation(reply)
            assert response[end : end + len(ids)] == ids and not any(trained[end : end + len(ids)])
            replies += 1
            position = end + len(ids)
    assert replies >= 6
    check(stage, step, {"guess": {"a": 1.0}}, talkers)


@pytest.mark.slow
def test_other_replies_leave_the_same_positions_trained(talkers: dict[str, Path], tmp_path: Path) -> None:
    from trainer.batch.update import accumulate_gradients
    from trainer.model.loading import load_policy

    stage = student(["guess"], [Teacher(stage="a", domains=("guess",))])
    step, _row = run(stage, talkers, tmp_path, prompts_per_step=12)
    rollouts = step.batch.rollouts
    observed_BT = rollouts.present_BT & ~rollouts.trained_BT
    assert observed_BT.any()
    changed = rollouts.response_BT.where(~observed_BT, rollouts.response_BT.roll(1))
    policy = load_policy(talkers[BASE])
    seen = []
    for response_BT in (rollouts.response_BT, changed):
        positions: list[int] = []

        def loss_of(logits_NV: Tensor, index_N: Tensor, into: list[int] = positions) -> Any:
            into += index_N.tolist()
            return logits_NV.sum() * 0, {}

        accumulate_gradients(
            policy, type(rollouts)(**{**vars(rollouts), "response_BT": response_BT}), loss_of
        )
        seen.append(sorted(positions))
    assert seen[0] == seen[1] == rollouts.trained_BT.flatten().nonzero().squeeze(1).tolist()


# Off-policy, balance, what is logged.


@pytest.mark.parametrize("each", [1, 3])
def test_off_policy_samples_are_the_teachers_and_pass_the_verifier(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, each: int
) -> None:
    stage = one_each(small, on_policy=False, loss="sample_nll", correct_only=True)
    step, row = run(stage, weights, tmp_path, prompts_per_step=20, rollouts_per_prompt=each)
    passed_B = step.batch.reward_B == 1
    assert torch.equal(passed_B, step.batch.rollouts.trained_BT.any(1)) and step.batch.group == each
    assert passed_B.view(-1, each).any(1).all() and 0 < len(step.batch.items) < 20
    assert bool(passed_B.all()) == (each == 1), "beside one that passes, others may fail"
    assert row["reward"] == 1
    start = plain_model(weights[BASE])
    rows = [written for written in written_rows(step.batch) if any(written[-1])]
    tokens = sum(sum(trained) for *_, trained in rows)
    nll = torch.zeros((), dtype=torch.float64)
    for _, prompt, response, _trained in rows:
        nll = (
            nll
            - logprobs_of(start, prompt, response).gather(1, torch.tensor(response)[:, None]).sum() / tokens
        )
    assert distance(step.gradient, gradient_of(nll, start)) < 1e-4
    assert row["nll"] == pytest.approx(float(nll.detach()), rel=1e-4)
    everything, _ = run(one_each(small, on_policy=False), weights, tmp_path / "all", prompts_per_step=20)
    assert len(everything.batch.reward_B) == 20


def test_a_step_without_a_correct_sample_is_skipped(weights: dict[str, Path], tmp_path: Path) -> None:
    specs = write_domains(tmp_path)
    path = tmp_path / "low.jsonl"
    path.write_text(path.read_text().replace(r"(?s)[ -N].*|", "never said"))
    stage = student(
        [specs["low"]],
        [Teacher(stage="a", domains=(specs["low"],))],
        on_policy=False,
        loss="sample_nll",
        correct_only=True,
    )
    seen, rows = run_watched(job_of(stage, weights, tmp_path / "job", domains=[specs["low"]], steps=2))
    assert seen == [] and all("no teacher sample" in row["skipped"] for row in steps_in(rows))


@pytest.mark.parametrize("balance", ["none", "token_share", "remaining_gap", "dispersion"])
def test_balance_weighs_domains_by_what_was_measured(
    small: dict[str, str],
    weights: dict[str, Path],
    tmp_path: Path,
    balance: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the second step, from what the first one logged: weights relative to the plain token mean."""
    targets: list[Any] = []
    own = distill.loss_function
    monkeypatch.setattr(distill, "loss_function", lambda target: (targets.append(target), own(target))[1])
    short = small["high"].replace("max_new_tokens=6", "max_new_tokens=2")
    stage = student(
        [small["low"], short],
        [Teacher(stage="a", domains=(small["low"],)), Teacher(stage="b", domains=(short,))],
        balance=balance,
    )
    job = job_of(stage, weights, tmp_path, domains=list(stage.domains), steps=2, prompts_per_step=8)
    steps, rows = run_watched(job)
    batch, target = steps[1].batch, targets[1]
    whole = float(batch.rollouts.trained_BT.sum())
    tokens = {name: float(batch.rollouts.trained_BT[span].sum()) for name, span in batch.spans.items()}
    factor = {
        name: float(target.weight_BT[span].sum()) * whole / tokens[name] for name, span in batch.spans.items()
    }
    assert sum(factor.values()) / 2 == pytest.approx(1, rel=1e-4)
    low, high = factor.values()
    first = {name: row for name, row in steps_in(rows)[0]["domains"].items()}
    statistic = {"remaining_gap": "kl", "dispersion": "dispersion"}.get(balance)
    if balance == "none":
        assert low == pytest.approx(high) == pytest.approx(1)
    elif statistic:
        ratio = first[small["low"]][statistic] / first[short][statistic]
        assert low / high == pytest.approx(ratio if balance == "remaining_gap" else 1 / ratio, rel=1e-4)
    else:
        means = [
            0.9 * before + 0.1 * now
            for before, now in zip(
                [
                    float(steps[0].batch.rollouts.trained_BT[span].sum())
                    for span in steps[0].batch.spans.values()
                ],
                tokens.values(),
                strict=True,
            )
        ]
        assert low / high == pytest.approx(means[1] / means[0], rel=1e-4)
    shares = [row["effective_share"] for row in steps_in(rows)[1]["domains"].values()]
    dispersions = [row["dispersion"] for row in steps_in(rows)[1]["domains"].values()]
    mass = [x * t * d for x, t, d in zip(factor.values(), tokens.values(), dispersions, strict=True)]
    assert shares == pytest.approx([x / sum(mass) for x in mass], rel=1e-3)


def test_a_teacher_that_equals_the_student_is_said_and_survived(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step, _ = run(one_each(small), {**weights, "a": weights[BASE]}, tmp_path)
    assert "teacher 'a' has the weights of the student's start" in capsys.readouterr().err
    assert math.isfinite(step.loss)


def test_preflight_is_kept_in_the_summary(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    stage = one_each(small)
    summary = distill.run(
        job_of(stage, weights, tmp_path, domains=list(stage.domains)), stage, lambda done: None
    )
    found = summary["preflight"]
    assert found["greedy_logprob"].keys() == set(stage.teacher_names)
    assert abs(found["self_kl"]) < 1e-5 and min(found["gradient_distance"].values()) > 0
