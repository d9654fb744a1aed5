"""Pushes to the Hub that HF_ENDPOINT names, and loads from it. `hub/test_pushing.py` starts it and checks the Hub."""

import sys
from pathlib import Path

import pytest


def push():
    """Every way of pushing; prints nothing that is checked, the Hub is."""
    import interrupted_run
    from conftest import ITEM_IDS
    from datasets import Dataset
    from peft import LoraConfig

    from patchrec_hf import (
        PatchFinetuneConfig,
        PatchFinetuneTrainer,
        PatchRecForCausalLM,
        PatchRecommender,
        evaluate_model,
        export_to_hub,
    )
    from patchrec_hf.baselines import CoVisitation, SASRec

    source = interrupted_run.make_trainer(Path("unused"))
    processor, model, rows = source.processing_class, source.model, source.train_dataset
    # A bare backbone on the Hub, for the adapter to be trained on.
    model.save_pretrained("base")
    PatchRecForCausalLM.from_pretrained("base").push_to_hub("user/base")
    processor.push_to_hub("user/base")
    processor.save_pretrained("saved", push_to_hub=True, repo_id="user/processor")
    SASRec.from_catalog(processor.catalog, hidden_size=8).save_pretrained(
        "sasrec", push_to_hub=True, repo_id="user/sasrec"
    )
    SASRec.from_pretrained("sasrec").push_to_hub("user/sasrec-again")
    counts = CoVisitation(processor.catalog).fit(rows)
    counts.save_pretrained("counts", push_to_hub=True, repo_id="user/counts", commit_message="Counts")

    def trainer(name, model, peft_config=None, **settings):
        args = PatchFinetuneConfig(
            name, use_cpu=True, max_steps=2, eval_ks=[5], report_to="none", disable_tqdm=True, eval_strategy="steps",
            eval_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1, hub_model_id=f"user/{name}",
            **settings,
        )  # fmt: skip
        made = PatchFinetuneTrainer(
            model,
            args,
            train_dataset=rows,
            processing_class=processor,
            eval_dataset=rows.select(range(4)),
            peft_config=peft_config,
        )
        made.train()
        return made

    full = trainer("trained", model, push_to_hub=True, hub_strategy="checkpoint", hub_always_push=True)
    full.push_to_hub(dataset_name="Twelve Books", tags="test")
    adapter = trainer("adapted", "user/base", LoraConfig(r=2))
    adapter.push_to_hub()

    report = evaluate_model(full.model, processor, Dataset.from_list(list(rows)), k=None, show_progress=False)
    export_to_hub(
        full.model, processor, "user/exported", include_code=True, results=report, dataset_name="Twelve Books",
        private=True,
    )  # fmt: skip
    for name, made in (("trained", full.model), ("adapted", adapter.model.get_base_model())):
        show(name, PatchRecommender(made, processor).recommend(ITEM_IDS[:4], k=3))


def load_baseline():
    """From the repository's name, with its catalog."""
    from patchrec_hf.baselines import CoVisitation, SASRec

    model = SASRec.from_pretrained("user/sasrec")
    assert (model.score([[10, 11]]) == SASRec.from_pretrained("user/sasrec-again").score([[10, 11]])).all()
    pushed, saved = (CoVisitation.from_pretrained(name) for name in ("user/counts", "counts"))
    assert (pushed.score([[10, 11]]) == saved.score([[10, 11]])).all()


def push_data():
    """Prepares a user's own log and pushes it."""
    import polars as pl

    from patchrec_hf import prepare_data, temporal_split

    rows = [(user, item, 100 * item + user, f"Book {item}") for user in range(20) for item in range(9)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "title"], orient="row")
    table.write_csv("log.csv")
    data = prepare_data("log.csv", split=lambda frame: temporal_split(frame, cuts=(0.6, 0.8)), cache_dir="data")
    print(data.push_to_hub("user/books", private=True))


def load_data():
    """Loads a data set by its name on the Hub. A name that the Hub does not know is an error."""
    from patchrec_hf import load_recommendation_data

    examples, catalog = load_recommendation_data("user/books", max_history=4, cache_dir="data")
    assert {split: len(rows) for split, rows in examples.items()} == {"train": 48, "validation": 36, "test": 36}
    assert catalog.titles[3] == "Book 3"
    with pytest.raises(FileNotFoundError, match="no data set of that name could be loaded from the Hub"):
        load_recommendation_data("user/nothing", cache_dir="data")


def load(name):
    """Recommends as the card shows it, with only the name of the repository."""
    from conftest import ITEM_IDS

    from patchrec_hf import PatchRecommender

    show(name, PatchRecommender.from_pretrained(f"user/{name}").recommend(ITEM_IDS[:4], k=3))


def load_without_plugin(name):
    sys.modules["patchrec_hf"] = None  # as if it were not installed
    from transformers import AutoModelForCausalLM, AutoProcessor
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(f"user/{name}", trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(f"user/{name}", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(f"user/{name}", trust_remote_code=True)
    history = processor.catalog.item_ids[:4].tolist()
    inputs = processor([history])
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 2
    recommender = get_class_from_dynamic_module("recommender.PatchRecommender", f"user/{name}", trust_remote_code=True)
    show("trained", recommender.from_pretrained(f"user/{name}").recommend(history, k=3))
    assert not any(
        name == "patchrec_hf" or name.startswith("patchrec_hf.") for name in sys.modules if sys.modules[name]
    )


def show(name, items):
    print(f"{name}: " + ", ".join(f"{item.item_id} {item.score:.3f}" for item in items))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
