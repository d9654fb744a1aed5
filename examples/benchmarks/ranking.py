"""
Times rankings of the whole catalog against transformers' `generate`: same model, same users, one run, batch by batch.

In a few minutes, with a tiny backbone that is fine-tuned on the embedded sample first:

    python examples/benchmarks/ranking.py --quick --json ranking.json

With a checkpoint, for users with long histories:

    python examples/benchmarks/ranking.py --model outputs/goodreads/finetune/final --data_dir data/goodreads

Without `--model`, a tiny backbone is fine-tuned with item patches (PFT-I) for `--train_steps`, in `--output_dir`.
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


ONCE = ("all", "generate without cache")  # slow: the first batch only


def main(args: argparse.Namespace) -> None:
    examples, catalog = load_recommendation_data(args.data_dir or "sample", max_history=args.max_history)
    checkpoint = args.model or train(args, examples["train"], catalog)
    processor = PatchRecProcessor.from_pretrained(checkpoint)
    model = PatchRecForCausalLM.from_pretrained(checkpoint).eval().to(args.device)
    most = max(map(len, examples["test"]["item_ids"])) - 1
    histories = [row["item_ids"][:-1] for row in examples["test"] if len(row["item_ids"]) == most + 1]
    places = np.linspace(0, len(histories) - 1, min(args.num_users, len(histories)), dtype=int)
    histories = [histories[place] for place in places]
    print(f"{len(histories)} users with {most} items each, {len(catalog)} items to rank, batches of {args.batch_size}")

    def ranker(**settings):
        def run(batch):
            prompts = [processor.encode(catalog.indices_of(history)) for history in batch]
            return CatalogRanker(model, processor, RankingConfig(k=K, batch_size=len(batch), **settings)).rank(prompts)

        return run

    generate = Generate(model, processor, processor.trie.max_depth)
    methods = {
        "exact": ranker(method="exact"),
        "beam": ranker(method="beam", num_beams=K),
        "all": ranker(method="all"),
        "generate": lambda batch: generate(batch, use_cache=True),
        "generate without cache": lambda batch: generate(batch, use_cache=False),
    }
    seconds = {name: [] for name in methods}
    found = {name: [] for name in methods}
    batches = [histories[start : start + args.batch_size] for start in range(0, len(histories), args.batch_size)]
    for method in methods.values():  # what is allocated or compiled on first use is not timed
        method(batches[0][:1])
    for number, batch in enumerate(batches):
        for name, method in methods.items():
            if number == 0 or name not in ONCE:
                start = time.perf_counter()
                found[name].append(method(batch))
                seconds[name].append(time.perf_counter() - start)

    def ratio(name):
        """Users per second of exact, over those of another method on the same batches."""
        return sum(seconds[name]) / sum(seconds["exact"][: len(seconds[name])])

    items = np.concatenate([ranking.items for ranking in found["exact"]])
    wanted = [{tuple(processor.title_tokens[item].tolist()) for item in row} for row in items]
    generated = [titles for batch in found["generate"] for titles in batch[0]]
    columns = sum(ranking.kv_length.sum() for ranking in found["exact"]) / len(histories)
    scores = np.concatenate([ranking.scores for ranking in found["exact"]])
    differences = []
    for history, own_items, own_scores in zip(histories[: args.num_brute_force], items, scores, strict=False):
        expected = brute_force(model, processor, history)
        differences += [np.sort(expected)[::-1][:K] - own_scores, expected[own_items] - own_scores]
    results = {
        "ratios": {
            "exact_vs_generate": ratio("generate"),
            "exact_vs_generate_uncached": ratio("generate without cache"),
            "exact_vs_all": ratio("all"),
            "exact_vs_beam": ratio("beam"),
        },
        "exact_equals_brute_force": bool(np.abs(differences).max() < 1e-3),
        "exact_equals_all": bool(np.allclose(found["all"][0].scores, scores[: len(batches[0])], atol=1e-3)),
        "beam_missed_share": sum(map(len, map(set.difference, wanted, generated))) / sum(map(len, wanted)),
        "kv_ratio": columns / (sum(batch[1] for batch in found["generate"]) / len(histories)),
        "exact_share": float(np.mean([ranking.is_exact.mean() for ranking in found["exact"]])),
        "tokens_read": {
            name: float(np.concatenate([ranking.tokens_read for ranking in found[name]]).mean())
            for name in ("exact", "beam", "all")
        },
        "measured_on": {"users": len(histories), "history": most, "items": len(catalog)},
    }
    print("| method | users per second | exact is so many times as fast |\n|---|---|---|")
    for name in methods:
        num_users = sum(map(len, batches[: len(seconds[name])]))
        print(f"| {name} | {num_users / sum(seconds[name]):.2f} | {ratio(name):.1f} |")
    print(json.dumps(results, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


def train(args, dataset, catalog):
    backbone = f"{args.output_dir}/backbone"
    for part in build_tiny_backbone(catalog, vocab_size=8000, hidden_size=128, num_layers=3):
        part.save_pretrained(backbone)
    processor = PatchRecProcessor.from_backbone(backbone, catalog, BOOK_PROMPT, max_history=args.max_history)
    config = PatchFinetuneConfig(
        args.output_dir, max_steps=args.train_steps, learning_rate=3e-3, max_grad_norm=1.0,
        per_device_train_batch_size=8, save_strategy="no", logging_steps=200, report_to="none",
    )  # fmt: skip
    trainer = PatchFinetuneTrainer(backbone, config, dataset.shuffle(seed=0), processor)
    trainer.train()
    trainer.save_model(f"{args.output_dir}/final")
    return f"{args.output_dir}/final"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint of this library")
    parser.add_argument("--data_dir", help="a prepared data set; else the embedded sample")
    parser.add_argument("--quick", action="store_true", help="few users and training steps")
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--num_users", type=int, default=32)
    parser.add_argument("--num_brute_force", type=int, default=2, help="users checked against every title in turn")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_history", type=int, default=100)
    parser.add_argument("--train_steps", type=int, default=9000)
    parser.add_argument("--output_dir", default="outputs/benchmark")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.num_users, arguments.train_steps = 8, 100
    main(arguments)
