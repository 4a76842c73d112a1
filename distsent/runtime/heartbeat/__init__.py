"""Heartbeats: every second, each worker reports its position to the main worker (rank 0).

A collective waits forever for a worker that died or hangs. With heartbeats a death shows at once
(its connection closes), a frozen process after `run.stall_seconds`, and a run in which all
processes live but nothing moves after the bound of its phase. Rank 0 names the worker, and all
exit. Plain TCP between the workers' hosts, a hundred bytes per second and worker.
"""
