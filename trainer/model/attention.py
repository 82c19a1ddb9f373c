"""Causal attention over packed tokens: who stands in which row, and the two ways to work out what they attend to.

A batch is U prompts of P places, each with R responses that read S tokens. Packed, every real token stands once, the
prompts' before the responses'. `Blocks` computes a group's prompt once and holds all scores: short rows on a CPU, where
it beats PyTorch's fused kernel two to one. `Rows` writes each response out behind its prompt for the fused causal
kernel: long rows and accelerators. Leaves out: projections and rotary positions (`trainer.model.lean`).

Axes: B = U R rows, N packed tokens, Q those that ask (in the last layer only last prompt tokens and response tokens),
H = K G query heads on K key heads, E width of a head, L places of a row, W wanted states.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.model.kernels import Places

MASKED = -1e30  # finite, so that rows of padding stay finite too
SHORT = 512  # longest row whose scores are held in full
STEP = 4  # lengths that MKL's small products like: 15 keys take almost twice as long as 16


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The tokens of a batch without padding; a token is needed if a wanted state depends on it."""

    token_N: Tensor
    position_N: Tensor
    asking_Q: Tensor  # packed tokens that the last layer works out
    wanted_W: Tensor  # the wanted states among those, in row-major order
    shape: tuple[int, int, int, int]  # U, P, R, S
    prompt: tuple[Tensor, Tensor]  # u and p of the prompts' tokens
    reply: tuple[Tensor, Tensor]  # b and s of the responses' tokens
    mask_UP: Tensor

    @classmethod
    def of(cls, prompt_UP: Tensor, mask_UP: Tensor, response_BT: Tensor, wanted_BT: Tensor) -> Packed:
        """Response token t is predicted from the prompt and the tokens before t, so the last token is never read."""
        device, prompts, (rows, length) = prompt_UP.device, len(prompt_UP), response_BT.shape
        group = rows // prompts
        count_U = mask_UP.sum(1)
        needed_BS = wanted_BT[:, 1:].flip(1).cumsum(1).flip(1) > 0
        prompt_u, prompt_p = mask_UP.nonzero().unbind(1)
        reply_b, reply_s = needed_BS.nonzero().unbind(1)
        asking_Q = torch.cat(
            [count_U.cumsum(0) - 1, torch.arange(len(reply_b), device=device) + len(prompt_u)]
        )
        state_BT = torch.zeros(rows, length, dtype=torch.long, device=device)
        state_BT[:, 0] = torch.arange(rows, device=device) // group
        state_BT[:, 1:][needed_BS] = torch.arange(prompts, len(asking_Q), device=device)
        return cls(
            token_N=torch.cat([prompt_UP[mask_UP], response_BT[:, :-1][needed_BS]]),
            position_N=torch.cat([(mask_UP.cumsum(1) - 1)[mask_UP], count_U[reply_b // group] + reply_s]),
            asking_Q=asking_Q,
            wanted_W=state_BT[wanted_BT],
            shape=(*prompt_UP.shape, group, length - 1),
            prompt=(prompt_u, prompt_p),
            reply=(reply_b, reply_s),
            mask_UP=mask_UP,
        )

    def attention(self, heads: int, key_heads: int) -> Blocks | Rows:
        """The way that suits the batch."""
        _, width, _, steps = self.shape
        short = self.token_N.device.type == "cpu" and width + steps <= SHORT
        return Blocks(self, heads, key_heads) if short else Rows(self)


class Blocks:
    """Scores of prompts on themselves, and of responses on their prompt and themselves, in head-major blocks.

    Both lengths are rounded up to a multiple of `STEP`, prompts on the left.
    """

    def __init__(self, packed: Packed, heads: int, key_heads: int) -> None:
        self.packed, self.per_key, self.key_heads = packed, heads // key_heads, key_heads
        prompts, width, group, steps = packed.shape
        more, device = -width % STEP, packed.token_N.device
        self.shape = prompts, width, group, steps = prompts, width + more, group, steps + -steps % STEP
        every_U, (u, p) = torch.arange(prompts, device=device), packed.prompt
        self.queries = self._places(u, p + more, width, self.per_key)
        self.last_queries = self._places(every_U, every_U * 0, 1, self.per_key)
        self.keys = self._places(u, p + more, width, 1)
        present_UP = F.pad(packed.mask_UP, (more, 0))
        padding_U1P = torch.zeros(prompts, 1, width, device=device).masked_fill_(~present_UP[:, None], MASKED)
        future_PP = torch.full((width, width), MASKED, device=device).triu_(1)
        future_SS = torch.full((steps, steps), MASKED, device=device).triu_(1)
        self.bias_UPP = padding_U1P + future_PP
        self.bias_USL = torch.cat([padding_U1P.expand(-1, steps, -1), future_SS.expand(prompts, -1, -1)], 2)

    def _places(self, u: Tensor, p: Tensor, span: int, per_key: int) -> Places:
        """Rows (token, head) go to prompts (U, K, per_key, span), then responses (U, K, R, per_key, S)."""
        prompts, _, group, steps = self.shape
        b, s = self.packed.reply
        heads = self.key_heads * per_key
        head = torch.arange(heads, device=u.device)
        ahead = (u[:, None] * heads + head) * span + p[:, None]
        block = ((b // group)[:, None] * self.key_heads + head // per_key) * group + (b % group)[:, None]
        behind = (block * per_key + head % per_key) * steps + s[:, None] + prompts * heads * span
        return Places.of(torch.cat([ahead, behind]).flatten(), heads * prompts * (span + group * steps))

    def __call__(self, q_QHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, *, last: bool) -> Tensor:
        """(Q, H E): softmax(q k) v with q already scaled; `last` says that only asking tokens have queries."""
        prompts, width, group, steps = self.shape
        queries, span = (self.last_queries, 1) if last else (self.queries, width)
        pairs, size = prompts * self.key_heads, q_QHE.shape[2]
        ahead, behind = pairs * self.per_key * span, pairs * group * self.per_key * steps
        q_ahead, q_behind = queries.spread(q_QHE.flatten(0, 1)).split([ahead, behind])
        (k_ahead, k_behind), (v_ahead, v_behind) = (
            self.keys.spread(x.flatten(0, 1)).split([pairs * width, pairs * group * steps])
            for x in (k_NKE, v_NKE)
        )
        k_ahead, v_ahead = k_ahead.view(pairs, width, size), v_ahead.view(pairs, width, size)
        scores = torch.bmm(q_ahead.view(pairs, -1, size), k_ahead.transpose(1, 2))
        biased = scores.view(prompts, -1, span, width) + self.bias_UPP[:, None, -span:]
        mixed = [torch.bmm(torch.softmax(biased, -1).view(pairs, -1, width), v_ahead).view(-1, size)]
        if steps:
            k_behind, v_behind = k_behind.view(-1, steps, size), v_behind.view(-1, steps, size)
            on_prompt = torch.bmm(q_behind.view(pairs, -1, size), k_ahead.transpose(1, 2))
            on_self = torch.bmm(q_behind.view(len(k_behind), -1, size), k_behind.transpose(1, 2))
            scores = torch.cat([on_prompt.view(*on_self.shape[:2], width), on_self], 2)
            biased = scores.view(prompts, -1, steps, width + steps) + self.bias_USL[:, None]
            on_prompt, on_self = (
                torch.softmax(biased, -1).view(*on_self.shape[:2], -1).split([width, steps], 2)
            )
            out = torch.bmm(on_prompt.reshape(pairs, -1, width), v_ahead).view(*on_self.shape[:2], size)
            mixed.append(torch.baddbmm(out, on_self, v_behind).view(-1, size))
        return queries.collect(torch.cat(mixed)).view(len(q_QHE), -1)


class Rows:
    """Prompt and response of every row side by side, padded on the right, so that causality is the only mask."""

    def __init__(self, packed: Packed) -> None:
        prompts, _, group, _ = packed.shape
        (prompt_u, _), (reply_b, reply_s) = packed.prompt, packed.reply
        device, tokens = prompt_u.device, len(packed.token_N)
        rows, count_U = prompts * group, packed.mask_UP.sum(1)
        place_N = packed.position_N
        length = int(place_N.max()) + 1
        self.source_BL = torch.zeros(rows, length, dtype=torch.long, device=device)
        every_R = torch.arange(group, device=device)
        here_N = torch.arange(tokens, device=device)
        ahead = len(prompt_u)
        self.source_BL[prompt_u[:, None] * group + every_R, place_N[:ahead, None]] = here_N[:ahead, None]
        self.source_BL[reply_b, count_U[reply_b // group] + reply_s] = here_N[ahead:]
        self.slot_N = torch.cat([prompt_u * group, reply_b]) * length + place_N
        self.asked_N = torch.zeros(tokens, dtype=torch.long, device=device)
        self.asked_N[packed.asking_Q] = torch.arange(len(packed.asking_Q), device=device)
        self.asking_Q = packed.asking_Q

    def __call__(self, q_QHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, *, last: bool) -> Tensor:
        """As `Blocks`."""
        source_BL, slot_Q = self.source_BL, self.slot_N
        of_query_BL, slot_Q = (
            (self.asked_N[source_BL], slot_Q[self.asking_Q]) if last else (source_BL, slot_Q)
        )

        def spread(x_NHE: Tensor, index_BL: Tensor) -> Tensor:
            return (
                x_NHE.index_select(0, index_BL.flatten())
                .view(*index_BL.shape, *x_NHE.shape[1:])
                .transpose(1, 2)
            )

        mixed_BHLE = F.scaled_dot_product_attention(
            spread(q_QHE, of_query_BL),
            spread(k_NKE, source_BL),
            spread(v_NKE, source_BL),
            is_causal=True,
            scale=1.0,
            enable_gqa=q_QHE.shape[1] != k_NKE.shape[1],
        )
        return mixed_BHLE.transpose(1, 2).flatten(0, 1).flatten(1).index_select(0, slot_Q)
