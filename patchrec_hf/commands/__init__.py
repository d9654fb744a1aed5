"""Commands: the command `patchrec`, one module for each of its parts."""
