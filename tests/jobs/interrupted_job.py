"""A job that kills itself while it writes a part; `test_recommend_users.py` starts it, and continues the job."""

import os
import signal
import sys
from pathlib import Path

import polars as pl
import torch

from patchrec_hf import PatchRecommender
from patchrec_hf.jobs.recommend_users import recommend_users


def main(directory, num_parts):
    """Writes some parts and half of the next one."""
    torch.set_num_threads(1)
    write = pl.DataFrame.write_parquet

    def write_or_die(rows, path):
        nonlocal num_parts
        write(rows, path)
        if num_parts == 0:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        num_parts -= 1

    pl.DataFrame.write_parquet = write_or_die
    recommender = PatchRecommender.from_pretrained(directory / "checkpoint")
    recommend_users(recommender, directory / "users.parquet", directory / "top.parquet", 3, users_per_part=4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
