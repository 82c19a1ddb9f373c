"""Token-by-token decoding of a dense Qwen3 with a preallocated key-value cache, in as few operations as possible.

Small batches on a CPU are bound by the number of calls and, with several threads, by Python's lock; so
projections that read the same input are one matrix, copied when decoding starts (a decoder lives for one
generation, so the copy cannot go stale). Leaves out: sampling (`trainer.batch.decode`), the head.

Axes: U prompts, B = U * group rows, D hidden width, H query heads, K key heads, P = B K pairs of a row and a key
head, G = H / K, E head width, Z = E / 2, F feed-forward width, L places of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.model.attention import MASKED, STEP, Packed
from trainer.model.kernels import linears, rotate
from trainer.model.lean import LeanQwen3


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's weights and cache; q_norm carries 1 / sqrt(E)."""

    before_D: Tensor
    qkv_OD: Tensor
    head_norms_HE: Tensor  # of queries, then of keys
    out_DO: Tensor
    after_D: Tensor
    gate_up_FD: Tensor
    down_DF: Tensor
    keys_BKLE: Tensor
    values_BKLE: Tensor

    def rows(self, index_K: Tensor) -> _Layer:
        cache = {"keys_BKLE": self.keys_BKLE[index_K], "values_BKLE": self.values_BKLE[index_K]}
        return _Layer(**(vars(self) | cache))


class LeanDecoder:
    """B rows: prompts on the left of the cache, then one place for each new token."""

    def __init__(
        self, lean: LeanQwen3, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int
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
        """Join weights that read the same input, in the cache's type."""
        mlp, dtype = layer.mlp, values_BKLE.dtype
        projections, (q_norm_E, k_norm_E) = self.lean.weights(layer.self_attn)
        return _Layer(
            before_D=layer.input_layernorm.weight,
            qkv_OD=torch.cat(projections).to(dtype),
            head_norms_HE=torch.stack([q_norm_E] * self.heads + [k_norm_E] * self.key_heads),
            out_DO=layer.self_attn.o_proj.weight.to(dtype),
            after_D=layer.post_attention_layernorm.weight,
            gate_up_FD=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(dtype),
            down_DF=mlp.down_proj.weight.to(dtype),
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
            gate_BF, up_BF = linears(y_BD, layer.gate_up_FD)[0].chunk(2, 1)
            x_BD = linears(F.silu(gate_BF).mul_(up_BF), layer.down_DF)[0] + x_BD
        self.position_B = self.position_B + 1
        self.hidden_BD = F.rms_norm(x_BD, x_BD.shape[1:], self.lean.body.norm.weight, self.lean.eps)

    def _attend(self, layer: _Layer, x_BD: Tensor, turn_B1Z: Tensor, bias_P1L: Tensor) -> Tensor:
        rows, size, here = len(x_BD), self.lean.width, self.used - 1
        y_BD = F.rms_norm(x_BD, x_BD.shape[1:], layer.before_D, self.lean.eps)
        qkv_BHE = linears(y_BD, layer.qkv_OD)[0].view(rows, -1, size)
        qk_BHE, v_BKE = qkv_BHE.split([self.heads + self.key_heads, self.key_heads], 1)
        normed_BHE = F.rms_norm(qk_BHE.float(), (size,), None, self.lean.eps).mul_(layer.head_norms_HE)
        q_BHE, k_BKE = rotate(normed_BHE, turn_B1Z).split([self.heads, self.key_heads], 1)
        layer.keys_BKLE[:, :, here], layer.values_BKLE[:, :, here] = k_BKE, v_BKE
        keys_PLE, values_PLE = (
            c.flatten(0, 1)[:, : bias_P1L.shape[2]] for c in (layer.keys_BKLE, layer.values_BKLE)
        )
        scores_PGL = torch.baddbmm(
            bias_P1L, q_BHE.reshape(rows * self.key_heads, -1, size), keys_PLE.transpose(1, 2)
        )
        mixed_BO = torch.bmm(torch.softmax(scores_PGL, -1), values_PLE).view(rows, -1)
        return linears(mixed_BO, layer.out_DO)[0] + x_BD

    def keep(self, index_K: Tensor) -> None:
        """Drop all rows but these."""
        self.hidden_BD, self.position_B = self.hidden_BD[index_K], self.position_B[index_K]
        self.bias_B1L = self.bias_B1L[index_K]
        self.layers = [layer.rows(index_K) for layer in self.layers]
