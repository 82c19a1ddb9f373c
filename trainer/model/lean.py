"""Dense Llama, Mistral, Qwen2 and Qwen3 as plain functions over the Hugging Face module's own parameters.

Tokens of all rows stand in one packed axis without padding, each group's prompt once; only attention spreads
them into rows (`trainer.model.attention`). In the last layer only the states that somebody asked for are worked out.
Parameters are read at every call, so nothing goes stale; in bfloat16 their copies are renewed when they change. The
residual stream, norms and softmax stay in float32.

Token by token a decoder keeps keys and values in a cache allocated beforehand and works in as few operations as
possible: small batches on a CPU are bound by the number of calls and, with several threads, by Python's lock. So
projections that read the same input are one matrix, copied when decoding starts (a decoder lives for one generation, so
the copy cannot go stale; in bfloat16 it is kept until a weight changes). Leaves out: the head, sampling
(`trainer.batch.rollout`), and other architectures (`trainer.model.policy`).

Axes: U unique prompts of P places, B rows of T response tokens, N packed tokens, Q those that ask, D hidden width,
H query heads, K key heads, E head width, Z = E / 2 pairs; of the decoder B = U * group rows, P = B K pairs of a row and
a key head, G = H / K, F feed-forward width, L places of the cache.
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
    """B rows extended one token at a time, without gradients: prompts on the left of the cache, then one place for each
    new token. hidden_BD: the state that predicts each row's next."""

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
        """Drop all rows but these, in this order."""
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
