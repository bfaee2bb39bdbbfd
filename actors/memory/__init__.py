"""Shared memory: entries with versions, conflicts and locks, which agents can trust.

All of it stands in the bucket MEMORY, so that no coordinator has a state that the others lack.
"""
