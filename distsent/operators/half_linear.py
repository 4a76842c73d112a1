"""Linear layers under autocast that read a kept 16-bit copy of their weights.

autocast converts each weight to 16 bits in every forward pass and each gradient back to float32:
four conversions for each linear layer, and two additions. Here forward reads the copy and backward
writes gradients of 16 bits, in one buffer for all layers. An input that several layers read is
converted once. The numbers are autocast's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distsent.operators.linear import OneDNNLinear

PLAIN = nn.Linear.forward, OneDNNLinear.forward


@dataclass(frozen=True)
class HalfParameter:
    """Of one parameter: views of the 16-bit copy, and of the buffer of 16-bit gradients."""

    value: Tensor
    grad: Tensor


@dataclass
class Copies:
    """What the layers of a model share. They read the copies while these are `fresh`.

    `written`: parameters whose gradient of this backward pass is in the buffer.
    """

    of: dict[nn.Parameter, HalfParameter] = field(default_factory=dict)
    fresh: bool = False
    written: set[nn.Parameter] = field(default_factory=set)
    # The last input, its version, and it in 16 bits. A strong reference would keep its graph alive,
    # with which a GPU refuses to record the next pass.
    _last: tuple[weakref.ref[Tensor], int, Tensor] | None = None

    def convert(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` in 16 bits, without a graph: once for queries, keys and values.

        The version tells whether `x` was changed in place.
        """
        if self._last is None or self._last[0]() is not x or self._last[1] != x._version:
            self._last = weakref.ref(x), x._version, x.detach().to(dtype)
        return self._last[2]

    def forget(self) -> None:
        """Keep no input of a layer in memory."""
        self._last = None

    def add(self, p: nn.Parameter, compute: Callable[..., Tensor]) -> None:
        """A gradient. `compute` can write where `out` says; weights may have several uses."""
        grad = self.of[p].grad
        if p in self.written:
            grad.add_(compute())
        else:
            compute(out=grad)
            self.written.add(p)


def use_copies(model: nn.Module, of: dict[nn.Parameter, HalfParameter]) -> Copies:
    """Let the model's linear layers read those of their parameters, if there are all of a layer."""
    copies = Copies()
    for module in model.modules():
        if type(module).forward in PLAIN and "forward" not in vars(module):
            own: list[Any] = [p for p in (module.weight, module.bias) if p is not None]
            if all(p in of for p in own):
                copies.of |= {p: of[p] for p in own}
                forward: Any = partial(_forward, copies, module, module.forward)
                module.forward = forward
    return copies


def is_linear(layer: nn.Module) -> bool:
    """Whether a product and a bias are all that the layer computes, perhaps from the copy."""
    own = vars(layer).get("forward")  # another one than the class's
    return type(layer).forward in PLAIN and (own is None or reads_copy(own))


def reads_copy(forward: Any) -> bool:
    return getattr(forward, "func", None) is _forward


def without_bias(layer: Any, x: Tensor) -> Tensor:
    """The product of a layer that `is_linear`: the caller adds its bias."""
    read = reads_copy(layer.forward)
    out: Tensor = layer.forward(x, biased=False) if read else F.linear(x, layer.weight)
    return out


def _forward(
    copies: Copies, module: Any, plain: Callable[[Tensor], Tensor], x: Tensor, biased: bool = True
) -> Tensor:
    kind, dtype = x.device.type, copies.of[module.weight].value.dtype
    casts = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == dtype
    if not (copies.fresh and casts and x.dtype in (torch.float32, dtype)):
        return plain(x) if biased else F.linear(x, module.weight)
    bias = module.bias if biased else None
    out: Tensor = HalfProduct.apply(x, copies.convert(x, dtype), module.weight, bias, copies)
    return out


class HalfProduct(torch.autograd.Function):
    """x [..., K], weight [N, K], bias [N] or None -> [..., N], in 16 bits.

    `converted`: x in 16 bits. The gradient of x has the type of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        converted: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        copies: Copies,
    ) -> Tensor:
        ctx.save_for_backward(converted)
        ctx.parameters, ctx.copies, ctx.dtype = (weight, bias), copies, x.dtype
        added = None if bias is None else copies.of[bias].value
        return F.linear(converted, copies.of[weight].value, added)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradients of weight and bias are in the buffer: autograd gets none to add."""
        (dy,), (x,), (weight, bias), copies = grads, ctx.saved_tensors, ctx.parameters, ctx.copies
        dy_nN = dy.reshape(-1, dy.shape[-1])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy_nN @ copies.of[weight].value).view(x.shape).to(ctx.dtype)
        copies.add(weight, partial(torch.mm, dy_nN.t(), x.reshape(-1, x.shape[-1])))
        if bias is not None:
            copies.add(bias, partial(torch.sum, dy_nN, 0))
        return dx, None, None, None, None
