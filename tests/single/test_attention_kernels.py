"""Triton's kernels of packed attention without a GPU: interpreted, and compiled.

A process can do one of the two, as Triton decides when it is imported.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.interpreted_kernels import CASES

ROOT = Path(__file__).parents[2]
# Of a program: what a GPU of any of these kinds has. sm_86 and sm_89 have 99 KB.
MOST_SHARED = 99 * 1024

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def output_of(module: str, folder: Path, **environment: str) -> list[Any]:
    own = os.environ | environment | {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    own |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] or done.stdout[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_interpreted_kernels_agree_with_torch_and_drop_the_same_elements(tmp_path: Path) -> None:
    found = output_of("tests.interpreted_kernels", tmp_path, TRITON_INTERPRET="1")
    assert {name for name, *_ in found} > CASES.keys()
    assert not [each for each in found if not each[2]]


@pytest.mark.slow
def test_compiled_kernels_spill_no_registers_and_fit_into_shared_memory(tmp_path: Path) -> None:
    found = output_of("tests.compiled_kernels", tmp_path, TRITON_INTERPRET="0")
    assert {each["target"] for each in found} == {80, 90, 100}
    assert not [
        each
        for each in found
        if each["STACK"] or each["LOCAL"] or each["REG"] > 255 or each["SHARED"] > MOST_SHARED
    ]
