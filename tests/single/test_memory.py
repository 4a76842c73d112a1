"""A run's peak memory is its own, not that of an earlier run in the same process."""

import mmap

from distsent.training.publish import peak_memory, reset_peak_memory

SIZE = 256 << 20


def test_a_new_run_starts_at_the_memory_in_use() -> None:
    reset_peak_memory()
    before = peak_memory()
    # New pages for certain: malloc may return some that are in memory already.
    block = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE)
    for start in range(0, SIZE, mmap.PAGESIZE):
        block[start] = 1
    most = peak_memory()
    assert most > before + SIZE // 2
    block.close()
    # The kernel counts in steps, which grow with the number of cores.
    assert peak_memory() > most - SIZE // 2
    reset_peak_memory()
    assert peak_memory() < before + (50 << 20)
