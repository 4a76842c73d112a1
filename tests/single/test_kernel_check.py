"""A GPU's kernels that compute something else than torch are not used. Here Python stands in."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distsent.model import kernel_check
from distsent.model.forward import build_forward
from distsent.model.kernel_check import check_kernels
from distsent.operators import bias_gelu, dropout, fused_attention, gpu, library, residual_norm
from tests import architectures

VERSION = "a kernel in Python"


def right(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    return dropout.reference(x, dropped)


def drops_others(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    return dropout.reference(x, dropout.Dropped(dropped.keys_R, dropped.site + 9, dropped.rate))


def drops_others_backward(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    return (drops_others if torch._C._current_graph_task_id() >= 0 else right)(x, dropped)


def fails(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    raise RuntimeError("no kernel image is available\nfor execution on the device")


def overflows(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    return right(x, dropped) * float("nan")


def as_rounded(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    """Off by 1 % in 16 bits, exact in float32."""
    return right(x, dropped) * (1.01 if x.dtype == torch.bfloat16 else 1.0)


def off_in_float32(x: torch.Tensor, dropped: dropout.Dropped) -> torch.Tensor:
    return right(x, dropped) * 1.01


@pytest.fixture
def replace_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def replace(kernel: Callable[..., torch.Tensor]) -> None:
        monkeypatch.setattr(gpu, "runs", lambda _: library.used() == VERSION)
        monkeypatch.setattr(fused_attention, "supports", lambda _: False)
        for others in (residual_norm, bias_gelu):
            monkeypatch.setattr(others, "supports", lambda *_: False)
        monkeypatch.setattr(dropout, "_dropout", kernel)

    return replace


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (right, None),
        (drops_others, "on this GPU the logits of a trial step in float32 are .* from torch's"),
        (drops_others_backward, "on this GPU the gradients of a trial step in float32 are"),
        (overflows, "on this GPU the logits of a trial step in float32 are nan"),
        (fails, "its kernels fail on this GPU: RuntimeError: no kernel image is available"),
    ],
)
def test_a_kernel_must_compute_what_torch_does(
    kernel: Callable[..., torch.Tensor],
    message: str | None,
    replace_kernels: Callable[..., None],
) -> None:
    replace_kernels(kernel)
    model = architectures.model("bert").eval()
    forward, _ = build_forward(model, None, "auto", ("packed", "packed"))
    if message is None:
        check_kernels(forward, "float32", VERSION)
    else:
        with pytest.raises(library.Unavailable, match=message):
            check_kernels(forward, "float32", VERSION)
    assert library.used() == library.REFERENCE and not model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("kernel", "rounding", "message"),
    [
        (as_rounded, 0.05, None),
        (as_rounded, 0.001, "of a trial step in bf16 are .* from torch's, allowed 0.02"),
        (off_in_float32, 0.05, "of a trial step in float32 are .* from torch's, allowed 0.001"),
        (overflows, 0.05, "the logits of a trial step in bf16 are nan"),
    ],
)
def test_a_model_that_rounding_moves_far_may_differ_as_far_in_16_bits(
    kernel: Callable[..., torch.Tensor],
    rounding: float,
    message: str | None,
    replace_kernels: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_kernels(kernel)
    real = kernel_check.trial_step

    def moved(forward: Any, ids: Any, precision: str) -> Any:
        logits, grads = real(forward, ids, precision)
        far = 1 + rounding * (precision == "bf16")
        return logits * far, [grad * far for grad in grads]

    monkeypatch.setattr(kernel_check, "trial_step", moved)
    forward, _ = build_forward(architectures.model("bert"), None, "auto", ("packed", "packed"))
    if message is None:
        check_kernels(forward, "bf16", VERSION)
    else:
        with pytest.raises(library.Unavailable, match=message):
            check_kernels(forward, "bf16", VERSION)
