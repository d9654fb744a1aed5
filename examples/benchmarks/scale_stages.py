"""
The stages of `scale.py`. Each runs in a process of its own, because a process tells only its largest memory so far.

    python examples/benchmarks/scale_stages.py tokens --directory outputs/scale --items 10000

A stage reads what earlier ones wrote to the directory, writes its own files there, and prints what it measured.
"""

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_titles import make_titles


KNOWN_ITEMS = 10_000
"""Items that the model is trained on: the first ones of every catalog. It knows the others by their titles."""
MAX_HISTORY, K, NUM_CANDIDATES = 20, 20, 200
NPROBES = (60, 80, 125, 250)
EF_SEARCHES = (32, 64, 128, 256)
_FEWEST, _MOST = 10, 200
_FEW_USERS, _TURNS = 32, 5


def histories_of(titles: list[str], num_users: int, seed: int) -> list[list[int]]:
    """Makes histories: a user likes one word that is not too frequent, and chooses items with this word at random."""
    items_of: dict[str, list[int]] = {}
    for item, title in enumerate(titles):
        for word in dict.fromkeys(title.split()):
            items_of.setdefault(word, []).append(item)
    pools = [np.array(items) for items in items_of.values() if _FEWEST <= len(items) <= _MOST]
    rng = np.random.default_rng(seed)
    return [
        rng.choice(pool, min(MAX_HISTORY, len(pool)), replace=False).tolist()
        for pool in (pools[number] for number in rng.integers(len(pools), size=num_users))
    ]


def train(directory: Path, num_items: int, steps: int) -> dict[str, float]:
    """Trains a small model with an item head for a few minutes."""
    from datasets import Dataset

    from patchrec_hf import (
        ALL_PATCH_PRESET,
        BOOK_PROMPT_INSTRUCTION_FIRST,
        Catalog,
        ItemPatchLayout,
        PatchFinetuneConfig,
        PatchFinetuneTrainer,
        PatchRecProcessor,
        build_tiny_backbone,
    )

    titles = make_titles(num_items, 0)
    catalog = Catalog.from_titles(dict(enumerate(titles, 1)))
    backbone = directory / "backbone"
    for part in build_tiny_backbone(catalog):
        part.save_pretrained(backbone)
    processor = PatchRecProcessor.from_backbone(
        backbone, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, ItemPatchLayout(0), MAX_HISTORY, separate_patches=False
    )
    rows = [
        {"user_id": user, "item_ids": [item + 1 for item in items], "target_positions": list(range(4, len(items)))}
        for user, items in enumerate(histories_of(titles, 65 * steps, 1))
    ]
    settings = {
        **ALL_PATCH_PRESET.training,
        "title_similarity": False,
        "item_dropout": 0.0,
        "residual_dropout": 0.0,
        "learning_rate": 8e-3,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 1,
        "max_steps": steps,
    }
    args = PatchFinetuneConfig(
        str(directory / "run"),
        **settings,
        logging_steps=min(steps, 50),
        report_to="none",
        save_strategy="no",
        eval_ks=[],
    )
    trainer = PatchFinetuneTrainer(
        str(backbone), args, train_dataset=Dataset.from_list(rows), processing_class=processor
    )
    with measured() as cost:
        trainer.train()
    trainer.save_model(str(directory / "model"))
    return {**cost, "loss": trainer.state.log_history[-2]["loss"]}


def tokens(directory: Path, num_items: int) -> dict[str, float]:
    """Tokenizes the titles."""
    from patchrec_hf import PatchRecProcessor
    from patchrec_hf.runtime.title_tokens import tokenize_titles

    tokenizer = PatchRecProcessor.from_pretrained(directory / "model").tokenizer
    titles = make_titles(num_items, 0)
    with measured() as cost:
        found = tokenize_titles(titles, tokenizer)
    np.savez(of_catalog(directory, num_items) / "tokens.npz", ids=found.ids, offsets=found.offsets)
    return cost


