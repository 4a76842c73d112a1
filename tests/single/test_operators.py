"""Each operator against its reference in torch: values, gradients and dropout masks."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import pack
from distsent.model.attention_gradient import PackedAttention
from distsent.model.attention_window import ALL_TOKENS, Window
from distsent.operators import library, linear, products, softmax_dropout
from distsent.train import main

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture
def compiled() -> Iterator[None]:
    library.use(library.version())
    yield
    library.use(library.REFERENCE)


@pytest.mark.parametrize("shape", [(7, 5), (1, 3, 5), (2, 4, 5), (0, 5), (1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_linear_is_torchs_but_for_rounding(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(5, 11, bias), nn.GELU(), nn.Linear(11, 3, bias))
    ours = copy.deepcopy(theirs)
    linear.use_onednn(ours)
    assert (
        type(ours[0]) is linear.OneDNNLinear
        and ours.state_dict().keys() == theirs.state_dict().keys()
    )
    x = torch.randn(shape, requires_grad=True)
    found = []
    for model in (theirs, ours):
        y = model(x)
        y.square().sum().backward()
        found.append([y, x.grad, *(p.grad for p in model.parameters())])
        x.grad = None
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 3, 4), (2, 3, 4), (3, 4)])
def test_the_output_of_a_onednn_linear_layer_may_be_changed_in_place(
    shape: tuple[int, ...],
) -> None:
    """As DeBERTa does, through views of it."""
    layer = nn.Linear(4, 6)
    linear.use_onednn(layer)
    x, gradients = torch.randn(shape), []
    for divide in (torch.div, torch.Tensor.div_):
        layer.zero_grad()
        y = layer(x).unflatten(-1, (2, 3)).transpose(0, -2)
        divide(y, 3.0).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_onednn_linear_leaves_other_precisions_frozen_weights_and_subclasses_alone() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Other(4, 4))
    linear.use_onednn(model)
    assert type(model[1]) is Other
    x = torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    assert model.double()(x.double()).dtype == torch.float64
    model.float()[0].requires_grad_(False)
    y = model(x.requires_grad_())
    y.sum().backward()
    assert x.grad is not None and model[0].weight.grad is None


@pytest.mark.parametrize("window", [ALL_TOKENS, Window(after=0)])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_matrices_of_long_examples_are_multiplied_one_by_one_where_that_is_faster(
    rate: float, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, H, D = (20, 260, 640), 3, 8
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(sum(lengths), H, D, generator=generator) for _ in range(4)]
    keys_T = dropout_keys(0, 0, np.arange(3), np.array(lengths))
    s = pack([np.full(n, 7) for n in lengths], np.zeros(3), keys_T=keys_T, round_shapes=False)
    calls, found = [], []
    for alone in (False, True):
        monkeypatch.setattr(products, "onednn_is_faster", lambda alone=alone: alone)
        monkeypatch.setattr(products, "product", lambda a, b: calls.append(1) or a @ b.T)
        qkv = [x.clone().requires_grad_() for x in rows[:3]]
        dropout = (keys_T, 2, rate) if rate else None
        out = PackedAttention.apply(*qkv, s, 0.3, dropout, window)
        out.backward(rows[3])
        found.append([out, *(x.grad for x in qkv)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
    # Two products forward and five backward for each head of two matrices: the two long texts, or
    # the last two blocks of the longest one.
    assert len(calls) == 2 * 7 * H


def scores_of(dtype: torch.dtype, seen: softmax_dropout.Seen, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    shape = len(seen.used_g) * seen.heads, seen.queries, seen.keys
    return (3 * torch.randn(shape)).to(dtype)


ALL = {"heads": 3, "used_g": torch.tensor([40, 37, 1])}
SEEN = {
    "all tokens": {**ALL, "queries": 40, "keys": 40},
    "first tokens": {**ALL, "queries": 1, "keys": 40},
    "one token": {"used_g": torch.tensor([1]), "heads": 2, "queries": 1, "keys": 1},
    "8 of 16 columns": {"used_g": torch.tensor([5, 8]), "heads": 2, "queries": 8, "keys": 8},
    "causal": {**ALL, "queries": 40, "keys": 40, "after": 0},
    "a window's second block": {
        **ALL, "queries": 8, "first_query": 32, "keys": 24, "first_key": 16, "before": 9, "after": 3
    },
    "long": {"used_g": torch.tensor([509]), "heads": 1, "queries": 512, "keys": 512},
}  # fmt: skip


@pytest.mark.parametrize("rate", [None, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SEEN)
def test_compiled_softmax_and_dropout_are_the_references(
    name: str, dtype: torch.dtype, rate: float | None, compiled: None
) -> None:
    seen = softmax_dropout.Seen(**SEEN[name])
    scores = scores_of(dtype, seen)
    dropout = None
    if rate is not None:
        # As attention has them: the queries' keys may be a part of wider rows.
        keys = torch.randint(-(2**63), 2**63 - 1, (len(scores), seen.queries + 7))
        dropout = keys[:, : seen.queries], 5, rate
    expected = softmax_dropout.reference(scores, seen, dropout)
    found = softmax_dropout.softmax_dropout(scores.clone(), seen, dropout)
    # What a query without any key gets is read by nobody, but must be finite.
    sees = (~seen.hidden).any(-1, keepdim=True).expand(-1, seen.heads, seen.queries, 1)
    sees = sees.reshape(len(scores), seen.queries, 1)
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.isfinite().all()
        a, b = theirs.where(sees, 0), ours.where(sees, 0)
        torch.testing.assert_close(b, a, rtol=TOLERANCE[dtype], atol=1e-7)
        assert torch.equal(a == 0, b == 0)  # the same elements are dropped
    P, gradient = expected[0], scores_of(dtype, seen, seed=1)
    expected = softmax_dropout.reference_backward(P, gradient, seen, dropout)
    found = softmax_dropout.softmax_dropout_backward(P, gradient.clone(), seen, dropout)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No library yet, and a folder of its own to keep it in."""
    monkeypatch.setattr(
        library, "folders", lambda: iter([tmp_path / "package", tmp_path / "cache"])
    )
    monkeypatch.setattr(library, "load", library.load.__wrapped__)
    return tmp_path


