"""The scripts and the files of the page Start work together, from a log to recommendations."""

import os
import re
import sys
from pathlib import Path

import polars as pl
import pytest
from processes import run_process


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_a_log_to_recommendations(tmp_path):
    log_head, products_head = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    customers = [("customer", "sku", "timestamp")]
    customers += [
        (f"c{user}", f"B-{(user + step) % 30:02}", f"2024-03-{1 + step:02}T{user % 24:02}:00:00Z")
        for user in range(40)
        for step in range(12)
    ]
    products = [("sku", "name"), *((f"B-{item:02}", f"Product number {item}") for item in range(30))]
    for name, table, head in (("clicks.csv", customers, log_head), ("products.csv", products, products_head)):
        (tmp_path / name).write_text("\n".join(map(",".join, table)) + "\n", encoding="utf-8")
        assert pl.read_csv(tmp_path / name).columns == head.splitlines()[0].split(",")
    train, recommend = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    changed = train.replace("**preset.training)", '**{**preset.training, "num_train_epochs": 1}, report_to="none")')
    assert changed != train
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = run_process([sys.executable, "-c", changed + recommend], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()[-3:]
    assert all(re.match(r"B-\d\d Product number \d+ -?\d+\.\d+", line) for line in lines), lines
