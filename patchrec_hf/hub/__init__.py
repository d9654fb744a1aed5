"""Hub: exports of checkpoints, and their model cards."""
