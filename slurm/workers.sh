# shellcheck shell=bash
# shellcheck disable=SC2154  # nodes and tasks are set by slurm/run.sh
# Starts the workers of this job, under srun or horovodrun, and forwards stop requests to them.
# LAUNCHER=torch is srun without PMI: the workers find each other by SLURM's variables.

# SLURM sends the signals of --signal and of preemption to this shell (some also to the workers of
# srun). bash runs a trap only between two commands, so everything slow runs in the background.
child='' stop_requested=''
forward_stop() {
    stop_requested=1
    [ -n "$child" ] || return 0
    local own to
    until own=$(pgrep --parent "$child"); do  # the child may not have started its command yet
        kill -0 "$child" 2>/dev/null || return 0
        sleep 0.1
    done
    to=$own
    if [ "$LAUNCHER" = horovodrun ]; then
        # It becomes a shell around mpirun, which forwards the signal to all workers. Over Gloo the
        # signal would kill it, so it goes to this node's workers; the others learn of it in a step.
        to=$(pgrep --parent "$own" 'mpirun|orterun' || workers_below "$own")
    fi
    # shellcheck disable=SC2086  # several numbers
    kill -USR1 ${to:-$own} 2>/dev/null || true
}
trap forward_stop HUP INT TERM USR1 USR2 XCPU  # any that a site may choose for --signal

workers_below() {  # process: its descendants that are workers
    local each is_worker='^[^ ]*python[0-9.]* -m distsent'
    for each in $(pgrep --parent "$1"); do
        if [[ $(ps --no-headers --format=args --pid="$each") =~ $is_worker ]]; then
            echo "$each"
        else
            workers_below "$each"
        fi
    done
}

supervise() {  # command ...: run it, forward stop requests, return its exit code
    local result code='' last=0
    result=$(mktemp) || result=/dev/null
    # bash can lose the exit code of a child that ends while a signal interrupts `wait`: use a file.
    # The child outlives what SLURM sends to all processes of this script, until its command has saved.
    { trap : HUP INT TERM USR1 USR2 XCPU; code=0; "$@" || code=$?; echo "$code" >"$result"
        exit "$code"; } & child=$!
    [ -z "$stop_requested" ] || forward_stop  # it came before the child had a number
    while kill -0 "$child" 2>/dev/null; do
        last=0
        wait "$child" || last=$?  # a signal interrupts this, not the child
    done
    child=''
    [ "$result" = /dev/null ] || { code=$(cat "$result") && rm "$result"; } || true
    return "${code:-$last}"  # no space for the file: the code that bash remembers
}

relay_stop() {  # file: until it is gone, a step relays what SLURM signals only to steps
    # shellcheck disable=SC2016  # for the shell of the step
    local relay='trap "kill -USR1 $1" TERM; while [ -e "$2" ]; do sleep 1 & wait; done'
    srun --overlap --mpi=none --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --gres=none \
        --quiet bash -c "$relay" relay $$ "$1" >/dev/null 2>&1 &  # preemption and scancel
}

hide_secrets() {  # `ps` shows the environment that horovodrun gives to its workers over Gloo
    without=$("${CONTAINER[@]}" python -c '
from distsent.distributed.secrets import as_shell
print(as_shell())') || log "secrets in the environment may be visible: see docs/slurm.md"
}

without_secrets() {  # command ...: run it with what hide_secrets found
    local code=0 token_file=''
    eval "$without"
    "$@" || code=$?
    rm -f "$token_file"
    return "$code"
}

again=()  # more options of srun after a lost node

launch() {  # module arguments ...: one worker per task, on all nodes
    local workers=$((nodes * tasks)) hosts flag code=0
    if [ "$LAUNCHER$CONTROLLER$1" = horovodrungloodistsent.prepare ]; then
        supervise "${CONTAINER[@]}" python -m "$@"  # ranks of prepare need MPI
    elif [ "$1" = distsent.sweep ]; then
        supervise "${CONTAINER[@]}" python -m "$@" run.transport=torch  # it starts workers itself
    elif [ "$LAUNCHER" = horovodrun ]; then
        hosts=$(scontrol show hostnames "$(query %N)" | sed "s/$/:$tasks/" | paste -sd, -)
        # mpirun would start its daemons with srun, and over ssh it would not find them.
        export OMPI_MCA_plm=rsh OMPI_MCA_orte_launch_agent
        OMPI_MCA_orte_launch_agent=$(command -v orted || true)
        hide_secrets
        flag=$(mktemp)
        relay_stop "$flag"
        supervise without_secrets horovodrun -np "$workers" --hosts "$hosts" --start-timeout 300 \
            ${CONTROLLER:+"--$CONTROLLER"} ${NETWORK:+--network-interfaces "$NETWORK"} \
            "${CONTAINER[@]}" python -m "$@" || code=$?
        rm "$flag"
        return "$code"
    else
        [ "$LAUNCHER" != torch ] || export DISTSENT_TRANSPORT=torch MPI=none
        # Workers exit together by themselves. --kill-on-bad-exit would hide the first exit code and
        # kill rank 0 while it saves. --wait kills whatever is left after a minute.
        supervise srun --mpi="$MPI" --nodes="$nodes" --ntasks="$workers" --kill-on-bad-exit=0 \
            --wait=60 "${again[@]}" "${CONTAINER[@]}" python -m "$@"
    fi
}
