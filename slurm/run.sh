# shellcheck shell=bash
# What the job scripts share: from an allocation to workers, and from their exit code to a job that is done, requeued or
# failed. A script sources this file, then calls `train JOB.toml [section.key=value ...]` or `prepare` with the same.
#
# Exit codes of distsent: 0 finished, 2 the job is wrong, 3 training became non-finite, 75 stopped on request and saved.
set -euo pipefail

say() { echo "slurm: $*" >&2; }

if [ -z "${SLURM_JOB_ID:-}" ]; then
    say "this is a batch job: submit it with sbatch, in the checkout: sbatch slurm/imdb.sh"
    exit 2
fi
# shellcheck source=slurm/site.env
source "${SITE:-slurm/site.env}"
if [ -n "$VENV" ] && [ ! -x "$VENV/bin/python" ]; then
    say "VENV=$VENV has no bin/python: run \`make setup\` in the checkout, or correct slurm/site.env"
    exit 2
fi
export HF_HOME HF_HUB_OFFLINE PATH="${VENV:+$VENV/bin:}$PATH"

# An array task has a number of its own, but for the last of the array that number means the whole array.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
nodes=$SLURM_JOB_NUM_NODES
tasks=${SLURM_NTASKS_PER_NODE:-1}
# A step does not inherit --cpus-per-task from the job.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

again=()  # further options of srun after a lost node

# As horovodrun chooses for its workers: trying all other transports first crashed some starts under srun.
export OMPI_MCA_pml=${OMPI_MCA_pml:-ob1} OMPI_MCA_btl=${OMPI_MCA_btl:-^openib}

# The signals of --signal and of preemption come to this shell (and with srun, some of them to the workers directly).
# bash acts on them between two commands, so whatever takes long runs in the background.
child='' asked=''
pass_on() {
    asked=1
    [ -n "$child" ] || return 0
    local to=$child
    if [ "$LAUNCHER" = horovodrun ]; then
        # It turns into a shell that waits for mpirun, which tells all workers. Over Gloo it would die of the signal, so the
        # workers of this node get it: what one of them knows, all know a step later.
        to=$(pgrep --parent "$child" '^(mpirun|orterun)$' || workers "$child")
    fi
    # shellcheck disable=SC2086  # several numbers
    kill -USR1 ${to:-$child} 2>/dev/null || true
}
workers() {  # process: those below it that are workers
    local each
    for each in $(pgrep --parent "$1"); do
        if [[ $(ps --no-headers --format=args --pid="$each") =~ ^[^\ ]*python[0-9.]*\ -m\ distsent ]]; then
            echo "$each"
        else
            workers "$each"
        fi
    done
}
trap pass_on USR1 TERM

wait_for() {  # command ...: run it, pass signals on, return its exit code
    local code
    "$@" & child=$!
    while true; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break  # else a signal ended the waiting, not the child
    done
    child=''
    return "$code"
}

launch() {  # module arguments ...: one worker a task, on all nodes
    local workers=$((nodes * tasks)) hosts
    if [ "$LAUNCHER" = horovodrun ]; then
        hosts=$(scontrol show hostnames "$(squeue --noheader --jobs="$job" --format=%N)" | sed "s/$/:$tasks/" | paste -sd, -)
        # mpirun would start its helpers with srun here, and over ssh it would not find them.
        export OMPI_MCA_plm=rsh OMPI_MCA_orte_launch_agent
        OMPI_MCA_orte_launch_agent=$(command -v orted || true)
        wait_for horovodrun -np "$workers" --hosts "$hosts" --start-timeout 300 ${CONTROLLER:+"--$CONTROLLER"} \
            ${NETWORK:+--network-interfaces "$NETWORK"} "${CONTAINER[@]}" python -m "$@"
    else
        # Workers end together by themselves. Killing at the first bad exit would hide its code behind those of the killed
        # ones, and end the first worker while it saves; so that is left to the time of --wait.
        wait_for srun --mpi="$MPI" --nodes="$nodes" --ntasks="$workers" --kill-on-bad-exit=0 --wait=60 "${again[@]}" \
            "${CONTAINER[@]}" python -m "$@"
    fi
}

start() {  # module arguments ...: launch; again if they crashed (139: a segmentation fault) before the run had a word to say
    local code tries spoken
    for tries in 2 1 0; do
        code=0 spoken=$(age)
        launch "$@" || code=$?
        # One start in fifty or so: Open MPI under srun answers a worker that is ready before it is itself.
        [ "$code" = 139 ] && [ "$tries" -gt 0 ] && [ -z "$asked" ] && [ "$spoken" = "$(age)" ] || return "$code"
        say "a worker crashed while they looked for each other; starting them again"
    done
}

# ---- where the run stands -----------------------------------------------------------------------------------------------

