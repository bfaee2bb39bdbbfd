"""What is upgraded in `test_upgrade.py`: two versions of one agent, and two of Revo."""
