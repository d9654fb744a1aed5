"""`patchrec train --from`: a shop's second week, what it prints, and what it refuses before it writes."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from huggingface_hub import constants
from layouts_of_users import LongTextLayout
from weekly_shop import FIRST_ITEMS, HISTORY, ITEMS, SECOND_WEEK, log_of, train_first_week

from patchrec_hf import Catalog, PatchRecommender, PatchRecProcessor
from patchrec_hf.commands import train as command
from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.data.update_rows import rows_since
from patchrec_hf.training.fusion_recount import recount_fusion
from patchrec_hf.training.updates import read_config


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A checkpoint of the first week, and the files of a weekly job in the second one."""
    directory = tmp_path_factory.mktemp("shop")
    train_first_week(directory, num_train_epochs=1)
    write(directory, log_of(2), ITEMS)
    return directory


def write(directory, log, items):
    log.write_csv(directory / "log.csv")
    table = pl.DataFrame({"item_id": items.item_ids.tolist(), "title": list(items.titles)})
    table.write_csv(directory / "items.csv")


def options(shop, directory, *more, files=None):
    files = shop if files is None else files
    return ["--from", str(shop / "final"), "--data", str(files / "log.csv"), "--items", str(files / "items.csv"),
            "--cache_dir", str(shop / "cache"), "--output_dir", str(directory), "--use_cpu", "--max_steps", "2",
            *more]  # fmt: skip


def run(arguments):
    command.train(*command.parse(arguments))


def check_counts(processor, directory, since):
    """All interactions of the log are counted, also validation rows on which nothing is evaluated."""
    log = order_interactions(pl.read_csv(directory / "log.csv"))
    rows = rows_since(log, processor.catalog, since, HISTORY, HISTORY)
    expected = recount_fusion(processor, [rows.old, rows.new], show_progress=False).fusion.parts
    histories = [np.array([item]) for item in range(len(processor.catalog))]
    co_visits = [parts["co_visits"].table.scores(histories) for parts in (processor.fusion.parts, expected)]
    np.testing.assert_allclose(*co_visits)


@pytest.mark.slow
def test_the_second_week(shop, tmp_path, capsys):
    """An item of the first week is no longer sold. The same command never overwrites a finished update."""
    left = [number for number in ITEMS.item_ids.tolist() if number != 101]
    sold = Catalog.from_titles({number: ITEMS.titles[ITEMS.indices_of([number])[0]] for number in left})
    write(tmp_path, log_of(2).filter(pl.col("item_id") != 101), sold)
    arguments = options(shop, tmp_path / "run", "--validation_share", "0.3", "--max_eval_rows", "4", files=tmp_path)
    run(arguments)
    printed = capsys.readouterr().out
    assert "12 items are known, 8 are new, and 1 have left the data." in printed
    assert "from 2026-11-05 " in printed
    assert "| before " in printed
    assert "| after " in printed
    gone = pl.read_parquet(tmp_path / "run" / "items_that_left.parquet")
    assert gone.rows() == [(101, FIRST_ITEMS[101])]
    recommender = PatchRecommender.from_pretrained(tmp_path / "run" / "final")
    assert recommender.processor.catalog.item_ids[:12].tolist() == list(FIRST_ITEMS)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "\n4 validation rows" in printed
    check_counts(recommender.processor, tmp_path, read_config(shop / "final").trained_until + 1)
    assert [row["checkpoint"] for row in results] == ["before", "after"]
    assert results[0]["hr@20 of new items"] == 1
    with pytest.raises(FileExistsError, match="holds a finished run"):
        run(arguments)
    run([*options(tmp_path / "run", tmp_path / "third", "--since", "2026-11-11", files=shop)])
    assert "0 are new, and 0 have left" in capsys.readouterr().out


