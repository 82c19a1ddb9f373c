"""Drawing one turn of tokens from a policy, row by row independently.

A token is the first whose cumulative probability reaches a number that was drawn beforehand for its row and place, so
it does not depend on neighbours, padding, or rows that finished early. No top-k or top-p: the distribution
sampled is the policy that is scored. Leaves out: rollouts as loops see them (`trainer.batch.rollout`).

Axes: U prompts, B = U * group rows, K rows still going, T tokens, V vocabulary, E end-of-sequence ids, F forbidden ids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from mopdsim.base.errors import UsageError
from trainer.model.parallel import parts_for, row_spans, side_by_side
from trainer.model.policy import Policy

LOOK_EVERY = (
    8  # tokens between two looks at who has finished, which wait for an accelerator; on a CPU every token
)
WORTH_DROPPING = 0.25  # share of rows that must have finished before the cache is copied without them

Turn = tuple[Tensor, Tensor, Tensor]  # response_BT, logprob_BT, length_B


def uniform(seed: int, turn: int, rows: int, steps: int) -> Tensor:
    """uniform_BT in [0, 1): what decides each token, the same on every device."""
    mixed = random.Random(f"{seed}/{turn}").getrandbits(63)
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(mixed))


def left_pad(prompts: Sequence[Sequence[int]], policy: Policy) -> tuple[Tensor, Tensor]:
    """(prompt_UP, mask_UP) of ragged token ids."""
    width = max(map(len, prompts))
    ids = torch.tensor([[policy.pad_id] * (width - len(p)) + list(p) for p in prompts])
    lengths = torch.tensor([len(p) for p in prompts])
    mask = torch.arange(width) >= width - lengths[:, None]
    return ids.to(policy.device), mask.to(policy.device)


def end_ids(policy: Policy) -> Tensor:
    """The end-of-sequence ids on the policy's device."""
    return torch.tensor(sorted(policy.eos_ids), device=policy.device, dtype=torch.long)


@torch.no_grad()
def decode(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    uniform_BT: Tensor,
    *,
    temperature: float,
    min_new_tokens: int = 0,
    forbidden_F: Tensor | None = None,
) -> Turn:
    """One turn of at most T tokens for every row, B / U rows a prompt, trimmed to the longest.

    Temperature 0 takes the likeliest token, with log-probs at temperature 1. Before `min_new_tokens` no end is
    drawn, and the ids `forbidden_F` never are; the log-prob stays the policy's own. UsageError where a row could
    outgrow the model's positions.
    """
    prompt_UP, mask_UP = left_pad(prompts, policy)
    uniform_BT, group = uniform_BT.to(policy.device), len(uniform_BT) // len(prompts)
    if forbidden_F is None:
        forbidden_F = torch.empty(0, device=policy.device, dtype=torch.long)
    longest, room = prompt_UP.shape[1] + uniform_BT.shape[1], policy.max_positions
    if longest > room:
        raise UsageError(
            f"a prompt of {prompt_UP.shape[1]} tokens and {uniform_BT.shape[1]} new ones make {longest}, but the "
            f"model has {room} positions (max_position_embeddings): shorten prompts or lower max_new_tokens"
        )

    def work(part: slice) -> Turn:
        unique = slice(part.start // group, part.stop // group)
        with policy.autocast():
            return _rows(
                policy,
                prompt_UP[unique],
                mask_UP[unique],
                uniform_BT[part],
                temperature,
                min_new_tokens,
                forbidden_F,
            )

    pieces = side_by_side(
        work, row_spans(len(uniform_BT), group=group, parts=parts_for(policy.device, policy.weight_bytes))
    )
    response_BT, logprob_BT, length_B = (torch.cat(piece) for piece in zip(*pieces, strict=True))
    width = int(length_B.max())
    return response_BT[:, :width], logprob_BT[:, :width], length_B


def _rows(
    policy: Policy,
    prompt_UP: Tensor,
    mask_UP: Tensor,
    uniform_BT: Tensor,
    temperature: float,
    least: int,
    forbidden_F: Tensor,
) -> Turn:
    rows, steps = uniform_BT.shape
    eos_E, look_every = end_ids(policy), 1 if policy.device.type == "cpu" else LOOK_EVERY
    decoder = policy.decoder(prompt_UP, mask_UP, group=rows // len(prompt_UP), max_new_tokens=steps)
    response_BT = torch.full_like(uniform_BT, policy.pad_id, dtype=torch.long)
    logprob_BT = torch.zeros_like(uniform_BT)
    length_B = torch.full((rows,), steps, device=policy.device)
    alive_K = torch.arange(rows, device=policy.device)
    for t in range(steps):
        logits_KV = policy.logits(decoder.hidden_BD, temperature=temperature or 1.0)
        not_now_F = torch.cat([forbidden_F, eos_E]) if t < least else forbidden_F
        token_K, logprob_K = _draw(logits_KV, uniform_BT[alive_K, t], temperature == 0, not_now_F)
        response_BT[alive_K, t], logprob_BT[alive_K, t] = token_K, logprob_K
        ended_K = torch.isin(token_K, eos_E)
        length_B[alive_K] = torch.where(ended_K, length_B[alive_K].clamp_max(t + 1), length_B[alive_K])
        if t + 1 == steps:
            break
        if (t + 1) % look_every == 0:
            going_J = (length_B[alive_K] == steps).nonzero().squeeze(1)
            if not len(going_J):
                break
            if len(going_J) <= (1 - WORTH_DROPPING) * len(alive_K):
                decoder.keep(going_J)
                token_K, alive_K = token_K[going_J], alive_K[going_J]
        decoder.step(token_K)
    return response_BT, logprob_BT, length_B


def _draw(logits_KV: Tensor, uniform_K: Tensor, greedy: bool, forbidden_F: Tensor) -> tuple[Tensor, Tensor]:
    """A token per row and its log-prob. The threshold lies in (0, total], so no token of probability 0 is drawn."""
    probability_KV = torch.softmax(logits_KV, 1)
    allowed_KV = probability_KV.index_fill(1, forbidden_F, 0.0) if len(forbidden_F) else probability_KV
    if greedy:
        token_K1 = allowed_KV.argmax(1, keepdim=True)
    else:
        cumulative_KV = allowed_KV.cumsum(1)
        token_K1 = torch.searchsorted(cumulative_KV, (1 - uniform_K[:, None]) * cumulative_KV[:, -1:])
    return token_K1.squeeze(1), probability_KV.gather(1, token_K1).log_().squeeze(1)
