import sys

import numpy as np
import pytest
import torch
from brute_force import brute_force
from conftest import TITLES
from item_parts import item_model, item_processor, scores_by_hand
from processes import run_process

from patchrec_hf import (
    BudgetLayout,
    PatchRecommender,
    TextLayout,
    TimeWindowLayout,
)
from patchrec_hf.runtime.item_vectors import item_patches
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.runtime.title_tokens import tokenize_titles


@pytest.fixture
def recommender(model, processor):
    return PatchRecommender(model, processor)


def test_a_catalog_with_fewer_items(recommender):
    found = recommender.recommend([10, 11], k=1000, exclude_seen=False, unique_titles=False)
    assert sorted(item.item_id for item in found) == sorted(recommender.processor.catalog.item_ids.tolist())


def test_one_history_or_a_batch(recommender):
    one = recommender.recommend([10, 11, 12], k=3)
    two = recommender.recommend([[10, 11, 12], [16, 17]], k=3)
    assert [item.item_id for item in two[0]] == [item.item_id for item in one]
    assert len(two) == 2
    assert all(len(items) == 3 for items in two)
    assert one[0].score >= one[1].score >= one[2].score


def test_ids_and_titles_are_the_same_history(recommender):
    by_id, by_title = recommender.recommend([10, 18], k=4), recommender.recommend(["Emma", "A Study in Scarlet"], k=4)
    assert by_id == by_title


def test_titles_that_the_catalog_does_not_know(recommender):
    known = recommender.recommend([10, 11], k=4)
    unknown = recommender.recommend([10, "A Book Nobody Has Heard Of"], k=4)
    assert len(unknown) == 4
    assert [item.score for item in unknown] != [item.score for item in known]


def test_seen_items_are_excluded_unless_asked(recommender):
    history = [10, 11, 14, 16]
    assert not {item.item_id for item in recommender.recommend(history, k=8)} & set(history)
    everything = recommender.recommend(history, k=12, exclude_seen=False, unique_titles=False)
    assert {item.item_id for item in everything} == set(range(10, 22))
    # Of the two items called "Poems", the first stands for both.
    titles = recommender.recommend(history, k=12, exclude_seen=False)
    assert {item.item_id for item in titles} == set(range(10, 22)) - {15}


def test_seen_ids_exclude_other_items_of_their_titles(recommender):
    found = recommender.recommend([14, 10], k=10, unique_titles=False)
    assert not {item.item_id for item in found} & {10, 14, 15}


def test_recommendations_say_whether_they_are_proven(recommender):
    assert all(item.is_exact for item in recommender.recommend([10, 16], k=3))
    assert not any(item.is_exact for item in recommender.recommend([10, 16], k=3, max_title_tokens=0))


def test_a_title_excludes_every_item_that_has_it(recommender):
    assert not {item.item_id for item in recommender.recommend(["Poems"], k=10)} & {14, 15}


def test_fewer_items_left_than_asked_for(recommender):
    assert len(recommender.recommend(list(range(10, 20)), k=5)) == 2


@pytest.mark.parametrize("history", [[], [[]], [[10], []]])
def test_empty_history(recommender, history):
    with pytest.raises(ValueError, match="history is empty"):
        recommender.recommend(history)


@pytest.mark.parametrize("history", ["Emma", 10])
def test_a_history_is_a_list(recommender, history):
    with pytest.raises(TypeError, match="A history is a list"):
        recommender.recommend(history)


def test_items_are_ids_or_titles(recommender):
    with pytest.raises(TypeError, match=r"got 10\.0 in row 0"):
        recommender.recommend([[10.0, 11]])


def test_longer_than_the_models_context(recommender):
    recommender.model.config.text_config.max_position_embeddings = 40
    with pytest.raises(ValueError, match="reads at most 40"):
        recommender.recommend([10, 11])


def test_bare_backbones_are_refused(catalog, tmp_path):
    from patchrec_hf.tiny import build_tiny_backbone

    for part in build_tiny_backbone(catalog):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from_backbone"):
        PatchRecommender.from_pretrained(tmp_path)


