"""Changed checkpoint files: the reader falls back or reports the error, and never loads a part."""

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
from tests.chaos.attacked_run import job
from tests.parallel.driver import Entry, drive

FILES = ("manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors")
OLD, NEW = "step-00000003", "step-00000006"
HASH = checkpoint.HASH
HOSTILE_MANIFESTS: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, "", "x", [], [[]],
    {}, {"": {}}, {".": {}}, {"..": {}}, {"\0": {}}, {"/dev/zero": {"bytes": 0}},
    {f"../{OLD}/{name}": {"bytes": 0, HASH: ""} for name in FILES},
    {name: None for name in FILES},
    {name: [] for name in FILES},
    {name: {"bytes": float("nan"), HASH: "0" * 32} for name in FILES},
    {name: {"bytes": 10**30} for name in FILES},
    {"weights.safetensors": {"bytes": "1", HASH: 1}},
    {"state.json": {"bytes": 0, HASH: None}},
)  # fmt: skip
HOSTILE_TEXTS = (
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


def hashes(groups: dict[str, dict[str, torch.Tensor]]) -> dict[str, str]:
    return {group: checkpoint.weights_sha256(found) for group, found in groups.items()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    for step in (3, 6):
        buffers = fixtures.safetensors_buffers(tensors(step))
        checkpoint.save(folder, step, buffers, {"step": step, "progress": list(range(20))})
    return folder


class Damage:
    """One random change to the newest checkpoint's files. str() describes it."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self.rng, self.path, self.name = rng, folder / NEW, rng.choice(FILES)
        self.file, self.manifest = self.path / self.name, self.path / "manifest.json"
        self.data = self.file.read_bytes()
        self.other = (folder / rng.choice((OLD, NEW))) / rng.choice(FILES)
        n = len(self.data)
        ways: dict[str, Callable[[], object]] = {
            "bits": self.flip_bits,
            "truncated": lambda: self.write(self.data[: rng.randrange(n)]),
            "empty": lambda: self.write(b""),
            "longer": lambda: self.write(self.data + rng.randbytes(rng.randrange(1, 99))),
            "deleted": self.file.unlink,
            "swapped": self.swap,
            "zeros": self.zeros,
            "garbage": lambda: self.write(rng.randbytes(rng.randrange(1, 3000))),
            "manifest": self.edit_manifest,
            "hostile": self.hostile_manifest,
            "text": self.hostile_text,
            "folder": lambda: self.replace(self.file.mkdir),
            "pipe": lambda: self.replace(lambda: os.mkfifo(self.file)),
            "loop": lambda: self.link(self.file),
            "device": lambda: self.link(Path("/dev/zero")),
            "nowhere": lambda: self.link(self.path / "nowhere"),
        }
        self.way = rng.choice(list(ways))
        ways[self.way]()

    def __str__(self) -> str:
        return f"{self.way} {self.name}"

    def write(self, data: bytes) -> None:
        self.file.write_bytes(data)

    def replace(self, create: Callable[[], object]) -> None:
        self.file.unlink()
        create()

    def link(self, target: Path) -> None:
        self.replace(lambda: self.file.symlink_to(target))

    def flip_bits(self) -> None:
        data = bytearray(self.data)
        for _ in range(self.rng.choice((1, 1, 2, 50))):
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        self.write(bytes(data))

    def swap(self) -> None:
        others = self.other.read_bytes()
        if self.other.parent == self.path:
            self.other.write_bytes(self.data)
        self.write(others)

    def zeros(self) -> None:
        start = self.rng.randrange(len(self.data))
        self.write(self.data[:start] + bytes(len(self.data) - start))

    def edit_manifest(self) -> None:
        manifest, rng = json.loads(self.manifest.read_bytes()), self.rng
        entry, kind = rng.choice(FILES[1:]), rng.randrange(5)
        if kind == 0:
            del manifest[entry]
        elif kind == 1:
            manifest[entry]["bytes"] += rng.choice((-1, 1, 10**9))
        elif kind == 2:
            manifest[entry][HASH] = rng.randbytes(16).hex()
        elif kind == 3:
            manifest[entry].pop(rng.choice(("bytes", HASH)))
        else:
            extra = rng.choice(("../x", "other.safetensors", "/etc/hostname", "sub/file"))
            manifest[extra] = manifest[entry]
        self.manifest.write_text(json.dumps(manifest))

    def hostile_manifest(self) -> None:
        self.manifest.write_text(json.dumps(self.rng.choice(HOSTILE_MANIFESTS)))

    def hostile_text(self) -> None:
        file = self.path / self.rng.choice(("manifest.json", "state.json"))
        file.write_text(self.rng.choice(HOSTILE_TEXTS))


def damage_and_load(folder: Path, fresh: Path, count: int, seed: int) -> int:
    """Damage and load `count` times; returns how often the newest checkpoint was skipped."""
    rng, skipped = random.Random(seed), 0
    expected = {step: hashes(tensors(step)) for step in (3, 6)}
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fresh, folder)
        damage, lines = Damage(rng, folder), []
        found = checkpoint.load_newest(folder, lines.append)
        details = f"seed {seed}, number {number}: {damage}: {lines}"
        assert found is not None and found.step in (3, 6), details
        assert hashes(found.tensors) == expected[found.step], details
        assert found.state["step"] == found.step, details
        assert len(lines) == (found.step == 3), details
        assert all("\n" not in line and NEW in line for line in lines), details
        skipped += found.step == 3
    return skipped


def test_hundreds_of_changed_checkpoints_are_loaded_completely_or_skipped(
    tmp_path: Path, fresh: Path
) -> None:
    seed = random.Random().randrange(10**6)
    assert damage_and_load(tmp_path / "run", fresh, 800, seed) > 600


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_ten_thousand_changed_checkpoints_are_loaded_completely_or_skipped(
    tmp_path: Path, fresh: Path
) -> None:
    seed = random.Random().randrange(10**6)
    print(f"{damage_and_load(tmp_path / 'run', fresh, 10_000, seed)} of 10,000 were skipped")


# Checkpoints with correct hashes whose content does not fit: forged, or another model's


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was saved at step 60 and has no result."""
    folder = tmp_path_factory.mktemp("stopped")
    train(folder)
    (folder / "chaos" / "result.json").unlink()
    return folder


def train(folder: Path) -> None:
    """Train in this process."""
    drive([Entry(overrides=job(folder), mutant=None)], World())


def forge(path: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and its hash in the manifest."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), HASH: xxh3_128_hexdigest(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))


STATES = {
    "nothing": {},
    "no progress": {"progress": None, "updates": 1, "scale": [1.0, 0]},
    "wrong progress": {"progress": {"steps": 1}, "updates": 1, "scale": [1.0, 0]},
}


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
    elif what == "another shape":
        weights[first] = weights[first].reshape(-1)
        forge(path, "weights.safetensors", safetensors.torch.save(weights))
    else:
        weights["other"] = weights.pop(first)
        forge(path, "weights.safetensors", safetensors.torch.save(weights))
    line = r"the checkpoint of step 60 does not fit this job.*run\.resume=never starts over"
    with pytest.raises(UserError, match=line) as caught:
        train(tmp_path)
    assert len(caught.value.lines) == 1
    assert fixtures.metrics(tmp_path / "chaos"), "data of the run was deleted"
