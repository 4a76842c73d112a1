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
export SLURM_EXPORT_ENV=ALL  # whatever `sbatch --export` kept out of this shell: what it sets itself is for the workers, too

# An array task has a number of its own, but for the last of the array that number means the whole array.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
export DISTSENT_START=$job  # with run.resume=never a run is begun anew once, not at each start of this job
nodes=$SLURM_JOB_NUM_NODES
tasks=${SLURM_NTASKS_PER_NODE:-1}
if [ "${SLURM_NTASKS:-$((nodes * tasks))}" -ne $((nodes * tasks)) ]; then  # --ntasks has the last word
    tasks=$((SLURM_NTASKS / nodes))
    if [ $((nodes * tasks)) -ne "$SLURM_NTASKS" ]; then
        say "$SLURM_NTASKS tasks do not spread evenly over $nodes nodes: give --ntasks-per-node in place of --ntasks"
        exit 2
    fi
fi
# A step does not inherit --cpus-per-task from the job.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

again=()  # further options of srun after a lost node

# As horovodrun chooses for its workers: trying all other transports first crashed some starts under srun.
export OMPI_MCA_pml=${OMPI_MCA_pml:-ob1} OMPI_MCA_btl=${OMPI_MCA_btl:-^openib}
[ -z "$NETWORK" ] || export OMPI_MCA_btl_tcp_if_include=$NETWORK

# The signals of --signal and of preemption come to this shell (and with srun, some of them to the workers directly).
# bash acts on them between two commands, so whatever takes long runs in the background.
child='' asked=''
pass_on() {
    asked=1
    [ -n "$child" ] || return 0
    local own to
    until own=$(pgrep --parent "$child"); do  # the command itself, which the child may not have begun yet
        kill -0 "$child" 2>/dev/null || return 0
        sleep 0.1
    done
    to=$own
    if [ "$LAUNCHER" = horovodrun ]; then
        # It turns into a shell that waits for mpirun, which tells all workers. Over Gloo it would die of the signal, so the
        # workers of this node get it: what one of them knows, all know a step later.
        to=$(pgrep --parent "$own" 'mpirun|orterun' || workers "$own")
    fi
    # shellcheck disable=SC2086  # several numbers
    kill -USR1 ${to:-$own} 2>/dev/null || true
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
    local result code='' last=0
    result=$(mktemp) || result=/dev/null
    # The exit code goes through a file: bash can lose that of a child which ends while a signal cuts the waiting short.
    { code=0; "$@" || code=$?; echo "$code" >"$result"; exit "$code"; } & child=$!
    [ -z "$asked" ] || pass_on  # it came while the child was being started
    while kill -0 "$child" 2>/dev/null; do
        last=0
        wait "$child" || last=$?  # a signal ends the waiting, not the child
    done
    child=''
    [ "$result" = /dev/null ] || { code=$(cat "$result") && rm "$result"; } || true
    return "${code:-$last}"  # no room for a file: then what bash remembers
}

# shellcheck disable=SC2016  # for the shell of the step
sentinel() {  # file: until it is gone, a step that tells this shell what SLURM tells steps alone: preemption, and scancel
    srun --overlap --mpi=none --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --gres=none --quiet bash -c '
        trap "kill -USR1 $1" TERM
        while [ -e "$2" ]; do sleep 1 & wait; done' sentinel $$ "$1" >/dev/null 2>&1 &
}

