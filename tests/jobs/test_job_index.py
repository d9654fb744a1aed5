"""The index of a job: built once, kept beside the parts, and part of the job's settings."""

import polars as pl
import pytest
from item_indexes import count_searches
from users_of_jobs import make_recommender, write_users

from patchrec_hf import PatchRecommender, recommend_users
from patchrec_hf.jobs.job_index import INDEX_DIRECTORY, check_job_index, describe_job_index
from patchrec_hf.jobs.job_parts import JobParts
from patchrec_hf.jobs.user_ranker import RankingSettings


pytest.importorskip("faiss", reason="an item index needs the extra `index`")


@pytest.fixture(scope="module")
def recommender(processor):
    return make_recommender(processor)


@pytest.fixture
def run(recommender, tmp_path):
    def run(output="top.parquet", **settings):
        path = write_users(tmp_path / "users.parquet")
        settings = {"k": 3, "users_per_part": 4, "show_progress": False, **settings}
        return pl.read_parquet(recommend_users(recommender, path, tmp_path / output, **settings).output)

    return run


def test_an_index_changes_no_row(recommender, run, tmp_path, monkeypatch):
    searches = count_searches(monkeypatch)
    expected = run(method="item")
    for number, index in enumerate(("flat", "hnsw", recommender.build_index("ivf"))):
        found = run(f"{number}.parquet", index=index)
        assert found["item_ids"].to_list() == expected["item_ids"].to_list()
        assert not (tmp_path / f"{number}.parquet.parts").exists()
    assert set(searches) == {"flat", "hnsw", "ivf"}
    by_titles = run("titles.parquet", index="flat", method="exact", num_candidates=12)
    assert by_titles["titles"].to_list() == run("exact.parquet", method="exact")["titles"].to_list()
    assert not by_titles["is_exact"].any()


def test_a_continued_job_reads_what_it_has_built(recommender, run, tmp_path, monkeypatch):
    expected = run("unbroken.parquet", index="hnsw")
    write, builds = JobParts.write, []

    def fail_later(parts, number, rows):
        if number == 1:
            raise KeyboardInterrupt
        write(parts, number, rows)

    build = PatchRecommender.build_index
    monkeypatch.setattr(
        PatchRecommender,
        "build_index",
        lambda self, kind, **settings: builds.append(kind) or build(self, kind, **settings),
    )
    monkeypatch.setattr(JobParts, "write", fail_later)
    with pytest.raises(KeyboardInterrupt):
        run(index="hnsw")
    monkeypatch.setattr(JobParts, "write", write)
    assert builds == ["hnsw"]
    assert (tmp_path / "top.parquet.parts" / INDEX_DIRECTORY / "item_index.json").is_file()
    for other in ({}, {"index": "flat"}, {"index": recommender.build_index("hnsw")}, {"index": "hnsw", "k": 2}):
        with pytest.raises(FileExistsError, match="run with other settings"):
            run(**other)
    builds.clear()
    assert run(index="hnsw").equals(expected)
    assert builds == []


def test_settings_of_jobs(recommender):
    flat, hnsw = recommender.build_index(), recommender.build_index("hnsw", m=4)
    described = [describe_job_index(index, 12) for index in (None, "flat", "hnsw", flat, hnsw)]
    assert described[:2] == [None, {"kind": "flat"}]
    assert described[2] == {"kind": "hnsw", "m": 32, "ef_construction": 40, "ef_search": 128}
    assert described[3] == {"kind": "flat", "digest": flat.digest}
    assert described[4]["digest"] == hnsw.digest != recommender.build_index("hnsw", m=5).digest


def test_bad_arguments(recommender, run, monkeypatch):
    for settings, message in (
        ({"index": "hnws"}, "Did you mean 'hnsw'"),
        ({"index": "flat", "method": "beam"}, "got 'beam', which needs the whole catalog"),
        ({"index": "flat", "num_candidates": 2}, "`num_candidates` must be at least k = 3, got 2"),
        ({"num_candidates": 5}, "`num_candidates` belongs to an `index`"),
        ({"index": "flat", "normalizer": "catalog"}, "belongs to methods that search titles"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**settings)
    with pytest.raises(TypeError, match="must be an `ItemIndex`, got 5"):
        run(index=5)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"patchrec-hf\[index\]"):
        check_job_index(recommender, "flat", RankingSettings())
