"""Losses: pure functions of logits or log-probs at flattened positions, each returning (loss, metrics).

Axes: N trained positions, V vocabulary, B rows, T response tokens, G groups of R rows. `weights_N`
carries all normalisation (`token_weights`): a loss is sum_n weights_n loss_n, so splitting a batch never
changes its gradient. Metrics are detached, UNWEIGHTED sums over positions, to be divided by their number.
Distributions are those of the logits as given: a temperature is applied by the caller, to student and
teacher alike. Teachers receive no gradient. Everything is worked out in float32 or better.

A divergence of student S from teacher T is a formula of their log-probs (`Measured`): its value at each position, its
gradient with respect to the STUDENT'S LOGITS worked out by hand, and metrics. A logit's gradient is
p_v (dD/dp_v - sum_u p_u dD/dp_u), p = p_S. `differentiable` ties it to autograd, which then keeps a single
(N, V) tensor and no graph.

`valid_V` (bool, the student's width) marks the ids both vocabularies share; the rest, such as padding at
the end of a head, is left out of every distribution. The teacher's head may be wider or narrower.

Left out: which rows have which teacher, accumulating gradients (`trainer.batch.update`). Non-finite values
are passed on for the loops to stop at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vecdot

from mopdsim.base.errors import UsageError

Loss = tuple[Tensor, dict[str, Tensor]]
Measured = tuple[Tensor, Tensor, dict[str, Tensor]]  # value_N, gradient_NV, metrics at each position
CPU_BLOCK = 1 << 18  # logits worked on at once on a CPU: what its caches hold


class _KnownGradient(torch.autograd.Function):
    """value_N as a function of logits_NV whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, value_N: Tensor, gradient_NV: Tensor) -> Tensor:
        ctx.save_for_backward(gradient_NV)
        return value_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * gradients[0].to(gradient_NV.dtype)[:, None], None, None


