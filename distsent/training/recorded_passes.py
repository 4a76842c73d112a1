"""Passes as CUDA graphs: a pass is recorded once for a shape of batches, then replayed.

A pass of a base encoder launches about a thousand kernels, which takes a CPU several times as long
as they take a GPU. A replay is one launch, of the same kernels in the same order: the same bits. A
shape's first batch runs as it comes, so that all kernels are compiled; with its second one the pass
is recorded. The first replay, of a third batch, is compared with that batch's pass as it comes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distsent.batching.packing import PackedBatch
from distsent.batching.static_batch import Shape, StaticBatch
from distsent.errors import is_out_of_memory
from distsent.training.passes import Pass

Run = Callable[[], Tensor]
MOST = 128  # recorded passes of a run: each takes a few megabytes of a GPU


class Recorder(Protocol):
    """How a pass is recorded."""

    def aside(self, run: Run) -> None:
        """Run it where it would be recorded. Raises RuntimeError if the CPU waits for the GPU."""

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        """A function that runs it again, and the memory of its result."""


class Graphs:
    """CUDA graphs, recorded on a stream of their own. They share the memory of activations."""

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def aside(self, run: Run) -> None:
        current, mode = torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(current)
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(self._stream):
                run()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            current.wait_stream(self._stream)

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        """As `torch.cuda.graph` does, which does not come back from a capture that fails."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Thread-local: a save in another thread may use the GPU meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                out = run()
            finally:
                graph.capture_end()
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
        self._recorded, self._compared = 0, False

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

        if known.replay is None and not first and self._recorded < MOST:
            self._attempt(lambda recorder: self._record(known, run, recorder))
        elif known.replay is not None and not self._compared:
            self._attempt(lambda recorder: self._compare(known, run, recorder))
        replayed = known.replay is not None and self._compared
        losses_n = self._replay(known) if replayed else run()
        return losses_n[: batch.texts].clone()

    def forget(self) -> bool:
        """Free the memory of recorded passes, and record no more. False: there is none."""
        if self._recorder is None:
            return False
        self._log("no memory for CUDA graphs: passes run kernel by kernel")
        self._stop()
        return True

    def _stop(self) -> None:
        self._recorder, self._known = None, {}
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _replay(self, known: Known) -> Tensor:
        assert known.replay is not None
        known.replay()
        if self._pass.flat.half is not None:
            self._pass.flat.half.written = known.written
        return known.losses_n

    def _attempt(self, step: Callable[[Recorder], None]) -> None:
        """If it fails, no pass is recorded or replayed any more. Gradients stay as they are."""
        if self._recorder is None:
            return
        try:
            step(self._recorder)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            said = (str(error).splitlines() or [""])[0][:120]
            self._log(f"passes run kernel by kernel, not as CUDA graphs: {said}")
            self._stop()

    def _record(self, known: Known, run: Run, recorder: Recorder) -> None:
        half = self._pass.flat.half
        if self._recorded == 0:
            with self._kept():
                recorder.aside(run)
        try:
            known.replay, known.losses_n = recorder.record(run)
            known.written = frozenset() if half is None else half.written
        finally:
            if half is not None:
                half.written = frozenset()
        self._recorded += 1

    def _compare(self, known: Known, run: Run, recorder: Recorder) -> None:
        """Raises RuntimeError unless a replay has the bits of a pass as it comes."""
        with self._kept():
            recorder.aside(run)
            expected = self._gradients()
        with self._kept():
            self._replay(known)
            found = self._gradients()
        if not all(map(torch.equal, found, expected)):
            raise RuntimeError("a replay had other gradients")
        self._compared = True

    def _gradients(self) -> list[Tensor]:
        """All gradients and control slots, as integers: NaN equals NaN. On the CPU."""
        flat = self._pass.flat
        found = [flat.buffer.to("cpu", copy=True).view(torch.int32)]
        return found if flat.half is None else [*found, flat.half.gradients_16()]

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Gradients and control slots are afterwards what they were."""
        flat = self._pass.flat
        before = flat.buffer.to("cpu", copy=True)
        try:
            yield
        finally:
            flat.buffer.copy_(before)
            if flat.half is not None:
                flat.half.written = frozenset()
