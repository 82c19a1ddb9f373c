"""Our losses beside verl's functions on random batches. Run with verl on the path; prints the differences as JSON.

Everything in float64. What is compared: values, and gradients with respect to the student's log-probs or logits.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import torch
from verl.trainer.distillation.fsdp.losses import compute_forward_kl_topk
from verl.trainer.ppo.core_algos import (
    compute_grpo_outcome_advantage,
    compute_policy_loss_vanilla,
    kl_penalty,
)

from trainer.losses.losses import forward_kl, group_advantages, policy_gradient, sampled_token, token_weights

ROWS, TOKENS, GROUP, WORDS = 24, 11, 4, 50
NO_DUAL_CLIP = 1e9


def config(low, high):
    own = {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": NO_DUAL_CLIP}
    return SimpleNamespace(**own, global_batch_info={}, get=lambda key, default: own.get(key, default))


def compare(ours, theirs, leaf):
    """Differences of values and gradients; both are functions of the leaf alone."""
    found = []
    for loss in (ours, theirs):
        leaf.grad = None
        value = loss()
        value.backward()
        found.append((float(value), leaf.grad.clone()))
    (a, grad_a), (b, grad_b) = found
    return {
        "value": abs(a - b),
        "gradient": float((grad_a - grad_b).abs().max()),
        "size": float(grad_a.abs().max()),
    }


def batch(seed):
    draw = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    old = -random(ROWS, TOKENS).abs() - 0.1
    new = (old + 0.3 * random(ROWS, TOKENS)).requires_grad_()
    lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=draw)
    mask = torch.arange(TOKENS) < lengths[:, None]
    return random, old, new, mask


def grpo(seed, normalizer, mode, scale):
    random, old, new, mask = batch(seed)
    rewards = (random(ROWS) > 0).double()
    advantage, _ = group_advantages(rewards, GROUP, scale)
    if scale == "group":
        advantage = advantage * ((GROUP - 1) / GROUP) ** 0.5
    per_token = torch.zeros(ROWS, TOKENS, dtype=torch.float64)
    per_token[:, -1] = rewards
    index = np.repeat(np.arange(ROWS // GROUP), GROUP)
    theirs, _ = compute_grpo_outcome_advantage(
        per_token, torch.ones(ROWS, TOKENS), index, epsilon=0.0, norm_adv_by_std_in_grpo=scale == "group"
    )
    theirs = torch.nan_to_num(theirs, nan=0.0)
    spread = advantage[:, None].expand(ROWS, TOKENS)
    weights = token_weights(mask, normalizer).double()
    own = lambda: policy_gradient(  # noqa: E731
        new.flatten(), old.flatten(), spread.flatten(), weights.flatten(), clip_low=0.2, clip_high=0.28
    )[0]
    other = lambda: compute_policy_loss_vanilla(  # noqa: E731
        old, new, theirs, mask.double(), loss_agg_mode=mode, config=config(0.2, 0.28)
    )[0]
    return {**compare(own, other, new), "advantage": float((advantage - theirs[:, 0]).abs().max())}


def sampled(seed):
    """On-policy (ratio 1), where verl's clip does not bind. The values differ by definition (ours is minus the step
    times the log-prob, verl's times the ratio): what both estimate is compared instead, the reverse KL."""
    random, _, new, mask = batch(seed)
    teacher = new.detach() + 0.5 * random(ROWS, TOKENS)
    behaviour = new.detach().clone()
    weights = token_weights(mask).double()
    own = lambda: sampled_token(  # noqa: E731
        *(x[mask] for x in (new, teacher, behaviour, weights)), max_ratio=2.0
    )
    k1 = kl_penalty(logprob=new, ref_logprob=teacher, kl_penalty="k1")
    other = lambda: compute_policy_loss_vanilla(  # noqa: E731
        behaviour, new, -k1.detach(), mask.double(), loss_agg_mode="token-mean", config=config(0.99, 1.0)
    )[0]
    found = compare(lambda: own()[0], other, new)
    ours_kl = float(own()[1]["kl_sum"]) / float(mask.sum())
    return {**found, "value": abs(ours_kl - float((k1.detach() * mask).sum() / mask.sum()))}


def ragged(rows):
    """Rows as verl passes them: one nested tensor."""
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def forward(seed):
    """verl's top-k forward KL with k of the whole vocabulary is ours."""
    random, _, _, mask = batch(seed)
    logits = random(ROWS, TOKENS, WORDS).requires_grad_()
    teacher = random(ROWS, TOKENS, WORDS)
    logprob, ids = torch.log_softmax(teacher, -1).sort(-1, descending=True)
    weights = token_weights(mask).double()
    told = SimpleNamespace(
        distillation_loss=SimpleNamespace(
            topk=WORDS, log_prob_min_clamp=None, use_chunked_topk=False, chunked_topk_chunk_size=4096
        )
    )
    own = lambda: forward_kl(logits.flatten(0, 1), teacher.flatten(0, 1), weights.flatten())[0]  # noqa: E731

    def other():
        found = compute_forward_kl_topk(
            student_logits=logits.flatten(0, 1)[None], teacher_topk_log_probs=ragged(logprob),
            teacher_topk_ids=ragged(ids), config=told, data_format="thd",
        )  # fmt: skip
        return (found["distillation_losses"][0] * weights.flatten()).sum()

    return compare(own, other, logits)


CASES = {
    "grpo, token mean": lambda seed: grpo(seed, "token", "token-mean", "group"),
    "grpo, sequence mean": lambda seed: grpo(seed, "sequence", "seq-mean-token-mean", "group"),
    "grpo, no scale": lambda seed: grpo(seed, "token", "token-mean", "none"),
    "sampled token": sampled,
    "forward kl": forward,
}

print(json.dumps({f"{name}, seed {seed}": case(seed) for name, case in CASES.items() for seed in range(4)}))
