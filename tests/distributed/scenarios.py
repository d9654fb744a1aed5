"""Scenarios of the distributed tests: the same rows, model and settings for every engine and number of processes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conftest import ITEM_IDS, TITLES
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
    evaluate_model,
)
from patchrec_hf.runtime.prompts import SPECIAL_TOKENS


GLOBAL_BATCH = 4
NUM_STEPS = 6
SAVED_STEP = 3
RESIDUAL_SIZE = 8
CATALOG = Catalog.from_titles(TITLES)
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
STAGES = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}
FSDP2 = {
    "version": 2,
    "reshard_after_forward": True,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
    "state_dict_type": "FULL_STATE_DICT",
    "cpu_ram_efficient_loading": False,
}


@dataclass(frozen=True)
class Scenario:
    """
    One training run.

    Args:
        engine (`str`):
            `"ddp"`, `"zero1"`, `"zero2"`, `"zero3"`, `"zero3_offload"` or `"fsdp2"`; one process alone runs without.
        stage (`str`):
            `"pretrain"` or `"finetune"`.
        packed (`bool`):
            Whether rows have several targets and batches are tree-packed.
        lora (`bool`):
            Whether an adapter is trained.
        tied (`bool`):
            Whether the backbone's head is its embedding table.
        bf16 (`bool`):
            Whether to train in mixed precision.
        accumulation (`int`):
            Forwards per optimizer step; the rows of a step are as many.
        checkpointing (`bool`):
            Whether activations are recomputed in the backward pass.
        objective (`str`):
            `"title"`, `"item"` or `"both"`. With an item head, every item of a history is a patch with a residual.
        headed (`bool`):
            Whether the run starts from a checkpoint that has an item head already.
        among_catalog (`bool`):
            Whether titles are predicted among those of the catalog.
    """

    engine: str
    stage: str = "finetune"
    packed: bool = False
    lora: bool = False
    tied: bool = False
    bf16: bool = False
    accumulation: int = 1
    checkpointing: bool = False
    objective: str = "title"
    headed: bool = False
    among_catalog: bool = False

    @property
    def has_item_head(self) -> bool:
        return self.headed or self.objective != "title"

    @property
    def name(self) -> str:
        flags = ("packed", "lora", "tied", "bf16", "checkpointing", "headed", "among_catalog")
        options = [name for name in flags if getattr(self, name)]
        options += ["accumulation"] if self.accumulation > 1 else []
        options += [self.objective] if self.objective != "title" else []
        return "-".join([self.engine, self.stage, *options])

    def table_row(self) -> str:
        """Returns the scenario as a row of the guide's table."""
        names = {"ddp": "DDP", "fsdp2": "FSDP2", "zero3_offload": "ZeRO-3, offload to the CPU"}
        cells = [
            names.get(self.engine, self.engine.replace("zero", "ZeRO-")),
            {"pretrain": "pre-training", "finetune": "fine-tuning"}[self.stage],
            "bf16" if self.bf16 else "fp32",
            "tree-packed" if self.packed else "padded",
            "LoRA" if self.lora else "all",
            "tied" if self.tied else "untied",
            ", ".join(
                name
                for name, is_on in (
                    (f'`objective="{self.objective}"`', self.objective != "title"),
                    ('`title_normalizer="catalog"`', self.among_catalog),
                    ("from a checkpoint with an item head", self.headed),
                    (f"accumulation over {self.accumulation} forwards", self.accumulation > 1),
                    ("activation checkpointing", self.checkpointing),
                )
                if is_on
            ),
        ]
        return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _each(engine: str) -> list[Scenario]:
    return [Scenario(engine, stage, packed) for stage, packed in (("pretrain", False), ("finetune", True))]


