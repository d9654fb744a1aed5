from demo_parts import demo_recommender

from patchrec_hf.demo.example_history import example_history


def test_items_follow_the_co_visits(processor):
    made = demo_recommender(processor).processor
    for seed in range(8):
        first, *others = example_history(made, 4, seed)
        # Each item recommends the next ones of the catalog. Behind its last item, a random one follows.
        expected = list(range(first + 1, min(first + 4, 12)))
        assert others[: len(expected)] == expected
        assert len({first, *others}) == 4


def test_without_co_visits_items_are_random(processor):
    histories = {tuple(example_history(processor, 5, seed)) for seed in range(8)}
    assert len(histories) > 1
    assert all(len(set(history)) == 5 for history in histories)
    assert example_history(processor, 5, 0) == example_history(processor, 5, 0)


def test_a_small_catalog_gives_a_short_history(processor):
    assert sorted(example_history(demo_recommender(processor).processor, 99, 0)) == list(range(12))
