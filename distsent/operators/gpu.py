"""Triton's kernels: whether they run here, and how they are launched.

The files of kernels, `*_kernels.py`, need Triton and are imported at the first launch. Without a
GPU the tests interpret them on CPUs, and compile them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from distsent.operators import library

DTYPES = torch.float32, torch.bfloat16, torch.float16


def runs(x: Tensor) -> bool:
    """Whether x goes to a kernel, not to a reference."""
    return x.is_cuda and x.dtype in DTYPES and library.used() != library.REFERENCE


def version(gpu: torch.device) -> str:
    """What the bits of a training depend on: Triton's version. Raises library.Unavailable."""
    if torch.version.hip:
        raise library.Unavailable("its Triton kernels were not compiled for AMD's GPUs")
    if torch.cuda.get_device_capability(gpu) < (8, 0):
        raise library.Unavailable("its Triton kernels need compute capability 8.0")
    if find_spec("triton") is None:
        raise library.Unavailable("Triton is not installed")
    import triton

    try:
        from triton.runtime.driver import driver

        # Triton compiles a part of itself at its first use, with a C compiler and Python.h.
        _ = driver.active.utils
    except Exception as error:  # of many kinds
        what = (str(error).splitlines() or [""])[0][:120]
        raise library.Unavailable(
            f"Triton does not start: {type(error).__name__}: {what}"
        ) from error
    return f"triton {triton.__version__}"


def launch(kernel: str, grid: tuple[int, int], *arguments: Any, **options: Any) -> None:
    """`kernel`: "attention.forward" is in attention_kernels.py."""
    file, name = kernel.split(".")
    getattr(import_module(f"{__package__}.{file}_kernels"), name)[grid](*arguments, **options)


def padded(columns: int) -> int:
    """Tiles have a power of two of columns, at least 16."""
    return max(16, 1 << (columns - 1).bit_length())
