"""Token-by-token decoding on the lean path with a preallocated key-value cache, in as few operations as possible.

Small batches on a CPU are bound by the number of calls and, with several threads, by Python's lock; so
projections that read the same input are one matrix, copied when decoding starts (a decoder lives for one generation,
so the copy cannot go stale; in bfloat16 it is kept until a weight changes). Leaves out: sampling
(`trainer.batch.decode`), the head.

Axes: U prompts, B = U * group rows, D hidden width, H query heads, K key heads, P = B K pairs of a row and a key
head, G = H / K, E head width, Z = E / 2, F feed-forward width, L places of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.model.attention import MASKED, STEP, Packed
from trainer.model.kernels import packed, product, rotate
from trainer.model.lean import Lean, Map


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's weights and cache; the norm of queries, where there is one, carries 1 / sqrt(E)."""

    before_D: Tensor
    qkv: Map
    head_norms_HE: Tensor | None  # of queries, then of keys
    out: Map
    after_D: Tensor
    gate_up: Map
    down: Map
    keys_BKLE: Tensor
    values_BKLE: Tensor

    def rows(self, index_K: Tensor) -> _Layer:
        cache = {"keys_BKLE": self.keys_BKLE[index_K], "values_BKLE": self.values_BKLE[index_K]}
        return _Layer(**(vars(self) | cache))


class LeanDecoder:
    """B rows: prompts on the left of the cache, then one place for each new token."""

    def __init__(
        self, lean: Lean, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int
    ) -> None:
        (prompts, width), device, config = prompt_UP.shape, prompt_UP.device, lean.config
        first_U1 = torch.ones(prompts, 1, dtype=torch.bool, device=device)
        kept: list[tuple[Tensor, Tensor]] = []
        last_UD = lean.run(Packed.of(prompt_UP, mask_UP, first_U1.long(), first_U1), kept)
        places = width + max_new_tokens + -(width + max_new_tokens) % STEP
        self.lean, self.used, self.hidden_BD = lean, width, last_UD.repeat_interleave(group, 0)
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.turn_LZ = lean.rotary(places)
        self.position_B = mask_UP.sum(1).repeat_interleave(group, 0)
        hidden_UL = F.pad(~mask_UP, (0, places - width), value=True)
        self.bias_B1L = torch.zeros_like(hidden_UL, dtype=torch.float32).masked_fill_(hidden_UL, MASKED)
        self.bias_B1L = self.bias_B1L.repeat_interleave(group, 0)[:, None]

        def room(x_NKE: Tensor) -> Tensor:
            """(B, K, L, E) with the prompts' keys or values in front."""
            x_UPKE = x_NKE.new_zeros(prompts, width, *x_NKE.shape[1:])
            x_UPKE[mask_UP] = x_NKE
            room_URKLE = x_NKE.new_zeros(prompts, group, x_NKE.shape[1], places, x_NKE.shape[2])
            room_URKLE[..., :width, :] = x_UPKE.transpose(1, 2)[:, None]
            return room_URKLE.flatten(0, 1)

        self.layers = [
            self._layer(layer, room(keys.to(values.dtype)), room(values))
            for layer, (keys, values) in zip(lean.body.layers, kept, strict=True)
        ]

    def _layer(self, layer: Any, keys_BKLE: Tensor, values_BKLE: Tensor) -> _Layer:
        """Join weights that read the same input."""
        lean, own, mlp = self.lean, layer.self_attn, layer.mlp
        qkv, out, gate_up, down = (
            _joined(lean, parts, maps)
            for parts, maps in (
                ((own.q_proj, own.k_proj, own.v_proj), lean.maps(own)),
                ((own.o_proj,), (lean.map(own.o_proj),)),
                ((mlp.gate_proj, mlp.up_proj), (lean.map(mlp.gate_proj), lean.map(mlp.up_proj))),
                ((mlp.down_proj,), (lean.map(mlp.down_proj),)),
            )
        )
        norms_HE = None
        if lean.normed:
            q_norm_E, k_norm_E = lean.norms(own)
            norms_HE = torch.stack([q_norm_E] * self.heads + [k_norm_E] * self.key_heads)
        return _Layer(
            before_D=layer.input_layernorm.weight,
            qkv=qkv,
            head_norms_HE=norms_HE,
            out=out,
            after_D=layer.post_attention_layernorm.weight,
            gate_up=gate_up,
            down=down,
            keys_BKLE=keys_BKLE,
            values_BKLE=values_BKLE,
        )

    def step(self, token_B: Tensor) -> None:
        """Append a token to every row."""
        turn_B1Z = self.turn_LZ[self.position_B][:, None]
        x_BD = self.lean.embed(token_B)
        here, self.used = self.used, self.used + 1
        self.bias_B1L[:, :, here] = 0
        bias_P1L = self.bias_B1L[:, :, : self.used + -self.used % STEP].repeat_interleave(self.key_heads, 0)
        for layer in self.layers:
            x_BD = self._attend(layer, x_BD, turn_B1Z, bias_P1L)
            y_BD = F.rms_norm(x_BD, x_BD.shape[1:], layer.after_D, self.lean.eps)
            gate_BF, up_BF = _mapped(y_BD, layer.gate_up).chunk(2, 1)
            x_BD = _mapped(F.silu(gate_BF).mul_(up_BF), layer.down) + x_BD
        self.position_B = self.position_B + 1
        self.hidden_BD = F.rms_norm(x_BD, x_BD.shape[1:], self.lean.body.norm.weight, self.lean.eps)

    def _attend(self, layer: _Layer, x_BD: Tensor, turn_B1Z: Tensor, bias_P1L: Tensor) -> Tensor:
        rows, size, here = len(x_BD), self.lean.width, self.used - 1
        y_BD = F.rms_norm(x_BD, x_BD.shape[1:], layer.before_D, self.lean.eps)
        qkv_BHE = _mapped(y_BD, layer.qkv).view(rows, -1, size)
        qk_BHE, v_BKE = qkv_BHE.split([self.heads + self.key_heads, self.key_heads], 1)
        if layer.head_norms_HE is not None:
            qk_BHE = F.rms_norm(qk_BHE.float(), (size,), None, self.lean.eps).mul_(layer.head_norms_HE)
        q_BHE, k_BKE = rotate(qk_BHE.contiguous(), turn_B1Z).split([self.heads, self.key_heads], 1)
        layer.keys_BKLE[:, :, here], layer.values_BKLE[:, :, here] = k_BKE, v_BKE
        keys_PLE, values_PLE = (
            c.flatten(0, 1)[:, : bias_P1L.shape[2]] for c in (layer.keys_BKLE, layer.values_BKLE)
        )
        scores_PGL = torch.baddbmm(
            bias_P1L,
            q_BHE.reshape(rows * self.key_heads, -1, size),
            keys_PLE.transpose(1, 2),
            alpha=self.lean.scale,
        )
        mixed_BO = torch.bmm(torch.softmax(scores_PGL, -1), values_PLE).view(rows, -1)
        return _mapped(mixed_BO, layer.out) + x_BD

    def keep(self, index_K: Tensor) -> None:
        """Drop all rows but these."""
        self.hidden_BD, self.position_B = self.hidden_BD[index_K], self.position_B[index_K]
        self.bias_B1L = self.bias_B1L[index_K]
        self.layers = [layer.rows(index_K) for layer in self.layers]


