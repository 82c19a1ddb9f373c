"""Losses against naive formulas differentiated by autograd in float64, finite differences and enumeration."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mopdsim.base.errors import UsageError
from trainer.losses import losses

N, V = 5, 7


def random_logits(seed: int, rows: int = N, vocabulary: int = V) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, vocabulary, generator=noise, dtype=torch.float64)


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


STUDENT, TEACHER, OTHER = (random_logits(seed) for seed in (1, 2, 3))
WEIGHTS = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4], dtype=torch.float64)


def naive_kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    return (p_NV * (p_NV / q_NV).log()).sum(-1)


def naive_jensen_shannon(s_NV: Tensor, t_NV: Tensor, beta: float) -> Tensor:
    mixture_NV = beta * t_NV + (1 - beta) * s_NV
    return beta * naive_kl(t_NV, mixture_NV) + (1 - beta) * naive_kl(s_NV, mixture_NV)


def naive_top_k(s_NV: Tensor, t_NV: Tensor, k: int) -> Tensor:
    inside_NV = s_NV >= s_NV.sort(descending=True).values[:, k - 1 : k]
    buckets = [
        torch.cat([p_NV[inside_NV].view(-1, k), p_NV.masked_fill(inside_NV, 0).sum(-1, keepdim=True)], 1)
        for p_NV in (s_NV, t_NV)
    ]
    return naive_kl(*buckets)


DIVERGENCES = {
    "reverse": (losses.reverse_kl, naive_kl),
    "forward": (losses.forward_kl, lambda s, t: naive_kl(t, s)),
    "jensen-shannon .1": (partial(losses.jensen_shannon, beta=0.1), partial(naive_jensen_shannon, beta=0.1)),
    "jensen-shannon .7": (partial(losses.jensen_shannon, beta=0.7), partial(naive_jensen_shannon, beta=0.7)),
    "top 1": (partial(losses.top_k_reverse_kl, k=1), partial(naive_top_k, k=1)),
    "top 3": (partial(losses.top_k_reverse_kl, k=3), partial(naive_top_k, k=3)),
    "top V": (partial(losses.top_k_reverse_kl, k=V), naive_kl),
}
divergences = pytest.mark.parametrize(("loss_of", "naive"), DIVERGENCES.values(), ids=list(DIVERGENCES))


@divergences
def test_divergence_and_gradient_equal_the_naive_formula(loss_of, naive) -> None:
    student = STUDENT.clone().requires_grad_()
    loss, _ = loss_of(student, TEACHER, WEIGHTS)
    truth = (WEIGHTS * naive(student.softmax(-1), TEACHER.softmax(-1))).sum()
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient(loss, student), gradient(truth, student), rtol=1e-10, atol=1e-13)


@divergences
def test_divergence_passes_finite_differences(loss_of, naive) -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: loss_of(logits, TEACHER, WEIGHTS)[0], student)


@divergences
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(loss_of, naive) -> None:
    student = STUDENT.clone().requires_grad_()
    loss, _ = loss_of(student, STUDENT + 3.0, WEIGHTS)  # a shift of all logits changes no distribution
    assert abs(loss.item()) < 1e-14
    assert float(gradient(loss, student).abs().max()) < 1e-14


@divergences
def test_a_different_teacher_gives_a_different_gradient(loss_of, naive) -> None:
    student = STUDENT.clone().requires_grad_()
    one, other = (gradient(loss_of(student, t, WEIGHTS)[0], student) for t in (TEACHER, OTHER))
    assert float((one - other).norm()) > 0.1 * float(one.norm())


@divergences
def test_positions_may_be_split_and_metrics_add_up(loss_of, naive) -> None:
    student = STUDENT.clone().requires_grad_()
    whole, metrics = loss_of(student, TEACHER, WEIGHTS)
    parts = [loss_of(student[cut], TEACHER[cut], WEIGHTS[cut]) for cut in (slice(0, 2), slice(2, N))]
    torch.testing.assert_close(gradient(whole, student), gradient(parts[0][0] + parts[1][0], student))
    for name, total in metrics.items():
        assert not total.requires_grad
        torch.testing.assert_close(total, parts[0][1][name] + parts[1][1][name])


@divergences
def test_masked_ids_are_left_out_of_both_distributions(loss_of, naive) -> None:
    valid_V = torch.tensor([True, True, False, True, True, True, False])
    wider = torch.cat([TEACHER, torch.full((N, 2), 50.0, dtype=torch.float64)], 1)
    for teacher in (TEACHER, wider, TEACHER[:, :6]):
        student = STUDENT.clone().requires_grad_()
        loss, _ = loss_of(student, teacher, WEIGHTS, valid_V=valid_V)
        cut = STUDENT[:, valid_V].requires_grad_()
        truth, _ = loss_of(cut, TEACHER[:, valid_V], WEIGHTS)
        assert loss.item() == truth.item()
        assert torch.equal(gradient(loss, student)[:, valid_V], gradient(truth, cut))
        assert not gradient(loss_of(student, teacher, WEIGHTS, valid_V=valid_V)[0], student)[
            :, ~valid_V
        ].any()


@divergences
def test_sixteen_bit_logits_are_worked_out_in_float32(loss_of, naive) -> None:
    student = STUDENT.bfloat16().requires_grad_()
    loss, _ = loss_of(student, TEACHER.bfloat16(), WEIGHTS.float())
    truth = STUDENT.bfloat16().double().requires_grad_()
    expected, _ = loss_of(truth, TEACHER.bfloat16().double(), WEIGHTS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradient(loss, student).dtype == torch.bfloat16
    torch.testing.assert_close(
        gradient(loss_of(student, TEACHER.bfloat16(), WEIGHTS.float())[0], student).double(),
        gradient(expected, truth),
        rtol=1e-2,
        atol=1e-6,
    )


def test_metrics_of_a_divergence_are_unweighted_sums() -> None:
    p, q = STUDENT.softmax(-1), TEACHER.softmax(-1)
    for loss_of in (losses.reverse_kl, losses.forward_kl, partial(losses.jensen_shannon, beta=0.5)):
        _, metrics = loss_of(STUDENT, TEACHER, WEIGHTS)
        torch.testing.assert_close(metrics["kl_sum"], naive_kl(p, q).sum())
        torch.testing.assert_close(metrics["log_ratio_square_sum"], (p * (p / q).log().square()).sum())
        torch.testing.assert_close(metrics["entropy_sum"], -(p * p.log()).sum())
    torch.testing.assert_close(
        losses.forward_kl(STUDENT, TEACHER, WEIGHTS)[1]["forward_kl_sum"], naive_kl(q, p).sum()
    )


@pytest.mark.parametrize(("beta", "end"), [(1e-6, losses.forward_kl), (1 - 1e-6, losses.reverse_kl)])
def test_jensen_shannon_tends_to_forward_kl_at_zero_and_reverse_kl_at_one(beta: float, end) -> None:
    student = STUDENT.clone().requires_grad_()
    scaled = losses.jensen_shannon(student, TEACHER, WEIGHTS, beta=beta)[0] / min(beta, 1 - beta)
    limit, _ = end(student, TEACHER, WEIGHTS)
    assert scaled.item() == pytest.approx(limit.item(), rel=1e-4)
    torch.testing.assert_close(gradient(scaled, student), gradient(limit, student), rtol=1e-3, atol=1e-4)


@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1))
def test_top_k_falls_short_of_the_full_kl_by_what_happens_outside(seed: int, k: int) -> None:
    student, teacher, one = (
        random_logits(seed, 1),
        random_logits(seed + 1, 1),
        torch.ones(1, dtype=torch.float64),
    )
    bound, metrics = losses.top_k_reverse_kl(student, teacher, one, k=k)
    full, _ = losses.reverse_kl(student, teacher, one)
    p, q = student.softmax(-1)[0], teacher.softmax(-1)[0]
    outside = p.argsort(descending=True)[k:]
    gap = p[outside].sum() * naive_kl(p[outside] / p[outside].sum(), q[outside] / q[outside].sum())
    assert 0 <= float(bound) <= full.item() + 1e-12
    assert float(full - bound) == pytest.approx(float(gap), abs=1e-12)
    assert float(metrics["student_mass_sum"]) == pytest.approx(float(1 - p[outside].sum()))
    assert float(metrics["teacher_mass_sum"]) == pytest.approx(float(1 - q[outside].sum()))
    inside = p.argsort(descending=True)[:k]
    buckets = [torch.cat([x[inside], x[outside].sum(0, keepdim=True)]) for x in (p, q)]
    square = (buckets[0] * (buckets[0] / buckets[1]).log().square()).sum()
    assert float(metrics["log_ratio_square_sum"]) == pytest.approx(float(square))


def test_top_k_holds_a_student_that_leaves_the_support() -> None:
    """Moving the student's mass off the teacher's favourite to a token outside the top k must cost."""
    teacher = torch.tensor([[5.0, 0.0, 0.0, 0.0]])
    inside, outside = torch.tensor([[5.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 4.0, 4.0]])
    near, far = (losses.top_k_reverse_kl(s, teacher, torch.ones(1), k=1)[0] for s in (inside, outside))
    assert float(near) == pytest.approx(0, abs=1e-6)
    assert float(far) > 1


# Sampled tokens and policy gradients


def every_token(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Each position once for each token it could sample: (N*V,) log-probs and tokens."""
    rows = logits_NV.repeat_interleave(V, 0)
    tokens = torch.arange(V).repeat(len(logits_NV))
    return losses.token_logprob(rows, tokens)[0], tokens


