"""The model worker answers each job of a batch as if it were alone."""

import pytest
from families import make_processor, shared_model
from item_indexes import count_searches
from served import IDS, events, listed
from tiers import first_fast
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout, PatchRecommender
from patchrec_hf.serving.history_store import Addition, StoreError
from patchrec_hf.serving.item_ids import ItemIds
from patchrec_hf.serving.model_worker import HistoriesJob, ModelWorker, RankOptions, SimilarJob, UserJob
from patchrec_hf.serving.served_states import NoHistoryError, ServedStates
from patchrec_hf.serving.service_metrics import ServiceMetrics
from patchrec_hf.serving.service_settings import ServiceSettings
from patchrec_hf.serving.sqlite_histories import SqliteHistories


@pytest.fixture
def store(tmp_path):
    store = SqliteHistories(tmp_path / "histories.sqlite", False)
    store.add([Addition("ada", tuple(events(*IDS[:4]))), Addition("ben", tuple(events(*IDS[5:7])))])
    yield store
    store.close()


def make_worker(store, recommender=None, index=None, **settings):
    recommender = make_recommender(ItemPatchLayout(0)) if recommender is None else recommender
    limits = ServiceSettings(**settings)
    states = ServedStates(recommender, ItemIds(recommender.catalog), store, limits, ServiceMetrics())
    return ModelWorker(recommender, states, limits, index), recommender


def histories(*lists, timestamps=None, **options):
    return HistoriesJob(tuple(map(tuple, lists)), timestamps, RankOptions(**options))


@pytest.mark.parametrize("method", first_fast(["item", None, "exact", "beam"]))
def test_a_mixed_batch(store, method):
    worker, recommender = make_worker(store, method=method)
    jobs = [
        histories(IDS[:3], k=4),
        UserJob("ada", RankOptions(5)),
        UserJob("nobody", RankOptions(5)),
        SimilarJob(IDS[3], 3),
        histories(IDS[2:9], IDS[:1], k=6),
        UserJob("ben", RankOptions(4, exclude_seen=False)),
        UserJob("ada", RankOptions(2, candidates=tuple(IDS[2:8]))),
        histories(IDS[:3], k=3, candidates=tuple(IDS[8:12])),
    ]
    answers = worker.work(jobs)
    bounded = {"max_title_tokens": 1000} if method == "exact" else {}

    def expected(history, k, **options):
        return listed(recommender.recommend(history, k, method=method, **bounded, **options))

    assert [listed(part) for part in answers[0]] == [expected(IDS[:3], 4)]
    assert [listed(part) for part in answers[1]] == [expected(IDS[:4], 5)]
    assert isinstance(answers[2], NoHistoryError)
    assert [listed(part) for part in answers[3]] == [listed(recommender.similar_items(IDS[3], 3))]
    assert [listed(part) for part in answers[4]] == [expected(IDS[2:9], 6), expected(IDS[:1], 6)]
    assert [listed(part) for part in answers[5]] == [expected(IDS[5:7], 4, exclude_seen=False)]
    assert [listed(part) for part in answers[6]] == [expected(IDS[:4], 2, candidates=IDS[2:8])]
    assert [listed(part) for part in answers[7]] == [expected(IDS[:3], 3, candidates=IDS[8:12])]


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("method", [None, "exact"])
def test_an_index_proposes_the_items(store, method, kind, monkeypatch):
    pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    searches = count_searches(monkeypatch)
    recommender = make_recommender(ItemPatchLayout(0))
    index = recommender.build_index(kind)
    worker, _ = make_worker(store, recommender, index, method=method)
    assert worker.method == (method or "item")
    worker.warm_up()
    jobs = [
        histories(IDS[:3], k=4),
        UserJob("ada", RankOptions(3, exclude_seen=False)),
        UserJob("ben", RankOptions(2, candidates=tuple(IDS[2:8]))),
    ]
    answers = [listed(part) for answer in worker.work(jobs) for part in answer]
    assert set(searches) == {kind}
    options = {"method": method, "index": index, **({"max_title_tokens": 1000} if method == "exact" else {})}
    assert answers == [
        listed(recommender.recommend(IDS[:3], 4, **options)),
        listed(recommender.recommend(IDS[:4], 3, exclude_seen=False, **options)),
        listed(recommender.recommend(IDS[5:7], 2, candidates=IDS[2:8], **options)),
    ]
    with pytest.raises(ValueError, match=r"`method='item'` or `method='exact'`, got 'fusion'"):
        make_worker(store, recommender, index, method="fusion")


def test_one_job_at_fault(store):
    worker, recommender = make_worker(store, method="item")
    jobs = [
        histories(IDS[:3], k=2),
        histories(IDS[:2], k=2, candidates=tuple(IDS[:2])),
        UserJob("ben", RankOptions(2)),
    ]
    first, second, third = worker.work(jobs)
    assert listed(first[0]) == listed(recommender.recommend(IDS[:3], 2, method="item"))
    assert isinstance(second, ValueError)
    assert listed(third[0]) == listed(recommender.recommend(IDS[5:7], 2, method="item"))


def test_a_store_that_does_not_answer(store):
    worker, recommender = make_worker(store)
    store.close()
    answers = worker.work([UserJob("ada", RankOptions(2)), histories(IDS[:3], k=2), UserJob("ben", RankOptions(2))])
    assert isinstance(answers[0], StoreError)
    assert isinstance(answers[2], StoreError)
    assert listed(answers[1][0]) == listed(recommender.recommend(IDS[:3], 2))


def test_times_reach_the_model(store):
    worker, recommender = make_worker(store, make_recommender(ItemPatchLayout(0), time_gaps=True))
    times = (0, 90_000, 90_001)
    (answer,) = worker.work([histories(IDS[:3], timestamps=(times,), k=5)])
    assert listed(answer[0]) == listed(recommender.recommend(IDS[:3], 5, timestamps=times))
    (missing,) = worker.work([histories(IDS[:3], k=5)])
    assert isinstance(missing, ValueError)
    worker.warm_up()


def test_a_checkpoint_without_what_the_method_needs(store):
    full = make_recommender(ItemPatchLayout(0))
    plain = PatchRecommender(shared_model("llama_untied"), make_processor())
    worker, _ = make_worker(store, plain)
    assert worker.method == "exact"
    assert not worker.has_item_head
    worker.warm_up()
    for method, missing in (("item", "item head"), ("fusion", "fusion")):
        worker, _ = make_worker(store, plain, method=method)
        with pytest.raises(ValueError, match=missing):
            worker.warm_up()
    assert make_worker(store, full)[0].method == "fusion"
