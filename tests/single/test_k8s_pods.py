"""The first processes of launcher and worker; shell scripts replace horovodrun and ssh."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distsent.errors import UserError
from distsent.exit_policy import Decision
from distsent.k8s import __main__ as k8s
from distsent.pods import elastic, hosts, launch, serve
from distsent.pods.training_command import Training
from distsent.runtime import cgroup


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """An ssh that answers for the hosts named in a file, and logs the commands that it gets."""
    up = tmp_path / "up"
    up.write_text("")
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nshift 4\necho "$@" >>{tmp_path}/asked\ngrep -qx "$1" {up} && exit 0\n'
        'echo "ssh: connect to host $1: refused" >&2\nexit 255\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return up


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return str(path)


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    """The launcher's program, with its mark in the test's own folder."""
    (tmp_path / "termination-log").touch()
    code = (
        "from pathlib import Path; from distsent import cli; "
        "from distsent.k8s import __main__ as m; from distsent.pods import launch as l; "
        "from distsent.pods import restarts as r, training_command as t; "
        f"l.launch.__defaults__ = (Path({str(tmp_path / 'mark')!r}),); "
        f"l.TERMINATION_LOG = Path({str(tmp_path / 'termination-log')!r}); "
        "r.PAUSE, t.LINGER, l.LOOK = 0.01, 1.0, 0.2; cli.run(m.main)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "launch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_hosts_of_a_command(tmp_path):
    file = tmp_path / "hostfile"
    file.write_text("a.svc slots=2\nb.svc slots=2\n")
    for words in (["--hostfile", str(file)], ["-hostfile", str(file)], [f"--hostfile={file}"]):
        assert hosts.hosts_of(["horovodrun", "-np", "4", *words]) == {"a.svc": 2, "b.svc": 2}
    assert hosts.hosts_of(["horovodrun", "-H", "a:2,b", "python"]) == {"a": 2, "b": 1}
    assert hosts.hosts_of(["python"]) == {}
    file.write_text("# three\n\na.svc slots=2\nb.svc\n")
    assert hosts.hosts_of(["mpirun", "--hostfile", str(file)]) == {"a.svc": 2, "b.svc": 1}
    with pytest.raises(UserError, match="operator writes it"):
        hosts.hosts_of(["horovodrun", "--hostfile", str(tmp_path / "none"), "python"])
    file.write_text("\n")
    with pytest.raises(UserError, match="names no host"):
        hosts.hosts_of(["horovodrun", "--hostfile", str(file), "python"])


def test_horovodrun_gets_the_size_from_the_hosts_unless_it_is_told():
    two = {"a": 2, "b": 1}
    words = ["/venv/bin/horovodrun", "--hostfile", "f", "python"]
    assert hosts.with_size(words, two) == [words[0], "-np", "3", *words[1:]]
    for told in (["-np", "2"], ["--num-proc", "2"], ["--num-proc=2"]):
        command = ["horovodrun", *told, "python"]
        assert hosts.with_size(command, two) == command
    assert hosts.with_size(["mpirun", "python"], two) == ["mpirun", "python"], "it counts slots"
    assert hosts.with_size(["horovodrun", "python"], {}) == ["horovodrun", "python"]


def test_a_launcher_that_could_not_pass_a_stop_on_is_refused():
    for option in ("--gloo", "--host-discovery-script=./hosts.sh"):
        words = ["launch", "--", "horovodrun", option, "python"]
        with pytest.raises(UserError, match="no stop request reaches the workers") as error:
            k8s.main(words)
        assert error.value.code == 2


def test_missing_pods_are_named_as_they_are_called_there():
    mpijob = hosts.advice("a-worker-1.a.ns.svc")
    assert "kubectl -n ns describe pod a-worker-1;" in mpijob and "delete pod" in mpijob
    trainjob = hosts.advice("my-job-node-0-11.my-job")
    assert "its pod is my-job-node-0-11-xxxxx" in trainjob and "delete" not in trainjob
    assert trainjob.endswith(
        "describe pod -l jobset.sigs.k8s.io/jobset-name=my-job,"
        "jobset.sigs.k8s.io/replicatedjob-name=node,batch.kubernetes.io/job-completion-index=11"
    )
    for name in ("x-node-0-0-worker-0.x-node-0-0.ns.svc", "node-0-1"):
        assert "xxxxx" not in hosts.advice(name), name


def test_the_command_runs_when_all_workers_answer(tmp_path, ssh):
    (tmp_path / "hostfile").write_text("a slots=1\nb slots=1\n")
    ssh.write_text("a\n")
    run = script(tmp_path / "horovodrun", f"echo ran >{tmp_path}/ran; exit 0\n")
    process = start(tmp_path, "--wait", "30", "--", run, "--hostfile", str(tmp_path / "hostfile"))
    asked = tmp_path / "asked"
    wait_until(lambda: asked.exists() and "b true" in asked.read_text())
    time.sleep(0.5)
    assert not (tmp_path / "ran").exists(), "one of two answers"
    ssh.write_text("a\nb\n")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and (tmp_path / "ran").exists()
    assert "waiting for 1 of 2 workers: b:" in said


def test_workers_that_never_answer_are_named(tmp_path, ssh):
    (tmp_path / "hostfile").write_text("a slots=1\njob-worker-1.job.ns.svc slots=1\n")
    ssh.write_text("a\n")
    process = start(tmp_path, "--wait", "1", "--", "true", "--hostfile", str(tmp_path / "hostfile"))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert (
        "job-worker-1.job.ns.svc does not answer after 1 s" in said
        and "kubectl -n ns describe pod job-worker-1" in said
        and "if it is Evicted, kubectl -n ns delete pod job-worker-1" in said
    )


def test_the_command_gets_a_file_in_place_of_a_token_and_no_other_secrets(
    tmp_path, monkeypatch, capfd
):
    for name, value in {"HF_TOKEN": "hf_hidden", "WANDB_API_KEY": "w_hidden"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    keep = f"env >{tmp_path}/env; cp $HF_TOKEN_PATH {tmp_path}/token\n"
    Training().run([script(tmp_path / "run", keep)], lambda: None, 60.0)
    assert "hidden" not in (tmp_path / "env").read_text()
    assert (tmp_path / "token").read_text() == "hf_hidden" and not [*tmp_path.glob("*token-*")]
    assert capfd.readouterr().out == "distsent: unset for the command: HF_TOKEN, WANDB_API_KEY\n"


@pytest.mark.parametrize(("code", "again"), [(2, 2), (3, 3), (75, 1), (1, 1)])
def test_only_failures_that_retries_cannot_fix_are_remembered(tmp_path, ssh, code, again):
    (tmp_path / "hostfile").write_text("a slots=1\n")
    ssh.write_text("a\n")
    run = script(tmp_path / "horovodrun", f"echo ran >>{tmp_path}/ran; exit {code}\n")
    words = ("--", run, "--hostfile", str(tmp_path / "hostfile"))
    assert start(tmp_path, *words).wait(30) == again
    second = start(tmp_path, *words)
    said, _ = second.communicate(timeout=300)
    is_final = code in (2, 3)
    assert second.returncode == again and ("not tried again" in said) == is_final
    # After 75 a launcher starts the run again by itself, up to five times without progress.
    runs = {2: 1, 3: 1, 75: 2 * 5, 1: 2}[code]
    assert (tmp_path / "ran").read_text().count("ran") == runs
    assert ("a kill -TERM 1" in (tmp_path / "asked").read_text()) == is_final, "workers are stopped"


def test_workers_of_a_jobset_are_left_to_it(tmp_path, ssh):
    (tmp_path / "hostfile").write_text("a slots=1\nb slots=2\n")
    ssh.write_text("a\nb\n")
    run = script(tmp_path / "horovodrun", f'echo "$@" >{tmp_path}/ran; exit 2\n')
    words = ("--keep-workers", "--", run, "--hostfile", str(tmp_path / "hostfile"))
    assert start(tmp_path, *words).wait(30) == 2
    assert "kill" not in (tmp_path / "asked").read_text()
    assert (tmp_path / "ran").read_text().startswith("-np 3 --hostfile")


def test_sigterm_becomes_sigusr1_for_mpirun_and_the_exit_code_is_the_runs(tmp_path):
    (tmp_path / "bin").mkdir()
    mpirun = script(
        tmp_path / "bin" / "mpirun",
        f"trap 'echo saved >{tmp_path}/saved; exit 75' USR1\ntouch {tmp_path}/running\n"
        "while :; do sleep 0.1; done\n",
    )
    process = start(tmp_path, "--", script(tmp_path / "horovodrun", f"sh -c '{mpirun}; exit $?'\n"))
    wait_until((tmp_path / "running").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75 and (tmp_path / "saved").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_before_the_ranks_listen_is_a_stop(tmp_path, number):
    process = start(
        tmp_path,
        "--",
        script(tmp_path / "horovodrun", f"touch {tmp_path}/running; exec sleep 60\n"),
    )
    wait_until((tmp_path / "running").exists)
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(30) == 75


def test_elastic_relaunches_when_the_hosts_change(tmp_path, ssh):
    ssh.write_text("a\nb\nc\n")
    (tmp_path / "list").write_text("a\n")
    discover = script(tmp_path / "discover", f"cat {tmp_path}/list\n")
    run = script(
        tmp_path / "horovodrun",
        f'echo "$@" >>{tmp_path}/ran\n[ "$2" = 4 ] && exit 0\ntrap "exit 75" USR1\n'
        f"touch {tmp_path}/running\nwhile :; do sleep 0.1; done\n",
    )
    process = start(
        tmp_path,
        "--elastic",
        discover,
        "--slots",
        "2",
        "--max-np",
        "4",
        "--poll",
        "0.5",
        "--",
        run,
        "python",
    )
    wait_until((tmp_path / "running").exists)
    (tmp_path / "list").write_text("a\nb\nc\n")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert (tmp_path / "ran").read_text().splitlines() == [
        "-np 2 -H a:2 python",
        "-np 4 -H a:2,b:2 python",
    ]
    assert "1 hosts have become 2" in said


def test_hosts_that_do_not_answer_prevent_neither_the_mark_nor_the_run(
    tmp_path, ssh, monkeypatch, capfd
):
    script(tmp_path / "bin" / "ssh", "exec sleep 30\n")
    monkeypatch.setattr(hosts, "ANSWER", 0.2)
    monkeypatch.setattr(elastic, "PATIENCE", 0.2)
    given_up = Decision("give_up", 2, "usage_error", "a wrong job")
    for _ in range(2):
        assert launch.launch(lambda training: (given_up, ["a", "b"]), tmp_path / "mark") == 2
    assert (tmp_path / "mark").read_text() == "2 a wrong job (exit 2)"
    assert hosts.unreachable(["a"]) == {"a": "no answer in 0.2 s"}
    silent = script(tmp_path / "silent", "sleep 30\n")
    for path, line in ((silent, "timed out after 0.2 s"), (tmp_path / "none", "No such file")):
        scaling = elastic.ScalingHosts(str(path), 1, 1, None, 1.0, hosts=["a"])
        scaling.look(Training())
        assert not scaling.changed and line in capfd.readouterr().out


def test_elastic_fails_when_too_few_hosts_answer(tmp_path, ssh):
    ssh.write_text("")
    discover = script(tmp_path / "discover", "echo a\n")
    process = start(
        tmp_path,
        "--wait",
        "1",
        "--elastic",
        discover,
        "--min-np",
        "1",
        "--poll",
        "0.5",
        "--",
        "true",
    )
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "--min-np asks for 1" in said


def test_elastic_resumes_on_the_remaining_hosts(tmp_path, ssh):
    ssh.write_text("a\nb\n")
    (tmp_path / "list").write_text("a\nb\n")
    discover = script(tmp_path / "discover", f"cat {tmp_path}/list\n")
    run = script(
        tmp_path / "horovodrun",
        f'echo "$@" >>{tmp_path}/ran\n[ "$2" = 1 ] && exit 0\necho a >{ssh}; exit 1\n',
    )
    process = start(tmp_path, "--elastic", discover, "--poll", "0.5", "--", run, "python")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert (tmp_path / "ran").read_text().splitlines() == [
        "-np 2 -H a:1,b:1 python",
        "-np 1 -H a:1 python",
    ]


def test_ranks_are_what_a_launcher_started_not_their_children():
    command = [sys.executable, "-c", "import subprocess, sys; subprocess.run(['sleep', '30'])"]
    rank = subprocess.Popen(
        command, env={**os.environ, "OMPI_COMM_WORLD_RANK": "0"}, start_new_session=True
    )
    children = Path(f"/proc/{rank.pid}/task/{rank.pid}/children")
    try:
        wait_until(lambda: bool(children.read_text()) and rank.pid in serve.rank_pids())
        assert not {int(child) for child in children.read_text().split()} & set(serve.rank_pids())
    finally:
        os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def wait_until(true) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_marks_are_kept_where_a_restarted_container_finds_them():
    assert launch.MARK.parent == Path("/tmp"), "the manifests mount an emptyDir there"


def test_the_status_of_the_run_decides_when_the_launcher_hides_the_exit_code(tmp_path, ssh):
    ssh.write_text("a\n")
    (tmp_path / "hostfile").write_text("a slots=1\n")
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    status = {"state": "failed", "code": 3, "message": "loss is nan at step 7"}
    run = script(
        tmp_path / "horovodrun",
        f"printf '%s' '{json.dumps(status)}' "
        '| sed "s/}/, \\"attempt\\": \\"$DISTSENT_ATTEMPT\\"}/" '
        f">{folder}/status.json; exit 1\n",
    )
    train = ("python", "-m", "distsent.train", f"run.dir={tmp_path}/runs", "job.name=demo")
    words = ("--", run, "--hostfile", str(tmp_path / "hostfile"), *train)
    assert start(tmp_path, *words).wait(60) == 3
    second = start(tmp_path, *words)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 3 and "loss is nan at step 7 (exit 3); not tried again" in output


def run_that_leaves(tmp_path: Path, status: str, then: str) -> tuple[str, ...]:
    """A command with `distsent.train` that leaves a status.json, which the shell fills in."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "hostfile").write_text("a slots=1\n")
    run = script(
        tmp_path / "horovodrun",
        f"echo ran >>{tmp_path}/ran; n=$(grep -c ran {tmp_path}/ran)\n"
        f"cat >{tmp_path}/runs/demo/status.json <<END\n{status}\nEND\n{then}\n",
    )
    train = ("python", "-m", "distsent.train", f"run.dir={tmp_path}/runs", "job.name=demo")
    return ("--", run, "--hostfile", str(tmp_path / "hostfile"), *train)


