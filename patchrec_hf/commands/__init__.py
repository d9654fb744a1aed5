"""Commands: the command `patchrec`, a module for each of its commands."""
