"""A shop's way: text ids from CSV to recommendations, saved and loaded, without a number of the library's own."""

import polars as pl
import pytest
from sixty_users import CUTS

from patchrec_hf import (
    BOOK_PROMPT_INSTRUCTION_FIRST,
    Catalog,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    Title,
    build_tiny_backbone,
    evaluate_model,
    evaluate_scorer,
    export_backbone,
    export_checkpoint,
    fit_fusion,
    load_recommendation_data,
    prepare_data,
)
from patchrec_hf.baselines import CoVisitation, Popularity


SKUS = [f"ES-{number:05d}" for number in range(6)] + ["007", "7", str(2**63 + 7), "Größe M", "b 17", "x" * 70]
CUSTOMERS = [f"{number:03d}" for number in range(60)]
NAMES = {"user_id": "customer", "item_id": "sku", "timestamp": "at", "title": "name"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The files of a shop: a log, and products in two orders."""
    directory = tmp_path_factory.mktemp("shop")
    log = [
        (CUSTOMERS[user], SKUS[(user * 3 + place) % len(SKUS)], 1_700_000_000 + 100 * place + user)
        for user in range(60)
        for place in range(8)
    ]
    pl.DataFrame(log, schema=["customer", "sku", "at"], orient="row").write_csv(directory / "log.csv")
    products = pl.DataFrame({"sku": SKUS, "name": [f"Book {letter}" for letter in "ABCDEFGHIJKL"]})
    products.write_csv(directory / "products.csv")
    products.reverse().write_csv(directory / "next_week.csv")
    return directory


@pytest.fixture(scope="module")
def data(shop):
    return load_recommendation_data(
        shop / "log.csv", 5, items=shop / "products.csv", columns=NAMES, split=CUTS, targets_per_row=4
    )


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A checkpoint with an item head and a fusion."""
    directory = tmp_path_factory.mktemp("checkpoint")
    splits, catalog = data
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    processor = PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, max_history=5, item_residuals=True
    )
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    args = PatchFinetuneConfig(directory / "run", objective="both", max_steps=2, report_to=[], use_cpu=True)
    trainer = PatchFinetuneTrainer(
        model,
        args,
        train_dataset=splits["train"],
        processing_class=processor,
        eval_dataset=splits["validation"],
    )
    trainer.train()
    trainer.save_model(directory / "final")
    fused = fit_fusion(trainer.model, trainer.processing_class, splits["train"], splits["validation"])
    fused.save_pretrained(directory / "final")
    return directory / "final"


def test_prepared_data_holds_the_shops_ids(shop, tmp_path):
    data = prepare_data(shop / "log.csv", items=shop / "products.csv", columns=NAMES, split=CUTS)
    data.save(tmp_path / "prepared")
    files = {name: pl.read_parquet(tmp_path / "prepared" / f"{name}.parquet") for name in ("interactions", "items")}
    assert files["items"]["item_id"].to_list() == SKUS
    assert set(files["interactions"]["item_id"].cast(pl.String)) == set(SKUS)
    assert pl.read_parquet(tmp_path / "prepared" / "users.parquet")["user_id"].to_list() == CUSTOMERS
    splits, _ = load_recommendation_data(tmp_path / "prepared", 5)
    assert splits["test"][0]["user_id"] in CUSTOMERS


def test_rows_hold_the_shops_ids(data):
    splits, catalog = data
    assert catalog.item_ids.tolist() == SKUS
    for rows in splits.values():
        assert set(rows["user_id"]) <= set(CUSTOMERS)
        assert {item for items in rows["item_ids"] for item in items} <= set(SKUS)


def test_recommendations_are_the_shops_ids(checkpoint):
    recommender = PatchRecommender.from_pretrained(checkpoint)
    for method in ("item", "exact"):
        one = recommender.recommend(["ES-00000", "007"], k=10, method=method)
        assert {item.item_id for item in one} == set(SKUS) - {"ES-00000", "007"}
        assert one == recommender.recommend(["Book A", "Book G"], k=10, method=method)
        few = recommender.recommend([["7"], [Title("A new book")]], k=2, candidates=["b 17", "x" * 70], method=method)
        assert all({item.item_id for item in items} == {"b 17", "x" * 70} for items in few)
    assert recommender.similar_items("007", k=1)[0].item_id in SKUS
    with pytest.raises(KeyError, match=r"ES-0000.* is neither an id nor a title .*nearest ids are .*ES-0000[0-5]"):
        recommender.recommend(["ES-0000"])


