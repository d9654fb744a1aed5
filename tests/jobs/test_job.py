"""A job's parts: ranked one by one, in any order, and merged when none is missing."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from users_of_jobs import make_recommender, write_users

from patchrec_hf import recommend_users
from patchrec_hf.jobs.job import open_job
from patchrec_hf.jobs.user_ranker import RankingSettings
from patchrec_hf.jobs.user_requests import UsersError


@pytest.fixture
def recommender(processor):
    return make_recommender(processor)


@pytest.fixture
def open_small_job(recommender, tmp_path):
    def open_small_job(**settings):
        settings = {"users_per_part": 4, "show_progress": False, **settings}
        return open_job(
            recommender, tmp_path / "users.parquet", tmp_path / "top.parquet", RankingSettings(k=3), **settings
        )

    return open_small_job


def test_parts_may_be_ranked_in_any_order_and_by_several_runs(recommender, open_small_job, tmp_path):
    write_users(tmp_path / "users.parquet")
    with open_small_job() as job:
        assert (job.missing, job.num_missing_users) == ([0, 1, 2], 10)
        with pytest.raises(OSError, match="Another run is at work"), open_small_job():
            pass
        chunks = dict(job.part_ranker.chunks.read())
        job.part_ranker.rank(2, chunks[2])
    assert not (tmp_path / "top.parquet").exists()
    with open_small_job() as job:
        assert (job.missing, job.num_missing_users) == ([0, 1], 8)
        for number in (1, 0):
            job.part_ranker.rank(number, chunks[number])
        summary = job.finish(seconds=2.0)
    assert (summary.num_recommended, summary.num_ranked, summary.users_per_second) == (10, 8, 4.0)
    other = recommend_users(
        recommender, tmp_path / "users.parquet", tmp_path / "other.parquet", 3, users_per_part=4, show_progress=False
    )
    assert_frame_equal(pl.read_parquet(summary.output), pl.read_parquet(other.output), abs_tol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.parquet", "top.parquet", "users.parquet"]


def test_a_part_with_a_bad_user_is_not_written_if_the_job_stops(open_small_job, tmp_path):
    path = write_users(tmp_path / "users.parquet")
    users = pl.read_parquet(path)
    with open_small_job() as job:
        bad = users[:4].with_columns(item_ids=pl.lit([999]))
        with pytest.raises(UsersError, match="Row 0, user 'u00': Item id 999"):
            job.part_ranker.rank(0, bad)
        assert job.part_ranker.parts.missing() == [0, 1, 2]
