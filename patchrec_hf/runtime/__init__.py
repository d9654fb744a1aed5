"""Modules that run a checkpoint and that an export carries. They import nothing of the package outside this folder."""
