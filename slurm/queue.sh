# shellcheck shell=bash
# shellcheck disable=SC2154  # job, nodes and stop_requested are set by slurm/run.sh
# This job in SLURM's queue: its state, its lost nodes, and the commands that requeue it. Whether
# it is requeued is decided in run.sh.

query() {  # format: a field of this job from squeue; asks again if the controller is busy
    local _
    for _ in {1..12}; do
        squeue --noheader --jobs="$job" --format="$1" && return
        sleep 10
    done
    return 1
}

control() {  # argument ...: run scontrol; again if the controller is busy
    local _ answer
    for _ in {1..12}; do
        answer=$(scontrol "$@" 2>&1) && return
        [[ $answer = *"timed out"* || $answer = *"contact slurm controller"* ]] || break
        sleep 10
    done
    [ -z "$answer" ] || log "$answer"
    return 1
}

is_running() {  # false if SLURM has cancelled, preempted, requeued or restarted this job
    local found state host mine=${SLURMD_NODENAME:-}
    found=$(query "%T %B") || return 0
    read -r state host <<<"$found" || true
    [ "$state" = RUNNING ] && [ "${host%%.*}" = "${mine%%.*}" ]
}

is_preempted() {  # true during the grace time of a preemption
    [[ $(scontrol show job "$job" 2>/dev/null) = *PreemptTime=[0-9]* ]]
}

is_near_time_limit() {  # less than an hour is left: a stop request may come from the time limit
    [[ $(query %L) =~ ^([0-9]{1,2}:[0-9]{2}|INVALID)$ ]]
}

await_node_loss() {  # SLURM notices minutes after the workers that a node is lost
    local timeout left
    timeout=$(scontrol show config 2>/dev/null |
        sed -n 's/^SlurmdTimeout *= *\([0-9]*\).*/\1/p') || true
    for ((left = ${timeout:-300} + 60; left > 0; left -= 10)); do
        is_running && [ "$(query %D)" = "$nodes" ] || return 0
        supervise sleep 10 || true
        [ -z "$stop_requested" ] || return 0
    done
}

leave_to_slurm() {  # message: SLURM ends this job and requeues it or not, as it was told
    log "${1:-stopped}"
    log "SLURM ends this job (preempted, requeued or cancelled)"
    exit 75
}

requeue() {  # requeue this job and exit; returns if SLURM refuses
    trap '' HUP INT TERM USR1 USR2 XCPU  # SLURM now signals all processes of the job
    control requeue "$job" || ! is_running || return 0
    log "requeued"
    exit 75
}

requeue_stopped() {  # message: requeue a run that has saved; does not count as a failure
    is_running || leave_to_slurm "$1"
    log "$1"
    requeue
    log "not requeued: submit the same command again to resume"
    exit 75
}

failures() {  # the number of failures so far; the job's comment survives requeues
    local comment
    comment=$(query %k) || true
    [[ $comment =~ ^failures=([0-9]+)$ ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

retry_or_fail() {  # exit code, message: requeue at most RETRIES times, then fail
    local count
    is_running || leave_to_slurm "$2"
    count=$(($(failures) + 1))
    if [ "$count" -le "$RETRIES" ] && control update "JobId=$job" "Comment=failures=$count"; then
        log "$2; failure $count, requeueing (at most $RETRIES times)"
        requeue
    fi
    log "failed: $2"
    exit "$1"
}