def test_mistakes_are_named_before_anything_is_written(shop, tmp_path):
    output = tmp_path / "run"
    with pytest.raises(ValueError, match=r"--layout text cannot be chosen in an update: .*continues with its own"):
        run(options(shop, output, "--layout", "text"))
    with pytest.raises(ValueError, match=r"--objective title is not the checkpoint's: .* was trained on item\. Leave"):
        run(options(shop, output, "--objective", "title"))
    with pytest.raises(ValueError, match=r"--preset paper is not the checkpoint's, which is all-patch"):
        run(options(shop, output, "--preset", "paper"))
    with pytest.raises(ValueError, match=r"--from .* from a checkpoint, and --model_name_or_path gpt2 starts"):
        run(options(shop, output, "--model_name_or_path", "gpt2"))
    with pytest.raises(ValueError, match="--since belongs to an update: pass the checkpoint to go on from by --from"):
        run(["--since", "2026-11-09", "--use_cpu"])
    with pytest.raises(ValueError, match="--replay_share belongs to an update"):
        run(["--replay_share", "0", "--use_cpu"])
    with pytest.raises(ValueError, match="--replay_share must be at least 0 and below 1, got 1"):
        run(options(shop, output, "--replay_share", "1"))
    with pytest.raises(ValueError, match="new ones begin at 2027-01-01 00:00:00 UTC"):
        run(options(shop, output, "--since", "2027-01-01"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(["--from", str(tmp_path / "nowhere"), "--use_cpu"])
    renamed = Catalog(ITEMS.item_ids, tuple(title.replace("amber", "myrrh") for title in ITEMS.titles))
    write(tmp_path, log_of(2), renamed)
    with pytest.raises(ValueError, match=r"100: 'Tea of amber' is now 'Tea of myrrh'"):
        run(options(shop, output, files=tmp_path))
    assert not output.exists()


@pytest.mark.slow
def test_a_failed_update_leaves_its_directory_to_other_settings(shop, tmp_path):
    """The log lacks old interactions, and an item has left. The second error is about the log, not the directory."""
    titles = dict(zip(ITEMS.item_ids.tolist(), ITEMS.titles, strict=True))
    sold = Catalog.from_titles({number: title for number, title in titles.items() if number != 101})
    write(tmp_path, log_of(2).filter(pl.col("timestamp") >= SECOND_WEEK), sold)
    arguments = options(shop, tmp_path / "run", files=tmp_path)
    with pytest.raises(ValueError, match="or `replay_share` 0"):
        run(arguments)
    for _ in range(2):
        with pytest.raises(ValueError, match="counts are made anew from the whole log"):
            run([*arguments, "--replay_share", "0"])
    part = tmp_path / "run" / "grown.part"
    part.mkdir()
    (part / "config.json").write_text("{}")  # as if the growth had been killed
    with pytest.raises(ValueError, match="counts are made anew from the whole log"):
        run([*arguments, "--replay_share", "0", "--seed", "1"])


@pytest.mark.slow
def test_a_revision_and_a_layout_of_ones_own(shop, tmp_path, monkeypatch):
    """A repository whose main branch holds a bare backbone, and whose revision holds a checkpoint."""
    repository = tmp_path / "models--user--tea"
    for revision, commit in (("main", "a" * 40), ("week_1", "b" * 40)):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    shutil.copytree(shop / "backbone", repository / "snapshots" / ("a" * 40))
    shutil.copytree(shop / "final", repository / "snapshots" / ("b" * 40))
    processor = PatchRecProcessor.from_pretrained(shop / "final", layout=LongTextLayout(num_text_items=0))
    processor.save_pretrained(repository / "snapshots" / ("b" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    arguments = options(shop, tmp_path / "run", "--model_revision", "week_1", "--validation_share", "0.3")
    arguments[1] = "user/tea"
    with pytest.raises(ValueError, match="holds a model of the type 'llama'"):
        run([argument if argument != "week_1" else "main" for argument in arguments])
    with pytest.raises(ValueError, match="pass `trust_layout_code=True`"):
        run(arguments)
    run([*arguments, "--trust_layout_code"])
    updated = PatchRecProcessor.from_pretrained(tmp_path / "run" / "final", trust_layout_code=True)
    assert isinstance(updated.layout, LongTextLayout)
    with pytest.raises(ValueError, match="--trust_layout_code belongs to an update"):
        run(["--trust_layout_code", "--use_cpu"])


def test_the_checkpoint_gives_the_defaults(shop, tmp_path):
    script, _, _, args = command.parse(options(shop, tmp_path))
    assert (script.preset, args.objective, args.num_train_epochs) == ("all-patch", "item", 2)
    assert args.learning_rate == pytest.approx(1e-3)
    _, _, _, args = command.parse(options(shop, tmp_path, "--learning_rate", "0.5"))
    assert args.learning_rate == 0.5
    (tmp_path / "week.yaml").write_text(f"from: {shop / 'final'}\nreplay_share: 0.4\n")
    script, _, _, _ = command.parse(["--config", str(tmp_path / "week.yaml"), "--use_cpu"])
    assert (script.start_from, script.replay_share) == (str(shop / "final"), 0.4)


def test_checkpoints_of_earlier_versions_must_be_told(shop, tmp_path):
    """They know neither until when they were trained nor at which rate."""
    old = tmp_path / "old"
    old.mkdir()
    for path in (shop / "final").iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    values = json.loads((old / "config.json").read_text())
    for name in ("trained_until", "initial_learning_rate"):
        del values[name]
    (old / "config.json").write_text(json.dumps(values))
    arguments = options(shop, tmp_path / "run")
    arguments[1] = str(old)
    with pytest.raises(ValueError, match="does not say with which learning rate it was trained"):
        run(arguments)
    with pytest.raises(ValueError, match=r"does not say until when it was trained.*--since 2026-11-20"):
        run([*arguments, "--learning_rate", "0.001"])
