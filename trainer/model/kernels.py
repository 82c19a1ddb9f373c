"""Building blocks of the lean forward: linear maps, norm, gated activation, rotation, moving rows to places.

Each has two forms with the same values: plain PyTorch operations (any device, any autocast), and for float32 on
a CPU a form that saves passes over memory and multiplies matrices with oneDNN, which uses AVX-512 where MKL does
not (200 against 90 GFLOP/s a core on an AMD Zen 5). On Intel's MKL would be ahead, by half in gradients of weights: a
step of the tiny models 8 to 14% cheaper, for other last digits than those of all runs so far. The choice depends on
shapes and types only, so results are reproducible. Under bfloat16 autocast, weights are rounded once for each value
they take (`Copies`), and products of few rows read them in oneDNN's own layout (`packed`). Leaves out: the model
(`trainer.model.lean`).

Axes: N tokens, I and O widths, H heads, E width of one head, Z = E / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

ONEDNN = torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
ONEDNN_PRODUCTS = 1 << 20  # multiply-adds below which oneDNN's start-up costs more than it saves
FEW_ROWS = 256  # up to so many rows a product is bound by reading its weight


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _pays(products: int) -> bool:
    return ONEDNN and products >= ONEDNN_PRODUCTS


def matmul_nt(a_NI: Tensor, b_OI: Tensor) -> Tensor:
    """a @ b.T for float32 matrices on a CPU; b may be a transposed view, a then costs a copy."""
    if _pays(a_NI.numel() * b_OI.shape[0]):
        return torch.ops.mkldnn._linear_pointwise(a_NI, b_OI, None, "none", [], "")
    return a_NI @ b_OI.t()


def _weight_gradient(grad_NO: Tensor, x_NI: Tensor) -> Tensor:
    """grad.T @ x; the narrower operand is the one that gets copied."""
    if not _pays(x_NI.numel() * grad_NO.shape[1] // 2):
        return grad_NO.t() @ x_NI
    if grad_NO.shape[1] <= x_NI.shape[1]:
        return matmul_nt(grad_NO.t(), x_NI.t())
    return matmul_nt(x_NI.t(), grad_NO.t()).t().contiguous()


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, *weights_OI: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_NI, *weights_OI)
        return tuple(matmul_nt(x_NI, weight_OI) for weight_OI in weights_OI)

    @staticmethod
    def backward(ctx: Any, *grads_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, *weights_OI = ctx.saved_tensors
        pairs = list(zip(grads_NO, weights_OI, ctx.needs_input_grad[1:], strict=True))
        into_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for grad_NO, weight_OI, _ in pairs:
                part_NI = matmul_nt(grad_NO, weight_OI.t())
                into_x = part_NI if into_x is None else into_x.add_(part_NI)
        return into_x, *(_weight_gradient(grad_NO, x_NI) if needed else None for grad_NO, _, needed in pairs)


def linears(x_NI: Tensor, *weights_OI: Tensor) -> tuple[Tensor, ...]:
    """x @ weight.T for each of several weights."""
    if _on_cpu(x_NI):
        if not torch.is_grad_enabled():
            return tuple(matmul_nt(x_NI, weight_OI) for weight_OI in weights_OI)
        return _Linears.apply(x_NI, *weights_OI)
    return tuple(F.linear(x_NI, weight_OI) for weight_OI in weights_OI)


class _Rounded(torch.autograd.Function):
    """A weight's bfloat16 copy in its place; the gradient goes to the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None


def _count_changes(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Fused optimisers change weights without counting it; here it is counted for all."""
    changed = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.autograd.graph.increment_version(changed)


register_optimizer_step_post_hook(_count_changes)


class Copies:
    """What is worked out from weights, made anew once a weight has changed in place (PyTorch counts such changes)."""

    def __init__(self) -> None:
        self._held: dict[Any, tuple[tuple[Tensor, ...], tuple[int, ...], Any]] = {}

    def get(self, name: Any, weights: tuple[Tensor, ...], make: Callable[[], Any]) -> Any:
        """`make()`, or what it gave when these weights had these values."""
        versions = tuple(weight._version for weight in weights)
        before = self._held.get(name)
        same = before is not None and len(before[0]) == len(weights)
        if same and before is not None and before[1] == versions and all(map(is_, before[0], weights)):
            return before[2]
        # Sampling, in inference mode, may be the first to want what training reads too.
        with torch.inference_mode(False), torch.no_grad():
            made = make()
        self._held[name] = (weights, versions, made)
        return made

    def rounded(self, weight: Tensor) -> Tensor:
        """The weight in bfloat16; differentiable."""
        if weight.dtype == torch.bfloat16:
            return weight
        copy = self.get(id(weight), (weight,), lambda: weight.detach().to(torch.bfloat16))
        wanted = weight.requires_grad and torch.is_grad_enabled()
        return _Rounded.apply(weight, copy) if wanted else copy


def packed(weight_OI: Tensor) -> Tensor:
    """A weight for `product`: in bfloat16 in the layout with which oneDNN multiplies few rows fastest."""
    if weight_OI.device.type != "cpu" or weight_OI.dtype != torch.bfloat16 or not ONEDNN:
        return weight_OI
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), FEW_ROWS)


def product(x_NI: Tensor, packed_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias without gradient, the weight as `packed` gives it."""
    if packed_OI.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x_NI.bfloat16(), packed_OI, bias_O, "none", [], "")
    out_NO = matmul_nt(x_NI, packed_OI) if _on_cpu(x_NI) else F.linear(x_NI, packed_OI)
    return out_NO if bias_O is None else out_NO + bias_O


