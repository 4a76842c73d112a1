"""The compiled operators: C++, built at first use for the vector instructions that torch uses.

A library is kept, with the package or in the user's cache. Without a compiler the references run.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCES = sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")])
# What torch uses -> g++'s name of it
MARCH = {
    "AVX2": ["-march=x86-64-v3"],
    "AVX512": ["-march=x86-64-v4"],
    "AVX512-BF16": ["-march=x86-64-v4", "-mavx512bf16"],
}
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-Wno-psabi"),
    *("-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),
)
SECONDS = 120.0  # of patience with the compiler, which takes 2

REFERENCE = "reference"
_used = REFERENCE  # by this process: all workers together decide


class Unavailable(Exception):
    """Why there is no library: no compiler, another kind of CPU, nowhere to keep it."""


@cache
def load() -> ctypes.CDLL:
    """The library, compiled if it is not there yet. Raises Unavailable."""
    capability = vectors()
    if capability not in MARCH:
        raise Unavailable(f"no C++ operators for CPUs with {capability}")
    name = file_name(capability)
    kept = next((folder / name for folder in folders() if is_ours(folder / name)), None)
    return open_library(kept or build(capability))


def vectors() -> str:
    """What torch uses of this CPU, by the names in MARCH."""
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = capability == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    return "AVX512-BF16" if bf16 else capability


def file_name(capability: str) -> str:
    parts = [*map(Path.read_bytes, SOURCES), " ".join([*FLAGS, *MARCH[capability]]).encode()]
    return f"operators-{capability.lower()}-{sha256(b'|'.join(parts)).hexdigest()[:12]}.so"


def folders() -> Iterator[Path]:
    """Where the library may lie: with the package, as in an image, or in the user's cache."""
    yield HERE / "built"
    with_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(with_home):  # without a home, "~" stays
        yield Path(with_home) / "distsent"


def is_ours(file: Path) -> bool:
    """Whether the file is there and nobody but this user and root can have written it."""
    try:
        status = file.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def build(capability: str) -> Path:
    """Compile into the first folder that can be written. Workers may do so at the same time."""
    name, flags = file_name(capability), [*FLAGS, *MARCH[capability]]
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise Unavailable("no C++ compiler (g++, or CXX) on the path")
    sources = [str(file) for file in SOURCES if file.suffix == ".cpp"]
    for folder in folders():
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
                out = os.path.join(scratch, name)
                command = [compiler, *flags, "-o", out, *sources]
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
                os.chmod(out, 0o755)
                os.replace(out, folder / name)
            return folder / name
        except OSError:  # read-only: the next folder
            continue
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{compiler} took more than {SECONDS:.0f} s") from error
        except subprocess.CalledProcessError as error:
            first = (error.stderr.decode(errors="replace").splitlines() or ["no output"])[0]
            raise Unavailable(f"{compiler} failed: {first[:200]}") from error
    raise Unavailable(f"no folder to keep it in: tried {', '.join(map(str, folders()))}")


def open_library(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise Unavailable(str(error)) from error


def use(which: str) -> None:
    """Run the compiled operators from now on, by the name of their version, or the REFERENCE."""
    global _used
    _used = which


def used() -> str:
    return _used


def use_on_cpu() -> None:
    """Run the compiled operators if they are there: for a process that only scores."""
    with suppress(Unavailable):
        use(version())


@contextmanager
def reference() -> Iterator[None]:
    """Within it the references run: torch counts their products."""
    before = used()
    use(REFERENCE)
    try:
        yield
    finally:
        use(before)


def version() -> str:
    """What the bits of a training depend on: kind of CPU, sources and flags. Raises Unavailable."""
    return Path(load()._name).stem.removeprefix("operators-")


if __name__ == "__main__":  # for an image that has no compiler when it runs
    for each in MARCH:
        print(build(each))
