"""Accuracy of distsent and of Hugging Face Trainer after the same recipe, over several seeds.

    python -m benchmarks parity [--rounds SEEDS]

Both train MiniLM on all of emotion with each seed, keep the epoch that is best on validation, and
score the test split. Order of rows and dropout masks are each system's own. Only the scores count,
so both take single threads, which share a busy machine best. A training that the record has already
is not repeated.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from scipy import stats

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, horovodrun, run, script
from benchmarks.workload import Workload
from distsent.job import Job, load_job

JOB = Path(__file__).parent.parent / "jobs" / "emotion-minilm.toml"
SPLITS = "validation", "test"
FIRST_SEED = 42
PRECISION = "bf16"
EPOCHS = 2

Scores = dict[str, float]  # accuracy by split


def distsent(words: Sequence[str], work: Workload, job: Job, folder: Path) -> Scores:
    run([*horovodrun(work), "distsent.train", str(JOB), *words], work, folder)
    result = json.loads((folder / "run" / "result.json").read_text())
    return {split: result["eval"][split]["accuracy"] for split in SPLITS}


def trainer(words: Sequence[str], work: Workload, job: Job, folder: Path) -> Scores:
    found = script(PYTHON, "trainer_scores", work, folder, epochs=job.train.epochs)
    return {split: found[split] for split in SPLITS}


# name: (system, workers, threads of each)
SYSTEMS: dict[str, tuple[Callable[..., Scores], int, int]] = {
    "distsent": (distsent, 2, 1),
    "Hugging Face Trainer": (trainer, 1, 1),
}


def report(seeds: int, record: Path) -> str:
    """Train what is missing of the first `seeds` seeds, and return the table."""
    kept: dict[str, dict[str, Scores]] = {name: {} for name in SYSTEMS}
    if record.is_file():
        kept |= json.loads(record.read_text())
    for seed in map(str, range(FIRST_SEED, FIRST_SEED + seeds)):
        for name in SYSTEMS:
            if seed not in kept[name]:
                kept[name][seed] = train(name, int(seed))
                record.write_text(json.dumps(kept, indent=1) + "\n")
                print(f"seed {seed}: {name}: {kept[name][seed]}", flush=True)
    return table(kept)


def train(name: str, seed: int) -> Scores:
    """The ready job with local copies of dataset and encoder."""
    system, workers, threads = SYSTEMS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = [
            f"data.source={materials.whole_dataset('emotion')}", f"train.precision={PRECISION}",
            f"train.epochs={EPOCHS}",
            f"model.name={materials.encoder('minilm', folder)}", f"train.seed={seed}",
            "job.name=run", f"run.dir={folder / 'out'}",
        ]  # fmt: skip
        job = load_job(str(JOB), words)
        work = Workload(
            job.data.source, job.model.name, PRECISION, max_length=job.data.max_length,
            batch_size=job.train.batch_size, lr=job.optim.lr, seed=seed,
            workers=workers, threads=threads,
        )  # fmt: skip
        return system(words, work, job, folder / "out")


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Mean of ours minus mean of theirs, and the ends of its 95 % interval (Welch's t)."""
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return statistics.mean(ours) - statistics.mean(theirs), interval.low, interval.high


def table(kept: dict[str, dict[str, Scores]]) -> str:
    ours, theirs = kept
    seeds = sorted(set(kept[ours]) & set(kept[theirs]), key=int)
    lines = []
    for split in SPLITS:
        scores = {name: [kept[name][seed][split] for seed in seeds] for name in kept}
        means = (f"{statistics.mean(values):.4f}" for values in scores.values())
        cells = [", ".join(f"{value:.4f}" for value in values) for values in scores.values()]
        mean, low, high = difference(*scores.values())
        lines.append(
            f"| {split} | {' | '.join(means)} | {100 * mean:+.2f} ({100 * low:+.2f} to "
            f"{100 * high:+.2f}) points | {' | '.join(cells)} |"
        )
    return "\n".join(
        [
            "# Accuracy of distsent and of Hugging Face Trainer, same recipe",
            "",
            about(),
            "",
            f"MiniLM on emotion, {PRECISION}, `jobs/emotion-minilm.toml` with {EPOCHS} epochs "
            f"(batch 64, AdamW 1e-4), {len(seeds)} seeds each, the epoch that is best on "
            "validation. "
            "Difference of the means with its 95 % interval.",
            "",
            f"| split | {ours} | {theirs} | difference | seeds: {ours} | seeds: {theirs} |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )
