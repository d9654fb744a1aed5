"""Runs an example as it is, but for the one op that deepspeed would compile at run time for processes on a CPU."""

import os
import runpy
import sys

import deepspeed.ops


deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as Python does for a script
    runpy.run_path(sys.argv[0], run_name="__main__")