@pytest.mark.parametrize("behaviour", [STUDENT, OTHER], ids=["on-policy", "off-policy"])
def test_sampled_tokens_have_the_gradient_of_the_full_reverse_kl_in_expectation(behaviour: Tensor) -> None:
    student = STUDENT.clone().requires_grad_()
    logprob, _ = every_token(student)
    teacher, sampled_by = every_token(TEACHER)[0], every_token(behaviour)[0]
    probability = sampled_by.exp() * WEIGHTS.repeat_interleave(V)
    loss, _ = losses.sampled_token(logprob, teacher, sampled_by, probability, max_ratio=math.inf)
    full, _ = losses.reverse_kl(student, TEACHER, WEIGHTS)
    torch.testing.assert_close(gradient(loss, student), gradient(full, student), rtol=1e-10, atol=1e-14)


def test_sampled_token_truncates_ratios_and_mixes_in_a_reward() -> None:
    student = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    teacher, behaviour = torch.tensor([-0.5, -3.0]), torch.tensor([-3.0, -1.5])
    loss, metrics = losses.sampled_token(
        student,
        teacher,
        behaviour,
        torch.tensor([0.5, 0.5]),
        max_ratio=2.0,
        paid_N=0.3 * torch.tensor([1.0, -1.0]),
    )
    ratio = [min(math.exp(2.0), 2.0), math.exp(-0.5)]
    advantage = [0.5 + 0.3, -1.0 - 0.3]
    expected = torch.tensor(
        [-0.5 * r * a for r, a in zip(ratio, advantage, strict=True)], dtype=torch.float64
    )
    torch.testing.assert_close(gradient(loss, student), expected)
    assert {name: pytest.approx(float(value)) for name, value in metrics.items()} == {
        "kl_sum": 0.5,
        "log_ratio_square_sum": 1.25,
        "ratio_sum": math.exp(2) + math.exp(-0.5),
        "truncated_count": 1,
    }


