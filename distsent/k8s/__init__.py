"""Kubernetes: checks and writes the manifests of k8s/, and asks clusters about them."""
