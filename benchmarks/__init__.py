"""Benchmarks of distsent against the tools that users would otherwise choose."""
