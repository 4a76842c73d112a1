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
from distsent.operators import library, linear
from distsent.operators.compiled_attention import CompiledAttention
from distsent.operators.fused_attention import Call
from distsent.train import main
from tests.interpreted_kernels import (
    CASES,
    FILLER,
    MASKS,
    TOLERANCE,
    Case,
    attend_errors,
    errors,
    wrong_masks,
)

KINDS = [*library.MARCH]
# A CPU that runs one kind runs those before it.
RUN_HERE = KINDS[: KINDS.index(library.vectors()) + 1] if library.vectors() in KINDS else []


@pytest.fixture(params=RUN_HERE)
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(library, "vectors", lambda: request.param)
    library.load.cache_clear()
    library.use(library.version())
    yield
    library.use(library.REFERENCE)
    library.load.cache_clear()


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


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.dtype != torch.float16])
def test_compiled_attention_is_the_references(name: str, compiled: None) -> None:
    """In float64, example by example; tests/interpreted_kernels.py has the cases."""
    filler, tolerance = FILLER.get(name, 0), TOLERANCE[CASES[name].dtype]
    off = errors(CASES[name], filler, operator=CompiledAttention)
    assert all(error <= tolerance for error in off.values()), off


@pytest.mark.parametrize(("length", "rate"), MASKS)
def test_compiled_attention_drops_the_same_elements(
    length: int, rate: float, compiled: None
) -> None:
    wrong = wrong_masks(length, rate, operator=CompiledAttention)
    assert set(wrong.values()) == {0}


@pytest.mark.parametrize("D", [8, 20])
def test_compiled_attention_of_heads_narrower_than_a_vector(D: int, compiled: None) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        off = errors(Case((3, 70, 1, 33), D, dtype), operator=CompiledAttention)
        assert all(error <= TOLERANCE[dtype] for error in off.values()), off


@pytest.mark.parametrize("cls_only", [False, True])
def test_a_models_attention_runs_compiled_with_the_references_arguments(
    cls_only: bool, compiled: None
) -> None:
    """In training and in scoring, which has no dropout."""
    off = attend_errors(cls_only, compiled=True)
    assert all(error <= TOLERANCE[torch.float32] for error in off.values()), off


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("H", "few"), [(4, 2), (6, 1), (14, 2)])
def test_shared_heads_have_the_bits_of_repeated_ones(
    H: int, few: int, dtype: torch.dtype, compiled: None
) -> None:
    """Also under autocast, where the inputs may be float32, as they are after rotary positions."""
    torch.manual_seed(0)
    rows = [torch.randn(71, heads, 16) for heads in (H, few, few)]
    call, gradient = Call((30, 41), False, 0.3, None), torch.randn(71, H, 16, dtype=dtype)
    found = []
    for repeat in (1, H // few):
        own = [x.clone().requires_grad_() for x in rows]
        q, k, v = own[0], *(x.repeat_interleave(repeat, 1) for x in own[1:])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = CompiledAttention.apply(q, k, v, call)
        out.backward(gradient)
        found.append([out, *(x.grad for x in own)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_compiled_attention_gives_an_example_the_same_bits_in_any_batch(compiled: None) -> None:
    """And for any number of threads: also where a neighbor is not finite."""
    threads, lengths = torch.get_num_threads(), np.array([70, 33, 1])
    keys_T = dropout_keys(3, 4, np.arange(3), lengths)
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        rows = [torch.randn(int(lengths.sum()), 2, 32).to(dtype) for _ in range(4)]

        def results(first: int, count: int, rows: list[torch.Tensor] = rows) -> list[torch.Tensor]:
            start, stop = sum(lengths[:first]), sum(lengths[: first + count])
            parts = [x[start:stop].clone().requires_grad_() for x in rows[:3]]
            dropout = keys_T[start:stop], 5, 0.1
            call = Call(tuple(lengths[first : first + count].tolist()), False, 0.3, dropout)
            out = CompiledAttention.apply(*parts, call)
            return [out, *torch.autograd.grad(out, parts, rows[3][start:stop])]

        alone = results(1, 1)
        rows[0][:70], rows[2][:70] = torch.nan, torch.inf
        for number in (1, 2):
            torch.set_num_threads(number)
            together = results(0, 3)
            assert not together[0][:70].isfinite().any()
            assert all(map(torch.equal, alone, (x[70:103] for x in together)))
        torch.set_num_threads(threads)


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
