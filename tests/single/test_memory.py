"""The most that a run held is its own, not that of a run before it in the same process."""

import mmap

from distsent.training import memory

SIZE = 256 << 20


def test_a_new_run_begins_with_what_is_held_now() -> None:
    memory.begin()
    held = mmap.mmap(-1, SIZE)  # new pages for certain: malloc may hand out some that the process holds already
    for start in range(0, SIZE, mmap.PAGESIZE):
        held[start] = 1
    most = memory.peak()
    held.close()
    assert memory.peak() >= most
    memory.begin()
    assert memory.peak() < most - SIZE // 2
