# shellcheck shell=bash
# Shared by the job scripts: starts the workers of an allocation, then ends, requeues or fails the
# job. distsent/exit_policy.py decides which (`decide` asks it, `finish` acts on it). A script
# sources this file and calls `train JOB.toml [section.key=value ...]`, `prepare` likewise, or `sweep`.
set -euo pipefail

log() { echo "slurm: $*" >&2; }

if [ -z "${SLURM_JOB_ID:-}" ]; then
    log "this is a batch job: submit it with sbatch, in the checkout: sbatch slurm/imdb.sh"
    exit 2
fi
# shellcheck source=slurm/site.env
source "${SITE:-slurm/site.env}"
if [ -n "$VENV" ] && [ ! -x "$VENV/bin/python" ]; then
    log "VENV=$VENV has no bin/python: run \`make setup\` in the checkout, or fix slurm/site.env"
    exit 2
fi
export HF_HOME HF_HUB_OFFLINE PATH="${VENV:+$VENV/bin:}$PATH"
# Workers get this script's environment, even if `sbatch --export` kept the user's out of it.
export SLURM_EXPORT_ENV=ALL

# What sbatch inherits from a step in which it is called would describe this script, too.
unset SLURM_STEP_ID SLURM_STEP_NUM_TASKS PMIX_RANK PMI_RANK PMI_SIZE

# Each array task has its own job number, but the last task's number also names the whole array.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
export DISTSENT_START=$job  # run.resume=never starts a run over once per job, not once per requeue
nodes=$SLURM_JOB_NUM_NODES
tasks=${SLURM_NTASKS_PER_NODE:-1}
if [ "${SLURM_NTASKS:-$((nodes * tasks))}" -ne $((nodes * tasks)) ]; then
    # --ntasks takes precedence.
    tasks=$((SLURM_NTASKS / nodes))
    if [ $((nodes * tasks)) -ne "$SLURM_NTASKS" ]; then
        log "$SLURM_NTASKS tasks do not spread evenly over $nodes nodes:" \
            "use --ntasks-per-node instead of --ntasks"
        exit 2
    fi
fi
# A step does not inherit --cpus-per-task from the job.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# The transport that horovodrun chooses: with srun, probing the others crashed some starts.
export OMPI_MCA_pml=${OMPI_MCA_pml:-ob1} OMPI_MCA_btl=${OMPI_MCA_btl:-^openib}
[ -z "$NETWORK" ] ||
    export OMPI_MCA_btl_tcp_if_include=$NETWORK GLOO_SOCKET_IFNAME=$NETWORK NCCL_SOCKET_IFNAME=$NETWORK
# shellcheck source=slurm/queue.sh
source slurm/queue.sh
# shellcheck source=slurm/workers.sh
source slurm/workers.sh

# Kills for lack of memory on this node so far, those of other jobs too.
memory_kills() { sed -n 's/^oom_kill //p' "${VMSTAT:-/proc/vmstat}" 2>/dev/null || true; }
killed_before=$(memory_kills) killed=0
less_memory='use more --mem, a smaller train.token_budget, train.recompute=true or adapter.kind=lora'

explain_kill() {  # the exit code of a launch: SLURM's and the kernel's words for no memory
    killed=$(($(memory_kills) - ${killed_before:-0}))
    killed_before=$(memory_kills)
    if [ "$killed" -gt 0 ]; then
        log "the kernel killed $killed processes of $(hostname) for lack of memory: $less_memory"
    elif [ "$1" = 137 ] || [ "$1" = 253 ]; then  # SIGKILL, and SLURM's own out-of-memory signal
        log "a worker was killed. If srun says oom_kill or Out Of Memory above: $less_memory"
    fi
}

