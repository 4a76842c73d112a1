"""prepare: the same bytes from any number of ranks, and one line for all when anything is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from distsent import prepare
from distsent.data.tokens.store import TokenStore, open_token_store
from distsent.distributed.mpi import MpiWorld
from distsent.distributed.world import World
from tests import tiny_models
from tests.dataset_files import data, folder, mistakes, own_cache, reviews, tokenizer  # noqa: F401
from tests.parallel.driver import NoSignals

MPIRUN = shutil.which(
    "mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.usefixtures("own_cache")]
parallel = [pytest.mark.parallel, pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job on a small dataset, its store in `store`."""
    folder(
        tmp_path / "dataset", train=reviews(82), validation=reviews(10, 200), test=reviews(2, 300)
    )
    tiny_models.encoder().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(tokenizer()), intermediate_size=8, **sizes)
    BertModel(config).save_pretrained(tmp_path / "model")
    path = tmp_path / "job.toml"
    path.write_text(
        f'[data]\nsource = "{tmp_path / "dataset"}"\nmax_length = 12\nstore = '
        f'"{tmp_path / "store"}"\n'
        f'[model]\nname = "{tmp_path / "model"}"\n'
    )
    return path


def run(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [str(MPIRUN), "--oversubscribe", "-np", str(ranks)] if ranks else []
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [*launcher, sys.executable, "-m", "distsent.prepare", *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)


def only(home: Path) -> Path:
    (store,) = (path for path in home.iterdir() if path.suffix != ".lock")
    return store


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_the_folders_of_the_stores_are_listed_in_a_file(job: Path, tmp_path: Path):
    """Each seed cuts its own validation split here, so each has its own store."""
    (tmp_path / "dataset/validation.parquet").unlink()
    keys = ["data.validation_fraction=0.2", "train.seed=[1, 2]"]
    done = run(0, job, *keys, "--store-list", tmp_path / "list")
    assert done.returncode == 0, done.stderr
    stores = (tmp_path / "list").read_text().splitlines()
    assert len(set(stores)) == 2
    assert all((Path(store) / "meta.json").is_file() for store in stores)


def test_alone_it_leaves_what_train_will_open(job: Path, tmp_path: Path):
    done = run(0, job)
    assert done.returncode == 0, done.stderr
    store = only(tmp_path / "store")
    dataset = data(tmp_path / "dataset")
    assert content(
        open_token_store(dataset, 42, tokenizer(), 12, tmp_path / "other", workers=World()).folder
    ) == content(store)
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "split",
        "rows",
        "classes",
        "tokens",
        "mean",
        "longest",
        "truncated",
    ]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["train", "82", "2"],
        ["validation", "10", "2"],
        ["test", "2", "2"],
    ]
    assert lines[-1] == f"token store: {store}"
    # On a busy machine the work takes long enough for a line of progress
    errors = [line for line in done.stderr.splitlines() if not line.startswith("tokenizing: ")]
    assert "are truncated" in done.stdout and errors == []


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("_", [pytest.param(None, marks=parallel, id="mpirun")])
def test_any_number_of_ranks_leaves_the_same_bytes(job: Path, tmp_path: Path, ranks: int, _: None):
    """Also where a split has fewer rows than there are ranks."""
    done = run(ranks, job)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("token store:") == 1
    store = only(tmp_path / "store")
    alone = open_token_store(
        data(tmp_path / "dataset"), 42, tokenizer(), 12, tmp_path / "other", workers=World()
    ).folder
    assert content(store) == content(alone)


@pytest.mark.parallel
@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
def test_a_bad_dataset_ends_all_ranks_with_one_line(job: Path, tmp_path: Path):
    done = run(2, job, "data.text_column=txt")
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("distsent:")]
    assert said[0] == (
        "distsent: train.parquet: no column 'txt' (data.text_column); did you mean 'text'? there "
        "are text, label"
    )
    assert "data.text_column=text" in said[1]
    assert len(said) == 2 and "Traceback" not in done.stderr
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


