"""
Times rankings of the whole catalog against transformers' `generate`, batch by batch in one run, with the same model
and the same users. The item head ranks too, if the model has one. "normalized" methods take a title token's
probability among the titles of the catalog, and the others among the vocabulary.

In a few minutes, with a tiny backbone that the script first fine-tunes on the embedded sample:

    python examples/benchmarks/ranking.py --quick --json ranking.json

With a checkpoint, for users with long histories:

    python examples/benchmarks/ranking.py --model outputs/goodreads/finetune/final --data_dir data/goodreads

Without `--model`, the script fine-tunes a tiny backbone as PatchRec-I for `--train_steps`, in `--output_dir`, on
titles and on items (`objective="both"`).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from references import Generate, K, brute_force

from patchrec_hf import (
    BOOK_PROMPT,
    CatalogRanker,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    RankingConfig,
    build_tiny_backbone,
    load_recommendation_data,
)
from patchrec_hf.data.rows import spaced_rows
from patchrec_hf.runtime.item_scorer import ItemScorer


UNEQUAL = (None, 10)  # numbers of candidates, in turn: the second user is much easier than the first
ONCE = ("all", "normalized all", "generate without cache")  # slow methods, which rank the first batch only


def main(args: argparse.Namespace) -> None:
    splits, catalog = load_recommendation_data(args.data_dir or "sample", max_history=args.max_history)
    checkpoint = args.model or train(args, splits["train"], catalog)
    processor = PatchRecProcessor.from_pretrained(checkpoint)
    model = PatchRecForCausalLM.from_pretrained(checkpoint).eval().to(args.device)
    longest = max(map(len, splits["test"]["item_ids"])) - 1
    histories = [row["item_ids"][:-1] for row in splits["test"] if len(row["item_ids"]) == longest + 1]
    histories = [histories[index] for index in spaced_rows(len(histories), args.num_users)]
    print(
        f"{len(histories)} users with {longest} items each, {len(catalog)} items to rank, batches of {args.batch_size}"
    )

    scorer = None if model.item_head is None else ItemScorer(model, processor)  # keeps the items' vectors

    def ranker(**settings):
        settings = {"normalizer": "vocabulary", **settings}

        def run(batch):
            prompts = [processor.encode(catalog.indices_of(history)) for history in batch]
            return CatalogRanker(model, processor, RankingConfig(k=K, batch_size=len(batch), **settings)).rank(prompts)

        return run

    def by_item_head(batch):
        prompts = [processor.encode(catalog.indices_of(history)) for history in batch]
        config = RankingConfig(k=K, batch_size=len(batch), method="item")
        return CatalogRanker(model, processor, config, scorer).rank(prompts)

    generate = Generate(model, processor, processor.trie.max_depth)
    methods = {
        "exact": ranker(method="exact"),
        "beam": ranker(method="beam", num_beams=K),
        "all": ranker(method="all"),
        "normalized exact": ranker(method="exact", normalizer="catalog"),
        "normalized all": ranker(method="all", normalizer="catalog"),
        **({} if model.item_head is None else {"item": by_item_head}),
        "generate": lambda batch: generate(batch, use_cache=True),
        "generate without cache": lambda batch: generate(batch, use_cache=False),
    }
    seconds = {name: [] for name in methods}
    outputs = {name: [] for name in methods}
    batches = [histories[start : start + args.batch_size] for start in range(0, len(histories), args.batch_size)]
    for method in methods.values():  # a first call, so that allocations and compilations are not timed
        method(batches[0][:1])
    for number, batch in enumerate(batches):
        for name, method in methods.items():
            if number == 0 or name not in ONCE:
                start = time.perf_counter()
                outputs[name].append(method(batch))
                seconds[name].append(time.perf_counter() - start)

    def ratio(name):
        """Returns how many times as fast as another method exact ranking is, on the same batches."""
        return sum(seconds[name]) / sum(seconds["exact"][: len(seconds[name])])

    items = np.concatenate([ranking.items for ranking in outputs["exact"]])
    top_titles = [{tuple(processor.title_tokens[item].tolist()) for item in row} for row in items]
    generated_titles = [titles for batch in outputs["generate"] for titles in batch[0]]
    num_missed = sum(map(len, map(set.difference, top_titles, generated_titles)))
    kv_length = sum(ranking.kv_length.sum() for ranking in outputs["exact"]) / len(histories)
    scores = np.concatenate([ranking.scores for ranking in outputs["exact"]])
    differences = []
    for history, top_items, top_scores in zip(histories[: args.num_brute_force], items, scores, strict=False):
        expected = brute_force(model, processor, history)
        differences += [np.sort(expected)[::-1][:K] - top_scores, expected[top_items] - top_scores]
    results = {
        "ratios": {
            "exact_vs_generate": ratio("generate"),
            "exact_vs_generate_uncached": ratio("generate without cache"),
            "exact_vs_all": ratio("all"),
            "exact_vs_beam": ratio("beam"),
            "normalised_all_vs_all": sum(seconds["all"]) / sum(seconds["normalized all"]),
            "normalized_exact_vs_exact": 1 / ratio("normalized exact"),
            **({} if scorer is None else {"item_vs_exact": 1 / ratio("item")}),
        },
        "exact_equals_brute_force": bool(np.abs(differences).max() < 1e-3),
        "exact_equals_all": bool(np.allclose(outputs["all"][0].scores, scores[: len(batches[0])], atol=1e-3)),
        "normalized_exact_equals_all": bool(
            np.allclose(outputs["normalized all"][0].scores, outputs["normalized exact"][0].scores, atol=1e-3)
        ),
        "normalized_scores_sum_to_1": bool(
            np.allclose(sums_of_probabilities(model, processor, batches[0]), 1, atol=1e-5)
        ),
        "trie_share_read": {
            name: float(outputs[name][0].tokens_read.mean() / processor.trie.num_nodes)
            for name in ("all", "normalized all", "exact", "normalized exact")
        },
        "beam_missed_share": num_missed / sum(map(len, top_titles)),
        "kv_ratio": kv_length / (sum(batch[1] for batch in outputs["generate"]) / len(histories)),
        "exact_share": float(np.mean([ranking.is_exact.mean() for ranking in outputs["exact"]])),
        "tokens_read": {
            name: float(np.concatenate([ranking.tokens_read for ranking in outputs[name]]).mean())
            for name in ("exact", "beam", "all", "normalized exact", "normalized all")
        },
        "unequal_users": unequal_users(model, processor, batches[0]),
        "measured_on": {"users": len(histories), "history": longest, "items": len(catalog)},
    }
    print("| method | users per second | speed of exact relative to it |\n|---|---|---|")
    for name in methods:
        num_users = sum(map(len, batches[: len(seconds[name])]))
        print(f"| {name} | {num_users / sum(seconds[name]):.2f} | {ratio(name):.1f} |")
    print(json.dumps(results, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


def sums_of_probabilities(model, processor, histories):
    """Sums the normalized probabilities of all items, for each history."""
    prompts = [processor.encode(processor.catalog.indices_of(history)) for history in histories]
    config = RankingConfig(k=1, batch_size=len(prompts), normalizer="catalog")
    return np.exp(CatalogRanker(model, processor, config).score(prompts).astype(np.float64)).sum(axis=1)


def unequal_users(model, processor, histories):
    """Ranks users, half of whom have few candidates, in one batch and one by one, in turn."""
    prompts = [processor.encode(processor.catalog.indices_of(history)) for history in histories]
    candidates = [np.arange(len(processor.catalog))[: UNEQUAL[row % 2]] for row in range(len(prompts))]
    seconds, positions = {1: 0.0, len(prompts): 0.0}, {1: 0, len(prompts): 0}
    for _ in range(3):
        for batch_size in seconds:
            sizes = []
            hook = model.model.register_forward_pre_hook(
                lambda module, inputs, kwargs, sizes=sizes: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
            )
            start = time.perf_counter()
            CatalogRanker(model, processor, RankingConfig(k=10, batch_size=batch_size)).rank(prompts, candidates)
            seconds[batch_size] += time.perf_counter() - start
            hook.remove()
            positions[batch_size] = sum(sizes)
    return {
        "batch_vs_one_by_one_seconds": seconds[len(prompts)] / seconds[1],
        "batch_vs_one_by_one_positions": positions[len(prompts)] / positions[1],
    }


def train(args, dataset, catalog):
    backbone = f"{args.output_dir}/backbone"
    for part in build_tiny_backbone(catalog, vocab_size=8000, hidden_size=128, num_layers=3):
        part.save_pretrained(backbone)
    processor = PatchRecProcessor.from_backbone(backbone, catalog, BOOK_PROMPT, max_history=args.max_history)
    config = PatchFinetuneConfig(
        args.output_dir,
        max_steps=args.train_steps,
        objective="both",
        learning_rate=3e-3,
        max_grad_norm=1.0,
        per_device_train_batch_size=8,
        save_strategy="no",
        logging_steps=200,
        report_to="none",
    )
    trainer = PatchFinetuneTrainer(backbone, config, train_dataset=dataset.shuffle(seed=0), processing_class=processor)
    trainer.train()
    trainer.save_model(f"{args.output_dir}/final")
    return f"{args.output_dir}/final"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint of this library; by default a tiny one is trained")
    parser.add_argument("--data_dir", help="a prepared data set; by default the embedded sample")
    parser.add_argument("--quick", action="store_true", help="few users and training steps")
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--num_users", type=int, default=32)
    parser.add_argument("--num_brute_force", type=int, default=2, help="users for whom every title is read in turn")
    parser.add_argument("--batch_size", type=int, default=8, help="histories per forward")
    parser.add_argument("--max_history", type=int, default=100)
    parser.add_argument("--train_steps", type=int, default=9000)
    parser.add_argument("--output_dir", default="outputs/benchmark")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.num_users, arguments.train_steps = 8, 100
    main(arguments)
