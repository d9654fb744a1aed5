"""Settings of the scales and of the data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from patchrec_hf import (
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    MOVIE_PROMPT,
    MOVIE_PROMPT_INSTRUCTION_FIRST,
    PromptTemplate,
)


@dataclass(frozen=True)
class Scale:
    """
    Size of models and trainings.

    Args:
        backbone (`str` or `dict`):
            A pretrained model, or the configuration of a new one. A new tokenizer learns its words from the titles.
        text_encoder (`str` or `dict`):
            MoRec's text encoder: a pretrained model, or the settings of a new BERT that reads the backbone's tokens.
        text_encoder_training (`dict[str, Any]`):
            MoRec's training arguments that differ from the other baselines' arguments.
        num_examples (`int`, *optional*):
            Training examples (targets) that a method sees at equal examples, over all its stages, with repetitions.
            If not given, every stage is one epoch, as in the paper (section 4.1.2).
        max_history (`int`, *optional*, defaults to `100`):
            Items per history.
        pretraining_share (`float`, *optional*, defaults to `0.5`):
            Share of the `num_examples` for patch pre-training, in methods that fine-tune after it.
        targets_per_row (`int`, *optional*, defaults to `1`):
            Targets per training row of an LLM. Rows with several targets are packed.
        rows_per_step (`int`, *optional*):
            Rows per optimizer step; the paper's number if not given.
        learning_rate (`float`, *optional*):
            Learning rate of all stages; the paper's if not given.
        weight_decay (`float`, *optional*, defaults to `0.0`):
            Weight decay of all stages.
        title_normalizer (`"vocabulary"` or `"catalog"`, *optional*, defaults to `"vocabulary"`):
            Among which tokens a title's token is predicted, in all stages and in rankings. The default is the paper's.
        title_temperature (`float`, *optional*, defaults to `1.0`):
            With the normalizer `"catalog"`: by what logits are divided.
        session_group_size (`int`, *optional*):
            Items per session; the paper's number if not given.
        all_patch_training (`dict[str, Any]`):
            Training arguments of the all-patch recipe that differ from [`ALL_PATCH_PRESET`].
        max_grad_norm (`float`, *optional*, defaults to `0.3`):
            Norm that gradients are clipped to. The default is the paper's.
        activation_checkpointing (`bool`, *optional*, defaults to `False`):
            Whether layers are computed again in the backward, as in the released code.
        fits_forwards (`bool`, *optional*, defaults to `False`):
            Whether the rows of a forward are as many as the device is estimated to have memory for.
        release_metrics (`bool`, *optional*, defaults to `False`):
            Whether LLMs also rank the test rows by the decoding of the released code.
        instruction_first (`bool`, *optional*, defaults to `False`):
            Whether the prompt's instruction stands before the history, where the targets of a row share it.
        baseline_epochs (`int`, *optional*, defaults to `200`):
            Maximal number of epochs of a neural baseline. Training stops earlier if validation does not improve.
        baseline_grid (`tuple[dict[str, Any], ...]`):
            Settings of neural baselines. Validation chooses one of them.
        mamba_settings (`dict[str, Any]`):
            Further settings of Mamba4Rec.
        max_eval_rows (`int`, *optional*):
            Number of validation rows, and of test rows, to rank, evenly spaced; all if not given.
    """

    backbone: str | dict[str, Any]
    text_encoder: str | dict[str, Any]
    text_encoder_training: dict[str, Any] = field(default_factory=dict)
    num_examples: int | None = None
    max_history: int = 100
    pretraining_share: float = 0.5
    targets_per_row: int = 1
    rows_per_step: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    title_normalizer: str = "vocabulary"
    title_temperature: float = 1.0
    session_group_size: int | None = None
    all_patch_training: dict[str, Any] = field(default_factory=dict)
    max_grad_norm: float = 0.3
    activation_checkpointing: bool = False
    fits_forwards: bool = False
    release_metrics: bool = False
    instruction_first: bool = False
    baseline_epochs: int = 200
    baseline_grid: tuple[dict[str, Any], ...] = tuple(
        {"hidden_size": size, "dropout": dropout} for size, dropout in product((64, 128), (0.2, 0.5))
    )
    mamba_settings: dict[str, Any] = field(default_factory=dict)
    max_eval_rows: int | None = None


def _llama(hidden_size: int, num_layers: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "initializer_range": 0.1,
    }


PAPER_BACKBONE = "meta-llama/Llama-3.2-1B-Instruct"

SCALES = {
    # The paper's backbone and settings, for GPUs.
    "paper": Scale(
        backbone=PAPER_BACKBONE,
        activation_checkpointing=True,
        fits_forwards=True,
        release_metrics=True,
        text_encoder="google-bert/bert-base-uncased",
        # A learning rate that suits a pretrained encoder, and as many rows per step as the other baselines have.
        text_encoder_training={
            "learning_rate": 5e-5,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 16,
        },
        all_patch_training={"learning_rate": 5e-5},  # for a pretrained backbone; the preset's suits a new one
    ),
    # Computes a table overnight, on two CPU cores.
    "laptop": Scale(
        # A model family with dropout, because a new model of this size memorizes the few users without dropout.
        backbone={
            "model_type": "phi",
            "hidden_act": "gelu_pytorch_tanh",  # Phi's activation function, computed in one operation
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "embd_pdrop": 0.1,
            "resid_pdrop": 0.1,
            "initializer_range": 0.06,
        },
        text_encoder={"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128},
        num_examples=60_000,
        pretraining_share=0.4,
        targets_per_row=16,
        rows_per_step=8,
        learning_rate=5e-3,
        weight_decay=0.1,
        # On validation rows of MovieLens-100K and Goodreads, this loss learns more in the same time than the paper's
        # (examples/benchmarks/losses.py).
        title_normalizer="catalog",
        # With the paper's larger sessions, more items stay text (20 per target on MovieLens-100K), which is too slow
        # for two cores.
        session_group_size=5,
        max_grad_norm=1.0,
        instruction_first=True,
        baseline_epochs=30,
        baseline_grid=({"dropout": 0.2}, {"dropout": 0.5}),
        # On a CPU, Mamba's scan is a slow loop, which takes time for each of its states.
        mamba_settings={"state_size": 8, "expand": 1},
    ),
    # Takes minutes, and shows that everything works. It does not show how good the methods are.
    "smoke": Scale(
        backbone=_llama(64, 2),
        text_encoder={"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64},
        num_examples=20_000,
        max_history=20,
        pretraining_share=0.3,
        targets_per_row=16,
        rows_per_step=4,
        learning_rate=1e-2,
        title_normalizer="catalog",
        session_group_size=5,
        all_patch_training={"num_train_epochs": 4},
        max_grad_norm=1.0,
        instruction_first=True,
        baseline_epochs=8,
        baseline_grid=({},),
        mamba_settings={"state_size": 4, "expand": 1},
        max_eval_rows=200,
    ),
}
# Takes seconds per method, for tests.
SCALES["tiny"] = replace(
    SCALES["smoke"],
    backbone=_llama(32, 1),
    text_encoder={"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32},
    num_examples=320,
    max_history=10,
    pretraining_share=0.5,
    all_patch_training={"num_train_epochs": 1},
    baseline_epochs=1,
    baseline_grid=({"hidden_size": 16},),
    max_eval_rows=30,
)


@dataclass(frozen=True)
class DataFacts:
    """
    Counts of a prepared data set that decide what training costs.

    Args:
        num_train_rows, num_train_examples (`int`):
            Rows and targets of the training set.
        histories (`tuple[int, ...]`):
            Typical numbers of items before a training target: the middles of twentieths of all of them, ascending.
        longest_history (`int`):
            Items before the last target of the user with most interactions, among those who are ranked.
        title_tokens (`float`):
            Mean number of tokens of a title.
        source (`str`):
            Where the counts come from.
    """

    num_train_rows: int
    num_train_examples: int
    histories: tuple[int, ...]
    longest_history: int
    title_tokens: float
    source: str

    def mean(self, value: Callable[[int], float], max_history: int) -> float:
        """Returns the mean of a value that depends on the number of items, of which at most `max_history` count."""
        return sum(value(min(length, max_history)) for length in self.histories) / len(self.histories)


@dataclass(frozen=True)
class DataSettings:
    """
    Settings of a data set.

    Args:
        prompt, instruction_first_prompt ([`PromptTemplate`]):
            The paper's prompt, and a prompt that packs better.
        preset (`str`):
            A key of [`PAPER_PRESETS`].
        raw_file (`str`, *optional*):
            A file that only a directory of this data set holds, in its published form.
        has_file_order (`bool`, *optional*, defaults to `False`):
            Whether the raw file orders simultaneous interactions as the file that the authors began with. Then the
            order of the authors' files can be reproduced (`ties="release"`).
        title_tokens (`float`, *optional*):
            Mean number of tokens of a title (the paper's Table 1).
        facts ([`DataFacts`], *optional*):
            Counts of the data as the paper prepares it. A dry run uses them where the data is not at hand.
        vocab_size (`int`, *optional*, defaults to `3000`):
            Number of words that a new backbone's tokenizer learns from the titles.
    """

    prompt: PromptTemplate
    instruction_first_prompt: PromptTemplate
    preset: str
    raw_file: str | None = None
    has_file_order: bool = False
    title_tokens: float | None = None
    facts: DataFacts | None = None
    vocab_size: int = 3000


_BOOKS, _MOVIES = (BOOK_PROMPT, BOOK_PROMPT_INSTRUCTION_FIRST), (MOVIE_PROMPT, MOVIE_PROMPT_INSTRUCTION_FIRST)

_KNOWN = "known counts of the data as the paper prepares it, title tokens of its Table 1"
_GOODREADS = (4, 8, 11, 15, 19, 22, 26, 29, 33, 37, 41, 45, 50, 55, 62, 71, 82, 99, 126, 191)
_ML_100K = (4, 8, 11, 15, 19, 22, 26, 31, 35, 40, 46, 53, 60, 68, 78, 88, 101, 117, 139, 188)

DATA = {
    "sample": DataSettings(*_BOOKS, "goodreads"),
    "goodreads": DataSettings(
        *_BOOKS,
        "goodreads",
        title_tokens=9.82,
        facts=DataFacts(149_773, 149_773, _GOODREADS, 429, 9.82, _KNOWN),
        vocab_size=8000,
    ),
    "ml-100k": DataSettings(
        *_MOVIES,
        "ml-100k",
        "u.data",
        has_file_order=True,
        title_tokens=3.86,
        facts=DataFacts(47_749, 47_749, _ML_100K, 321, 3.86, _KNOWN),
    ),
    "ml-1m": DataSettings(*_MOVIES, "ml-1m", "ratings.dat", has_file_order=True, title_tokens=3.94),
}
