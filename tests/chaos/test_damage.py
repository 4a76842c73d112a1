"""Checkpoint files that were changed in any way: the reader walks back or says clearly what is wrong, and never takes a part."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from xxhash import xxh3_128_hexdigest

from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.runtime import checkpoint
from tests import fixtures
from tests.chaos.life import job
from tests.parallel.driver import Entry, drive

FILES = ("manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors")
OLD, NEW = "step-00000003", "step-00000006"
HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, "", "x", [], [[]], {}, {"": {}}, {".": {}}, {"..": {}}, {"\0": {}}, {"/dev/zero": {"bytes": 0}},
    {f"../{OLD}/{name}": {"bytes": 0, checkpoint.HASH: ""} for name in FILES}, {name: None for name in FILES},
    {name: [] for name in FILES},
    {name: {"bytes": float("nan"), checkpoint.HASH: "0" * 32} for name in FILES}, {name: {"bytes": 10**30} for name in FILES},
    {"weights.safetensors": {"bytes": "1", checkpoint.HASH: 1}}, {"state.json": {"bytes": 0, checkpoint.HASH: None}},
)  # fmt: skip
TEXTS = (
    "[" * 50_000,
    '{"a":' * 50_000,
    "9" * 10_000,
    "nul",
    '{"a": 1, "a": 2}',
    "\ufeff{}",
    "{}\0",
    '"\\ud800"',
    "\x00\xff",
)


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(step)
    return {
        group: {f"{group}.{i}": torch.randn(7, 5, generator=rng) for i in range(3)}
        for group in ("weights", "optimizer")
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    for step in (3, 6):
        checkpoint.save(
            folder,
            step,
            fixtures.safetensors_buffers(tensors(step)),
            {"step": step, "progress": list(range(20))},
        )
    return folder


def content(path: Path, name: str) -> bytes:
    return (path / name).read_bytes()


def damage(rng: random.Random, folder: Path) -> str:
    """Change the newest checkpoint's files in one way; says how."""
    path, name = folder / NEW, rng.choice(FILES)
    file, data = path / name, (path / name).read_bytes()
    other = (folder / rng.choice((OLD, NEW))) / rng.choice(FILES)

    def write(value: bytes) -> None:
        file.write_bytes(value)

    def replace(make: Callable[[], object]) -> None:
        file.unlink()
        make()

    def flip() -> None:
        bits = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 50))):
            bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
        write(bytes(bits))

    def swap() -> None:
        there = other.read_bytes()
        if other.parent == path:
            other.write_bytes(data)
        write(there)

    def zeros() -> None:
        start = rng.randrange(len(data))
        write(data[:start] + bytes(len(data) - start))

    def edit() -> None:
        manifest = json.loads(content(path, "manifest.json"))
        entry = rng.choice(FILES[1:])
        kind = rng.randrange(5)
        if kind == 0:
            del manifest[entry]
        elif kind == 1:
            manifest[entry]["bytes"] += rng.choice((-1, 1, 10**9))
        elif kind == 2:
            manifest[entry][checkpoint.HASH] = rng.randbytes(16).hex()
        elif kind == 3:
            manifest[entry].pop(rng.choice(("bytes", checkpoint.HASH)))
        else:
            manifest[rng.choice(("../x", "other.safetensors", "/etc/hostname", "sub/file"))] = (
                manifest[entry]
            )
        (path / "manifest.json").write_text(json.dumps(manifest))

    ways: dict[str, Callable[[], object]] = {
        "bits": flip, "cut": lambda: write(data[: rng.randrange(len(data))]), "empty": lambda: write(b""),
        "longer": lambda: write(data + rng.randbytes(rng.randrange(1, 99))), "deleted": file.unlink, "swapped": swap,
        "zeros": zeros,
        "garbage": lambda: write(rng.randbytes(rng.randrange(1, 3000))), "manifest": edit,
        "hostile": lambda: (path / "manifest.json").write_text(json.dumps(rng.choice(HOSTILE))),
        "text": lambda: (path / rng.choice(("manifest.json", "state.json"))).write_text(rng.choice(TEXTS)),
        "folder": lambda: replace(file.mkdir), "pipe": lambda: replace(lambda: os.mkfifo(file)),
        "loop": lambda: replace(lambda: file.symlink_to(file)), "device": lambda: replace(lambda: file.symlink_to("/dev/zero")),
        "nowhere": lambda: replace(lambda: file.symlink_to(path / "nowhere")),
    }  # fmt: skip
    way = rng.choice(list(ways))
    ways[way]()
    return f"{way} {name}"