PROGRESS = '{"state": "stopped", "code": 75, "step": $n, "attempt": "$DISTSENT_ATTEMPT"}'


def test_a_launcher_that_nobody_stops_starts_saved_runs_again_by_itself(tmp_path, ssh):
    ssh.write_text("a\n")
    # Eight workers in a row are lost: the run saves, except once, when it crashes before a save.
    status = PROGRESS.replace("$n,", "$((n == 4 ? 0 : n)),")
    words = run_that_leaves(tmp_path, status, "[ $n = 4 ] && exit 1; [ $n = 9 ] && exit 0; exit 75")
    process = start(tmp_path, *words)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "ran").read_text().count("ran") == 9, said
    assert "the run ended with 75; starting it again" in said


@pytest.mark.parametrize("given", [None, "17"])
def test_all_starts_of_a_launcher_have_one_name(tmp_path, ssh, monkeypatch, given):
    """So that run.resume=never deletes nothing that this launcher's own run has saved."""
    monkeypatch.delenv("DISTSENT_START", raising=False)
    if given:
        monkeypatch.setenv("DISTSENT_START", given)
    ssh.write_text("a\n")
    then = f"echo $DISTSENT_START >>{tmp_path}/names; [ $n = 2 ] && exit 0; exit 75"
    words = run_that_leaves(tmp_path, PROGRESS, then)
    for _ in range(2):
        (tmp_path / "ran").unlink(missing_ok=True)
        assert start(tmp_path, *words).wait(60) == 0
    first, again, *others = (tmp_path / "names").read_text().split()
    assert first == again and others == [others[0]] * 2
    assert (first == others[0] == given) if given else first != others[0]


