"""One start per number of workers serves all comparisons: a start takes longer than training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from distsent.distributed.world import World
from tests import fixtures, launcher
from tests.parallel.driver import Entry, drive, entry
from tests.parallel.mutants import MISTAKES, SHARED_MISTAKES

PLAIN = (
    "model.dropout=0", "train.batch_size=8", "train.max_steps=100", "optim.lr=1e-3",
    "optim.warmup=0.1",
    "optim.weight_decay=0.01", "optim.clip_norm=0.3", "eval.every=50", "log.every=1",
    "log.tensorboard=false", "train.share_weights=false",  # as between machines
)  # fmt: skip
SHARED = "train.share_weights=true"  # the default, within one machine
WINDOWS = ["data.long=windows", "data.max_length=12"]  # one to four windows per text
WINDOW_MISTAKES = ("loss_per_window", "last_window_lost", "text_on_two_workers")
NO_MEMORY = "no_memory", "no_memory_to_evaluate"
NEEDS = {
    "dropout_per_rank": ["model.dropout=0.1"],
    **dict.fromkeys(WINDOW_MISTAKES, WINDOWS),
    "accumulated_means": ["train.token_budget=60"],
    "reduced_too_early": ["train.token_budget=40"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.parallel)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides for the tiny encoder and dataset: 45 rows train, 3 validation, 82 test."""
    folder = tmp_path_factory.mktemp("parts")
    model, corpus = fixtures.model(folder / "model"), fixtures.corpus(folder / "corpus")
    fixtures.task_corpus(folder / "corpus-tasks")
    return f"data.source={corpus}", f"model.name={model}", "data.max_length=40", "optim.name=adamw"


def but(words: Sequence[str], *changes: str) -> list[str]:
    """Overrides with some of them changed."""
    return [*{word.partition("=")[0]: word for word in (*words, *changes)}.values()]


def task_words(plain: Sequence[str], task: str) -> list[str]:
    """Overrides for a short run of the task: 45 rows train, 13 validation, 29 test."""
    corpus = next(word for word in plain if word.startswith("data.source="))
    short = ["train.max_steps=18", "eval.every=6", "optim.lr=1e-3"]
    return but(plain, f"{corpus}-tasks", *short, *fixtures.TASKS[task])


def plan(base: Sequence[str], np: int) -> list[Entry]:
    """The runs at -np `np`: 45 rows in batches of 8, so that every sixth batch has 5."""
    plain = [*base, *PLAIN]
    dropout = but(
        plain, "model.dropout=0.1", "eval.every=end"
    )  # so that model/ gets the last weights, not the best
    tiny = but(dropout, "train.batch_size=2", "train.max_steps=30", "train.token_budget=40")
    short = but(plain, "train.max_steps=18", "eval.every=end")
    windows = but(dropout, *WINDOWS, "train.max_steps=30", "train.token_budget=60")
    entries = [entry("plain", plain), entry("dropout", dropout), entry("tiny", tiny)]
    entries += [entry("windows", windows)]
    if np in (1, 2):
        entries += [entry("short-windows", but(short, *WINDOWS))]
        entries += [entry("short", short), entry("short-dropout", but(short, "model.dropout=0.1"))]
        entries += [entry("trainer", but(plain, "optim.lr=1e-4", "eval.every=end"))]
    # The weights stay as they are, so that gradients of single examples can be computed afterwards.
    noise = but(short, "optim.lr=1e-12", "train.max_steps=24", "train.token_budget=60")
    if np > 1:
        entries += [entry("noise", noise)]
    for task in fixtures.TASKS:
        entries.append(entry(task, task_words(plain, task)))
    if np > 1:
        entries += [entry("dropout-again", dropout)]
        half = but(short, "model.dropout=0.1", "train.precision=bf16", "train.token_budget=60")
        # In the last batch of an epoch, a worker has no rows, but gradients of an earlier step.
        tiny_half = but(tiny, "train.precision=bf16")
        entries += [entry("half", half), entry("tiny-half", tiny_half)]
        both = {"plain": plain, "tiny": tiny, "dropout": dropout, "dropout-again": dropout}
        both |= {"noise": noise, "half": half, "tiny-half": tiny_half}
        entries += [entry(f"shared-{name}", but(words, SHARED)) for name, words in both.items()]
    if np == 2:
        entries += [entry("noise-scaled", noise, "loss_scaled")]
        entries += [entry("rows_not_squared", noise, "rows_not_squared")]
        entries += [entry(name, short, name) for name in ("loss_scaled", "all_rows", *NO_MEMORY)]
        entries += [entry(name, but(short, *NEEDS.get(name, ())), name) for name in MISTAKES]
        entries += [entry(name, but(short, SHARED), name) for name in SHARED_MISTAKES]
        entries += [entry(f"shared-{name}", but(short, SHARED), name) for name in NO_MEMORY]
    return entries


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, parts: tuple[str, ...]
) -> Callable[[int], Path]:
    """np -> the folder with the runs of `plan(np)`, trained when first used.

    np 1 needs no launcher and no Horovod.
    """

    @cache
    def trained(np: int) -> Path:
        folder = tmp_path_factory.mktemp(f"np{np}")
        entries = plan((*parts, f"run.dir={folder}"), np)
        if np == 1:
            drive(entries, World())
            return folder
        (folder / "plan.json").write_text(json.dumps(entries))
        ended = launcher.run(
            "-m", "tests.parallel.driver", str(folder / "plan.json"), np=np, timeout=1700
        )
        assert ended.code == 0, ended.output
        print(f"np {np}: {ended.seconds:.0f} s")
        return folder

    return trained
