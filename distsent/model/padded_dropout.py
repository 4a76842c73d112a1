"""Hashed dropout for encoders that run padded: the same masks in any batch, at any padding.

While it is active, `HashedDropout` replaces torch's dropout functions, so it also covers
architectures that call them without a module, and dropout inside torch's attention.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from distsent.operators import masks

Axis = int | None  # the axis that numbers the examples; None: all examples share the tensor


class HashedDropout(TorchFunctionMode):
    """Context manager for one forward pass over the examples with the keys `keys_n`.

    An element's mask is a hash of its example's key, the dropout's number, and the element's index
    along each other axis. Padding on the right moves none of these. `axes`: of each dropout, from
    `example_axes`; None for a single example. What all examples share has one mask per step.
    """

    def __init__(self, keys_n: Tensor, step_key: Tensor, axes: Sequence[Axis] | None) -> None:
        super().__init__()
        self._keys_n, self._step_key, self._axes, self._site = keys_n, step_key, axes, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in REPLACED:
            return REPLACED[func](self, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def again(self) -> AbstractContextManager[None]:
        """The context once more, with the number that the next dropout has now."""
        return self._at(self._site)

    @contextmanager
    def _at(self, site: int) -> Iterator[None]:
        now, self._site = self._site, site
        try:
            with self:
                yield
        finally:
            self._site = now

    def keep_mask(self, shape: torch.Size, rate: float) -> Tensor:
        """1 for kept elements, else 0: int16 [*shape]. Raises RuntimeError for an unknown shape."""
        self._site += 1
        example_axis, n = self._axis(shape), len(self._keys_n)
        keys = self._step_key.view(()) if example_axis is None else self._keys_n.new_zeros(())
        *outer, width = shape if example_axis != len(shape) - 1 else (*shape, 1)
        for axis, size in enumerate(outer):
            keys = masks.keys_per_index(keys, size if axis != example_axis else size // n, axis)
            if axis == example_axis:  # an axis of examples, or of each example's heads
                own = self._keys_n.unsqueeze(-1) ^ keys.unsqueeze(-2)
                keys = own.flatten(-2)
        return masks.keep_mask(keys, self._site, width, rate).reshape(shape)

    def _axis(self, shape: torch.Size) -> Axis:
        if self._axes is None:
            return 0
        axis = self._axes[self._site - 1] if self._site <= len(self._axes) else -1
        if axis is not None and (axis >= len(shape) or axis < 0 or shape[axis] % len(self._keys_n)):
            raise RuntimeError(
                f"dropout {self._site} of this architecture got a tensor {list(shape)} without "
                f"{len(self._keys_n)} examples on axis {axis}; set model.dropout=0"
            )
        return axis


class ShapeRecorder(HashedDropout):
    """Keeps everything, and notes the shapes of what would be dropped."""

    def __init__(self, key: Tensor) -> None:
        super().__init__(key, key, None)
        self.shapes: list[torch.Size] = []

    def keep_mask(self, shape: torch.Size, rate: float) -> Tensor:
        self.shapes.append(shape)
        return torch.ones(shape, dtype=torch.int16, device=self._keys_n.device)


@torch.no_grad()
def example_axes(model: Callable[..., Any], example: Mapping[str, Tensor]) -> tuple[Axis, ...]:
    """The axis of each dropout that numbers the examples: the one that grows with their number.

    `example`: the inputs [1, T] of one. Raises RuntimeError if more than one axis grows.
    """
    shapes = []
    for n in (2, 3):
        with ShapeRecorder(next(iter(example.values()))) as recorder:
            model(**{name: x.expand(n, -1) for name, x in example.items()})
        shapes.append(recorder.shapes)
    axes: list[Axis] = []
    for two, three in zip(*shapes, strict=True):
        growing = [axis for axis in range(len(two)) if two[axis] != three[axis]]
        if len(growing) > 1 or len(two) != len(three):
            raise RuntimeError(
                f"dropout of {list(two)} elements for 2 examples, {list(three)} for 3"
            )
        axes.append(growing[0] if growing else None)
    return tuple(axes)


def dropout(
    mode: HashedDropout, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`torch.nn.functional.dropout` with hashed masks."""
    if not training or p == 0:
        return input
    factor = mode.keep_mask(input.shape, p).to(input.dtype).mul_(masks.inverse_keep_prob(p))
    return input.mul_(factor) if inplace else input * factor


def attention(
    mode: HashedDropout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` with hashed masks: [..., L, D]."""
    if dropout_p == 0:
        options: Any = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # Not -inf: a row of padding that attends to nothing would be NaN, and spread.
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    probabilities = scores.softmax(-1).to(value.dtype)
    return dropout(mode, probabilities, dropout_p) @ value


REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.dropout: dropout,
    torch.dropout: dropout,
    F.scaled_dot_product_attention: attention,
}
