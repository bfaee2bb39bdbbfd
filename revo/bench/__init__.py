"""Measurements of this machine. Each starts its own server and its own processes, and leaves nothing behind."""
