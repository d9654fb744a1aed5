import subprocess
import sys

import pytest
from brute_force import brute_force

from patchrec_hf import PatchRecommender


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
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
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
