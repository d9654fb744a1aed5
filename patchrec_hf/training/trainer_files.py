"""Files of a trainer: the model, its processor and its card, in a directory or on the Hub."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import cast

from datasets import Dataset
from peft import PeftModel
from transformers.trainer import TRAINING_ARGS_NAME

from ..evaluation.report import EvaluationReport
from ..hub.model_card import describe_rows, describe_training, make_model_card, measured_results
from ..runtime.adapters import save_base_path
from ..runtime.hub_files import require_token
from ..runtime.progress import no_bars_in_files
from .step_events import check_loss
from .trainer_base import TrainerBase


class TrainerFiles(TrainerBase):
    """The part of [`PatchTrainer`] that saves model, processor and model card, for every checkpoint and at the end."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves model, processor and model card; see [`~transformers.Trainer.save_model`]."""
        if _internal_call and self.is_in_train and output_dir is not None:  # a checkpoint, whatever made Trainer save
            check_loss(self._train_statistics, self.args.learning_rate)
            self._checkpoints.begin(output_dir)
        with no_bars_in_files():
            super().save_model(output_dir, _internal_call)
        directory = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            (directory / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
            if isinstance(self.model, PeftModel):
                save_base_path(directory)
                # PEFT reads the config if another adapter is trained on this one.
                self.model.get_base_model().config.save_pretrained(directory)
        self._write_card(directory)  # also replaces the empty template that PEFT writes

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates the repository; see [`~transformers.Trainer.init_hf_repo`]."""
        if self.is_world_process_zero():
            require_token(token or self.args.hub_token)
        super().init_hf_repo(token=token, private=private)

    def create_model_card(  # type: ignore[override]
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        results: EvaluationReport | None = None,
    ) -> None:
        """
        Writes the model card to `output_dir/README.md`. [`~transformers.Trainer.push_to_hub`] passes its arguments to
        this method. `save_model` and every checkpoint write a card of their own beside the model.

        Args:
            model_name (`str`, *optional*):
                Name of the repository, used if training has no `hub_model_id` yet. The path of the directory if not
                given.
            dataset_name (`str`, *optional*):
                Name of the data set in the card.
            tags (`str` or `list[str]`, *optional*):
                Further tags of the card.
            results ([`EvaluationReport`], *optional*):
                The metrics. If not given, the card shows what the trainer has measured of these weights last.
        """
        if self.is_in_train and not self.args.push_to_hub:
            return  # SFTTrainer is about to save a checkpoint. The output directory itself holds no model.
        self._write_card(Path(str(self.args.output_dir)), model_name, dataset_name, tags, results)

    def _write_card(
        self,
        directory: Path,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        results: EvaluationReport | None = None,
    ) -> None:
        """Writes the card of the model in `directory`. See `create_model_card` for the arguments."""
        if not self.is_world_process_zero():
            return
        base_model = self._patchrec_model.config.text_config._name_or_path
        # Trainer loads the best weights when it has trained.
        loads_best = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        best_step = self.state.best_global_step if loads_best and not self.is_in_train else None
        make_model_card(
            self.processing_class,
            self.hub_model_id or model_name or str(directory),
            results=results or measured_results(self.state.log_history, best_step),
            dataset_name=dataset_name,
            base_model=base_model if base_model and not os.path.isdir(base_model) else None,
            data=self._row_facts,
            training={
                "stage": self.stage,
                "what was trained": "an adapter" if isinstance(self.model, PeftModel) else "all weights",
                "tree packing": self.data_collator.tree_packing,
                **describe_training(self.args, self.state),
                "positions read": f"{self._total_train_tokens:.0f}",
            },
            tags=[*self.card_tags, *([tags] if isinstance(tags, str) else tags or [])],
        ).save(directory / "README.md")

    @cached_property
    def _row_facts(self) -> dict[str, str]:
        return {} if self._stream is not None else describe_rows(cast(Dataset, self.train_dataset))