launch() {  # module arguments ...: one worker a task, on all nodes
    local workers=$((nodes * tasks)) hosts flag code=0
    if [ "$LAUNCHER$CONTROLLER$1" = horovodrungloodistsent.prepare ]; then
        wait_for "${CONTAINER[@]}" python -m "$@"  # ranks of prepare meet over MPI, or work alone
    elif [ "$LAUNCHER" = horovodrun ]; then
        hosts=$(scontrol show hostnames "$(ask %N)" | sed "s/$/:$tasks/" | paste -sd, -)
        # mpirun would start its helpers with srun here, and over ssh it would not find them.
        export OMPI_MCA_plm=rsh OMPI_MCA_orte_launch_agent
        OMPI_MCA_orte_launch_agent=$(command -v orted || true)
        flag=$(mktemp)
        sentinel "$flag"
        export DISTSENT_EXIT_CODE=$PWD/.exit-code-$job  # over Gloo any failure ends with 1
        rm -f "$DISTSENT_EXIT_CODE"
        wait_for horovodrun -np "$workers" --hosts "$hosts" --start-timeout 300 ${CONTROLLER:+"--$CONTROLLER"} \
            ${NETWORK:+--network-interfaces "$NETWORK"} "${CONTAINER[@]}" python -m "$@" || code=$?
        rm "$flag"
        [ "$code" != 1 ] || [ ! -s "$DISTSENT_EXIT_CODE" ] || code=$(cat "$DISTSENT_EXIT_CODE")
        rm -f "$DISTSENT_EXIT_CODE"
        unset DISTSENT_EXIT_CODE
        return "$code"
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
        [ -z "$asked" ] || return 75
        launch "$@" || code=$?
        # One start in fifty or so: Open MPI under srun answers a worker that is ready before it is itself.
        [ "$code" = 139 ] && [ "$tries" -gt 0 ] && [ -z "$asked" ] && [ "$spoken" = "$(age)" ] || return "$code"
        say "a worker crashed while they looked for each other; starting them again"
    done
}

# ---- where the run stands -----------------------------------------------------------------------------------------------