starts=0
start() {  # module arguments ...: launch, then decide; again after a crash during the start
    local tries
    for tries in 2 1 0; do
        # Names this start in status.json, so that an older status is not mistaken for its own.
        export DISTSENT_ATTEMPT=$job-${SLURM_RESTART_COUNT:-0}-$((++starts))
        # Each start of a sweep's controller has a status of its own: other tasks have theirs.
        [ -z "${sweep:-}" ] || runs=("$sweep/starts/$DISTSENT_ATTEMPT")
        code=0
        if [ -n "$stop_requested" ]; then code=75; else launch "$@" || code=$?; fi
        decide
        # About one start in fifty: Open MPI under srun answers a worker before it is ready itself.
        [ "$cause$stop_requested" = crashed_at_start ] && [ "$tries" -gt 0 ] || return 0
        log "a worker crashed at start; starting the workers again"
    done
}

decide() {  # the exit code: sets action, code, cause and message
    local decision options=()
    action='done' cause=finished message=''
    [ "$code" != 0 ] || return 0
    [ -n "$stop_requested" ] || explain_kill "$code"
    if is_preempted; then
        options=(--stop-requested)
    elif [ -n "$stop_requested" ]; then
        options=(--stop-requested)
        [ ${#runs[@]} -gt 0 ] && ! is_near_time_limit || options+=(--out-of-time)
    fi
    decision=$("${CONTAINER[@]}" python -m distsent.next_action "${runs[@]}" --code "$code" \
        "${options[@]}") || decision="retry $code failed"
    read -r action code cause message <<<"$decision"
}

finish() {  # message for a time limit that is too short: act on the decision and exit
    local failure="exit code $code${message:+, $message}"
    [ "$cause" != no_progress ] || failure=$1
    case $action in
        done) exit 0 ;;
        give_up) log "failed: $failure"; exit "$code" ;;
        retry) retry_or_fail "$code" "$failure" ;;
        requeue) requeue_stopped "stopped${message:+: $message}" ;;
    esac
}

