"""From rows to the batches that a trainer feeds."""
