"""`patchrec prepare`: a log becomes tables and a card, and mistakes are named before anything is read."""

import re

import polars as pl
import pytest
from small_shop import write_shop

from patchrec_hf import load_recommendation_data
from patchrec_hf.commands import prepare as command


def test_a_log_with_texts_for_ids(tmp_path, capsys):
    _, data, *settings = map(str, write_shop(tmp_path))
    command.main([data, str(tmp_path / "out"), *settings, "--no-k_core", "--min_item_users", "3"])
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "README.md").read_text() in printed
    assert re.search(r"Peak memory: \d+\.\d\d GiB for 180 interactions\.", printed)
    sequences = pl.read_parquet(tmp_path / "out" / "sequences.parquet")
    assert (len(sequences), sequences["item_id"][0][0]) == (20, "SKU-000")
    splits, catalog = load_recommendation_data(tmp_path / "out", max_history=5)
    assert (len(catalog), len(splits["test"])) == (12, 36)  # 180 interactions, of which the last fifth is for tests
    with pytest.raises(SystemExit, match="out is not empty"):
        command.main([data, str(tmp_path / "out"), *settings])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min_rating", "nan"], r"^ValueError: `min_rating` must be a finite number, got nan\."),
        (["--cuts", "0.5", "nan"], r"^ValueError: `cuts` must ascend between 0 and 1, got \[0\.5, nan\]\."),
        (["--cuts", "0.5", "0.6", "--split", "leave_one_out"], "splits temporal and user_ratio: leave it out"),
        (["--split", "random"], r"^ValueError: --split: invalid choice: 'random' \(choose from"),
        (["--plot", "x.png"], "needs `--tokenizer`"),
        (["--min_user_interaction", "x"], "^ValueError: --min_user_interactions: invalid int value: 'x'"),
        (["--colums", "item_id=sku"], "^ValueError: There is no option --colums; did you mean '--columns'"),
        (["--k_core"], r"^FileNotFoundError: .*missing\.csv"),
    ],
)
def test_mistakes(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        command.main([str(tmp_path / "missing.csv"), str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()
