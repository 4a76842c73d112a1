"""Who listens to a run."""

from collections.abc import Callable

from distsent.job.job import Job
from distsent.runtime.run_folder import RunFolder
from distsent.tracking.background import Background
from distsent.tracking.events import Listener, Listeners, Started
from distsent.tracking.metrics_file import MetricsFile
from distsent.tracking.record import open_record
from distsent.tracking.tensorboard import TensorBoardFiles


def listeners_of(
    folder: RunFolder, job: Job, complain: Callable[[str], None], say: Callable[[str], None]
) -> tuple[Listeners, Listeners]:
    """(files in the run folder, trackers). `complain` and `say` get lines: console; log, too."""
    files: list[Listener] = [MetricsFile(folder, complain)]
    if job.log.tensorboard:
        files.append(TensorBoardFiles(folder))
    trackers = (Background(name, folder.owner, say) for name in job.log.trackers)
    return Listeners(*files), Listeners(*trackers)


def started(
    folder: RunFolder, job: Job, step: int, evaluated: int, workers: int, transport: str
) -> Started:
    """The first event of a run that starts or resumes at `step`. Records what trackers call it."""
    run_id, logged = open_record(folder, job, step) if job.log.trackers else ("", {})
    return Started(
        name=job.job.name,
        folder=str(folder.path.absolute()),
        run_id=run_id,
        step=step,
        evaluated=evaluated,
        parameters={**dict(job.items()), "world_size": workers, "transport": transport},
        logged=logged,
    )
