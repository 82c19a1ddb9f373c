"""Rollouts of a policy: single turns, and conversations with an environment.

A token is the first whose cumulative probability reaches a number that was drawn beforehand for its row and place, so
it does not depend on neighbours, padding, or rows that finished early. No top-k or top-p: the distribution sampled is
the policy that is scored. Deterministic for (policy, prompts, seed, thread count). Leaves out: chat templates and
grading (the loops).

Axes: U prompts, B = U * group rows, K rows still going, P left-padded prompt length, T right-padded response length,
V vocabulary, E end-of-sequence ids, F forbidden ids.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mopdsim.base.errors import UsageError
from trainer.model.parallel import parts_for, row_spans, side_by_side
from trainer.model.policy import Policy

# Tokens between two looks at who has finished, which wait for an accelerator; on a CPU every token.
LOOK_EVERY = 8
WORTH_DROPPING = 0.25  # share of rows that must have finished before the cache is copied without them

Turn = tuple[Tensor, Tensor, Tensor]  # response_BT, logprob_BT, length_B


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Sampled responses to prompts, on the policy's device. Row b answers prompt b // group."""

    prompt_BP: Tensor  # long, left padded; rows of a group are identical
    prompt_mask_BP: Tensor  # bool
    response_BT: Tensor  # long, right padded
    present_BT: Tensor  # bool: the token exists, sampled or observed
    trained_BT: Tensor  # bool: sampled by the policy, its end-of-sequence included
    logprob_BT: Tensor  # float32 behaviour log-prob at the sampling temperature; 0 where not trained
    truncated_B: Tensor  # bool: the last turn was cut off before an end-of-sequence
    group: int

    def rows(self, index: Tensor | slice) -> Rollouts:
        """Some rows. Slices and indices that keep whole groups keep `group`, others set it to 1."""
        picked = torch.arange(len(self.prompt_BP), device=self.prompt_BP.device)[index]
        whole = not len(picked) or (
            len(picked) % self.group == 0
            and bool(
                (
                    picked.view(-1, self.group)
                    == picked[:: self.group, None] // self.group * self.group
                    + torch.arange(self.group, device=picked.device)
                ).all()
            )
        )
        return self._each(lambda x: x[index], group=self.group if whole else 1)

    def on(self, device: torch.device | str) -> Rollouts:
        """The same on a device."""
        return self._each(lambda x: x.to(device), group=self.group)

    def _each(self, change: Callable[[Tensor], Tensor], *, group: int) -> Rollouts:
        changed = {name: change(x) for name, x in vars(self).items() if name != "group"}
        return Rollouts(**changed, group=group)


def stacked(pieces: Sequence[Rollouts], pad_id: int, *, group: int) -> Rollouts:
    """All rows one after the other, padded to the widest."""
    fill = {"prompt_BP": pad_id, "response_BT": pad_id}
    found: dict[str, Tensor] = {"truncated_B": torch.cat([piece.truncated_B for piece in pieces])}
    for name in ("prompt_BP", "prompt_mask_BP", "response_BT", "present_BT", "trained_BT", "logprob_BT"):
        tensors = [getattr(piece, name) for piece in pieces]
        width = max(tensor.shape[1] for tensor in tensors)
        found[name] = torch.cat(
            [
                F.pad(
                    x,
                    (width - x.shape[1], 0) if name.startswith("prompt") else (0, width - x.shape[1]),
                    value=fill.get(name, 0),
                )
                for x in tensors
            ]
        )
    return Rollouts(**found, group=group)


def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    rollouts_per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    max_turns: int = 1,
    observe: Callable[[int, list[str]], list[int] | None] = lambda row, said: None,
    min_new_tokens: int = 0,
    forbidden_F: Tensor | None = None,
    place: tuple[int, int] | None = None,
) -> Rollouts:
    """Answers to every prompt (token ids), `rollouts_per_prompt` consecutive rows each: up to `max_turns` turns of at
    most `max_new_tokens`, of which later ones read the conversation anew.

    `temperature` 0 takes the likeliest token (evaluation; log-probs then at temperature 1). `observe(row, turns so
    far)` gives the environment's reply as token ids (its template and the opening of the next turn included), or None
    when the episode is over; it is not asked after a truncated or the last turn. Its tokens are present but not
    trained. Before `min_new_tokens` no end-of-sequence is drawn, and the ids `forbidden_F` never are; the log-prob
    stays the policy's own. place: where the prompts stand among how many, if they are some of a batch: the same
    answers then. Every prompt has a token. Raises UsageError on a row that could outgrow the model.
    """
    first, whole = place or (0, len(prompts))
    here = slice(first * rollouts_per_prompt, (first + len(prompts)) * rollouts_per_prompt)
    starts = [list(prompt) for prompt in prompts for _ in range(rollouts_per_prompt)]
    rows, said = [Row() for _ in starts], [list[str]() for _ in starts]
    active = list(range(len(rows)))
    for turn in range(max_turns):
        uniform_BT = uniform(seed, turn, whole * rollouts_per_prompt, max_new_tokens)[here][active]
        responses = decode(
            policy,
            prompts if turn == 0 else [starts[b] + rows[b].tokens for b in active],
            uniform_BT,
            temperature=temperature,
            min_new_tokens=min_new_tokens,
            forbidden_F=forbidden_F,
        )
        going = []
        for b, tokens, logprobs, length in zip(active, *(x.tolist() for x in responses), strict=True):
            rows[b].add(tokens[:length], trained=True, logprobs=logprobs[:length])
            if turn + 1 == max_turns or tokens[length - 1] not in policy.eos_ids:
                continue
            said[b].append(policy.said(tokens[:length]))
            reply = observe(b, list(said[b]))
            if reply is not None:
                rows[b].add(reply, trained=False)
                going.append(b)
        active = going
        if not active:
            break
    return collected(policy, prompts, rollouts_per_prompt, rows)


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