# The last scenarios are FSDP2's, whose stand-in for a device cannot be taken back.
SCENARIOS = [
    Scenario("ddp", "pretrain"),
    Scenario("ddp", "pretrain", packed=True),
    Scenario("ddp", "finetune"),
    Scenario("ddp", "finetune", packed=True, accumulation=2),
    Scenario("ddp", "finetune", lora=True),
    Scenario("ddp", "finetune", accumulation=2, objective="item"),
    Scenario("ddp", "finetune", packed=True, objective="both"),
    Scenario("ddp", "finetune", lora=True, objective="item"),
    Scenario("ddp", "finetune", headed=True),
    Scenario("ddp", "finetune", packed=True, accumulation=2, among_catalog=True),
    *_each("zero1"),
    Scenario("zero1", "finetune", objective="item"),
    *_each("zero2"),
    Scenario("zero2", "finetune", packed=True, objective="item"),
    Scenario("zero2", "finetune", lora=True),
    Scenario("zero2", "pretrain", bf16=True),
    Scenario("zero3", "pretrain"),
    Scenario("zero3", "pretrain", packed=True, tied=True),
    Scenario("zero3", "finetune", accumulation=2),
    Scenario("zero3", "finetune", packed=True, checkpointing=True),
    Scenario("zero3", "finetune", packed=True, lora=True),
    Scenario("zero3", "finetune", objective="item"),
    Scenario("zero3", "finetune", packed=True, objective="both", headed=True),
    Scenario("zero3", "pretrain", tied=True, among_catalog=True),
    Scenario("zero3_offload", "finetune"),
    *_each("fsdp2"),
    Scenario("fsdp2", "finetune", objective="item", headed=True),
    Scenario("fsdp2", "finetune", tied=True),
    Scenario("fsdp2", "finetune", packed=True, among_catalog=True),
]


def make_rows(packed: bool, has_item_head: bool = False) -> Dataset:
    """
    Rows of unequal length, so that the two halves of a batch hold unequal numbers of response tokens. For an item
    head, rows also have unequal numbers of targets.
    """
    rows = []
    for user in range(20):
        items = [ITEM_IDS[(3 * user + 5 * place) % 12] for place in range(5 + 3 * user % 7)]
        num_targets = 1 + user % 3 if has_item_head else 3 if packed else 1
        targets = list(range(len(items) - num_targets, len(items)))
        rows.append({"user_id": user, "item_ids": items, "target_positions": targets})
    return Dataset.from_list(rows)


def save_backbones(directory: Path) -> None:
    """Saves the models that runs start from."""
    for name in ("tied", "untied"):
        _save_backbone(directory / name, name == "tied")
    _save_headed(directory / "headed", directory / "untied")