def test_a_different_teacher_gives_a_different_gradient_beside_a_reward() -> None:
    student = STUDENT.clone().requires_grad_()
    tokens = torch.tensor([0, 3, 1, 6, 2])
    logprob, _ = losses.token_logprob(student, tokens)
    reward = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    one, other = (
        gradient(
            losses.sampled_token(
                logprob,
                losses.token_logprob(teacher, tokens)[0],
                logprob.detach(),
                WEIGHTS,
                max_ratio=2.0,
                paid_N=10.0 * reward,
            )[0],
            logprob,
        )
        for teacher in (TEACHER, OTHER)
    )
    assert not torch.allclose(one, other, rtol=1e-3)


def test_policy_gradient_at_ratio_one_is_reinforce_with_a_group_baseline() -> None:
    student = random_logits(4, rows=4).requires_grad_()
    tokens, reward = torch.tensor([1, 2, 5, 0]), torch.tensor([1.0, 0.0, 0.5, 0.5])
    advantage, _ = losses.group_advantages(reward, 2, "none")
    logprob, _ = losses.token_logprob(student, tokens)
    weights = torch.full((4,), 0.25)
    loss, metrics = losses.policy_gradient(
        logprob, logprob.detach(), advantage, weights, clip_low=0.2, clip_high=0.28
    )
    baseline = torch.tensor([0.5, 0.5, 0.5, 0.5])
    log_p = student.log_softmax(-1)[torch.arange(4), tokens]
    reinforce = -(weights * (reward - baseline) * log_p).sum()
    torch.testing.assert_close(gradient(loss, student), gradient(reinforce, student))
    assert float(metrics["clip_count"]) == 0
    assert float(metrics["behaviour_kl_sum"]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.1, 2.0, 1.1 * 2.0),
        (1.3, 2.0, 0.0),  # above 1 + .28 and rewarded: clipped
        (1.25, 2.0, 1.25 * 2.0),  # between the symmetric .2 and the high .28
        (1.3, -2.0, -1.3 * 2.0),  # above, but punished: not clipped
        (0.7, 2.0, 0.7 * 2.0),
        (0.7, -2.0, 0.0),
    ],
)
def test_the_clip_is_asymmetric_and_pessimistic(ratio: float, advantage: float, slope: float) -> None:
    logprob = torch.tensor([math.log(ratio) - 1.0], dtype=torch.float64, requires_grad=True)
    loss, metrics = losses.policy_gradient(
        logprob, torch.tensor([-1.0]), torch.tensor([advantage]), torch.ones(1), clip_low=0.2, clip_high=0.28
    )
    assert float(gradient(loss, logprob)) == pytest.approx(-slope)
    assert float(metrics["clip_count"]) == (slope == 0)


