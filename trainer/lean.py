"""Dense Qwen3 as plain functions over the Hugging Face module's own parameters: packed forward and cached decoding.

Tokens of all rows stand in one packed axis without padding, each group's prompt once; only attention spreads
them into rows (`trainer.attention`). In the last layer only the states that somebody asked for are worked out.
Parameters are read at every call, so nothing goes stale. Leaves out: the head, and other architectures
(`trainer.policy.GenericBackbone`).

Axes: U unique prompts of P places, B rows (a multiple of U), N packed tokens, Q those that ask, D hidden width,
H query heads, K key heads, G = H / K, E head width, L places of the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.attention import MASKED, Packed
from trainer.kernels import gated, linear_onto, linears, rms_norm, rotate


def supports(model: nn.Module) -> bool:
    """A dense Qwen3 as transformers builds it: full attention, SiLU, no biases, static rotation, no adapters."""
    config: Any = model.config
    return (
        type(model).__name__ == "Qwen3ForCausalLM"
        and all(kind == "full_attention" for kind in config.layer_types)
        and config.hidden_act == "silu"
        and not config.attention_bias
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
        and all(type(part) is nn.Linear for name, part in model.named_modules() if name.endswith("_proj"))
    )


class LeanQwen3:
    """The decoder of a `Qwen3ForCausalLM`, below its head."""

    def __init__(self, model: Any) -> None:
        self.body, self.config = model.model, model.config
        self.eps: float = model.config.rms_norm_eps
        self.width: int = self.body.layers[0].self_attn.head_dim

    def hidden_at(self, prompt_UP: Tensor, mask_UP: Tensor, response_BT: Tensor, wanted_BT: Tensor) -> Tensor:
        """(number wanted, D): the states that predict the wanted response tokens, in row-major order."""
        return self.run(Packed.of(prompt_UP, mask_UP, response_BT, wanted_BT))

    def decoder(self, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int) -> LeanDecoder:
        return LeanDecoder(self, prompt_UP, mask_UP, group, max_new_tokens)

    def run(self, packed: Packed, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """The wanted states; `kept` collects each layer's keys and values."""
        attend = packed.attention(self.config.num_attention_heads, self.config.num_key_value_heads)
        _, width, _, steps = packed.shape
        asking_Q, turn_N = packed.asking_Q, self.rotary(packed.position_N, width + steps)
        turn_Q = turn_N[0][asking_Q], turn_N[1][asking_Q]
        x_ND = self.embed(packed.token_N)
        *_, final = self.body.layers
        for layer in self.body.layers:
            last = layer is final
            y_ND = rms_norm(x_ND, layer.input_layernorm.weight, self.eps)
            y_QD = y_ND.index_select(0, asking_Q) if last else y_ND
            q_QHE, k_NKE, v_NKE = self.project(
                layer.self_attn, y_QD, y_ND, turn_Q if last else turn_N, turn_N
            )
            if kept is not None:
                kept.append((k_NKE, v_NKE))
            x_QD = x_ND.index_select(0, asking_Q) if last else x_ND
            x_ND = self.finish(layer, x_QD, attend(q_QHE, k_NKE, v_NKE, last=last))
        return rms_norm(x_ND, self.body.norm.weight, self.eps).index_select(0, packed.wanted_W)

    def embed(self, token_N: Tensor) -> Tensor:
        """As the module does, which gives the embedding of its padding id no gradient."""
        return F.embedding(token_N, self.body.embed_tokens.weight, self.body.padding_idx)

    def rotary(self, position_N: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, (N, 1, E)."""
        every_1L = torch.arange(length, device=position_N.device)[None]
        cos, sin = self.body.rotary_emb(
            self.body.embed_tokens.weight.new_empty(0, dtype=torch.float32), every_1L
        )
        return cos[0][position_N][:, None], sin[0][position_N][:, None]

    def project(
        self,
        own: Any,
        y_QD: Tensor,
        y_ND: Tensor,
        turn_Q: tuple[Tensor, Tensor],
        turn_N: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (already divided by sqrt E), keys and values."""
        projections = own.q_proj.weight, own.k_proj.weight, own.v_proj.weight
        if y_QD is y_ND:
            q_QD, k_ND, v_ND = linears(y_ND, *projections)
        else:
            (q_QD,), (k_ND, v_ND) = linears(y_QD, projections[0]), linears(y_ND, *projections[1:])
        q_QHE, k_NKE, v_NKE = (x.unflatten(1, (-1, self.width)) for x in (q_QD, k_ND, v_ND))
        q_QHE = rms_norm(q_QHE, own.q_norm.weight * own.scaling, self.eps)
        return rotate(q_QHE, *turn_Q), rotate(rms_norm(k_NKE, own.k_norm.weight, self.eps), *turn_N), v_NKE

    def finish(self, layer: Any, x_ND: Tensor, mixed_ND: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x_ND = linear_onto(x_ND, mixed_ND, layer.self_attn.o_proj.weight)
        y_ND, mlp = rms_norm(x_ND, layer.post_attention_layernorm.weight, self.eps), layer.mlp
        inner_NF = gated(*linears(y_ND, mlp.gate_proj.weight, mlp.up_proj.weight))
        return linear_onto(x_ND, inner_NF, mlp.down_proj.weight)


class LeanDecoder:
    """Key-value cache of B rows: prompts on the left, then one place for each new token."""

    def __init__(
        self, lean: LeanQwen3, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int
    ) -> None:
        (prompts, width), device = prompt_UP.shape, prompt_UP.device
        first_U1 = torch.ones(prompts, 1, dtype=torch.bool, device=device)
        kept: list[tuple[Tensor, Tensor]] = []
        self.hidden_BD = lean.run(Packed.of(prompt_UP, mask_UP, first_U1.long(), first_U1), kept)
        self.hidden_BD = self.hidden_BD.repeat_interleave(group, 0)
        self.lean, self.used, places = lean, width, width + max_new_tokens
        self.cos_L1E, self.sin_L1E = lean.rotary(torch.arange(places, device=device), places)
        self.position_B = mask_UP.sum(1).repeat_interleave(group, 0)
        self.bias_B1L = torch.zeros(prompts * group, 1, places, device=device)
        self.bias_B1L[:, 0, :width].masked_fill_(~mask_UP.repeat_interleave(group, 0), MASKED)

        def room(x_NKE: Tensor) -> Tensor:
            """(B, K, L, E) with the prompts' keys or values in front."""
            x_UPKE = x_NKE.new_zeros(prompts, width, *x_NKE.shape[1:])
            x_UPKE[mask_UP] = x_NKE
            room_UGKLE = x_NKE.new_empty(prompts, group, x_NKE.shape[1], places, x_NKE.shape[2])
            room_UGKLE[..., :width, :] = x_UPKE.transpose(1, 2)[:, None]
            return room_UGKLE.flatten(0, 1)

        self.cache = [(room(keys.to(values.dtype)), room(values)) for keys, values in kept]

    def step(self, token_B: Tensor) -> None:
        lean, here = self.lean, self.used
        self.used += 1
        turn = self.cos_L1E[self.position_B], self.sin_L1E[self.position_B]
        x_BD = lean.embed(token_B)
        for layer, (keys, values) in zip(lean.body.layers, self.cache, strict=True):
            y_BD = rms_norm(x_BD, layer.input_layernorm.weight, lean.eps)
            q_BHE, keys[:, :, here], values[:, :, here] = lean.project(
                layer.self_attn, y_BD, y_BD, turn, turn
            )
            rows, key_heads = keys.shape[:2]
            q_PGE = q_BHE.reshape(rows * key_heads, -1, lean.width)
            keys_PLE, values_PLE = (x.flatten(0, 1)[:, : self.used] for x in (keys, values))
            scores = torch.bmm(q_PGE, keys_PLE.transpose(1, 2)).view(rows, -1, self.used)
            weights = torch.softmax(scores.add_(self.bias_B1L[:, :, : self.used]), -1).view(
                *q_PGE.shape[:2], -1
            )
            x_BD = lean.finish(layer, x_BD, torch.bmm(weights, values_PLE).view(rows, -1))
        self.position_B = self.position_B + 1
        self.hidden_BD = rms_norm(x_BD, lean.body.norm.weight, lean.eps)

    def keep(self, index_K: Tensor) -> None:
        self.hidden_BD, self.position_B = self.hidden_BD[index_K], self.position_B[index_K]
        self.bias_B1L = self.bias_B1L[index_K]
        self.cache = [(keys[index_K], values[index_K]) for keys, values in self.cache]
