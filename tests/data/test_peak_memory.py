"""The peak of memory grows with what a process holds, and never falls."""

import numpy as np
import psutil

from patchrec_hf.data.peak_memory import peak_gib


def test_the_peak_counts_what_was_held_and_is_gone():
    before = peak_gib()
    assert before * 2**30 >= psutil.Process().memory_info().rss * 0.9
    held = np.ones(int((before + 0.1) * 2**27))  # 8 bytes each: more than the peak so far
    del held
    after = peak_gib()
    assert after >= before + 0.1
    assert peak_gib() >= after
