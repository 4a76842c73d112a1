#!/usr/bin/env bash
# Builds and tests the pinned Horovod for each Python on this machine and each torch:
#     tools/try_horovod.sh [TORCH_VERSION ...]     (none: the pinned one and the newest)
# In copies of this checkout, each with its own environment and wheel: minutes and gigabytes each. A
# combination has worked if two workers train the same bits over MPI, over Gloo and over torch's own
# transport. The ones that worked belong in TRIED of distsent/doctor.py.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
scratch=$(mktemp -d)
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

train() {  # launcher words: two workers train 20 steps; prints the hash of the weights
    rm -rf runs
    "$@" -m distsent.train train.max_steps=20 eval.every=end log.tensorboard=false >>log 2>&1 &&
        sed -n 's/.*"weights_sha256": "\(.*\)".*/\1/p' runs/demo/result.json
}

try() {  # python torch: prints what came of it
    local hashes
    PYTHON=$1 XDG_CACHE_HOME=$PWD/cache tools/setup.sh >>log 2>&1 && [ -x .venv/bin/horovodrun ] ||
        { echo "not built: $(tail -n 1 log)"; return; }
    PATH=$PWD/.venv/bin:$PATH
    hashes=$({ train horovodrun -np 2 --mpi python || echo failed
               train horovodrun -np 2 --gloo python || echo failed
               train python -m distsent.launch --nproc-per-node 2 || echo failed; } | sort -u)
    case $hashes in
        *failed*) echo "built, training failed: $(tail -n 1 log)" ;;
        *$'\n'*) echo "built, the transports differ in bits" ;;
        *) echo works ;;
    esac
}

pinned=$(sed -n 's/^torch==//p' "$root/constraints.txt")
torches=("$@")
if [ $# = 0 ]; then
    newest=$(python3 -m pip index versions torch 2>/dev/null | sed -n '1s/.*(\([0-9.]*\)).*/\1/p')
    torches=("$pinned")
    [ "${newest:-$pinned}" = "$pinned" ] || torches+=("$newest")
fi
for python in $(pythons); do
    for torch in "${torches[@]}"; do
        copy=$scratch/$((count = ${count:-0} + 1))
        mkdir "$copy"
        git -C "$root" archive HEAD | tar -x -C "$copy"
        sed -i "s/^torch==.*/torch==$torch/" "$copy/constraints.txt"
        horovod=$(sed -n 's/^horovod==//p' "$copy/constraints.txt")
        result=$(cd "$copy" && try "$python" "$torch")
        echo "$("$python" -V)  torch $torch  Horovod $horovod  $result"
        rm -rf "$copy"
    done
done
