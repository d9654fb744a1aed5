"""Configuration of a PatchRec model: the backbone's configuration, the patch token, and the item head."""

# No `from __future__ import annotations`: `strict` checks values against their annotations, and skips annotations that
# are strings.
import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .hub_files import FORMAT_VERSION, check_format_version


Similarity = Literal["cosine", "product"]
SIMILARITIES = get_args(Similarity)
Normalizer = Literal["vocabulary", "catalog"]
NORMALIZERS = get_args(Normalizer)
Patcher = Literal["mean", "attention", "contextual"]
PATCHERS = get_args(Patcher)


def check_normalizer(name: str, normalizer: str, temperature_name: str, temperature: float) -> None:
    """
    Checks how the probabilities of title tokens are normalized. The names are the settings' own, for the message.

    Raises:
        TypeError: If the temperature is no number.
        ValueError: If the normalizer is unknown, the temperature is no positive finite number, or there is a
            temperature other than 1 with the normalizer `"vocabulary"`.
    """
    if normalizer not in NORMALIZERS:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, NORMALIZERS))}, got {normalizer!r}.")
    if isinstance(temperature, bool) or not isinstance(temperature, Real):
        raise TypeError(f"`{temperature_name}` must be a positive number, such as 2.0, got {temperature!r}.")
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"`{temperature_name}` must be a positive number, got {temperature}: logits are divided by it. Usual "
            "values lie between 1 and 5."
        )
    if temperature != 1 and normalizer != "catalog":
        raise ValueError(
            f"`{temperature_name}` belongs to `{name}='catalog'`, got {temperature} with `{name}={normalizer!r}`."
        )


def check_patcher(patcher: str, num_layers: int = 1) -> None:
    """
    Checks the settings of a patcher.

    Raises:
        ValueError: If there is no patcher of this name, or it cannot have this number of layers.
    """
    if patcher not in PATCHERS:
        raise ValueError(f"`patcher` must be one of {', '.join(map(repr, PATCHERS))}, got {patcher!r}.")
    if type(num_layers) is not int or num_layers < 1:
        raise ValueError(f"`patcher_layers` must be a whole number of at least 1, got {num_layers!r}.")
    if num_layers != 1 and patcher != "contextual":
        raise ValueError(
            f"`patcher_layers` belongs to `patcher='contextual'`, got {num_layers} with `patcher={patcher!r}`."
        )


