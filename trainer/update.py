"""Gradients of a loss over rollouts, in pieces that never hold all logits at once.

A loss sees the logits of some trained positions and their flat indices, and returns a sum whose weights are normalised
over the whole update; so cutting the batch into micro-batches, chunks or threads never changes the gradient.
Leaves out: which loss (`trainer.losses`), the optimizer, sampling.

Axes: B rows, T response length, N trained positions (flat index b * T + t), D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.parallel import parts_for, row_spans, side_by_side
from trainer.policy import Policy
from trainer.rollout import Rollouts

LossOf = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
CHUNK_LOGITS = 1 << 22  # logits held at once (times a few for the loss's own intermediates)


def accumulate_gradients(
    policy: Policy,
    rollouts: Rollouts,
    loss_of: LossOf,
    *,
    temperature: float = 1.0,
    micro_batch_rows: int | None = None,
    chunk_positions: int | None = None,
) -> tuple[float, dict[str, float]]:
    """Add the gradient of the summed `loss_of(logits_NV / temperature, index_N)` to `param.grad`.

    Returns the loss and the metrics, each summed over all positions. `micro_batch_rows` bounds the rows whose
    activations are held, `chunk_positions` the positions whose logits are.
    """
    chunk = chunk_positions or max(1, CHUNK_LOGITS // policy.vocab_size)
    parameters = list(policy.parameters())

    def work(part: slice) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        sums: dict[str, Tensor] = {}
        gradients: list[Tensor | None] = [None] * len(parameters)
        rows = part.stop - part.start
        for span in row_spans(rows, group=rollouts.group, at_most=micro_batch_rows or rows):
            piece = slice(part.start + span.start, part.start + span.stop)
            _add_piece(policy, rollouts, piece, loss_of, temperature, chunk, parameters, gradients, sums)
        return sums, gradients

    rows = rollouts.response_BT.shape[0]
    spans = row_spans(rows, group=rollouts.group, parts=parts_for(policy.device))
    totals: dict[str, Tensor] = {}
    for sums, gradients in side_by_side(work, spans):
        for name, value in sums.items():
            totals[name] = totals[name] + value if name in totals else value
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    loss = float(totals.pop("loss", torch.zeros(())))
    return loss, {name: float(value) for name, value in totals.items()}


def _add_piece(
    policy: Policy,
    rollouts: Rollouts,
    piece: slice,
    loss_of: LossOf,
    temperature: float,
    chunk: int,
    parameters: list[torch.nn.Parameter],
    gradients: list[Tensor | None],
    sums: dict[str, Tensor],
) -> None:
    """Forward and backward of some rows: the body once, the head and the loss chunk by chunk in between."""
    width = rollouts.response_BT.shape[1]
    trained_N = rollouts.trained_BT[piece].flatten().nonzero().squeeze(1)
    if not len(trained_N):
        return
    hidden_ND = policy.hidden_at(
        rollouts.prompt_BP[piece],
        rollouts.prompt_mask_BP[piece],
        rollouts.response_BT[piece],
        rollouts.trained_BT[piece],
        group=rollouts.group,
    )
    head = [p for p in policy.head.parameters() if p.requires_grad]
    slots = [next(i for i, q in enumerate(parameters) if q is p) for p in head]
    upstream = []
    for start in range(0, len(trained_N), chunk):
        part_ND = hidden_ND[start : start + chunk].detach().requires_grad_()
        index_N = trained_N[start : start + chunk] + piece.start * width
        loss, metrics = loss_of(policy.logits(part_ND) / temperature, index_N)
        for name, value in {"loss": loss, **metrics}.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        part_grad, *head_grads = torch.autograd.grad(loss, [part_ND, *head])
        upstream.append(part_grad)
        for slot, gradient in zip(slots, head_grads, strict=True):
            _add(gradients, slot, gradient)
    body = torch.autograd.grad(hidden_ND, parameters, torch.cat(upstream), allow_unused=True)
    for slot, gradient in enumerate(body):
        if gradient is not None:
            _add(gradients, slot, gradient)


def _add(gradients: list[Tensor | None], slot: int, gradient: Tensor) -> None:
    held = gradients[slot]
    gradients[slot] = gradient if held is None else held.add_(gradient)


@torch.no_grad()
def hidden_states(policy: Policy, rollouts: Rollouts, *, micro_batch_rows: int | None = None) -> Tensor:
    """hidden_BTD of the rollouts under any policy, without gradients: what a teacher is cached as."""
    rows = rollouts.response_BT.shape[0]

    def work(part: slice) -> Tensor:
        pieces = []
        for span in row_spans(part.stop - part.start, group=rollouts.group, at_most=micro_batch_rows or rows):
            p = slice(part.start + span.start, part.start + span.stop)
            pieces.append(
                policy.hidden(
                    rollouts.prompt_BP[p], rollouts.prompt_mask_BP[p], rollouts.response_BT[p], group=rollouts.group
                )
            )
        return torch.cat(pieces)

    return torch.cat(side_by_side(work, row_spans(rows, group=rollouts.group, parts=parts_for(policy.device))))