def test_unknown_item_id(recommender):
    with pytest.raises(KeyError, match="Item id 404 is not in the catalog"):
        recommender.recommend([10, 404])


@pytest.mark.parametrize("title", ["", "   "])
def test_empty_title(recommender, title):
    with pytest.raises(ValueError, match="title"):
        recommender.recommend([10, title])


def test_everything_seen(recommender):
    with pytest.raises(ValueError, match="no item left"):
        recommender.recommend(list(range(10, 22)), k=1)


@pytest.mark.slow
def test_round_trip_through_a_new_process(recommender, processor, tmp_path):
    """Saved, and loaded where nothing else is known: the same logits and recommendations, to the bit."""
    import torch

    recommender.model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    prompts = processor([[10, 11, 12, 13, 14], [20, 21]])
    torch.save(dict(prompts), tmp_path / "prompts.pt")
    code = (
        "import sys, torch\n"
        "import patchrec_hf\n"
        "torch.set_num_threads(1)  # sums of other threads differ in their last bits\n"
        "from transformers import AutoModelForCausalLM\n"
        "folder = sys.argv[1]\n"
        "model = AutoModelForCausalLM.from_pretrained(folder).eval()\n"
        "prompts = torch.load(folder + '/prompts.pt')\n"
        "torch.save(model(**prompts).logits, folder + '/logits.pt')\n"
        "print(patchrec_hf.PatchRecommender.from_pretrained(folder).recommend([10, 11, 12], k=5))\n"
    )
    result = run_process([sys.executable, "-c", code, tmp_path])
    assert result.returncode == 0, result.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), recommender.model(**prompts).logits)
    assert result.stdout.strip() == str(recommender.recommend([10, 11, 12], k=5))


def test_new_items_need_no_training(model, processor, recommender):
    """The scores of the old ones stay, and the new one is ranked by its title as if it had always been there."""
    catalog = processor.catalog.with_items({99: "Emma and Persuasion"})
    newer = PatchRecommender(model, processor.with_catalog(catalog))
    before = {item.item_id: item.score for item in recommender.recommend([10, 16, 18], k=9)}
    after = {item.item_id: item.score for item in newer.recommend([10, 16, 18], k=10)}
    assert set(after) == {*before, 99}
    assert {item_id: after[item_id] for item_id in before} == pytest.approx(before, abs=1e-4)
    prompt = processor.encode(processor.catalog.indices_of([10, 16, 18]))
    titles = newer.processor.title_tokens
    expected = brute_force(model, titles, processor.prompt.end_of_turn_id, prompt)
    assert after[99] == pytest.approx(expected[-1], abs=1e-4)
    assert newer.recommend([10, 99], k=3)


def test_candidates(recommender):
    assert {item.item_id for item in recommender.recommend([10, 11], k=5, candidates=[11, 13, 16])} == {13, 16}
    found = recommender.recommend([[10], [11]], k=5, candidates=[[12, 13], [14]])
    assert [{item.item_id for item in items} for items in found] == [{12, 13}, {14}]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [([], "Row 0 has no candidates"), ([10], "Row 0 has no item left to recommend: all 1 candidates are excluded")],
)
def test_no_candidates(recommender, candidates, message):
    with pytest.raises(ValueError, match=message):
        recommender.recommend([10, 11], k=1, candidates=candidates)


def test_methods_agree(recommender):
    exact = recommender.recommend([10, 16], k=5)
    for arguments in ({"method": "all"}, {"method": "beam", "num_beams": 12}):
        found = recommender.recommend([10, 16], k=5, **arguments)
        assert [item.item_id for item in found] == [item.item_id for item in exact]


@pytest.fixture
def by_items(processor):
    return PatchRecommender(item_model(residual_size=6), item_processor(processor))


def expected_items(recommender, history, layout=None, titles=None, allowed=range(12)):
    """Ids and scores of the allowed items, best first, for a history of catalog indices."""
    processor = recommender.processor
    prompt = processor.encode(np.array(history), layout=layout, titles=titles)
    scores = scores_by_hand(recommender.model, processor, prompt)
    ids = processor.catalog.item_ids
    return [
        (int(ids[item]), pytest.approx(scores[item], abs=2e-4)) for item in sorted(allowed, key=lambda i: -scores[i])
    ]


