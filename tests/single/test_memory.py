"""The most that a run held is its own, not that of a run before it in the same process."""

import numpy as np

from distsent.training import memory


def test_a_new_run_begins_with_what_is_held_now() -> None:
    memory.begin()
    before = memory.peak()
    held = np.ones(100 << 20, dtype=np.uint8)
    assert memory.peak() > before + held.nbytes // 2
    del held
    memory.begin()
    assert memory.peak() < before + (50 << 20)