def test_k3_is_an_unbiased_estimate_of_the_kl() -> None:
    student = STUDENT.clone().requires_grad_()
    logprob, reference = every_token(student)[0], every_token(TEACHER)[0]
    probability = logprob.detach().exp()
    loss, metrics = losses.policy_gradient(
        logprob,
        logprob.detach(),
        torch.zeros(N * V),
        probability,
        clip_low=0.2,
        clip_high=0.2,
        reference_N=reference,
        kl_coefficient=0.5,
    )
    full, _ = losses.reverse_kl(STUDENT, TEACHER, torch.full((N,), 0.5, dtype=torch.float64))
    assert loss.item() == pytest.approx(full.item())
    _, off = losses.policy_gradient(
        logprob, reference, torch.zeros(N * V), probability, clip_low=0.2, clip_high=0.2
    )
    ratio = (logprob - reference).detach()
    assert float(off["behaviour_kl_sum"]) == pytest.approx(float((ratio.exp() - 1 - ratio).sum()))
    assert float(metrics["reference_kl_sum"]) > 0


def test_token_logprob_cross_entropy_and_entropy() -> None:
    tokens = torch.tensor([0, 3, 1, 6, 2])
    logits = STUDENT.clone().requires_grad_()
    loss, metrics = losses.cross_entropy(logits, tokens, WEIGHTS)
    truth = (WEIGHTS * F.cross_entropy(logits, tokens, reduction="none")).sum()
    torch.testing.assert_close(loss, truth)
    torch.testing.assert_close(gradient(loss, logits), gradient(truth, logits))
    assert torch.autograd.gradcheck(lambda x: losses.token_logprob(x, tokens)[0], logits)
    torch.testing.assert_close(metrics["nll_sum"], F.cross_entropy(STUDENT, tokens, reduction="sum"))
    torch.testing.assert_close(
        metrics["entropy_sum"], torch.distributions.Categorical(logits=STUDENT).entropy().sum()
    )
    assert int(metrics["correct_count"]) == int((STUDENT.argmax(-1) == tokens).sum())


# Targets


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 1.25])
def test_extrapolated_targets_are_normalised_powers(lam: float) -> None:
    p_T, p_ref = TEACHER.softmax(-1), OTHER.softmax(-1)
    power = p_ref * (p_T / p_ref) ** lam
    target = losses.extrapolate(TEACHER, OTHER, lam).exp()
    torch.testing.assert_close(target, power / power.sum(-1, keepdim=True))


# Normalisers and advantages

TRAINED = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)


