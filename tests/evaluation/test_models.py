"""Tests of evaluations: where the targets of a data set stand in rankings."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from brute_force import brute_force, brute_force_catalog
from conftest import ITEM_IDS, TITLES
from datasets import Dataset
from item_parts import item_model, item_processor, scores_by_hand
from tiers import first_fast
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from patchrec_hf import (
    BOOK_PROMPT,
    RELEASE_MATCHING,
    BudgetLayout,
    Catalog,
    EvaluationProtocol,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecForCausalLM,
    PatchRecProcessor,
    RandomPatchLayout,
    TimeWindowLayout,
    build_tiny_backbone,
    evaluate_model,
    evaluate_scorer,
)
from patchrec_hf.runtime import best_items
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart
from patchrec_hf.runtime.trie import build_trie


def test_users_are_numbers_or_texts(model, processor, rows):
    users = rows.remove_columns("user_id")
    named = users.add_column("user_id", [f"u{row}" for row in range(len(rows))])
    ours, theirs = (evaluate_model(model, processor, data).targets for data in (rows, named))
    assert theirs["user_id"].to_list() == [f"u{row}" for row in range(len(rows))]
    assert ours.drop("user_id").equals(theirs.drop("user_id"))
    with pytest.raises(TypeError, match=r"`user_id` must hold whole numbers or texts, got double"):
        evaluate_model(model, processor, users.add_column("user_id", [0.5] * len(rows)))


def test_ranks_of_targets(model, processor, rows):
    """Both items called "Poems" share their two places; in the list of titles they are one."""
    collator = PatchDataCollator(processor)
    rows = rows.add_item({"user_id": 99, "item_ids": [10, 11, 12, 15], "target_positions": [3]})
    report = evaluate_model(model, processor, rows, k=12, batch_size=4, show_progress=False)
    ranks = zip(report.targets["title_rank"], report.targets["item_rank"], strict=True)
    for row, (title_rank, item_rank), prompt in zip(rows, ranks, collator.encode_rows(list(rows)), strict=True):
        scores = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        target = processor.catalog.indices_of([row["item_ids"][-1]])[0]
        above = np.flatnonzero(scores > scores[target] + 1e-4)
        assert title_rank == 1 + len({processor.catalog.titles[item] for item in above})
        assert item_rank == 1 + len(above) + (0.5 if row["item_ids"][-1] in (14, 15) else 0)
    assert report.targets["user_id"].to_list() == rows["user_id"]
    assert report.metrics([12])["hr@12"] == 1.0


@pytest.mark.parametrize("method", ["exact", "all"])
def test_prompts_are_encoded_as_they_are_needed(model, processor, rows, monkeypatch, method):
    events, encode = [], PatchRecProcessor.encode
    model.model.register_forward_pre_hook(lambda *_: events.append("reads"))
    monkeypatch.setattr(
        PatchRecProcessor, "encode", lambda *args, **kwargs: events.append("encodes") or encode(*args, **kwargs)
    )
    evaluate_model(model, processor, rows, k=3, method=method, batch_size=2, show_progress=False)
    assert events.count("encodes") == len(rows)
    assert events[:3] == ["encodes", "encodes", "reads"]


def test_unranked_targets_are_infinitely_far(model, processor, rows):
    report = evaluate_model(model, processor, rows, k=1, show_progress=False)
    assert set(report.targets["title_rank"]) <= {1.0, np.inf}
    assert report.targets["item_rank"].is_infinite().any()


def test_excluding_seen_never_excludes_the_target(model, processor, rows):
    again = rows.map(lambda row: {"item_ids": [*row["item_ids"][:-1], row["item_ids"][0]]})
    report = evaluate_model(model, processor, again, k=12, exclude_seen=True, show_progress=False)
    assert report.targets["item_rank"].is_finite().all()


def test_excluding_the_other_item_of_a_title_breaks_the_tie(model, processor):
    row = {"user_id": 2**60 + 1, "item_ids": [14, 10, 11, 15], "target_positions": [3]}
    kwargs = {"k": 12, "show_progress": False}
    tied = evaluate_model(model, processor, Dataset.from_list([row]), **kwargs)
    alone = evaluate_model(model, processor, Dataset.from_list([row]), exclude_seen=True, **kwargs)
    assert tied.targets["item_rank"][0] == tied.targets["title_rank"][0] + 0.5
    assert alone.targets["item_rank"][0] == alone.targets["title_rank"][0]
    assert tied.targets["user_id"].to_list() == [2**60 + 1]


def test_model_and_processor_that_do_not_match(model, processor, rows):
    model.config.patch_token_id = 5
    with pytest.raises(ValueError, match="not made for each other"):
        evaluate_model(model, processor, rows)


def test_training_mode_is_kept_also_after_an_error(model, processor, rows):
    model.train()
    with pytest.raises(ValueError, match="max_title_tokens"):
        evaluate_model(model, processor, rows, k=5, max_title_tokens=-2, show_progress=False)
    assert model.training


def test_max_rows_are_evenly_spaced(model, processor, rows):
    report = evaluate_model(model, processor, rows, k=3, max_rows=3, show_progress=False)
    assert report.targets["user_id"].to_list() == [0, 6, 13]


def test_several_targets_in_a_row(model, processor):
    rows = Dataset.from_list([{"user_id": 5, "item_ids": [10, 11, 12, 13, 16], "target_positions": [3, 4]}])
    report = evaluate_model(model, processor, rows, layout=ItemPatchLayout(1), k=12, show_progress=False)
    assert report.targets["user_id"].to_list() == [5, 5]
    assert len(report.targets["item_rank"]) == 2
    assert report.settings["layout"] == "ItemPatchLayout(num_text_items=1)"


def test_empty_data_set(model, processor, rows):
    with pytest.raises(ValueError, match="empty"):
        evaluate_model(model, processor, rows.select([]))


@pytest.mark.parametrize("exclude_seen", first_fast([False, True]))
def test_all_and_exact_agree(model, processor, rows, exclude_seen):
    """Every target has a place in the whole ranking; a search for the best five finds those up to the fifth."""
    kwargs = {"exclude_seen": exclude_seen, "show_progress": False}
    whole = evaluate_model(model, processor, rows, k=None, method="all", **kwargs)
    best = evaluate_model(model, processor, rows, k=5, **kwargs)
    assert whole.settings["k"] == 11  # two items have one title
    assert whole.targets["title_rank"].is_between(1, 11).all()
    within = pl.col("title_rank") <= 5
    expected = whole.targets.select(
        *(pl.when(within).then(name).otherwise(np.inf).alias(name) for name in ("title_rank", "item_rank")), "num_ties"
    )
    assert best.targets.select(expected.columns).equals(expected)
    assert 0 < best.targets["title_rank"].is_infinite().sum() < len(rows)
    assert best.targets["is_exact"].all()


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


@pytest.mark.parametrize("k", first_fast([4, None]))
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
    report = evaluate_model(model, processor, rows, k=k, protocol=RELEASE_MATCHING, show_progress=False)
    expected = authors_ranks(model, collator, rows, k)
    assert report.settings["k"] == (k or 11)  # 13 items, "Poems" twice, without "Typhoon"
    assert report.targets["title_rank"].to_list() == expected
    assert report.targets["item_rank"].to_list() == expected
    assert set(report.targets["num_ties"]) == {1}
    if k is None:
        assert np.isfinite(expected).all()
        strict = evaluate_model(model, processor, rows, k=k, show_progress=False)
        assert strict.targets["title_rank"].to_list() != expected


def test_authors_protocol_excludes_every_item_of_a_seen_title(model, processor):
    """The release lists each title once. It leaves out a title if any of its items was seen, except the target's."""
    rows = Dataset.from_list(
        [
            {"user_id": 0, "item_ids": [15, 10, 11], "target_positions": [2]},
            {"user_id": 1, "item_ids": [14, 10, 15], "target_positions": [2]},
        ]
    )
    kwargs = {"k": None, "protocol": RELEASE_MATCHING, "show_progress": False}
    collator = PatchDataCollator(processor)
    free = evaluate_model(model, processor, rows, **kwargs).targets["item_rank"]
    unseen = evaluate_model(model, processor, rows, exclude_seen=True, **kwargs).targets["item_rank"]
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


