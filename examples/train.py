"""
Trains a recommender on any log of interactions: your own table, a public data set by its name, or prepared data.

A shop's log, whose titles are in another file, with a pretrained backbone and an adapter:
    accelerate launch --config_file examples/accelerate/one_process.yaml examples/train.py \
        --data clicks.csv --items products.csv \
        --columns user_id=customer item_id=sku title=name --min_user_interactions 5 \
        --where event=buy,rent is_bot=false \
        --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft --output_dir outputs/shop

The same with a tiny, new backbone, in some minutes on a CPU, to see that all is in place: leave out
`--model_name_or_path` and `--use_peft`. The paper's two stages, with a prompt of your own:
    accelerate launch --config_file examples/accelerate/one_process.yaml examples/train.py \
        --data ml-1m --preset paper --layout session \
        --prompt "A user has watched {history}. Please recommend one movie to watch next, by its title only."

All training arguments of the trainers apply (`--num_train_epochs`, `--learning_rate`, `--bf16`), and so do the
settings of LoRA (`--lora_r`). `--config run.yaml` reads arguments from a file. An interrupted run resumes where it
stopped. A finished run is never overwritten. `output_dir/final` holds the checkpoint, with a picture of the logged
curves if matplotlib is installed.
"""

import math
import os
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate import PartialState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from patchrec_hf import (
    BudgetLayout,
    ItemPatchLayout,
    PatchPretrainConfig,
    PatchRecommender,
    PatchRecProcessor,
    PyramidLayout,
    SessionPatchLayout,
    TextLayout,
    TimeWindowLayout,
    build_tiny_backbone,
    evaluate_model,
    evaluate_scorer,
    fit_fusion,
)
from patchrec_hf.baselines import CoVisitation
from patchrec_hf.data.data_arguments import DataArguments
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.data.sample import SAMPLE_NOTICE
from patchrec_hf.runs import claim_run, finish_run
from patchrec_hf.runtime.ranking import default_method
from patchrec_hf.training.recipes import RECIPES, train_recipe


LAYOUTS = {
    "item": ItemPatchLayout(),
    "session": SessionPatchLayout(),
    "text": TextLayout(),
    "day": TimeWindowLayout(max_gap=24 * 3600),
    "pyramid": PyramidLayout(),
    "budget": BudgetLayout(max_tokens=200, min_tokens=25),
}
METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")


