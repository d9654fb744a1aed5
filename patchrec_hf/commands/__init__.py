"""Commands: the command `patchrec`, with one module for each of its commands, and what these share."""
