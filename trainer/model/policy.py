"""A causal language model seen by the training loops: hidden states, logits, and step-by-step decoding.

`Policy` hides two ways of computing the same numbers behind three methods. The generic path runs the Hugging
Face module itself with its own dynamic cache and works for any `AutoModelForCausalLM` (prompts are padded on the left
and responses on the right, so right padding is never attended to, and positions count real tokens only); the lean path
(`trainer.model.lean`) is a functional forward of the same parameters for dense Llama, Mistral, Qwen2 and Qwen3. The
first policy of a configuration compares both with the module's own logits and refuses what disagrees. A bare model
(`trainer.model.bare`) has no module to be compared with, and the lean path alone. Leaves out: sampling
(`trainer.batch.rollout`), gradients (`trainer.batch.update`), loading weights.

Axes: B rows, U unique prompts (B = U * group), P left-padded prompt length, T right-padded response length,
D hidden width, V vocabulary, L tokens run, K tokens they see.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mopdsim.base.errors import UsageError
from trainer.files.settings import Settings
from trainer.model.bare import Bare
from trainer.model.chat import Chat
from trainer.model.kernels import FEW_ROWS, Copies, linears, packed, product
from trainer.model.lean import Lean, LeanDecoder, supports
from trainer.model.parallel import keep_freed_memory

AGREEMENT = 1e-4  # largest difference in logits between a path and the module's own forward, float32


_chosen: dict[str, bool] = {}  # by configuration, whether the lean path reproduces the module's logits


class Policy:
    """A causal LM with its tokenizer; dropout is switched off, since the scored policy must be the sampled one.

    `dtype` bfloat16 computes under autocast and keeps the weights as they are; logits are always float32.
    Raises UsageError when the head does more to its input than a linear map, soft cap or scale.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        dtype: torch.dtype = torch.float32,
        chat: Settings | None = None,
    ) -> None:
        self.model, self.tokenizer, self.dtype = model.eval(), tokenizer, dtype
        config: Any = model.config
        self.vocab_size: int = config.vocab_size
        self.head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self.eos_ids = _eos_ids(model, tokenizer)
        self.chat = Chat(tokenizer, chat, end_ids=self.eos_ids)
        self.pad_id: int = _first_given(
            getattr(tokenizer, "pad_token_id", None), config.pad_token_id, min(self.eos_ids, default=None), 0
        )
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self.weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self._soft_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = float(getattr(model, "logit_scale", 1.0) or 1.0) / float(
            getattr(config, "logits_scaling", 1.0) or 1.0
        )
        if self.device.type == "cpu":
            keep_freed_memory()
        self._copies = Copies()
        self.backbone: Lean | GenericBackbone = (
            Lean(model, self.dtype) if isinstance(model, Bare) else self._verified()
        )
        self.adapter_base: Path | None = None  # the directory of the model that its adapter belongs to
        self._shares: Policy | None = None

    @property
    def device(self) -> torch.device:
        return cast(Tensor, self.head.weight).device

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trainable parameters, tied ones once."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def said(self, tokens: Sequence[int]) -> str:
        """A sampled turn as text, without special tokens and the id that ended it, which need not be one."""
        kept = tokens[:-1] if len(tokens) and tokens[-1] in self.eos_ids else tokens
        text: str = self.tokenizer.decode(list(kept), skip_special_tokens=True)
        return text

    def frozen(self) -> Policy:
        """Itself, from here on only read: no gradients, and on the lean path matrices in the compute type alone."""
        self.model.requires_grad_(False)
        if isinstance(self.backbone, Lean):
            self.backbone.round_weights()
        return self

    def frozen_base(self, base: Path) -> None:
        """Keep only the adapters' weights to train; `base` is the directory of the rest."""
        self.adapter_base = base
        if isinstance(self.backbone, Lean):
            self.backbone.round_weights()

    def sharing(self, chat: Settings | None) -> Policy:
        """Another policy with the same tensors, to put an adapter on; itself is frozen."""
        self.frozen()
        shared = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        other = Policy(copy.deepcopy(self.model, shared), self.tokenizer, dtype=self.dtype, chat=chat)
        other._shares, other._copies = self, self._copies
        if isinstance(other.backbone, Lean) and isinstance(self.backbone, Lean):
            other.backbone.copies = self.backbone.copies
        return other

    def hidden(
        self, prompt_BP: Tensor, prompt_mask_BP: Tensor, response_BT: Tensor, *, group: int = 1
    ) -> Tensor:
        """hidden_BTD: the final state that predicts response token t (so the last prompt token's comes first).

        `group` consecutive rows share a prompt, which is then computed once. Differentiable.
        """
        wanted_BT = torch.ones_like(response_BT, dtype=torch.bool)
        return self.hidden_at(prompt_BP, prompt_mask_BP, response_BT, wanted_BT, group=group).unflatten(
            0, response_BT.shape
        )

    def hidden_at(
        self,
        prompt_BP: Tensor,
        prompt_mask_BP: Tensor,
        response_BT: Tensor,
        wanted_BT: Tensor,
        *,
        group: int = 1,
    ) -> Tensor:
        """hidden_ND: only the states that predict the wanted tokens, in row-major order; the cheaper call."""
        used = slice(0, int(wanted_BT.any(0).nonzero().max()) + 1) if wanted_BT.any() else slice(0, 1)
        prompt_UP, mask_UP = _trimmed(prompt_BP[::group], prompt_mask_BP[::group])
        with self.autocast():
            return self.backbone.hidden_at(prompt_UP, mask_UP, response_BT[:, used], wanted_BT[:, used])

    def logits(self, hidden: Tensor, *, temperature: float = 1.0) -> Tensor:
        """(..., D) to float32 (..., V), divided by the temperature."""
        with self.autocast():
            if type(self.head) is nn.Linear and self.head.bias is None:
                logits = self._linear_head(hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1]).float()
            else:
                logits = self.head(hidden).float()
        logits = logits if self._scale == 1 else logits * self._scale
        logits = torch.tanh(logits / self._soft_cap) * self._soft_cap if self._soft_cap else logits
        return logits if temperature == 1 else logits / temperature

    def _linear_head(self, hidden_ND: Tensor) -> Tensor:
        weight_VD = cast(Tensor, self.head.weight)
        if self.dtype == torch.float32 or hidden_ND.device.type != "cpu":
            return linears(hidden_ND, weight_VD)[0]
        if len(hidden_ND) <= FEW_ROWS and not torch.is_grad_enabled():
            ready = self._copies.get("head", (weight_VD,), lambda: packed(weight_VD.to(self.dtype)))
            return product(hidden_ND, ready)
        return linears(hidden_ND, self._copies.rounded(weight_VD))[0]

    @torch.no_grad()
    def decoder(
        self, prompt_UP: Tensor, prompt_mask_UP: Tensor, *, group: int, max_new_tokens: int
    ) -> LeanDecoder | GenericDecoder:
        """A key-value cache over `group` rows for each prompt, which are read once. Step inside `autocast()`."""
        prompts = _trimmed(prompt_UP, prompt_mask_UP)
        with self.autocast():
            if isinstance(self.backbone, Lean):
                return LeanDecoder(self.backbone, *prompts, group, max_new_tokens)
            return GenericDecoder(self.backbone, *prompts, group)

    def autocast(self) -> AbstractContextManager[Any]:
        """The compute type, for work that spans several calls: weights are then converted once."""
        exact = self.dtype == torch.float32
        return nullcontext() if exact else torch.autocast(self.device.type, dtype=self.dtype)

    def _verified(self) -> Lean | GenericBackbone:
        """The lean path if it reproduces the module's logits, else the generic one; tried once a configuration."""
        name = f"{type(self.model).__name__} {self.model.config.to_json_string()}"  # type: ignore[union-attr,operator]
        if name not in _chosen:
            _chosen[name] = isinstance(self._tried(), Lean)
        return Lean(self.model, self.dtype) if _chosen[name] else GenericBackbone(self.model)

    @torch.no_grad()
    def _tried(self) -> Lean | GenericBackbone:
        """The first path that gives the module's logits on random ragged tokens, in float32. UsageError: none does."""
        paths: list[Lean | GenericBackbone] = [Lean(self.model)] if supports(self.model) else []
        noise = torch.Generator().manual_seed(0)
        token_BL = torch.randint(self.vocab_size, (4, 9), generator=noise).to(self.device)
        mask_BP = (torch.arange(5) >= torch.tensor([0, 0, 3, 3])[:, None]).to(self.device)
        prompt_BP, response_BT = token_BL[[0, 0, 1, 1], :5], token_BL[:, 5:]
        truth = torch.cat(
            [
                self.model(input_ids=torch.cat([p[m], r[:-1]])[None]).logits[:, -4:].float()
                for p, m, r in zip(prompt_BP, mask_BP, response_BT, strict=True)
            ]
        )
        tolerance = (
            AGREEMENT
            * (1 if self.head.weight.dtype == torch.float32 else 500)
            * max(1.0, float(truth.abs().max()))
        )
        self.dtype, dtype = torch.float32, self.dtype
        try:
            for path in (*paths, GenericBackbone(self.model)):
                self.backbone = path
                try:
                    found = self.logits(self.hidden(prompt_BP, mask_BP, response_BT, group=2))
                except AttributeError as error:  # its cache is none of keys and values
                    raise UsageError(
                        f"model {type(self.model).__name__}: keeps a state (linear attention or a state space) where "
                        f"this trainer extends a key-value cache ({error}): use a model with attention in every layer"
                    ) from error
                worst = float((found - truth).abs().max())
                if worst <= tolerance:
                    return path
        finally:
            self.dtype = dtype
        raise UsageError(
            f"model {type(self.model).__name__}: logits rebuilt from its hidden states differ from its own by "
            f"{worst:.2g} (limit {tolerance:.2g}); use an architecture with a plain linear head and a key-value cache"
        )