look_up() {  # JOB.toml arguments ...: mistakes in the job end it here, before any worker starts
    local checked code=0
    checked=$("${CONTAINER[@]}" python -m distsent.train --check "$@") || code=$?
    [ "$code" != 2 ] || exit 2
    [ "$code" = 0 ] || fail "$code" "python -m distsent.train --check ended with $code"
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

ask() {  # format: what squeue says of this job; a busy controller is asked again
    local tries
    for tries in {1..12}; do
        squeue --noheader --jobs="$job" --format="$1" && return
        sleep 10
    done
    return 1
}

is_running() {  # whether SLURM has no other plans with this job: neither cancelled, nor preempted, nor started again elsewhere
    local found state host mine=${SLURMD_NODENAME:-}
    found=$(ask "%T %B") || return 0
    read -r state host <<<"$found" || true
    [ "$state" = RUNNING ] && [ "${host%%.*}" = "${mine%%.*}" ]
}

is_preempted() {  # whether a more important job is about to take the nodes, and this one is in its grace
    [[ $(scontrol show job "$SLURM_JOB_ID" 2>/dev/null) = *PreemptTime=[0-9]* ]]
}

await_loss() {  # a worker fell silent: SLURM gives a node up, or ends this job, minutes after that
    local patience left
    patience=$(scontrol show config 2>/dev/null | sed -n 's/^SlurmdTimeout *= *\([0-9]*\).*/\1/p') || true
    for ((left = ${patience:-300} + 60; left > 0; left -= 10)); do
        is_running && [ "$(ask %D)" = "$nodes" ] || return 0
        wait_for sleep 10 || true
        [ -z "$asked" ] || return 0
    done
}

give_way() {  # what the run said last: SLURM ends this job, and does with it what it was told
    say "${1:-stopped}"
    say "SLURM ends this job (preempted, requeued or cancelled)"
    exit 75
}

failures() {  # how often this job failed so far: SLURM keeps the job's comment over requeues
    local comment
    comment=$(ask %k) || true
    [[ $comment =~ ^failures=([0-9]+)$ ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

tell() {  # word ...: scontrol's; a busy controller is told again
    local tries answer
    for tries in {1..12}; do
        answer=$(scontrol "$@" 2>&1) && return
        [[ $answer = *"timed out"* || $answer = *"contact slurm controller"* ]] || break
        sleep 10
    done
    [ -z "$answer" ] || say "$answer"
    return 1
}

requeue() {  # put the job back into the queue, and end this shell; returns where that is not to be had
    trap '' USR1 TERM  # SLURM ends what belongs to the job now: there is nobody left to be told
    tell requeue "$job" || ! is_running || return 0
    say "requeued"
    exit 75
}

fail() {  # exit code, cause: requeue a bounded number of times
    local count
    is_running || give_way "$2"
    count=$(($(failures) + 1))
    if [ "$count" -le "$RETRIES" ] && tell update "JobId=$job" "Comment=failures=$count"; then
        say "$2; failure $count, to be requeued (at most $RETRIES times)"
        requeue
    fi
    say "failed: $2"
    exit "$1"
}

# ---- the nodes' own disks -----------------------------------------------------------------------------------------------

stage() {  # JOB.toml arguments ...: tokens and weights to LOCAL_DISK on every node; `staged` gets what training must be told
    local mine=$LOCAL_DISK/distsent-$SLURM_JOB_ID weights=${HF_HUB_CACHE:-$HF_HOME/hub}/models--${model//\//--} log each stores=()
    log=$(mktemp)
    start distsent.prepare "$@" >"$log" || return
    while read -r each; do  # one for each seed that cuts the corpus in its own way
        stores+=("$(realpath "$each")") || return
    done < <(sed -n 's/^.*token store: //p' "$log" | sort --unique)
    rm "$log"
    [ ${#stores[@]} -gt 0 ] || return
    # A copy takes its name when it is complete: a requeued job may find its own former ones.
    # shellcheck disable=SC2016  # for the shells on the nodes
    wait_for srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 bash -euc '
        copy() { [ ! -e "$1" ] || [ -e "$2" ] || { rm -rf "$2.part"; cp -rL "$1" "$2.part"; mv "$2.part" "$2"; }; }
        mkdir -p "$1/tokens" "$1/hub"
        copy "$2" "$1/hub/${2##*/}"
        for other in "${2%/*}"/*; do
            [ ! -e "$other" ] || [ -e "$1/hub/${other##*/}" ] || ln -s "$other" "$1/hub/"
        done
        for store in "${@:3}"; do copy "$store" "$1/tokens/${store##*/}"; done
        ' stage "$mine" "$weights" "${stores[@]}" || return
    [ ! -e "$weights" ] || export HF_HUB_CACHE=$mine/hub
    staged=(data.store="$mine/tokens")
}

# ---- what job scripts call ----------------------------------------------------------------------------------------------

train() {  # JOB.toml arguments ...
    local code said saved spoken left lock staged=()
    look_up "$@"
    # The workers of a lost node can outlive it, hold the run folder, and even finish the run.
    for lock in "$run_folder"/.lock "$run_folder"-seed*/.lock; do
        [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -e "$lock" ] && [ -z "$asked" ] || continue
        flock --nonblock "$lock" true || say "${lock%/*} is held by workers of an earlier start of this job: waiting for their end"
        wait_for flock --timeout 1800 "$lock" true || say "${lock%/*} is still held by an earlier start of this job"
    done
    [ -z "$LOCAL_DISK" ] || [[ " $*" = *" data.store="* ]] || stage "$@" || say "no copies on $LOCAL_DISK, going on with shared storage"
    while true; do
        code=0 said='' saved=$(progress) spoken=$(age)
        start distsent.train "$@" "${staged[@]}" || code=$?
        [ "$code" != 0 ] || exit 0
        [ "$spoken" = "$(age)" ] || said=$(cat "$(words)")  # else it is a former run's word
        # With sbatch --no-kill the job outlives a node: SLURM has taken it off the list, the others go on.
        # Silent was a worker that others tell of; or the first one, whose last word still is that it runs.
        [ "$nodes" = 1 ] || [[ $said != *" has been silent "* && $said != running* && $said != *WorkerLost* ]] || await_loss
        is_running || break  # the list of a job that ends gets shorter, too
        left=$(ask %D) || break
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
            is_running || give_way "$said"
            [ "$code" = 75 ] || [ -n "$asked" ] || is_preempted || fail "$code" "exit code $code"
            # With more than an hour left it was no time limit that asked.
            if [ -n "$asked" ] && [ "$saved" = "$(progress)" ] && [[ $(ask %L) =~ ^([0-9]{1,2}:[0-9]{2}|INVALID)$ ]]; then
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
    if [ $# = 0 ]; then
        say "which corpus? sbatch slurm/prepare.sh jobs/imdb.toml [section.key=value ...]"
        exit 2
    fi
    look_up "$@"
    start distsent.prepare "$@" || code=$?
    case $code in
        0) exit 0 ;;
        2) say "failed: exit code 2"; exit 2 ;;
        75 | 138 | 143)
            is_running || give_way "stopped"
            is_preempted || fail 75 "the time was too short, and what was tokenised is lost: more --time, or more tasks"
            requeue
            exit 75 ;;
        *) fail "$code" "exit code $code" ;;
    esac
}
