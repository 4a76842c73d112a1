"""Triton's kernels, interpreted on a CPU, against torch: a JSON line per case. Here: attention.

TRITON_INTERPRET=1 python -m tests.interpreted_kernels [--all | CASE ...]

Without TRITON_INTERPRET the kernels run on a GPU. Ends with 1 if a case is not within its
tolerance. `--all`, with combinations of lengths, head width and dtype, takes ten minutes.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import pack
from distsent.model.attention import attend
from distsent.model.dropout import DropoutContext
from distsent.operators import fused_attention, library, masks
from distsent.operators.fused_attention import Call, FusedAttention
from distsent.operators.softmax_dropout import UNLIMITED
from tests import interpreted_passes, interpreted_rows

SITE, SCALE, HEADS = 5, 0.3, 2
# Largest error over the largest value: roundings of the dtype, a few times.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Case:
    lengths: tuple[int, ...]
    D: int
    dtype: torch.dtype = torch.float32
    rate: float = 0.1
    cls_only: bool = False
    before: int = UNLIMITED
    after: int = UNLIMITED


RAGGED = 3, 70, 1, 33
CASES = {
    "one token": Case((1,), 32),
    "one token of each example": Case((1, 1, 1), 64),
    "ragged": Case(RAGGED, 64),
    "ragged, without dropout": Case(RAGGED, 64, rate=0.0),
    "ragged, most dropped": Case(RAGGED, 64, rate=0.9),
    "ragged, bf16": Case(RAGGED, 64, torch.bfloat16),
    "ragged, fp16": Case(RAGGED, 64, torch.float16),
    "width 32": Case((64, 65), 32),
    "width 48, bf16": Case((31, 9), 48, torch.bfloat16),
    "width 80": Case((31, 9), 80),
    "width 96, fp16": Case((31, 9), 96, torch.float16),
    "width 128": Case((31, 9), 128),
    "first tokens": Case(RAGGED, 64, cls_only=True),
    "first tokens, bf16": Case(RAGGED, 80, torch.bfloat16, cls_only=True),
    "first token of one token": Case((1,), 32, cls_only=True),
    "causal": Case(RAGGED, 32, after=0),
    "causal, bf16": Case(RAGGED, 64, torch.bfloat16, after=0),
    "window": Case((150, 20), 32, before=9, after=3),
    "window of the token itself": Case((40,), 32, before=0, after=0),
    "long": Case((512,), 64, torch.float16),
    "long, window": Case((300,), 32, torch.bfloat16, before=64, after=64),
    "reference's filler tokens": Case((5, 9), 32),
}
FILLER = {"reference's filler tokens": 3}
DTYPES = torch.float32, torch.bfloat16, torch.float16
ALL_LENGTHS = (1,), (2, 15, 16, 17), (31, 1, 33, 64, 65), (127, 200), (512,), (1,) * 40
ALL_CASES = CASES | {
    f"{dtype} {D} {lengths} {kind}": Case(lengths, D, dtype, **options)
    for dtype in DTYPES
    for D in (32, 40, 64, 80, 96, 128)
    for lengths in ALL_LENGTHS
    for kind, options in {"": {}, "cls": {"cls_only": True}, "window": {"before": 9}}.items()
}
MASKS, ALL_MASKS = ((70, 0.1), (30, 0.5)), ((300, 0.1), (30, 0.01), (30, 0.99))  # length, rate


def reference(q: Tensor, k: Tensor, v: Tensor, keys_T: Tensor, case: Case) -> Tensor:
    """In float64, example by example. Masks are those of `masks.keep_mask`."""
    out, start, H = torch.zeros_like(q), 0, q.shape[1]
    heads = masks.keys_per_head(keys_T, H).view(-1, H)
    for i, L in enumerate(case.lengths):
        keys = slice(start, start + L)
        queries = slice(i, i + 1) if case.cls_only else keys
        s = torch.einsum("qhd,khd->hqk", q[queries], k[keys]) * SCALE
        a, b = torch.arange(s.shape[1])[:, None], torch.arange(L)
        s = s.masked_fill((b < a - case.before) | (b > a + case.after), -torch.inf)
        kept = masks.keep_mask(heads[keys][: s.shape[1]], SITE, L, case.rate).transpose(0, 1)
        p = s.softmax(-1) * kept * masks.inverse_keep_prob(case.rate)
        out[queries] = torch.einsum("hqk,khd->qhd", p, v[keys])
        start += L
    return out


def inputs(case: Case, filler: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """q, k and v; the gradient of the output; the dropout keys of the tokens."""
    lengths = np.array(case.lengths)
    keys_T = dropout_keys(3, 4, np.arange(len(lengths)), lengths)
    keys_T = torch.cat([keys_T, keys_T[:1].expand(filler)])
    R = len(lengths) if case.cls_only else len(keys_T)
    torch.manual_seed(0)
    qkv = [torch.randn(n, HEADS, case.D).to(case.dtype) for n in (R, len(keys_T), len(keys_T))]
    return qkv, torch.randn(R, HEADS, case.D).to(case.dtype), keys_T


def call_of(case: Case, keys_T: Tensor) -> Call:
    dropout = (keys_T, SITE, case.rate) if case.rate else None
    return Call(case.lengths, case.cls_only, SCALE, dropout, case.before, case.after)


def errors(
    case: Case, filler: int = 0, device: str = "cpu", operator: Any = FusedAttention
) -> dict[str, float]:
    """Largest errors of the output and the gradients, over the largest values."""
    qkv, dout, keys_T = inputs(case, filler)
    ours = [x.to(device, copy=True).requires_grad_() for x in qkv]
    out = operator.apply(*ours, call_of(case, keys_T.to(device)))
    out.backward(dout.to(device))
    theirs = [x.double().requires_grad_() for x in qkv]
    right = reference(*theirs, keys_T, case)
    right.backward(dout.double())
    found = dict(zip("qkv", zip(ours, theirs, strict=True), strict=True))
    pairs = {"out": (out, right)} | {f"d{x}": (a.grad, b.grad) for x, (a, b) in found.items()}
    return {name: relative_error(a.cpu(), b) for name, (a, b) in pairs.items()}


def relative_error(found: Tensor, right: Tensor) -> float:
    """NaN stays NaN, which no tolerance allows. Nearly zero gradients count from 1."""
    return float(
        (found.detach().double() - right.detach()).abs().max()
        / right.detach().abs().max().clamp(min=1.0)
    )


def wrong_masks(
    length: int, rate: float, device: str = "cpu", operator: Any = FusedAttention
) -> dict[str, float]:
    """Elements on which the kernels and `masks.keep_mask` do not agree, forward and backward.

    All probabilities are equal, and a value or a gradient is 1 at one token only: so each element
    of the output tells whether its query keeps that token.
    """
    D, wrong = 128, {"out": 0.0, "dv": 0.0}
    keys_T = dropout_keys(7, 8, np.array([2**40 + 1]), np.array([length]))
    heads = masks.keys_per_head(keys_T, HEADS).view(-1, HEADS)
    kept = masks.keep_mask(heads, SITE, length, rate).bool().transpose(1, 2)  # [q, k, head]
    call = Call((length,), False, SCALE, (keys_T.to(device), SITE, rate))
    for first in range(0, length, D):
        token = torch.arange(length)[:, None] == first + torch.arange(D)
        one = token[:, None].expand(-1, HEADS, -1).float().to(device)
        zero, v = torch.zeros_like(one), one.clone().requires_grad_()
        out = operator.apply(zero, zero, v, call)
        out.backward(one)
        part = kept[:, first : first + D].transpose(1, 2)
        wrong["out"] += int(((out > 0).cpu()[..., : part.shape[2]] != part).sum())
        part = kept[first : first + D].permute(1, 2, 0)
        wrong["dv"] += int(((v.grad > 0).cpu()[..., : part.shape[2]] != part).sum())
    return wrong


def attend_errors(cls_only: bool, device: str = "cpu", compiled: bool = False) -> dict[str, float]:
    """`attend` with the operators against `attend` without them: the arguments must arrive."""
    lengths, found = np.array([7, 1, 12]), []
    batch = pack(
        [np.zeros(n, dtype=int) for n in lengths],
        np.zeros(3),
        keys_T=dropout_keys(3, 4, np.arange(3), lengths),
        device=device,
    )
    context = DropoutContext()
    context.start_pass(batch.keys_T, batch.cls_index_n)
    T = len(batch.ids_T)
    qkv, dout, _ = inputs(Case((3 if cls_only else T, T), 32), 0)
    R = 3 if cls_only else T
    for supported in (False, True):
        if compiled:
            library.use(library.version() if supported else library.REFERENCE)
        else:
            fused_attention.supports = lambda q, answer=supported: answer
        context.start_pass(batch.keys_T, batch.cls_index_n)
        context.next_site()
        x = [
            y[:n].to(device, copy=True).requires_grad_()
            for y, n in zip(qkv, (R, T, T), strict=True)
        ]
        out = attend(x, batch, context, SCALE, 0.3)
        out.backward(dout[:R].to(device))
        with torch.no_grad():
            scored = attend(x, batch, context, SCALE, 0.0)
        found.append([out, *(y.grad for y in x), scored])
    names = "out", "dq", "dk", "dv", "scored"
    return {n: relative_error(b, a) for n, a, b in zip(names, *found, strict=True)}


def teach_bf16() -> None:
    """Triton's interpreter keeps bf16 as integers, multiplies those, and cuts bits off."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    dot, cast = builder.create_dot, builder.cast_impl

    def wide(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return handle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(self, wide(a), wide(b), *others)

    def cast_impl(self: Any, x: Any, to: Any) -> Any:
        if (x.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, x, to)
        rounded = torch.from_numpy(np.ascontiguousarray(x.data)).bfloat16().view(torch.int16)
        return handle(rounded.numpy().view(np.uint16), tl.bfloat16)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    builder.create_fp_trunc = cast_impl


def run(
    names: Iterable[str], masks: Iterable[tuple[int, float]], device: str
) -> Iterator[tuple[str, dict[str, float], float]]:
    """(name, errors, tolerance) of each case."""
    for name in names:
        case = ALL_CASES[name]
        yield name, errors(case, FILLER.get(name, 0), device), TOLERANCE[case.dtype]
    for cls_only in (False, True):
        yield (
            f"attend {cls_only}",
            attend_errors(cls_only, device),
            TOLERANCE[torch.float32],
        )
    for length, rate in masks:
        yield f"masks {length} {rate}", wrong_masks(length, rate, device), 0.0
    yield from interpreted_rows.run(device)
    if device == "cpu":
        yield "recorded passes", interpreted_passes.errors("bf16"), 0.0


def main() -> int:
    wrong, device = 0, "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    if device == "cpu":
        teach_bf16()
    if "--all" in sys.argv:
        found = run(ALL_CASES, (*MASKS, *ALL_MASKS), device)
    else:
        found = run(sys.argv[1:] or CASES, MASKS, device)
    for name, off, tolerance in found:
        within = all(error <= tolerance for error in off.values())
        wrong += not within
        print(json.dumps([name, off, within]), flush=True)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
