"""What a batch size costs in steps and examples, by the gradient noise scale of an earlier run.

To reach a loss takes S steps and E = S x batch examples, with (McCandlish et al., 2018, arXiv
1812.06162, sections 2.2 and 2.3)

    S = fewest steps x (1 + noise scale / batch)    E = fewest examples x (1 + batch / noise scale)

The critical batch size is the noise scale: there, both are twice their least.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distsent.errors import UserError
from distsent.job.job import Job
from distsent.planning.step_time import Prediction
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.storage import is_file

SAME = "data.", "model.", "adapter."  # sections of keys that decide the gradients
MAY_DIFFER = "data.store", "data.max_eval_rows"
ROWS = 6  # of the table of batch sizes


@dataclass(frozen=True)
class NoiseScale:
    """In examples. Not `exact`: at least so many, so steps and examples are at most as below."""

    examples: float
    exact: bool = True

    def fewer_steps(self, batch: int, factor: int) -> float:
        """Steps with batches `factor` times as large, relative to those with `batch`."""
        return (1 + self.examples / (factor * batch)) / (1 + self.examples / batch)

    def more_examples(self, batch: int, factor: int) -> float:
        """Examples for the same loss, relative to those with `batch`."""
        return factor * self.fewer_steps(batch, factor)


def find_noise_scale(job: Job) -> tuple[NoiseScale | None, str]:
    """That of the job's run so far, and a line about it. Reads the run folder, writes nothing."""
    folder = RunFolder(Path(job.run.dir) / job.job.name)
    unknown = "gradient noise scale: not known; a run of the job with two workers or more logs it"
    if not is_file(folder.metrics) or (first := recorded_job(folder)) is None:
        return None, unknown
    for key in first.changed_keys(job):
        if key.startswith(SAME) and key not in MAY_DIFFER:
            return None, f"gradient noise scale: not that of {folder.path}, which has another {key}"
    for line in reversed(folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines()):
        with suppress(ValueError, KeyError, TypeError):
            logged = json.loads(line)
            exact = "noise_scale" in logged
            found = NoiseScale(logged["noise_scale" if exact else "noise_scale_at_least"], exact)
            much = f"{'' if exact else 'more than '}{found.examples:,.0f} examples"
            about = f"gradient noise scale (the critical batch size): {much}"
            return found, f"{about}, at step {logged['step']:,} of {folder.path}"
    return None, unknown


def recorded_job(folder: RunFolder) -> Job | None:
    """The job that a run was started with, if its job.json can be read."""
    with suppress(UserError, KeyError, TypeError):
        return Job.from_dict((read_json(folder.job) or {})["job"])
    return None


def batch_sizes(
    noise: NoiseScale, batch: int, larger: Callable[[int], Prediction | None]
) -> Iterator[list[str]]:
    """Rows of a table: batches, what each costs, and the time to the same loss.

    `larger`: factor of the batch -> prediction; None if the dataset has no such batches.
    """
    first, factor = larger(1), 1
    while first is not None and factor < 2**ROWS and (found := larger(factor)) is not None:
        steps, examples = noise.fewer_steps(batch, factor), noise.more_examples(batch, factor)
        seconds = steps * found.time.seconds / first.time.seconds
        yield [
            f"{factor * batch:,}",
            f"{1000 * found.time.seconds:.1f}",
            *(f"{value:.2f}" for value in (steps, examples, seconds)),
        ]
        factor *= 2
