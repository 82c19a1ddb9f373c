"""Divergences between two categorical distributions, their gradients worked out by hand.

Each formula takes log-probs of student S and teacher T, (N positions, V vocabulary), and returns value_N, its
gradient with respect to the STUDENT'S LOGITS (gradient_NV), and metrics at each position. A logit's gradient
is p_v (dD/dp_v - sum_u p_u dD/dp_u), p = p_S. `differentiable` ties one to autograd, which then keeps a
single (N, V) tensor and no graph. Leaves out: weights and sums (`trainer.losses.losses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vecdot

Metrics = dict[str, Tensor]
Measured = tuple[Tensor, Tensor, Metrics]
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
) -> tuple[Tensor, Metrics]:
    """value_N of `measure(log-probs of the logits, *others)`, differentiable in the logits, and its metrics.

    Worked out a block of rows at a time, so that the intermediates stay small (and, on a CPU, in its caches).
    """
    count, width = logits_NV.shape
    rows = max(1, CPU_BLOCK // width if logits_NV.device.type == "cpu" else count)
    gradient_NV = torch.empty_like(logits_NV)
    found: Metrics = {}
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


def reverse(student_NV: Tensor, teacher_NV: Tensor) -> Measured:
    """KL(S||T) = sum_v p_S log p_S/p_T; gradient p_S (log p_S/p_T - KL)."""
    p_NV, _, product_NV, metrics = _against(student_NV, teacher_NV)
    kl_N = metrics["kl"]
    return kl_N, product_NV.addcmul_(p_NV, kl_N[:, None], value=-1), metrics


def forward(student_NV: Tensor, teacher_NV: Tensor) -> Measured:
    """KL(T||S) = sum_v p_T log p_T/p_S; gradient p_S - p_T."""
    p_NV, ratio_NV, _, metrics = _against(student_NV, teacher_NV)
    q_NV = teacher_NV.exp()
    kl_N = -vecdot(q_NV, ratio_NV)
    return kl_N, p_NV.sub_(q_NV), metrics | {"forward_kl": kl_N}


def jensen_shannon(student_NV: Tensor, teacher_NV: Tensor, *, beta: float) -> Measured:
    """beta KL(T||M) + (1 - beta) KL(S||M) with M = beta T + (1 - beta) S.

    The terms through M cancel: the gradient is (1 - beta) p_S (log p_S/m - KL(S||M)).
    """
    p_NV, _, _, metrics = _against(student_NV, teacher_NV)
    mixture_NV = torch.logaddexp(student_NV + math.log1p(-beta), teacher_NV + math.log(beta))
    of_teacher_N = vecdot(teacher_NV.exp(), teacher_NV - mixture_NV)
    ratio_NV = student_NV - mixture_NV
    of_student_N = vecdot(p_NV, ratio_NV)
    value_N = beta * of_teacher_N + (1 - beta) * of_student_N
    gradient_NV = ratio_NV.sub_(of_student_N[:, None]).mul_(p_NV).mul_(1 - beta)
    return value_N, gradient_NV, metrics | {"jensen_shannon": value_N}


def top_k_reverse(student_NV: Tensor, teacher_NV: Tensor, *, k: int) -> Measured:
    """sum over the student's top k of p_S log p_S/p_T, + s log s/t with s, t the masses outside.

    The gradient is p_S (r - value) with r a token's own log ratio inside the support and log s/t outside.
    """
    if k >= student_NV.shape[-1]:
        value_N, gradient_NV, metrics = reverse(student_NV, teacher_NV)
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


def log_prob(logprob_NV: Tensor, token_N: Tensor) -> Measured:
    """Each token's log-prob; gradient one-hot minus p."""
    p_NV, token_N1 = logprob_NV.exp(), token_N[:, None]
    metrics = {"entropy": -vecdot(p_NV, logprob_NV)}
    value_N1 = logprob_NV.gather(1, token_N1)
    return value_N1.squeeze(1), p_NV.neg_().scatter_add_(1, token_N1, torch.ones_like(value_N1)), metrics


def _against(student_NV: Tensor, teacher_NV: Tensor) -> tuple[Tensor, Tensor, Tensor, Metrics]:
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
