"""Dense Llama, Mistral, Qwen2 and Qwen3 as plain functions over the Hugging Face module's own parameters.

Tokens of all rows stand in one packed axis without padding, each group's prompt once; only attention spreads
them into rows (`trainer.model.attention`). In the last layer only the states that somebody asked for are worked out.
Parameters are read at every call, so nothing goes stale; in bfloat16 their copies are renewed when they change. The
residual stream, norms and softmax stay in float32.

Token by token a decoder keeps keys and values in a cache allocated beforehand and works in as few operations as
possible: small batches on a CPU are bound by the number of calls and, with several threads, by Python's lock. So
projections that read the same input are one matrix, those of attention key head by key head, copied when decoding
starts (a decoder lives for one generation, so the copy cannot go stale; in bfloat16 it is kept until a weight changes).
Leaves out: the head, sampling (`trainer.batch.rollout`), and other architectures (`trainer.model.policy`).

Axes: U unique prompts of P places, B rows of T response tokens, N packed tokens, Q those that ask, D hidden width,
H query heads, K key heads, E head width, Z = E / 2 pairs; of the decoder B = U * group rows, P = B K pairs of a row and
a key head, G = H / K, S = G + 2 (or G + 1, without the value), F feed-forward width, L places of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.adapters import Adapted
from trainer.model.attention import MASKED, STEP, Packed
from trainer.model.kernels import (
    Copies,
    gated,
    interleaved,
    linears,
    packed,
    product,
    rms_norm,
    rotate,
)

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
        return own.finished(base_NO + linears(x_NI, own.weight_OI)[0], x_NI)


def _applied(x_NI: Tensor, *maps: Map) -> tuple[Tensor, ...]:
    """Several linear maps of one input."""
    found = linears(x_NI, *(one.weight_OI for one in maps))
    return tuple(one.finished(out_NO, x_NI) for out_NO, one in zip(found, maps, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's weights and cache; the norm of queries, where there is one, carries 1 / sqrt(E)."""

    before_D: Tensor
    qkv: Map  # of each key head: its G queries, its key, its value
    head_norms_SE: Tensor | None  # of the queries and the key
    out: Map
    after_D: Tensor
    gate_up: Map
    down: Map
    cache_2PLE: Tensor  # keys and values

    def rows(self, index_P: Tensor) -> _Layer:
        return _Layer(**(vars(self) | {"cache_2PLE": self.cache_2PLE[:, index_P]}))


