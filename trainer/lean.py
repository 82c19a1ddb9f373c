"""Dense Qwen3 as plain functions over the Hugging Face module's own parameters: packed forward and cached decoding.

Tokens of all rows stand in one packed axis without padding, each group's prompt once; only attention spreads them into
rows. In the last layer only the states that somebody asked for are worked out. Parameters are read at every call, so
nothing goes stale. Leaves out: other architectures (`trainer.policy.GenericBackbone`), the head.

Axes: U unique prompts of P places, B = U R rows of T response tokens, S = T - 1 response tokens that are read,
N packed tokens (prompts first), Q those that ask, D hidden width, H = K G query heads on K key heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.kernels import Places, gated, linear, rms_norm, rotate

MASKED = -1e30  # finite, so that rows of padding stay finite too
SHORT = 512  # longest row whose attention scores are held in full on a CPU


def supports(model: nn.Module) -> bool:
    """A dense Qwen3 as transformers builds it: full attention, SiLU, no biases, static rotary embedding, no adapters."""
    config: Any = model.config
    return (
        type(model).__name__ == "Qwen3ForCausalLM"
        and all(kind == "full_attention" for kind in config.layer_types)
        and config.hidden_act == "silu"
        and not config.attention_bias
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
        and all(type(part) is nn.Linear for name, part in model.named_modules() if name.endswith("_proj"))
    )


@dataclass(frozen=True)
class Layout:
    """Where the packed tokens stand: built once for each call, shared by all layers."""

    token_N: Tensor
    position_N: Tensor
    group: int
    shape: tuple[int, int, int]  # U, P, S
    asking_Q: Tensor  # packed tokens that the last layer works out: last prompt tokens, then response tokens
    wanted_W: Tensor  # among those, the states that were asked for
    queries: Places
    last_queries: Places
    keys: Places
    bias_UPP: Tensor  # added to the scores inside prompts
    bias_USL: Tensor  # added to the scores of responses on L = P + S keys


def layout_of(prompt_UP: Tensor, mask_UP: Tensor, response_BT: Tensor, wanted_BT: Tensor, heads: int, key_heads: int) -> Layout:
    """Pack the tokens that the wanted states depend on."""
    device = prompt_UP.device
    (prompts, width), (rows, length) = prompt_UP.shape, response_BT.shape
    group, steps = rows // prompts, length - 1
    count_U = mask_UP.sum(1)
    needed_BS = wanted_BT[:, 1:].flip(1).cummax(1).values.flip(1)
    prompt_u, prompt_p = mask_UP.nonzero().unbind(1)
    reply_b, reply_s = needed_BS.nonzero().unbind(1)
    reply_u, reply_r = reply_b // group, reply_b % group

    last_U = count_U.cumsum(0) - 1
    asking_Q = torch.cat([last_U, torch.arange(len(prompt_u), len(prompt_u) + len(reply_b), device=device)])
    state_BT = torch.empty(rows, length, dtype=torch.long, device=device)
    state_BT[:, 0] = torch.arange(prompts, device=device).repeat_interleave(group)
    state_BT[:, 1:][needed_BS] = torch.arange(prompts, len(asking_Q), device=device)

    def places(u: Tensor, p: Tensor, span: int, per_key: int) -> Places:
        """Head-major places: prompts (U, K, per_key, span), then replies (U, K, R, per_key, S)."""
        head = torch.arange(key_heads * per_key, device=device)
        key, inner = head // per_key, head % per_key
        ahead = (u[:, None] * len(head) + head) * span + p[:, None]
        behind = ((reply_u[:, None] * key_heads + key) * group + reply_r[:, None]) * per_key + inner
        behind = behind * steps + reply_s[:, None] + prompts * len(head) * span
        return Places.of(torch.cat([ahead, behind]).flatten(), len(head) * (prompts * span + rows * steps))

    every, per_key = torch.arange(prompts, device=device), heads // key_heads
    hidden_U1P = torch.zeros(prompts, 1, width, device=device).masked_fill_(~mask_UP[:, None], MASKED)
    future_PP = torch.full((width, width), MASKED, device=device).triu_(1)
    future_SS = torch.full((steps, steps), MASKED, device=device).triu_(1)
    return Layout(
        token_N=torch.cat([prompt_UP[mask_UP], response_BT[:, :-1][needed_BS]]),
        position_N=torch.cat([(mask_UP.cumsum(1) - 1)[mask_UP], count_U[reply_u] + reply_s]),
        group=group,
        shape=(prompts, width, steps),
        asking_Q=asking_Q,
        wanted_W=state_BT[wanted_BT],
        queries=places(prompt_u, prompt_p, width, per_key),
        last_queries=places(every, torch.zeros_like(every), 1, per_key),
        keys=places(prompt_u, prompt_p, width, 1),
        bias_UPP=hidden_U1P + future_PP,
        bias_USL=torch.cat([hidden_U1P.expand(-1, steps, -1), future_SS.expand(prompts, -1, -1)], 2),
    )


class LeanQwen3:
    """The decoder of a `Qwen3ForCausalLM`, below its head."""

    def __init__(self, model: Any) -> None:
        self.body, self.config = model.model, model.config
        self.eps: float = model.config.rms_norm_eps
        self.width: int = self.body.layers[0].self_attn.head_dim

    def hidden_at(self, prompt_UP: Tensor, mask_UP: Tensor, response_BT: Tensor, wanted_BT: Tensor) -> Tensor:
        """(number wanted, D): the states that predict the wanted response tokens, in row-major order."""
        return self.run(self.layout(prompt_UP, mask_UP, response_BT, wanted_BT))

    def decoder(self, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int) -> LeanDecoder:
        return LeanDecoder(self, prompt_UP, mask_UP, group, max_new_tokens)

    def layout(self, *batch: Tensor) -> Layout:
        return layout_of(*batch, self.config.num_attention_heads, self.config.num_key_value_heads)

    def run(self, at: Layout, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """The wanted states; `kept` collects each layer's keys and values."""
        cos_N1E, sin_N1E = self.rotary(at.position_N, sum(at.shape[1:]))
        cos_Q1E, sin_Q1E = cos_N1E[at.asking_Q], sin_N1E[at.asking_Q]
        x_ND = F.embedding(at.token_N, self.body.embed_tokens.weight)
        *_, final = self.body.layers
        for layer in self.body.layers:
            own, last = layer.self_attn, layer is final
            y_ND = rms_norm(x_ND, layer.input_layernorm.weight, self.eps)
            x_QD, y_QD = (x_ND.index_select(0, at.asking_Q), y_ND.index_select(0, at.asking_Q)) if last else (x_ND, y_ND)
            turn_Q = (cos_Q1E, sin_Q1E) if last else (cos_N1E, sin_N1E)
            q_QHE, k_NKE, v_NKE = self.project(own, y_QD, y_ND, turn_Q, (cos_N1E, sin_N1E))
            if kept is not None:
                kept.append((k_NKE, v_NKE))
            queries = at.last_queries if last else at.queries
            mixed_QD = attend(q_QHE, k_NKE, v_NKE, at, queries, 1 if last else at.shape[1])
            x_ND = self.finish(layer, x_QD, mixed_QD)
        return rms_norm(x_ND, self.body.norm.weight, self.eps).index_select(0, at.wanted_W)

    def rotary(self, position_N: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, (N, 1, E)."""
        every_1L = torch.arange(length, device=position_N.device)[None]
        cos, sin = self.body.rotary_emb(self.body.embed_tokens.weight.new_empty(0, dtype=torch.float32), every_1L)
        return cos[0][position_N][:, None], sin[0][position_N][:, None]

    def project(
        self, own: Any, y_QD: Tensor, y_ND: Tensor, turn_Q: tuple[Tensor, Tensor], turn_N: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (already divided by sqrt E), keys and values."""
        scaled_E = own.q_norm.weight * own.scaling
        q_QHE = rms_norm(linear(y_QD, own.q_proj.weight).unflatten(1, (-1, self.width)), scaled_E, self.eps)
        k_NKE = rms_norm(linear(y_ND, own.k_proj.weight).unflatten(1, (-1, self.width)), own.k_norm.weight, self.eps)
        v_NKE = linear(y_ND, own.v_proj.weight).unflatten(1, (-1, self.width))
        return rotate(q_QHE, *turn_Q), rotate(k_NKE, *turn_N), v_NKE

    def finish(self, layer: Any, x_ND: Tensor, mixed_ND: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x_ND = x_ND + linear(mixed_ND, layer.self_attn.o_proj.weight)
        y_ND, mlp = rms_norm(x_ND, layer.post_attention_layernorm.weight, self.eps), layer.mlp
        inner_NF = gated(linear(y_ND, mlp.gate_proj.weight), linear(y_ND, mlp.up_proj.weight))
        return x_ND + linear(inner_NF, mlp.down_proj.weight)


class LeanDecoder:
    """Key-value cache of B rows: prompts on the left, then one place for each new token."""

    def __init__(self, lean: LeanQwen3, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int) -> None:
        (prompts, width), device = prompt_UP.shape, prompt_UP.device
        first_UT = torch.ones(prompts, 1, dtype=torch.bool, device=device)
        at = lean.layout(prompt_UP, mask_UP, first_UT.long(), first_UT)
        kept: list[tuple[Tensor, Tensor]] = []
        self.hidden_BD = lean.run(at, kept).repeat_interleave(group, 0)
        self.lean, self.used = lean, width
        self.cos_L, self.sin_L = lean.rotary(torch.arange(width + max_new_tokens, device=device), width + max_new_tokens)
        self.position_B = mask_UP.sum(1).repeat_interleave(group, 0)
        self.bias_B1L = torch.zeros(len(self.position_B), 1, width + max_new_tokens, device=device)
        self.bias_B1L[:, 0, :width].masked_fill_(~mask_UP.repeat_interleave(group, 0), MASKED)
        self.cache = [(self._room(at, k, max_new_tokens), self._room(at, v, max_new_tokens)) for k, v in kept]

    def _room(self, at: Layout, x_NKE: Tensor, more: int) -> Tensor:
        """(B, K, P + more, E) with the prompt's keys or values in front."""
        (prompts, width, _), (key_heads, size) = at.shape, x_NKE.shape[1:]
        x_UKPE = at.keys.spread(x_NKE.flatten(0, 1)).view(prompts, key_heads, width, size)
        rows = len(self.position_B)
        room = x_NKE.new_empty(rows, key_heads, width + more, size)
        room[:, :, :width].view(prompts, -1, key_heads, width, size).copy_(x_UKPE[:, None])
        return room

    def step(self, token_B: Tensor) -> None:
        lean, here = self.lean, self.used
        self.used += 1
        turn = self.cos_L[self.position_B], self.sin_L[self.position_B]
        x_BD = F.embedding(token_B, lean.body.embed_tokens.weight)
        for layer, (keys, values) in zip(lean.body.layers, self.cache, strict=True):
            y_BD = rms_norm(x_BD, layer.input_layernorm.weight, lean.eps)
            q_BHE, keys[:, :, here], values[:, :, here] = lean.project(layer.self_attn, y_BD, y_BD, turn, turn)
            rows, key_heads = keys.shape[:2]
            q_PGE = q_BHE.reshape(rows * key_heads, -1, lean.width)
            keys_PLE, values_PLE = (x.flatten(0, 1)[:, : self.used] for x in (keys, values))
            scores = torch.bmm(q_PGE, keys_PLE.transpose(1, 2)).view(rows, -1, self.used)
            weights = torch.softmax(scores.add_(self.bias_B1L[:, :, : self.used]), -1).view(*q_PGE.shape[:2], -1)
            x_BD = lean.finish(layer, x_BD, torch.bmm(weights, values_PLE).view(rows, -1))
        self.position_B = self.position_B + 1
        self.hidden_BD = rms_norm(x_BD, lean.body.norm.weight, lean.eps)

    def keep(self, index_K: Tensor) -> None:
        self.hidden_BD, self.position_B = self.hidden_BD[index_K], self.position_B[index_K]
        self.bias_B1L = self.bias_B1L[index_K]
        self.cache = [(keys[index_K], values[index_K]) for keys, values in self.cache]


def attend(q_QHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, at: Layout, queries: Places, span: int) -> Tensor:
    """Causal attention of prompts on themselves and of responses on their prompt and themselves: (Q, H E)."""
    (heads, width), key_heads = q_QHE.shape[1:], k_NKE.shape[1]
    (prompts, places, steps), group = at.shape, at.group
    per_key, pairs = heads // key_heads, prompts * key_heads

    q_ME = queries.spread(q_QHE.flatten(0, 1))
    qp, qr = q_ME.split([pairs * per_key * span, pairs * group * per_key * steps])
    (kp, kr), (vp, vr) = (
        at.keys.spread(x.flatten(0, 1)).split([pairs * places, pairs * group * steps]) for x in (k_NKE, v_NKE)
    )
    kp, vp = kp.view(pairs, places, width), vp.view(pairs, places, width)
    bias = at.bias_UPP[:, None, None, -span:]
    scores = torch.bmm(qp.view(pairs, -1, width), kp.transpose(1, 2)).view(prompts, key_heads, per_key, span, places)
    weights = torch.softmax(scores + bias, -1).view(pairs, -1, places)
    mixed = [torch.bmm(weights, vp).view(-1, width)]
    if steps:
        kr, vr = kr.view(-1, steps, width), vr.view(-1, steps, width)
        ahead = torch.bmm(qr.view(pairs, -1, width), kp.transpose(1, 2)).view(-1, per_key * steps, places)
        behind = torch.bmm(qr.view(-1, per_key * steps, width), kr.transpose(1, 2))
        scores = torch.cat([ahead, behind], 2).view(prompts, key_heads * group * per_key, steps, -1)
        weights = torch.softmax(scores + at.bias_USL[:, None], -1).view(-1, per_key * steps, places + steps)
        ahead, behind = weights.split([places, steps], 2)
        out = torch.bmm(ahead.reshape(pairs, -1, places), vp).view(-1, per_key * steps, width)
        mixed.append(torch.baddbmm(out, behind, vr).view(-1, width))
    return queries.collect(torch.cat(mixed)).view(len(q_QHE), -1)
