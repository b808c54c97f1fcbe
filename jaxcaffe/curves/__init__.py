"""Curves of training runs: read from logs and run folders, tabled and drawn."""
