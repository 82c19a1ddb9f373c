"""Any Hugging Face causal LM below its head: the module itself, with its own dynamic cache.

Prompts are padded on the left and responses on the right, so right padding is never attended to, and positions count
real tokens only. Leaves out: the head, and the faster path for dense families (`trainer.model.lean`).

Axes: U unique prompts of P places, B rows (a multiple of U) of T response tokens, L tokens run, K tokens they see.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


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
    """Its key-value cache, extended one token at a time."""

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
