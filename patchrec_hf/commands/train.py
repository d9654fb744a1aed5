"""
Train a recommender on any log, by a recipe: the paper's two stages, or the item head.

A recipe is a YAML file of options, which the command line overrides:
    patchrec train --config examples/recipes/all_patch.yaml --data clicks.csv --items products.csv

An interrupted run resumes where it stopped. A finished run is never overwritten. OUTPUT_DIR/final is the checkpoint.
"""

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate import PartialState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig, get_peft_config

from ..baselines import CoVisitation
from ..data.data_arguments import DataArguments
from ..data.rows import select_spaced
from ..data.sample import SAMPLE_NOTICE
from ..evaluation.models import evaluate_model
from ..evaluation.scorers import evaluate_scorer
from ..runs import claim_run, finish_run
from ..runtime.processing import PatchRecProcessor
from ..runtime.ranking import default_method
from ..runtime.recommender import PatchRecommender
from ..tiny import build_tiny_backbone
from ..training.arguments import PatchPretrainConfig
from ..training.fusion_fit import fit_fusion
from ..training.recipes import RECIPES, train_recipe
from .errors import errors_in_one_line
from .train_arguments import LAYOUTS, METRICS, TrainArguments, make_parser, model_settings, parse_arguments
from .train_update import update


__all__ = ["main", "parse", "train"]

_NOTES = """
A shop's log, whose titles are in another file, with a pretrained backbone and an adapter:
    accelerate launch --config_file examples/accelerate/one_process.yaml -m patchrec_hf train \\
        --data clicks.csv --items products.csv \\
        --columns user_id=customer item_id=sku title=name --min_user_interactions 5 \\
        --where event=buy,rent is_bot=false \\
        --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft --output_dir outputs/shop

The same with a tiny, new backbone, in some minutes on a CPU, to see that all is in place: leave out
`--model_name_or_path` and `--use_peft`. The paper's two stages, with a prompt of your own:
    patchrec train --data ml-1m --preset paper --layout session \\
        --prompt "A user has watched {history}. Please recommend one movie to watch next, by its title only."

Every week, on the whole log again, with new interactions and new items (docs/every_week.md):
    patchrec train --from outputs/shop/final --data clicks.csv --items products.csv \\
        --columns user_id=customer item_id=sku title=name --output_dir outputs/shop_week_2

`output_dir/final` also holds a picture of the logged curves if matplotlib is installed.
"""


def main(arguments: list[str]) -> None:
    """Runs `patchrec train` with the arguments after the command's name."""
    with errors_in_one_line():
        train(*parse(arguments))


def parse(
    arguments: list[str] | None = None,
) -> tuple[TrainArguments, DataArguments, ModelConfig, PatchPretrainConfig]:
    """Parses the arguments (see [`parse_arguments`]); the arguments of the process if not given."""
    return parse_arguments(make_parser(str(__doc__), _NOTES), sys.argv[1:] if arguments is None else arguments)


def train(script: TrainArguments, data: DataArguments, backbone: ModelConfig, args: PatchPretrainConfig) -> None:
    """
    Trains a recommender, joins a fusion if the recipe says so, and ranks test rows next to co-visitation.

    Args:
        script ([`TrainArguments`]):
            The recipe, and how many rows are used.
        data ([`DataArguments`]):
            The data set.
        backbone ([`~trl.ModelConfig`]):
            The backbone and its adapter. Without a name, a tiny backbone is built from the catalog.
        args ([`PatchPretrainConfig`]):
            Arguments of all stages. `output_dir/final` holds the checkpoint.

    Raises:
        ValueError: If an argument is wrong. Nothing is written then.
        FileExistsError: If `output_dir` holds a finished run, or a run with other settings.
        OSError, KeyError, TypeError: As loading the data and training do.
    """
    for name, value in {**vars(backbone), **vars(args)}.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name} must be a finite number, got {value}.")
    if script.start_from is not None:
        update(script, data, backbone, args)
        return
    recipe, output_dir, state = RECIPES[script.preset], Path(str(args.output_dir)), PartialState()
    if state.num_processes == 1:  # without a GPU, `accelerate launch` sets one thread per process
        torch.set_num_threads(os.cpu_count() or 1)
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
    given_kwargs: Any = args.model_init_kwargs or {}
    args.model_init_kwargs = {**model_settings(backbone), **given_kwargs}
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
    recommended: Any = PatchRecommender(model, processor).recommend(history, k=3, timestamps=times)
    state.print("\nRecommended:", *(f"{item.item_id}: {item.title}" for item in recommended), sep="\n  ")
    state.print(f'\nThe checkpoint: {final}\nUse it: PatchRecommender.from_pretrained("{final}").recommend([...])')
    finish_run(output_dir, results)
