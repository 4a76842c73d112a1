"""What a worker computes in: as asked, or what a probe finds faster."""

import pytest
import torch

from distsent.training import device

CPU = torch.device("cpu")


@pytest.mark.parametrize(("half", "best"), [(0.5, "bf16"), (0.79, "bf16"), (0.81, "float32"), (1.0, "float32"), (7.0, "float32")])
def test_auto_takes_half_width_only_where_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch, half: float, best: str) -> None:
    monkeypatch.setattr(device, "matmul_seconds", lambda dtype, chosen: half if dtype == torch.bfloat16 else 1.0)
    assert device.resolve_precision("auto", CPU) == (best, f"train.precision = auto: {best} is the faster one here")


def test_the_probe_runs_on_this_machine() -> None:
    assert device.faster_precision(CPU) in ("bf16", "float32")
    assert device.peak_flops("float32", CPU) > 1e8


def test_what_is_asked_for_is_taken_and_what_a_cpu_lacks_is_told() -> None:
    assert device.resolve_precision("float32", CPU) == ("float32", None)
    precision, remark = device.resolve_precision("fp16", CPU)
    assert precision == "bf16" and remark is not None and "needs a GPU" in remark
