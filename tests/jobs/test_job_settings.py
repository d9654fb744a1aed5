"""Job settings: they change with everything that the result depends on, and with nothing else."""

import json

import polars as pl
import pytest
import torch
from item_parts import table_of
from users_of_jobs import make_recommender, write_users

from patchrec_hf import ItemPatchLayout, PatchRecommender
from patchrec_hf.jobs.history_files import find_histories
from patchrec_hf.jobs.job_settings import job_settings
from patchrec_hf.jobs.user_ranker import RankingSettings
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, NeighborPart


@pytest.fixture
def path(tmp_path):
    return write_users(tmp_path / "users.parquet")


def settings_of(recommender, path, **others):
    return job_settings(recommender, find_histories(path), RankingSettings(k=3), users_per_part=4, **others)


def test_the_same_job_has_the_same_settings(processor, path):
    first, second = (settings_of(make_recommender(processor), path) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == first
    assert (first["k"], first["users_per_part"]) == (3, 4)


def test_the_histories_and_the_checkpoint_count(processor, path):
    recommender = make_recommender(processor)
    model, own = recommender.model, recommender.processor
    before = settings_of(recommender, path)
    changed = {
        "layout": PatchRecommender(model, own.with_layout(ItemPatchLayout(3))),
        "catalog": PatchRecommender(model, own.with_catalog(own.catalog.with_items({99: "A New Book"}))),
    }
    for diagonal in (1.0, 2.0):
        table = table_of(torch.diag(torch.full((12,), diagonal), 0).tolist(), own.catalog.id_numbers)
        fusion = Fusion({"item": ItemHeadPart(), "co_visits": NeighborPart(table)}, {"item": 1.0, "co_visits": 0.5})
        changed[f"fusion {diagonal}"] = PatchRecommender(model, own.with_fusion(fusion))
    found = {name: settings_of(other, path)["checkpoint"] for name, other in changed.items()}
    found["before"] = before["checkpoint"]
    other = make_recommender(processor)
    with torch.no_grad():
        other.model.item_head.item_vectors.bias[0] += 1
    found["weights"] = settings_of(other, path)["checkpoint"]
    assert len({json.dumps(values) for values in found.values()}) == len(found) == 6
    frame = pl.read_parquet(path)
    frame.head(9).write_parquet(path)
    assert settings_of(recommender, path)["histories"]["content"] != before["histories"]["content"]
