"""A storage error at any operation of a run: right code, no lost checkpoint, equal bits."""

from __future__ import annotations

import errno
import os
from collections import Counter

import pytest

from tests.hosts.disk import ALWAYS, Fault
from tests.hosts.faults import Case, FaultyRuns
from tests.hosts.mutants import MUTANTS

CHECKPOINTS = "*/runs/fault/checkpoints"
LAST = f"{CHECKPOINTS}/step-00000004"
CHOSEN = [  # what went wrong before, or would be the worst
    Case("resume", Fault("readdir", CHECKPOINTS, errno.EIO, after=2, times=3)),
    Case("resume", Fault("readdir", CHECKPOINTS, errno.EACCES, times=ALWAYS)),
    Case("resume", Fault("open", f"{LAST}/manifest.json", errno.EIO)),
    Case("resume", Fault("getattr", "*/runs/fault/job.json", errno.EIO, times=ALWAYS)),
    Case("start", Fault("fsync", "*/checkpoints/*/weights.safetensors", errno.EDQUOT, after=2)),
    Case("start", Fault("open", "*/step-00000003/weights.safetensors", errno.EIO, after=1)),
    Case("start", Fault("rename", "*/.model.*", errno.EIO, times=ALWAYS)),
    Case("prepare", Fault("write", "*/.tokens/*/test.labels.npy", errno.ENOSPC)),
    Case("prepare", Fault("read", "*/model/tokenizer.json", errno.EIO, times=ALWAYS)),
    Case("evaluate", Fault("open", "*/runs/fault/model/model.safetensors", errno.ESTALE, times=3)),
    Case("prepare", Fault("flush", "*/model/model.safetensors", errno.ENOSPC)),
    Case("resume", Fault("read", "*/.tokens/*/validation.labels.npy", errno.EDQUOT, times=ALWAYS)),
]


CAUGHT = {  # mistake -> the case that shows it
    "listing_swallows_errors": CHOSEN[0],
    "unreadable_is_damaged": CHOSEN[2],
    "any_error_of_safetensors_is_damage": CHOSEN[5],
    "numpy_writes_files": Case(
        "prepare", Fault("write", "*/test.labels.npy", errno.ENOSPC, 1, ALWAYS)
    ),
    "trouble_is_a_wrong_job": Case(
        "prepare", Fault("read", "*/data/train.jsonl", errno.EIO, times=ALWAYS)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHOSEN, ids=map(str, CHOSEN))
def test_an_error_of_the_storage(faulty: FaultyRuns, case: Case) -> None:
    ended = faulty.run(case)
    assert not ended.problems, "\n".join([*ended.problems, ended.output])
    assert faulty.failed, "the fault did not occur"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_with_storage_is_caught(faulty: FaultyRuns, mutant: str) -> None:
    assert faulty.run(CAUGHT[mutant], mutant).problems


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_errors_of_the_storage_at_all_operations(faulty: FaultyRuns) -> None:
    number, seed = int(os.environ.get("FAULTS", 320)), int(os.environ.get("SEED", 7))
    wrong, codes = list[str](), Counter[tuple[str, str, int]]()
    for case in faulty.cases(number, seed):
        ended = faulty.run(case)
        codes[case.scenario, errno.errorcode[case.fault.error], ended.code] += 1
        if ended.problems:
            wrong.append("\n".join([str(case), *ended.problems, ended.output[-2000:]]))
    print(f"\n{number} faults, seed {seed}; how often each exit code:")
    print(f"{'scenario':10} {'error':8} {'0':>5} {'1':>5} {'2':>5} others")
    for scenario, error in sorted({key[:2] for key in codes}):
        counts = {key[2]: n for key, n in codes.items() if key[:2] == (scenario, error)}
        known = " ".join(f"{counts.pop(code, 0):5}" for code in (0, 1, 2))
        print(f"{scenario:10} {error:8} {known} {counts or ''}")
    assert not wrong, f"{len(wrong)} of {number}:\n\n" + "\n\n".join(wrong)