def test_token_weights_by_hand() -> None:
    by_token = losses.token_weights(TRAINED, "token")
    torch.testing.assert_close(by_token, TRAINED / 6)
    by_sequence = losses.token_weights(TRAINED, "sequence")
    torch.testing.assert_close(by_sequence, TRAINED / torch.tensor([[9.0], [3.0], [6.0], [1.0]]))
    scaled = losses.token_weights(TRAINED, "token", torch.tensor([2.0, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(scaled.sum(1), torch.tensor([1.0, 0.0, 1 / 6, 0.0]))


@pytest.mark.parametrize("normalizer", ["token", "sequence"])
@pytest.mark.parametrize("padding", [0, 9])
def test_the_same_batch_split_differently_gives_the_same_gradient(normalizer, padding: int) -> None:
    """Neither the cut into micro-batches nor padding (a label count) enters the divisor."""
    trained = F.pad(TRAINED, (0, padding))
    student = random_logits(5, rows=trained.numel()).requires_grad_()
    teacher = random_logits(6, rows=trained.numel())
    rows = trained.shape[1]
    weight = losses.token_weights(trained, normalizer)

    def grad(cuts: list[slice]) -> Tensor:
        total = 0.0
        for cut in cuts:
            index = trained[cut].flatten().nonzero().squeeze(1)
            weights = weight[cut].flatten()[index]
            flat = index + cut.start * rows
            total = total + losses.reverse_kl(student[flat], teacher[flat], weights)[0]
        return gradient(total, student)

    whole = grad([slice(0, 4)])
    torch.testing.assert_close(grad([slice(0, 1), slice(1, 3)]), whole)
    torch.testing.assert_close(grad([slice(0, 2), slice(2, 4)]), whole)
    flat = trained.flatten()
    weights = weight.flatten()[flat]
    torch.testing.assert_close(
        gradient(losses.reverse_kl(student[flat], teacher[flat], weights)[0], student), whole
    )


def test_an_update_without_a_trained_token_is_refused() -> None:
    with pytest.raises(UsageError, match="no token of the update is trained"):
        losses.token_weights(TRAINED[3:])


REWARD = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.25, 0.75, 3.0, 1.0])


def test_group_advantages_by_hand() -> None:
    plain, zero_signal = losses.group_advantages(REWARD, 2, "none")
    assert plain.tolist() == [0.5, -0.5, 0, 0, -0.25, 0.25, 1, -1]
    assert zero_signal.tolist() == [False, True, False, False]
    by_group, _ = losses.group_advantages(REWARD, 2, "group")
    assert by_group.tolist() == [1, -1, 0, 0, -1, 1, 1, -1]
    by_domain, _ = losses.group_advantages(REWARD, 2, "domain", torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    first, second = math.sqrt(0.125), math.sqrt((0.0625 + 1) / 2)
    torch.testing.assert_close(by_domain, plain / torch.tensor([first] * 4 + [second] * 4))


def test_a_domain_without_any_signal_has_advantage_zero() -> None:
    advantage, zero_signal = losses.group_advantages(
        torch.tensor([0.1] * 4), 4, "domain", torch.zeros(4).long()
    )
    assert advantage.tolist() == [0] * 4
    assert zero_signal.tolist() == [True]


@given(
    rewards=st.lists(st.integers(0, 8), min_size=4, max_size=4),
    scale=st.sampled_from([0.5, 4.0]),
    shift=st.sampled_from([-2.0, 8.0]),
)
def test_group_normalised_advantages_ignore_the_scale_of_rewards(rewards, scale: float, shift: float) -> None:
    reward = torch.tensor(rewards) / 8
    advantage, zero_signal = losses.group_advantages(reward, 4)
    moved, _ = losses.group_advantages(scale * reward + shift, 4)
    torch.testing.assert_close(moved, advantage, atol=1e-5, rtol=1e-5)
    assert float(advantage.sum()) == pytest.approx(0, abs=1e-5)
    assert float(advantage.square().mean()) == pytest.approx(0 if zero_signal[0] else 1, abs=1e-5)


@pytest.mark.parametrize(
    ("group", "normalize", "rule"),
    [(1, "group", "two or more"), (3, "none", "whole groups"), (2, "domain", "domain_B is missing")],
)
def test_advantages_refuse_what_has_no_baseline(group: int, normalize, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        losses.group_advantages(REWARD, group, normalize)


@divergences
def test_blocks_of_rows_change_nothing(loss_of, naive, monkeypatch: pytest.MonkeyPatch) -> None:
    student = STUDENT.clone().requires_grad_()
    whole, metrics = loss_of(student, TEACHER, WEIGHTS)
    monkeypatch.setattr("trainer.losses.losses.CPU_BLOCK", 2 * V + 1)
    cut, cut_metrics = loss_of(student, TEACHER, WEIGHTS)
    assert whole.item() == cut.item()
    assert torch.equal(gradient(whole, student), gradient(cut, student))
    assert metrics == cut_metrics


def test_no_position_is_no_loss() -> None:
    student = STUDENT[:0].clone().requires_grad_()
    loss, metrics = losses.reverse_kl(student, TEACHER[:0], WEIGHTS[:0])
    assert loss.item() == 0 and float(metrics["kl_sum"]) == 0
    assert gradient(loss, student).shape == (0, V)
