"""Evaluations that every process of a launcher takes part in; `evaluation/test_parts.py` starts and checks them."""

import sys
from pathlib import Path

import polars as pl
from accelerate import PartialState
from conftest import ITEM_IDS, TITLES
from datasets import Dataset

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
    evaluate_model,
)
from patchrec_hf.evaluation import models
from patchrec_hf.runtime import tree_reader
from patchrec_hf.runtime.ranking import CatalogRanker


RUNS = {
    "exact": {"k": 3},
    "budget": {"k": 3, "max_title_tokens": 4},
    "beam": {"k": 3, "method": "beam"},
    "all": {"k": None, "method": "all"},
}
CATALOG = Catalog.from_titles(TITLES)


def build_model():
    return PatchRecForCausalLM.from_backbone(*_build_backbone()).eval()


def _build_backbone():
    return build_tiny_backbone(CATALOG, vocab_size=400, hidden_size=32)


def evaluate(model=None, **kwargs):
    """Thirty-three rows with histories of 3 to 9 items, one by one."""
    processor = PatchRecProcessor(_build_backbone()[1], CATALOG, BOOK_PROMPT, layout=ItemPatchLayout(2))
    rows = []
    for user in range(33):
        items = [ITEM_IDS[(user + 5 * place) % 12] for place in range(4 + user % 7)]
        rows.append({"user_id": user, "item_ids": items, "target_positions": [len(items) - 1]})
    rows = Dataset.from_list(rows)
    return evaluate_model(model or build_model(), processor, rows, batch_size=1, show_progress=False, **kwargs)


class Counter:
    """Counts the forwards of the model and of its head, and the prompts of each call of `CatalogRanker.rank`."""

    def __init__(self, model):
        self.counts = {"model": 0, "lm_head": 0, "rows_of_calls": []}
        self.fail_after = None
        model.model.register_forward_hook(lambda *_: self._count("model"))
        model.lm_head.register_forward_hook(lambda *_: self._count("lm_head"))
        self._rank_catalog = CatalogRanker.rank
        CatalogRanker.rank = lambda *args, **kwargs: self._rank(*args, **kwargs)

    def _count(self, name):
        self.counts[name] += 1

    def _rank(self, ranker, prompts, *args, **kwargs):
        if len(self.counts["rows_of_calls"]) == self.fail_after:
            raise KeyboardInterrupt
        self.counts["rows_of_calls"].append(len(prompts))
        return self._rank_catalog(ranker, prompts, *args, **kwargs)

    def take(self):
        taken, self.counts = self.counts, {"model": 0, "lm_head": 0, "rows_of_calls": []}
        return taken


def main(directory):
    state = PartialState(cpu=True)  # without it, processes on the CPU do not join
    assert state.num_processes == 2
    model = build_model()
    # Heads that take four rows at once are called as often as the process with the most rows needs.
    tree_reader._MAX_LOGITS = 4 * model.config.decoder_config.vocab_size
    models.is_sharded = lambda _: True  # so that the processes read together, as sharded weights need
    counter = Counter(model)
    for name, kwargs in RUNS.items():
        whole = evaluate(model, **kwargs)
        counts = [counter.take()]
        counter.fail_after = 1
        try:
            evaluate(model, resume_dir=directory / name, **kwargs)
        except KeyboardInterrupt:
            counter.fail_after = None
            counter.take()
        resumed = evaluate(model, resume_dir=directory / name, **kwargs)
        counts.append(counter.take())
        for kind, frame in (("", whole.targets), ("-resumed", resumed.targets), ("-counts", pl.DataFrame(counts))):
            frame.write_parquet(directory / f"{name}{kind}-{state.process_index}.parquet")
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
