"""Kubernetes: checks and writes the manifests of k8s/, and runs first in a job's pods."""
