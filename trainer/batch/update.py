"""Gradients of a loss over rollouts, in pieces that never hold all logits at once; what it measured meanwhile, and
whether domains agree on its gradients.

A loss sees the logits (or the states themselves) of some trained positions and their flat indices, and returns a sum
whose weights are normalised over the whole update; so cutting the batch into micro-batches, chunks or threads never
changes the gradient. Domain by domain, two things are logged because they disagree: the cosine compares directions, the
inner product g_d . dtheta is the first-order change of domain d's loss by the optimiser's actual step (negative: it
helps d). Leaves out: which loss (`trainer.losses.losses`), the optimiser, sampling.

Axes: B rows, T response length, N trained positions (flat index b * T + t), D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.batch.rollout import Rollouts
from trainer.model import processes
from trainer.model.parallel import logits_at_once, memory_bytes, parts_for, row_spans, side_by_side
from trainer.model.policy import Policy

Named = dict[str, Tensor | float]
CPU_PIECE = 1 << 12  # tokens whose activations are held at once: more would leave a CPU's caches
PIECE = 1 << 14  # the same on an accelerator


@dataclass(kw_only=True)
class Sums:
    """What a loss measured: unweighted, detached sums by quantity (`kl_sum`, `clip_count`), of all rows, of each
    domain's, of those that each teacher scored."""

    whole: Named = field(default_factory=dict)
    domains: dict[str, Named] = field(default_factory=dict)
    teachers: dict[str, Named] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add another part's sums to these."""
        _add(self.whole, other.whole)
        for own, theirs in ((self.domains, other.domains), (self.teachers, other.teachers)):
            for name, values in theirs.items():
                _add(own.setdefault(name, {}), values)

    def floats(self) -> Sums:
        """The same as Python numbers, off the device."""

        def plain(values: Named) -> Named:
            return {name: float(value) for name, value in values.items()}

        return Sums(
            whole=plain(self.whole),
            domains={name: plain(values) for name, values in self.domains.items()},
            teachers={name: plain(values) for name, values in self.teachers.items()},
        )


def means(sums: Mapping[str, Tensor | float], count: float) -> dict[str, float]:
    """Each quantity over `count` positions, under its plain name."""
    return {
        name.removesuffix("_sum").removesuffix("_count"): float(value) / count for name, value in sums.items()
    }


def _add(own: Named, values: Mapping[str, Tensor | float]) -> None:
    for name, value in values.items():
        own[name] = own[name] + value if name in own else value


