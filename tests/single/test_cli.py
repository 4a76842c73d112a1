"""Command lines: help, one-line errors, exit codes, and no heavy imports before them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from distsent import audit, cli, plan, prepare
from distsent.errors import HostError, NonFinite, Stopped, UserError, WorkerFailed
from distsent.job import load_job
from distsent.runtime.run_folder import write_text
from tests import fixtures, launcher

NO_MODEL = "RUN_OR_MODEL is missing: give a run folder or a saved Hugging Face model"
PROGRAMS = {  # program: a wrong command line, and its error
    "train": (["--chekc"], "unrecognized arguments: --chekc"),
    "evaluate": ([], NO_MODEL),
    "predict": (["--max-length=9"], NO_MODEL),
    "prepare": (["--workers=3"], "unrecognized arguments: --workers=3"),
    "report": ([], "the following arguments are required: RUN"),
    "doctor": (["everything"], "unrecognized arguments: everything"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_a_wrong_argument(program: str) -> None:
    help = launcher.run("-X", "importtime", "-m", f"distsent.{program}", "--help")
    assert help.code == 0 and f"usage: python -m distsent.{program} " in help.output
    heavy = ("| torch", "| transformers", "| datasets")
    assert not [line for line in help.output.splitlines() if line.endswith(heavy)]
    wrong, line = PROGRAMS[program]
    refused = launcher.run("-m", f"distsent.{program}", *wrong)
    expected = f"distsent: python -m distsent.{program}: {line}; --help lists all arguments\n"
    assert (refused.code, refused.output) == (2, expected)


@pytest.mark.parametrize(
    "words",
    [
        ["a.toml", "run.dir=x", "train.epochs=1"],
        ["run.dir=x", "a.toml", "train.epochs=1"],
        ["run.dir=x", "train.epochs=1", "a.toml"],
    ],
)
def test_the_job_file_may_be_anywhere(words: list[str]) -> None:
    assert cli.Parser("train", "").job_of(words) == ("a.toml", ["run.dir=x", "train.epochs=1"])


def test_two_job_files_are_one_line_that_names_both() -> None:
    with pytest.raises(UserError) as caught:
        cli.Parser("train", "").job_of(["imdb.toml", "train.epochs=1", "emotion.toml"])
    (line,) = caught.value.lines
    assert "'imdb.toml' and 'emotion.toml': expected one job file" in line


def test_without_a_job_file_there_are_only_overrides() -> None:
    assert cli.Parser("train", "").job_of([]) == (None, [])
    assert cli.Parser("train", "").job_of(["train.epochs=1"]) == (None, ["train.epochs=1"])
    # Not a job file: the job reports it with its other mistakes.
    assert cli.Parser("train", "").job_of(["a.b=1", "1e-3"]) == (None, ["a.b=1", "1e-3"])


@pytest.mark.parametrize("word", ["emotion", "demo", "team/reviews", "./emotion"])
def test_a_folder_in_place_of_the_job_file_is_read(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(word).mkdir(parents=True)
    job = load_job(*cli.Parser("train", "").job_of([word, "train.epochs=1"]))
    assert job.data.source == f"./{word.removeprefix('./')}"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a mistake"), 2, "a mistake"),
        (UserError("a full disk", code=1), 1, "a full disk"),
        (NonFinite("loss is nan"), 3, "loss is nan"),
        (Stopped("saved"), 75, "saved"),
        (WorkerFailed("rank 1 failed: ValueError: x"), 1, "rank 1 failed: ValueError: x"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_errors_are_one_line_on_rank_0_and_an_exit_code_on_all_ranks(
    error: Exception, code: int, line: str, rank: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def main(arguments: list[str]) -> int:
        raise error

    monkeypatch.setenv("HOROVOD_RANK", rank)
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit) as exit:
        cli.run(main)
    printed = f"distsent: {line}\n" if rank == "0" else ""
    assert (exit.value.code, *capsys.readouterr()) == (code, "", printed)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, cli.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_idle_threads_sleep_soon_unless_the_user_decides(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.os, "environ", dict(given))
    found = []
    with pytest.raises(SystemExit):
        cli.run(lambda arguments: found.append(os.environ.get("GOMP_SPINCOUNT")) or 0)
    assert found == [spins]


def test_an_error_that_keys_repair_ends_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    fix = {"data.text_column": "my text", "data.label_column": "1", "data.names": ("a", "b")}

    def main(arguments: list[str]) -> int:
        raise UserError("no column", fix=fix)

    said = ["a.toml", "data.text_column=b", "--text-column", "z", "--text-column=z", "--check"]
    monkeypatch.setattr(sys, "argv", ["folder/train.py", *said])
    with pytest.raises(SystemExit):
        cli.run(main)
    first, command = capsys.readouterr().err.splitlines()
    assert first == "distsent: no column"
    program = "distsent: try: python -m distsent.train "
    assert command.startswith(program)
    words = shlex.split(command.removeprefix(program))
    assert words[:2] == ["a.toml", "--check"]
    assert {
        key: getattr(load_job(None, ["data.source=.", *words[2:]]).data, key[5:]) for key in fix
    } == fix


@pytest.mark.parametrize(("local_rank", "printed"), [("0", "distsent: no name\n"), ("1", "")])
def test_what_is_wrong_with_a_host_is_printed_by_its_first_worker(
    local_rank: str, printed: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def main(arguments: list[str]) -> int:
        raise HostError("no name", code=1)

    monkeypatch.setenv("HOROVOD_RANK", "5")
    monkeypatch.setenv("HOROVOD_LOCAL_RANK", local_rank)
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit) as exit:
        cli.run(main)
    assert (exit.value.code, capsys.readouterr().err) == (1, printed)


def test_one_process_needs_no_horovod_no_mpi_and_no_network(tmp_path: Path) -> None:
    """A short run of the demo job, in an interpreter without these modules and connections."""
    without = """if True:
        import runpy, socket, sys
        missing = ("horovod", "mpi4py", "peft", "bitsandbytes", "matplotlib")
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in missing:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        def refuse(*address): raise OSError("no network")
        socket.socket.connect = refuse
        sys.argv = ["train", *sys.argv[1:]]
        runpy.run_module("distsent.train", run_name="__main__")
    """
    job = [
        f"run.dir={tmp_path}",
        "train.max_steps=3",
        "data.max_rows=200",
        "data.max_eval_rows=50",
        "log.tensorboard=false",
    ]
    ended = launcher.run("-c", without, *job, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hub"))
    assert ended.code == 0, ended.output
    assert "pretrained" not in ended.output, "the demo's texts suit its encoder"
    assert fixtures.result(tmp_path / "demo")["world_size"] == 1
    assert json.loads((tmp_path / "demo" / "job.json").read_text())["world_size"] == 1


IS_FOLDER = "{here}: is a folder; expected a file"
BELOW_A_FILE = "{here}/job.toml/x: {here}/job.toml is not a folder; expected a file in a folder"
NO_LIST = "{here}/job.toml: is there and is no list of token stores, so it is not replaced; "


@pytest.mark.parametrize(
    ("program", "words", "line"),
    [
        (prepare, "--store-list {here}", f"--store-list {IS_FOLDER}"),
        (prepare, "--store-list {here}/job.toml/x", f"--store-list {BELOW_A_FILE}"),
        (prepare, "--store-list {here}/job.toml", f"--store-list {NO_LIST}"),
        (prepare, "--describe --store-list {here}/list", "--describe writes no token store"),
        (audit, "run --out {here}", f"--out {IS_FOLDER}"),
        (audit, "run --out {here}/job.toml/x", f"--out {BELOW_A_FILE}"),
        (plan, "--picture {here}", f"--picture {IS_FOLDER}"),
        (plan, "--picture {here}/job.toml", "job.toml: expected a file name that ends in .png"),
    ],
)
def test_a_file_to_write_is_refused_before_the_work(
    program: ModuleType, words: str, line: str, tmp_path: Path
) -> None:
    (tmp_path / "job.toml").write_text("[train]\n")
    with pytest.raises(UserError) as caught:
        program.main(shlex.split(words.format(here=tmp_path)))
    assert caught.value.code == 2 and len(caught.value.lines) == 1
    assert line.format(here=tmp_path) in caught.value.lines[0]
    assert (tmp_path / "job.toml").read_text() == "[train]\n" and len(os.listdir(tmp_path)) == 1


def test_a_folder_in_place_of_a_file_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(cli, "drop_output", lambda: None)
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda arguments: write_text(tmp_path, "x"))
    assert (exit.value.code, capsys.readouterr().err) == (
        1,
        f"distsent: {tmp_path}: Is a directory\n",
    )
