"""Tests of evaluations: where the targets of a data set stand in rankings."""

import os
import subprocess
import sys
from pathlib import Path

import evaluate_in_processes
import numpy as np
import polars as pl
import pytest
import torch
from brute_force import brute_force
from conftest import ITEM_IDS, TITLES
from datasets import Dataset, concatenate_datasets
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from patchrec_hf import (
    AUTHORS,
    BOOK_PROMPT,
    Catalog,
    EvaluationProtocol,
    ItemPatchLayout,
    PatchDataCollator,
    PatchPretrainDataCollator,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
    evaluation,
    rank_targets,
    score_targets,
)


def test_users_must_be_whole_numbers(model, processor, rows):
    named = rows.remove_columns("user_id").add_column("user_id", [f"u{row}" for row in range(len(rows))])
    with pytest.raises(TypeError, match=r"`user_id` must hold whole numbers, got string"):
        rank_targets(model, PatchDataCollator(processor), named)


def test_ranks_of_targets(model, processor, rows):
    """Both items called "Poems" share their two places; in the list of titles they are one."""
    collator = PatchDataCollator(processor)
    rows = rows.add_item({"user_id": 99, "item_ids": [10, 11, 12, 15], "target_positions": [3]})
    report = rank_targets(model, collator, rows, k=12, batch_size=4, show_progress=False)
    ranks = zip(report.examples["title_rank"], report.examples["item_rank"], strict=True)
    for row, (title_rank, item_rank), prompt in zip(rows, ranks, collator.encode_rows(list(rows)), strict=True):
        scores = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        target = processor.catalog.indices_of([row["item_ids"][-1]])[0]
        above = np.flatnonzero(scores > scores[target] + 1e-4)
        assert title_rank == 1 + len({processor.catalog.titles[item] for item in above})
        assert item_rank == 1 + len(above) + (0.5 if row["item_ids"][-1] in (14, 15) else 0)
    assert report.examples["user_id"].to_list() == rows["user_id"]
    assert report.metrics([12])["hr@12"] == 1.0


def test_unranked_targets_are_infinitely_far(model, processor, rows):
    report = rank_targets(model, PatchDataCollator(processor), rows, k=1, show_progress=False)
    assert set(report.examples["title_rank"]) <= {1.0, np.inf}
    assert report.examples["item_rank"].is_infinite().any()


def test_excluding_seen_never_excludes_the_target(model, processor, rows):
    again = rows.map(lambda row: {"item_ids": [*row["item_ids"][:-1], row["item_ids"][0]]})
    report = rank_targets(model, PatchDataCollator(processor), again, k=12, exclude_seen=True, show_progress=False)
    assert report.examples["item_rank"].is_finite().all()


def test_excluding_the_other_item_of_a_title_breaks_the_tie(model, processor, rows):
    row = {"user_id": 2**60 + 1, "item_ids": [14, 10, 11, 15], "target_positions": [3]}
    kwargs = {"k": 12, "show_progress": False}
    tied = rank_targets(model, PatchDataCollator(processor), Dataset.from_list([row]), **kwargs)
    alone = rank_targets(model, PatchDataCollator(processor), Dataset.from_list([row]), exclude_seen=True, **kwargs)
    assert tied.examples["item_rank"][0] == tied.examples["title_rank"][0] + 0.5
    assert alone.examples["item_rank"][0] == alone.examples["title_rank"][0]
    assert tied.examples["user_id"].to_list() == [2**60 + 1]


def test_model_and_processor_that_do_not_match(model, processor, rows):
    model.config.patch_token_id = 5
    with pytest.raises(ValueError, match="not made for each other"):
        rank_targets(model, PatchDataCollator(processor), rows)


def test_training_mode_is_kept_also_after_an_error(model, processor, rows):
    model.train()
    with pytest.raises(ValueError, match="max_expansions"):
        rank_targets(model, PatchDataCollator(processor), rows, k=5, max_expansions=-2, show_progress=False)
    assert model.training


