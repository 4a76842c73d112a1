"""Compile Triton's kernels for GPUs, without one, and print what each needs: JSON lines.

python -m tests.compiled_kernels [--all]
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distsent.operators import attention_kernels as kernels
from distsent.operators import (
    bias_gelu,
    dropout,
    fused_attention,
    gelu_kernels,
    residual_norm,
    row_kernels,
    row_sums,
)
from distsent.operators.dropout import Dropped
from distsent.operators.fused_attention import Call

TARGETS = 80, 90, 100
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
TYPES = {
    "lse_HR": "*fp32", "delta_HR": "*fp32", "blocks": "*i32", "keys_T": "*i64",
    "head_hashes_H": "*i64", "column_hashes": "*i64", "R": "i32", "scale": "fp32",
    "base_2_scale": "fp32", "inverse_keep_prob": "fp32", "threshold": "i32", "before": "i32",
    "after": "i32", "keys_R": "*i64", "P": "i32", "eps": "fp32",
    **dict.fromkeys(
        (
            "residual_RW", "weight_W", "bias_W", "sums_RW", "normed_RW", "statistics_2R",
            "dout_RW", "dresidual_RW", "parts_P2W", "parts_PW", "out_W",
        ), "*fp32"
    ),
}  # fmt: skip
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
Variant = tuple[str, torch.dtype, int, bool, bool]  # kernel, dtype, D, cls_only, window


def variants(all_of_them: bool) -> Iterator[Variant]:
    bf16 = torch.bfloat16
    for name in ("forward", "gradient_of_queries", "gradient_of_keys"):
        yield name, bf16, 64, False, True
        yield from ((name, dtype, 128, False, False) for dtype in (bf16, torch.float32))
        if all_of_them:
            yield from ((name, dtype, D, False, False) for dtype in NAMES for D in (32, 64, 80))
            yield from ((name, dtype, 128, False, True) for dtype in NAMES)
            yield from ((name, dtype, 64, True, False) for dtype in NAMES)
    yield "forward", bf16, 64, True, False
    yield "delta", bf16, 64, False, False


def attention(variant: Variant) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The kernel, what it is compiled for, and how it is launched."""
    name, dtype, D, cls_only, window = variant
    kernel, q = getattr(kernels, name), torch.empty(1, 12, D, dtype=dtype)
    keys = torch.zeros(1, dtype=torch.int64)
    call = Call((512,), cls_only, 1.0, (keys, 1, 0.1), before=64 if window else 1 << 30)
    options = fused_attention.constants(q, call, "forward" if name == "delta" else name)
    launch = {key: options.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion")}
    return kernel, {key: options[key] for key in options if key in kernel.arg_names}, launch


def compiled(
    kernel: Any, dtype: torch.dtype, values: dict[str, Any], launch: dict[str, Any], target: int
) -> Any:
    arguments = kernel.arg_names
    signature = {
        each: "constexpr" if each in values else TYPES.get(each, f"*{NAMES[dtype]}")
        for each in arguments
    }
    aligned = [i for i, each in enumerate(arguments) if signature[each].startswith("*")]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=launch)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of the stack, where registers are spilled to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.check_output(command, text=True)
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def all_kernels(all_of_them: bool) -> Iterator[tuple[dict[str, Any], Any]]:
    """What to print of a kernel, and the arguments of `compiled`."""
    for variant in variants(all_of_them):
        name, dtype, D, cls_only, window = variant
        found = {"kernel": name, "dtype": NAMES[dtype], "D": D, "cls_only": cls_only}
        kernel, values, launch = attention(variant)
        yield found | {"window": window}, (kernel, dtype, values, launch)
    for kernel, dtype, values, launch in (*row_variants(all_of_them), *gelu_variants()):
        found = {"kernel": kernel.__name__, "dtype": NAMES[dtype], "W": values["W"]}
        yield found, (kernel, dtype, values, launch)


# Kernel, dtype of x, what it is compiled for, how it is launched.
Rows = tuple[Any, torch.dtype, dict[str, Any], dict[str, Any]]


def row_variants(all_of_them: bool) -> Iterator[Rows]:
    dropped = Dropped(torch.zeros(1, dtype=torch.int64), 1, 0.1)
    for dtype in (torch.float32, torch.bfloat16):
        for W in (384, 768, 1024, 2048, residual_norm.MAX_WIDTH) if all_of_them else (768,):
            yield row_kernels.dropout, dtype, {"W": W, "M": dropout.M, "N": dropout.N}, {}
            for kernel in ("forward", "backward"):
                values = residual_norm.constants(W, dropped, kernel)
                launch = {"num_warps": values.pop("num_warps")}
                if kernel == "backward":
                    values["ROWS"] = residual_norm.ROWS
                yield getattr(row_kernels, f"norm_{kernel}"), dtype, values, launch
    sums = {"W": 2 * 768, "M": row_sums.STEP, "N": row_sums.N}
    yield row_kernels.add_parts, torch.float32, sums, {}


def gelu_variants() -> Iterator[Rows]:
    for dtype in (torch.float32, torch.bfloat16):
        values = {"W": 3072, "M": bias_gelu.M, "N": bias_gelu.N}
        yield gelu_kernels.forward, dtype, values, {}
        yield gelu_kernels.backward, dtype, values | {"ROWS": bias_gelu.ROWS}, {}


if __name__ == "__main__":
    for found, arguments in all_kernels("--all" in sys.argv):
        for target in TARGETS:
            kernel = compiled(*arguments, target)
            found |= {"target": target, **resources(kernel.asm["cubin"])}
            print(json.dumps(found | {"SHARED": kernel.metadata.shared}), flush=True)