def _save_backbone(directory: Path, tied: bool) -> None:
    """Saves a tiny backbone, which lacks the special tokens, as one that was never trained for this does."""
    backbone, tokenizer = build_tiny_backbone(CATALOG, vocab_size=400, hidden_size=32)
    backbone.resize_token_embeddings(min(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))))
    if not tied:
        backbone.config.tie_word_embeddings = False
        backbone.lm_head.weight = torch.nn.Parameter(backbone.lm_head.weight.detach().flip(0))
    backbone.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _save_headed(directory: Path, backbone: Path) -> None:
    """Saves a checkpoint with an item head, every weight of which has moved."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    model.add_item_head(CATALOG, RESIDUAL_SIZE, title_similarity=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (model.item_head, model.model.item_residual):
            for parameter in part.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def make_trainer(scenario: Scenario, backbones: Path, output_dir: Path, world_size: int) -> PatchFinetuneTrainer:
    """The trainer of a scenario, in a process that is one of `world_size`."""
    trainer_class, config_class = STAGES[scenario.stage]
    settings: dict[str, Any] = {}
    if world_size > 1 and scenario.engine == "fsdp2":
        settings = {"use_cpu": False, "fsdp": True, "fsdp_config": FSDP2}
    elif world_size > 1 and scenario.engine.startswith("zero"):
        settings = {"deepspeed": deepspeed_config(scenario.engine)}
    args = config_class(
        str(output_dir),
        **{"use_cpu": True} | settings,
        bf16=scenario.bf16,
        per_device_train_batch_size=GLOBAL_BATCH // world_size,
        per_device_eval_batch_size=GLOBAL_BATCH,
        gradient_accumulation_steps=scenario.accumulation,
        activation_checkpointing=scenario.checkpointing,
        tree_packing=scenario.packed if scenario.has_item_head else None,
        objective=scenario.objective,
        title_normalizer="catalog" if scenario.among_catalog else "vocabulary",
        item_residual_size=RESIDUAL_SIZE,
        title_similarity=True,
        max_steps=NUM_STEPS,
        learning_rate=3e-3,
        weight_decay=1.0 if scenario.has_item_head else 0.0,  # a head that the objective does not train must not decay
        logging_steps=1,
        save_strategy="steps",
        save_steps=SAVED_STEP,
        eval_ks=[5],
        report_to="none",
        disable_tqdm=True,
    )
    backbone = backbones / ("headed" if scenario.headed else "tied" if scenario.tied else "untied")
    head = scenario.has_item_head
    processor = PatchRecProcessor.from_backbone(
        backbone,
        CATALOG,
        BOOK_PROMPT,
        ItemPatchLayout(0 if head else 2),
        max_history=8,
        separate_patches=not head,
        item_residuals=head,
    )
    torch.manual_seed(0)
    rows = make_rows(scenario.packed, head)
    return trainer_class(
        str(backbone),
        args,
        train_dataset=rows,
        processing_class=processor,
        # The second process' last batch has no row of its own.
        eval_dataset=make_rows(packed=False, has_item_head=head).select(range(9)),
        peft_config=_lora_config(scenario) if scenario.lora else None,
    )


def _lora_config(scenario: Scenario) -> LoraConfig:
    # PEFT reads the rows of tokens from ZeRO-3's shards on CUDA devices only.
    token_indices = [] if scenario.engine == "zero3" or scenario.packed else None
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], trainable_token_indices=token_indices)


def deepspeed_config(engine: str) -> dict[str, Any]:
    """The example's configuration, such that the weights of so small a model are split up too."""
    config = json.loads((EXAMPLES / "deepspeed" / f"{engine}.json").read_text(encoding="utf-8"))
    if config["zero_optimization"]["stage"] == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def run(scenario: Scenario, backbones: Path, output_dir: Path, world_size: int) -> dict[str, Any]:
    """Trains, evaluates and saves, and says what happened."""
    trainer = make_trainer(scenario, backbones, output_dir, world_size)
    trainer.train()
    # By itself first: the forwards of an evaluation would gather what this must gather.
    report = evaluate_model(
        trainer._patchrec_model,
        trainer.processing_class,
        trainer.eval_dataset,
        k=5,
        method=trainer._eval_method,
        # Some prompts are the beginning of another one, in one process more of them than in the other.
        batch_size=2 if scenario.has_item_head else 8,
        show_progress=False,
    )
    results = {"ranking": report.metrics([5]), "metrics": trainer.evaluate(), **_facts(trainer)}
    trainer.save_model(str(output_dir / "final"))
    return results


def resume(scenario: Scenario, backbones: Path, output_dir: Path, world_size: int) -> dict[str, Any]:
    """Goes on from the checkpoint in the middle of the run, in a new trainer."""
    trainer = make_trainer(scenario, backbones, output_dir.with_name(output_dir.name + "-resumed"), world_size)
    trainer.train(resume_from_checkpoint=str(output_dir / f"checkpoint-{SAVED_STEP}"))
    return _facts(trainer)


def _facts(trainer: PatchFinetuneTrainer) -> dict[str, Any]:
    state = trainer.accelerator.state
    history = trainer.state.log_history
    return {
        "num_processes": state.num_processes,
        "distributed_type": state.distributed_type.value,
        "engine": type(trainer.model_wrapped).__name__,
        "packs": trainer.data_collator.tree_packing,
        **{
            name: [entry[name] for entry in history if name in entry and "loss" in entry]
            for name in ("loss", "compression_probability", "prompt_tokens", "num_tokens", "grad_norm")
        },
    }