def test_max_rows_are_evenly_spaced(model, processor, rows):
    report = rank_targets(model, PatchDataCollator(processor), rows, k=3, max_rows=3, show_progress=False)
    assert report.examples["user_id"].to_list() == [0, 6, 13]


def test_several_targets_in_a_row(model, processor):
    rows = Dataset.from_list([{"user_id": 5, "item_ids": [10, 11, 12, 13, 16], "target_positions": [3, 4]}])
    report = rank_targets(model, PatchDataCollator(processor, ItemPatchLayout(1)), rows, k=12, show_progress=False)
    assert report.examples["user_id"].to_list() == [5, 5]
    assert len(report.examples["item_rank"]) == 2


def test_empty_data_set(model, processor, rows):
    with pytest.raises(ValueError, match="empty"):
        rank_targets(model, PatchDataCollator(processor), rows.select([]))


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_all_and_exact_agree(model, processor, rows, exclude_seen):
    """Every target has a place in the whole ranking; a search for the best five finds those up to the fifth."""
    kwargs = {"exclude_seen": exclude_seen, "show_progress": False}
    whole = rank_targets(model, PatchDataCollator(processor), rows, k=None, method="all", **kwargs)
    best = rank_targets(model, PatchDataCollator(processor), rows, k=5, **kwargs)
    assert whole.settings["k"] == 11  # two items have one title
    assert whole.examples["title_rank"].is_between(1, 11).all()
    within = pl.col("title_rank") <= 5
    expected = whole.examples.select(
        *(pl.when(within).then(name).otherwise(np.inf).alias(name) for name in ("title_rank", "item_rank")), "num_ties"
    )
    assert best.examples.select(expected.columns).equals(expected)
    assert 0 < best.examples["title_rank"].is_infinite().sum() < len(rows)
    assert best.examples["certified"].all()


def authors_ranks(model, collator, rows, k):
    """
    The places by the authors' release: the best k of the different titles that begin no other, and for each list the
    last title that begins with the target's letters.
    """
    processor = collator.processor
    titles = {title: index for index, title in reversed(list(enumerate(processor.catalog.titles)))}
    tokens = {title: tuple(processor.title_tokens[index]) for title, index in titles.items()}
    ranked = {
        title: index
        for title, index in titles.items()
        if not any(other[: len(tokens[title])] == tokens[title] for other in set(tokens.values()) - {tokens[title]})
    }
    ranks = []
    for row, prompt in zip(rows, collator.encode_rows(list(rows)), strict=True):
        scores = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        real = processor.catalog.titles[processor.catalog.indices_of([row["item_ids"][-1]])[0]]
        rank = np.inf
        for place, title in enumerate(sorted(ranked, key=lambda title: -scores[ranked[title]])[:k]):
            if title[: len(real)] == real:
                rank = place + 1.0
        ranks.append(rank)
    return ranks


@pytest.mark.parametrize("k", [4, None])
def test_ranks_by_the_authors_protocol(k):
    """
    "Typhoon" begins another title and can only be credited for it; "Emma" begins "Emmanuel" by its letters, but not
    by its tokens, so that both are ranked and the last of them counts.
    """
    catalog = Catalog.from_titles({**TITLES, 22: "Emmanuel"})
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, layout=ItemPatchLayout(2))
    collator = PatchDataCollator(processor)
    items = [*ITEM_IDS, 22]
    rows = Dataset.from_list(
        [
            {"user_id": place, "item_ids": [*np.roll(items, place)[:3].tolist(), item], "target_positions": [3]}
            for place, item in enumerate(items)
        ]
    )
    report = rank_targets(model, collator, rows, k=k, protocol=AUTHORS, show_progress=False)
    expected = authors_ranks(model, collator, rows, k)
    assert report.settings["k"] == (k or 11)  # 13 items, "Poems" twice, without "Typhoon"
    assert report.examples["title_rank"].to_list() == expected
    assert report.examples["item_rank"].to_list() == expected
    assert set(report.examples["num_ties"]) == {1}
    if k is None:
        assert np.isfinite(expected).all()
        strict = rank_targets(model, collator, rows, k=k, show_progress=False)
        assert strict.examples["title_rank"].to_list() != expected


