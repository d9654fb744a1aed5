"""Users, recommenders and checkpoints for the tests of jobs."""

import polars as pl
from conftest import ITEM_IDS, TITLES
from item_parts import item_model, item_processor, plain_model

from patchrec_hf import Catalog, PatchRecommender


def histories(num_users=10):
    """Histories of one to seven different items."""
    return [[ITEM_IDS[(user + 5 * place) % 12] for place in range(1 + user % 7)] for user in range(num_users)]


def write_users(path, num_users=10, **columns):
    """Writes one row per user. The users have texts for ids, and are in no order."""
    ids = [f"u{(7 * user) % 100:02}" for user in range(num_users)]
    pl.DataFrame({"user_id": ids, "item_ids": histories(num_users), **columns}).write_parquet(path)
    return path


def make_recommender(processor, text_ids=False):
    """A recommender with a trained item head. With text ids, item 10 has the id `B-10`."""
    if not text_ids:
        return PatchRecommender(item_model(), item_processor(processor))
    catalog = Catalog.from_titles({f"B-{item_id}": title for item_id, title in TITLES.items()})
    model = plain_model()
    model.add_item_head(catalog)
    return PatchRecommender(model, item_processor(processor, catalog=catalog))


def save(recommender, directory):
    recommender.model.save_pretrained(directory)
    recommender.processor.save_pretrained(directory)
    return directory
