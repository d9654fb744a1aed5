"""A tiny shop of two weeks, and a checkpoint of its first one. Users buy teas in the order of a chain."""

from datetime import UTC, datetime

import polars as pl
from datasets import concatenate_datasets

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    Catalog,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecProcessor,
    build_tiny_backbone,
    fit_fusion,
)
from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.data.update_rows import rows_since


WORDS = (
    "amber",
    "birch",
    "cedar",
    "daisy",
    "elder",
    "fennel",
    "ginger",
    "hazel",
    "iris",
    "juniper",
    "kale",
    "linden",
    "mint",
    "nettle",
    "olive",
    "poppy",
    "quince",
    "rose",
    "sage",
    "thyme",
)
FIRST_ITEMS = {100 + number: f"Tea of {word}" for number, word in enumerate(WORDS[:12])}
NEW_ITEMS = {100 + number: f"Tea of {word}" for number, word in enumerate(WORDS) if number >= 12}
ITEMS = Catalog.from_titles({**NEW_ITEMS, **FIRST_ITEMS})
"""The shop's items in the second week. New ones stand first, as in a shop that lists them so."""
DAY = 86_400
BEGIN = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp())
SECOND_WEEK = BEGIN + 7 * DAY
HISTORY, PARTS = 8, ["item", "co_visits", "similar_titles", "seen", "popularity"]


def log_of(weeks):
    """In the first week, users walk around twelve items; in the second one, new users walk around eight new items."""
    first, second = list(FIRST_ITEMS), list(NEW_ITEMS)
    rows = [(user, first[(user + place) % 12], BEGIN + place * DAY // 2 + user) for user in range(24)
            for place in range(8)]  # fmt: skip
    if weeks == 2:
        rows += [(100 + user, second[(user + place) % 8], SECOND_WEEK + place * DAY // 2 + user) for user in range(12)
                 for place in range(8)]  # fmt: skip
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def interactions_of(weeks):
    return order_interactions(log_of(weeks))


def rows_of(weeks, catalog, since=SECOND_WEEK, **settings):
    return rows_since(interactions_of(weeks), catalog, since, HISTORY, HISTORY, **settings)


def settings_of(directory, **changes):
    return {
        **ALL_PATCH_PRESET.training, "output_dir": str(directory), "use_cpu": True, "report_to": "none",
        "disable_tqdm": True, "save_strategy": "no", "logging_steps": 5, "seed": 0, **changes,
    }  # fmt: skip


def train_first_week(directory, objective="item", **changes):
    """Trains a checkpoint of the first week, with a fusion if it has an item head. Returns its directory."""
    catalog = Catalog.from_titles(FIRST_ITEMS)
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(directory / "backbone")
    rows = rows_of(1, catalog, since=BEGIN, validation_share=0.1)
    has_head = objective == "item"
    processor = PatchRecProcessor.from_backbone(
        directory / "backbone", catalog, BOOK_PROMPT_INSTRUCTION_FIRST, max_history=HISTORY,
        **{**ALL_PATCH_PRESET.processor, "item_residuals": has_head},
    )  # fmt: skip
    settings = settings_of(directory / "run", **{"num_train_epochs": 40, **changes})
    if not has_head:
        settings |= {"objective": objective, "title_similarity": False, "item_dropout": 0, "residual_dropout": 0}
    trainer = PatchFinetuneTrainer(
        str(directory / "backbone"), PatchFinetuneConfig(**settings), train_dataset=rows.new,
        processing_class=processor,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(directory / "final"))
    if has_head:
        processor = fit_fusion(trainer.model, processor, rows.new, rows.validation, PARTS, show_progress=False)
        processor.save_pretrained(directory / "final")
    return directory / "final"


def all_rows(rows):
    return concatenate_datasets([rows.old, rows.new])
