"""The buffer equals, to the last byte, what the safetensors library writes, on any file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from distsent.machine_errors import is_out_of_memory
from distsent.runtime import safetensors_buffer
from distsent.runtime.safetensors_buffer import SafetensorsBuffer

NAMED = {
    "encoder.weight": torch.randn(301, 77), "bias": torch.randn(5), "scalar": torch.tensor(0.25),
    "half": torch.randn(3, dtype=torch.float64).half(), "brain": torch.randn(7).bfloat16(),
    "double": torch.randn(2, 2).double(),
}  # fmt: skip


@pytest.mark.parametrize("named", [NAMED, {"only": torch.ones(3)}, {}], ids=["many", "one", "none"])
def test_the_bytes_equal_the_librarys(tmp_path: Path, named: dict[str, torch.Tensor]) -> None:
    SafetensorsBuffer(named).fill(named).write(tmp_path / "buffer")
    loaded = safetensors.torch.load_file(tmp_path / "buffer")
    assert loaded.keys() == named.keys()
    assert all(
        loaded[name].dtype == x.dtype and torch.equal(loaded[name], x) for name, x in named.items()
    )
    floats = {name: x for name, x in named.items() if x.dtype == torch.float32}
    SafetensorsBuffer(floats).fill(floats).write(tmp_path / "buffer")
    assert (tmp_path / "buffer").read_bytes() == safetensors.torch.save(floats)


def test_more_than_the_system_grants_is_no_memory() -> None:
    with pytest.raises(OSError) as caught:
        SafetensorsBuffer({"wide": torch.zeros(1).expand(2**48)})
    assert is_out_of_memory(caught.value)


def test_a_buffer_can_be_refilled_with_tensors_that_fit(tmp_path: Path) -> None:
    first = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    held = SafetensorsBuffer(first).fill(first)
    before = held.digest()
    second = {"b": torch.ones(4), "a": torch.ones(3, 2).T}  # neither order nor layout matters
    assert held.fits(second) and held.fill(second).digest() != before
    held.write(tmp_path / "file")
    assert torch.equal(safetensors.torch.load_file(tmp_path / "file")["a"], torch.ones(2, 3))
    assert not held.fits({"a": torch.zeros(2, 3)}) and not held.fits(first | {"b": torch.zeros(5)})
    assert not held.fits(first | {"b": torch.zeros(4).half()}) and not held.fits(
        first | {"c": torch.zeros(1)}
    )


@pytest.mark.parametrize("way", ["unknown", "refused", "cut short"])
def test_without_direct_io_the_page_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    held, write = SafetensorsBuffer(NAMED).fill(NAMED), os.pwrite
    direct, sizes = [False], []

    def asked(handle: int, command: int, flags: int) -> None:
        if way == "unknown":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        direct[0] = flags != 0

    def written(handle: int, data: memoryview, at: int) -> int:
        if direct[0] and (way == "refused" or at % safetensors_buffer.PAGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sizes.append(len(data))
        return write(handle, data[:1000] if way == "cut short" else data, at)

    monkeypatch.setattr(safetensors_buffer.fcntl, "fcntl", asked)
    monkeypatch.setattr(os, "pwrite", written)
    held.write(tmp_path / "file")
    loaded = safetensors.torch.load_file(tmp_path / "file")
    assert all(torch.equal(loaded[name], x) for name, x in NAMED.items())
    assert len(sizes) > 1 if way == "cut short" else len(sizes) == 1


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        SafetensorsBuffer(NAMED).fill(NAMED).write(tmp_path / "file")
    with pytest.raises(KeyError):
        SafetensorsBuffer({"a": torch.zeros(3, dtype=torch.int64)})
