"""Training: the trainers, their arguments and their checkpoints."""