def test_authors_protocol_excludes_every_item_of_a_seen_title(model, processor):
    """A title stands in the list once, for whichever of its items was seen; and never out of it as the target's."""
    rows = Dataset.from_list(
        [
            {"user_id": 0, "item_ids": [15, 10, 11], "target_positions": [2]},
            {"user_id": 1, "item_ids": [14, 10, 15], "target_positions": [2]},
        ]
    )
    kwargs = {"k": None, "protocol": AUTHORS, "show_progress": False}
    collator = PatchDataCollator(processor)
    free = rank_targets(model, collator, rows, **kwargs).examples["item_rank"]
    unseen = rank_targets(model, collator, rows, exclude_seen=True, **kwargs).examples["item_rank"]
    scores = [
        dict(
            zip(
                TITLES,
                brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt),
                strict=True,
            )
        )
        for prompt in collator.encode_rows(list(rows))
    ]
    poems_or_emma_first = [sum(scores[0][item] > scores[0][11] for item in (14, 10)), scores[1][10] > scores[1][15]]
    assert (free - unseen).to_list() == poems_or_emma_first


class FixedScorer:
    """The same scores for every history, in an array that cannot be written."""

    def __init__(self, scores):
        self.scores = np.array(scores)

    def score(self, histories):
        return np.broadcast_to(self.scores, (len(histories), len(self.scores)))


class SeenScorer:
    """1 for the items of the history, 0 for others."""

    def score(self, histories):
        return np.array([[float(item in history) for item in BOOKS] for history in histories])


BOOKS = {1: "Emma", 2: "Poems", 3: "Poems", 4: "Ulysses", 5: "Nostromo"}


def score_books(scorer, *rows, **kwargs):
    dataset = Dataset.from_list(
        [
            {"user_id": user, "item_ids": item_ids, "target_positions": positions}
            for user, (item_ids, positions) in enumerate(rows)
        ]
    )
    return score_targets(scorer, Catalog.from_titles(BOOKS), dataset, show_progress=False, **kwargs)


@pytest.mark.parametrize(
    ("scores", "target", "item_rank", "title_rank", "num_ties"),
    [
        ([5, 4, 3, 2, 1], 4, 4, 3, 1),  # the two items above it called "Poems" are one title
        ([3, 1, 4, 2, 0], 2, 4, 1, 1),  # the other "Poems" is first
        ([3, 1, 4, 2, 0], 3, 1, 1, 1),
        ([4, 1, 4, 2, 0], 2, 4, 1.5, 1),  # the other "Poems" shares the first place with "Emma"
        ([4, 1, 4, 2, 0], 1, 1.5, 1.5, 2),
        ([0, 2, 2, 3, 1], 2, 2.5, 2, 2),  # by title there is no tie
        ([7, 7, 7, 7, 7], 5, 3, 2.5, 5),
        ([7, 7, 7, 7, 7], 3, 3, 2.5, 5),  # as for any other of the four titles
        ([-np.inf, 1, 1, np.inf, np.inf], 4, 1.5, 1.5, 2),
    ],
)
def test_score_targets_by_hand(scores, target, item_rank, title_rank, num_ties):
    (row,) = score_books(FixedScorer(scores), ([1, target], [1])).examples.rows(named=True)
    assert (row["item_rank"], row["title_rank"], row["num_ties"]) == (item_rank, title_rank, num_ties)
    assert row["certified"] is None
    assert (row["user_id"], row["target_id"], row["history_length"], row["is_cold"]) == (0, target, 1, None)
    assert row["num_read"] is None
    assert row["prompt_tokens"] is None


