"""Do domains pull the weights the same way? Gradients per domain, their cosines, and what the update did to each.

Both are logged because they disagree: the cosine compares directions, the inner product g_d . dtheta is the first-order
change of domain d's loss by the optimiser's actual step (negative: it helps d).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from trainer.batch.rollout import Rollouts
from trainer.batch.update import LossOf, accumulate_gradients
from trainer.model.policy import Policy


class DomainGradients:
    """Gradients of one update, domain by domain. `accumulate` leaves their sum in param.grad."""

    def __init__(self, policy: Policy) -> None:
        self.parameters = list(policy.parameters())
        self.before = [parameter.detach().clone() for parameter in self.parameters]
        self.gradient: dict[str, list[Tensor]] = {}

    def accumulate(
        self,
        policy: Policy,
        rollouts: Rollouts,
        spans: Mapping[str, slice],
        loss_of: LossOf,
        **options: Any,
    ) -> tuple[float, dict[str, float]]:
        """As `trainer.batch.update.accumulate_gradients`, one domain's rows at a time."""
        width = rollouts.response_BT.shape[1]
        total, sums = 0.0, dict[str, float]()
        for domain, span in spans.items():
            held = [None if p.grad is None else p.grad.clone() for p in self.parameters]

            def own(
                read_NX: Tensor, index_N: Tensor, first: int = span.start * width
            ) -> tuple[Tensor, dict[str, Tensor]]:
                return loss_of(read_NX, index_N + first)

            loss, metrics = accumulate_gradients(policy, rollouts.rows(span), own, **options)
            self.gradient[domain] = [
                torch.zeros_like(p) if p.grad is None else p.grad - (h if h is not None else 0)
                for p, h in zip(self.parameters, held, strict=True)
            ]
            total += loss
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        return total, sums

    def report(self) -> dict[str, dict[str, float]]:
        """After the optimiser's step: gradient_cosine by "a|b"; gradient_norm, _share, update_inner by domain."""
        norm = {domain: _dot(g, g) ** 0.5 for domain, g in self.gradient.items()}
        whole = sum(norm.values()) or 1.0
        step = [p.detach() - b for p, b in zip(self.parameters, self.before, strict=True)]
        return {
            "gradient_cosine": {
                f"{a}|{b}": _dot(self.gradient[a], self.gradient[b]) / max(norm[a] * norm[b], 1e-30)
                for a, b in combinations(self.gradient, 2)
            },
            "gradient_norm": norm,
            "gradient_share": {domain: value / whole for domain, value in norm.items()},
            "update_inner": {domain: _dot(g, step) for domain, g in self.gradient.items()},
        }


def accumulate(
    policy: Policy,
    rollouts: Rollouts,
    spans: Mapping[str, slice],
    loss_of: LossOf,
    *,
    by_domain: bool,
    **options: Any,
) -> tuple[float, dict[str, float], Callable[[], dict[str, dict[str, float]]]]:
    """(loss, metrics, report): the gradient is added to param.grad; `report` says, after the step, how domains met.

    options: of `trainer.batch.update.accumulate_gradients`.
    """
    if not by_domain:
        return *accumulate_gradients(policy, rollouts, loss_of, **options), dict
    gradients = DomainGradients(policy)
    return *gradients.accumulate(policy, rollouts, spans, loss_of, **options), gradients.report


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))
