"""Dense Llama, Mistral, Qwen2 and Qwen3 as plain functions over the Hugging Face module's own parameters.

Tokens of all rows stand in one packed axis without padding, each group's prompt once; only attention spreads
them into rows (`trainer.model.attention`). In the last layer only the states that somebody asked for are worked out.
Parameters are read at every call, so nothing goes stale; in bfloat16 their copies are renewed when they change. The
residual stream, norms and softmax stay in float32. Leaves out: the head, decoding token by token
(`trainer.model.lean_decoder`), and other architectures (`trainer.model.generic`).

Axes: U unique prompts of P places, B rows of T response tokens, N packed tokens, Q those that ask, D hidden width,
H query heads, K key heads, E head width, Z = E / 2 pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.adapters import Adapted
from trainer.model.attention import Packed
from trainer.model.kernels import Copies, gated, interleaved, linear_onto, linears, rms_norm, rotate

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


class Map(NamedTuple):
    """A linear map's weight, in the type that is computed in, its bias, and its adapter (A, and B with the scale)."""

    weight_OI: Tensor
    bias_O: Tensor | None
    low: tuple[Tensor, Tensor] | None

    def finished(self, out_NO: Tensor, x_NI: Tensor) -> Tensor:
        """The product with the weight, completed."""
        if self.bias_O is not None:
            out_NO = out_NO + self.bias_O
        return out_NO if self.low is None else out_NO + F.linear(F.linear(x_NI, self.low[0]), self.low[1])


def supports(model: nn.Module) -> bool:
    """One of the families as transformers builds it."""
    return (
        type(model).__name__ in FAMILIES
        and admits(model.config)
        and all(
            type(part) in (nn.Linear, Adapted)
            for name, part in model.named_modules()
            if name.endswith("_proj")
        )
    )


def admits(config: Any) -> bool:
    """A configuration of the families with full attention, SiLU and static rotation."""
    kinds = getattr(config, "layer_types", None)
    full = (
        all(kind == "full_attention" for kind in kinds)
        if kinds
        else not getattr(config, "sliding_window", None)
    )
    return (
        full
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
    )


