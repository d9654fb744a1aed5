"""
Trains the all-patch recipe, and compares it with two baselines, with the paper's PatchRec in both stages, and with the
same backbone on plain text.

Without arguments, on the embedded sample (synthetic readers of real books) with a tiny backbone, in some minutes on a
CPU:
    python examples/train_goodreads.py

On a directory with interactions.parquet and items.parquet, with a pretrained backbone:
    python examples/train_goodreads.py --data_dir data/goodreads --output_dir outputs/goodreads_llama \
        --model_name_or_path meta-llama/Llama-3.2-1B-Instruct --per_device_train_batch_size 4 \
        --gradient_accumulation_steps 8 --activation_checkpointing

The prompt is the paper's prompt for books. For other items, change `BOOK_PROMPT` below. For several processes, see
docs/distributed.md. An interrupted run resumes where it stopped. A finished run is never overwritten.
"""

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import TrlParser

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    EvaluationReport,
    ItemPatchLayout,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecommender,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
    build_tiny_backbone,
    evaluate_model,
    evaluate_scorer,
    fit_fusion,
    load_recommendation_data,
)
from patchrec_hf.baselines import CoVisitation, Popularity
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.data.sample import SAMPLE_NOTICE
from patchrec_hf.hub.model_card import write_results
from patchrec_hf.runs import claim_run, finish_run
from patchrec_hf.runtime.progress import no_bars_in_files
from patchrec_hf.training.patch_trainer import PatchTrainer
from patchrec_hf.training.recipes import train_stage


LAYOUTS = {"item": ItemPatchLayout(), "session": SessionPatchLayout(), "text": TextLayout()}