def test_warm_and_cold_targets(model, processor, rows):
    """A target is warm if the training rows hold it anywhere."""
    targets = np.array([row["item_ids"][-1] for row in rows])
    known = Dataset.from_list([{"user_id": 0, "item_ids": [10, 14, 16, 18], "target_positions": [3]}])
    ranked = evaluate_model(model, processor, rows, train_dataset=known, show_progress=False)
    assert ranked.targets["is_cold"].to_list() == [bool(item not in (10, 14, 16, 18)) for item in targets]


def test_cut_offs_deeper_than_the_ranking(model, processor, rows):
    """A rank of infinity at depth 4 may be a hit at 10."""
    report = evaluate_model(model, processor, rows, k=4, show_progress=False)
    assert (report.depth, report.ks) == (4, (4,))
    assert "hr@4" in report.metrics()
    with pytest.raises(ValueError, match="have 4 ranks, too few for a cut-off of 10"):
        report.metrics([4, 10])
    whole = evaluate_model(model, processor, rows, k=12, show_progress=False)
    assert (whole.depth, whole.ks) == (np.inf, (10, 20))
    with pytest.raises(ValueError, match="cut-off of 20"):
        whole.compare(report)


def test_titles_that_differ_in_letters_but_not_in_tokens():
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
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT)
    targets = [{"user_id": 0, "item_ids": [2, target], "target_positions": [1]} for target in (1, 3)]
    both = evaluate_model(model, processor, Dataset.from_list(targets), show_progress=False).targets
    assert both["item_rank"].n_unique() == 1
    assert both["num_ties"].to_list() == [2, 2]
    assert both["title_rank"].n_unique() == 1


