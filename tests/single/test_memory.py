"""A run's peak memory is its own, not that of an earlier run in the same process."""

import mmap

from distsent.training import memory

SIZE = 256 << 20


def test_a_new_run_starts_at_the_memory_in_use() -> None:
    memory.reset_peak()
    before = memory.peak()
    # New pages for certain: malloc may return some that are in memory already.
    block = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE)
    for start in range(0, SIZE, mmap.PAGESIZE):
        block[start] = 1
    most = memory.peak()
    assert most > before + SIZE // 2
    block.close()
    # The kernel counts in steps, which grow with the number of cores.
    assert memory.peak() > most - SIZE // 2
    memory.reset_peak()
    assert memory.peak() < before + (50 << 20)
