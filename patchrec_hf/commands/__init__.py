"""Commands: what `patchrec` can do at a terminal, one module for each command."""