def test_starts_without_progress_end_the_launcher(tmp_path, ssh):
    ssh.write_text("a\n")
    words = run_that_leaves(tmp_path, PROGRESS.replace("$n,", "$((n < 3 ? 1 : 0)),"), "exit 1")
    process = start(tmp_path, *words)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, "nobody asked it to stop, and 75 is not counted"
    assert (tmp_path / "ran").read_text().count("ran") == 2 + 5, said


def test_a_launcher_that_is_stopped_does_not_start_the_run_again(tmp_path, ssh):
    ssh.write_text("a\n")
    waiting = f'trap "exit 75" USR1; touch {tmp_path}/running; while :; do sleep 0.1; done'
    process = start(tmp_path, *run_that_leaves(tmp_path, PROGRESS, waiting))
    wait_until((tmp_path / "running").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75 and (tmp_path / "ran").read_text().count("ran") == 1


def test_mpirun_may_not_linger_after_the_run_has_reported_its_end(tmp_path, ssh):
    ssh.write_text("a\n")
    status = '{"state": "failed", "code": 1, "message": "lost", "attempt": "$DISTSENT_ATTEMPT"}'
    began = time.monotonic()
    process = start(tmp_path, *run_that_leaves(tmp_path, status, "sleep 300; exit 0"))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - began < 50
    assert "but mpirun did not: killed" in said


def test_the_reason_of_a_wrong_job_is_kept(tmp_path, ssh):
    ssh.write_text("a\n")
    (tmp_path / "hostfile").write_text("a slots=1\n")
    lines = ("data.source: no dataset at /shared/x", "try: distsent.train data.source=/shared/y")
    said = "".join(f"echo '[1,0]<stderr>:distsent: {line}' >&2\n" for line in lines)
    run = script(
        tmp_path / "horovodrun", f"echo noise >&2\n{said}echo mpirun has exited >&2\nexit 2\n"
    )
    train = ("python", "-m", "distsent.train", f"run.dir={tmp_path}/runs", "job.name=demo")
    for number in range(3):  # the first start, and two restarts of the container
        (tmp_path / "termination-log").write_text("")
        process = start(tmp_path, "--", run, "--hostfile", str(tmp_path / "hostfile"), *train)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2 and ("not tried again" in said) == (number > 0)
        for text in (said, (tmp_path / "termination-log").read_text()):
            assert all(line in text for line in lines), (number, text)
    left = json.loads((tmp_path / "runs" / ".demo.refused.json").read_text())
    assert left["code"] == 2 and left["message"] == "\n".join(lines)


def test_the_launcher_says_which_worker_ran_out_of_memory(tmp_path, monkeypatch, capsys):
    note = tmp_path / "note"
    monkeypatch.setattr(serve, "MEMORY_NOTE", note)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    (tmp_path / "memory.max").write_text(str(8 * 2**30))
    assert serve.note_kills(1) == 1 and not note.exists()
    assert serve.note_kills(0) == 1 and "out of memory" in note.read_text()
    # ssh runs the command on the worker itself.
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "ssh", 'shift 5; exec sh -c "$*"\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(
        hosts, "READ_NOTE", hosts.READ_NOTE.replace(str(hosts.MEMORY_NOTE), str(note))
    )
    assert hosts.out_of_memory(["b"]) == [f"b: {note_text}" for note_text in [note_line(capsys)]]
    assert hosts.out_of_memory(["b"]) == [], "once"


def note_line(capsys) -> str:
    line = capsys.readouterr().out.removeprefix("distsent: ").strip()
    assert line.startswith("out of memory: 1 processes killed (limit 8.0 GiB, peak ?); more memory")
    return line


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--left", "75"), 75)])
def test_a_stopped_worker_ends_with_the_code_that_its_job_needs(tmp_path, words, code):
    sshd = script(tmp_path / "sshd", f"touch {tmp_path}/running; exec sleep 60\n")
    program = (
        "import subprocess; from distsent import cli; from distsent.k8s import __main__ as m"
        "; from distsent.pods import serve"
        f"; run = subprocess.Popen; serve.subprocess.Popen = lambda _: run([{sshd!r}])"
        "; cli.run(m.main)"
    )
    of_another_job = subprocess.Popen(
        ["sleep", "99"], env={**os.environ, "OMPI_COMM_WORLD_RANK": "0"}
    )
    process = subprocess.Popen([sys.executable, "-c", program, "serve", *words])
    wait_until((tmp_path / "running").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == code
    assert of_another_job.poll() is None
    of_another_job.kill()
    of_another_job.wait()