def prompt_rows(prompts: Sequence[Sequence[int]], policy: Policy, group: int) -> dict[str, Tensor]:
    """prompt_BP and prompt_mask_BP of prompts that `group` consecutive rows answer each."""
    prompt_UP, mask_UP = left_pad(prompts, policy)
    return {
        "prompt_BP": prompt_UP.repeat_interleave(group, 0),
        "prompt_mask_BP": mask_UP.repeat_interleave(group, 0),
    }


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
        with torch.inference_mode(), policy.autocast():
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
    not_yet_F = torch.cat([forbidden_F, eos_E])
    decoder = policy.decoder(prompt_UP, mask_UP, group=rows // len(prompt_UP), max_new_tokens=steps)
    response_BT = torch.full_like(uniform_BT, policy.pad_id, dtype=torch.long)
    probability_BT, threshold_KT = torch.ones_like(uniform_BT), 1 - uniform_BT
    alive_K = torch.arange(rows, device=policy.device)
    ended_K1 = torch.zeros(rows, 1, dtype=torch.bool, device=policy.device)
    drawn: list[tuple[Tensor, Tensor]] = []

    def write(end: int) -> None:
        """Put down what was drawn for the rows that are going."""
        for whole_BT, columns in zip((response_BT, probability_BT), zip(*drawn, strict=True), strict=True):
            whole_BT[alive_K, end - len(drawn) : end] = torch.cat(columns, 1)
        drawn.clear()

    for t in range(steps):
        logits_KV = policy.logits(decoder.hidden_BD, temperature=temperature or 1.0)
        threshold_K1 = None if temperature == 0 else threshold_KT.narrow(1, t, 1)
        drawn.append(_draw(logits_KV, threshold_K1, not_yet_F if t < least else forbidden_F))
        if t + 1 == steps:
            break
        token_K1, _ = drawn[-1]
        ended_K1 |= torch.isin(token_K1, eos_E)
        if (t + 1) % look_every == 0 and (ended := int(ended_K1.sum())):
            if ended == len(ended_K1):
                break
            if ended >= WORTH_DROPPING * len(ended_K1):
                write(t + 1)
                going_J = (~ended_K1).squeeze(1).nonzero().squeeze(1)
                decoder.keep(going_J)
                alive_K, token_K1, ended_K1, threshold_KT = (
                    x[going_J] for x in (alive_K, token_K1, ended_K1, threshold_KT)
                )
        decoder.step(token_K1.squeeze(1))
    write(t + 1)
    ends_BT = torch.isin(response_BT, eos_E)
    length_B = torch.where(ends_BT.any(1), ends_BT.int().argmax(1) + 1, steps)
    return response_BT, probability_BT.log_(), length_B


def _draw(logits_KV: Tensor, threshold_K1: Tensor | None, forbidden_F: Tensor) -> tuple[Tensor, Tensor]:
    """(K, 1): a token per row and its probability.

    The threshold is a share, in (0, 1], of the total, so that no token of probability 0 is drawn; None: the likeliest.
    """
    probability_KV = torch.softmax(logits_KV, 1)
    allowed_KV = probability_KV.index_fill(1, forbidden_F, 0.0) if len(forbidden_F) else probability_KV
    if threshold_K1 is None:
        token_K1 = allowed_KV.argmax(1, keepdim=True)
    else:
        cumulative_KV = allowed_KV.cumsum(1)
        token_K1 = torch.searchsorted(cumulative_KV, threshold_K1 * cumulative_KV.narrow(1, -1, 1))
    return token_K1, probability_KV.gather(1, token_K1)


@dataclass
class Row:
    """One conversation while it grows."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)

    def add(self, tokens: list[int], *, trained: bool, logprobs: Sequence[float] = ()) -> None:
        """More tokens; without log-probs those of nobody's sampling."""
        self.tokens += tokens
        self.logprobs += logprobs or [0.0] * len(tokens)
        self.trained += [trained] * len(tokens)


def collected(policy: Policy, prompts: Sequence[Sequence[int]], group: int, rows: list[Row]) -> Rollouts:
    """The conversations that prompts were answered with, `group` rows each."""

    def padded(values: list[list[Any]], fill: float, dtype: torch.dtype) -> Tensor:
        width = max(map(len, values))
        return torch.tensor(
            [v + [fill] * (width - len(v)) for v in values], dtype=dtype, device=policy.device
        )

    return Rollouts(
        **prompt_rows(prompts, policy, group),
        response_BT=padded([row.tokens for row in rows], policy.pad_id, torch.long),
        present_BT=padded([[True] * len(row.tokens) for row in rows], False, torch.bool),
        trained_BT=padded([row.trained for row in rows], False, torch.bool),
        logprob_BT=padded([row.logprobs for row in rows], 0.0, torch.float32),
        truncated_B=torch.tensor(
            [policy.eos_ids.isdisjoint(row.tokens[-1:]) for row in rows], device=policy.device
        ),
        group=group,
    )


def turns(policy: Policy, rollouts: Rollouts) -> list[list[str]]:
    """The sampled turns of every row as text, without special tokens and end ids; observations are not among them."""
    texts = []
    for response_T, trained_T in zip(
        rollouts.response_BT.tolist(), rollouts.trained_BT.tolist(), strict=True
    ):
        row: list[list[int]] = [[]]
        for token, trained in zip(response_T, trained_T, strict=True):
            if trained:
                row[-1].append(token)
                if token in policy.eos_ids:
                    row.append([])
        texts.append([policy.said(turn) for turn in row if turn])
    return texts
