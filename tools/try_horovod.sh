#!/usr/bin/env bash
# Builds and tests the pinned Horovod for each Python on this machine and each torch:
#     tools/try_horovod.sh [TORCH_VERSION ...]     (none: the pinned one and the newest that pip gets)
# In copies of this checkout, each with its own environment: minutes and gigabytes each. A combination
# has worked if two workers train the same bits over MPI, over Gloo and over torch's own
# transport. The ones that worked belong in TRIED of distsent/doctor.py.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
scratch=$(mktemp -d)
logs=$(mktemp -d -t try_horovod.XXXX)
trap 'rm -rf "$scratch"' EXIT
# The machine's variables for threads and launchers would change what is tried.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV MAKEFLAGS
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

pythons() {  # each version once
    local each version seen=' '
    for each in python3 python3.{11..19} ~/.pyenv/versions/*/bin/python; do
        version=$("$each" -c 'import sys
print(*sys.version_info[:2], sep=".") if sys.version_info >= (3, 11) else None' 2>/dev/null)
        [[ $version = 3.* && $seen != *" $version "* ]] || continue
        seen+="$version "
        type -P "$each"
    done
}

newest_torch() {  # python: the newest version that pip can install for it
    "$1" -m pip install --quiet --dry-run --no-deps --ignore-installed --report - torch 2>>"$log" |
        "$1" -c 'import json, sys
print(json.load(sys.stdin)["install"][0]["metadata"]["version"].partition("+")[0])' 2>>"$log"
}

train() {  # launcher words: two workers train 20 steps; prints the hash of the weights
    rm -rf runs
    "$@" -m distsent.train train.max_steps=20 eval.every=end log.tensorboard=false >>"$log" 2>&1 &&
        sed -n 's/.*"weights_sha256": "\(.*\)".*/\1/p' runs/demo/result.json
}

try() {  # python torch: prints what came of it
    local hashes
    PYTHON=$1 XDG_CACHE_HOME=$scratch/cache tools/setup.sh >>"$log" 2>&1 &&
        [ -x .venv/bin/horovodrun ] || { cat .venv/setup.log >>"$log"; echo "not built: see $log"; return; }
    PATH=$PWD/.venv/bin:$PATH
    hashes=$({ train horovodrun -np 2 --mpi python || echo failed
               train horovodrun -np 2 --gloo python || echo failed
               train python -m distsent.launch --nproc-per-node 2 || echo failed; } | sort -u)
    case $hashes in
        *failed*) echo "built, training failed: see $log" ;;
        *$'\n'*) echo "built, the transports differ in bits" ;;
        *) echo works ;;
    esac
}

pinned=$(sed -n 's/^torch==//p' "$root/constraints.txt")
horovod=$(sed -n 's/^horovod==//p' "$root/constraints.txt")
for python in $(pythons); do
    name=$("$python" -V)
    log=$logs/newest
    torches=("$@")
    [ $# != 0 ] || torches=($(printf '%s\n' "$pinned" $(newest_torch "$python") | sort -uV))
    for torch in "${torches[@]}"; do
        log=$logs/${name// /-}-torch-$torch
        mkdir "$scratch/copy"
        git -C "$root" archive HEAD | tar -x -C "$scratch/copy"
        sed -i "s/^torch==.*/torch==$torch/" "$scratch/copy/constraints.txt"
        result=$(cd "$scratch/copy" && try "$python" "$torch")
        echo "$name  torch $torch  Horovod $horovod  $result"
        rm -rf "$scratch/copy"
    done
done