@pytest.mark.slow
def test_reports_name_the_shops_ids(checkpoint, data, tmp_path):
    splits, catalog = data
    model = PatchRecForCausalLM.from_pretrained(checkpoint)
    processor = PatchRecProcessor.from_pretrained(checkpoint)
    report = evaluate_model(model, processor, splits["test"], k=5, keep_rankings=True)
    baseline = evaluate_scorer(CoVisitation(catalog).fit(splits["train"]), catalog, splits["test"])
    assert set(report.targets["user_id"]) <= set(CUSTOMERS)
    assert set(report.targets["target_id"]) <= set(SKUS)
    assert set(report.targets["ranked_ids"].explode()) <= set(SKUS)
    assert baseline.targets["target_id"].equals(report.targets["target_id"])
    report.save(tmp_path / "report")
    assert type(report).load(tmp_path / "report").targets.equals(report.targets)
    assert set(report.compare(baseline)["metric"])


@pytest.mark.slow
def test_products_in_another_order_change_nothing(checkpoint, shop, data):
    splits, catalog = load_recommendation_data(
        shop / "log.csv", 5, items=shop / "next_week.csv", columns=NAMES, split=CUTS, targets_per_row=4
    )
    assert catalog.item_ids.tolist() == SKUS[::-1]
    assert splits["test"].to_list() == data[0]["test"].to_list()
    processor = PatchRecProcessor.from_pretrained(checkpoint)
    model = PatchRecForCausalLM.from_pretrained(checkpoint)
    before = evaluate_model(model, processor, data[0]["test"], k=5).metrics((5,))
    after = evaluate_model(model, processor.with_catalog(catalog), splits["test"], k=5).metrics((5,))
    assert before["hr@5"] == after["hr@5"]
    assert before["ndcg@5"] == after["ndcg@5"]
    with pytest.raises(ValueError, match=r"lacks 1 of the 12 items that the model has learned: ES-00000\."):
        processor.with_catalog(Catalog(SKUS[1:], catalog.titles[1:]))


def test_rows_of_a_shop_that_reuses_ids_are_refused(checkpoint, shop, data, tmp_path):
    """The same SKUs for other products: every id exists, and each means something else."""
    products = pl.read_csv(shop / "products.csv", infer_schema=False)
    renamed = products.with_columns(pl.col("name").reverse())
    renamed.write_csv(tmp_path / "renamed.csv")
    splits, catalog = load_recommendation_data(
        shop / "log.csv", 5, items=tmp_path / "renamed.csv", columns=NAMES, split=CUTS
    )
    processor = PatchRecProcessor.from_pretrained(checkpoint)
    model = PatchRecForCausalLM.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="made with another catalog: item 'ES-00000' is 'Book L' there"):
        evaluate_model(model, processor, splits["test"], k=5)
    with pytest.raises(ValueError, match="made with another catalog"):
        Popularity(data[1]).fit(splits["train"])
    args = PatchFinetuneConfig(tmp_path / "run", max_steps=1, report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match="made with another catalog"):
        PatchFinetuneTrainer(model, args, train_dataset=splits["train"], processing_class=processor)
    assert isinstance(catalog, Catalog)


def test_exports_and_cards_name_the_shops_ids(checkpoint, tmp_path):
    model = PatchRecForCausalLM.from_pretrained(checkpoint)
    processor = PatchRecProcessor.from_pretrained(checkpoint)
    export_checkpoint(model, processor, tmp_path / "with_code", include_code=True)
    export_backbone(model, processor, tmp_path / "backbone")
    for name in ("with_code", "backbone"):
        assert pl.read_parquet(tmp_path / name / "catalog.parquet")["item_id"].to_list() == SKUS
    assert "['ES-00000', 'ES-00001', 'ES-00002']" in (tmp_path / "with_code" / "README.md").read_text()
    histories = [["ES-00000", "007"], ["x" * 70]]
    exported = PatchRecommender.from_pretrained(tmp_path / "with_code").recommend(histories, k=3)
    assert exported == PatchRecommender(model, processor).recommend(histories, k=3)
