"""Exports of checkpoints, and their model cards."""
