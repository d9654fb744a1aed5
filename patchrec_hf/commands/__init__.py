"""Commands: each module that `main` lists is a command of `patchrec`."""