class LeanDecoder:
    """B rows extended one token at a time, without gradients: prompts on the left of the cache, then one place for each
    new token. hidden_BD: the state that predicts each row's next."""

    def __init__(
        self, lean: Lean, prompt_UP: Tensor, mask_UP: Tensor, group: int, max_new_tokens: int
    ) -> None:
        (prompts, width), device = prompt_UP.shape, prompt_UP.device
        first_U1 = torch.ones(prompts, 1, dtype=torch.bool, device=device)
        kept: list[tuple[Tensor, Tensor]] = []
        last_UD = lean.run(Packed.of(prompt_UP, mask_UP, first_U1.long(), first_U1), kept)
        places = width + max_new_tokens + -(width + max_new_tokens) % STEP
        self.lean, self.used, self.hidden_BD = lean, width, last_UD.repeat_interleave(group, 0)
        self.key_heads = lean.config.num_key_value_heads
        self.turn_LZ = lean.rotary(places)
        self.position_P = mask_UP.sum(1).repeat_interleave(group * self.key_heads, 0)
        hidden_UL = F.pad(~mask_UP, (0, places - width), value=True)
        bias_UL = torch.zeros_like(hidden_UL, dtype=lean.dtype).masked_fill_(hidden_UL, MASKED)
        self.bias_P1L = bias_UL.repeat_interleave(group * self.key_heads, 0)[:, None]

        def cache(k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
            """(2, P, L, E) with the prompts' keys and values in front."""
            kv_N2KE = torch.stack([k_NKE.to(v_NKE.dtype), v_NKE], 1)
            kv_UP2KE = kv_N2KE.new_zeros(prompts, width, *kv_N2KE.shape[1:])
            kv_UP2KE[mask_UP] = kv_N2KE
            room_2URKLE = kv_N2KE.new_zeros(2, prompts, group, self.key_heads, places, lean.width)
            room_2URKLE[..., :width, :] = kv_UP2KE.permute(2, 0, 3, 1, 4)[:, :, None]
            return room_2URKLE.flatten(1, 3)

        self.layers = [
            self._layer(layer, cache(*pair)) for layer, pair in zip(lean.body.layers, kept, strict=True)
        ]
        self._look()

    def _layer(self, layer: Any, cache_2PLE: Tensor) -> _Layer:
        """Join weights that read the same input."""
        lean, own, mlp = self.lean, layer.self_attn, layer.mlp
        norms_SE = None
        if lean.normed:
            q_norm_E, k_norm_E = lean.norms(own)
            per_key = lean.config.num_attention_heads // self.key_heads
            norms_SE = torch.stack([q_norm_E] * per_key + [k_norm_E])
        return _Layer(
            before_D=layer.input_layernorm.weight,
            qkv=_joined(lean, (own.q_proj, own.k_proj, own.v_proj), lean.maps(own), self.key_heads),
            head_norms_SE=norms_SE,
            out=_joined(lean, (own.o_proj,), (lean.map(own.o_proj),)),
            after_D=layer.post_attention_layernorm.weight,
            gate_up=_joined(
                lean, (mlp.gate_proj, mlp.up_proj), (lean.map(mlp.gate_proj), lean.map(mlp.up_proj))
            ),
            down=_joined(lean, (mlp.down_proj,), (lean.map(mlp.down_proj),)),
            cache_2PLE=cache_2PLE,
        )

    def _look(self) -> None:
        """Views of the cache as far as the next token and a few more see it: making them for every token would take as
        long as small products do."""
        width = self.used + 1 + -(self.used + 1) % STEP
        self.seen_P1L = self.bias_P1L[:, :, :width]
        caches = [layer.cache_2PLE[:, :, :width].unbind(0) for layer in self.layers]
        self.seen = [(keys_PLE.transpose(1, 2), values_PLE) for keys_PLE, values_PLE in caches]

    def step(self, token_B: Tensor) -> None:
        """Append a token to every row."""
        if self.used == self.seen_P1L.shape[2]:
            self._look()
        turn_P1Z = self.turn_LZ[self.position_P][:, None]
        x_BD = self.lean.embed(token_B)
        self.seen_P1L[:, :, self.used] = 0
        for layer, (keys_PEL, values_PLE) in zip(self.layers, self.seen, strict=True):
            x_BD = self._attend(layer, x_BD, turn_P1Z, keys_PEL, values_PLE)
            y_BD = F.rms_norm(x_BD, layer.after_D.shape, layer.after_D, self.lean.eps)
            gate_BF, up_BF = _mapped(y_BD, layer.gate_up).chunk(2, 1)
            x_BD = _mapped(F.silu(gate_BF).mul_(up_BF), layer.down) + x_BD
        self.position_P, self.used = self.position_P + 1, self.used + 1
        self.hidden_BD = F.rms_norm(x_BD, x_BD.shape[1:], self.lean.body.norm.weight, self.lean.eps)

    def _attend(
        self, layer: _Layer, x_BD: Tensor, turn_P1Z: Tensor, keys_PEL: Tensor, values_PLE: Tensor
    ) -> Tensor:
        size, eps, pairs = self.lean.width, self.lean.eps, len(values_PLE)
        qkv_BO = _mapped(F.rms_norm(x_BD, layer.before_D.shape, layer.before_D, eps), layer.qkv)
        qkv_PSE = (qkv_BO if qkv_BO.dtype == torch.float32 else qkv_BO.float()).view(pairs, -1, size)
        qk_PSE = qkv_PSE[:, :-1]
        if layer.head_norms_SE is not None:
            torch.mul(F.rms_norm(qk_PSE, (size,), None, eps), layer.head_norms_SE, out=qk_PSE)
        qk_PSE.view(torch.complex64).mul_(turn_P1Z)
        layer.cache_2PLE[:, :, self.used] = qkv_PSE[:, -2:].transpose(0, 1)
        scores_PGL = torch.baddbmm(self.seen_P1L, qkv_PSE[:, :-2], keys_PEL, alpha=self.lean.scale)
        mixed_BO = torch.bmm(torch.softmax(scores_PGL, -1), values_PLE).view(len(x_BD), -1)
        return _mapped(mixed_BO, layer.out) + x_BD

    def keep(self, index_K: Tensor) -> None:
        """Drop all rows but these, in this order."""
        self.hidden_BD = self.hidden_BD[index_K]
        every_K = torch.arange(self.key_heads, device=index_K.device)
        index_P = (index_K[:, None] * self.key_heads + every_K).flatten()
        self.position_P, self.bias_P1L = self.position_P[index_P], self.bias_P1L[index_P]
        self.layers = [layer.rows(index_P) for layer in self.layers]
        self._look()


def _mapped(x_BI: Tensor, joined: Map) -> Tensor:
    out_BO = product(x_BI, joined.weight_OI, joined.bias_O)
    return out_BO if joined.low is None else out_BO + F.linear(F.linear(x_BI, joined.low[0]), joined.low[1])


def _joined(lean: Lean, parts: Sequence[Any], maps: Sequence[Map], heads: int = 1) -> Map:
    """Maps of one input as one, head by head, ready for `product`; in bfloat16 the weights' part is kept while they are
    the same."""

    def weight() -> Tensor:
        return packed(_rows([one.weight_OI for one in maps], heads))

    weights = tuple(part.weight for part in parts)
    kept: Tensor = (
        weight()
        if lean.dtype == torch.float32
        else lean.copies.get(("joined", *map(id, weights)), weights, weight)
    )
    bias_O: Tensor | None = None
    if any(one.bias_O is not None for one in maps):
        none = [one.weight_OI.new_zeros(len(one.weight_OI)) for one in maps]
        bias_O = _rows(
            [x if one.bias_O is None else one.bias_O for x, one in zip(none, maps, strict=True)], heads
        )
    return Map(kept, bias_O, _low(maps, heads))


def _rows(tensors: Sequence[Tensor], heads: int) -> Tensor:
    """The rows of all, those of a head together."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([x.unflatten(0, (heads, -1)) for x in tensors], 1).flatten(0, 1)


def _low(maps: Sequence[Map], heads: int) -> tuple[Tensor, Tensor] | None:
    """Adapters of joined maps: all A below one another, B in blocks."""
    if all(one.low is None for one in maps):
        return None
    none = [
        (one.weight_OI.new_zeros(0, one.weight_OI.shape[1]), one.weight_OI.new_zeros(len(one.weight_OI), 0))
        for one in maps
    ]
    pairs = [one.low or empty for one, empty in zip(maps, none, strict=True)]
    wide_OR = torch.block_diag(*(b_OR for _, b_OR in pairs)).split([len(b_OR) for _, b_OR in pairs])
    return torch.cat([a_RI for a_RI, _ in pairs]), _rows(wide_OR, heads)
