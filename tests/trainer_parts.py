"""Fixtures and helpers for tests of trainers."""

import copy

import pytest
from conftest import TITLES
from datasets import Dataset

from patchrec_hf import (
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
)


STAGES = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def as_stream(rows, num_shards=3):
    return rows.to_iterable_dataset(num_shards=num_shards)


@pytest.fixture
def make_trainer(unchanged_model, processor, rows, tmp_path):
    """Makes a trainer of either stage on a new copy of the tiny model."""

    def make(
        stage="pretrain",
        model=None,
        collator=None,
        eval_dataset=None,
        train_dataset=None,
        processing_class=processor,
        **kwargs,
    ):
        trainer_class, config_class = STAGES[stage]
        if model is None:
            model = copy.deepcopy(unchanged_model).train()
        settings = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "per_device_train_batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "eval_ks": [5, 10],
        }
        args = config_class(**(settings | kwargs))
        return trainer_class(
            model,
            args,
            train_dataset=train_dataset or rows,
            processing_class=processing_class,
            eval_dataset=eval_dataset,
            data_collator=collator,
        )

    return make


@pytest.fixture
def blocks():
    """Six rows of two users with three targets each."""
    items = [list(TITLES)[(7 * i) % len(TITLES)] for i in range(12)]
    rows = [
        {
            "user_id": user,
            "item_ids": (items if user else items[::-1])[start : start + 7],
            "target_positions": [4, 5, 6],
        }
        for user in (0, 1)
        for start in (0, 2, 4)
    ]
    return Dataset.from_list(rows)


@pytest.fixture
def uneven():
    """Eight rows with one to four targets each."""
    items = list(TITLES)
    rows = [
        {
            "user_id": user,
            "item_ids": [items[(user + 5 * place) % 12] for place in range(8)],
            "target_positions": list(range(7 - user % 4, 8)),
        }
        for user in range(8)
    ]
    return Dataset.from_list(rows)