class Lean:
    """The decoder of a model that `supports` admits, below its head."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        """dtype: that matrices are multiplied in."""
        self.body, self.config, self.dtype = model.model, model.config, dtype
        self.copies = Copies()
        self.eps: float = model.config.rms_norm_eps
        own = self.body.layers[0].self_attn
        self.width: int = own.head_dim
        self.normed = hasattr(own, "q_norm")  # whether heads are normalised; the norm then carries 1 / sqrt E
        self.scale: float = 1.0 if self.normed else own.scaling

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
            y_ND = self.rough(rms_norm(x_ND, layer.input_layernorm.weight, self.eps))
            y_QD = y_ND.index_select(0, asking_Q) if last else y_ND
            turn_QHZ = turn_NHZ[asking_Q] if last else turn_NHZ
            q_QHE, k_NKE, v_NKE = self.project(layer.self_attn, y_QD, y_ND, turn_QHZ, turn_NKZ)
            if kept is not None:
                kept.append((k_NKE, v_NKE))
            x_QD = x_ND.index_select(0, asking_Q) if last else x_ND
            x_ND = self.finish(layer, x_QD, attend(q_QHE, k_NKE, v_NKE, last=last))
        return rms_norm(x_ND, self.body.norm.weight, self.eps).index_select(0, packed.wanted_W)

    def rough(self, x: Tensor) -> Tensor:
        """In the type that matrices are multiplied in."""
        return x if self.dtype == torch.float32 else x.to(self.dtype)

    @torch.no_grad()
    def round_weights(self) -> None:
        """Give up the float32 form of the layers' matrices, for a model that is only read: the numbers are the same."""
        for part in self.body.layers.modules():
            if isinstance(part, nn.Linear | Adapted) and part.weight.dtype != self.dtype:
                part.weight = nn.Parameter(part.weight.to(self.dtype), requires_grad=False)

    def embed(self, token_N: Tensor) -> Tensor:
        """As the module does, which gives the embedding of its padding id no gradient."""
        return F.embedding(token_N, self.body.embed_tokens.weight, self.body.padding_idx).float()

    def rotary(self, length: int) -> Tensor:
        """(L, Z) complex: the turn of each pair at each position."""
        every_1L = torch.arange(length, device=self.body.embed_tokens.weight.device)[None]
        cos, sin = self.body.rotary_emb(every_1L.new_empty(0, dtype=torch.float32), every_1L)
        return torch.complex(*(x[0, :, : self.width // 2].contiguous() for x in (cos, sin)))

    def expanded(self, turn_N1Z: Tensor) -> tuple[Tensor, Tensor]:
        """Turns for all query heads and all key heads, written out: products that do not broadcast are faster.

        Where no norm carries it, the queries' turns carry 1 / sqrt E.
        """
        heads, key_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        turn_NHZ = turn_N1Z.expand(-1, heads, -1).contiguous()
        turn_NKZ = turn_NHZ[:, :key_heads].contiguous()
        return turn_NHZ if self.normed else turn_NHZ * self.scale, turn_NKZ

    def map(self, part: Any, *, turned: bool = False) -> Map:
        """A linear layer's weight and bias; `turned`: pairs of each head interleaved, as `rotate` wants them."""
        weight_OI, bias_O = part.weight, part.bias
        low: tuple[Tensor, Tensor] | None = None
        if isinstance(part, Adapted):
            low = part.lora_A, part.lora_B * part.scale
        if self.dtype != torch.float32:
            weight_OI = self.copies.rounded(weight_OI)
            bias_O = None if bias_O is None else bias_O.to(self.dtype)
            low = None if low is None else (low[0].to(self.dtype), low[1].to(self.dtype))
        if turned:
            weight_OI = interleaved(weight_OI, self.width)
            bias_O = None if bias_O is None else interleaved(bias_O, self.width)
            low = None if low is None else (low[0], interleaved(low[1], self.width))
        return Map(weight_OI, bias_O, low)

    def maps(self, own: Any) -> tuple[Map, Map, Map]:
        """Projections to queries, keys and values."""
        return self.map(own.q_proj, turned=True), self.map(own.k_proj, turned=True), self.map(own.v_proj)

    def norms(self, own: Any) -> tuple[Tensor, Tensor]:
        """Norms of query and key heads, pairs interleaved; the first carries 1 / sqrt E."""
        q_E, k_E = (interleaved(part.weight, self.width) for part in (own.q_norm, own.k_norm))
        return q_E * own.scaling, k_E

    def project(
        self, own: Any, y_QD: Tensor, y_ND: Tensor, turn_QHZ: Tensor, turn_NKZ: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, turned to their positions."""
        maps = self.maps(own)
        if y_QD is y_ND:
            q_QD, k_ND, v_ND = _applied(y_ND, *maps)
        else:
            (q_QD,), (k_ND, v_ND) = _applied(y_QD, maps[0]), _applied(y_ND, *maps[1:])
        q_QHE, k_NKE, v_NKE = (x.unflatten(1, (-1, self.width)) for x in (q_QD, k_ND, v_ND))
        if self.normed:
            q_norm_E, k_norm_E = self.norms(own)
            q_QHE, k_NKE = rms_norm(q_QHE, q_norm_E, self.eps), rms_norm(k_NKE, k_norm_E, self.eps)
        return self.rough(rotate(q_QHE, turn_QHZ)), self.rough(rotate(k_NKE, turn_NKZ)), v_NKE

    def finish(self, layer: Any, x_ND: Tensor, mixed_ND: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x_ND = self.onto(x_ND, mixed_ND, layer.self_attn.o_proj)
        mlp = layer.mlp
        y_ND = self.rough(rms_norm(x_ND, layer.post_attention_layernorm.weight, self.eps))
        inner_NF = gated(*_applied(y_ND, self.map(mlp.gate_proj), self.map(mlp.up_proj)))
        return self.onto(x_ND, inner_NF, mlp.down_proj)

    def onto(self, base_NO: Tensor, x_NI: Tensor, part: Any) -> Tensor:
        """base + the linear layer's output."""
        own = self.map(part)
        return own.finished(linear_onto(base_NO, x_NI, own.weight_OI), x_NI)


def _applied(x_NI: Tensor, *maps: Map) -> tuple[Tensor, ...]:
    """Several linear maps of one input."""
    found = linears(x_NI, *(one.weight_OI for one in maps))
    return tuple(one.finished(out_NO, x_NI) for out_NO, one in zip(found, maps, strict=True))