@pytest.mark.parametrize("positions", [[0], [-1], [3], [1, 3]])
def test_target_positions_outside_the_row(model, processor, positions):
    rows = Dataset.from_list([{"user_id": 7, "item_ids": [10, 11, 12], "target_positions": positions}])
    with pytest.raises(ValueError, match=r"Row of user 7: target position .* must lie between 1 and 2"):
        evaluate_model(model, processor, rows, show_progress=False)


def test_other_columns_of_the_rows_change_nothing(model, processor, rows):
    expected = evaluate_model(model, processor, rows, show_progress=False)
    more = rows.add_column("step", [5] * len(rows)).add_column("progress", [0.5] * len(rows))
    report = evaluate_model(model, processor, more, show_progress=False)
    assert report.targets.equals(expected.targets)


def test_titles_that_cannot_be_spelled_do_not_tie(model, tokenizer):
    titles = {1: "Emma", 2: "Typhoon", 3: "Typhoon and Other Stories", 4: "Poems", 5: "Poems II"}
    processor = PatchRecProcessor(tokenizer, Catalog.from_titles(titles), BOOK_PROMPT)
    rows = Dataset.from_list([{"user_id": 0, "item_ids": [1, 5, 2], "target_positions": [2]}])
    protocol = EvaluationProtocol(complete_prefixes=False)
    for exclude_seen in (False, True):
        report = evaluate_model(
            model, processor, rows, k=None, protocol=protocol, exclude_seen=exclude_seen, show_progress=False
        )
        assert report.targets["item_rank"].to_list() == [np.inf]
        assert report.targets["num_ties"].to_list() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "`k` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"max_rows": 0}, "`max_rows` must be at least 1 or None, got 0"),
    ],
)
def test_numbers_out_of_range(model, processor, rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(model, processor, rows, show_progress=False, **arguments)


def test_rankings_are_kept_on_request(model, processor, rows):
    """A target's item stands in its ranking where its rank says; both "Poems" have one title, which is listed once."""
    report = evaluate_model(model, processor, rows, k=11, keep_rankings=True, show_progress=False)
    titles = dict(zip(processor.catalog.item_ids.tolist(), processor.catalog.titles, strict=True))
    for row in report.targets.iter_rows(named=True):
        ranked = [titles[item] for item in row["ranked_ids"]]
        assert ranked.index(titles[row["target_id"]]) == row["title_rank"] - 1
        assert len(set(ranked)) == 11
    assert "ranked_ids" not in evaluate_model(model, processor, rows, k=11, show_progress=False).targets.columns


def test_a_random_layout_draws_as_in_its_collator(model, processor, rows):
    layout = RandomPatchLayout(0.5)
    counts = [
        evaluate_model(model, processor, rows, layout=layout, seed=seed, k=1, show_progress=False).targets[
            "history_tokens"
        ]
        for seed in (3, 3, 4)
    ]
    assert counts[0].equals(counts[1])
    assert not counts[0].equals(counts[2])
    encoded = PatchDataCollator(processor, layout, seed=3).encode_rows(list(rows))
    assert counts[0].to_list() == [history.counts.history for history in encoded]


class HeadScorer:
    """The item head's scores by brute force, as a baseline."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor

    def score(self, histories):
        prompts = [self.processor.encode(self.processor.catalog.indices_of(history)) for history in histories]
        scores = [scores_by_hand(self.model, self.processor, prompt) for prompt in prompts]
        return np.stack(scores).round(3)  # so that equal scores are equal


@pytest.mark.parametrize("exclude_seen", first_fast([False, True]))
@pytest.mark.parametrize("trained", first_fast([False, True]))
@pytest.mark.parametrize("k", first_fast([None, 3, 100]))
def test_item_ranks_are_those_of_a_scorer(processor, rows, exclude_seen, trained, k):
    """Whatever k is, the whole catalog is ranked. Without training, items of one title tie."""
    model, processor = item_model(trained=trained), item_processor(processor)
    several = Dataset.from_list(
        [
            *rows,
            {"user_id": 98, "item_ids": [10, 14, 11, 15, 10], "target_positions": [1, 2, 3, 4]},
            {"user_id": 99, "item_ids": [15, 10, 11, 14], "target_positions": [3]},
        ]
    )
    kwargs = {"exclude_seen": exclude_seen, "show_progress": False, "train_dataset": rows}
    report = evaluate_model(model, processor, several, k=k, method="item", batch_size=4, **kwargs)
    expected = evaluate_scorer(HeadScorer(model, processor), processor.catalog, several, **kwargs)
    columns = ["user_id", "target_id", "history_length", "is_cold", "item_rank", "title_rank", "num_ties"]
    assert report.targets.select(columns).equals(expected.targets.select(columns))
    assert report.metrics([1, 5, 12])["hr@12"] == 1
    assert report.targets["is_exact"].all()
    assert report.targets["tokens_read"].to_list() == [0] * len(report.targets)
    assert (report.settings["method"], report.settings["k"]) == ("item", 3 if k == 3 else 12)
    assert (report.targets["num_ties"].max() > 1) is (not trained)


def test_item_rankings_are_kept_on_request(processor):
    model, processor = item_model(), item_processor(processor)
    rows = Dataset.from_list([{"user_id": 5, "item_ids": [10, 11, 16, 14, 18], "target_positions": [2, 4]}])
    kwargs = {"method": "item", "keep_rankings": True, "show_progress": False}
    prompts = [processor.encode(np.array(history)) for history in ([0, 1], [0, 1, 6, 4])]
    orders = [np.argsort(-scores_by_hand(model, processor, prompt)) + 10 for prompt in prompts]
    report = evaluate_model(model, processor, rows, k=None, **kwargs)
    assert report.targets["ranked_ids"].to_list() == [order.tolist() for order in orders]
    best = evaluate_model(model, processor, rows, k=4, **kwargs)
    assert best.targets["ranked_ids"].to_list() == [order[:4].tolist() for order in orders]
    unseen = evaluate_model(model, processor, rows, k=None, exclude_seen=True, **kwargs)
    for ids, order, seen in zip(unseen.targets["ranked_ids"], orders, ([10, 11], [10, 11, 16, 14]), strict=True):
        left = [item for item in order.tolist() if item not in seen]
        assert ids.to_list() == left + [-1] * len(seen)


@pytest.mark.slow
def test_probabilities_of_titles(model, processor, rows):
    """The probabilities of the list, and the target's own, which items of one title share."""
    report = evaluate_model(model, processor, rows, k=None, show_progress=False, train_dataset=rows)
    prompts = [processor.encode(processor.catalog.indices_of(row["item_ids"][:-1])) for row in rows]
    for row, prompt in zip(report.targets.iter_rows(named=True), prompts, strict=True):
        scores = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        target = processor.catalog.indices_of([row["target_id"]])[0]
        own = row["log_prob"] + math.log(row["num_ties"])
        assert own == pytest.approx(scores[target], abs=1e-3)
        listed = scores[processor.catalog.indices_of(row["top_ids"])]
        np.testing.assert_allclose(row["top_log_probs"], listed, atol=1e-3)
        assert row["top_place"] == row["title_rank"]
        assert len(row["top_users"]) == len(row["top_ids"])
    found = replace(report, ks=(3,)).beyond_accuracy()
    assert list(found) == ["coverage@3", "novelty@3", "popularity_bias@3", "calibration_error", "log_loss"]
    short = evaluate_model(model, processor, rows, k=2, show_progress=False)
    assert short.targets["log_prob"].is_null().to_list() == (short.targets["title_rank"] > 2).to_list()
    assert set(short.beyond_accuracy()) == {"coverage@2", "calibration_error"}


@pytest.mark.parametrize("exclude_seen", first_fast([False, True]))
def test_probabilities_of_titles_among_the_catalog(model, processor, rows, exclude_seen):
    """A listed title has the probability of its items together, and a target has its own share of it."""
    # The history holds the other item of the target's title.
    rows = rows.add_item({"user_id": 99, "item_ids": [14, 10, 11, 15], "target_positions": [3]})
    report = evaluate_model(
        model, processor, rows, k=None, normalizer="catalog", exclude_seen=exclude_seen, show_progress=False
    )
    every = np.arange(len(processor.catalog))
    titles = np.array(processor.catalog.titles)
    for row, data in zip(report.targets.iter_rows(named=True), rows, strict=True):
        prompt = processor.encode(processor.catalog.indices_of(data["item_ids"][:-1]))
        own = brute_force_catalog(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt, every)
        of_titles = [
            np.exp(own[titles == titles[item]]).sum() for item in processor.catalog.indices_of(row["top_ids"])
        ]
        np.testing.assert_allclose(np.exp(row["top_log_probs"]), of_titles, rtol=1e-3)
        assert row["log_prob"] == pytest.approx(own[processor.catalog.indices_of([row["target_id"]])[0]], abs=1e-3)
        if not exclude_seen:
            assert np.exp(row["top_log_probs"]).sum() == pytest.approx(1, abs=1e-5)


def test_probabilities_of_the_item_head(processor, rows):
    model, processor = item_model(), item_processor(processor)
    report = evaluate_model(model, processor, rows, k=3, method="item", show_progress=False)
    row = report.targets.row(0, named=True)
    prompt = processor.encode(processor.catalog.indices_of(rows[0]["item_ids"][: row["history_length"]]))
    probabilities = np.exp(scores_by_hand(model, processor, prompt))
    probabilities /= probabilities.sum()
    listed = probabilities[processor.catalog.indices_of(row["top_ids"])]
    np.testing.assert_allclose(np.exp(row["top_log_probs"]), listed, rtol=1e-3)
    target = processor.catalog.indices_of([row["target_id"]])[0]
    assert math.exp(row["log_prob"]) == pytest.approx(probabilities[target], rel=1e-3)
    assert "log_loss" in report.beyond_accuracy([1])


def test_scores_of_few_targets_at_a_time_give_the_same_report(processor, rows, monkeypatch):
    """As for a large catalog, of which the scores of all targets would not fit into memory."""
    model, processor = item_model(), item_processor(processor)

    def run():
        return evaluate_model(model, processor, rows, method="item", exclude_seen=True, show_progress=False)

    whole = run().targets
    monkeypatch.setattr(best_items, "_NUMBERS_AT_ONCE", 2 * 12)  # two targets
    parts = run().targets
    for name in ("item_rank", "title_rank", "num_ties", "top_ids", "top_place", "history_tokens"):
        assert parts[name].to_list() == whole[name].to_list(), name
    np.testing.assert_allclose(parts["log_prob"], whole["log_prob"], atol=1e-5)


@pytest.mark.parametrize(
    "arguments", [{"length_penalty": 1.0}, {"protocol": "release-matching"}, {"protocol": "release"}]
)
def test_other_scores_are_no_probabilities(model, processor, rows, arguments):
    report = evaluate_model(model, processor, rows, k=3, max_rows=2, show_progress=False, **arguments)
    assert "top_log_probs" not in report.targets.columns
    assert list(report.beyond_accuracy()) == ["coverage@3"]


def test_how_a_model_is_evaluated_by_default(model, processor, rows):
    assert evaluate_model(model, processor, rows, max_rows=2, show_progress=False).settings["method"] == "exact"
    head, writes = item_model(), item_processor(processor)
    assert evaluate_model(head, writes, rows, max_rows=2, show_progress=False).settings["method"] == "item"
    assert evaluate_model(head, writes, rows, k=None, max_rows=2, show_progress=False).settings["method"] == "item"


def test_items_are_ranked_by_the_strict_protocol_only(model, processor, rows):
    head, writes = item_model(), item_processor(processor)
    with pytest.raises(ValueError, match="'item' ranks items, so it needs `protocol='strict'`"):
        evaluate_model(head, writes, rows, protocol="release-matching", method="item")
    for protocol, method in (("release", "diverse"), ("release-matching", "exact")):
        report = evaluate_model(head, writes, rows, protocol=protocol, k=3, max_rows=2, show_progress=False)
        assert report.settings["method"] == method
    with pytest.raises(ValueError, match="needs a model with an item head"):
        evaluate_model(model, processor, rows, method="item")


def test_a_class_is_no_layout(model, processor, rows):
    with pytest.raises(TypeError, match="got the class `ItemPatchLayout`"):
        evaluate_model(model, processor, rows, layout=ItemPatchLayout)


@pytest.mark.parametrize("targets", [None, []])
def test_nothing_to_rank(model, processor, rows, targets):
    rows = rows.select([]) if targets is None else rows.map(lambda row: {**row, "target_positions": targets})
    with pytest.raises(ValueError, match=r"is empty|no target positions"):
        evaluate_model(model, processor, rows)


def strong_model(catalog, tokenizer, seed):
    """A tiny model whose weights are large, so that its titles differ much in probability."""
    backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    return model


def test_the_release_decodes_and_matches(catalog, tokenizer, processor, rows):
    """The ranks are found in the titles that are listed, of which the last that begins like the target counts."""
    model = strong_model(catalog, tokenizer, seed=2)
    report = evaluate_model(
        model, processor, rows, k=20, protocol="release", keep_rankings=True, train_dataset=rows, show_progress=False
    )
    assert (report.ks, report.depth, report.only_at_depth) == ((20,), 20, True)  # of 12 items
    kept = ("method", "k", "length_penalty", "diversity_penalty", "ended_token_id", "num_beams")
    assert [report.settings[name] for name in kept] == ["diverse", 20, 1.0, 0.8, 0, None]
    assert report.settings["protocol"]["take_last_match"] is True
    assert report.targets["is_exact"].null_count() == len(report.targets)  # nothing can be proven about the lists
    assert "exact_share" not in report.metrics()
    titles = dict(TITLES)
    num_repeated = 0
    for target, ranked, rank in report.targets.select("target_id", "ranked_ids", "item_rank").iter_rows():
        places = [place for place, item in enumerate(ranked, 1) if titles[item].startswith(titles[target])]
        assert rank == (max(places) if places else np.inf)
        assert len(ranked) == 20
        num_repeated += 20 - len({titles[item] for item in ranked})
    assert num_repeated > 0


@pytest.mark.slow
def test_two_decodings_contradict_each_other(catalog, tokenizer, processor, rows):
    """
    A target that enters a list at rank 20 or before adds at least 1 / log2(21) to NDCG, so in one ranking
    NDCG@20 - NDCG@10 >= (HR@20 - HR@10) / log2(21). Two decodings may break this, as in the paper's Table 2.
    """
    model = strong_model(catalog, tokenizer, seed=2)

    def gains(*arguments):
        ten, twenty = (
            evaluate_model(model, processor, rows, k=k, show_progress=False, **settings).metrics([cutoff])
            for k, cutoff, settings in arguments
        )
        return twenty["hr@20"] - ten["hr@10"], twenty["ndcg@20"] - ten["ndcg@10"]

    more_hits, more_gain = gains((10, 10, {"protocol": "release"}), (20, 20, {"protocol": "release"}))
    assert more_hits > 0
    assert more_gain < more_hits / np.log2(21) - 0.01
    more_hits, more_gain = gains(*[(20, cutoff, {"protocol": "release-matching"}) for cutoff in (10, 20)])
    assert more_gain >= more_hits / np.log2(21) - 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": None, "protocol": "release"}, "The method 'diverse' decodes k titles, so `k` must be a number"),
        ({"method": "diverse"}, "'diverse' can list a title several times, so it needs a protocol that matches"),
        (
            {"protocol": "release", "method": "exact"},
            "decodes by the method 'diverse', got `method='exact'`. .*matching",
        ),
        ({"protocol": "release", "num_beams": 40}, "`num_beams` belongs to `method='beam'`"),
        ({"protocol": "release", "length_penalty": 1.0}, "'diverse' ranks by the mean log-probability"),
        ({"protocol": "authors"}, "must be one of 'release', 'strict', 'release-matching', got 'authors'"),
    ],
)
def test_settings_that_the_release_does_not_have(model, processor, rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(model, processor, rows, show_progress=False, **arguments)


@pytest.mark.parametrize("k", first_fast([4, None]))
def test_targets_are_ranked_by_the_mean(model, processor, rows, k):
    """A length penalty of 1 ranks by the mean log-probability, whether the search stops early or reads all titles."""
    report = evaluate_model(
        model, processor, rows, k=k, length_penalty=1.0, protocol="release-matching", show_progress=False
    )
    trie = build_trie(processor.title_tokens, processor.prompt.end_of_turn_id, complete_prefixes=False)
    listed = trie.all_titles[1]
    prompts = PatchDataCollator(processor).encode_rows(list(rows))
    for row, prompt, rank in zip(rows, prompts, report.targets["item_rank"], strict=True):
        means = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        means /= processor.title_tokens.lengths + 1
        order = listed[np.argsort(-means[listed])][:k].tolist()
        title = TITLES[row["item_ids"][-1]]
        places = [place for place, item in enumerate(order, 1) if processor.catalog.titles[item].startswith(title)]
        assert rank == (places[-1] if places else np.inf)
    assert report.settings["length_penalty"] == 1.0
    assert report.targets["is_exact"].all()


def test_another_budget_is_another_layout(model, processor, rows):
    budgeted = processor.with_layout(BudgetLayout(60, min_tokens=10, num_text_items=2))
    evaluate = partial(evaluate_model, model, budgeted, rows, max_rows=4, show_progress=False)
    small = evaluate(max_tokens=12)
    assert small.settings["layout"] == str(BudgetLayout(12, num_text_items=2))
    assert small.targets["history_tokens"].max() <= 12 < evaluate().targets["history_tokens"].max() <= 60
    with pytest.raises(ValueError, match="`max_tokens=2` is below what a prompt needs"):
        evaluate(max_tokens=2)
    with pytest.raises(ValueError, match=r"`max_tokens=12` needs a layout with a budget, and the layout is ItemPatch"):
        evaluate_model(model, processor, rows, max_tokens=12)


def test_layouts_that_read_times_need_them(model, processor, rows):
    timed = rows.map(lambda row: {"timestamps": [3600 * place for place in range(len(row["item_ids"]))]})
    report = evaluate_model(
        model, processor, timed, TimeWindowLayout(3600, num_text_items=0), max_rows=3, show_progress=False
    )
    assert (report.targets["history_tokens"] == 1).all()  # one session
    with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but the data set to rank has no"):
        evaluate_model(model, processor, rows, TimeWindowLayout(3600))


@pytest.fixture(scope="module")
def collapsed():
    """A model whose weights are all 0, and a processor with 50 titles of two tokens and a fusion of the item head."""
    catalog = Catalog.from_titles({item: f"{chr(65 + item // 10)}{item % 10}" for item in range(50)})
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=32, vocab_size=400)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()
    model.add_item_head(catalog, residual_size=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT)
    return model, processor.with_fusion(Fusion({"item": ItemHeadPart()}, {"item": 1.0}))