def test_scorers_read_the_history_before_each_target():
    rows = [([1, 2, 4], [1, 2]), ([5, 5, 4, 3], [3])]
    report = score_books(SeenScorer(), *rows)
    assert report.examples["user_id"].to_list() == [0, 0, 1]
    assert report.examples["target_id"].to_list() == [2, 4, 3]
    assert report.examples["history_length"].to_list() == [1, 2, 3]
    # After [1]: one of 1, four of 0. After [1, 2]: two and three. After [5, 5, 4]: two and three.
    assert report.examples["item_rank"].to_list() == [3.5, 4.0, 4.0]
    assert report.examples["title_rank"].to_list() == [3.0, 3.5, 3.5]
    assert report.settings["ranker"] == "SeenScorer"
    assert score_books(SeenScorer(), *rows, batch_size=1).examples.equals(report.examples)
    assert score_books(SeenScorer(), *rows, max_rows=1).examples.equals(report.examples[:2])


def test_scored_items_that_were_seen_are_left_out_but_for_the_target():
    rows = [
        ([1, 2, 4], [2]),
        ([4, 1, 4], [2]),  # the target was seen too
        ([1, 2, 3], [2]),  # and so was the other item of the target's title
    ]
    free = score_books(FixedScorer([5, 4, 3, 2, 1]), *rows)
    unseen = score_books(FixedScorer([5, 4, 3, 2, 1]), *rows, exclude_seen=True)
    assert free.examples["item_rank"].to_list() == [4.0, 4.0, 3.0]
    assert unseen.examples["item_rank"].to_list() == [2.0, 3.0, 1.0]
    assert free.examples["title_rank"].to_list() == [3.0, 3.0, 2.0]
    assert unseen.examples["title_rank"].to_list() == [2.0, 2.0, 1.0]
    tied = ([1, 2, 4], [2])
    assert score_books(FixedScorer([7] * 5), tied).examples["num_ties"].to_list() == [5]
    assert score_books(FixedScorer([7] * 5), tied, exclude_seen=True).examples["num_ties"].to_list() == [3]


def test_what_was_seen_does_not_tie_with_a_target_that_scores_minus_infinity():
    infinity = np.inf
    row = score_books(FixedScorer([1, -infinity, -infinity, -infinity, 2]), ([2, 3], [1]), exclude_seen=True).examples
    # Above are 1 and 5, and 4 ties; 2, the other item of the title, was seen.
    assert row["item_rank"].to_list() == [3.5]
    assert row["title_rank"].to_list() == [3.5]
    assert row["num_ties"].to_list() == [2]


def test_scores_of_another_shape():
    with pytest.raises(ValueError, match=r"FixedScorer.score gave an array of shape \(2, 4\), expected \(2, 5\)"):
        score_books(FixedScorer([1, 2, 3, 4]), ([1, 2], [1]), ([1, 3], [1]))


def test_scores_that_are_not_numbers():
    with pytest.raises(ValueError, match="NaN"):
        score_books(FixedScorer([1, 2, 3, 4, np.nan]), ([1, 2], [1]))


def test_warm_and_cold_targets(model, processor, rows):
    """A target is warm if the training rows hold it anywhere."""
    train = Dataset.from_list(
        [
            {"user_id": 0, "item_ids": [1, 2], "target_positions": [1]},
            {"user_id": 1, "item_ids": [4, 1], "target_positions": [1]},
        ]
    )
    books = [([1, 2], [1]), ([1, 3, 4], [1, 2]), ([2, 5], [1])]
    report = score_books(FixedScorer([1, 2, 3, 4, 5]), *books, train_dataset=train)
    assert report.examples["is_cold"].to_list() == [False, True, False, True]

    targets = np.array([row["item_ids"][-1] for row in rows])
    known = Dataset.from_list([{"user_id": 0, "item_ids": [10, 14, 16, 18], "target_positions": [3]}])
    ranked = rank_targets(model, PatchDataCollator(processor), rows, train_dataset=known, show_progress=False)
    assert ranked.examples["is_cold"].to_list() == [bool(item not in (10, 14, 16, 18)) for item in targets]


