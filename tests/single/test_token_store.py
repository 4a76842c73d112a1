"""The token store: the tokenizer's own tokens, built once, complete or absent, whatever happens."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distsent.data.dataset import open_dataset
from distsent.data.tokens import tokenize
from distsent.data.tokens.batch_tokenizer import BatchTokenizer
from distsent.data.tokens.builder import damage
from distsent.data.tokens.store import TokenStore, open_token_store
from distsent.data.tokens.tokenize import join_parts, write_part
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.formats.read_as import ReadAs
from distsent.formats.records import is_blank
from distsent.job import load_job
from distsent.job.schema import DataSection
from distsent.runtime.signals import StopSignal
from distsent.training import inputs
from tests.dataset_files import data, folder, mistakes, own_cache, reviews, tokenizer  # noqa: F401

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def dataset(tmp_path: Path) -> DataSection:
    return data(
        folder(
            tmp_path / "dataset",
            train=reviews(82),
            validation=reviews(10, 200),
            test=reviews(7, 300),
        )
    )


def made(dataset: DataSection, home: Path, length: int = 12, **keys: Any) -> TokenStore:
    return open_token_store(dataset, 1, tokenizer(), length, home, workers=World(), **keys)


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def visible(home: Path) -> list[str]:
    """What is in the folder of stores, without locks."""
    return sorted(path.name for path in home.iterdir() if not path.name.endswith(".lock"))


def test_tokens_are_the_tokenizers_own(dataset: DataSection, tmp_path: Path):
    store, own = made(dataset, tmp_path / "s"), tokenizer()
    for name, split in open_dataset(dataset, 1).splits.items():
        tokens = store.splits[name]
        texts = split.texts(slice(None))
        ids = own(texts, truncation=True, max_length=12)["input_ids"]
        assert [tokens[row].tolist() for row in range(len(tokens))] == ids
        assert tokens.lengths().tolist() == [len(row) for row in ids]
        assert tokens.labels.tolist() == split.labels.tolist()
        assert tokens.rows.tolist() == split.rows.tolist()
        assert tokens.truncated == sum(len(row) > 12 for row in own(texts)["input_ids"]) > 0
        assert tokens.types is None
    assert store.label_names == ("0", "1")


def test_arrays_are_mapped_and_small(dataset: DataSection, tmp_path: Path):
    tokens = made(dataset, tmp_path / "s").splits["train"]
    kinds = {what: getattr(tokens, what) for what in ("ids", "offsets", "labels", "rows")}
    assert all(isinstance(array, np.memmap) for array in kinds.values())
    assert {what: str(array.dtype) for what, array in kinds.items()} == {
        "ids": "uint16", "offsets": "int64", "labels": "int32", "rows": "int64"
    }  # fmt: skip


def test_a_large_vocabulary_takes_larger_numbers(dataset: DataSection, tmp_path: Path):
    large = tokenizer()
    large.add_tokens([f"word{i}" for i in range(66_000)])
    store = open_token_store(dataset, 1, large, 12, tmp_path / "s", workers=World())
    assert store.splits["train"].ids.dtype == np.int32


def test_pairs_carry_their_types(tmp_path: Path):
    columns = {
        "text": ["the plot", "a film"],
        "more": ["was not good", "very bad, very very bad"],
        "label": [0, 1],
    }
    pairs = data(folder(tmp_path / "x", train=columns, test=columns), pair_column="more")
    store, own = made(pairs, tmp_path / "s", length=9), tokenizer()
    expected = own(columns["text"], columns["more"], truncation=True, max_length=9)
    tokens = store.splits["train"]
    assert tokens.types is not None
    for row in range(2):
        assert tokens[row].tolist() == expected["input_ids"][row]
        assert tokens.types[tokens.span(row)].tolist() == expected["token_type_ids"][row]
    assert tokens.truncated == 1
    without = tokenizer(model_input_names=["input_ids", "attention_mask"])
    assert (
        open_token_store(pairs, 1, without, 9, tmp_path / "s", workers=World())
        .splits["train"]
        .types
        is None
    )


def test_the_side_that_is_cut_is_the_tokenizers_choice(dataset: DataSection, tmp_path: Path):
    left = tokenizer(truncation_side="left")
    texts = open_dataset(dataset, 1).splits["train"].texts(slice(None))
    tokens = open_token_store(dataset, 1, left, 7, tmp_path / "s", workers=World()).splits["train"]
    expected = left(texts, truncation=True, max_length=7)["input_ids"]
    assert [tokens[row].tolist() for row in range(len(tokens))] == expected


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(
            lambda text: not is_blank(text) and len(tokenizer()(text)["input_ids"]) > 2
        ),
        min_size=2,
        max_size=8,
    ),
    length=st.integers(4, 20),
)
def test_any_text_becomes_the_tokenizers_tokens(tmp_path: Path, texts: list[str], length: int):
    rows = {"text": [*texts, *texts], "label": [i % 2 for i in range(2 * len(texts))]}
    home = tmp_path / str(time.monotonic_ns())
    store = made(data(folder(home / "x", train=rows, test=rows)), home / "s", length)
    expected = tokenizer()(texts, truncation=True, max_length=length)["input_ids"]
    assert [store.splits["test"][row].tolist() for row in range(len(texts))] == expected


def test_warnings_and_the_share_of_cut_texts(tmp_path: Path):
    rows = {"text": ["good"] * 3 + ["very " * 20], "label": [0, 1, 0, 1]}
    twice = data(
        folder(tmp_path / "x", train=rows, test={"text": ["good", "bad"], "label": [0, 1]})
    )
    for _ in range(2):
        assert made(twice, tmp_path / "s").warnings == [
            "test: 1 of 2 texts are in train, too; scores on them are too high",
            "train: 1 of 4 texts (25.0%) have more than 12 tokens and are truncated",
        ]


# once


def test_a_ready_store_is_not_read_checked_or_made_again(
    dataset: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = made(dataset, tmp_path / "s")

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("distsent.data.dataset.TextDataset.find_warnings", never)
    monkeypatch.setattr(tokenize.BatchTokenizer, "__call__", never)
    monkeypatch.setattr("distsent.data.files.Files.parts", never)
    assert made(dataset, tmp_path / "s").folder == first.folder


def test_what_changes_the_tokens_changes_the_store(dataset: DataSection, tmp_path: Path):
    other = tokenizer()
    other.add_tokens(["film"])
    home = tmp_path / "s"
    made(dataset, home)
    made(dataset, home, length=11)
    open_token_store(dataset, 1, other, 12, home, workers=World())
    open_token_store(dataset, 1, tokenizer(do_lower_case=False), 12, home, workers=World())
    assert len(visible(home)) == 4


def test_the_state_of_the_tokenizer_does_not(dataset: DataSection, tmp_path: Path):
    used = tokenizer()
    used(["a film", "b"], padding=True, truncation=True, max_length=3)
    open_token_store(dataset, 1, used, 12, tmp_path / "s", workers=World())
    before = content(made(dataset, tmp_path / "s").folder)
    assert len(visible(tmp_path / "s")) == 1
    assert content(made(dataset, tmp_path / "t").folder) == before


# complete or absent


@pytest.mark.parametrize("harm", ["shorter", "missing", "no meta", "half a meta", "odd meta"])
def test_a_damaged_store_is_made_again_with_a_line(dataset: DataSection, tmp_path: Path, harm: str):
    store = made(dataset, tmp_path / "s").folder
    before = content(store)
    ids, meta = store / "train.ids.npy", store / "meta.json"
    whole = ids.stat().st_size
    {
        "shorter": lambda: os.truncate(ids, 140),
        "missing": ids.unlink,
        "no meta": meta.unlink,
        "half a meta": lambda: os.truncate(meta, 100),
        "odd meta": lambda: meta.write_text("[]"),
    }[harm]()
    why = {
        "shorter": f"train.ids.npy has 140 bytes instead of {whole:,}",
        "missing": "train.ids.npy is missing",
        "no meta": "meta.json is missing",
        "half a meta": "meta.json is not readable",
        "odd meta": "meta.json is not readable",
    }[harm]
    assert damage(store) == why
    assert mistakes(lambda: TokenStore.open(store)) == [
        f"{store}: not a complete token store ({why})"
    ]
    said: list[str] = []
    assert content(made(dataset, tmp_path / "s", log=said.append).folder) == before
    assert said == [f"{store}: the token store is damaged ({why}); building it again"]
    assert visible(tmp_path / "s") == [store.name]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    dataset: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("sync", "_join", "_write"):
        with monkeypatch.context() as patch:
            patch.setattr(tokenize, place, full)
            assert mistakes(lambda: made(dataset, tmp_path / "s")) == [
                f"{tmp_path / 's'}: no space left for the token store; free some, or choose "
                "another data.store"
            ]
        assert visible(tmp_path / "s") == []


def test_a_folder_that_cannot_be(dataset: DataSection, tmp_path: Path):
    (tmp_path / "file").touch()
    assert mistakes(lambda: made(dataset, tmp_path / "file" / "s")) == [
        f"{tmp_path / 'file' / 's'}: the token store cannot be written (Not a directory); see "
        "data.store"
    ]


def test_a_bad_dataset_leaves_nothing(tmp_path: Path):
    bad = data(folder(tmp_path / "x", train={"text": ["a", ""], "label": [0, 1]}, test=reviews(2)))
    with pytest.raises(UserError):
        made(bad, tmp_path / "s")
    assert visible(tmp_path / "s") == []


def test_being_stopped_leaves_nothing(dataset: DataSection, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(dataset, tmp_path / "s", progress=stop)
    assert visible(tmp_path / "s") == []


def test_progress_is_reported(
    dataset: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokenize, "BATCH", 40)
    told: list[tuple[int, int]] = []
    made(dataset, tmp_path / "s", progress=lambda done, total: told.append((done, total)))
    assert told == [(40, 99), (80, 99), (82, 99), (92, 99), (99, 99)]


def test_lengths_that_leave_no_room_for_a_text(dataset: DataSection, tmp_path: Path):
    assert mistakes(lambda: made(dataset, tmp_path / "s", length=2)) == [
        "data.max_length = 2: 2 special tokens fill that"
    ]


# several processes


def test_others_wait_for_the_one_that_builds(dataset: DataSection, tmp_path: Path):
    home, begun, go = tmp_path / "s", threading.Event(), threading.Event()

    def slowly(done: int, total: int) -> None:
        begun.set()
        assert go.wait(20)

    builder = threading.Thread(target=lambda: made(dataset, home, progress=slowly))
    builder.start()
    assert begun.wait(20)
    said: list[str] = []
    heard: list[tuple[int, int]] = []

    def listen(done: int, total: int) -> None:
        heard.append((done, total))
        go.set()

    store = made(dataset, home, log=said.append, progress=listen)
    builder.join()
    assert said == [
        f"waiting for process {os.getpid()} on {os.uname().nodename}, which is building the same "
        "token store"
    ]
    assert set(heard) == {(0, 0)} and visible(home) == [store.folder.name]


def test_two_builders_without_locks_do_no_harm(
    dataset: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on file systems that have no locks: the second finishes while the first is at work.

    Both on hosts of one name, as in containers.
    """

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    without = SimpleNamespace(flock=no_locks, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    monkeypatch.setattr("distsent.lock.fcntl", without)
    inner: list[TokenStore] = []
    said: list[str] = []
    outer = made(
        dataset,
        tmp_path / "s",
        progress=lambda done, total: inner.append(made(dataset, tmp_path / "s")),
        log=said.append,
    )
    assert ["has no locks" in line for line in said] == [True]
    assert inner[0].folder == outer.folder and visible(tmp_path / "s") == [outer.folder.name]
    assert damage(outer.folder) is None


CHILD = """
import os, signal, sys, time
from pathlib import Path
from distsent.data.tokens import builder, store as token_store, tokenize
from distsent.distributed.world import World
from tests.dataset_files import data, tokenizer

source, home, begin, death = sys.argv[1:]
tokenize.BATCH = 20
write_part, join = token_store.write_part, tokenize._join

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def build(*arguments):
    print("built", flush=True)
    die() if death == "begin" else None
    return write_part(*arguments)

def progress(done, total):
    die() if death == "write" and done else None

token_store.write_part = build
if death == "join":
    tokenize._join = lambda *a: (join(*a), die())
if death == "meta":
    tokenize.sync = lambda path: die() if path.name == "meta.json" else None
if death == "rename":
    builder._publish = lambda *a: die()
print("here", flush=True)
while not os.path.exists(begin):
    time.sleep(0.001)
store = token_store.open_token_store(
    data(source), 1, tokenizer(), 12, Path(home), workers=World(), progress=progress
)
print(store.folder, flush=True)
"""


def child(dataset: DataSection, home: Path, begin: Path, death: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, dataset.source, str(home), str(begin), death]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_four_processes_together_build_once(dataset: DataSection, tmp_path: Path):
    begin = tmp_path / "begin"
    processes = [child(dataset, tmp_path / "s", begin) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
    begin.touch()
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ends
    assert sum(out.count("built") for out, _ in ends) == 1
    (name,) = visible(tmp_path / "s")
    assert content(tmp_path / "s" / name) == content(made(dataset, tmp_path / "alone").folder)


def test_killed_at_any_moment_the_next_one_builds(dataset: DataSection, tmp_path: Path):
    begin = tmp_path / "go"
    begin.touch()
    deaths = ("begin", "write", "join", "meta", "rename")
    processes = {death: child(dataset, tmp_path / death, begin, death) for death in deaths}
    expected = content(made(dataset, tmp_path / "alone").folder)
    for death, process in processes.items():
        out, err = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, (death, out, err)
        (left,) = visible(tmp_path / death)
        assert left.startswith(".")  # a temporary folder, and nothing that looks like a store
        store = made(dataset, tmp_path / death)
        assert content(store.folder) == expected
        assert visible(tmp_path / death) == [store.folder.name]


def test_meta_tells_what_is_inside(dataset: DataSection, tmp_path: Path):
    store = made(dataset, tmp_path / "s")
    meta = json.loads((store.folder / "meta.json").read_text())
    train = meta["splits"]["train"]
    assert (train["rows"], train["classes"], train["longest"]) == (82, [41, 41], 12)
    assert train["tokens"] == len(store.splits["train"].ids)
    assert set(meta["files"]) == {path.name for path in store.folder.iterdir()} - {"meta.json"}
    assert str(tmp_path) not in json.dumps(meta)


def test_scored_rows_know_their_file_and_their_row_in_it(tmp_path: Path):
    several = folder(
        tmp_path / "files", ".csv", train=reviews(40), a=reviews(7, 100), b=reviews(5, 200)
    )
    parts = ["test" if i % 3 == 0 else "train" for i in range(40)]
    column = folder(tmp_path / "column", ".csv", all={**reviews(40), "partition": parts})
    pool = folder(tmp_path / "pool", ".csv", train=reviews(30), test=reviews(10, 300))
    for split, start in (("train", 0), ("test", 100)):
        for i, text in enumerate(reviews(20, start)["text"]):
            path = tmp_path / "texts" / split / ("pos" if i % 2 else "neg") / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    cases = {
        "files": data(several, train="train.csv", test=("a.csv", "b.csv")),
        "column": data(column / "all.csv", split_column="partition"),
        "pool": data(pool, pool_splits=True, test_fraction=0.3),
        "texts": data(tmp_path / "texts"),
    }
    for case, keys in cases.items():
        store, split = made(keys, tmp_path / "s"), open_dataset(keys, 1).splits["test"]
        places = [store.place("test", i) for i in range(len(split))]
        for (file, row), text in zip(places, split.texts(slice(None)), strict=True):
            there = (tmp_path / case / file).read_text().split("\n")
            assert (there[0] if case == "texts" else there[row]).startswith((text, f'"{text}"'))
        assert len({file for file, _ in places}) == {"column": 1, "texts": 20}.get(case, 2)
        assert (store.splits["test"].places is None) == (case in ("files", "pool"))


EMPTY = ["\u200b\ufeff", "[PAD] [SEP]", "\u2028", "[CLS]"]  # no ink, or nothing but special tokens


def with_empty_texts(path: Path) -> Path:
    texts = [*reviews(40)["text"], *EMPTY[:2], *reviews(40, 40)["text"], *EMPTY[2:]]
    return folder(
        path, ".csv", train={"text": texts, "label": [i % 2 for i in range(len(texts))]},
        test={"text": ["a film", "[MASK]", "\U0001f602"], "label": [0, 1, 1]},
    )  # fmt: skip


@pytest.mark.parametrize("ranks", [1, 3])
def test_texts_of_which_nothing_is_left_are_named_or_dropped(tmp_path: Path, ranks: int):
    """Whatever the number of ranks: same lines, same bytes."""
    path = with_empty_texts(tmp_path / "x")

    def store(home: str, **keys: Any) -> TokenStore:
        dataset, encode = (
            open_dataset(data(path, **keys), 1),
            BatchTokenizer(tokenizer(), 12, False),
        )
        (tmp_path / home).mkdir()
        for rank in range(ranks):
            write_part(tmp_path / home, dataset, encode, rank, ranks, lambda done, total: None)
        join_parts(tmp_path / home, dataset, encode, ranks, dataset.find_warnings())
        return TokenStore.open(tmp_path / home)

    special = "no text (the tokenizer leaves special tokens alone of it)"
    assert mistakes(lambda: store("all")) == [
        "train.csv: 2 rows with no text (null, empty or only white space): row 41, row 83; "
        "data.drop_bad_rows = true leaves such rows out"
    ]
    path.joinpath("train.csv").write_text(
        path.joinpath("train.csv")
        .read_text()
        .replace("\u200b\ufeff", "good")
        .replace("\u2028", "bad")
    )
    assert mistakes(lambda: store("some")) == [
        f"train.csv: 2 rows with {special}: row 42, row 84",
        f"test.csv: 1 row with {special}: row 2; data.drop_bad_rows = true leaves such rows out",
    ]
    made = store("kept", drop_bad_rows=True)
    assert made.splits["train"].rows.tolist() == [i for i in range(84) if i not in (41, 83)]
    assert (len(made.splits["test"]), made.splits["test"].labels.tolist()) == (2, [0, 1])
    unknown = "test: 1 of 2 texts (50.0%) consist of words that the tokenizer does not know"
    assert [line for line in made.warnings if "truncated" not in line] == [
        f"train: dropped 2 of 84 rows with {special}",
        f"test: dropped 1 of 3 rows with {special}",
        unknown,
    ]
    one = open_token_store(
        data(path, drop_bad_rows=True), 1, tokenizer(), 12, tmp_path / "s", workers=World()
    )
    assert content(one.folder) == content(made.folder)


def test_pairs_of_which_one_text_is_nothing(tmp_path: Path):
    columns = {
        "text": ["the plot", "[SEP]", "a film", "a"], "label": [0, 1, 0, 1],
        "more": ["was not good", "good", "[PAD][PAD]", "b"],
    }  # fmt: skip
    pairs = data(folder(tmp_path / "x", train=columns, test=columns), pair_position=2)
    assert mistakes(lambda: made(pairs, tmp_path / "s", length=9))[0].startswith(
        "train.parquet: 2 rows with no text (the tokenizer leaves special tokens alone of it): "
        "row 2, row 3"
    )


def test_a_resumed_run_reads_in_doubt_what_it_recorded(
    dataset: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recorded, asked = ReadAs("csv"), list[ReadAs | None]()

    def open_store(*content: Any, recorded: ReadAs | None = None, **more: Any) -> TokenStore:
        asked.append(recorded)
        if recorded is None:
            raise UserError("in doubt")
        return made(dataset, tmp_path / "s")

    monkeypatch.setattr(inputs, "open_token_store", open_store)
    job, stop = load_job(None, []), SimpleNamespace(raise_if_requested=lambda: None)
    with pytest.raises(UserError, match="in doubt"):
        inputs.prepare_store(job, tokenizer(), World(), cast(StopSignal, stop), None)
    store = inputs.prepare_store(job, tokenizer(), World(), cast(StopSignal, stop), recorded)
    assert store.meta["splits"] and asked == [None, None, recorded]
