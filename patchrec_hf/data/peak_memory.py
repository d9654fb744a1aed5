"""Peak memory: the most memory that this process has held so far, as the operating system counts it."""

from __future__ import annotations

import sys

import psutil  # type: ignore[import-untyped]


if sys.platform != "win32":
    import resource


def peak_gib() -> float:
    """
    Returns the largest number of GiB that this process has held in memory since it began (its resident set, with the
    parts of mapped files that were read).
    """
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 2**30)
    in_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * in_bytes / 2**30