def mutations(folder: Path, fresh: Path, count: int, seed: int) -> int:
    """Damage and read `count` times; how often the newest checkpoint was passed over."""
    rng, passed_over = random.Random(seed), 0
    expected = {
        step: {g: checkpoint.weights_sha256(t) for g, t in tensors(step).items()} for step in (3, 6)
    }
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fresh, folder)
        what, told = damage(rng, folder), []
        found = checkpoint.load_newest(folder, told.append)
        where = f"seed {seed}, number {number}: {what}: {told}"
        assert found is not None and found.step in (3, 6), where
        assert {g: checkpoint.weights_sha256(t) for g, t in found.tensors.items()} == expected[
            found.step
        ], where
        assert found.state["step"] == found.step, where
        assert len(told) == (found.step == 3) and all(
            "\n" not in line and NEW in line for line in told
        ), where
        passed_over += found.step == 3
    return passed_over


def test_hundreds_of_changed_checkpoints_are_read_whole_or_passed_over(
    tmp_path: Path, fresh: Path
) -> None:
    assert mutations(tmp_path / "run", fresh, 800, seed=random.Random().randrange(10**6)) > 600


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_ten_thousand_changed_checkpoints_are_read_whole_or_passed_over(
    tmp_path: Path, fresh: Path
) -> None:
    print(
        f"{mutations(tmp_path / 'run', fresh, 10_000, seed=random.Random().randrange(10**6))} of 10,000 were passed over"
    )


# A checkpoint whose hashes are right and whose content does not fit: forged, or another model's


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stands at step 60 and has no result."""
    folder = tmp_path_factory.mktemp("stopped")
    alone(folder)
    (folder / "chaos" / "result.json").unlink()
    return folder


def alone(folder: Path) -> None:
    """Train in this very process."""
    drive([Entry(overrides=job(folder), mutant=None)], World())


def forge(path: Path, name: str, content: bytes) -> None:
    """Put another content into a checkpoint, and its hash into the manifest."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), checkpoint.HASH: xxh3_128_hexdigest(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))


STATES = {
    "nothing": {}, "no progress": {"progress": None, "updates": 1, "scale": [1.0, 0]},
    "wrong progress": {"progress": {"steps": 1}, "updates": 1, "scale": [1.0, 0]},
}  # fmt: skip


@pytest.mark.parametrize(
    "what", ["another model's weights", "a missing moment", "another shape", *STATES]
)
def test_a_checkpoint_that_does_not_fit_is_one_clear_line(
    tmp_path: Path, stopped: Path, what: str
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    path = checkpoint.list_checkpoints(tmp_path / "chaos" / "checkpoints")[-1]
    weights = safetensors.torch.load_file(path / "weights.safetensors")
    moments = safetensors.torch.load_file(path / "optimizer.safetensors")
    first = next(name for name, weight in weights.items() if weight.dim() == 2)
    if what in STATES:
        forge(path, "state.json", json.dumps(STATES[what]).encode())
    elif what == "a missing moment":
        del moments[f"exp_avg.{first}"]
        forge(path, "optimizer.safetensors", safetensors.torch.save(moments))
    else:
        other = weights.pop(first)
        key, value = (
            ("other", other) if what == "another model's weights" else (first, other.reshape(-1))
        )
        forge(path, "weights.safetensors", safetensors.torch.save({**weights, key: value}))
    with pytest.raises(
        UserError,
        match=r"the checkpoint of step 60 does not fit this job.*run\.resume=never starts over",
    ) as caught:
        alone(tmp_path)
    assert len(caught.value.lines) == 1
    assert fixtures.metrics(tmp_path / "chaos"), "nothing of the run was thrown away"
