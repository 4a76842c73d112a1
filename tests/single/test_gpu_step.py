"""What a training step dispatches on a GPU, without one: launches of kernels, and determinism."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from distsent.batching.packing import PackedBatch
from distsent.model.determinism import strict_or_note

ROOT, TORCH = Path(__file__).parents[2], Path(torch.__file__).parent
LENGTHS = {
    "16 reviews": np.random.default_rng(0).integers(40, 513, 16).tolist(),
    "64 emotion texts": np.random.default_rng(1).integers(4, 60, 64).tolist(),
    "one token": [1],
}
MOST = {"float32": 56, "bf16": 51}  # kernels per layer, forward and backward
# Operators that torch lets fail, in the words of its documentation -> in those of its dispatcher
REFUSED = {
    "torch.nn.AvgPool3d": "avg_pool3d_backward",
    "torch.nn.AdaptiveAvgPool2d": "_adaptive_avg_pool2d_backward",
    "torch.nn.AdaptiveAvgPool3d": "_adaptive_avg_pool3d_backward",
    "torch.nn.AdaptiveMaxPool2d": "adaptive_max_pool2d_backward",
    "torch.nn.FractionalMaxPool2d": "fractional_max_pool2d_backward",
    "torch.nn.FractionalMaxPool3d": "fractional_max_pool3d_backward",
    "torch.nn.MaxUnpool1d": "max_unpool2d",
    "torch.nn.MaxUnpool2d": "max_unpool2d",
    "torch.nn.MaxUnpool3d": "max_unpool3d",
    "torch.nn.functional.interpolate": "upsample_",
    "torch.nn.ReflectionPad1d": "reflection_pad1d_backward",
    "torch.nn.ReflectionPad2d": "reflection_pad2d_backward",
    "torch.nn.ReflectionPad3d": "reflection_pad3d_backward",
    "torch.nn.NLLLoss": "nll_loss2d",  # that of single labels is another operator
    "torch.nn.CTCLoss": "_ctc_loss_backward",
    "torch.nn.EmbeddingBag": "_embedding_bag",
    "torch.Tensor.put_": "put_",
    "torch.histc": "histc",
    "torch.bincount": "bincount",
    "torch.median": "median",
    "torch.nn.functional.grid_sample": "grid_sampler",
    "torch.cumsum": "cumsum",
    "torch.Tensor.scatter_reduce": "scatter_reduce",
    "torch.Tensor.resize_": "resize_",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], Counter[str]]:
    """(lengths, precision, layers) -> operators of a step."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or torch.version.cuda:
        pytest.skip("needs a C++ compiler, and a build of torch without CUDA")
    library = tmp_path_factory.mktemp("no_gpu") / "no_gpu.so"
    options = [f"-I{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib"]
    libraries, source = ["-lc10", "-ltorch_cpu"], str(ROOT / "tests" / "no_gpu.cpp")
    flags = ["-std=c++20", "-shared", "-fPIC", *options]
    subprocess.run([compiler, *flags, source, "-o", str(library), *libraries], check=True)
    keys = [(name, p, layers) for name in LENGTHS for p in MOST for layers in (1, 3)]
    words = [json.dumps([layers, LENGTHS[name], p]) for name, p, layers in keys]
    own = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.traced_step", *words]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {key: Counter(line) for key, line in zip(keys, lines, strict=True)}


@pytest.mark.parametrize("precision", MOST)
def test_the_kernels_of_a_layer_are_few_whatever_the_lengths(found, precision: str) -> None:
    layers = {
        name: (found[name, precision, 3].total() - found[name, precision, 1].total()) / 2
        for name in LENGTHS
    }
    assert len(set(layers.values())) == 1, layers
    assert layers["one token"] <= MOST[precision], found["one token", precision, 3]


def test_a_layer_reads_no_value_from_the_gpu(found) -> None:
    """Each read lets the GPU run dry."""
    for name in LENGTHS:
        one, three = (found[name, "bf16", layers] for layers in (1, 3))
        for read in ("aten._local_scalar_dense.default", "reads which rows"):
            assert one[read] == three[read]


def test_every_operator_of_a_step_has_a_deterministic_implementation(found) -> None:
    text = torch.use_deterministic_algorithms.__doc__ or ""
    section = text.split("operations will throw a")[1].split("In addition")[0]
    assert set(re.findall(r"\* :(?:class|func):`([\w.]+)`", section)) == set(REFUSED)
    counted = {name for counts in found.values() for name in counts if "." in name}
    names = {name.split(".")[1] for name in counted}
    assert {"embedding", "nll_loss_forward", "add_", "forward"} <= names
    bad = [(name, each) for name in names for each in REFUSED.values() if name.startswith(each)]
    assert not bad


class Sums(torch.nn.Module):
    """A classifier with an operator that torch refuses, on CPUs, too."""

    device, refuses = torch.device("cpu"), True

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        assert self.training and batch.keys_T is not None
        if self.refuses:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return self.weight * batch.cls_index_n

    @property
    def model(self) -> "Sums":
        return self


@pytest.mark.parametrize("refuses", [True, False])
def test_a_model_that_cannot_be_deterministic_trains_and_says_so(refuses: bool) -> None:
    forward = Sums().eval()
    forward.refuses = refuses
    texts = {"input_ids": [[2, 7, 3], [2, 7, 8, 3]]}
    try:
        note = strict_or_note(cast(Any, forward), lambda *_, **__: texts, "float32")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == refuses
    finally:
        torch.use_deterministic_algorithms(False)
    assert ("put_ sums in no fixed order" in (note or "")) == refuses
    assert forward.weight.grad is None and not forward.training