def _mapped(x_BI: Tensor, joined: Map) -> Tensor:
    out_BO = product(x_BI, joined.weight_OI, joined.bias_O)
    return out_BO if joined.low is None else out_BO + F.linear(F.linear(x_BI, joined.low[0]), joined.low[1])


def _joined(lean: Lean, parts: Sequence[Any], maps: Sequence[Map]) -> Map:
    """Maps of one input as one, ready for `product`; in bfloat16 the weights' part is kept while they are the same."""

    def weight() -> Tensor:
        return packed(torch.cat([one.weight_OI for one in maps]) if len(maps) > 1 else maps[0].weight_OI)

    if lean.dtype == torch.float32:
        return Map(weight(), _biases(maps), _low(maps))
    weights = tuple(part.weight for part in parts)
    kept: Tensor = lean.copies.get(("joined", *map(id, weights)), weights, weight)
    return Map(kept, _biases(maps), _low(maps))


def _biases(maps: Sequence[Map]) -> Tensor | None:
    if all(one.bias_O is None for one in maps):
        return None
    return torch.cat(
        [one.weight_OI.new_zeros(len(one.weight_OI)) if one.bias_O is None else one.bias_O for one in maps]
    )


def _low(maps: Sequence[Map]) -> tuple[Tensor, Tensor] | None:
    """Adapters of joined maps: all A below one another, B in blocks."""
    if all(one.low is None for one in maps):
        return None
    none = [
        (one.weight_OI.new_zeros(0, one.weight_OI.shape[1]), one.weight_OI.new_zeros(len(one.weight_OI), 0))
        for one in maps
    ]
    pairs = [one.low or empty for one, empty in zip(maps, none, strict=True)]
    return torch.cat([a_RI for a_RI, _ in pairs]), torch.block_diag(*(b_OR for _, b_OR in pairs))