class Calls:
    """Calls `rank_catalog`, and notes how many prompts each call ranked; the call after so many fails."""

    def __init__(self, monkeypatch, fail_after=None):
        self.num_prompts = []
        self._rank, self._fail_after = evaluation.rank_catalog, fail_after
        monkeypatch.setattr(evaluation, "rank_catalog", self)

    def __call__(self, model, trie, prompts, *args, **kwargs):
        if len(self.num_prompts) == self._fail_after:
            raise KeyboardInterrupt
        self.num_prompts.append(len(prompts))
        return self._rank(model, trie, prompts, *args, **kwargs)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_resume(model, processor, rows, tmp_path, monkeypatch, batch_size):
    """Interrupted within the third part of eight rows: only the rows after the second are ranked again."""
    rows = concatenate_datasets([rows, rows])  # 28
    collator, kwargs = PatchDataCollator(processor), {"k": 5, "max_rows": 27, "show_progress": False}
    expected = rank_targets(model, collator, rows, batch_size=1, **kwargs)
    kwargs["resume_dir"] = tmp_path / "new" / "parts"
    with monkeypatch.context() as patched:
        Calls(patched, fail_after=2)
        with pytest.raises(KeyboardInterrupt):
            rank_targets(model, collator, rows, batch_size=1, **kwargs)
    (kwargs["resume_dir"] / "part-0000000016.tmp").write_bytes(b"half a part")

    calls = Calls(monkeypatch)
    resumed = rank_targets(model, collator, rows, batch_size=batch_size, **kwargs)
    assert calls.num_prompts == ([8, 3] if batch_size == 1 else [11])
    assert resumed.examples.equals(expected.examples)
    assert resumed.settings == expected.settings

    again = rank_targets(model, collator, rows, batch_size=batch_size, **kwargs)
    assert calls.num_prompts == ([8, 3] if batch_size == 1 else [11])
    assert again.examples.equals(expected.examples)


def test_resume_ignores_parts_that_do_not_follow(model, processor, rows, tmp_path, monkeypatch):
    """Without the part before it, a part says nothing of what was ranked."""
    kwargs = {"k": 5, "batch_size": 1, "resume_dir": tmp_path, "show_progress": False}
    expected = rank_targets(model, PatchDataCollator(processor), rows, **kwargs)
    assert sorted(path.name for path in tmp_path.glob("part-*")) == ["part-0000000000.npy", "part-0000000008.npy"]
    (tmp_path / "part-0000000000.npy").unlink()
    calls = Calls(monkeypatch)
    assert rank_targets(model, PatchDataCollator(processor), rows, **kwargs).examples.equals(expected.examples)
    assert calls.num_prompts == [8, 6]


@pytest.mark.parametrize("change", [{"k": 1}, {"max_rows": 3}, {"protocol": "authors"}])
def test_resume_refuses_parts_of_another_evaluation(model, processor, rows, tmp_path, change):
    kwargs = {"k": 6, "resume_dir": tmp_path, "show_progress": False}
    rank_targets(model, PatchDataCollator(processor), rows, **kwargs)
    with pytest.raises(FileExistsError, match="other settings"):
        rank_targets(model, PatchDataCollator(processor), rows, **{**kwargs, **change})


def test_cut_offs_deeper_than_the_ranking(model, processor, rows):
    """A rank of infinity at depth 4 may be a hit at 10."""
    report = rank_targets(model, PatchDataCollator(processor), rows, k=4, show_progress=False)
    assert (report.depth, report.ks) == (4, (4,))
    assert "hr@4" in report.metrics()
    with pytest.raises(ValueError, match="have 4 places, so nothing can be said of a cut-off of 10"):
        report.metrics([4, 10])
    whole = rank_targets(model, PatchDataCollator(processor), rows, k=12, show_progress=False)
    assert (whole.depth, whole.ks) == (np.inf, (10, 20))
    with pytest.raises(ValueError, match="cut-off of 20"):
        whole.compare(report)


