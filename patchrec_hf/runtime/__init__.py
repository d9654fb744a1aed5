"""What runs a checkpoint, and what an export carries: nothing here imports the package outside this room."""
