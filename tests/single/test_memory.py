"""The most that a run held is its own, not that of a run before it in the same process."""

import mmap

from distsent.training import memory

SIZE = 256 << 20


def test_a_new_run_begins_with_what_is_held_now() -> None:
    memory.reset_peak()
    before = memory.peak()
    held = mmap.mmap(
        -1, SIZE, mmap.MAP_PRIVATE
    )  # new pages for certain: malloc may hand out some that are held already
    for start in range(0, SIZE, mmap.PAGESIZE):
        held[start] = 1
    most = memory.peak()
    assert most > before + SIZE // 2
    held.close()
    assert (
        memory.peak() > most - SIZE // 2
    )  # the kernel counts in steps, the larger the more cores there are
    memory.reset_peak()
    assert memory.peak() < before + (50 << 20)