def found_items(items):
    return [(item.item_id, item.score) for item in items]


@pytest.mark.parametrize("method", [None, "item"])
def test_items_are_recommended_by_their_scores(by_items, method):
    """By default, if the model has a head. Seen items are left out, and "Poems" is recommended as its better item."""
    found = by_items.recommend([[10, 16, 10], [18, 11]], k=20, method=method)
    rests = [set(range(12)) - {0, 6}, set(range(12)) - {8, 1}]
    for items, history, rest in zip(found, ([0, 6, 0], [8, 1]), rests, strict=True):
        ids = [list(TITLES)[index] for index in history]
        ranked = [item.item_id for item in by_items.recommend(ids, k=20, unique_titles=False)]
        worse = max((14, 15), key=ranked.index)
        assert found_items(items) == expected_items(by_items, history, allowed=rest - {worse - 10})
        assert all(item.is_exact for item in items)
        assert all(item.title == TITLES[item.item_id] for item in items)
    everything = by_items.recommend([10, 16, 10], k=20, method=method, exclude_seen=False, unique_titles=False)
    assert found_items(everything) == expected_items(by_items, [0, 6, 0])


def test_the_second_item_of_a_title_can_be_the_best(by_items):
    with torch.no_grad():
        by_items.model.item_head.item_vectors.bias[5] += 50
    recommender = PatchRecommender(by_items.model, by_items.processor)
    assert recommender.recommend([10, 16], k=2)[0].item_id == 15
    assert 14 not in [item.item_id for item in recommender.recommend([10, 16], k=12)]


def test_items_by_another_layout_and_among_candidates(by_items):
    found = by_items.recommend([10, 16], k=3, layout=TextLayout(), candidates=[11, 16, 21, 13])
    assert found_items(found) == expected_items(by_items, [0, 6], TextLayout(), allowed=[1, 11, 3])


def test_new_titles_in_a_history_of_items(by_items):
    """A new title has no residual, and no item of the catalog is seen."""
    processor = by_items.processor
    titles = processor.title_tokens.extended(tokenize_titles(["Four Poems", "Emma and I"], processor.tokenizer))
    found = by_items.recommend(["Four Poems", 10, "Emma and I"], k=12, unique_titles=False)
    rest = set(range(12)) - {0}
    assert found_items(found) == expected_items(by_items, [12, 0, 13], titles=titles, allowed=rest)


def test_new_items_are_scored_without_training(by_items):
    catalog = by_items.processor.catalog.with_items({99: "Emma and Persuasion"})
    newer = PatchRecommender(by_items.model, by_items.processor.with_catalog(catalog))
    found = newer.recommend([10, 16], k=13, exclude_seen=False, unique_titles=False)
    assert found_items(found) == expected_items(newer, [0, 6], allowed=range(13))
    old = dict(found_items(by_items.recommend([10, 16], k=13, exclude_seen=False, unique_titles=False)))
    assert {item: score for item, score in found_items(found) if item != 99} == pytest.approx(old, abs=1e-4)


def test_similar_items(by_items):
    """The cosine of item vectors, without their biases; the item itself is left out, not its namesake."""
    model, processor = by_items.model, by_items.processor
    with torch.no_grad():
        vectors = item_patches(model, processor, np.arange(12)) @ model.item_head.item_vectors.weight.T
    vectors = vectors.double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[4]
    order = [item for item in np.argsort(-cosines) if item != 4]
    ids = processor.catalog.item_ids
    found = by_items.similar_items(14, k=50)
    assert found_items(found) == [(int(ids[item]), pytest.approx(cosines[item], abs=1e-5)) for item in order]
    assert found_items(by_items.similar_items(14, k=3)) == found_items(found[:3])
    by_title = [pair for pair in found_items(found) if pair[0] != 15]
    assert found_items(by_items.similar_items("Poems", k=50)) == by_title