look_up() {  # JOB.toml arguments ...: mistakes in the job end it here, before any worker starts
    local checked
    checked=$("${CONTAINER[@]}" python -m distsent.train --check "$@") || exit
    {
        read -r run_folder
        read -r model
    } < <("${CONTAINER[@]}" python -c '
import os, sys, tomllib
job = tomllib.loads(sys.argv[1])
print(os.path.join(job["run"]["dir"], job["job"]["name"]), job["model"]["name"], sep="\n")' "$checked")
}

words() {  # the file with the run's own last word; of several seeds the latest one's
    # shellcheck disable=SC2012  # newest first is what ls can do; a run folder's name has no odd characters
    ls -t "$run_folder"/status "$run_folder"-seed*/status 2>/dev/null | head -n 1 || true
}

age() { stat --format=%y "$(words)" 2>/dev/null || true; }

progress() { ls -d "$run_folder"/checkpoints/step-* "$run_folder"-seed*/checkpoints/step-* 2>/dev/null || true; }

# ---- the queue ----------------------------------------------------------------------------------------------------------

failures() {  # how often this job failed so far: SLURM keeps the job's comment over requeues
    local comment
    comment=$(squeue --noheader --jobs="$job" --format=%k)
    [[ $comment =~ ^failures=([0-9]+)$ ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

requeue() {  # put the job back into the queue, which ends this shell; returns where that is not to be had
    # A cancelled job is no longer running, and must not come back.
    [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ] || return 0
    scontrol requeue "$job" || return 0
    wait_for sleep 120
}

fail() {  # exit code, cause: requeue a bounded number of times
    local count
    count=$(($(failures) + 1))
    if [ "$count" -le "$RETRIES" ] && scontrol update "JobId=$job" "Comment=failures=$count"; then
        say "$2; failure $count, requeued (at most $RETRIES times)"
        requeue
    fi
    say "failed: $2"
    exit "$1"
}

# ---- the nodes' own disks -----------------------------------------------------------------------------------------------

stage() {  # JOB.toml arguments ...: tokens and weights to LOCAL_DISK on every node; `staged` gets what training must be told
    local mine=$LOCAL_DISK/distsent-$SLURM_JOB_ID store log
    log=$(mktemp)
    start distsent.prepare "$@" >"$log" || return
    store=$(sed -n 's/^.*token store: //p' "$log")
    rm "$log"
    # A copy takes its name when it is complete: a requeued job may find its own former ones.
    # shellcheck disable=SC2016  # for the shells on the nodes
    wait_for srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 bash -euc '
        copy() { [ ! -e "$1" ] || [ -e "$2" ] || { rm -rf "$2.part"; cp -rL "$1" "$2.part"; mv "$2.part" "$2"; }; }
        mkdir -p "$1/tokens" "$1/hub"
        copy "$2" "$1/tokens/${2##*/}"
        copy "$3" "$1/hub/${3##*/}"
        for other in "${3%/*}"/*; do
            [ ! -e "$other" ] || [ -e "$1/hub/${other##*/}" ] || ln -s "$other" "$1/hub/"
        done' stage "$mine" "$(realpath "$store")" "$HF_HOME/hub/models--${model//\//--}" || return
    export HF_HUB_CACHE=$mine/hub
    staged=(data.store="$mine/tokens")
}

# ---- what job scripts call ----------------------------------------------------------------------------------------------

train() {  # JOB.toml arguments ...
    local code said saved spoken left staged=()
    look_up "$@"
    # The workers of a lost node can outlive it for a while, and hold the run folder.
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -e "$run_folder/.lock" ]; then
        wait_for flock --timeout 180 "$run_folder/.lock" true || say "$run_folder is still held by an earlier start of this job"
    fi
    [ -z "$LOCAL_DISK" ] || [[ " $*" = *" data.store="* ]] || stage "$@" || say "no copies on $LOCAL_DISK, going on with shared storage"
    while true; do
        code=0 said='' saved=$(progress) spoken=$(age)
        [ -z "$asked" ] || { code=75; break; }
        start distsent.train "$@" "${staged[@]}" || code=$?
        [ "$code" != 0 ] || exit 0
        [ "$spoken" = "$(age)" ] || said=$(cat "$(words)")  # else it is a former run's word
        # With sbatch --no-kill the job outlives a node: SLURM has taken it off the list, the others go on.
        left=$(squeue --noheader --jobs="$job" --format=%D)
        [ "${left:-0}" -gt 0 ] && [ "$left" -lt "$nodes" ] || break
        say "lost $((nodes - left)) of $nodes nodes; going on with the others"
        nodes=$left again=(--overlap)  # SLURM waits for the lost part of the last step, and would not start another beside it
    done
    # A launcher can hide the code of a worker behind that of one which it killed.
    [[ $said != stopped* ]] || code=75
    case $code in
        2 | 3)
            say "failed: exit code $code${said:+, ${said#failed: }}"
            exit "$code" ;;
        75 | 138 | 143)  # the last two: asked to stop before the program listened
            if [ -n "$asked" ] && [ "$saved" = "$(progress)" ]; then
                fail 75 "the time was too short for a single checkpoint: more --time, or a smaller checkpoint.every_steps"
            fi
            say "${said:-stopped}"
            requeue
            say "not requeued: submit the same again to carry on"
            exit 75 ;;
        *) fail "$code" "exit code $code${said:+, ${said#failed: }}" ;;
    esac
}

prepare() {  # JOB.toml arguments ...
    local code=0
    look_up "$@"
    start distsent.prepare "$@" || code=$?
    [ "$code" = 0 ] || say "failed: exit code $code"
    exit "$code"
}