def trie(directory: Path, num_items: int) -> dict[str, float]:
    """Builds the title trie."""
    from dataclasses import fields

    from patchrec_hf import PatchRecProcessor
    from patchrec_hf.runtime.trie import build_trie

    end_of_turn_id = PatchRecProcessor.from_pretrained(directory / "model").prompt.end_of_turn_id
    titles = load_tokens(directory, num_items)
    with measured() as cost:
        built = build_trie(titles, end_of_turn_id)
    arrays = {field.name: getattr(built, field.name) for field in fields(built)}
    np.savez(of_catalog(directory, num_items) / "trie.npz", **arrays)
    return cost


def vectors(directory: Path, num_items: int) -> dict[str, float]:
    """Computes the item vectors."""
    import torch

    from patchrec_hf import PatchRecommender
    from patchrec_hf.runtime.item_vectors import item_vectors_of

    recommender, titles = PatchRecommender.from_pretrained(directory / "model"), load_tokens(directory, num_items)
    with measured() as cost, torch.no_grad():
        found = item_vectors_of(recommender.model, recommender.processor, np.arange(num_items), titles)
    np.save(of_catalog(directory, num_items) / "vectors.npy", found.numpy())
    return cost


def index(directory: Path, num_items: int, kind: str) -> dict[str, float]:
    """Builds an index, and saves it."""
    from patchrec_hf import PatchRecommender
    from patchrec_hf.runtime.index_settings import IndexSettings
    from patchrec_hf.runtime.item_index import ItemIndex

    scale = PatchRecommender.from_pretrained(directory / "model").item_scorer.user_scale
    found = np.load(of_catalog(directory, num_items) / "vectors.npy")
    with measured() as cost:
        built = ItemIndex.build(found, IndexSettings(kind), scale)
    built.save_pretrained(of_catalog(directory, num_items) / kind)
    return {**cost, **{name: value for name, value in built.settings.to_dict().items() if name != "kind"}}


