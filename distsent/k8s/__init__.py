"""Kubernetes: checks and writes the manifests of k8s/, and is the first process of a job's launcher and workers."""
