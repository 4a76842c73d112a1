"""A worker's precision and threads, and the container's CPU quota."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distsent.runtime import cgroup, device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "kind", "supported", "warns"),
    [
        ("bf16", "cpu", False, True),
        ("bf16", "cpu", True, False),
        ("bf16", "cuda", False, False),
        ("float32", "cpu", False, False),
    ],
)
def test_a_line_names_a_precision_that_is_slow_here(
    precision: str, kind: str, supported: bool, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: supported)
    monkeypatch.setattr(torch.ops, "mkldnn", asked)
    line = device.slow_precision(precision, torch.device(kind))
    assert (line is not None and 'set it to "auto" or "float32"' in line) == warns


@pytest.mark.parametrize(
    ("half", "best"),
    [(0.5, "bf16"), (0.79, "bf16"), (0.81, "float32"), (1.0, "float32"), (7.0, "float32")],
)
def test_auto_selects_bf16_only_if_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, half: float, best: str
) -> None:
    monkeypatch.setattr(
        device, "matmul_seconds", lambda dtype, device: half if dtype == torch.bfloat16 else 1.0
    )
    assert device.resolve_precision("auto", CPU) == (
        best,
        f"train.precision = auto: this run uses {best}, which is faster on this machine",
    )


def test_the_measurements_run_on_this_machine() -> None:
    assert device.faster_precision(CPU) in ("bf16", "float32")
    assert device.peak_flops("float32", CPU) > 1e8


@pytest.mark.parametrize(("native", "best"), [(True, "bf16"), (False, "fp16")])
def test_auto_selects_fp16_on_gpus_that_only_emulate_bf16(
    monkeypatch: pytest.MonkeyPatch, native: bool, best: str
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert device.resolve_precision("auto", torch.device("cuda"))[0] == best


def test_an_explicit_precision_is_used() -> None:
    assert device.resolve_precision("float32", CPU) == ("float32", None)


@pytest.mark.parametrize("best", ["bf16", "float32"])
def test_fp16_without_a_gpu_becomes_the_faster_of_float32_and_bf16(
    monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    monkeypatch.setattr(device, "faster_precision", lambda device: best)
    precision, remark = device.resolve_precision("fp16", CPU)
    assert (
        precision == best and remark is not None and f"needs a GPU: this run uses {best}" in remark
    )


ALL = set(range(8))


@pytest.mark.parametrize(
    ("own", "neighbors", "quota", "threads"),
    [
        (ALL, [ALL] * 4, 8, 2),  # horovodrun binds no worker
        (ALL, [ALL], 8, 8),
        ({0, 1}, [{0, 1}, {2, 3}, {4, 5}, {6, 7}], 8, 2),  # srun binds each to its own
        ({0}, [{0}, {1}], 8, 1),  # mpirun alone binds each to a core
        (
            set(range(4)),
            [set(range(4)), set(range(4)), {4, 5, 6, 7}, {4, 5, 6, 7}],
            8,
            2,
        ),  # two to a socket
        (ALL, [ALL] * 2, 2, 1),  # a container that may use two of eight cores
        (ALL, [ALL] * 16, 8, 1),
    ],
)
def test_workers_share_the_cores_that_none_of_them_is_bound_to(
    own: set[int], neighbors: list[set[int]], quota: int, threads: int
) -> None:
    assert device.threads_per_worker(own, neighbors, quota) == threads


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": ""}, None),
        ({}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),  # cgroup v1
        ({"cpu/cpu.cfs_quota_us": "350000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_container_quota_is_read_from_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: int | None
) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cgroup.cpu_quota() == quota


@pytest.mark.parametrize(
    ("counters", "limit", "peak"),
    [
        ("memory.events", "memory.max", "memory.peak"),
        *[
            tuple(
                f"memory/memory.{n}"
                for n in ("oom_control", "limit_in_bytes", "max_usage_in_bytes")
            )
        ],
    ],
)
def test_kills_at_the_memory_limit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counters: str, limit: str, peak: str
) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    assert cgroup.out_of_memory_kills() == 0 and cgroup.memory_use() == "limit ?, peak ?"
    (tmp_path / "memory").mkdir()
    (tmp_path / counters).write_text("low 0\noom 3\noom_kill_disable 0\noom_kill 2\n")
    (tmp_path / limit).write_text(f"{2 * 2**30}\n")
    (tmp_path / peak).write_text(f"{2**31 - 4096}\n")
    assert cgroup.out_of_memory_kills() == 2
    assert cgroup.memory_use() == "limit 2.0 GiB, peak 2.0 GiB"
    for unlimited in ("max", "9223372036854771712"):  # version 2 and 1
        (tmp_path / limit).write_text(f"{unlimited}\n")
        assert cgroup.memory_use() == "limit none, peak 2.0 GiB"