class _RMSNorm(torch.autograd.Function):
    """y = w x / r with r = sqrt(mean x^2 + eps); dx = (wg - y' mean(wg y')) / r with y' = x / r."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        inverse_N1 = (
            torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
            .square_()
            .div_(x_ND.shape[-1])
            .add_(eps)
            .rsqrt_()
        )
        normed_ND = x_ND * inverse_N1
        ctx.save_for_backward(normed_ND, inverse_N1, weight_D)
        return normed_ND * weight_D

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, None]:
        normed_ND, inverse_N1, weight_D = ctx.saved_tensors
        product_ND = grad_ND * normed_ND
        shared_dims = list(range(product_ND.dim() - weight_D.dim()))
        into_weight = product_ND.sum(shared_dims)
        mean_N1 = product_ND.mul_(weight_D).mean(-1, keepdim=True)
        into_x = (grad_ND * weight_D).addcmul_(normed_ND, mean_N1, value=-1).mul_(inverse_N1)
        return into_x, into_weight, None


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Normalise the last axis; the weight may have more axes (one row per head)."""
    if x_ND.device.type == "cpu" and x_ND.dtype == torch.float32:
        return _RMSNorm.apply(x_ND, weight_D, eps)
    return F.rms_norm(x_ND.float(), weight_D.shape[-1:], eps=eps) * weight_D


class _Gated(torch.autograd.Function):
    """silu(gate) * up, without keeping silu(gate)."""

    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        return F.silu(gate_NF).mul_(up_NF)

    @staticmethod
    def backward(ctx: Any, grad_NF: Tensor) -> tuple[Tensor, Tensor]:
        gate_NF, up_NF = ctx.saved_tensors
        into_up = F.silu(gate_NF).mul_(grad_NF)
        return torch.ops.aten.silu_backward(grad_NF * up_NF, gate_NF), into_up


def gated(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """silu(gate) * up (SwiGLU)."""
    by_hand = gate_NF.device.type == "cpu" and gate_NF.dtype == up_NF.dtype
    return _Gated.apply(gate_NF, up_NF) if by_hand else F.silu(gate_NF) * up_NF


class _Rotate(torch.autograd.Function):
    """Product with complex numbers of modulus about 1; the gradient's is with their conjugates."""

    @staticmethod
    def forward(ctx: Any, x_NHE: Tensor, turn_NHZ: Tensor) -> Tensor:
        ctx.save_for_backward(turn_NHZ)
        return _turned(x_NHE, turn_NHZ)

    @staticmethod
    def backward(ctx: Any, grad_NHE: Tensor) -> tuple[Tensor, None]:
        (turn_NHZ,) = ctx.saved_tensors
        return _turned(grad_NHE.contiguous(), turn_NHZ.conj()), None


def _turned(x_NHE: Tensor, turn_NHZ: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(x_NHE.unflatten(-1, (-1, 2))) * turn_NHZ).flatten(-2)


def rotate(x_NHE: Tensor, turn_NHZ: Tensor) -> Tensor:
    """Rotary position embedding of heads whose two halves are interleaved: Z = E / 2 pairs, one turn each.

    Interleaving queries and keys alike leaves their products as they were; `interleaved` does it to weights.
    """
    return _Rotate.apply(x_NHE.float(), turn_NHZ)


def interleaved(weight_O: Tensor, width: int) -> Tensor:
    """Rows of each head's two halves in turn, for heads of `width` rows."""
    return weight_O.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).reshape(weight_O.shape)


class _Gather(torch.autograd.Function):
    """x[source]; row n of x counts at place slot[n] only, so its gradient is a gather too."""

    @staticmethod
    def forward(ctx: Any, x_NE: Tensor, source_M: Tensor, slot_N: Tensor) -> Tensor:
        ctx.save_for_backward(slot_N)
        return x_NE.index_select(0, source_M)

    @staticmethod
    def backward(ctx: Any, grad_ME: Tensor) -> tuple[Tensor, None, None]:
        return grad_ME.index_select(0, *ctx.saved_tensors), None, None


class _GatherBack(torch.autograd.Function):
    """The transpose of `_Gather`: x[slot], with no gradient in places that hold padding."""

    @staticmethod
    def forward(
        ctx: Any, x_ME: Tensor, source_M: Tensor, slot_N: Tensor, present_M1: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(source_M, present_M1)
        return x_ME.index_select(0, slot_N)

    @staticmethod
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor, None, None, None]:
        source_M, present_M1 = ctx.saved_tensors
        grad_ME = grad_NE.index_select(0, source_M)
        return grad_ME if present_M1 is None else grad_ME.mul_(present_M1), None, None, None


@dataclass(frozen=True)
class Places:
    """Where N packed rows go among M places, some of which are padding."""

    slot_N: Tensor  # the place of each row
    source_M: Tensor  # the row at each place (0 in padding)
    present_M1: Tensor | None  # float, 0 in padding; None without padding

    @classmethod
    def of(cls, slot_N: Tensor, places: int) -> Places:
        source_M = slot_N.new_zeros(places).scatter_(
            0, slot_N, torch.arange(len(slot_N), device=slot_N.device)
        )
        if len(slot_N) == places:
            return cls(slot_N, source_M, None)
        present_M = torch.zeros(places, device=slot_N.device).scatter_(0, slot_N, 1.0)
        return cls(slot_N, source_M, present_M[:, None])

    def spread(self, x_NE: Tensor) -> Tensor:
        """(N, E) to (M, E); padding holds copies of row 0 that receive no gradient."""
        return _Gather.apply(x_NE, self.source_M, self.slot_N)

    def collect(self, x_ME: Tensor) -> Tensor:
        """(M, E) back to (N, E)."""
        return _GatherBack.apply(x_ME, self.source_M, self.slot_N, self.present_M1)
