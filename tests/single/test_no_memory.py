"""Whichever part of a run finds no memory: one line says so, and the exit code is 2."""

import errno
import json
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from distsent import cli, train
from tests import fixtures, systems

ERRORS = (
    MemoryError("Unable to allocate 2.00 GiB for an array with shape (8192, 65536)"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
)
PLACES = (
    "distsent.training.session.prepare_store",
    "distsent.training.session.prepare_tokenizer",
    "distsent.model.adapter.build_classifier",
    "distsent.training.build.choose_ways",
    "distsent.training.build.measure_flops",
    "distsent.training.build.FlatParameters",
    "distsent.training.session.restore",
    "distsent.training.loop.snapshot",
    "distsent.runtime.checkpoint.SafetensorsBuffer",
    "distsent.training.publish.assess",
    "distsent.training.publish.write_model_folder",
)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    data = fixtures.corpus(folder / "data", train=40, validation=10, test=10, classes=2)
    encoder = systems.encoder(folder / "encoder", "bert")
    return [
        f"data.source={data}", f"model.name={encoder}", "train.batch_size=8", "job.name=run",
        "train.max_steps=4", "checkpoint.every_steps=2", "data.max_length=32",
    ]  # fmt: skip


# What mmap says where memory is counted (ulimit -v, vm.overcommit_memory=2)
MAPPED = OSError(errno.ENOMEM, "Cannot allocate memory")
OF_MAPS = ("mmap.mmap", MAPPED), ("distsent.runtime.checkpoint.SafetensorsBuffer", MAPPED)


@pytest.mark.parametrize(("place", "error"), [*zip(PLACES, cycle(ERRORS), strict=False), *OF_MAPS])
def test_no_memory_ends_a_run_with_one_line(
    place: str,
    error: Exception,
    words: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["train", *words, f"run.dir={tmp_path}"])
    with patch(place, side_effect=error), pytest.raises(SystemExit) as ended:
        cli.run(train.main)
    printed = capfd.readouterr().err
    assert (ended.value.code, "Traceback" in printed) == (2, False), printed
    assert printed.count("out of memory while") == 1, printed
    status = tmp_path / "run" / "status.json"
    if status.exists():
        assert json.loads(status.read_text())["code"] == 2
