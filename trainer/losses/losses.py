"""Losses: pure functions of logits or log-probs at flattened positions, each returning (loss, metrics).

Axes: N trained positions, V vocabulary, B rows, T response tokens, G groups of R rows. `weights_N`
carries all normalisation (`token_weights`): a loss is sum_n weights_n loss_n, so splitting a batch never
changes its gradient. Metrics are detached, UNWEIGHTED sums over positions, to be divided by their number.
Distributions are those of the logits as given: a temperature is applied by the caller, to student and
teacher alike. Teachers receive no gradient. Everything is worked out in float32 or better.

`valid_V` (bool, the student's width) marks the ids both vocabularies share; the rest, such as padding at
the end of a head, is left out of every distribution. The teacher's head may be wider or narrower.

Left out: the formulas of divergences (`trainer.losses.divergences`), which rows have which teacher, accumulating
gradients (`trainer.batch.update`). Non-finite values are passed on for the loops to stop at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mopdsim.base.errors import UsageError
from trainer.losses import divergences
from trainer.losses.divergences import Measured, differentiable, log_softmax, wide

Loss = tuple[Tensor, dict[str, Tensor]]


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


def reverse_kl(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, weights_N: Tensor, *, valid_V: Tensor | None = None
) -> Loss:
    """KL(S||T) over the whole vocabulary.

    Metrics, the same for every full-vocabulary divergence: kl_sum (reverse KL, whichever the loss is),
    log_ratio_square_sum (of E_S[(log p_S/p_T)^2]; the signal's dispersion), entropy_sum (the student's).
    """
    return _weighted_sum(divergences.reverse, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


def forward_kl(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, weights_N: Tensor, *, valid_V: Tensor | None = None
) -> Loss:
    """KL(T||S) over the whole vocabulary. Metrics: those of `reverse_kl`, and forward_kl_sum."""
    return _weighted_sum(divergences.forward, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


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

    beta -> 0 is the FORWARD end, D / beta -> KL(T||S); beta -> 1 the REVERSE end, D / (1 - beta) -> KL(S||T).
    D itself vanishes at both, so beta lies strictly between. Metrics: as `reverse_kl`; jensen_shannon_sum.
    """
    if not 0 < beta < 1:
        raise UsageError(
            f"beta is {beta}, but a Jensen-Shannon weight lies strictly between 0 and 1: "
            "use the forward KL for the end at 0, the reverse KL for the end at 1"
        )
    measure = partial(divergences.jensen_shannon, beta=beta)
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

    It falls short of the full KL by s KL(S||T, both given a token outside), s being the student's mass
    outside: its own top k makes s smallest, hence this support. Without the bucket (as in some peers) a
    student lowers the sum by leaving the support. Metrics: kl_sum and log_ratio_square_sum of the bucketed
    distributions, entropy_sum, and the mass inside the support, student_mass_sum and teacher_mass_sum.
    """
    if k < 1:
        raise UsageError(f"k is {k}, but a top-k support holds at least one token: give k >= 1")
    measure = partial(divergences.top_k_reverse, k=k)
    return _weighted_sum(measure, student_logits_NV, teacher_logits_NV, weights_N, valid_V)


def extrapolate(teacher_logits_NV: Tensor, reference_logits_NV: Tensor, lam: float) -> Tensor:
    """ExOPD's target (2602.12125): log-probs of p_ref (p_T/p_ref)^lam, normalised, to pass as teacher logits.

    lam 0 is the reference, 1 the teacher, above 1 goes beyond it (1.25 helped most, 1.5 was unstable there).
    """
    return torch.log_softmax(torch.lerp(wide(reference_logits_NV), wide(teacher_logits_NV), lam), -1)


def token_logprob(logits_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each token, differentiable, and the detached entropy of its distribution, both (N,)."""
    logprob_N, metrics = differentiable(divergences.log_prob, logits_NV, token_N)
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
    reward_advantage_N: Tensor | None = None,
    alpha: float = 0.0,
) -> Loss:
    """Distillation as a policy gradient on sampled tokens: -sum w sg[min(p_S/mu, max_ratio) A] log p_S with

        A = log p_T - log p_S + alpha A_reward  (MiMo-V2-Flash),

    of the tokens' log-probs (N,) under student S, teacher T and the sampling policy mu. At alpha 0 its expected
    gradient over tokens sampled from the student is that of the full reverse KL. Metrics: kl_sum (estimate, the sum of
    log p_S/p_T), log_ratio_square_sum, ratio_sum (of p_S/mu), truncated_count.
    """
    with torch.no_grad():
        ratio_N = (student_N - behaviour_N).exp()
        signal_N = teacher_N - student_N
        advantage_N = signal_N if reward_advantage_N is None else signal_N + alpha * reward_advantage_N
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
