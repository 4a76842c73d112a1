"""TensorBoard's event files: the numbers of each step as curves."""

from contextlib import suppress
from typing import Any

from distsent.runtime.run_folder import RunFolder
from distsent.tracking.events import Evaluation, Event, Listener, Metrics, Started, numbers


class TensorBoardFiles(Listener):
    """Resuming at a step hides what was written of later ones, which are trained again."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._writer: Any = None

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                from torch.utils.tensorboard import SummaryWriter

                folder = str(self._folder.tensorboard)
                self._writer = SummaryWriter(folder, purge_step=event.step + 1)
            case Metrics() | Evaluation() if not self._folder.owner.lost:
                with suppress(OSError):
                    for name, value in numbers(event).items():
                        self._writer.add_scalar(name, value, event.values["step"])

    def close(self, until: float) -> None:
        with suppress(OSError):
            self._writer.close()
