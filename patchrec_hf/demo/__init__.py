"""Demo: a page that shows one history, as a checkpoint reads it, and what each method recommends behind it."""
