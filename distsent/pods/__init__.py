"""The first processes in a Kubernetes job's pods, and how a launcher runs its training command."""
