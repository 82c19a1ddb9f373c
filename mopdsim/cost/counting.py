"""FLOPs of the passes a stage makes. Conventions: a multiply-add is two FLOPs; a backward pass costs two
forward passes; attention is causal (half the square of the length); recomputation counts as work done, not as
model FLOPs.

LoRA skips the gradients of frozen weights: 4 N instead of 6 N a token. A log-probability, reference or
teacher pass is one forward pass. Leaves out: optimizer arithmetic, norms, rotary embeddings (each below 1%).
"""

from __future__ import annotations

from collections.abc import Sequence

from mopdsim.base.errors import UsageError
from mopdsim.facts.model import Model

METHODS = ("full", "lora")


def forward_flops(model: Model, lengths: Sequence[float]) -> float:
    """One forward pass over sequences of these lengths."""
    return sum(lengths) * model.forward_flops_per_token + model.attention_flops(lengths)


def training_flops(
    model: Model, lengths: Sequence[float], *, method: str = "full", recompute: bool = False
) -> float:
    """Forward and backward over sequences of these lengths; `recompute` adds the second forward pass."""
    if method not in METHODS:
        raise UsageError(f"training method is {method!r}; it must be one of {', '.join(METHODS)}.")
    products = sum(lengths) * model.forward_flops_per_token
    attention = model.attention_flops(lengths)
    passes = (2.0 if method == "lora" else 3.0) + float(recompute)
    return products * passes + attention * (3.0 + float(recompute))
