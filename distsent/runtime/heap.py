"""Memory that was freed goes back to the system, also where it lies between blocks in use.

glibc's malloc keeps it for later: tensors that live until backward lie between gaps that larger
ones do not fit into. Without this, a step of a decoder of 28 layers takes half as much again.
"""

import ctypes
import gc
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from distsent.model.recompute import repeated_layers

LAYERS = 7  # after so many, in training: all models of fewer layers run as they are


def trim_heap() -> None:
    """Takes milliseconds; later blocks are new pages again. Other C libraries keep what they do."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free_models() -> None:
    """Free models that nothing uses any more. They refer to themselves, so that they would stay.

    Takes a fraction of a second, in which the collector looks at all objects: not for a step.
    """
    gc.collect()
    trim_heap()
    torch.cuda.empty_cache()


def trim_between_layers(model: nn.Module) -> None:
    """Let forward passes in training give back the gaps of every few layers."""
    for layer in repeated_layers(model)[LAYERS - 1 :: LAYERS]:
        layer.register_forward_hook(_trim)


def _trim(*_: Any) -> None:
    if torch.is_grad_enabled():
        trim_heap()
