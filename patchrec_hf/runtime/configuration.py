"""Configuration of a PatchRec model: the backbone's configuration, and the token that marks a patch."""

# No `from __future__ import annotations`: `strict` checks values against their annotations, and skips annotations that
# are strings.
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .hub_files import FORMAT_VERSION, check_format_version


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
        format_version (`int`, *optional*):
            Format of the checkpoint that the configuration was read from; 0 if the checkpoint was written before
            formats had a version. Checkpoints are always written in the current format.

    Raises:
        ValueError: If a newer version of the library wrote the configuration.
    """

    model_type = "patchrec"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012

    text_config: dict | PreTrainedConfig | None = None
    patch_token_id: int | None = None
    tie_word_embeddings: bool = False
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        check_format_version(self.format_version, "The model's configuration")

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
