"""The command `patchrec` as `python -m patchrec_hf`, for launchers that start a module by its name."""

from .commands.main import main


if __name__ == "__main__":
    main()