def rank(directory: Path, num_items: int, num_users: int) -> dict[str, float]:
    """
    Ranks for users: without an index, with each index, and by titles among an index's candidates. Returns users per
    CPU second in the fastest of some turns, and the recall of the indexes.
    """
    import torch

    from patchrec_hf.runtime.allowed_items import ItemSet
    from patchrec_hf.runtime.index_methods import rank_by_index
    from patchrec_hf.runtime.index_ranking import IndexRanker
    from patchrec_hf.runtime.item_index import ItemIndex
    from patchrec_hf.runtime.ranking_config import RankingConfig

    recommender, num_known = load_recommender(directory, num_items)
    scorer, processor = recommender.item_scorer, recommender.processor
    histories = [
        np.array(items[:-1]) for items in histories_of(list(processor.catalog.titles[:num_known]), num_users, 2)
    ]
    prompts = [processor.encode(items) for items in histories]
    allowed = [ItemSet(np.unique(items)) for items in histories]  # nobody gets an item again
    scorer.vectors_in_memory  # noqa: B018 (computed once, before anything is measured)
    users = torch.empty(len(prompts), scorer.item_vectors.shape[1])

    few = max(32, min(num_users, 100_000_000 // num_items))
    config = RankingConfig(k=K, method="exact")
    nlist = ItemIndex.from_pretrained(of_catalog(directory, num_items) / "ivfpq").settings.nlist
    settings: dict[str, dict[str, int]] = {"flat": {}}
    settings |= {f"ivfpq_{nprobe}": {"nprobe": min(nprobe, nlist)} for nprobe in NPROBES}
    settings |= {f"hnsw_{ef_search}": {"ef_search": ef_search} for ef_search in EF_SEARCHES}
    found: dict[str, np.ndarray] = {}

    def read() -> None:
        for rows, _, some in scorer.users(prompts, batch_size=32):
            users[torch.from_numpy(rows)] = some

    def rank_all() -> None:
        for start in range(0, few, 8):  # as many as recommenders rank together by default
            some = slice(start, min(start + 8, few))
            scorer.best_of_users(users[some], histories[some], K, allowed[some])

    def rank_with(name: str, built: ItemIndex) -> None:
        ranker, parts = IndexRanker(scorer, built, K), []
        for start in range(0, num_users, 512):
            seen = histories[start : start + 512]
            parts.append(ranker.best(users[start : start + 512], seen, allowed[start : start + 512])[0])
        found[name] = np.concatenate(parts)

    def rank_by_titles(built: ItemIndex) -> None:
        rank_by_index(
            scorer, built, config, prompts[:_FEW_USERS], None, histories[:_FEW_USERS], unique_titles=True,
            num_candidates=NUM_CANDIDATES,
        )  # fmt: skip

    speeds: dict[str, float] = {}

    def measure(name: str, number: int, work: Callable[..., None], *args: Any) -> None:
        start = time.process_time()
        work(*args)
        speeds[name] = max(speeds.get(name, 0.0), number / (time.process_time() - start))

    for _ in range(_TURNS):  # other work on the machine slows down a turn of all, and not all turns of one
        measure("read", len(prompts), read)
        measure("item", few, rank_all)
        for name, of_search in settings.items():
            built = ItemIndex.from_pretrained(of_catalog(directory, num_items) / name.split("_")[0], **of_search)
            measure(f"item_{name}", num_users, rank_with, name, built)
        measure(
            "exact", _FEW_USERS, rank_by_titles, ItemIndex.from_pretrained(of_catalog(directory, num_items) / "ivfpq")
        )
    recalls = {f"recall_{name}": recall(found[name], found["flat"]) for name in settings if name != "flat"}
    return {**speeds, **recalls, **peak()}


def recall(found: np.ndarray, best: np.ndarray) -> float:
    """Returns which share of the best items was found; both of shape `(n, k)`."""
    return float(np.mean([np.isin(exact, some).mean() for some, exact in zip(found, best, strict=True)]))


def load_recommender(directory: Path, num_items: int) -> tuple[Any, int]:
    """Loads the model with a large catalog, whose titles were tokenized before. Returns how many of them it knows."""
    from patchrec_hf import Catalog, PatchRecommender
    from patchrec_hf.runtime.trie import TitleTrie

    small = PatchRecommender.from_pretrained(directory / "model")
    # `processor.with_catalog` would tokenize the titles again, which another stage measures.
    processor = copy.copy(small.processor)
    processor.catalog = Catalog.from_titles(dict(enumerate(make_titles(num_items, 0), 1)))
    processor.title_tokens = load_tokens(directory, num_items)
    with np.load(of_catalog(directory, num_items) / "trie.npz") as arrays:
        built = {name: arrays[name] for name in arrays.files}
    processor.__dict__["trie"] = TitleTrie(**{**built, "num_items": int(built["num_items"])})
    return PatchRecommender(small.model, processor), len(small.catalog)


def load_tokens(directory: Path, num_items: int) -> Any:
    """Loads the tokens of the titles."""
    from patchrec_hf.runtime.title_tokens import TitleTokens

    with np.load(of_catalog(directory, num_items) / "tokens.npz") as arrays:
        return TitleTokens(arrays["ids"], arrays["offsets"])


def of_catalog(directory: Path, num_items: int) -> Path:
    """Returns the directory of a catalog's files."""
    path = directory / str(num_items)
    path.mkdir(parents=True, exist_ok=True)
    return path


class measured(dict[str, float]):  # noqa: N801 (a context manager)
    """Measures a block: CPU seconds of all threads, seconds of the clock, and the largest memory until its end."""

    def __enter__(self) -> "measured":
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self["cpu_seconds"] = time.process_time() - self._start[0]
        self["seconds"] = time.perf_counter() - self._start[1]
        self.update(peak())


def peak() -> dict[str, float]:
    """Returns the largest memory of the process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "tokens", "trie", "vectors", "flat", "ivfpq", "hnsw", "rank"])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--steps", type=int, default=300, help="steps of training")
    parser.add_argument("--users", type=int, default=2000, help="users for whom the stage rank ranks")
    args = parser.parse_args()
    # Imported where it is needed, because `scale.py` reads the numbers above.
    import torch

    torch.set_num_threads(1)  # one thread, so that CPU seconds are the seconds of an idle machine
    if args.stage == "train":
        results = train(args.directory, args.items, args.steps)
    elif args.stage in ("flat", "ivfpq", "hnsw"):
        results = index(args.directory, args.items, args.stage)
    elif args.stage == "rank":
        results = rank(args.directory, args.items, args.users)
    else:
        results = {"tokens": tokens, "trie": trie, "vectors": vectors}[args.stage](args.directory, args.items)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