@pytest.mark.parametrize(
    "method", [{"method": name} for name in ("exact", "all", "beam", "item", "fusion")] + [{"normalizer": "catalog"}]
)
def test_a_model_that_scores_all_titles_alike_gains_nothing_from_their_order(collapsed, method, caplog):
    """The 50 items share the ranks 1 to 50, wherever the target stands in the catalog."""
    model, processor = collapsed
    rows = Dataset.from_list(
        [{"user_id": target, "item_ids": [3, 4, 5, target], "target_positions": [3]} for target in (0, 49)]
    )
    method = {"method": "exact", **method, **({"num_beams": 50} if method.get("method") == "beam" else {})}
    report = evaluate_model(model, processor, rows, k=20, show_progress=False, **method)
    assert report.targets["item_rank"].to_list() == report.targets["title_rank"].to_list() == [25.5, 25.5]
    assert report.targets["num_ties"].to_list() == [50, 50]
    metrics = report.metrics([10, 20])
    assert (metrics["hr@10"], metrics["hr@20"], metrics["tied_share"]) == (0, 0, 1)
    assert (metrics["exact_share"], metrics["ends_in_tie_share"]) == (1, 1)
    assert report.targets["top_place"].to_list() == [1, None]  # the list itself is in the order of the catalog
    assert "A typical list of 20 has 1 distinct score." in caplog.text
    assert "A typical list of 20 has 1 distinct score." in report.to_markdown()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_are_found_in_any_dtype(collapsed, dtype):
    """Half of the items get one score by the head, and the others another one, which differs by its last digit."""
    model, processor = collapsed
    model = model.to(dtype)
    try:
        with torch.no_grad():
            model.item_head.item_vectors.bias[:25] = 1.0
            model.item_head.item_vectors.bias[25:] = 1.0 + 1e-7
        rows = Dataset.from_list(
            [{"user_id": 0, "item_ids": [3, 4, 5, target], "target_positions": [3]} for target in (0, 49)]
        )
        report = evaluate_model(model, processor, rows, method="item", show_progress=False)
        assert report.targets["item_rank"].to_list() == [25.5, 25.5]
    finally:
        with torch.no_grad():
            model.float().item_head.item_vectors.bias.zero_()


def test_lists_of_distinct_scores_end_in_no_tie(model, processor, rows):
    """The scores of this model are distinct, so no list leaves out a tie."""
    report = evaluate_model(model, processor, rows, k=5, show_progress=False)
    assert not report.targets["ends_in_tie"].any()
    assert report.targets["num_distinct_scores"].to_list() == report.targets["num_best_titles"].to_list()
    assert report.metrics([5])["ends_in_tie_share"] == 0