Measured = Sums | Mapping[str, Tensor | float]  # plain quantities are of the whole
LossOf = Callable[[Tensor, Tensor], tuple[Tensor, Measured]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One summand of a loss. row_M: the rows that it is of, ascending. loss_of: as of the whole batch."""

    row_M: Tensor
    loss_of: LossOf


def accumulate_gradients(
    policy: Policy,
    rollouts: Rollouts,
    loss_of: LossOf,
    *,
    rows: slice | None = None,
    temperature: float = 1.0,
    of_states: bool = False,
    micro_batch_rows: int | None = None,
    chunk_positions: int | None = None,
) -> tuple[float, Sums]:
    """Add the gradient of the summed `loss_of(logits_NV / temperature, index_N)` to `param.grad`.

    index_N ascends. Returns the loss and what it measured, summed over all positions. rows: whole groups, the positions
    of which alone are looked at, none perhaps. `of_states`: the loss reads hidden_ND in place of logits, and the
    temperature is its own affair. `micro_batch_rows` bounds the rows whose activations are held (a group's stay
    together), `chunk_positions` the positions whose logits are. On a CPU `loss_of` is called from several threads.
    """
    rows = slice(0, len(rollouts.prompt_BP)) if rows is None else rows
    if rows.start == rows.stop:
        return 0.0, Sums()
    chunk = chunk_positions or max(1, logits_at_once(policy.device) // policy.vocab_size)
    parameters = list(policy.parameters())

    def of_logits(hidden_ND: Tensor, index_N: Tensor) -> tuple[Tensor, Measured]:
        return loss_of(policy.logits(hidden_ND, temperature=temperature), index_N)

    reading = loss_of if of_states else of_logits

    def work(part: slice) -> _Total:
        total = _Total(gradients=[None] * len(parameters))
        for piece in _pieces(policy, rollouts, part, micro_batch_rows):
            _add_piece(policy, rollouts, piece, reading, chunk, parameters, total)
        return total

    first, *others = side_by_side(work, _parts(policy, rollouts, rows))
    for other in others:
        first.add(other.loss, other.sums, other.gradients)
    for parameter, gradient in zip(parameters, first.gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return float(first.loss), first.sums.floats()


def accumulate_by_domain(
    policy: Policy, rollouts: Rollouts, spans: Mapping[str, slice], loss_of: LossOf, **options: Any
) -> tuple[float, Sums, Callable[[], dict[str, dict[str, float]]]]:
    """As `accumulate_gradients`, one domain's rows at a time; after the optimiser's step the last of the three says how
    domains met: gradient_cosine by "a|b"; gradient_norm, gradient_share and update_inner by domain. It holds a gradient
    for each domain till then (`comparable`)."""
    parameters = list(policy.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    gradient: dict[str, list[Tensor]] = {}
    total, sums = 0.0, Sums()
    whole: list[Tensor | None] = [None] * len(parameters)
    for domain, span in spans.items():
        for parameter in parameters:
            parameter.grad = None
        loss, measured = accumulate_gradients(policy, rollouts, loss_of, rows=span, **options)
        gradient[domain] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for place, own in enumerate(p.grad for p in parameters):
            held = whole[place]
            if own is not None:
                whole[place] = own.clone() if held is None else held.add_(own)
        total += loss
        sums.add(measured)
    for parameter, summed in zip(parameters, whole, strict=True):
        parameter.grad = summed

    def report() -> dict[str, dict[str, float]]:
        for own in gradient.values():
            processes.add_up(own)
        norm = {domain: _dot(g, g) ** 0.5 for domain, g in gradient.items()}
        all_norms = sum(norm.values()) or 1.0
        step = [p.detach() - b for p, b in zip(parameters, before, strict=True)]
        return {
            "gradient_cosine": {
                f"{a}|{b}": _dot(gradient[a], gradient[b]) / max(norm[a] * norm[b], 1e-30)
                for a, b in combinations(gradient, 2)
            },
            "gradient_norm": norm,
            "gradient_share": {domain: value / all_norms for domain, value in norm.items()},
            "update_inner": {domain: _dot(g, step) for domain, g in gradient.items()},
        }

    return total, sums, report


def comparable(policy: Policy, domains: int) -> bool:
    """Whether the gradients of so many domains fit side by side: into a quarter of the memory, whatever is free of it,
    so that a machine repeats its numbers."""
    trained = sum(p.numel() * p.element_size() for p in policy.parameters())
    return domains * trained <= memory_bytes(policy.device) // 4


def accumulate_by_part(
    policy: Policy, rollouts: Rollouts, parts: Mapping[str, Part], **options: Any
) -> tuple[float, Sums, dict[str, list[Tensor]]]:
    """As `accumulate_gradients` of a loss that is a sum of parts, each over some of the rows; the last of the three is
    each part's gradient, by parameter."""
    parameters = list(policy.parameters())
    gradient: dict[str, list[Tensor]] = {}
    total, sums = 0.0, Sums()
    width = rollouts.response_BT.shape[1]
    for name, part in parts.items():

        def of_part(read_NX: Tensor, index_N: Tensor, part: Part = part) -> tuple[Tensor, Measured]:
            return part.loss_of(read_NX, part.row_M[index_N // width] * width + index_N % width)

        for parameter in parameters:
            parameter.grad = None
        loss, measured = accumulate_gradients(policy, rollouts.rows(part.row_M), of_part, **options)
        gradient[name] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total += loss
        sums.add(measured)
    for place, parameter in enumerate(parameters):
        parameter.grad = torch.stack([own[place] for own in gradient.values()]).sum(0)
    return total, sums, gradient


def accumulate_share(
    policy: Policy,
    rollouts: Rollouts,
    loss_of: LossOf,
    *,
    spans: Mapping[str, slice] | None = None,
    **options: Any,
) -> tuple[float, Sums, Callable[[], dict[str, dict[str, float]]]]:
    """The gradient of this process's rows alone; loss and sums are those of all processes. spans: domain by domain."""
    own = processes.share_of(len(rollouts.prompt_BP), rollouts.group)
    report: Callable[[], dict[str, dict[str, float]]] = dict
    if spans is None:
        loss, sums = accumulate_gradients(policy, rollouts, loss_of, rows=own, **options)
    else:
        clipped = {
            name: slice(max(own.start, span.start), max(own.start, span.start, min(own.stop, span.stop)))
            for name, span in spans.items()
        }
        loss, sums, report = accumulate_by_domain(policy, rollouts, clipped, loss_of, **options)
    first, *others = processes.gathered((loss, sums))
    whole = first[0] + sum(other[0] for other in others)
    for other in others:
        first[1].add(other[1])
    return whole, first[1], report


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))


@torch.no_grad()
def hidden_states(
    policy: Policy, rollouts: Rollouts, *, rows: slice | None = None, micro_batch_rows: int | None = None
) -> Tensor:
    """hidden_BTD of the trained positions of these rows [default: all], 0 elsewhere, without gradients: the form in
    which teachers are cached."""
    rows = slice(0, len(rollouts.prompt_BP)) if rows is None else rows

    def work(part: slice) -> list[Tensor]:
        with torch.inference_mode():
            return [
                _hidden(policy, rollouts, piece)
                for piece in _pieces(policy, rollouts, part, micro_batch_rows)
            ]

    if rows.start == rows.stop:  # more processes than prompts
        width = cast(Tensor, policy.head.weight).shape[1]
        return rollouts.logprob_BT.new_zeros(*rollouts.response_BT.shape, width)
    found = [hidden_ND for part in side_by_side(work, _parts(policy, rollouts, rows)) for hidden_ND in part]
    hidden_BTD = found[0].new_zeros(*rollouts.response_BT.shape, found[0].shape[-1])
    hidden_BTD[rows][rollouts.trained_BT[rows]] = torch.cat(found)
    return hidden_BTD


@dataclass
class _Total:
    """What one thread adds up."""

    gradients: list[Tensor | None]
    loss: Tensor | float = 0.0
    sums: Sums = field(default_factory=Sums)

    def add(self, loss: Tensor | float, sums: Sums, gradients: Sequence[Tensor | None]) -> None:
        self.loss = self.loss + loss
        self.sums.add(sums)
        for slot, gradient in enumerate(gradients):
            held = self.gradients[slot]
            if gradient is not None:
                self.gradients[slot] = gradient if held is None else held.add_(gradient)


def _add_piece(
    policy: Policy,
    rollouts: Rollouts,
    piece: slice,
    loss_of: LossOf,
    chunk: int,
    parameters: list[nn.Parameter],
    total: _Total,
) -> None:
    """Forward and backward of some rows: the body once, and in between the head and the loss chunk by chunk."""
    trained_N = rollouts.trained_BT[piece].flatten().nonzero().squeeze(1)
    if not len(trained_N):
        return
    index_N = trained_N + piece.start * rollouts.response_BT.shape[1]
    hidden_ND = _hidden(policy, rollouts, piece)
    body_ND = hidden_ND.detach().requires_grad_()
    upstream = []
    for some in range(0, len(index_N), chunk):
        part_ND = body_ND[some : some + chunk]
        loss, measured = loss_of(part_ND, index_N[some : some + chunk])
        into_part, *into_head = torch.autograd.grad(loss, [part_ND, *parameters], allow_unused=True)
        upstream.append(into_part)
        sums = measured if isinstance(measured, Sums) else Sums(whole=dict(measured))
        total.add(loss.detach(), sums, into_head)
    total.add(0.0, Sums(), torch.autograd.grad(hidden_ND, parameters, torch.cat(upstream), allow_unused=True))


def _hidden(policy: Policy, rollouts: Rollouts, piece: slice) -> Tensor:
    return policy.hidden_at(
        rollouts.prompt_BP[piece],
        rollouts.prompt_mask_BP[piece],
        rollouts.response_BT[piece],
        rollouts.trained_BT[piece],
        group=rollouts.group,
    )


def _parts(policy: Policy, rollouts: Rollouts, rows: slice) -> list[slice]:
    """Rows for each thread."""
    parts = parts_for(policy.device, policy.weight_bytes)
    return row_spans(rows.stop - rows.start, first=rows.start, group=rollouts.group, parts=parts)


def _pieces(policy: Policy, rollouts: Rollouts, part: slice, rows: int | None) -> list[slice]:
    """Rows whose activations are held together: `rows`, or as many as a fixed number of tokens allows."""
    if rows is None:
        width = rollouts.prompt_BP.shape[1] // rollouts.group + rollouts.response_BT.shape[1]
        rows = (CPU_PIECE if policy.device.type == "cpu" else PIECE) // width
    return row_spans(part.stop - part.start, first=part.start, group=rollouts.group, at_most=max(1, rows))