def _trimmed(prompt_UP: Tensor, mask_UP: Tensor) -> tuple[Tensor, Tensor]:
    """Without the columns in which every prompt is padding."""
    first = int(mask_UP.any(0).long().argmax())
    return prompt_UP[:, first:], mask_UP[:, first:]


def _first_given(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The model's end-of-sequence ids, or the tokenizer's where the model names none; UsageError if they disagree."""
    generation = getattr(model, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    named = model.config.eos_token_id if named is None else named
    ids = frozenset(named if isinstance(named, list | tuple) else [] if named is None else [named])
    own = getattr(tokenizer, "eos_token_id", None)
    if own is not None and ids and own not in ids:
        raise UsageError(
            f"the tokenizer ends a turn with token {own}, but the model's end-of-sequence ids are {sorted(ids)}: "
            "they must agree; set eos_token_id in the model's generation_config.json"
        )
    return ids or frozenset([] if own is None else [own])


class GenericBackbone:
    """The Hugging Face decoder itself, with its dynamic cache."""

    def __init__(self, model: nn.Module) -> None:
        self.body: nn.Module = model.get_decoder()  # type: ignore[operator]
        self.takes_positions = "position_ids" in inspect.signature(self.body.forward).parameters

    def run(self, token_BL: Tensor, mask_BK: Tensor, cache: Any, *, use_cache: bool) -> Any:
        """Run the L newest of K tokens; positions count real tokens only, so left padding changes nothing."""
        length = token_BL.shape[1]
        position_BL = (mask_BK.long().cumsum(1) - 1).clamp_min(0)[:, -length:]
        positions = {"position_ids": position_BL} if self.takes_positions else {}
        return self.body(
            input_ids=token_BL,
            attention_mask=mask_BK.long(),
            past_key_values=cache,
            use_cache=use_cache,
            **positions,
        )

    def hidden_at(self, prompt_UP: Tensor, mask_UP: Tensor, response_BT: Tensor, wanted_BT: Tensor) -> Tensor:
        width, steps, group = prompt_UP.shape[1], response_BT.shape[1] - 1, len(response_BT) // len(prompt_UP)
        if group == 1 or not steps:
            token_UL = torch.cat([prompt_UP, response_BT[::group, :-1]], 1)
            out = self.run(token_UL, _extend(mask_UP, steps), None, use_cache=False)
            return out.last_hidden_state[:, width - 1 :].repeat_interleave(group, 0)[wanted_BT]
        out = self.run(prompt_UP, mask_UP, None, use_cache=True)
        first_B1D = out.last_hidden_state[:, -1:].repeat_interleave(group, 0)
        cache = out.past_key_values
        cache.batch_repeat_interleave(group)
        mask_BK = _extend(mask_UP.repeat_interleave(group, 0), steps)
        rest = self.run(response_BT[:, :-1], mask_BK, cache, use_cache=True).last_hidden_state
        return torch.cat([first_B1D, rest], 1)[wanted_BT]


class GenericDecoder:
    """As `LeanDecoder`, with the decoder's own key-value cache."""

    def __init__(self, backbone: GenericBackbone, prompt_UP: Tensor, mask_UP: Tensor, group: int) -> None:
        self.backbone, self.mask_BK = backbone, mask_UP.repeat_interleave(group, 0)
        out = backbone.run(prompt_UP, mask_UP, None, use_cache=True)
        self.cache = out.past_key_values
        self.cache.batch_repeat_interleave(group)
        self.hidden_BD = out.last_hidden_state[:, -1].repeat_interleave(group, 0)

    def step(self, token_B: Tensor) -> None:
        self.mask_BK = _extend(self.mask_BK, 1)
        out = self.backbone.run(token_B[:, None], self.mask_BK, self.cache, use_cache=True)
        self.hidden_BD = out.last_hidden_state[:, -1]

    def keep(self, index_K: Tensor) -> None:
        self.mask_BK, self.hidden_BD = self.mask_BK[index_K], self.hidden_BD[index_K]
        self.cache.batch_select_indices(index_K)


def _extend(mask_BP: Tensor, more: int) -> Tensor:
    return torch.cat([mask_BP, mask_BP.new_ones(mask_BP.shape[0], more)], 1)