def test_items_similar_to_a_new_title(processor):
    """Before training, an item's vector is the mean of its title's tokens."""
    recommender = PatchRecommender(item_model(trained=False), item_processor(processor))
    table = recommender.model.get_input_embeddings().weight.detach()
    mean = table[processor.tokenizer("Emma and Persuasion", add_special_tokens=False).input_ids].mean(dim=0)
    titles = processor.title_tokens
    means = torch.stack([table[titles[item]].mean(dim=0) for item in range(12)])
    cosines = torch.nn.functional.cosine_similarity(means, mean[None])
    found = recommender.similar_items("Emma and Persuasion", k=12)
    assert len(found) == 12
    assert {item.item_id - 10: item.score for item in found} == pytest.approx(
        dict(enumerate(cosines.tolist())), abs=1e-5
    )


def test_similar_items_that_cannot_be_found(recommender, by_items):
    with pytest.raises(ValueError, match="item head"):
        recommender.similar_items(10)
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        by_items.similar_items(10, k=0)
    with pytest.raises(KeyError, match="404"):
        by_items.similar_items(404)
    with pytest.raises(ValueError, match="needs a model with an item head"):
        recommender.recommend([10], method="item")


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([[10, 11], [12]], "holds 2 lists for 1 histories"),
        ([[]], "Row 0 has no candidates"),
    ],
)
def test_candidates_that_do_not_fit(recommender, candidates, message):
    with pytest.raises(ValueError, match=message):
        recommender.recommend([10], candidates=candidates)


@pytest.mark.parametrize(
    "candidates", [torch.tensor([11, 12]), np.array([11, 12]), {11, 12}, [torch.tensor([11, 12])]]
)
def test_candidates_of_any_kind(recommender, candidates):
    assert {item.item_id for item in recommender.recommend([10], candidates=candidates)} == {11, 12}


def test_k_is_a_whole_number(recommender):
    with pytest.raises(TypeError, match=r"`k` must be a whole number, got 2\.0"):
        recommender.recommend([10], k=2.0)


def test_a_recommender_of_other_objects(model, processor):
    with pytest.raises(TypeError, match=r"got `PatchRecProcessor` and `PatchRecForCausalLM`.*from_pretrained"):
        PatchRecommender(processor, model)


def test_similar_items_of_several(by_items):
    with pytest.raises(TypeError, match=r"takes one item, got \[10, 11\]"):
        by_items.similar_items([10, 11])


def test_lists_that_repeat_titles_are_not_recommended(model, processor):
    with pytest.raises(ValueError, match="The method 'diverse' reproduces the released code's lists"):
        PatchRecommender(model, processor).recommend(["Emma"], k=2, method="diverse")


def test_one_checkpoint_for_any_budget(model, processor):
    history = [10, 11, 12, 13, 14, 15, 16]
    recommender = PatchRecommender(model, processor.with_layout(BudgetLayout(60, min_tokens=10)))
    for max_tokens in (3, 9, 30):
        found = recommender.recommend(history, k=3, max_tokens=max_tokens)
        assert found == recommender.recommend(history, k=3, layout=BudgetLayout(max_tokens))
    with pytest.raises(ValueError, match=r"`max_tokens=1` is below what a prompt needs.* at least 3 .*Set"):
        recommender.recommend(history, max_tokens=1)
    with pytest.raises(ValueError, match=r"`max_tokens=50` needs a layout with a budget, and the layout is ItemPatch"):
        PatchRecommender(model, processor).recommend(history, max_tokens=50)


def test_windows_of_time_need_the_times_of_the_history(model, processor):
    recommender = PatchRecommender(model, processor.with_layout(TimeWindowLayout(60, num_text_items=1)))
    times = [0, 30, 500]
    found = recommender.recommend([10, 11, 12], k=2, timestamps=times)
    as_sessions = PatchRecommender(model, processor).recommend(
        [10, 11, 12], k=2, layout=lambda num_items, seed: [Segment("session_patch", 0, 2), Segment("text", 2, 3)]
    )
    assert found == as_sessions
    with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but a history has no"):
        recommender.recommend([10, 11, 12])
    with pytest.raises(ValueError, match="must ascend, got 500 before 30"):
        recommender.recommend([10, 11, 12], timestamps=[0, 500, 30])
