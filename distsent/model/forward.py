"""How examples share the encoder: packed, or padded where it cannot run packed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from distsent.data.tokens.long_texts import WINDOWS
from distsent.errors import UserError
from distsent.job.job import Job
from distsent.model import batching_check
from distsent.model.classifier import token_limit, without_weights
from distsent.model.config import padding_token
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import EQUAL, SIMILAR, SINGLE, TOGETHER, PaddedForward
from distsent.model.tokenizer import padding_id
from distsent.operators import library
from distsent.operators.linear import onednn_is_faster, use_onednn

PACKED = "packed"
SLOWLY = {EQUAL: "examples of equal length together", SINGLE: "one example at a time"}


Forward = PackedForward | PaddedForward


def choose_forward(
    model: PreTrainedModel, tokenizer: Any, packed: str = "auto", windows: bool = False
) -> tuple[Forward, str | None]:
    """The forward for `packed` = "auto", "always" or "never", to score alone, and a log line."""
    ways = choose_ways(model, packed, training=False, windows=windows)
    if model.device.type == "cpu":
        library.use_on_cpu()
    return build_forward(model, tokenizer, packed, ways)


def choose_ways(
    model: PreTrainedModel, packed: str, training: bool, windows: bool = False
) -> tuple[str, str]:
    """How examples share the encoder: (in scoring, in training), the first way that is exact.

    Without `training` the second is not measured. `windows`: some texts have several. Raises
    UserError if packing is not exact, but `packed` = "always" or `windows` need it.
    """
    longest, small = token_limit(model), None
    with suppress(Exception), torch.random.fork_rng(devices=[]):  # as in the check itself
        small = batching_check.small_copy(model)

    def exact(build: Callable[[PreTrainedModel], Forward], train: bool) -> bool:
        return small is not None and batching_check.equals_alone(small, build, train, longest)

    if packed != "never":
        if exact(PackedForward, False) and (not training or exact(PackedForward, True)):
            return PACKED, PACKED
        if packed == "always":
            raise UserError(
                f"model.packed = 'always': {type(model).__name__} computes other scores in packed "
                'batches than alone; set model.packed to "auto" or "never"'
            )
    if windows:
        raise UserError(
            f'data.long = "windows": {type(model).__name__} cannot run packed, as windows must; '
            'set data.long to "cut" or "head_tail"'
        )
    scoring = next((way for way in (SIMILAR, EQUAL) if exact(_padded(way), False)), SINGLE)
    if not training or scoring == SINGLE:
        return scoring, SINGLE
    ways = (SIMILAR, EQUAL) if scoring == SIMILAR else (EQUAL,)
    return scoring, next((way for way in ways if exact(_padded(way), True)), SINGLE)


def check_windows(job: Job) -> None:
    """Raise UserError if a job's texts have windows, and its encoder cannot run packed.

    A look at the architecture answers before the dataset is read.
    """
    if job.data.long == WINDOWS and job.model.name != "demo":
        choose_ways(without_weights(job.model), job.model.packed, training=True, windows=True)


def _padded(way: str) -> Callable[[PreTrainedModel], Forward]:
    measured = TOGETHER if way == SIMILAR else way
    return lambda small: PaddedForward(small, padding_token(small.config) or 0, measured, measured)


def build_forward(
    model: PreTrainedModel, tokenizer: Any, packed: str, ways: Sequence[str]
) -> tuple[Forward, str | None]:
    """The forward that runs examples in these ways, and a log line if nobody asked for it."""
    scoring, training = ways
    if onednn_is_faster():
        use_onednn(model)
    if scoring == PACKED:
        return PackedForward(model), None
    forward = PaddedForward(model, padding_id(model.config, tokenizer), scoring, training)
    name = type(model).__name__
    if scoring == SIMILAR == training:
        note = f"{name} cannot run packed: texts of similar length share a call"
        return forward, note if packed == "auto" else None
    what = "dropout masks" if scoring == SIMILAR else "scores"
    would = "may" if scoring == SINGLE else "would"  # or the architecture takes no float64
    return forward, f"{name} trains on {SLOWLY[training]}: padding {would} change its {what}"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """float32 stays as it is; bf16 and fp16 compute in 16 bits where torch considers it safe."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
