"""Data: from raw interactions to the rows that models train on."""