resolve_job() {  # JOB.toml argument ...: sets model and runs; a wrong job ends here, with 2
    local resolved result=0
    resolved=$("${CONTAINER[@]}" python -m distsent.train --check "$@") || result=$?
    [ "$result" != 2 ] || exit 2
    [ "$result" = 0 ] || retry_or_fail "$result" "python -m distsent.train --check ended with $result"
    {
        read -r model
        mapfile -t runs
    } < <("${CONTAINER[@]}" python -c '
import sys, tomllib
from distsent.job import Job
job = Job.from_dict(tomllib.loads(sys.argv[1]))
folders = [f"{job.run.dir}/{job.for_seed(seed).job.name}" for seed in job.seeds]
print(job.model.name, *folders, sep="\n")' "$resolved")
}

await_earlier_start() {  # workers can outlive their node's slurmd, and even finish the run
    local run
    [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || return 0
    for run in "${runs[@]}"; do
        [ -e "$run/.lock" ] && [ -z "$stop_requested" ] || continue
        flock --nonblock "$run/.lock" true ||
            log "workers of an earlier start of this job hold $run: waiting for them to exit"
        supervise flock --timeout 1800 "$run/.lock" true ||
            log "an earlier start of this job still holds $run"
    done
}

stage() {  # JOB.toml argument ...: copy tokens and weights to LOCAL_DISK on each node; sets staged
    local mine=$LOCAL_DISK/distsent-$SLURM_JOB_ID list=${runs[0]%/*}/.stores-$job stores
    local weights=${HF_HUB_CACHE:-$HF_HOME/hub}/models--${model//\//--}
    local runs=()  # prepare has none
    start distsent.prepare "$@" --store-list "$list"
    [ "$action" = "done" ] && mapfile -t stores <"$list" && rm "$list" || return
    [ ${#stores[@]} -gt 0 ] || return
    # A copy gets its name when it is complete: a requeued job may find its own earlier ones.
    # shellcheck disable=SC2016  # for the shells on the nodes
    local copy_all='
        copy() {
            [ -e "$1" ] && [ ! -e "$2" ] || return 0
            rm -rf "$2.part" && cp -rL "$1" "$2.part" && mv "$2.part" "$2"
        }
        # Other users write to this disk too: what they prepared under this name is not trusted.
        mkdir -p "${1%/*}" && mkdir -m 700 "$1" 2>/dev/null || true
        if [ -z "$(find "$1" -maxdepth 0 -type d -uid "$(id -u)" ! -perm /022)" ]; then
            echo "slurm: $(hostname): $1 is not a folder of this user alone:" \
                "$(stat -c "%F of %U, mode %a" "$1"); delete it" >&2
            exit 1
        fi
        mkdir -p "$1/tokens" "$1/hub"
        copy "$2" "$1/hub/${2##*/}"
        for other in "${2%/*}"/*; do
            [ ! -e "$other" ] || [ -e "$1/hub/${other##*/}" ] || ln -s "$other" "$1/hub/"
        done
        for store in "${@:3}"; do copy "$store" "$1/tokens/${store##*/}"; done'
    supervise srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 \
        bash -euc "$copy_all" stage "$mine" "$weights" "${stores[@]}" || return
    [ ! -e "$weights" ] || export HF_HUB_CACHE=$mine/hub
    staged=(data.store="$mine/tokens")
}

train() {  # JOB.toml argument ...
    local left staged=()
    resolve_job "$@"
    await_earlier_start
    [ -z "$LOCAL_DISK" ] || [[ " $*" = *" data.store="* ]] || stage "$@" ||
        log "no copies on $LOCAL_DISK, using shared storage"
    while true; do
        start distsent.train "$@" "${staged[@]}"
        [ "$action" = retry ] || [ "$action" = requeue ] || break
        # With sbatch --no-kill the job outlives a node that SLURM takes off its list.
        # Rank 0, which could not report, was killed on this node: no other is to blame.
        [ "$nodes" = 1 ] || [ "$cause" != worker_lost ] || [ "$killed" -gt 0 ] || await_node_loss
        is_running || break  # the list of a job that ends gets shorter as well
        left=$(query %D) || break
        [ "${left:-0}" -gt 0 ] && [ "$left" -lt "$nodes" ] || break
        log "lost $((nodes - left)) of $nodes nodes; continuing with the others"
        # SLURM still waits for the lost part of the last step: it must start another one beside it.
        nodes=$left again=(--overlap)
    done
    finish "the time was too short for a single checkpoint:\
 use more --time, or a smaller checkpoint.every_steps"
}

prepare() {  # JOB.toml argument ...
    local runs
    if [ $# = 0 ]; then
        log "which dataset? sbatch slurm/prepare.sh jobs/imdb.toml [section.key=value ...]"
        exit 2
    fi
    resolve_job "$@"
    runs=()
    start distsent.prepare "$@"
    finish "the time was too short, and the tokens are lost: use more --time, or more tasks"
}

sweep() {  # JOB.toml SPACE.toml argument ...: a controller on this node; its tasks are a trial's workers
    local keys=() word runs sweep
    if [ $# -lt 2 ]; then
        log "which job, and which space? sbatch slurm/sweep.sh jobs/emotion-minilm.toml space.toml [section.key=value ...]"
        exit 2
    fi
    if [ "$nodes" != 1 ]; then
        log "a trial is trained on one node: use --nodes=1, and --array for more of them at once"
        exit 2
    fi
    for word in "${@:3}"; do
        [[ $word != *=* || $word = -* ]] || keys+=("$word")
    done
    resolve_job "$1" "${keys[@]}"
    sweep=${runs[0]}-sweep
    unset OMP_NUM_THREADS  # the controller shares the cores out
    start distsent.sweep --join --np "$tasks" "$@"
    finish "the time was too short for a single checkpoint of a trial:\
 use more --time, or a smaller checkpoint.every_steps"
}
