"""Dense Qwen3 as plain functions over the Hugging Face module's own parameters.

Tokens of all rows stand in one packed axis without padding, each group's prompt once; only attention spreads
them into rows (`trainer.model.attention`). In the last layer only the states that somebody asked for are worked out.
Parameters are read at every call, so nothing goes stale. Leaves out: the head, decoding token by token
(`trainer.model.lean_decoder`), and other architectures (`trainer.model.generic`).

Axes: U unique prompts of P places, B rows of T response tokens, N packed tokens, Q those that ask, D hidden width,
H query heads, K key heads, E head width, Z = E / 2 pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.attention import Packed
from trainer.model.kernels import gated, interleaved, linear_onto, linears, rms_norm, rotate


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

    def run(self, packed: Packed, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """The wanted states; `kept` collects each layer's keys and values."""
        attend = packed.attention(self.config.num_attention_heads, self.config.num_key_value_heads)
        _, width, _, steps = packed.shape
        asking_Q, turn_N1Z = packed.asking_Q, self.rotary(width + steps)[packed.position_N][:, None]
        turn_NHZ, turn_NKZ = self.expanded(turn_N1Z)
        x_ND = self.embed(packed.token_N)
        *_, final = self.body.layers
        for layer in self.body.layers:
            last = layer is final
            y_ND = rms_norm(x_ND, layer.input_layernorm.weight, self.eps)
            y_QD = y_ND.index_select(0, asking_Q) if last else y_ND
            turn_QHZ = turn_NHZ[asking_Q] if last else turn_NHZ
            q_QHE, k_NKE, v_NKE = self.project(layer.self_attn, y_QD, y_ND, turn_QHZ, turn_NKZ)
            if kept is not None:
                kept.append((k_NKE, v_NKE))
            x_QD = x_ND.index_select(0, asking_Q) if last else x_ND
            x_ND = self.finish(layer, x_QD, attend(q_QHE, k_NKE, v_NKE, last=last))
        return rms_norm(x_ND, self.body.norm.weight, self.eps).index_select(0, packed.wanted_W)

    def embed(self, token_N: Tensor) -> Tensor:
        """As the module does, which gives the embedding of its padding id no gradient."""
        return F.embedding(token_N, self.body.embed_tokens.weight, self.body.padding_idx)

    def rotary(self, length: int) -> Tensor:
        """(L, Z) complex: the turn of each pair at each position."""
        every_1L = torch.arange(length, device=self.body.embed_tokens.weight.device)[None]
        cos, sin = self.body.rotary_emb(every_1L.new_empty(0, dtype=torch.float32), every_1L)
        return torch.complex(*(x[0, :, : self.width // 2].contiguous() for x in (cos, sin)))

    def expanded(self, turn_N1Z: Tensor) -> tuple[Tensor, Tensor]:
        """Turns for all query heads and all key heads, written out: products that do not broadcast are faster."""
        heads, key_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        turn_NHZ = turn_N1Z.expand(-1, heads, -1).contiguous()
        return turn_NHZ, turn_NHZ[:, :key_heads].contiguous()

    def weights(self, own: Any) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Projections to queries, keys and values, and norms of query and key heads: pairs interleaved, q / sqrt E."""
        q_OD, k_OD = (interleaved(part.weight, self.width) for part in (own.q_proj, own.k_proj))
        q_E, k_E = (interleaved(part.weight, self.width) for part in (own.q_norm, own.k_norm))
        return (q_OD, k_OD, own.v_proj.weight), (q_E * own.scaling, k_E)

    def project(
        self, own: Any, y_QD: Tensor, y_ND: Tensor, turn_QHZ: Tensor, turn_NKZ: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, turned to their positions."""
        projections, (q_norm_E, k_norm_E) = self.weights(own)
        if y_QD is y_ND:
            q_QD, k_ND, v_ND = linears(y_ND, *projections)
        else:
            (q_QD,), (k_ND, v_ND) = linears(y_QD, projections[0]), linears(y_ND, *projections[1:])
        q_QHE, k_NKE, v_NKE = (x.unflatten(1, (-1, self.width)) for x in (q_QD, k_ND, v_ND))
        q_QHE, k_NKE = rms_norm(q_QHE, q_norm_E, self.eps), rms_norm(k_NKE, k_norm_E, self.eps)
        return rotate(q_QHE, turn_QHZ), rotate(k_NKE, turn_NKZ), v_NKE

    def finish(self, layer: Any, x_ND: Tensor, mixed_ND: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x_ND = linear_onto(x_ND, mixed_ND, layer.self_attn.o_proj.weight)
        y_ND, mlp = rms_norm(x_ND, layer.post_attention_layernorm.weight, self.eps), layer.mlp
        inner_NF = gated(*linears(y_ND, mlp.gate_proj.weight, mlp.up_proj.weight))
        return linear_onto(x_ND, inner_NF, mlp.down_proj.weight)