@dataclass
class TrainArguments:
    """Arguments of this script, in addition to the arguments of the data, the backbone and the training."""

    preset: str = field(default="all-patch", metadata={"help": "The recipe.", "choices": list(RECIPES)})
    prompt: str | None = field(
        default=None, metadata={"help": "items, books, movies, or an instruction that holds {history}."}
    )
    system: str | None = field(default=None, metadata={"help": "The system turn, for an instruction of your own."})
    layout: str | None = field(
        default=None, metadata={"help": "Which items become patches. Default: the recipe's.", "choices": list(LAYOUTS)}
    )
    max_history: int | None = field(default=None, metadata={"help": "Items per history. Default: 100; sample: 20."})
    targets_per_row: int | None = field(default=None, metadata={"help": "Targets per row. Default: the recipe's."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Training rows to use. Default: all."})
    max_eval_rows: int = field(default=500, metadata={"help": "Validation rows to evaluate, evenly spaced."})
    max_test_rows: int = field(default=500, metadata={"help": "Test rows to rank, evenly spaced."})
    fusion: bool = field(
        default=True,
        metadata={"help": "Whether co-visits and other parts join the model after training, if the recipe says so."},
    )
    prior: bool = field(default=True, metadata={"help": "Former name of --fusion."})

    def __post_init__(self) -> None:
        for name in ("max_history", "targets_per_row", "max_train_rows", "max_eval_rows", "max_test_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")


def main(script: TrainArguments, data: DataArguments, backbone: ModelConfig, args: PatchPretrainConfig) -> None:
    for name, value in {**vars(backbone), **vars(args)}.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name} must be a finite number, got {value}.")
    recipe, output_dir, state = RECIPES[script.preset], Path(args.output_dir), PartialState()
    if state.num_processes == 1:  # without a GPU, `accelerate launch` sets one thread per process
        torch.set_num_threads(os.cpu_count())
    is_sample = data.data == "sample"
    prompt = recipe.prompt(script.prompt or ("books" if is_sample else "items"), script.system)
    rows = {**recipe.rows, **({"max_history": 20} if is_sample else {})}
    given = {"max_history": script.max_history, "targets_per_row": script.targets_per_row}
    rows |= {name: value for name, value in given.items() if value is not None}
    rows["targets_per_row"] = min(rows["targets_per_row"], rows["max_history"])
    splits, catalog = data.load(**rows)
    train, validation = splits["train"], select_spaced(splits["validation"], script.max_eval_rows)
    train = train.shuffle(seed=args.seed).take(min(script.max_train_rows or len(train), len(train)))
    names = "seed learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps"
    names += " title_normalizer title_temperature score_normalizer"
    settings = {name: getattr(args, name) for name in names.split()}
    # The directory is claimed last, so that a mistake in the arguments leaves no files behind.
    claim_run(output_dir, {**asdict(script), **asdict(data), **asdict(backbone), **settings}, scratch=["backbone"])
    state.print(SAMPLE_NOTICE if is_sample else f"Data: {data.data}")
    state.print(f"{len(catalog)} items; rows: {', '.join(f'{len(part)} {name}' for name, part in splits.items())}.")

    start = backbone.model_name_or_path or str(output_dir / "backbone")
    if backbone.model_name_or_path is None and state.is_main_process:
        for part in build_tiny_backbone(catalog, seed=args.seed):
            part.save_pretrained(start)
    state.wait_for_everyone()
    changes = {} if script.layout is None else {"layout": LAYOUTS[script.layout]}
    processor = PatchRecProcessor.from_backbone(
        start, catalog, prompt, max_history=rows["max_history"], **{**recipe.processor, **changes},
        revision=backbone.model_revision, trust_remote_code=args.trust_remote_code,
    )  # fmt: skip
    args.model_init_kwargs = {**model_settings(backbone), **(args.model_init_kwargs or {})}
    final = train_recipe(recipe, start, args, train, processor, validation, get_peft_config(backbone))

    unset_hf_deepspeed_config()  # so that under ZeRO-3, each process loads whole models from here on
    recommender = PatchRecommender.from_pretrained(final)
    model, processor = recommender.model.to(state.device), recommender.processor
    co_visitation = CoVisitation(catalog).fit(train, splits["validation"], show_progress=False)
    if recipe.fits_fusion and script.fusion and script.prior:
        processor = fit_fusion(model, processor, train, splits["validation"], co_visitation=co_visitation)
        if state.is_main_process:
            processor.save_pretrained(final)
    test = select_spaced(splits["test"], script.max_test_rows)
    bound = args.eval_max_title_tokens if default_method(model, processor) == "exact" else None
    reports = {
        "co-visitation": evaluate_scorer(co_visitation, catalog, test, show_progress=False),
        script.preset: evaluate_model(
            model, processor, test, max_title_tokens=bound, batch_size=args.per_device_eval_batch_size
        ),
    }
    results = [{"method": name, **{metric: report.metrics()[metric] for metric in METRICS}}
               for name, report in reports.items()]  # fmt: skip
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN", tbl_hide_column_data_types=True, float_precision=3,
        tbl_hide_dataframe_shape=True, tbl_cols=-1, tbl_width_chars=200,
    ):  # fmt: skip
        state.print(f"\n{len(test)} test rows, {len(catalog)} items to rank:\n{pl.DataFrame(results)}")
    *history, _ = test[0]["item_ids"]
    latest = zip(history[-5:], catalog.indices_of(history[-5:]), strict=True)
    state.print(
        "\nLatest items of a user:", *(f"{item_id}: {catalog.titles[index]}" for item_id, index in latest), sep="\n  "
    )
    times = test[0]["timestamps"][:-1] if processor.reads_timestamps() else None
    recommended = PatchRecommender(model, processor).recommend(history, k=3, timestamps=times)
    state.print("\nRecommended:", *(f"{item.item_id}: {item.title}" for item in recommended), sep="\n  ")
    state.print(f'\nThe checkpoint: {final}\nUse it: PatchRecommender.from_pretrained("{final}").recommend([...])')
    finish_run(output_dir, results)


def model_settings(backbone: ModelConfig) -> dict[str, Any]:
    """Returns how the backbone is loaded."""
    settings = {
        "dtype": backbone.dtype,
        "attn_implementation": backbone.attn_implementation,
        "revision": backbone.model_revision,
        "quantization_config": get_quantization_config(backbone),
    }
    return {name: value for name, value in settings.items() if value is not None}


def parse(arguments: list[str] | None = None) -> tuple:
    """Parses the arguments. The recipe's settings are the defaults of the training arguments."""
    kinds = (TrainArguments, DataArguments, ModelConfig, PatchPretrainConfig)
    parser = TrlParser(kinds, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.set_defaults(
        output_dir="outputs/train",
        logging_steps=25,
        save_steps=0.25,
        save_total_limit=1,
        report_to="none",
    )
    script, _, backbone, _ = parser.parse_args_and_config(arguments)
    defaults = dict(RECIPES[script.preset].training)
    if backbone.model_name_or_path is not None:  # the recipe's rate suits a new backbone
        defaults.pop("learning_rate", None)
    if defaults.get("objective") == "item":  # ranking by the item head takes seconds
        defaults["eval_strategy"] = "epoch"
    parser.set_defaults(**defaults)
    return parser.parse_args_and_config(arguments)


if __name__ == "__main__":
    try:
        main(*parse())
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error  # a KeyError shows its message in quotes
        raise SystemExit(f"{type(error).__name__}: {message}") from None