def differentiable(
    measure: Callable[..., Measured], logits_NV: Tensor, *others: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """value_N of `measure(log-probs of the logits, *others)`, differentiable in the logits, and its metrics.

    Worked out a block of rows at a time, so that the intermediates stay small (and, on a CPU, in its caches).
    """
    count, width = logits_NV.shape
    rows = max(1, CPU_BLOCK // width if logits_NV.device.type == "cpu" else count)
    gradient_NV = torch.empty_like(logits_NV)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for start in range(0, max(1, count), rows):
            cut = slice(start, start + rows)
            value_n, gradient_NV[cut], metrics = measure(
                log_softmax(logits_NV[cut]), *(x[cut] for x in others)
            )
            for name, each_n in {"value": value_n, **metrics}.items():
                if name not in found:
                    found[name] = each_n.new_empty(count)
                found[name][cut] = each_n
    return _KnownGradient.apply(logits_NV, found.pop("value"), gradient_NV), found


def log_softmax(logits_NV: Tensor) -> Tensor:
    """Detached log-probs in float32 or better."""
    return torch.log_softmax(wide(logits_NV), -1)


def wide(values: Tensor) -> Tensor:
    """Detached, in float32 or better."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _weighted_sum(
    measure: Callable[[Tensor, Tensor], Measured],
    student_logits_NV: Tensor,
    teacher_logits_NV: Tensor,
    weights_N: Tensor,
    valid_V: Tensor | None,
) -> Loss:
    if valid_V is not None:
        ids = valid_V.nonzero().squeeze(1)
        student_logits_NV, teacher_logits_NV = student_logits_NV[:, ids], teacher_logits_NV[:, ids]
    value_N, metrics = differentiable(
        lambda s_NV, t_NV: measure(s_NV, log_softmax(t_NV)), student_logits_NV, teacher_logits_NV
    )
    return (weights_N * value_N).sum(), {f"{name}_sum": each_N.sum() for name, each_N in metrics.items()}


def _against(student_NV: Tensor, teacher_NV: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """p_S, r = log p_S/p_T, p_S r, and the metrics that every full-vocabulary divergence has:

    kl (reverse KL), log_ratio_square (E_S[r^2]) and entropy (of the student).
    """
    p_NV = student_NV.exp()
    ratio_NV = student_NV - teacher_NV
    product_NV = p_NV * ratio_NV
    metrics = {
        "kl": product_NV.sum(-1),
        "log_ratio_square": vecdot(product_NV, ratio_NV),
        "entropy": -vecdot(p_NV, student_NV),
    }
    return p_NV, ratio_NV, product_NV, metrics


def _reverse(student_NV: Tensor, teacher_NV: Tensor) -> Measured:
    p_NV, _, product_NV, metrics = _against(student_NV, teacher_NV)
    kl_N = metrics["kl"]
    return kl_N, product_NV.addcmul_(p_NV, kl_N[:, None], value=-1), metrics


def reverse_kl(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, weights_N: Tensor, *, valid_V: Tensor | None = None
) -> Loss:
    """KL(S||T) = sum_v p_S log p_S/p_T over the whole vocabulary; gradient p_S (log p_S/p_T - KL).

    Metrics, the same for every full-vocabulary divergence: kl_sum (reverse KL, whichever the loss is),
    log_ratio_square_sum (of E_S[(log p_S/p_T)^2]; the signal's dispersion), entropy_sum (the student's).
    """
    return _weighted_sum(_reverse, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


def forward_kl(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, weights_N: Tensor, *, valid_V: Tensor | None = None
) -> Loss:
    """KL(T||S) = sum_v p_T log p_T/p_S over the whole vocabulary; gradient p_S - p_T.

    Metrics: those of `reverse_kl`, and forward_kl_sum.
    """

    def measure(student_NV: Tensor, teacher_NV: Tensor) -> Measured:
        p_NV, ratio_NV, _, metrics = _against(student_NV, teacher_NV)
        q_NV = teacher_NV.exp()
        kl_N = -vecdot(q_NV, ratio_NV)
        return kl_N, p_NV.sub_(q_NV), metrics | {"forward_kl": kl_N}

    return _weighted_sum(measure, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


def jensen_shannon(
    student_logits_NV: Tensor,
    teacher_logits_NV: Tensor,
    weights_N: Tensor,
    *,
    beta: float,
    valid_V: Tensor | None = None,
) -> Loss:
    """Generalised Jensen-Shannon divergence (GKD, 2306.13649) with M = beta T + (1 - beta) S:

        D = beta KL(T||M) + (1 - beta) KL(S||M).

    The terms through M cancel in the gradient: (1 - beta) p_S (log p_S/m - KL(S||M)). beta -> 0 is the FORWARD end,
    D / beta -> KL(T||S); beta -> 1 the REVERSE end, D / (1 - beta) -> KL(S||T). D itself vanishes at both, so beta lies
    strictly between. Metrics: as `reverse_kl`; jensen_shannon_sum.
    """

    def measure(student_NV: Tensor, teacher_NV: Tensor) -> Measured:
        p_NV, _, _, metrics = _against(student_NV, teacher_NV)
        mixture_NV = torch.logaddexp(student_NV + math.log1p(-beta), teacher_NV + math.log(beta))
        of_teacher_N = vecdot(teacher_NV.exp(), teacher_NV - mixture_NV)
        ratio_NV = student_NV - mixture_NV
        of_student_N = vecdot(p_NV, ratio_NV)
        value_N = beta * of_teacher_N + (1 - beta) * of_student_N
        gradient_NV = ratio_NV.sub_(of_student_N[:, None]).mul_(p_NV).mul_(1 - beta)
        return value_N, gradient_NV, metrics | {"jensen_shannon": value_N}

    return _weighted_sum(measure, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


def top_k_reverse_kl(
    student_logits_NV: Tensor,
    teacher_logits_NV: Tensor,
    weights_N: Tensor,
    *,
    k: int,
    valid_V: Tensor | None = None,
) -> Loss:
    """Reverse KL over the student's k likeliest tokens and one bucket for all others; k >= V is the full KL.

    sum over the top k of p_S log p_S/p_T, + s log s/t with s, t the masses outside; the gradient is
    p_S (r - value) with r a token's own log ratio inside the support and log s/t outside. It falls short of
    the full KL by s KL(S||T, both given a token outside): its own top k makes s smallest, hence this support.
    Without the bucket (as in some peers) a student lowers the sum by leaving the support. Metrics: kl_sum and
    log_ratio_square_sum of the bucketed distributions, entropy_sum, and the mass inside the support,
    student_mass_sum and teacher_mass_sum.
    """

    def measure(student_NV: Tensor, teacher_NV: Tensor) -> Measured:
        if k >= student_NV.shape[-1]:
            value_N, gradient_NV, metrics = _reverse(student_NV, teacher_NV)
            whole_N = torch.ones_like(value_N)
            return value_N, gradient_NV, metrics | {"student_mass": whole_N, "teacher_mass": whole_N}
        ids_NK = student_NV.topk(k, -1, sorted=False).indices
        inside_S_NK, inside_T_NK = student_NV.gather(1, ids_NK), teacher_NV.gather(1, ids_NK)
        outside_S_N, outside_T_N = (
            x_NV.scatter(1, ids_NK, -math.inf).logsumexp(-1) for x_NV in (student_NV, teacher_NV)
        )
        p_NK, ratio_NK = inside_S_NK.exp(), inside_S_NK - inside_T_NK
        tail_N, tail_ratio_N = outside_S_N.exp(), outside_S_N - outside_T_N
        value_N = vecdot(p_NK, ratio_NK) + tail_N * tail_ratio_N
        p_NV = student_NV.exp()
        metrics = {
            "kl": value_N,
            "log_ratio_square": vecdot(p_NK, ratio_NK.square()) + tail_N * tail_ratio_N.square(),
            "entropy": -vecdot(p_NV, student_NV),
            "student_mass": p_NK.sum(-1),
            "teacher_mass": inside_T_NK.exp().sum(-1),
        }
        ratio_NV = tail_ratio_N[:, None].expand_as(p_NV).scatter(1, ids_NK, ratio_NK)
        return value_N, ratio_NV.sub_(value_N[:, None]).mul_(p_NV), metrics

    return _weighted_sum(measure, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


def extrapolate(teacher_logits_NV: Tensor, reference_logits_NV: Tensor, lam: float) -> Tensor:
    """ExOPD's target (2602.12125): log-probs of p_ref (p_T/p_ref)^lam, normalised, to pass as teacher logits.

    lam 0 is the reference, 1 the teacher, above 1 goes beyond it (1.25 helped most, 1.5 was unstable there).
    """
    return torch.log_softmax(torch.lerp(wide(reference_logits_NV), wide(teacher_logits_NV), lam), -1)


def _log_prob(logprob_NV: Tensor, token_N: Tensor) -> Measured:
    """Each token's log-prob; gradient one-hot minus p."""
    p_NV, token_N1 = logprob_NV.exp(), token_N[:, None]
    metrics = {"entropy": -vecdot(p_NV, logprob_NV)}
    value_N1 = logprob_NV.gather(1, token_N1)
    return value_N1.squeeze(1), p_NV.neg_().scatter_add_(1, token_N1, torch.ones_like(value_N1)), metrics


def token_logprob(logits_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each token, differentiable, and the detached entropy of its distribution, both (N,)."""
    logprob_N, metrics = differentiable(_log_prob, logits_NV, token_N)
    return logprob_N, metrics["entropy"]


def cross_entropy(logits_NV: Tensor, target_N: Tensor, weights_N: Tensor) -> Loss:
    """-log p(target). Metrics: nll_sum, entropy_sum, correct_count (the likeliest token is the target)."""
    logprob_N, entropy_N = token_logprob(logits_NV, target_N)
    correct = (logits_NV.detach().argmax(-1) == target_N).sum()
    metrics = {"nll_sum": -logprob_N.detach().sum(), "entropy_sum": entropy_N.sum(), "correct_count": correct}
    return -(weights_N * logprob_N).sum(), metrics


def sampled_token(
    student_N: Tensor,
    teacher_N: Tensor,
    behaviour_N: Tensor,
    weights_N: Tensor,
    *,
    max_ratio: float,
    paid_N: Tensor | None = None,
) -> Loss:
    """Distillation as a policy gradient on sampled tokens: -sum w sg[min(p_S/mu, max_ratio) A] log p_S with

        A = log p_T - log p_S + paid  (MiMo-V2-Flash, where paid is alpha times the reward's advantage),

    of the tokens' log-probs (N,) under student S, teacher T and the sampling policy mu. Where nothing is paid its
    expected gradient over tokens sampled from the student is that of the full reverse KL. Metrics: kl_sum (estimate,
    the sum of log p_S/p_T), log_ratio_square_sum, ratio_sum (of p_S/mu), truncated_count.
    """
    with torch.no_grad():
        ratio_N = (student_N - behaviour_N).exp()
        signal_N = teacher_N - student_N
        advantage_N = signal_N if paid_N is None else signal_N + paid_N
        step_N = ratio_N.clamp(max=max_ratio) * advantage_N
        metrics = {
            "kl_sum": -signal_N.sum(),
            "log_ratio_square_sum": signal_N.square().sum(),
            "ratio_sum": ratio_N.sum(),
            "truncated_count": (ratio_N > max_ratio).sum(),
        }
    return -(weights_N * step_N * student_N).sum(), metrics


def policy_gradient(
    logprob_N: Tensor,
    behaviour_N: Tensor,
    advantage_N: Tensor,
    weights_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_N: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> Loss:
    """GRPO (2402.03300) with DAPO's asymmetric clip (2503.14476): -sum w [min(r A, clip(r) A) - c KL_ref],

    r = p/mu clipped to [1 - clip_low, 1 + clip_high], KL_ref by the k3 estimator p_ref/p - 1 - log p_ref/p.
    All log-probs are of the tokens, (N,). Metrics: clip_count, ratio_sum, behaviour_kl_sum (k3 estimate of
    KL(mu||p): r - 1 - log r) and, with a reference, reference_kl_sum.
    """
    difference_N = logprob_N - behaviour_N
    ratio_N = difference_N.exp()
    raw_N, clipped_N = (r_N * advantage_N for r_N in (ratio_N, ratio_N.clamp(1 - clip_low, 1 + clip_high)))
    gain_N = torch.minimum(raw_N, clipped_N)
    metrics = {
        "clip_count": (clipped_N < raw_N).sum(),
        "ratio_sum": ratio_N.detach().sum(),
        "behaviour_kl_sum": (ratio_N - 1 - difference_N).detach().sum(),
    }
    if reference_N is not None:
        towards_N = reference_N - logprob_N
        reference_kl_N = towards_N.exp() - 1 - towards_N
        gain_N = gain_N - kl_coefficient * reference_kl_N
        metrics["reference_kl_sum"] = reference_kl_N.detach().sum()
    return -(weights_N * gain_N).sum(), metrics


def token_weights(
    trained_BT: Tensor,
    normalizer: Literal["token", "sequence"] = "token",
    row_weights_B: Tensor | None = None,
) -> Tensor:
    """Weight of each trained token, float32 (B, T); they sum to 1 before the factor `row_weights_B`.

    "token": every trained token of the update alike. "sequence": every row that has one alike, shared evenly
    among its tokens. UsageError where none is trained.
    """
    length_B = trained_BT.sum(1)
    total = int(length_B.sum() if normalizer == "token" else (length_B > 0).sum())
    if not total:
        raise UsageError("no token of the update is trained, but a loss needs one at least: check trained_BT")
    weights_BT = trained_BT.float() / total
    if normalizer == "sequence":
        weights_BT = weights_BT / length_B.clamp(min=1)[:, None]
    return weights_BT if row_weights_B is None else weights_BT * row_weights_B.to(weights_BT)[:, None]


def group_advantages(
    reward_B: Tensor,
    group: int,
    normalize: Literal["group", "domain", "none"] = "group",
    domain_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """advantage_B, rewards minus their group's mean (rows grouped consecutively), and zero_signal_G (bool).

    normalize: "group" divides by the group's standard deviation (population; GRPO), "domain" by the root mean
    square of the centred rewards of the row's domain (`domain_B`, ids), "none" by nothing (Dr. GRPO,
    2503.20783). A group of equal rewards has zero signal: advantage exactly 0, and reported.
    """
    if group < 2 or len(reward_B) % group:
        raise UsageError(
            f"group is {group} for {len(reward_B)} rows, but a group baseline needs whole groups of two or "
            "more: raise rollouts_per_prompt"
        )
    reward_GR = reward_B.float().view(-1, group)
    zero_signal_G = reward_GR.amax(1) == reward_GR.amin(1)
    centred_GR = (reward_GR - reward_GR.mean(1, keepdim=True)).masked_fill(zero_signal_G[:, None], 0)
    square_B = centred_GR.flatten().square()
    if normalize == "group":
        scale_B = square_B.view(-1, group).mean(1).sqrt().repeat_interleave(group)
    elif normalize == "domain":
        if domain_B is None:
            raise UsageError('normalize is "domain", but domain_B is missing: pass the domain id of each row')
        zeros_D = square_B.new_zeros(int(domain_B.max()) + 1)
        total_D, count_D = (
            zeros_D.index_add(0, domain_B, x_B) for x_B in (square_B, torch.ones_like(square_B))
        )
        scale_B = (total_D / count_D).sqrt()[domain_B]
    else:
        scale_B = torch.ones_like(square_B)
    advantage_B = centred_GR.flatten()
    return torch.where(advantage_B == 0, 0, advantage_B / scale_B), zero_signal_G