FAILS_ON_RANK_1 = """
import os, signal, sys, threading
from distsent import cli, prepare
from distsent.data.tokens import tokenize
from distsent.errors import UserError
from distsent.runtime.signals import StopSignal
from mpi4py import MPI

heard, request = threading.Event(), StopSignal.request
StopSignal.request = lambda self, reason: request(self, reason) or heard.set()

encode = tokenize.BatchTokenizer.__call__
def failing(self, texts, pairs):
    if MPI.COMM_WORLD.rank == 1:
        {act}
    return encode(self, texts, pairs)
tokenize.BatchTokenizer.__call__ = failing
cli.run(prepare.main)
"""


@pytest.mark.parallel
@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
@pytest.mark.parametrize(
    ("act", "codes", "line"),
    [
        ("raise UserError('row 50 is odd')", [2], "distsent: rank 1: row 50 is odd"),
        ("raise KeyError('x')", [1, 2], "KeyError: 'x'"),
        (
            "os.kill(os.getpid(), signal.SIGUSR1); heard.wait(30)",
            [75],
            "distsent: stop requested: SIGUSR1; run the same command again\n",
        ),
    ],
)
def test_an_error_or_a_stop_on_one_rank_ends_them_all(
    job: Path, tmp_path: Path, act: str, codes: list[int], line: str
):
    script = tmp_path / "fails.py"
    script.write_text(FAILS_ON_RANK_1.format(act=act))
    env = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [str(MPIRUN), "--oversubscribe", "-np", "2", sys.executable, str(script), str(job)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode in codes, done.stderr
    assert line in done.stderr
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere.toml"], "distsent: "),
        (["data.sourc=demo"], "data.source"),
        (["--rows"], "python -m distsent.prepare: "),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], line: str):
    done = run(0, *arguments)
    assert done.returncode == 2 and line in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_a_launcher_without_mpi4py(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert mistakes(prepare.join_workers) == [
        "OMPI_COMM_WORLD_SIZE=4 promises 4 ranks, but mpi4py cannot be imported (import of "
        "mpi4py halted; None in "
        "sys.modules): pip install mpi4py, or start without a launcher, or with torchrun"
    ]


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert (prepare.join_workers().rank, prepare.join_workers().size) == (0, 1)


class FakeCommunicator:
    """A communicator whose other ranks send `texts`."""

    rank, size = 0, 3

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def allgather(self, value: object) -> list[object]:
        return [value, *self.texts]


def test_all_ranks_raise_the_first_error_of_any_rank():
    failed = json.dumps({"lines": ["the third failed", "twice"], "code": 2})
    world = MpiWorld(FakeCommunicator("null", failed))
    assert mistakes(lambda: world.all_or_raise(lambda: "well", "test")) == [
        "rank 2: the third failed",
        "rank 2: twice",
    ]
    assert MpiWorld(FakeCommunicator("null", "null")).on_main(lambda: "well", "test") == "well"


def test_the_table(tmp_path: Path):
    rows = {"text": ["good"] * 3 + ["very " * 20], "label": [0, 1, 0, 1]}
    store = open_token_store(
        data(folder(tmp_path / "x", train=rows, test=reviews(6))),
        1,
        tokenizer(),
        12,
        tmp_path / "s",
        workers=World(),
    )
    assert isinstance(store, TokenStore)
    assert prepare.format_store(store).splitlines()[:2] == [
        "split            rows classes         tokens   mean longest truncated",
        "train               4       2             21    5.2      12     25.0%",
    ]


def test_progress_is_printed_every_few_seconds(capsys: pytest.CaptureFixture[str]):
    progress = prepare.Progress(True, NoSignals(), seconds=0.0)
    for done in (0, 1000, 2500):
        progress(done, 2500)
    progress(0, 0)
    assert capsys.readouterr().err.splitlines() == [
        "tokenizing: 0 of 2,500 rows",
        "tokenizing: 1,000 of 2,500 rows",
        "tokenizing: 2,500 of 2,500 rows",
    ]
    for shown, seconds in ((True, 60.0), (False, 0.0)):
        prepare.Progress(shown, NoSignals(), seconds)(1000, 2500)
    assert capsys.readouterr().err == ""