@dataclass(frozen=True)
class ItemHeadConfig:
    """
    Settings of an [`ItemHead`].

    Args:
        num_items (`int`):
            Number of items that the head was made for: the first items of the catalog.
        residual_size (`int`, *optional*, defaults to `0`):
            Size of each item's learned residual. 0: no residuals. If it is not the hidden size, a learned matrix
            brings residuals to the hidden size.
        similarity (`"cosine"` or `"product"`, *optional*, defaults to `"cosine"`):
            How the vectors of a user and of an item are compared.
        dropout (`float`, *optional*, defaults to `0.0`):
            Share of values of item patches and of user states that dropout sets to zero while the item objective is
            trained.
        residual_dropout (`float`, *optional*, defaults to `0.0`):
            Share of items whose residual is left out of a batch while the item objective is trained, so that the
            model learns to rely on titles too.
        title_similarity (`bool`, *optional*, defaults to `False`):
            Whether scores also depend on how similar an item's title is to the history's latest titles (see
            [`title_similarity`]).

    Raises:
        ValueError: If a number is out of range, or `similarity` is unknown.
    """

    num_items: int
    residual_size: int = 0
    similarity: Similarity = "cosine"
    dropout: float = 0.0
    residual_dropout: float = 0.0
    title_similarity: bool = False

    def __post_init__(self) -> None:
        for name, value, minimum in (("num_items", self.num_items, 1), ("residual_size", self.residual_size, 0)):
            if type(value) is not int or value < minimum:
                raise ValueError(
                    f"`{name}` of the item head must be a whole number of at least {minimum}, got {value!r}."
                )
        if self.similarity not in SIMILARITIES:
            raise ValueError(
                f"`similarity` must be one of {', '.join(map(repr, SIMILARITIES))}, got {self.similarity!r}."
            )
        for name, share in (("dropout", self.dropout), ("residual_dropout", self.residual_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"`{name}` of the item head must be at least 0 and below 1, got {share}.")


@strict
class PatchRecConfig(PreTrainedConfig):
    """
    Configuration of [`PatchRecForCausalLM`].

    Args:
        text_config ([`~transformers.PreTrainedConfig`] or `dict`, *optional*):
            Configuration of the backbone, which may be any decoder-only causal language model. If not given, Llama's
            defaults.
        patch_token_id (`int`, *optional*):
            Id of `<|patch|>`.
        tie_word_embeddings (`bool`, *optional*):
            Copied from the backbone.
        item_head (`dict`, *optional*):
            Settings of the item head (see [`ItemHeadConfig`]). Without it, the model has no item head.
        num_time_gaps (`int`, *optional*, defaults to `0`):
            Number of buckets of [`TimeGaps`]. 0: the model is not told of times.
        patcher (`"mean"`, `"attention"` or `"contextual"`, *optional*, defaults to `"mean"`):
            How the embeddings of title tokens become a patch: by the paper's mean, by learned attention (see
            [`AttentionPatcher`]), or by the backbone's first layers (see [`ContextualPatcher`]).
        patcher_layers (`int`, *optional*, defaults to `1`):
            With `patcher="contextual"`: the number of these layers.
        title_normalizer (`"vocabulary"` or `"catalog"`, *optional*, defaults to `"vocabulary"`):
            How titles are scored unless [`RankingConfig`] says otherwise: whether a token's probability is one among
            all tokens, or among the tokens with which a title of the catalog can go on.
        title_temperature (`float`, *optional*, defaults to `1.0`):
            With `title_normalizer="catalog"`: by what logits are divided.
        objective (`"title"`, `"item"` or `"both"`, *optional*):
            The objective of the last training. Unknown if not given.
        trained_until (`int`, *optional*):
            Time of the latest target that the last training learned, in whole seconds since 1970 UTC. Unknown if not
            given, as for rows without timestamps and for streams.
        initial_learning_rate (`float`, *optional*):
            Learning rate of the first training. An update of the model takes a share of it. Unknown if not given.
        tokenizer_fingerprint (`str`, *optional*):
            Fingerprint of the tokenizer that the model was made with (see [`tokenizer_fingerprint`]). Checkpoints of
            earlier versions have none.
        format_version (`int`, *optional*):
            Format of the checkpoint that the configuration was read from; 0 if the checkpoint was written before
            formats had a version. Checkpoints are always written in the current format.

    Raises:
        ValueError: If a newer version of the library wrote the configuration, or the patcher or a setting of the item
            head or of the titles' scores is wrong.
    """

    model_type = "patchrec"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012

    text_config: dict | PreTrainedConfig | None = None
    patch_token_id: int | None = None
    tie_word_embeddings: bool = False
    item_head: dict | None = None
    num_time_gaps: int = 0
    patcher: str = "mean"
    patcher_layers: int = 1
    title_normalizer: str = "vocabulary"
    title_temperature: float = 1.0
    objective: str | None = None
    trained_until: int | None = None
    initial_learning_rate: float | None = None
    tokenizer_fingerprint: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        check_format_version(self.format_version, "The model's configuration")
        if self.item_head is not None:
            self.item_head = asdict(ItemHeadConfig(**self.item_head))
        check_patcher(self.patcher, self.patcher_layers)
        check_normalizer("title_normalizer", self.title_normalizer, "title_temperature", self.title_temperature)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        return super().from_dict({"format_version": 0, **config_dict}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "format_version": FORMAT_VERSION}

    @property
    def decoder_config(self) -> PreTrainedConfig:
        """Configuration of the decoder's layers. A multimodal backbone's configuration holds it one level deeper."""
        text_config: Any = self.text_config
        return text_config.get_text_config()

    @property
    def item_head_config(self) -> ItemHeadConfig | None:
        """Settings of the item head; `None` if the model has none."""
        return None if self.item_head is None else ItemHeadConfig(**self.item_head)
