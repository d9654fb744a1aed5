"""`examples/prepare_data.py` refuses numbers before it reads anything."""

import sys
from pathlib import Path

import pytest
from processes import run_process


PREPARE_DATA = Path(__file__).parents[2] / "examples" / "prepare_data.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min_rating", "nan"), "`min_rating` must be a finite number, got nan."),
        (("--cuts", "0.5", "nan"), "`cuts` must ascend between 0 and 1, got [0.5, nan]."),
        (("--cuts", "0.5", "0.6", "--split", "leave_one_out"), "splits temporal and user_ratio: leave it out."),
    ],
)
def test_wrong_numbers(tmp_path, arguments, message):
    done = run_process([sys.executable, PREPARE_DATA, tmp_path / "missing.csv", tmp_path / "out", *arguments])
    assert done.returncode == 1
    assert done.stderr.endswith(f"{message}\n")
    assert not (tmp_path / "out").exists()
