"""Proofs that need a container engine or a cluster: `make compose-test`, `make k8s-test`. Not collected by pytest."""
