"""Trainers, their arguments and their checkpoints."""