def test_titles_that_differ_in_letters_but_not_in_tokens(rows):
    """To a tokenizer that lowers all letters they are one title: its items share their places."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "emma": 2, "poems": 3}, unk_token="[UNK]"))
    core.pre_tokenizer, core.normalizer = pre_tokenizers.WhitespaceSplit(), normalizers.Lowercase()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="</s>", pad_token="[UNK]")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, eos_token_id=1
    )
    model = PatchRecForCausalLM.from_backbone(LlamaForCausalLM(config), tokenizer).eval()
    catalog = Catalog.from_titles({1: "Emma", 2: "Poems", 3: "emma"})
    collator = PatchDataCollator(PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT))
    targets = [{"user_id": 0, "item_ids": [2, target], "target_positions": [1]} for target in (1, 3)]
    both = rank_targets(model, collator, Dataset.from_list(targets), show_progress=False).examples
    assert both["item_rank"].n_unique() == 1
    assert both["num_ties"].to_list() == [2, 2]
    assert both["title_rank"].n_unique() == 1


@pytest.mark.parametrize("positions", [[0], [-1], [3], [1, 3]])
def test_target_positions_outside_the_row(model, processor, positions):
    rows = Dataset.from_list([{"user_id": 7, "item_ids": [10, 11, 12], "target_positions": positions}])
    with pytest.raises(ValueError, match=r"Row of user 7: target positions .* must lie between 1 and 2"):
        rank_targets(model, PatchDataCollator(processor), rows, show_progress=False)


def test_other_columns_of_the_rows_change_nothing(model, processor, rows):
    expected = rank_targets(model, PatchDataCollator(processor), rows, show_progress=False)
    more = rows.add_column("step", [5] * len(rows)).add_column("progress", [0.5] * len(rows))
    report = rank_targets(model, PatchPretrainDataCollator(processor), more, show_progress=False)
    assert report.examples.equals(expected.examples)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """
    The report of two processes is that of one, also after an interruption; and both run the model equally often,
    without which sharded weights would wait for each other.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*launcher, Path(evaluate_in_processes.__file__), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    for name, kwargs in evaluate_in_processes.RUNS.items():
        expected = evaluate_in_processes.evaluate(**kwargs).examples
        for process in range(2):
            found = pl.read_parquet(tmp_path / f"{name}-{process}.parquet")
            resumed = pl.read_parquet(tmp_path / f"{name}-resumed-{process}.parquet")
            assert found.equals(expected)
            assert resumed.equals(expected)
        first, second = (pl.read_parquet(tmp_path / f"{name}-counts-{process}.parquet") for process in range(2))
        assert first.equals(second)
        # Thirty-three rows: two parts of sixteen, and one row that both rank. One part was finished.
        assert first.row(0, named=True)["rows_of_calls"] == [8, 8, 1]
        assert first.row(1, named=True)["rows_of_calls"] == [8, 1]
        assert (first["model"] > 0).all()
        assert (first["lm_head"] > 0).all()


def test_titles_that_cannot_be_spelled_do_not_tie(model, tokenizer):
    titles = {1: "Emma", 2: "Typhoon", 3: "Typhoon and Other Stories", 4: "Poems", 5: "Poems II"}
    collator = PatchDataCollator(PatchRecProcessor(tokenizer, Catalog.from_titles(titles), BOOK_PROMPT))
    rows = Dataset.from_list([{"user_id": 0, "item_ids": [1, 5, 2], "target_positions": [2]}])
    protocol = EvaluationProtocol(complete_prefixes=False)
    for exclude_seen in (False, True):
        report = rank_targets(
            model, collator, rows, k=None, protocol=protocol, exclude_seen=exclude_seen, show_progress=False
        )
        assert report.examples["item_rank"].to_list() == [np.inf]
        assert report.examples["num_ties"].to_list() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "`k` must lie between 1 and"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"max_rows": 0}, "`max_rows` must be at least 1 or None, got 0"),
    ],
)
def test_numbers_out_of_range(model, processor, rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        rank_targets(model, PatchDataCollator(processor), rows, show_progress=False, **arguments)


def test_processes_that_do_not_know_of_each_other(model, processor, rows, monkeypatch):
    """Both would rank everything and write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"PartialState\(cpu=True\)"):
        rank_targets(model, PatchDataCollator(processor), rows, show_progress=False)