def test_the_library_is_built_once_and_found_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.load()
    (built,) = (fresh / "package").iterdir()
    assert library.version() in built.name
    monkeypatch.setenv("CXX", "no-such-compiler")  # as in an image without one
    library.load()
    built.chmod(0o777)  # anybody may have written it
    with pytest.raises(library.Unavailable, match="no C"):
        library.load()


def test_a_package_that_cannot_be_written_leaves_the_library_in_the_cache(fresh: Path) -> None:
    (fresh / "package").write_text("")  # root may write anywhere, but not into a file
    library.load()
    assert len(list((fresh / "cache").iterdir())) == 1
    (fresh / "cache" / "more").mkdir()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("echo 'vectors.h:7: no such type' >&2; exit 1", "failed: vectors.h:7: no such type"),
        ("exit 1", "failed: no output"),
        ('while [ "$1" != -o ]; do shift; done; echo x > "$2"', "file too short|invalid ELF"),
    ],
)
def test_what_keeps_the_library_from_loading_is_one_line(
    compiler: str, reason: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "c++").write_text(f"#!/bin/sh\n{compiler}\n")
    (fresh / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", str(fresh / "c++"))
    with pytest.raises(library.Unavailable, match=reason):
        library.load()
    assert not list(fresh.glob("package/.build-*"))


def test_other_cpus_run_the_references(monkeypatch: pytest.MonkeyPatch, fresh: Path) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(library.Unavailable, match="operators for CPUs with DEFAULT"):
        library.load()


def test_a_run_says_which_operators_it_has_and_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> str:
        words = ["train.max_steps=4", "checkpoint.every_steps=2", "checkpoint.keep=9"]
        assert main(["data.max_rows=64", f"run.dir={tmp_path}", *words]) == 0
        return (tmp_path / "demo" / "train.log").read_text()

    with monkeypatch.context() as without:
        without.setenv("CXX", "no-such-compiler")
        without.setattr(library, "folders", lambda: iter(()))
        without.setattr(library, "load", library.load.__wrapped__)
        assert "without its compiled operators: no C++ compiler" in train()
    folder = tmp_path / "demo"
    assert json.loads((folder / "job.json").read_text())["operators"] == "reference"
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    assert f"operators: reference before, {library.version()} now" in train()
    library.use(library.REFERENCE)