@dataclass
class ScriptArguments:
    """Arguments of this script, in addition to the training arguments."""

    data_dir: str | None = field(default=None, metadata={"help": "A prepared data set. Default: the embedded sample."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Any backbone. Default: a tiny, new one."})
    layout: str = field(default="item", metadata={"help": "Layout of fine-tuning.", "choices": list(LAYOUTS)})
    max_history: int | None = field(default=None, metadata={"help": "Items per history. Default: 100; sample: 20."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Training rows. Default: all; sample: 8000."})
    targets_per_row: int = field(default=1, metadata={"help": "Targets per training row. Batch sizes count rows."})
    max_test_rows: int = field(default=600, metadata={"help": "Test rows to rank, evenly spaced."})


def main(script: ScriptArguments, args: PatchPretrainConfig) -> None:
    state, output_dir, is_sample = PartialState(), Path(args.output_dir), script.data_dir is None
    if state.num_processes == 1:  # without a GPU, `accelerate launch` sets one thread per process
        torch.set_num_threads(os.cpu_count())
    if args.learning_rate is None:  # a tiny, new backbone needs a rate that would ruin a pretrained one
        args.learning_rate = 1e-2 if script.model_name_or_path is None else 5e-5
    if script.model_name_or_path is None:  # one forward of a tiny backbone holds all rows of a step
        args.per_device_train_batch_size *= args.gradient_accumulation_steps
        args.gradient_accumulation_steps = 1
    names = "seed learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps"
    names += " title_normalizer title_temperature score_normalizer"
    try:
        settings = asdict(script) | {name: getattr(args, name) for name in names.split()}
        claim_run(output_dir, settings, scratch=["backbone"])
    except FileExistsError as error:
        raise SystemExit(str(error)) from None
    state.print(SAMPLE_NOTICE if is_sample else f"Data: {script.data_dir}")

    data, max_history = script.data_dir or "sample", script.max_history or (20 if is_sample else 100)
    splits, catalog = load_recommendation_data(data, max_history, targets_per_row=script.targets_per_row)
    train = splits["train"].shuffle(seed=args.seed)
    train = train.take(min(script.max_train_rows or (8000 if is_sample else len(train)), len(train)))
    test = select_spaced(splits["test"], script.max_test_rows)

    # One row holds many targets of a user, which the all-patch recipe predicts from one sequence.
    preset, size = ALL_PATCH_PRESET, min(max_history, ALL_PATCH_PRESET.rows["targets_per_row"])
    item_splits, _ = load_recommendation_data(data, max_history, targets_per_row=size)

    backbone = script.model_name_or_path or str(output_dir / "backbone")
    if script.model_name_or_path is None and state.is_main_process:
        for part in build_tiny_backbone(catalog, seed=args.seed):
            part.save_pretrained(backbone)
    state.wait_for_everyone()
    processor = PatchRecProcessor.from_backbone(backbone, catalog, BOOK_PROMPT, LAYOUTS[script.layout], max_history)

    item_processor = PatchRecProcessor.from_backbone(
        backbone, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, max_history=max_history, **preset.processor
    )
    # It learns no titles, so it takes no settings of them.
    item_settings = {
        **preset.training, "title_normalizer": "vocabulary", "title_temperature": 1.0, "score_normalizer": None
    }  # fmt: skip
    if script.model_name_or_path is not None:  # the preset's rate suits a new backbone
        item_settings["learning_rate"] = args.learning_rate

    def train_from(
        model: str, name: str, trainer_class: type, processor: PatchRecProcessor, rows: Dataset, **settings: Any
    ) -> str:
        """Trains `model`, unless a finished result exists, and returns the result's directory."""

        def make_trainer() -> PatchTrainer:
            state.print(f"\n== {name} ==")
            # Made anew, so that DeepSpeed takes its "auto" values from this stage.
            stage_args = replace(args, output_dir=str(output_dir / name), **settings)
            return trainer_class(model, stage_args, train_dataset=rows, processing_class=processor)

        return str(train_stage(make_trainer, output_dir / name))

    vanilla = train_from(backbone, "vanilla", PatchFinetuneTrainer, processor.with_layout(TextLayout()), train)
    pretrained = train_from(backbone, "pretrain", PatchPretrainTrainer, processor, train)
    finetuned = train_from(pretrained, "finetune", PatchFinetuneTrainer, processor, train)
    items = train_from(backbone, "items", PatchFinetuneTrainer, item_processor, item_splits["train"], **item_settings)

    unset_hf_deepspeed_config()  # so that under ZeRO-3, each process loads whole models from here on
    co_visitation = CoVisitation(catalog).fit(splits["train"], splits["validation"], show_progress=False)
    reports = {
        "popularity": evaluate_scorer(Popularity(catalog).fit(splits["train"]), catalog, test, show_progress=False),
        "co-visitation": evaluate_scorer(co_visitation, catalog, test, show_progress=False),
    }
    batch_size = args.per_device_eval_batch_size
    for name, checkpoint in (("vanilla", vanilla), ("PatchRec-I", finetuned), ("all-patch", items)):
        recommender = PatchRecommender.from_pretrained(checkpoint)
        model, loaded = recommender.model.to(state.device), recommender.processor.with_fusion(None)
        reports[name] = evaluate_model(model, loaded, test, batch_size=batch_size)
    # The fusion joins co-visits and other parts to the item head. The checkpoint holds it from here on.
    fused = fit_fusion(model, loaded, splits["train"], splits["validation"], co_visitation=co_visitation)
    reports["all-patch + fusion"] = evaluate_model(model, fused, test, batch_size=batch_size)
    if state.is_main_process:
        fused.save_pretrained(items)
        for checkpoint, name in ((vanilla, "vanilla"), (finetuned, "PatchRec-I"), (items, "all-patch + fusion")):
            write_results(checkpoint, reports[name], Path(data).name)
    state.wait_for_everyone()
    recommender = PatchRecommender.from_pretrained(items)
    results = [summarize(name, report) for name, report in reports.items()]
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        float_precision=3,
        tbl_hide_dataframe_shape=True,
        tbl_cols=-1,
        tbl_width_chars=200,
    ):
        state.print(f"\n{len(test)} test rows, {len(catalog)} items to rank:\n{pl.DataFrame(results)}")
    paired = reports["all-patch + fusion"].compare(reports["co-visitation"])
    hr = paired.row(by_predicate=pl.col("metric") == "hr@20", named=True)
    state.print(
        f"All-patch + fusion minus co-visitation, hr@20: {hr['difference']:+.3f}, 95% interval {hr['low']:+.3f} to "
        f"{hr['high']:+.3f}."
    )
    state.print("PatchRec-I learned from each row three times (as text, compressed, and in its layout), vanilla once.")

    *history, target = test[len(test) // 2]["item_ids"]
    titles = [catalog.titles[index] for index in catalog.indices_of([*history[-5:], target])]
    state.print("\nA reader's latest books:", *titles[:-1], "\nThe next book:", titles[-1], sep="\n  ")
    state.print("\nRecommended:")
    for item in recommender.recommend(history, k=3):
        state.print(f"  {item.title}")
    finish_run(output_dir, results)


def summarize(name: str, report: EvaluationReport) -> dict:
    metrics, tokens = report.metrics(), report.targets["history_tokens"].mean()
    hr = report.intervals().row(by_predicate=(pl.col("slice") == "all") & (pl.col("metric") == "hr@20"), named=True)
    return {
        "method": name,
        **{metric: metrics[metric] for metric in ("hr@10", "ndcg@10", "hr@20", "ndcg@20")},
        "hr@20, 95% interval": f"{hr['low']:.3f}–{hr['high']:.3f}",
        "history tokens": "–" if tokens is None else f"{tokens:.0f}",
    }


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, PatchPretrainConfig))
    parser.set_defaults(
        learning_rate=None,
        output_dir="outputs/goodreads",
        per_device_eval_batch_size=16,
        logging_steps=25,
        save_steps=0.25,
        save_total_limit=1,
        report_to="none",
    )
    with no_bars_in_files():
        main(*parser.parse_args_and_config())
