"""Passes as CUDA graphs: a pass is recorded once for a shape of batches, then replayed.

A pass of a base encoder launches about a thousand kernels, which takes a CPU several times as long
as they take a GPU. A replay is one launch, of the same kernels in the same order: the same bits. A
shape's first batch runs as it comes, so that all kernels are compiled; with its second one the pass
is recorded. The first recording is compared with a pass as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distsent.batching.packing import PackedBatch
from distsent.batching.static_batch import Shape, StaticBatch
from distsent.training.passes import Pass

Run = Callable[[], Tensor]


class Recorder(Protocol):
    """How a pass is recorded."""

    def aside(self, run: Run) -> Tensor:
        """Run it where it would be recorded."""

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        """A function that runs it again, and the memory of its result."""


class Graphs:
    """CUDA graphs, recorded on a stream of their own. They share the memory of activations."""

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def aside(self, run: Run) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            out = run()
        current.wait_stream(self._stream)
        return out

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Thread-local: a save in another thread may use the GPU meanwhile.
        options: Any = {"pool": self._pool, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, stream=self._stream, **options):
            out = run()
        return graph.replay, out


@dataclass
class Known:
    """A shape that came up: its memory, and its recorded pass once there is one."""

    static: StaticBatch
    replay: Callable[[], Any] | None = None
    losses_n: Tensor = field(default_factory=lambda: torch.empty(0))  # of the last replay
    written: frozenset[nn.Parameter] = frozenset()  # with a 16-bit gradient after a replay


class RecordedPasses:
    """`run` on batches from the CPU, recorded by `recorder`; `log` gets a line if that fails."""

    def __init__(
        self, run: Pass, recorder: Recorder, device: torch.device, log: Callable[[str], None]
    ) -> None:
        self._pass, self._device, self._log = run, device, log
        self._recorder: Recorder | None = recorder
        self._known: dict[Shape, Known] = {}
        self._compared = False

    def __call__(self, batch: PackedBatch, factor: float) -> Tensor:
        """The loss of each example. `factor`: by which an example's loss counts."""
        shape = Shape.of(batch)
        first = shape not in self._known
        if first:
            self._known[shape] = Known(StaticBatch(shape, batch, self._device))
        known = self._known[shape]
        packed = known.static.fill(batch, factor)

        def run() -> Tensor:
            return self._pass(packed, known.static.factor_n)

        if self._recorder is not None and known.replay is None and not first:
            self._record(known, run, self._recorder)
        losses_n = run() if known.replay is None else self._replay(known, known.replay)
        return losses_n[: len(batch.labels_n)].clone()

    def forget(self) -> bool:
        """Free the memory of recorded passes, and record no more. False: there is none."""
        if self._recorder is None:
            return False
        self._log("no memory for CUDA graphs: passes run kernel by kernel")
        self._recorder, self._known = None, {}
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    def _replay(self, known: Known, replay: Callable[[], Any]) -> Tensor:
        replay()
        if self._pass.flat.half is not None:
            self._pass.flat.half.written = known.written
        return known.losses_n

    def _record(self, known: Known, run: Run, recorder: Recorder) -> None:
        """Leaves the gradients as they are. If it fails, no pass is recorded any more."""
        before = self._pass.flat.buffer.clone() if not self._compared else None
        try:
            if before is not None:
                recorder.aside(run)
                expected = self._gradients()
                self._restore(before)
            replay, known.losses_n = recorder.record(run)
            half = self._pass.flat.half
            known.written = frozenset() if half is None else half.written
            if before is not None:
                replay()
                if not all(map(torch.equal, self._gradients(), expected)):
                    raise RuntimeError("its gradients differ")
            known.replay, self._compared = replay, True
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = (str(error).splitlines() or [""])[0][:120]
            self._log(f"passes run kernel by kernel, not as CUDA graphs: {said}")
            self._recorder = None
        finally:
            self._restore(before)

    def _gradients(self) -> list[Tensor]:
        """A copy of all gradients and control slots, as integers: NaN equals NaN."""
        flat = self._pass.flat
        found = [flat.buffer.clone().view(torch.int32)]
        return found if flat.half is None else [*found, flat.half.gradients_16()]

    def _restore(self, before: Tensor | None) -> None:
        if before is not None:
            self._pass.flat.buffer.copy_(before)
        if self._pass.flat.half is not None:
            self._pass.flat.half.written = frozenset()
