"""Moves messages between processes; knows NATS, knows nothing of agents.

A file here imports only files that stand above it in the layers contract of `pyproject.toml`.
"""
